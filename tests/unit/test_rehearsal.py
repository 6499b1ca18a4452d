"""A chain without a session is described as in a handshake, and what cannot be is said."""

import dataclasses

import pytest

from tests.fixtures import certs
from tests.fixtures.software_handshakes import NAME
from tests.unit.test_inquiry import CHAINS, SIDES, TLS12, Broker, chain_file, meet, staple  # noqa: F401 - a fixture
from tlspool_common.errors import Code
from tlspool_common.messages import Finding, Side
from tlspool_worker.rehearsal import rehearse_untrusted


def ders(*issued):
    return [one.der for one in issued]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", CHAINS)
def test_it_is_as_in_a_handshake(side, name, chain_file):  # noqa: F811
    make, fault, _, _ = CHAINS[name]
    chain = make()
    shown = rehearse_untrusted(ders(*chain), ders(certs.root()), side, tells_chain=True)
    assert Code(shown.fault) == fault
    broker = Broker()
    how = {"ciphers": "DEFAULT@SECLEVEL=0"} if name == "weak" else {}
    meet(side, TLS12, chain_file(*chain), broker, how=how, tells_chain=True)
    here = dataclasses.replace(broker.one, session_id=0, tls_version=0, cipher="", group="")
    assert shown == here


def test_purposes():
    leaf = certs.intermediate().issue(NAME, usage=("server",))
    chain = ders(leaf, certs.intermediate())
    assert rehearse_untrusted(chain, ders(certs.root()), Side.CLIENT).fault == 0
    assert Code(rehearse_untrusted(chain, ders(certs.root()), Side.SERVER).fault) is Code.WRONG_PURPOSE
    assert Code(rehearse_untrusted(chain, [], Side.CLIENT).fault) is Code.CHAIN_UNTRUSTED


def test_long_chains():
    issuers = [certs.root()]
    for number in range(12):
        issuers.append(issuers[-1].issue(f"Level {number}", ca=True, number=200 + number, pad_b=5000))
    chain = ders(issuers[-1].issue(NAME), *reversed(issuers[1:]))
    shown = rehearse_untrusted(chain, ders(certs.root()), Side.CLIENT, tells_chain=True)
    assert shown.fault == 0
    assert shown.chain == ()  # too many to go along
    assert len(shown.strengths) == len(shown.links) == 8


def test_staples():
    leaf = certs.leaf(NAME)
    chain = ders(leaf, certs.intermediate())
    for response, finding in ((staple(leaf), Finding.GOOD), (b"garbage", Finding.BAD), (b"", Finding.NONE)):
        assert rehearse_untrusted(chain, ders(certs.root()), Side.CLIENT, response).stapled is finding
    assert rehearse_untrusted(ders(leaf), [], Side.CLIENT, staple(leaf)).stapled is Finding.BAD


@pytest.mark.parametrize("chain", [[], [b"garbage"], [b""]])
def test_what_is_no_certificate(chain):
    with pytest.raises(ValueError, match="certificate"):
        rehearse_untrusted(chain, ders(certs.root()), Side.CLIENT)
    with pytest.raises(ValueError, match="certificate"):
        rehearse_untrusted(ders(certs.leaf(NAME)), [b"garbage"], Side.CLIENT)
