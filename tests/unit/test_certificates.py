from __future__ import annotations

import datetime
import hashlib

import pytest

from tests.fixtures import certs
from tlspool_broker import certificates
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import KeyKind


def refused(function, *arguments) -> str:
    with pytest.raises(PoolError) as caught:
        function(*arguments)
    assert caught.value.code is Code.RECORD_MALFORMED
    return caught.value.detail


@pytest.mark.parametrize(
    ("kind", "expected"),
    [*zip(certs.KINDS, (KeyKind.RSA, KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.ED25519), strict=True)],
)
def test_kind_and_digest_of_a_key(kind: str, expected: KeyKind) -> None:
    issued = certs.leaf(kind=kind)
    assert certificates.key_of(certificates.load(issued.der)) == (
        expected,
        hashlib.sha256(certs.spki(issued.private)).digest(),
    )


def test_keys_that_the_pool_cannot_use() -> None:
    assert "none of RSA" in refused(certificates.key_of, certs.leaf(kind="p521").certificate, "it")


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"x" * 20_000, certs.root().der[:-1], certs.root().der + b"\0"])
def test_what_is_no_certificate(der: bytes) -> None:
    assert refused(certificates.load, der, "it").startswith("it ")


def test_chains() -> None:
    leaf, middle, root = certs.leaf().der, certs.intermediate().der, certs.root().der
    for chain in ([leaf], [leaf, middle], [leaf, middle, root]):
        certificates.check_chain(chain)
    assert "certificate 1 was not issued by certificate 2" in refused(certificates.check_chain, [leaf, root])
    assert "certificate 1" in refused(certificates.check_chain, [middle, leaf])
    assert "certificate 2 was not issued by certificate 3" in refused(certificates.check_chain, [leaf, middle, middle])
    assert "certificate 2 is no DER" in refused(certificates.check_chain, [leaf, b"\x30\x00"])
    assert "not 0" in refused(certificates.check_chain, [])
    assert "not 9" in refused(certificates.check_chain, [root] * 9)


def test_a_forged_issuer_is_no_issuer() -> None:
    forger = certs.make("Test intermediate", ca=True, number=7)
    assert "certificate 1" in refused(certificates.check_chain, [certs.leaf().der, forger.der])


def test_roots_are_self_issued() -> None:
    assert certificates.is_self_issued(certs.root().certificate)
    assert not certificates.is_self_issued(certs.intermediate().certificate)


def test_the_key_identifier_is_the_extension_or_is_computed() -> None:
    with_extension = certs.make("a", number=1)
    without = certs.make("a", number=1, with_ski=False)
    assert certificates.key_identifier(with_extension.certificate) == with_extension.key_identifier
    # RFC 5280 section 4.2.1.2 (1): SHA-1 of the BIT STRING's content, here behind the 26 bytes of its header
    expected = hashlib.sha1(certs.spki(without.private)[26:]).digest()
    assert certificates.key_identifier(without.certificate) == expected == without.key_identifier


def test_doubts() -> None:
    identity = parse_untrusted("example.com")
    assert certificates.doubts(certs.leaf().certificate, identity) == []
    assert certificates.doubts(certs.leaf().certificate, parse_untrusted("john@example.com")) == []
    assert certificates.doubts(certs.leaf("john@example.com").certificate, parse_untrusted("john@example.com")) == []
    assert (
        "does not name other.example"
        in certificates.doubts(certs.leaf().certificate, parse_untrusted("other.example"))[0]
    )
    assert "expired" in certificates.doubts(certs.make("old", days=(-9, -1)).certificate, None)[0]
    assert "not valid before" in certificates.doubts(certs.make("new", days=(1, 9)).certificate, None)[0]
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=60)
    assert "expired" in certificates.doubts(certs.leaf().certificate, identity, later)[0]


def test_summary_is_for_people() -> None:
    summary = certificates.summary(certs.leaf().certificate)
    assert summary["subject"] == "CN=example.com"
    assert summary["issuer"] == "CN=Test intermediate"
    assert summary["sha256"] == hashlib.sha256(certs.leaf().der).hexdigest()
