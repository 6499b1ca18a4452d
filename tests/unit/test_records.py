from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import certs
from tlspool_broker import records
from tlspool_broker.records import Disclosed, LocalRecord, TrustRecord
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError


def refused(function, *arguments) -> str:
    with pytest.raises(PoolError) as caught:
        function(*arguments)
    assert caught.value.code is Code.RECORD_MALFORMED
    return caught.value.detail


def test_a_record_of_an_earlier_pool_is_the_same_bytes() -> None:
    value = b"\x00\x00\x22\x01pkcs11:token=T;object=o3\x00DER"
    record = records.decode_local_untrusted(value)
    assert record == LocalRecord(0x2201, "pkcs11:token=T;object=o3", b"DER")
    assert record.encode() == value
    assert records.local_words(record.flags) == ["x509", "server", "chained"]


def test_a_local_record_without_uri_has_no_nul() -> None:
    record = records.decode_local_untrusted(b"\x00\x00\x11\x01DER")
    assert record == LocalRecord(0x1101, "", b"DER")
    assert record.encode() == b"\x00\x00\x11\x01DER"


def test_a_trust_record_is_the_same_bytes() -> None:
    value = b"\x00\x00\x03\x011\x00DER"
    record = records.decode_trust_untrusted(value)
    assert record == TrustRecord(0x301, "1", b"DER")
    assert record.encode() == value
    assert records.decode_trust_untrusted(b"\x00\x00\x03\x011\x00").data == b""


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "0 bytes"),
        (b"\0\0\1", "3 bytes"),
        (b"\0\0\1\1", "4 bytes"),
        (b"\0\0\1\1pkcs11:x", "no NUL"),
        (b"\0\0\1\1\xff\0", "UTF-8"),
    ],
)
def test_malformed_local_records(value: bytes, why: str) -> None:
    assert why in refused(records.decode_local_untrusted, value)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\0\0\3\1", "4 bytes"),
        (b"\0\0\3\0011", "5 bytes"),
        (b"\0\0\3\1\0x", "empty"),
        (b"\0\0\3\0011DER", "no NUL"),
        (b"\0\0\3\1\xff\0", "ASCII"),
    ],
)
def test_malformed_trust_records(value: bytes, why: str) -> None:
    assert why in refused(records.decode_trust_untrusted, value)


@pytest.mark.parametrize("value", [b"", b"\0", b"\0\xff", b"\xff", b"a\nb"])
def test_malformed_disclosures(value: bytes) -> None:
    refused(records.decode_disclosure_untrusted, value)


def test_a_disclosure_is_text() -> None:
    value = "jö@example.com".encode()
    assert records.decode_disclosure_untrusted(value) == Disclosed("jö@example.com")
    assert Disclosed("jö@example.com").encode() == value


def test_or_an_expression_for_the_selector() -> None:
    assert records.decode_disclosure_untrusted(b"\0TI&") == Disclosed(expression="TI&")
    assert Disclosed(expression="TI&").encode() == b"\0TI&"


@pytest.mark.parametrize("key", ["host", "service:smtp", "localid:john@example.com", "localid:müller@example.com"])
def test_what_a_policy_is_assigned_to(key: str) -> None:
    records.check_policy_key(key)


@pytest.mark.parametrize("key", ["", "Host", "service:", "service:a b", "localid:", "localid:" + "x" * 200, "x:y"])
def test_what_no_policy_is_assigned_to(key: str) -> None:
    refused(records.check_policy_key, key)


@pytest.mark.parametrize("value", [b"", b"Modern", b"\xff", b"x" * 65, b"a b"])
def test_malformed_policies(value: bytes) -> None:
    refused(records.decode_policy_untrusted, value)


@given(st.lists(st.sampled_from(["1", "TI&", "e~"]), min_size=1, max_size=4))
def test_expressions_are_conjoined(texts: list[str]) -> None:
    records.check_valexp(records.conjoined(texts))


def test_flags_of_malformed_records_are_known() -> None:
    assert records.flags_untrusted(b"\0\0\3\1") == 0x301
    assert records.flags_untrusted(b"\0\0\3") is None
    assert records.with_flags(b"\0\0\3\1rest", 0x101) == b"\0\0\1\1rest"


@given(st.integers(0, 2**32 - 1), st.text(max_size=20).filter(lambda text: "\0" not in text), st.binary(min_size=1))
def test_local_records_round_trip(flags: int, uri: str, credential: bytes) -> None:
    record = LocalRecord(flags, "" if flags & records.LOCAL_NO_PKCS11 else uri, credential)
    assert records.decode_local_untrusted(record.encode()) == record


@given(st.integers(0, 2**32 - 1), st.text("01LI&|~?", min_size=1), st.binary())
def test_trust_records_round_trip(flags: int, valexp: str, data: bytes) -> None:
    record = TrustRecord(flags, valexp, data)
    assert records.decode_trust_untrusted(record.encode()) == record


def test_chains_are_split() -> None:
    chain = (certs.leaf().der, certs.intermediate().der, certs.root().der)
    assert LocalRecord(0x2101, "pkcs11:", b"".join(chain)).chain() == chain
    assert LocalRecord(0x2101, "pkcs11:", chain[0]).chain() == chain[:1], "marked as a chain, but single"
    assert LocalRecord(0x0101, "pkcs11:", chain[0]).chain() == chain[:1]
    assert "not marked" in refused(LocalRecord(0x0101, "pkcs11:", b"".join(chain)).chain)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no certificate"),
        (b"\x30", "offset 0"),
        (b"\x31\x00", "offset 0"),
        (b"\x30\x00garbage", "offset 2"),
        (b"\x30\x80\x00\x00", "impossible length"),
        (b"\x30\x85\x00\x00\x00\x00\x01x", "impossible length"),
        (b"\x30\x82\x01", "impossible length"),
        (b"\x30\x05abcd", "cut off"),
        (b"\x30\x00" * (limits.CHAIN_CERTIFICATES + 1), "more than"),
        (b"\x30\x83\x01\x00\x00" + bytes(65536), "more than"),
    ],
)
def test_what_is_no_chain(data: bytes, why: str) -> None:
    assert why in refused(records.split_der_untrusted, data)


def test_ber_lengths_are_read() -> None:
    assert records.split_der_untrusted(b"\x30\x81\x01x\x30\x84\x00\x00\x00\x01y") == (
        b"\x30\x81\x01x",
        b"\x30\x84\x00\x00\x00\x01y",
    )


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "start with"),
        ("PKCS11:token=a", "start with"),
        ("file:/etc/key", "start with"),
        ("pkcs11:token=a?pin-value=1234", "PIN"),
        ("pkcs11:token=a?x=y&PIN-Value=1234", "PIN"),
        ("pkcs11:pin-value=1234;token=a", "PIN"),
        ("pkcs11:token=my token", "encoding"),
        ("pkcs11:token=a\0", "encoding"),
        ("pkcs11:token=ä", "encoding"),
        ("pkcs11:" + "x" * limits.KEY_URI_B, "more than"),
    ],
)
def test_uris_that_are_not_stored(uri: str, why: str) -> None:
    detail = refused(records.check_uri, uri)
    assert why in detail
    assert "1234" not in detail


def test_uris_that_are_stored() -> None:
    records.check_uri("pkcs11:token=a%20b;object=pin-value;type=private?module-name=x")
    records.check_uri("pkcs11:")


def test_pins_of_earlier_tools_are_not_shown() -> None:
    for uri in ("pkcs11:token=a?pin-value=1234&x=y", "pkcs11:pin-value=1234;token=a", "pkcs11:a=b? Pin-Value=1234"):
        record = LocalRecord(0x101, uri, b"")
        assert records.has_pin(uri)
        assert "1234" not in record.shown_uri


@pytest.mark.parametrize("expression", ["0", "1", "TI&", "1a|~", "ETad&?", "PF|FA|&"])
def test_expressions(expression: str) -> None:
    records.check_valexp(expression)


@pytest.mark.parametrize("expression", ["", "H", "T I", "&", "TI", "T&", "TI?", "TCO|DH|&&", "1\0"])
def test_what_is_no_expression(expression: str) -> None:
    assert "expression" in refused(records.check_valexp, expression)


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("x509,client,server", 0x301),
        ("X.509,cli,srv", 0x301),
        ("OpenPGP,CLIENT", 0x102),
        ("krb5,server", 0x204),
        ("valexp,server", 0x205),
        ("x509,server,chained,noP11", 0x3201),
        ("srp", 3),
        ("x509,x.509", 1),
    ],
)
def test_words_of_local_flags(words: str, flags: int) -> None:
    assert records.local_flags(words.split(",")) == flags
    assert records.local_flags(records.local_words(flags)) == flags


@pytest.mark.parametrize(
    ("words", "flags"), [("x509,client,server", 0x301), ("pgp,pinned", 0x802), ("x509,revoke", 0x401)]
)
def test_words_of_trust_flags(words: str, flags: int) -> None:
    assert records.trust_flags(words.split(",")) == flags
    assert records.trust_flags(records.trust_words(flags)) == flags


def test_notroot_is_read_in_both_ways_and_written_in_one() -> None:
    assert records.trust_flags(["x509", "notroot"]) == 0x1001
    assert records.trust_words(0x10001) == records.trust_words(0x1001) == ["x509", "notroot"]
    assert TrustRecord(0x10001, "1", b"").may_be_no_root
    assert TrustRecord(0x1001, "1", b"").may_be_no_root
    assert not TrustRecord(0x301, "1", b"").may_be_no_root


@pytest.mark.parametrize("words", ["client", "x509,kerberos", "x509,peer", "", "x509,,client"])
def test_words_that_mean_nothing(words: str) -> None:
    refused(records.local_flags, words.split(","))


def test_types_without_a_name_have_words_too() -> None:
    assert records.local_words(0x109) == ["type-9", "client"]


@pytest.mark.parametrize(
    ("flags", "anchor"), [(0x301, True), (0x001, True), (0x401, False), (0x801, False), (0x302, False), (0x1101, True)]
)
def test_pins_and_revocations_are_no_anchors(flags: int, anchor: bool) -> None:
    assert TrustRecord(flags, "1", b"").is_anchor is anchor
