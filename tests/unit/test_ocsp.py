"""OCSP responses: what is signed by the right one, about this certificate, and in date, counts; nothing else does."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import certs
from tlspool_common.messages import Finding
from tlspool_worker.ocsp import NO_NEXT_UPDATE_S, SKEW_S, check_untrusted

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
HOUR = datetime.timedelta(hours=1)
LEAF, ISSUER = certs.leaf("ocsp.example"), certs.intermediate()
SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()
STATUS = ocsp.OCSPCertStatus
UNKNOWN_EXTENSION = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.2"), b"\5\0")


def respond(
    status=STATUS.GOOD,
    *,
    leaf=LEAF,
    issuer=ISSUER,
    signer=None,
    carries=(),
    since=-HOUR,
    until=HOUR,
    hashed=SHA1,
    signed=SHA256,
    by=ocsp.OCSPResponderEncoding.HASH,
    critical=None,
    reason=None,
):
    signer = signer or issuer
    builder = ocsp.OCSPResponseBuilder().add_response(
        leaf.certificate,
        issuer.certificate,
        hashed,
        status,
        NOW + since,
        NOW + until if until is not None else None,
        NOW - 2 * HOUR if status is STATUS.REVOKED else None,
        reason,
    )
    builder = builder.responder_id(by, signer.certificate)
    if carries:
        builder = builder.certificates([one.certificate for one in carries])
    if critical:
        builder = builder.add_extension(critical, critical=True)
    signed = None if "Ed25519" in type(signer.private).__name__ else signed
    return builder.sign(signer.private, signed).public_bytes(Encoding.DER)


def check(response, leaf=LEAF, issuer=ISSUER, later=0.0):
    return check_untrusted(response, leaf.certificate, issuer.certificate, NOW.timestamp() + later)


@pytest.mark.parametrize("by", ocsp.OCSPResponderEncoding)
@pytest.mark.parametrize("hashed", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_good(by, hashed):
    finding, detail, until_s = check(respond(by=by, hashed=hashed))
    assert finding is Finding.GOOD
    assert "good" in detail
    assert until_s == (NOW + HOUR).timestamp()


@pytest.mark.parametrize(("reason", "text"), [(None, ""), (x509.ReasonFlags.key_compromise, "keyCompromise")])
def test_revoked(reason, text):
    finding, detail, until_s = check(respond(STATUS.REVOKED, reason=reason))
    assert finding is Finding.REVOKED
    assert text in detail
    assert until_s


def test_unknown():
    assert check(respond(STATUS.UNKNOWN))[0] is Finding.UNKNOWN


@pytest.mark.parametrize("kind", certs.KINDS)
def test_issuers_of_each_kind(kind):
    issuer = certs.root().issue(f"Issuer {kind}", kind, ca=True, number=140)
    leaf = issuer.issue("x.example")
    assert check(respond(leaf=leaf, issuer=issuer), leaf, issuer)[0] is Finding.GOOD


# --- who may say it --------------------------------------------------------------------------------------


def delegate(issuer=ISSUER, **options):
    options.setdefault("extensions", (SIGNING, x509.OCSPNoCheck()))
    return issuer.issue("Responder", number=141, **options)


@pytest.mark.parametrize("by", ocsp.OCSPResponderEncoding)
def test_a_responder_of_the_issuer(by):
    signer = delegate()
    assert check(respond(signer=signer, carries=[signer], by=by))[0] is Finding.GOOD
    assert check(respond(signer=signer, carries=[certs.root(), ISSUER, signer], by=by))[0] is Finding.GOOD


def usage(**bits):
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    values = {name: bits.get(name, False) for name in [*names.split(), "encipher_only", "decipher_only"]}
    return x509.KeyUsage(**values)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: delegate(extensions=()), "not for signing"),
        (lambda: delegate(extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),)), "not for signing"),
        (lambda: delegate(extensions=(SIGNING, usage(key_agreement=True))), "not for signatures"),
        (lambda: delegate(days=(-9, -2)), "expired"),
        (lambda: delegate(days=(2, 9)), "not valid yet"),
        (lambda: delegate(certs.root()), "not issued by the issuer"),  # above it, and still not it
        (lambda: delegate(signer=certs.key("p256", 142)), "not issued by the issuer"),
        (lambda: certs.make("Responder", number=143, extensions=(SIGNING,)), "not issued by the issuer"),
    ],
)
def test_responders_without_a_mandate(make, word):
    signer = make()
    finding, detail, until_s = check(respond(signer=signer, carries=[signer]))
    assert (finding, until_s) == (Finding.BAD, 0)
    assert word in detail


def test_a_responder_whose_certificate_is_not_there():
    finding, detail, _ = check(respond(signer=delegate()))
    assert finding is Finding.BAD
    assert "somebody else" in detail


def test_names_of_the_issuer_with_another_key():
    impostor = certs.make("Test intermediate", number=144, ca=True)
    for by in ocsp.OCSPResponderEncoding:
        assert check(respond(signer=impostor, carries=[impostor], by=by))[0] is Finding.BAD


def test_signatures_that_are_not_good():
    response = bytearray(respond())
    response[-1] ^= 1
    assert check(bytes(response))[:2] == (Finding.BAD, "the signature of the OCSP response does not verify")
    issuer = certs.root().issue("RSA issuer", "rsa", ca=True)
    leaf = issuer.issue("x.example")
    finding, detail, _ = check(respond(leaf=leaf, issuer=issuer, signed=hashes.SHA224()), leaf, issuer)
    assert finding is Finding.BAD
    assert "sha224" in detail


# --- about whom, and when --------------------------------------------------------------------------------


def test_of_another_certificate():
    other = ISSUER.issue("other.example")
    assert "another certificate" in check(respond(leaf=other))[1]
    assert check(respond(leaf=other))[0] is Finding.BAD
    elsewhere = certs.make("Elsewhere", ca=True, number=145)
    assert check(respond(issuer=elsewhere))[0] is Finding.BAD


@pytest.mark.parametrize(
    ("since", "until", "later", "finding"),
    [
        (-1, 1, 0, Finding.GOOD),
        (-1, 1, 3600 + SKEW_S, Finding.GOOD),
        (-1, 1, 3600 + SKEW_S + 1, Finding.BAD),
        (1, 2, 3600 - SKEW_S, Finding.GOOD),
        (1, 2, 3600 - SKEW_S - 1, Finding.BAD),
        (0, None, NO_NEXT_UPDATE_S, Finding.GOOD),
        (0, None, NO_NEXT_UPDATE_S + SKEW_S + 1, Finding.BAD),
    ],
)
@pytest.mark.parametrize("status", [STATUS.GOOD, STATUS.REVOKED])
def test_dates(since, until, later, finding, status):
    response = respond(status, since=since * HOUR, until=None if until is None else until * HOUR)
    found = check(response, later=later)[0]
    expected = Finding.REVOKED if finding is Finding.GOOD and status is STATUS.REVOKED else finding
    assert found is expected


def test_critical_extensions():
    assert check(respond(critical=x509.OCSPNonce(b"x" * 16)))[0] is Finding.GOOD
    finding, detail, _ = check(respond(critical=UNKNOWN_EXTENSION))
    assert finding is Finding.BAD
    assert "55555" in detail


@pytest.mark.parametrize("number", [1, 2, 3, 5, 6])
def test_responders_that_do_not_answer(number):
    finding, detail, until_s = check(bytes.fromhex("30030a01") + bytes([number]))
    assert (finding, until_s) == (Finding.NONE, 0)
    assert "responder answers" in detail


# --- anything --------------------------------------------------------------------------------------------

GOOD = respond()
DELEGATED = respond(signer=delegate(), carries=[delegate()])


@given(st.binary(max_size=300))
def test_anything_at_all(data):
    assert check(data)[0] in (Finding.BAD, Finding.NONE)


@given(st.sampled_from([GOOD, DELEGATED]), st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1))
def test_mutations_never_say_anything_else(response, flips):
    data = bytearray(response)
    for at, flip in flips:
        data[at % len(data)] ^= flip
    finding, _, until_s = check(bytes(data))
    # Not all of it is signed: the certificates that it carries are not, but for their own signatures.
    assert finding in (Finding.BAD, Finding.NONE) or (finding, until_s) == (Finding.GOOD, (NOW + HOUR).timestamp())


def test_too_large():
    assert "bytes" in check(GOOD + b"\0" * 20000)[1]
