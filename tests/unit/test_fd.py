"""One owner, one close."""

import os
import socket
import struct
import time
from contextlib import suppress

import pytest

from tlspool_common.fd import OwnedFd, shut_down


def test_closed_once_and_only_by_its_owner():
    read_fd, write_fd = os.pipe()
    with OwnedFd(read_fd) as owned:
        assert owned.fileno() == read_fd
    owned.close()
    with pytest.raises(OSError):
        os.fstat(read_fd)
    with pytest.raises(ValueError):
        owned.fileno()
    owner = OwnedFd(write_fd)
    assert owner.detach() == write_fd
    assert owner.closed
    del owner
    os.close(write_fd)


def test_dropped_means_closed():
    read_fd, write_fd = os.pipe()
    owned = OwnedFd(read_fd)
    del owned
    with pytest.raises(OSError):
        os.fstat(read_fd)
    os.close(write_fd)


def test_a_received_socket_that_was_told_to_linger_does_not_hold_us_up():
    """With unsent data, close(2) of the last copy would wait for 30 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    owned = OwnedFd(ours.detach(), received=True)
    begun = time.monotonic()
    owned.close()
    assert time.monotonic() - begun < 10
    theirs.close()


def test_what_is_no_socket_is_closed_too():
    read_fd, write_fd = os.pipe()
    OwnedFd(read_fd, received=True).close()
    OwnedFd(write_fd, received=True).close()
    for fd in (read_fd, write_fd):
        with pytest.raises(OSError):
            os.fstat(fd)


def test_what_is_shut_down_has_ended_for_all_copies():
    ours, theirs = socket.socketpair()
    copy = ours.dup()
    with theirs, copy, OwnedFd(ours.detach()) as owned:
        shut_down(owned)
        assert theirs.recv(1) == b""
        assert not owned.closed
    with socket.socket() as unconnected, OwnedFd(unconnected.detach()) as owned:
        shut_down(owned)
    read_fd, write_fd = os.pipe()
    with OwnedFd(read_fd) as owned, OwnedFd(write_fd):
        shut_down(owned)
