"""A real worker whose broker has the last word on the remote, in the middle of the handshake."""

import signal
import socket
import ssl
import time

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_remotes import NAME, VERSIONS, client, connect, context, converse, echo, serve, server
from tests.fixtures.lone_worker import LoneWorker
from tlspool_common.errors import Code
from tlspool_common.messages import (
    EndReason,
    HandshakeDone,
    HandshakeFailed,
    RemoteAuth,
    RemoteShown,
    Side,
    Verdict,
)
from tlspool_worker.exits import Exit

BOTH = pytest.mark.parametrize("version", VERSIONS)


def judge(worker, session, code=Code.OK):
    worker.channel.send(Verdict(session_id=session, code=int(code), detail="because"))


def to_server(worker, files, version="1.3", then=echo, **fields):
    leaf = certs.intermediate().issue("www.example.com", usage=("server",))
    remote = server(files(leaf, certs.intermediate()), version, then=then)
    return (*connect(worker, remote, asks=True, **fields), leaf)


@BOTH
def test_a_server_is_accepted(worker, files, version):
    session, remote, leaf = to_server(worker, files, version, wants_staple=True, tells_chain=True)
    shown = worker.hear(RemoteShown, session)
    assert shown.names == ("dns:www.example.com",)
    assert shown.chain[0] == leaf.der
    assert not shown.fault
    judge(worker, session)
    facts = worker.hear(HandshakeDone, session)
    assert facts.remote_verified
    assert facts.remote_sha256 == shown.leaf_sha256
    with worker.plain(session) as plain:
        assert plain.recv(10) == b"ping"
        plain.sendall(b"pong")
        assert plain.recv(10) == b""
    remote.result()
    worker.ended(session)


@BOTH
def test_a_server_is_refused(worker, files, version):
    session, remote, _ = to_server(worker, files, version)
    worker.hear(RemoteShown, session)
    judge(worker, session, Code.REVOKED)
    failed = worker.hear(HandshakeFailed, session)
    assert (failed.code, failed.alert, failed.detail) == (Code.REVOKED, 44, "because")
    with pytest.raises(ssl.SSLError, match="REVOKED"):
        remote.result()


@BOTH
@pytest.mark.parametrize("code", [Code.OK, Code.VALIDATION_FAILED])
def test_a_client(worker, files, version, code):
    """One whose authority nobody knows: that alone is no reason any more."""
    path = files(certs.make("john@example.com", number=120))
    alert = []

    def then(tls):
        try:
            echo(tls)
        except ssl.SSLError as error:
            alert.append(error.reason)

    def run(sock):
        with context(Side.CLIENT, version, path).wrap_socket(sock, server_hostname=NAME) as tls:
            then(tls)

    session, remote = serve(worker, run, asks=True, remote_auth=RemoteAuth.REQUIRE)
    shown = worker.hear(RemoteShown, session)
    assert shown.self_signed
    assert Code(shown.fault) is Code.SELF_SIGNED
    judge(worker, session, code)
    if code:
        assert worker.hear(HandshakeFailed, session).code == code
        try:
            remote.result()
        except ssl.SSLError as error:  # TLS 1.2 says it in the handshake
            alert.append(error.reason)
        assert "CERTIFICATE_UNKNOWN" in alert[0]
        return
    assert worker.hear(HandshakeDone, session).remote_verified
    with worker.plain(session) as plain:
        assert plain.recv(10) == b"ping"
        plain.sendall(b"pong")
    remote.result()
    worker.ended(session)


def test_others_are_not_delayed(lone_keyd, tmp_path, files):
    """One thread for handshakes, and five that wait for a verdict."""
    with LoneWorker(lone_keyd, tmp_path / "own", "handshake_threads", "1") as own:
        waiting = [to_server(own, files)[:2] for _ in range(5)]
        for session, _ in waiting:
            own.hear(RemoteShown, session)
        converse(own)
        for session, _ in reversed(waiting):
            judge(own, session, Code.PIN_UNMATCHED)
        for session, remote in waiting:
            assert own.hear(HandshakeFailed, session).code == Code.PIN_UNMATCHED
            with pytest.raises(ssl.SSLError):
                remote.result()


def test_the_session_is_ended_meanwhile(worker, files):
    session, remote, _ = to_server(worker, files)
    worker.hear(RemoteShown, session)
    worker.end(session)
    assert worker.ended(session).reason is EndReason.ORDERED
    judge(worker, session)  # crosses that
    with pytest.raises((ssl.SSLError, OSError)):
        remote.result()
    session, remote = serve(worker, client(then=echo))
    worker.hear(HandshakeDone, session)
    worker.end(session)
    worker.ended(session)
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        remote.result()


@pytest.mark.parametrize("how", ["broker", "SIGTERM"])
def test_the_worker_ends_meanwhile(lone_keyd, tmp_path, files, how):
    with LoneWorker(lone_keyd, tmp_path / "own") as own:
        remotes = []
        for _ in range(3):
            session, remote, _ = to_server(own, files)
            own.hear(RemoteShown, session)
            remotes.append(remote)
        begun_s = time.monotonic()
        if how == "broker":
            own.channel.close()
        else:
            own.signal(signal.SIGTERM)
        assert own.wait() == Exit.OK
        assert time.monotonic() - begun_s < 10  # nobody has waited for a verdict
        for remote in remotes:
            with pytest.raises((ssl.SSLError, OSError)):
                remote.result()


@pytest.mark.parametrize("when", ["twice", "unasked"])
def test_a_verdict_out_of_place_breaks_the_table(lone_keyd, tmp_path, files, when):
    with LoneWorker(lone_keyd, tmp_path / "own") as own:
        if when == "twice":
            session, remote, _ = to_server(own, files, then=lambda tls: tls.recv(1))
            own.hear(RemoteShown, session)
            judge(own, session)
            own.hear(HandshakeDone, session)
        else:
            session, remote = serve(own, client(then=lambda tls: tls.recv(1)))
            own.hear(HandshakeDone, session)
        judge(own, session)
        own.hears_the_end()
        assert own.wait() == Exit.CHANNEL_BROKEN
        with pytest.raises((ssl.SSLError, OSError, AssertionError)) as ended:
            assert remote.result() != b""
        assert not isinstance(ended.value, socket.timeout)
