"""Names, subjects, and the callback that judges: it fails closed, and tells one handshake from another."""

import datetime
import ipaddress
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from OpenSSL._util import ffi

from tests.fixtures import certs
from tests.fixtures.software_handshakes import Remote, handshake, shake
from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import RemoteAuth
from tlspool_worker import verify
from tlspool_worker.names import names_untrusted, subject_untrusted
from tlspool_worker.verify import Check


def certificate(names=None, subject="x", raw=None):
    private = certs.key("p256")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if raw is not None:
        oid = x509.SubjectAlternativeName.oid
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, raw), critical=False)
    return builder.sign(private, hashes.SHA256())


# --- names -----------------------------------------------------------------------------------------------


def test_names_of_each_kind():
    found = names_untrusted(
        certificate(
            [
                x509.DNSName("*.example.com"),
                x509.RFC822Name("john@example.com"),
                x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
                x509.UniformResourceIdentifier("https://example.com/"),
                x509.DirectoryName(x509.Name([])),
            ]
        )
    )
    assert found == ("dns:*.example.com", "email:john@example.com", "ip:2001:db8::1")


def test_a_common_name_is_no_name():
    assert names_untrusted(certificate(subject="www.example.com")) == ()


def test_no_more_names_than_a_message_holds():
    found = names_untrusted(certificate([x509.DNSName(f"h{number}.example") for number in range(200)]))
    assert len(found) == limits.IDENTITY_NAMES
    assert found[0] == "dns:h0.example"


def test_names_that_are_too_long_or_unprintable_are_left_out():
    der = b"\x30\x0a\x82\x03a\x1bb\x82\x03a.b"  # two DNS names, one with an escape character
    long = x509.DNSName("x" * 400)
    assert names_untrusted(certificate(raw=der)) == ("dns:a.b",)
    assert names_untrusted(certificate([long, x509.DNSName("a.example")])) == ("dns:a.example",)


@pytest.mark.parametrize("raw", [b"", b"\x30", b"\x30\x05\x82\x03a", b"\x30\x03\x82\x01\xff", b"\x04\x00"])
def test_extensions_that_cannot_be_read(raw):
    with pytest.raises(ValueError):
        names_untrusted(certificate(raw=raw))


def test_subjects_are_cut():
    assert subject_untrusted(certificate(subject="a,b")) == "CN=a\\,b"
    assert len(subject_untrusted(certificate(subject="ü" * 30)).encode()) <= limits.SUBJECT_B
    many = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "ü" * 30)] * 40)
    fake = type("Fake", (), {"subject": many})
    text = subject_untrusted(fake)
    assert limits.SUBJECT_B - 3 <= len(text.encode()) <= limits.SUBJECT_B


# --- judging ---------------------------------------------------------------------------------------------


def leaf(name):
    return certs.leaf(name).certificate


@pytest.mark.parametrize(
    ("expected", "name", "passes"),
    [
        (None, "anybody.example", True),
        ("www.example.com", "www.example.com", True),
        ("www.example.com", "www.example.org", False),
        ("john@example.com", "john@example.com", True),
        ("john@example.com", "mary@example.com", False),
        ("john@example.com", "example.com", False),
    ],
)
def test_leaves(expected, name, passes):
    check = Check(parse_untrusted(expected) if expected else None, False)
    assert check.leaf_passed_untrusted(leaf(name)) is passes
    assert check.passed is passes
    assert (check.code is Code.NAME_MISMATCH) is not passes
    assert not check.code or "is expected" in check.detail


def test_a_domain_may_represent_its_users():
    assert Check(parse_untrusted("john@example.com"), True).leaf_passed_untrusted(leaf("example.com"))


def test_the_first_fault_counts_and_cannot_be_undone():
    check = Check(None, False)
    check.fault(10, 0)
    check.fault(18, 1)
    assert (check.code, check.alert) == (Code.EXPIRED, 45)
    assert check.detail == "the leaf: certificate has expired"
    assert not check.leaf_passed_untrusted(leaf("example.com"))
    assert not check.passed


def test_faults_without_a_row_are_faults():
    check = Check(None, False)
    check.fault(23, 2)
    assert (check.code, check.alert) == (Code.CHAIN_INVALID, 46)
    assert check.detail.startswith("certificate 3 of the chain: ")


def test_the_callback_fails_closed():
    assert verify._verify(1, ffi.NULL) == 0  # nobody is judging
    with verify.Judging(Check(None, False)) as nothing:
        assert nothing is None
    assert verify._judging.check is None


def test_what_the_callback_trips_over_is_a_refusal(monkeypatch, tmp_path):
    """A certificate that our own code cannot read: the handshake fails, with an alert, and nobody else's does."""

    def trip(_certificate):
        raise RuntimeError("tripped")

    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    one = certs.leaf("john@example.com")
    path = tmp_path / "chain.pem"
    secret = one.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + one.pem + certs.intermediate().pem)
    with monkeypatch.context() as patch:
        patch.setattr(verify, "names_untrusted", trip)
        fault = shake(handshake(remote_auth=RemoteAuth.REQUIRE), Remote(chain_file=str(path))).fault
    assert fault.code is Code.CHAIN_INVALID
    assert fault.detail == "the certificate cannot be judged: RuntimeError"
    facts = shake(handshake(remote_auth=RemoteAuth.REQUIRE), Remote(chain_file=str(path))).facts
    assert facts.remote_names == ("email:john@example.com",)


def test_openssl_alone_is_not_believed(monkeypatch, tmp_path):
    """If OpenSSL is content but our callback was never asked, the handshake does not count."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    one = certs.leaf("john@example.com")
    path = tmp_path / "chain.pem"
    secret = one.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + one.pem + certs.intermediate().pem)
    monkeypatch.setattr(verify, "VERIFY", ffi.NULL)
    fault = shake(handshake(remote_auth=RemoteAuth.REQUIRE), Remote(chain_file=str(path))).fault
    assert fault.code is Code.INTERNAL


def test_threads_judge_their_own():
    found = {}

    def judge(name):
        check = Check(parse_untrusted(name), False)
        with verify.Judging(check):
            barrier.wait(5)
            found[name] = verify._judging.check is check

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=judge, args=(name,)) for name in ("a.example", "b.example")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a.example": True, "b.example": True}
