"""Chains put in order, names of a leaf, and what of a bundle may be an anchor."""

import datetime
import itertools

import pytest

from tests.fixtures import certs
from tlspool_admin import chains
from tlspool_common.errors import PoolError

ROOT, MIDDLE = certs.root(), certs.intermediate()
LEAF = MIDDLE.issue("www.example")
NOW = datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize("order", list(itertools.permutations([LEAF, MIDDLE, ROOT])))
def test_any_order_becomes_leaf_first_without_the_root(order):
    assert chains.chain_of([one.der for one in order]) == [LEAF.der, MIDDLE.der]


def test_twice_is_once():
    assert chains.chain_of([LEAF.der, LEAF.der]) == [LEAF.der]


def test_a_root_alone_stays():
    alone = certs.make("self.example", number=7)
    assert chains.chain_of([alone.der]) == [alone.der]


def test_two_leaves_are_refused():
    other = MIDDLE.issue("mail.example", number=8)
    with pytest.raises(PoolError, match="2 certificates issued none"):
        chains.chain_of([LEAF.der, other.der, MIDDLE.der])


def test_no_certificate():
    with pytest.raises(PoolError, match="no DER certificate"):
        chains.chain_of([b"\x30\x00"])


def test_identities():
    assert chains.identities(LEAF.certificate) == ["www.example"]
    assert chains.identities(ROOT.issue("jane@example.com").certificate) == ["jane@example.com"]
    assert chains.identities(ROOT.issue("*.example.com").certificate) == []
    assert chains.dns_names(ROOT.issue("*.example.com").certificate) == ["*.example.com"]


def fit(*ders, **options):
    options = {"want_expired": False, "want_not_root": False, **options}
    found = chains.fit_anchors(ders, NOW, **options)
    return found.ders, [why for _, why in found.unfit]


def test_what_may_be_an_anchor():
    old = certs.make("Old root", ca=True, days=(-30, -1), number=9)
    no_authority = certs.make("self.example", number=7)
    ders, why = fit(ROOT.der, ROOT.der, MIDDLE.der, old.der, no_authority.der, b"rubbish")
    assert ders == [ROOT.der]
    assert len(why) == 5
    assert why[0] == "twice in the bundle"
    assert "notroot" in why[1]
    assert why[2].startswith("expired on")
    assert "no authority" in why[3]
    assert fit(MIDDLE.der, old.der, want_expired=True, want_not_root=True)[0] == [MIDDLE.der, old.der]
