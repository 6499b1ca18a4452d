"""The remote reads our last words although it had more to say, and no socket is kept for ever."""

import contextlib
import select
import socket
import struct
import time

import pytest

from tests.fixtures.lone_worker import tcp_pair
from tlspool_worker import lingering
from tlspool_worker.lingering import LINGER_S, Lingering
from tlspool_worker.poller import Poller

LONG_S = 8
LONG = struct.pack("ii", 1, LONG_S)


@pytest.fixture
def made(no_leaks):
    poller = Poller()
    found = Lingering(poller)
    yield found, poller
    found.close()
    poller.close()


def pair():
    ours, theirs = tcp_pair()
    theirs.setblocking(False)
    return ours, theirs


def fill(sock):
    """Send more than the remote takes without reading; return how much."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    return sent


def test_a_remote_that_has_closed_is_let_go_at_once(made):
    found, _ = made
    remote, sock = pair()
    with remote:
        remote.shutdown(socket.SHUT_WR)
        select.select([sock], [], [], 5)
        found.add(sock, 0.0)
        assert len(found) == 0
        assert remote.recv(10) == b""


def test_last_words_are_read_although_more_comes(made):
    """Without lingering the kernel answers with a reset, which throws the last words away."""
    found, poller = made
    remote, sock = pair()
    with remote:
        remote.sendall(b"more" * 1000)
        sock.send(b"last words")
        found.add(sock, 0.0)
        assert len(found) == 1
        remote.sendall(b"and more" * 1000)
        poller.run_once(5)
        assert remote.recv(100) == b"last words"
        assert remote.recv(100) == b""
        remote.sendall(b"and still more")
        remote.shutdown(socket.SHUT_WR)
        while len(found):
            poller.run_once(5)


def test_time_is_up(made):
    found, _ = made
    remote, sock = pair()
    with remote:
        found.add(sock, 100.0)
        found.tick(100.0 + LINGER_S / 2)
        assert len(found) == 1
        found.tick(100.0 + LINGER_S)
        assert len(found) == 0
        assert remote.recv(1) == b""


def test_a_remote_that_still_reads_gets_more_time(made):
    found, _ = made
    remote, sock = pair()
    with remote:
        sent = fill(sock)
        found.add(sock, 0.0)
        got = len(remote.recv(1 << 20, socket.MSG_WAITALL))
        found.tick(LINGER_S)
        assert len(found) == 1
        found.tick(2 * LINGER_S)  # it has not read since
        assert len(found) == 0
        while part := remote.recv(1 << 20):
            got += len(part)
        assert got == sent  # the kernel goes on by itself


def test_no_more_than_so_many(made, monkeypatch):
    monkeypatch.setattr(lingering, "MOST", 3)
    found, _ = made
    remotes = []
    for _ in range(5):
        remote, sock = pair()
        remotes.append(remote)
        found.add(sock, 0.0)
    assert len(found) == 3
    assert [remote.recv(1) for remote in remotes[:2]] == [b"", b""]
    for remote in remotes:
        remote.close()


def test_a_copy_of_the_socket_does_not_keep_it_open(made):
    found, _ = made
    remote, sock = pair()
    with remote, sock.dup():
        found.add(sock, 0.0)
        found.tick(LINGER_S)
        assert remote.recv(1) == b""


def test_nothing_blocks_although_a_copy_of_the_socket_was_made_blocking(made):
    found, _ = made
    remote, sock = pair()
    with remote, sock.dup() as copy:
        copy.setblocking(True)
        found.add(sock, 0.0)
        assert len(found) == 1


def test_closing_does_not_wait_although_a_copy_of_the_socket_was_told_to_linger(made):
    found, _ = made
    remote, sock = pair()
    with remote:
        fill(sock)
        with sock.dup() as copy:
            found.add(sock, 0.0)
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LONG)
        began_s = time.monotonic()
        found.tick(LINGER_S)
        assert len(found) == 0
        assert time.monotonic() - began_s < LONG_S / 2
