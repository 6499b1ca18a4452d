"""What is told of a session's TLS: the same at both ends, and what other libraries and the RFCs say."""

import hashlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL._util import lib

from tests.fixtures import certs
from tests.fixtures.software_handshakes import NAME, Remote, handshake, shake
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Fact, RemoteAuth, Side
from tlspool_worker import facts

TLS12, TLS13 = 0x0303, 0x0304
LABEL = b"EXPERIMENTAL-test"


def pair(version=TLS13, *, client_kinds=("p256",), server_kinds=("p256",), client_auth=RemoteAuth.REQUIRE, **fields):
    """Return the Streams of a client and a server of ours that have shaken hands."""
    limits = {"tls_min": version, "tls_max": version, **fields}
    client = handshake(Side.CLIENT, client_kinds, sni=NAME, **limits)
    server = handshake(Side.SERVER, server_kinds, remote_auth=client_auth, **limits)
    data, done = b"", {}
    for _ in range(8):
        for end, shaking in (("client", client), ("server", server)):
            if end in done and not data:
                continue
            step = shaking.step(data)
            assert step.fault is None, step.fault
            data = step.output
            if step.facts:
                done[end] = step.facts
        if len(done) == 2:
            return client.stream(), server.stream()
    raise AssertionError("the handshake does not end")


def told(stream, fact, name=b""):
    try:
        return facts.tell(stream, fact, name)
    except PoolError as error:
        assert error.code is Code.INFO_NOT_FOUND
        return None


# --- keying material --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("context", [None, b"", b"\0context", b"x" * 300])
@pytest.mark.parametrize("size_b", [1, 32, 350])
def test_both_ends_export_the_same(version, context, size_b):
    client, server = pair(version)
    one = facts.export(client, LABEL, context, size_b)
    assert one == facts.export(server, LABEL, context, size_b)
    assert len(one) == size_b
    if size_b > 1:
        assert one != facts.export(client, LABEL + b"2", context, size_b)
        assert one[:16] != facts.export(client, LABEL, b"another", size_b)[:16]


@pytest.mark.parametrize(("version", "same"), [(TLS12, False), (TLS13, True)])
def test_no_context_and_an_empty_one(version, same):
    """RFC 5705 section 4 tells them apart, RFC 8446 section 7.5 does not."""
    client, _ = pair(version)
    assert (facts.export(client, LABEL, None, 32) == facts.export(client, LABEL, b"", 32)) is same


def test_a_label_that_is_too_long_for_tls13():
    client, server = pair()
    longest = b"EXPERIMENTAL".ljust(249, b"x")
    assert facts.export(client, longest, None, 16) == facts.export(server, longest, None, 16)
    with pytest.raises(PoolError) as caught:
        facts.export(client, longest + b"x", None, 16)
    assert caught.value.code is Code.EXPORT_UNAVAILABLE
    client, _ = pair(TLS12)
    assert len(facts.export(client, longest + b"x", None, 16)) == 16


def test_labels_that_openssl_keeps_for_tls_itself():
    client, _ = pair(TLS12)
    with pytest.raises(PoolError) as caught:
        facts.export(client, b"client finished", None, 16)
    assert caught.value.code is Code.EXPORT_UNAVAILABLE
    assert lib.ERR_get_error() == 0  # the relay would take it for an error of its own


# --- channel bindings -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_tls_exporter(version):
    client, server = pair(version)
    value = told(client, Fact.TLS_EXPORTER)
    assert value == told(server, Fact.TLS_EXPORTER) == facts.export(client, b"EXPORTER-Channel-Binding", b"", 32)
    assert value != told(pair(version)[0], Fact.TLS_EXPORTER)


def test_tls_exporter_needs_an_extended_master_secret():
    remote = Remote(version=ssl.TLSVersion.TLSv1_2)
    remote.context.options |= 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET
    remote.incoming, remote.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    remote.tls = remote.context.wrap_bio(remote.incoming, remote.outgoing, False, NAME)
    ours = handshake()
    assert shake(ours, remote).facts
    stream = ours.stream()
    assert told(stream, Fact.TLS_EXPORTER) is None
    assert told(stream, Fact.TLS_UNIQUE) == remote.tls.get_channel_binding("tls-unique")


@pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER])
def test_tls_unique_is_what_the_ssl_module_says(side, tmp_path):
    chain = tmp_path / "chain.pem"
    leaf = certs.leaf(NAME)
    key = leaf.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(leaf.pem + certs.intermediate().pem + key)
    other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    remote = Remote(other, version=ssl.TLSVersion.TLSv1_2, chain_file=str(chain))
    ours = handshake(side, sni=NAME)
    assert shake(ours, remote).facts
    value = told(ours.stream(), Fact.TLS_UNIQUE)
    assert len(value) == 12
    assert value == remote.tls.get_channel_binding("tls-unique")


def test_there_is_no_tls_unique_in_tls13():
    assert [told(stream, Fact.TLS_UNIQUE) for stream in pair()] == [None, None]


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_tls_server_end_point(version, kind):
    client, server = pair(version, server_kinds=(kind,))
    expected = hashlib.sha256(certs.leaf(NAME, kind).der).digest()
    assert told(client, Fact.TLS_SERVER_END_POINT) == told(server, Fact.TLS_SERVER_END_POINT) == expected


@pytest.mark.parametrize(
    ("issuer_kind", "signed_with", "hashed_with"),
    [
        ("p384", hashes.SHA384(), "sha384"),
        ("rsa", hashes.SHA512(), "sha512"),
        ("rsa", hashes.SHA224(), "sha224"),
        ("p384", hashes.SHA3_256(), "sha3_256"),
        ("ed25519", None, None),
    ],
)
def test_the_hash_is_that_of_the_signature(issuer_kind, signed_with, hashed_with):
    """RFC 5929 section 4.1; a signature without a hash of its own leaves the binding undefined."""
    der = signed(issuer_kind, signed_with)
    if hashed_with is None:
        with pytest.raises(PoolError):
            facts._server_end_point(der)
    else:
        assert facts._server_end_point(der) == hashlib.new(hashed_with, der).digest()


def test_weak_hashes_are_replaced():
    """The algorithm's name is changed inside a certificate, as no library signs with SHA-1 any more."""
    der = signed("rsa", hashes.SHA256())
    sha1 = der.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105"))
    assert x509.load_der_x509_certificate(sha1).signature_hash_algorithm.name == "sha1"
    assert facts._server_end_point(sha1) == hashlib.sha256(sha1).digest()


def signed(kind, algorithm):
    issuer = certs.make("An issuer", kind, ca=True, number=7)
    base = certs.leaf(NAME).certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(base.subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(base.public_key())
        .serial_number(1)
        .not_valid_before(base.not_valid_before_utc)
        .not_valid_after(base.not_valid_after_utc)
    )
    return builder.sign(issuer.private, algorithm).public_bytes(Encoding.DER)


# --- certificates -----------------------------------------------------------------------------------

PARTS = [
    (Fact.REMOTE_SUBJECT, Fact.LOCAL_SUBJECT, "subject"),
    (Fact.REMOTE_ISSUER, Fact.LOCAL_ISSUER, "issuer"),
]


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_names_of_both_certificates(version):
    client, server = pair(version, server_kinds=("rsa",))
    for remote, local, part in PARTS:
        expected = getattr(certs.leaf(NAME, "rsa").certificate, part).public_bytes()
        assert told(client, remote) == told(server, local) == expected
        expected = getattr(certs.leaf(NAME).certificate, part).public_bytes()
        assert told(server, remote) == told(client, local) == expected


def test_the_certificate_of_several_that_was_used():
    for kinds, used in ((("rsa",), "rsa"), (("p256", "rsa"), "p256")):
        _, server = pair(server_kinds=kinds)
        assert facts.local_certificate(server) == certs.leaf(NAME, used).der
    client, server = pair(server_kinds=("p256", "rsa"), sigalgs="rsa_pss_rsae_sha256", client_kinds=("rsa",))
    assert facts.local_certificate(server) == facts.remote_certificate(client) == certs.leaf(NAME, "rsa").der


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_client_that_was_not_asked_has_shown_nothing(version):
    client, server = pair(version, client_auth=RemoteAuth.IGNORE)
    assert facts.local_certificate(client) == facts.remote_certificate(server) == b""
    for fact in (Fact.LOCAL_SUBJECT, Fact.LOCAL_ISSUER):
        assert told(client, fact) is None
    for fact in (Fact.REMOTE_SUBJECT, Fact.REMOTE_ISSUER):
        assert told(server, fact) is None
    assert told(server, Fact.REMOTE_NAME, b"\x82\x0dlocal.example") is None


def test_names_are_compared_byte_for_byte():
    client, server = pair()
    name = b"\x82\x0dlocal.example"
    assert told(client, Fact.REMOTE_NAME, name) == told(server, Fact.LOCAL_NAME, name) == name
    for other in (name[2:], b"\x81" + name[1:], name.upper(), name + b"\0", name[:-1], b""):
        assert told(client, Fact.REMOTE_NAME, other) is None


def test_a_remote_that_does_not_count_is_not_told():
    client, _ = pair()
    client.hides_remote = True
    assert told(client, Fact.REMOTE_SUBJECT) is None
    assert told(client, Fact.LOCAL_SUBJECT) is not None
