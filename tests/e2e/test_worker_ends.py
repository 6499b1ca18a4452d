"""How sessions and workers end when others want it, or break their promises."""

import os
import signal
import socket
import ssl

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_remotes import NAME, VERSIONS, client, echo, relaying, serve, until_end
from tests.fixtures.lone_worker import WORKER_ID, Background, LoneWorker, tcp_pair
from tlspool_common.messages import (
    ClientHelloSeen,
    EndReason,
    HandshakeDone,
    HandshakeFailed,
    PlainConnected,
    Side,
    TrustAnchor,
)
from tlspool_worker.exits import Exit

BOTH = pytest.mark.parametrize("version", VERSIONS)


def test_an_alert_instead_of_an_answer(worker):
    ours, theirs = tcp_pair()
    copy = theirs.dup()  # as an application may hold one
    session = worker.start(theirs, Side.SERVER)
    remote = Background(client(), ours)
    worker.hear(ClientHelloSeen, session)
    worker.end(session, 112)
    assert worker.ended(session).reason is EndReason.ORDERED
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        remote.result()
    copy.close()


def test_an_end_without_alert_is_seen_though_the_application_has_a_copy(worker):
    ours, theirs = tcp_pair()
    copy = theirs.dup()
    with ours, copy:
        session = worker.start(theirs, Side.SERVER)
        worker.end(session)
        worker.ended(session)
        assert ours.recv(1) == b""


def test_an_end_while_a_signature_is_awaited(worker):
    session, remote = serve(worker, client(), manner="slow 300")
    worker.end(session, 80)
    assert worker.ended(session).reason is EndReason.ORDERED
    with pytest.raises((ssl.SSLError, OSError)):
        remote.result()


def test_an_end_of_a_relay(worker):
    session, plain, remote = relaying(worker, lambda tls: (tls.sendall(b"abc"), until_end(tls)))
    with plain:
        assert plain.recv(10) == b"abc"
        worker.end(session)
        ended = worker.ended(session)
        assert ended.reason is EndReason.ORDERED
        assert ended.from_remote_b == 3
        assert plain.recv(1) == b""
    remote.result()


def test_messages_that_cross_an_end_are_dropped(worker):
    ours, theirs = tcp_pair()
    ours.close()
    session = worker.start(theirs, Side.SERVER)
    worker.hear(HandshakeFailed, session)
    worker.credential(session, certs.leaf(NAME))
    worker.proceed(session)
    worker.end(session)
    worker.plain(session).close()
    before = worker.fds()
    session, remote = serve(worker, client(then=echo))
    worker.hear(HandshakeDone, session)
    worker.end(session)
    worker.ended(session)
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        remote.result()
    assert worker.settled(before) <= before


def test_a_broker_that_goes_away(lone_keyd, tmp_path):
    """What relays goes on to its end; what shakes hands fails; then the worker ends."""
    with LoneWorker(lone_keyd, tmp_path / "other") as own:
        _, plain, remote = relaying(own, echo)
        _, waiting = serve(own, client(), manner="slow 200")
        ours, theirs = tcp_pair()
        own.start(theirs, Side.SERVER)
        own.channel.close()
        with pytest.raises((ssl.SSLError, OSError)):
            waiting.result()
        with ours:
            assert ours.recv(1) == b""
        with plain:
            assert plain.recv(10) == b"ping"
            plain.sendall(b"pong")
            assert plain.recv(10) == b""
        remote.result()
        assert own.wait() == Exit.OK


def test_retirement(lone_keyd, tmp_path):
    with LoneWorker(lone_keyd, tmp_path / "log") as own:
        session, plain, remote = relaying(own, echo)
        own.signal(signal.SIGHUP)
        with plain:
            assert plain.recv(10) == b"ping"
            plain.sendall(b"pong")
        remote.result()
        assert own.ended(session).reason is EndReason.CLEAN
        own.hears_the_end()
        assert own.wait() == Exit.OK
    with LoneWorker(lone_keyd, tmp_path / "log") as own:
        session, remote = serve(own, client(then=until_end))
        own.hear(HandshakeDone, session)
        own.end(session)
        own.ended(session)
        own.signal(signal.SIGHUP)
        assert own.wait() == Exit.OK
        remote.result()


def test_termination(lone_keyd, tmp_path):
    with LoneWorker(lone_keyd, tmp_path / "log") as own:
        session, plain, remote = relaying(own, until_end)
        own.signal(signal.SIGTERM)
        assert remote.result() == b""  # a clean end: ssl would raise otherwise
        assert own.ended(session).reason is EndReason.ORDERED
        assert own.wait() == Exit.OK
        plain.close()


@pytest.mark.parametrize(
    "case",
    [
        "garbage", "credential for nobody", "plaintext for nobody", "anchor of an old generation", "unknown trust",
        "session twice", "proceed twice", "foreign keys",
    ],
)  # fmt: skip
def test_a_broker_that_breaks_the_table(lone_keyd, tmp_path, case):
    from tlspool_common.fd import OwnedFd
    from tlspool_common.messages import UseKeyChannel

    with LoneWorker(lone_keyd, tmp_path / "log") as own:
        match case:
            case "garbage":
                own.channel._sock.send(b"\0\x99garbage")
            case "credential for nobody":
                own.credential(77, certs.leaf(NAME))
            case "plaintext for nobody":
                ours, theirs = socket.socketpair()
                own.channel.send(PlainConnected(session_id=5), fd=OwnedFd(theirs.detach()))
                assert ours.recv(1) == b""
                ours.close()
            case "anchor of an old generation":
                own.trust()
                own.channel.send(TrustAnchor(generation=1, for_sides=3, certificate=certs.root().der))
            case "unknown trust":
                ours, theirs = tcp_pair()
                own.start(theirs, Side.SERVER, trust_generation=99)
                assert ours.recv(1) == b""
                ours.close()
            case "session twice":
                for _ in range(2):
                    ours, theirs = tcp_pair()
                    own.start(theirs, Side.SERVER, session_id=1)
                    own.sessions = 0
                    ours.close()
            case "proceed twice":
                ours, theirs = tcp_pair()
                session = own.start(theirs, Side.CLIENT)
                own.proceed(session)
                own.proceed(session)
                until_end(ours)
                ours.close()
            case "foreign keys":
                own.channel.send(UseKeyChannel(worker_id=WORKER_ID + 1), fd=OwnedFd(os.dup(lone_keyd.channel_fd)))
        own.hears_the_end()
        assert own.wait() == Exit.CHANNEL_BROKEN
        assert "event=broker.broken" in own.log.read_text()
