"""Sockets that are done with, until the remote has seen the end.

A TCP socket that is closed with unread bytes, or that receives some afterwards, is reset by the kernel; and a
reset throws away what the remote has not read yet: our last data, or the alert that says why.  So the sending
half is shut, and what still comes is read and dropped, until the remote has closed too or the time is up.
"""

from __future__ import annotations

import fcntl
import socket
import termios
from contextlib import suppress

from tlspool_common.fd import NO_LINGER
from tlspool_worker.poller import IN, Poller

LINGER_S = 2.0
"""Time for a remote to read and to close.  As long again for as long as it goes on reading (SIOCOUTQ)."""

MOST = 1024
"""Sockets at once; with more the oldest is closed: a flood of failing handshakes must not hold descriptors."""

_ROUNDS = 16
_ROUND_B = 65536


class Lingering:
    """All such sockets of a worker."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._waiting: dict[int, tuple[socket.socket, float, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sock: socket.socket, now_s: float) -> None:
        """Take a socket, which must not be watched any more.  Its sending half is shut."""
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        if self._drained(sock):
            close_now(sock)
            return
        while len(self._waiting) >= MOST:
            self._end(next(iter(self._waiting)))
        fd = sock.fileno()
        self._waiting[fd] = (sock, now_s + LINGER_S, _unsent(sock))
        self._poller.watch(fd, IN, lambda _events: self._ready(fd))

    def tick(self, now_s: float) -> None:
        """Close those whose time is up."""
        for fd, (sock, deadline_s, unsent_b) in list(self._waiting.items()):
            if now_s < deadline_s:
                continue
            left_b = _unsent(sock)
            if 0 < left_b < unsent_b:
                self._waiting[fd] = (sock, now_s + LINGER_S, left_b)
            else:
                self._end(fd)

    def close(self) -> None:
        """Close all."""
        for fd in list(self._waiting):
            self._end(fd)

    def _ready(self, fd: int) -> None:
        if self._drained(self._waiting[fd][0]):
            self._end(fd)

    def _end(self, fd: int) -> None:
        sock, _, _ = self._waiting.pop(fd)
        self._poller.forget(fd)
        close_now(sock)

    @staticmethod
    def _drained(sock: socket.socket) -> bool:
        """Drop what has come; say whether the remote has closed."""
        try:
            for _ in range(_ROUNDS):
                if not sock.recv(_ROUND_B, socket.MSG_DONTWAIT):
                    return True
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False


def _unsent(sock: socket.socket) -> int:
    """Return how many bytes the remote has not acknowledged (SIOCOUTQ, tcp(7))."""
    try:
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), "little", signed=True)
    except OSError:
        return 0


def close_now(sock: socket.socket) -> None:
    """End a connection, whoever else holds a copy of its socket, and never wait for that.

    An application that passed it on may have such a copy.  Closing alone would not end the connection; and close(2)
    would wait if the application has told the socket to linger since then.
    """
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    sock.close()
