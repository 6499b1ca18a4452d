"""What is told of a certificate: every field, within its bounds, or a ValueError and nothing else."""

import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import certs
from tlspool_common import codec, limits
from tlspool_common.messages import BY_MESSAGE, Finding, RemoteShown
from tlspool_worker import shown as module
from tlspool_worker.shown import Chain, Wire, describe_untrusted

URI = x509.UniformResourceIdentifier


def describe(*issued, anchored=False, tells_chain=True, **fields):
    ders = tuple(one.der for one in issued)
    shown = describe_untrusted(Chain(ders=ders, anchored=anchored, **fields), Wire(), tells_chain=tells_chain)
    assert fits(shown)
    return shown


def fits(shown):
    """Whether a worker can send it: the codec holds each field against its bound."""
    return len(codec.encode(BY_MESSAGE[RemoteShown].code, 1, shown)) <= limits.FRAME_B


def leaf(*extensions, **options):
    return certs.intermediate().issue("www.example.com", extensions=extensions, **options)


def test_a_plain_one():
    one = leaf()
    shown = describe(one, certs.intermediate(), certs.root(), anchored=True)
    assert shown.names == ("dns:www.example.com",)
    assert shown.subject == "CN=www.example.com"
    key = one.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert shown.spki_sha256 == hashlib.sha256(key).digest()
    assert shown.not_after_s == int(one.certificate.not_valid_after_utc.timestamp())
    assert shown.strengths == ("ec 256 sha256",) * 3
    serials = [int(line.removeprefix("- "), 16) for line in shown.links]
    assert serials == [one.certificate.serial_number, certs.intermediate().certificate.serial_number]
    assert (shown.usages, shown.crl_urls, shown.ocsp_urls, shown.must_staple) == ((), (), (), False)
    assert shown.extensions == ("2.5.29.19!", "2.5.29.17", "2.5.29.14")
    assert shown.chain == (one.der, certs.intermediate().der, certs.root().der)
    assert not shown.self_signed


def test_what_a_fault_is_said_to_be():
    shown = describe(leaf(), fault=404, detail="ü" * 2000)
    assert shown.fault == 404
    assert len(shown.detail.encode()) <= limits.PROSE_B


def test_what_depends_on_the_moment_is_not_remembered():
    """The same chain: in order, out of date, under another anchor; with other staples, and in other sessions."""
    module._remembered_untrusted.cache_clear()
    ders = (leaf().der, certs.intermediate().der, certs.root().der)
    good = describe_untrusted(Chain(ders=ders, anchored=True), Wire(session_id=1, cipher="one"), now_s=1e9)
    late = Chain(ders=ders, anchored=True, fault=403, detail="it has expired")
    expired = describe_untrusted(late, Wire(session_id=2, cipher="two"), now_s=9e9)
    assert (good.fault, good.detail, good.session_id, good.cipher) == (0, "", 1, "one")
    assert (expired.fault, expired.detail, expired.session_id, expired.cipher) == (403, "it has expired", 2, "two")
    assert describe_untrusted(Chain(ders=ders, anchored=True), Wire(session_id=1, cipher="one")) == good
    assert module._remembered_untrusted.cache_info().currsize == 1
    unknown = describe_untrusted(Chain(ders=ders, anchored=False), Wire())
    assert (unknown.anchor_sha256, len(unknown.links)) == (b"", 3)
    told = describe_untrusted(Chain(ders=ders, anchored=True), Wire(), tells_chain=True)
    assert (told.chain, good.chain) == (ders, ())


def test_each_session_has_its_own_staple(monkeypatch):
    findings = {b"good": Finding.GOOD, b"revoked": Finding.REVOKED, b"old": Finding.BAD}
    monkeypatch.setattr(module, "check_untrusted", lambda staple, *rest: (findings[staple], f"{staple} {rest[-1]}", 0))
    chain = Chain(ders=(leaf().der, certs.intermediate().der), anchored=False)
    for now_s in (1.0, 2.0):
        for staple, finding in findings.items():
            shown = describe_untrusted(chain, Wire(), staple, now_s)
            assert (shown.stapled, shown.stapled_detail) == (finding, f"{staple} {now_s}")
        assert describe_untrusted(chain, Wire(), b"", now_s).stapled is Finding.NONE


def test_what_is_remembered_is_bounded():
    module._remembered_untrusted.cache_clear()
    large = certs.make("x", number=151, pad_b=module.REMEMBERED_B)
    assert describe(large) == describe(large)
    assert module._remembered_untrusted.cache_info().currsize == 0
    for _ in range(2):
        with pytest.raises(ValueError, match=r"(?i)asn"):
            describe_untrusted(Chain(ders=(b"no certificate",), anchored=False), Wire())
    assert module._remembered_untrusted.cache_info().currsize == 0


def test_usages_and_extensions():
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")])
    shown = describe(leaf(usages))
    assert shown.usages == ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.36")
    assert "2.5.29.37" in shown.extensions
    many = x509.ExtendedKeyUsage([x509.ObjectIdentifier(f"1.3.6.1.4.1.55555.{n}") for n in range(100)])
    assert len(describe(leaf(many)).usages) == limits.USAGES
    long = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3" + ".4294967295" * 10), ExtendedKeyUsageOID.CLIENT_AUTH])
    assert describe(leaf(long)).usages == ("1.3.6.1.5.5.7.3.2",)


def test_key_identifiers():
    identified = x509.AuthorityKeyIdentifier.from_issuer_public_key(certs.intermediate().private.public_key())
    assert describe(leaf(identified)).links[0].split()[0] == certs.intermediate().key_identifier.hex()
    with pytest.raises(ValueError, match="too long"):
        describe(leaf(x509.AuthorityKeyIdentifier(b"x" * 100, None, None)))


def test_addresses():
    def point(*names, **fields):
        values = {"relative_name": None, "reasons": None, "crl_issuer": None, **fields}
        return x509.DistributionPoint([URI(name) for name in names], **values)

    points = x509.CRLDistributionPoints(
        [
            point("ldap://a.example/x", "http://a.example/1.crl", "HTTP://a.example/2.crl"),
            point("http://a.example/some.crl", reasons=frozenset([x509.ReasonFlags.key_compromise])),
            point("http://a.example/of-another.crl", crl_issuer=[x509.DNSName("b.example")]),
            point("http://a.example/" + "x" * limits.URL_B),
            point("http://a.example/with space.crl", "http://a.example/\x1b[2J"),
            point("https://a.example/3.crl"),
        ]
    )
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, URI("http://a.example/ca.der")),
            *(
                x509.AccessDescription(AuthorityInformationAccessOID.OCSP, URI(f"http://o{n}.example/"))
                for n in range(9)
            ),
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.DNSName("o.example")),
        ]
    )
    shown = describe(leaf(points, access))
    assert shown.crl_urls[:2] == ("http://a.example/1.crl", "HTTP://a.example/2.crl")
    assert set(shown.crl_urls[2:]) <= {"http://a.example/with space.crl"}
    assert shown.ocsp_urls == tuple(f"http://o{n}.example/" for n in range(limits.URLS))


def test_must_staple():
    assert describe(leaf(x509.TLSFeature([x509.TLSFeatureType.status_request]))).must_staple
    assert not describe(leaf(x509.TLSFeature([x509.TLSFeatureType.status_request_v2]))).must_staple


KEYS = {
    "rsa 3072 sha256": lambda: rsa.generate_private_key(65537, 3072),
    "ec 384 sha256": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ec 521 sha256": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519 256 sha256": ed25519.Ed25519PrivateKey.generate,
    "ed448 456 sha256": ed448.Ed448PrivateKey.generate,
    "ml-dsa-44 0 sha256": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65 0 sha256": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87 0 sha256": mldsa.MLDSA87PrivateKey.generate,
}


@pytest.mark.parametrize("line", KEYS)
def test_strengths(line, monkeypatch):
    private = KEYS[line]()
    monkeypatch.setattr(certs, "key", lambda *_: private)
    assert describe(leaf()).strengths == (line,)


@pytest.mark.parametrize("make", [ed25519.Ed25519PrivateKey.generate, mldsa.MLDSA65PrivateKey.generate])
def test_signatures_without_a_hash(make, monkeypatch):
    private = make()
    monkeypatch.setattr(certs, "key", lambda *_: private)
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([]))
    builder = builder.public_key(private.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    own = certs.Issued(builder.sign(private, None), private)
    shown = describe(own)
    assert shown.strengths[0].endswith(" -")
    assert shown.self_signed
    assert shown.links == ("- 01",)


def test_chains_that_are_too_large():
    small = [certs.root(), *(certs.make(f"{n}", number=150) for n in range(9))]
    assert len(describe(*small[:8]).chain) == 8
    assert describe(*small[:9]).chain == ()
    large = [certs.make(f"{n}", number=150, pad_b=15000) for n in range(8)]
    assert describe(*large).chain == ()
    assert len(describe(*large[:6]).chain) == 6
    assert describe(certs.make("x", number=150, pad_b=17000)).chain == ()
    assert describe(large[0], tells_chain=False).chain == ()


def test_the_largest_description_fits(monkeypatch):
    """All fields at their bounds at once, and the largest chain that goes along."""
    names = tuple("dns:" + f"{n:02}" + "x" * (limits.IDENTITY_NAME_B - 6) for n in range(limits.IDENTITY_NAMES))
    monkeypatch.setattr(module, "names_untrusted", lambda _: names)
    monkeypatch.setattr(module, "subject_untrusted", lambda _: "x" * limits.SUBJECT_B)
    oids = tuple("1." + "2" * (limits.OID_B - 2) for _ in range(limits.USAGES))
    monkeypatch.setattr(module, "_extensions_untrusted", lambda _: (oids, oids))
    urls = tuple("http://" + "x" * (limits.URL_B - 7) for _ in range(limits.URLS))
    monkeypatch.setattr(module, "_crl_urls_untrusted", lambda _: urls)
    monkeypatch.setattr(module, "_ocsp_urls_untrusted", lambda _: urls)
    monkeypatch.setattr(module, "_link_untrusted", lambda _: "x" * limits.CERTIFICATE_LINE_B)
    monkeypatch.setattr(module, "_strength_untrusted", lambda _: "x" * limits.CERTIFICATE_LINE_B)
    chain = [certs.make(f"{n}", number=150, pad_b=12200) for n in range(8)]
    shown = describe(*chain, fault=404, detail="x" * 1000)
    assert sum(map(len, shown.chain)) > module.CHAIN_B * 0.95


# --- fuzz ------------------------------------------------------------------------------------------------

SEEDS = [
    leaf(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.TLSFeature([x509.TLSFeatureType.status_request]),
        x509.AuthorityKeyIdentifier(b"id", None, None),
        x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, URI("http://o.example/"))]
        ),
        x509.CRLDistributionPoints(
            [x509.DistributionPoint([URI("http://a.example/1.crl")], relative_name=None, reasons=None, crl_issuer=None)]
        ),
    ).der,
    certs.leaf("john@example.com", "rsa").der,
    certs.leaf("x.example", "ed25519").der,
    certs.root().der,
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # the library warns of odd certificates
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6))
def test_mutated_certificates(seed, changes):
    data = bytearray(seed)
    for at, octet in changes:
        data[at % len(data)] = octet
    for anchored in (False, True):
        chain = Chain(ders=(bytes(data), certs.intermediate().der), anchored=anchored)
        try:
            shown = describe_untrusted(chain, Wire(), bytes(data), 1e9, True)
        except ValueError:
            continue
        assert fits(shown)
        assert all(name.isprintable() for name in (*shown.names, *shown.crl_urls, *shown.ocsp_urls, *shown.usages))
