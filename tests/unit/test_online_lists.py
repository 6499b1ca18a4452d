"""Revocation lists: which count, and what they say."""

import datetime
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.authority import DAY, HOUR, Authority
from tlspool_common.messages import Finding
from tlspool_online import bounds
from tlspool_online.chains import identity_of, links_untrusted
from tlspool_online.lists import BadList, judge, read_file_untrusted, read_untrusted, serial_der

ROOT = Authority("Root")
CA = ROOT.authority("CA")
LEAF = CA.leaf("leaf", crl="http://a.example/1.crl")
OTHER = CA.leaf("other")
POINT = x509.UniformResourceIdentifier("http://a.example/1.crl")


def scope(**options):
    fields = dict.fromkeys(
        ("full_name", "relative_name", "only_some_reasons"), None
    ) | dict.fromkeys(
        ("only_contains_user_certs", "only_contains_ca_certs", "indirect_crl", "only_contains_attribute_certs"), False
    )  # fmt: skip
    return [(x509.IssuingDistributionPoint(**(fields | options)), True)]


def told(der, one=LEAF, now_s=None):
    link = links_untrusted(one.chain)[0]
    found = read_untrusted(der)
    assert found.refusal(one.issuer.certificate, identity_of(one.issuer.certificate)) == ""
    return judge(found, link.serial, link.is_authority, link.points, now_s or time.time())


def test_what_a_list_says():
    der = CA.crl({OTHER: "key_compromise"})
    finding, detail, until_s = told(der)
    assert (finding, until_s - time.time() > 86000) == (Finding.GOOD, True)
    assert detail.startswith("not revoked; list of 20")
    finding, detail, until_s = told(der, OTHER)
    assert (finding, until_s - time.time() > 86000) == (Finding.REVOKED, True)
    day = (datetime.datetime.now(datetime.UTC) - 2 * DAY).date().isoformat()
    assert detail.startswith(f"revoked since {day}, key compromise; list of")
    assert told(CA.crl({LEAF: ""}))[:1] == (Finding.REVOKED,)
    assert told(CA.crl())[0] is Finding.GOOD  # without the field for entries
    assert told(ROOT.crl({CA: "ca_compromise"}), CA)[0] is Finding.REVOKED


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFF, 0x100, 1 << 152, (1 << 158) + 1])
def test_serial_numbers_of_every_length(serial):
    leaf = CA.leaf("leaf", serial=serial)
    assert told(CA.crl({serial: "superseded"}), leaf)[0] is Finding.REVOKED
    assert told(CA.crl({serial + 1: "superseded"}), leaf)[0] is Finding.GOOD


@given(st.integers(0, 1 << 160))
def test_serial_numbers_are_as_in_der(number):
    octets = serial_der(number)
    assert int.from_bytes(octets, signed=True) == number
    assert len(octets) == 1 or octets[0] or octets[1] & 0x80


def test_dates_with_a_grace_for_clocks():
    der = CA.crl(since=-HOUR, until=HOUR)
    now_s = time.time()
    assert told(der, now_s=now_s + 3600 + bounds.SKEW_S - 5)[0] is Finding.GOOD
    finding, detail, until_s = told(der, now_s=now_s + 3600 + bounds.SKEW_S + 5)
    assert (finding, until_s) == (Finding.BAD, 0) and "out of date" in detail
    assert told(der, now_s=now_s - 3600 - bounds.SKEW_S + 5)[0] is Finding.GOOD
    finding, detail, _ = told(der, now_s=now_s - 3600 - bounds.SKEW_S - 5)
    assert finding is Finding.BAD and "of the future" in detail


def test_scope_of_a_list():
    assert told(CA.crl(extensions=scope(full_name=[POINT])))[0] is Finding.GOOD
    elsewhere = scope(full_name=[x509.UniformResourceIdentifier("http://a.example/2.crl")])
    finding, detail, _ = told(CA.crl({LEAF: ""}, extensions=elsewhere))
    assert finding is Finding.NONE and "other distribution points" in detail
    assert told(CA.crl(extensions=scope(full_name=[POINT])), OTHER)[0] is Finding.NONE  # it names no point
    assert told(CA.crl(extensions=scope(only_contains_user_certs=True)))[0] is Finding.GOOD
    assert told(ROOT.crl(extensions=scope(only_contains_user_certs=True)), CA)[0] is Finding.NONE
    assert told(CA.crl({LEAF: ""}, extensions=scope(only_contains_ca_certs=True)))[0] is Finding.NONE
    assert told(ROOT.crl(extensions=scope(only_contains_ca_certs=True)), CA)[0] is Finding.GOOD
    relative = x509.RelativeDistinguishedName([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    assert told(CA.crl({LEAF: ""}, extensions=scope(relative_name=relative)))[0] is Finding.NONE


def test_a_list_of_some_reasons_can_only_say_revoked():
    some = scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))
    assert told(CA.crl({LEAF: "key_compromise"}, extensions=some))[0] is Finding.REVOKED
    finding, detail, _ = told(CA.crl(extensions=some))
    assert finding is Finding.NONE and "some reasons only" in detail


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\5\0")
INVALIDITY = x509.InvalidityDate(datetime.datetime(2026, 1, 1))
INDIRECT = x509.CertificateIssuer([x509.DirectoryName(ROOT.certificate.subject)])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"extensions": [(x509.DeltaCRLIndicator(1), True)]}, "delta list"),
        ({"extensions": scope(indirect_crl=True)}, "indirect list"),
        ({"extensions": scope(only_contains_attribute_certs=True)}, "attribute certificates"),
        ({"extensions": [(UNKNOWN, True)]}, r"critical extension 1\.3\.6\.1\.4\.1\.55555\.1"),
        ({"revoked": {5: ""}, "entry_extensions": [(UNKNOWN, True)]}, "entry with a critical extension"),
        ({"revoked": {5: ""}, "entry_extensions": [(INDIRECT, True)]}, "entry with a critical extension"),
    ],
)
def test_kinds_that_do_not_count(options, why):
    with pytest.raises(BadList, match=why):
        read_untrusted(CA.crl(**options))


def test_extensions_that_do_no_harm():
    der = CA.crl(
        {LEAF: "superseded"},
        extensions=[
            (x509.CRLNumber(7), False),
            (UNKNOWN, False),
            (x509.AuthorityKeyIdentifier(b"x", None, None), False),
        ],
        entry_extensions=[(INVALIDITY, True), (UNKNOWN, False)],
    )
    finding, detail, _ = told(der)
    assert finding is Finding.REVOKED and "superseded" in detail


def refusal(der, issuer):
    return read_untrusted(der).refusal(issuer.certificate, identity_of(issuer.certificate))


def test_who_has_signed_it():
    assert refusal(CA.crl(), CA) == ""
    assert refusal(CA.crl(key=ROOT.key), CA) == "its signature does not verify"
    assert refusal(ROOT.crl(), CA) == "it is of another issuer"
    twin = ROOT.authority("CA")
    assert refusal(twin.crl(), CA) == "its signature does not verify"
    assert "may not sign lists" in refusal(ROOT.crl(), Authority("Root", key=ROOT.key, crl_sign=False))
    tampered = bytearray(CA.crl({LEAF: ""}))
    tampered[tampered.index(serial_der(LEAF.serial)) + 3] ^= 1
    assert refusal(bytes(tampered), CA) == "its signature does not verify"


@pytest.mark.parametrize(
    ("make", "algorithm", "why"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), hashes.SHA256(), ""),
        (lambda: ec.generate_private_key(ec.SECP384R1()), hashes.SHA384(), ""),
        (lambda: dsa.generate_private_key(1024), hashes.SHA256(), "DSA"),
    ],
)
def test_kinds_of_signature(make, algorithm, why):
    ca = Authority("X", key=make(), algorithm=algorithm)
    assert why in refusal(ca.crl(algorithm=algorithm), ca)


def test_sha1_does_not_count():
    ca = Authority("X", key=rsa.generate_private_key(65537, 2048))
    sha256, sha1 = (bytes.fromhex(f"2a864886f70d0101{last}") for last in ("0b", "05"))
    assert refusal(ca.crl().replace(sha256, sha1), ca) == "it is signed with sha1"


def test_a_signature_is_verified_once_for_an_issuer(monkeypatch):
    found = read_untrusted(CA.crl())
    assert found.refusal(CA.certificate, b"1") == ""
    found.forget_source()
    assert found.refusal(CA.certificate, b"1") == ""
    assert found.refusal(CA.certificate, b"2") == "it was verified for another issuer"


def test_files():
    one, two = CA.crl(), ROOT.crl()
    assert [len(x.revoked) for x in read_file_untrusted(CA.crl({5: "", 6: ""}))] == [2]
    pem = b"".join(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in (one, two))
    assert [x.issuer for x in read_file_untrusted(b"# lists\n" + pem)] == [
        CA.certificate.subject,
        ROOT.certificate.subject,
    ]
    for broken, why in (
        (b"", "cannot be read"),
        (b"hello", "cannot be read"),
        (one[:-1], "cannot be read"),
        (one + b"\0", "cannot be read"),
        (pem[:-40], "list 2 has no end"),
        (pem.replace(b"\nMI", b"\n!!", 1), "list 1"),
        (LEAF.der, "cannot be read"),
        (pem * 33, "more than 64 lists"),
    ):
        with pytest.raises(BadList, match=why):
            read_file_untrusted(broken)


def test_the_largest_list(monkeypatch):
    monkeypatch.setattr(bounds, "LIST_B", 500)
    assert read_untrusted(CA.crl())
    with pytest.raises(BadList, match="at most 500"):
        read_untrusted(CA.crl(dict.fromkeys(range(1, 30), "")))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(1, 1 << 100), st.sampled_from(["", "key_compromise", "superseded"]), max_size=20))
def test_entries_are_what_the_library_finds(revoked):
    der = CA.crl(revoked)
    found = read_untrusted(der)
    library = {serial_der(entry.serial_number) for entry in x509.load_der_x509_crl(der)}
    assert set(found.revoked) == library
