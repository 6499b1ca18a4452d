"""Remotes that are wrong in every way, at a real worker without a pool: a code each, and the right alert."""

import contextlib
import hashlib
import socket
import ssl
import struct

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_remotes import (
    NAME,
    VERSIONS,
    client,
    connect,
    context,
    serve,
    server,
    until_end,
)
from tests.fixtures.lone_worker import tcp_pair
from tlspool_common.errors import Code
from tlspool_common.messages import (
    EndReason,
    HandshakeDone,
    HandshakeFailed,
    RemoteAuth,
    Side,
)

BOTH = pytest.mark.parametrize("version", VERSIONS)


def wrong(name):
    """Return (code, alert text at the remote, chain that is shown) of a remote client or server."""
    chain = (certs.intermediate(),)
    stranger = certs.make("Stranger", ca=True, number=200)
    middle = certs.root().issue("Middle", ca=False, number=201)
    return {
        "expired": (Code.EXPIRED, "EXPIRED", (certs.intermediate().issue("www.example.com", days=(-20, -2)), *chain)),
        "not yet": (
            Code.NOT_YET_VALID,
            "BAD_CERT",
            (certs.intermediate().issue("www.example.com", days=(2, 20)), *chain),
        ),
        "self-signed": (Code.SELF_SIGNED, "UNKNOWN_CA", (certs.make("www.example.com"),)),
        "stranger": (Code.CHAIN_UNTRUSTED, "UNKNOWN_CA", (stranger.issue("www.example.com"), stranger)),
        "no chain": (Code.CHAIN_UNTRUSTED, "UNKNOWN_CA", (certs.leaf("www.example.com"),)),
        "no CA": (Code.CHAIN_INVALID, "UNKNOWN_CA", (middle.issue("www.example.com"), middle)),
        "name": (Code.NAME_MISMATCH, "BAD_CERT", (certs.intermediate().issue("www.example.org"), *chain)),
    }[name]


WRONG = ("expired", "not yet", "self-signed", "stranger", "no chain", "no CA", "name")


@BOTH
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("auth", [RemoteAuth.REQUIRE, RemoteAuth.REQUEST])
def test_servers_that_are_wrong(worker, files, name, version, auth):
    code, text, chain = wrong(name)
    shown = []
    session, remote = connect(
        worker,
        server(
            files(*chain),
            version,
            verify=ssl.CERT_OPTIONAL,
            then=lambda tls: shown.append(tls.getpeercert()) or tls.recv(1),
        ),
        credential="p256",
        remote_name="www.example.com",
        remote_auth=auth,
    )
    failed = worker.hear(HandshakeFailed, session)
    assert failed.code == code, failed
    with pytest.raises(ssl.SSLError, match=text):
        remote.result()
    assert shown in ([], [None], [{}]), "the client certificate was shown to a server that does not verify"
    assert failed.alert != 255


@BOTH
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("auth", [RemoteAuth.REQUIRE, RemoteAuth.REQUEST])
def test_clients_that_are_wrong(worker, files, name, version, auth):
    code, text, chain = wrong(name)
    session, remote = serve(
        worker,
        client(version, chain_file=files(*chain), then=lambda tls: tls.recv(1)),
        remote_name="www.example.com",
        remote_auth=auth,
    )
    failed = worker.hear(HandshakeFailed, session)
    assert failed.code == code, failed
    with pytest.raises(ssl.SSLError, match=text):
        remote.result()


@BOTH
def test_purposes(worker, files, version):
    for_client = files(certs.intermediate().issue("www.example.com", usage=("client",)), certs.intermediate())
    for_server = files(certs.intermediate().issue("www.example.com", usage=("server",)), certs.intermediate())
    session, remote = connect(worker, server(for_client, version), remote_name="www.example.com")
    assert worker.hear(HandshakeFailed, session).code == Code.WRONG_PURPOSE
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_CERT"):
        remote.result()
    session, remote = serve(
        worker, client(version, chain_file=for_server, then=lambda tls: tls.recv(1)), remote_auth=RemoteAuth.REQUIRE
    )
    assert worker.hear(HandshakeFailed, session).code == Code.WRONG_PURPOSE
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_CERT"):
        remote.result()


@BOTH
def test_client_certificates(worker, files, version):
    """Required, requested, ignored; with a certificate and without."""
    good = files(certs.leaf("john@example.com"), certs.intermediate())
    for auth, chain_file, verified in (
        (RemoteAuth.REQUIRE, good, True),
        (RemoteAuth.REQUEST, good, True),
        (RemoteAuth.REQUEST, None, False),
        (RemoteAuth.IGNORE, good, False),
        (RemoteAuth.IGNORE, None, False),
    ):
        session, remote = serve(worker, client(version, chain_file=chain_file), remote_auth=auth)
        facts = worker.hear(HandshakeDone, session)
        assert facts.remote_verified is verified
        assert facts.remote_names == (("email:john@example.com",) if verified else ())
        remote.result()
        assert worker.ended(session).reason in (EndReason.TRUNCATED, EndReason.REMOTE_RESET)
    session, remote = serve(worker, client(version, then=lambda tls: tls.recv(1)), remote_auth=RemoteAuth.REQUIRE)
    failed = worker.hear(HandshakeFailed, session)
    assert (failed.code, failed.alert) == (Code.CERTIFICATE_MISSING, {"1.2": 40, "1.3": 116}[version])
    with pytest.raises(ssl.SSLError, match={"1.2": "HANDSHAKE_FAILURE", "1.3": "CERTIFICATE_REQUIRED"}[version]):
        remote.result()


@BOTH
def test_a_client_that_ignores_takes_anything_and_believes_nothing(worker, files, version):
    chain = (certs.make("anybody.example", days=(-9, -2)),)
    session, remote = connect(worker, server(files(*chain), version), remote_auth=RemoteAuth.IGNORE)
    facts = worker.hear(HandshakeDone, session)
    assert not facts.remote_verified
    assert facts.remote_sha256 == hashlib.sha256(chain[0].der).digest()
    remote.result()


def test_trust_is_by_generation_side_and_anchor(worker, files):
    """A new generation counts for later sessions; an anchor may be for one side only, and need be no root."""
    chain_file = files(certs.leaf("www.example.com"), certs.intermediate())

    def outcome():
        session, remote = connect(worker, server(chain_file), remote_name="www.example.com")
        said = worker.hear((HandshakeDone, HandshakeFailed), session)
        with contextlib.suppress(ssl.SSLError):
            remote.result()
        return getattr(said, "code", 0)

    assert outcome() == 0
    worker.trust()
    assert outcome() == Code.CHAIN_UNTRUSTED
    worker.trust(certs.root(), for_sides=2)
    assert outcome() == Code.CHAIN_UNTRUSTED
    worker.trust(certs.intermediate(), for_sides=1)
    assert outcome() == 0
    worker.trust(certs.root())


# --- remotes that speak no TLS, or share nothing -----------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code", "detail"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", Code.REMOTE_NOT_TLS, "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Code.REMOTE_NOT_TLS, "SSH"),
        (b"\x80\x2e\x01\x00\x02" + bytes(60), Code.REMOTE_NOT_TLS, "SSLv2"),
        (b"", Code.REMOTE_CLOSED, ""),
        (b"\x16\x03\x01", Code.REMOTE_CLOSED, ""),
        (b"\x16\x03\x01\x00\x10" + bytes(16), Code.REMOTE_PROTOCOL, "handshake message 0"),
        (b"\x15\x03\x03\x00\x02\x02\x28", Code.REMOTE_ALERT, "alert 40"),
    ],
)
def test_clients_that_speak_no_tls(worker, data, code, detail):
    ours, theirs = tcp_pair()
    session = worker.start(theirs, Side.SERVER)
    with ours:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        failed = worker.hear(HandshakeFailed, session)
        assert failed.code == code
        assert detail in failed.detail
        until_end(ours)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"220 mail.example.com ESMTP\r\n", Code.REMOTE_NOT_TLS),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Code.REMOTE_NOT_TLS),
        (b"", Code.REMOTE_CLOSED),
        (b"\x16\x03\x03\x00\x10\x63\x00\x00\x0c" + bytes(12), Code.REMOTE_PROTOCOL),
        (b"\x15\x03\x03\x00\x02\x02\x46", Code.REMOTE_ALERT),
    ],
)
def test_servers_that_speak_no_tls(worker, data, code):
    ours, theirs = tcp_pair()
    session = worker.start(theirs, Side.CLIENT, remote_name="www.example.com")
    worker.proceed(session)
    with ours:
        assert ours.recv(3) == b"\x16\x03\x01"
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        failed = worker.hear(HandshakeFailed, session)
        assert failed.code == code
        assert code != Code.REMOTE_ALERT or failed.alert == 70


def test_a_reset_in_the_handshake(worker):
    ours, theirs = tcp_pair()
    session = worker.start(theirs, Side.SERVER)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ours.close()
    assert worker.hear(HandshakeFailed, session).code == Code.REMOTE_RESET


@pytest.mark.parametrize(
    ("fields", "version", "text"),
    [
        ({"tls_min": 0x0304}, "1.2", "PROTOCOL_VERSION"),
        ({"tls_max": 0x0303}, "1.3", "PROTOCOL_VERSION"),
        ({"ciphers_tls12": "ECDHE-RSA-AES128-GCM-SHA256"}, "1.2", "HANDSHAKE_FAILURE"),
        ({"groups": "ffdhe2048"}, "1.2", "HANDSHAKE_FAILURE"),
        ({"sigalgs": "rsa_pss_rsae_sha256"}, "1.3", "HANDSHAKE_FAILURE|PROTOCOL_VERSION"),
    ],
)
def test_nothing_shared(worker, fields, version, text):
    session, remote = serve(worker, client(version), **fields)
    failed = worker.hear(HandshakeFailed, session)
    assert failed.code == Code.NOTHING_SHARED, failed
    with pytest.raises(ssl.SSLError, match=text):
        remote.result()


@pytest.mark.parametrize("field", ["groups", "ciphers_tls12", "ciphersuites_tls13", "sigalgs"])
def test_lists_that_openssl_does_not_take(worker, field):
    session, remote = serve(worker, client(), **{field: "nonsense"})
    failed = worker.hear(HandshakeFailed, session)
    assert failed.code == Code.SETTING_INVALID
    assert "nonsense" in failed.detail
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        remote.result()


@BOTH
def test_an_alert_of_the_remote(worker, version):
    """Our certificate is not to the client's liking."""
    stranger = certs.make("Stranger", ca=True, number=200)

    def run(sock):
        with context(Side.CLIENT, version, ca=stranger).wrap_socket(sock, server_hostname=NAME):
            pass

    session, remote = serve(worker, run)
    failed = worker.hear(HandshakeFailed, session)
    assert (failed.code, failed.alert) == (Code.REMOTE_ALERT, 48)
    with pytest.raises(ssl.SSLCertVerificationError):
        remote.result()


def test_a_client_certificate_that_is_refused_after_our_finished(worker, files):
    """In TLS 1.3 a client is done before the server has judged: the alert comes later."""
    stranger = certs.make("Stranger", ca=True, number=200)

    def run(sock):
        made = context(Side.SERVER, chain_file=files(certs.leaf("www.example.com"), certs.intermediate()))
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(cadata=stranger.der)
        with made.wrap_socket(sock, server_side=True):
            pass

    session, remote = connect(worker, run, credential="p256", remote_name="www.example.com")
    worker.hear(HandshakeDone, session)
    ended = worker.ended(session)
    assert ended.reason is EndReason.REMOTE_ALERT
    assert "alert 48" in ended.detail
    with pytest.raises(ssl.SSLError):
        remote.result()
