"""What precedes TLS in a tunnel's loop, against a pool that speaks V2 only.

The stories of each protocol are in tests/playbook/test_preambles.py.
"""

import contextlib
import socket
import struct
import time

import pytest

from tests.fixtures.fake_pool import answer, error
from tests.fixtures.tunnels import WAIT_S, Speaker, client, failures, server
from tlspool_admin import endpoints, loop
from tlspool_common.appwire import Cmd


@pytest.fixture
def speaker():
    made = []

    def make(*answers):
        made.append(Speaker(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_client_agrees_and_greets(run, fake, speaker):
    backend = speaker(b"+OK hi\r\n", b"+OK go\r\n")
    with client(run, backend.address, "--protocol", "pop3").connect() as sock:
        # The pool here says at once that the remote has proved who it is; a real one says it after the handshake.
        assert sock.recv(100) == b"+OK www.example.com\r\n"
        sock.sendall(b"LIST\r\n")


def test_nothing_is_asked_before_the_agreement(run, fake, speaker, noted):
    backend = speaker(b"+OK hi\r\n", b"-ERR no\r\n")
    assert client(run, backend.address, "--protocol", "pop3").converse() == b""
    assert "STLS was answered with" in failures(noted, 1)
    assert noted.of("tunnel.failed")[0].startswith("WARNING")
    assert not fake.seen


def test_a_server_agrees_when_its_backend_has_spoken(run, fake, speaker):
    backend = speaker(b"+OK hi\r\n", b"-ERR what\r\n")
    with server(run, backend.address, "--protocol", "pop3").connect() as sock:
        assert sock.recv(100) == b"+OK hi\r\n"
        sock.sendall(b"STLS\r\n")
        assert sock.recv(100) == b"+OK Begin TLS\r\n"
        sock.sendall(b"CAPA\r\n")
        assert sock.recv(100) == b"CAPA\r\n"
    assert fake.connections == 1


def test_a_backend_that_is_away_while_a_client_talks(run, fake, noted, monkeypatch):
    monkeypatch.setattr(loop, "TICK_S", 0.05)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            words = ["--protocol", "postgres", "--connect-timeout", "0.1"]
            with server(run, endpoints.shown(full.getsockname()), *words).connect() as sock:
                assert sock.recv(1) == b""
    assert "timed out" in failures(noted, 1)
    assert not fake.seen


def test_a_talk_that_takes_too_long(run, fake, backend, noted, monkeypatch):
    monkeypatch.setattr(loop, "TICK_S", 0.02)
    running = server(run, backend.address, "--protocol", "xmpp", "--protocol-timeout", "0.1")
    with running.connect() as sock:
        assert sock.recv(1) == b""
    assert "INFO event=tunnel.failed" in failures(noted, 1)
    assert "took too long" in noted.of("tunnel.failed")[0]
    assert not running.tunnel._talks


def test_a_talk_ends_with_the_tunnel(run, fake, backend):
    running = server(run, backend.address, "--protocol", "xmpp")
    with running.connect() as sock:
        deadline = time.monotonic() + WAIT_S
        while not running.tunnel._talks:
            assert time.monotonic() < deadline
        running.stop()
        assert sock.recv(1) == b""


def test_an_application_that_left_before_it_was_greeted(run, fake, speaker, noted):
    kept = []
    fake.on[Cmd.STARTTLS] = lambda peer, asked: kept.append((peer, asked))
    running = client(run, speaker(b"+OK hi\r\n", b"+OK go\r\n").address, "--protocol", "pop3")
    with running.connect() as sock:
        fake.await_change(lambda: len(kept) == 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answer(*kept[0])
    assert "the side without TLS is gone" in failures(noted, 1)


def test_where_a_connection_comes_from(run, fake, backend, noted):
    running = server(run, backend.address, "--accept-proxy", "--send-proxy", "v1")
    with running.connect() as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 50412 443\r\nhello")
        text = b""
        while not text.endswith(b"hello"):
            text += sock.recv(100)
    assert text == b"PROXY TCP4 192.0.2.7 198.51.100.1 50412 443\r\nhello"
    fake.on[Cmd.STARTTLS] = lambda peer, asked: (asked.drop(), peer.send(error(asked.frame, "[402] no anchor")))
    with running.connect() as sock:
        sock.sendall(b"PROXY TCP6 2001:db8::7 2001:db8::1 50412 443\r\nhello")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    assert "remote=[2001:db8::7]:50412" in failures(noted, 1)
