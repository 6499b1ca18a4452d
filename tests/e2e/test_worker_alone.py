"""A real worker without a pool shakes hands: the test is its broker and its key daemon, ssl is the remote."""

import hashlib
import socket
import ssl
import time

import pytest

from tests.fixtures import certs
from tests.fixtures.fake_keyd import FakeKeyd
from tests.fixtures.lone_remotes import (
    NAME,
    VERSIONS,
    client,
    connect,
    context,
    converse,
    echo,
    serve,
    server,
    until_end,
)
from tests.fixtures.lone_worker import Background, LoneWorker, tcp_pair
from tlspool_common.errors import Code
from tlspool_common.messages import (
    ClientHelloSeen,
    EndReason,
    HandshakeDone,
    HandshakeFailed,
    Side,
)

BOTH = pytest.mark.parametrize("version", VERSIONS)


@BOTH
@pytest.mark.parametrize("kind", certs.KINDS)
def test_server(worker, kind, version):
    session, remote = serve(worker, client(version, then=echo), kind=kind)
    facts = worker.hear(HandshakeDone, session)
    assert facts.tls_version == {"1.2": 0x0303, "1.3": 0x0304}[version]
    assert facts.sni == NAME
    assert facts.group.lower() == "x25519"
    assert facts.cipher
    assert not facts.remote_verified
    assert facts.remote_sha256 == b""
    with worker.plain(session) as plain:
        assert plain.recv(100) == b"ping"
        plain.sendall(b"pong")
        assert plain.recv(100) == b""
    remote.result()
    ended = worker.ended(session)
    assert (ended.reason, ended.from_remote_b, ended.to_remote_b) == (EndReason.CLEAN, 4, 4)


@BOTH
@pytest.mark.parametrize("credential", ["", *certs.KINDS])
def test_client(worker, files, credential, version):
    leaf = certs.intermediate().issue("www.example.com", usage=("server",))
    verify = ssl.CERT_REQUIRED if credential else None
    session, remote = connect(
        worker,
        server(
            files(leaf, certs.intermediate()), version, verify=verify, then=lambda tls: (tls.getpeercert(), echo(tls))
        ),
        credential=credential,
        sni="www.example.com",
        remote_name="www.example.com",
    )
    facts = worker.hear(HandshakeDone, session)
    assert facts.remote_verified
    assert facts.remote_names == ("dns:www.example.com",)
    assert facts.remote_subject == "CN=www.example.com"
    assert facts.remote_sha256 == hashlib.sha256(leaf.der).digest()
    with worker.plain(session) as plain:
        assert plain.recv(100) == b"ping"
        plain.sendall(b"pong")
        assert plain.recv(100) == b""
    shown, _ = remote.result()
    assert bool(shown) == bool(credential)
    assert worker.ended(session).reason is EndReason.CLEAN


@BOTH
def test_unix_sockets_are_as_good(worker, version):
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    session = worker.start(theirs, Side.SERVER)
    remote = Background(client(version, then=echo), ours)
    worker.hear(ClientHelloSeen, session)
    worker.credential(session, certs.leaf(NAME))
    worker.proceed(session)
    worker.hear(HandshakeDone, session)
    with worker.plain(session) as plain:
        assert plain.recv(100) == b"ping"
        plain.sendall(b"pong")
    remote.result()
    assert worker.ended(session).reason is EndReason.CLEAN


def test_two_workers_agree_on_the_hybrid_group(worker):
    one, other = tcp_pair()
    other.settimeout(None)
    server_session = worker.start(one, Side.SERVER)
    client_session = worker.start(other, Side.CLIENT, sni=NAME, remote_name=NAME)
    worker.proceed(client_session)
    worker.hear(ClientHelloSeen, server_session)
    worker.credential(server_session, certs.leaf(NAME))
    worker.proceed(server_session)
    facts = [worker.hear(HandshakeDone, session) for session in (server_session, client_session)]
    assert {one.group for one in facts} == {"X25519MLKEM768"}
    with worker.plain(server_session) as here, worker.plain(client_session) as there:
        here.sendall(b"x" * 100_000)
        here.shutdown(socket.SHUT_WR)
        assert len(until_end(there)) == 100_000
        there.sendall(b"done")
        there.shutdown(socket.SHUT_WR)
        assert until_end(here) == b"done"
    for session in (server_session, client_session):
        assert worker.ended(session).reason is EndReason.CLEAN


def test_rsa_beside_ecdsa(worker):
    """The chain that fits what the client can verify is shown."""
    for sigalgs, issuer_kind in (("ECDSA+SHA256", "p256"), ("rsa_pss_rsae_sha256:ECDSA+SHA256", "rsa")):
        ours, theirs = tcp_pair()
        session = worker.start(theirs, Side.SERVER, sigalgs=sigalgs)
        remote = Background(client(then=lambda tls: tls.getpeercert(True)), ours)
        worker.hear(ClientHelloSeen, session)
        for kind in ("rsa", "p256"):
            worker.credential(session, certs.leaf(NAME, kind), kind)
        worker.proceed(session)
        worker.hear(HandshakeDone, session)
        assert remote.result() == certs.leaf(NAME, issuer_kind).der
        worker.end(session)
        worker.ended(session)


@BOTH
def test_alpn(worker, version):
    session, remote = serve(
        worker,
        client(version, alpn=["http/1.1", "h2"], then=lambda tls: tls.selected_alpn_protocol()),
        alpn=b"\2h2\7foo/1.0",
    )
    assert worker.hear(HandshakeDone, session).alpn == b"h2"
    assert remote.result() == "h2"
    worker.ended(session)
    session, remote = serve(worker, client(version, alpn=["imap"]), alpn=b"\2h2")
    failed = worker.hear(HandshakeFailed, session)
    assert (failed.code, failed.alert) == (Code.NOTHING_SHARED, 120)
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        remote.result()


def test_alpn_as_client(worker, files):
    leaf = certs.leaf("www.example.com")

    def run(sock):
        made = context(Side.SERVER, chain_file=files(leaf, certs.intermediate()))
        made.set_alpn_protocols(["h2"])
        with made.wrap_socket(sock, server_side=True) as tls:
            return tls.selected_alpn_protocol()

    session, remote = connect(worker, run, remote_name="www.example.com", alpn=b"\7foo/1.0\2h2")
    assert worker.hear(HandshakeDone, session).alpn == b"h2"
    assert remote.result() == "h2"


def test_hello_retry(worker, lone_keyd):
    """A server that insists on another group signs in its second step."""
    before = len(lone_keyd.requests)
    session, remote = serve(worker, client(), groups="P-384")
    assert worker.hear(HandshakeDone, session).group.lower() in ("secp384r1", "p-384")
    assert remote.result() == "TLSv1.3"
    assert len(lone_keyd.requests) == before + 1


@BOTH
@pytest.mark.parametrize(
    ("manner", "code"),
    [
        ("refuse 501", Code.KEY_NOT_FOUND),
        ("refuse 508", Code.TOKEN_GONE),
        ("refuse 512", Code.GRANT_REFUSED),
        ("hangup", Code.KEYD_UNREACHABLE),
    ],
)
def test_keyd_refuses(worker, manner, code, version):
    session, remote = serve(worker, client(version), manner=manner)
    failed = worker.hear(HandshakeFailed, session)
    assert (failed.code, failed.alert) == (code, 80)
    with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
        remote.result()


def test_a_key_of_another_kind_than_the_chain(worker):
    ours, theirs = tcp_pair()
    session = worker.start(theirs, Side.SERVER)
    remote = Background(client(), ours)
    worker.hear(ClientHelloSeen, session)
    worker.credential(session, certs.leaf(NAME, "rsa"), "p256")
    worker.proceed(session)
    assert worker.hear(HandshakeFailed, session).code == Code.SCHEME_REFUSED
    with pytest.raises(ssl.SSLError, match="internal error"):
        remote.result()


def test_no_key_channel(tmp_path):
    with LoneWorker(None, tmp_path / "log") as own:
        session, remote = serve(own, client())
        assert own.hear(HandshakeFailed, session).code == Code.KEYD_UNREACHABLE
        with pytest.raises(ssl.SSLError, match="internal error"):
            remote.result()


def test_a_slow_signature_delays_nobody(worker):
    slow = [serve(worker, client(then=lambda tls: tls.recv(1)), manner="slow 1500") for _ in range(8)]
    begun = time.monotonic()
    converse(worker)
    assert time.monotonic() - begun < 1.2
    for session, _ in slow:
        worker.hear(HandshakeDone, session)
    assert time.monotonic() - begun < 6  # one after the other they take 12 s
    for session, remote in slow:
        worker.end(session)
        assert worker.ended(session).reason is EndReason.ORDERED
        assert remote.result() == b""


def test_a_new_key_channel(worker, lone_keyd):
    """A new keyd serves later handshakes, while the old one finishes what it has."""
    before = worker.settled(0, 1)
    with FakeKeyd(lone_keyd.keys) as other:
        session, remote = serve(worker, client(), manner="slow 300")
        worker.use_keyd(other)
        second, second_remote = serve(worker, client())
        worker.hear(HandshakeDone, second)
        worker.hear(HandshakeDone, session)
        assert len(other.requests) == 1
        remote.result()
        second_remote.result()
        worker.use_keyd(lone_keyd)
    for number in (session, second):
        worker.ended(number)
    assert worker.settled(before) <= before  # the channels that are not used any more are closed
