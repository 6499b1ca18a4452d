"""Accepting connections: some at a time, so that a storm of them delays nothing, and never in a busy loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tlspool_common.fd import SHORT
from tlspool_common.log import Log

_AT_ONCE = 32
"""Connections accepted in a row; each takes some 50 microseconds, most of it to find out who it is."""

_PAUSE_S = 0.2
"""Out of descriptors or memory: the connections wait in the backlog, and epoll would not let us rest."""


class Listener:
    """A listening socket on the loop; it is closed with this."""

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket], None], log: Log) -> None:
        self._sock = sock
        self._accepted = accepted
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Listen no more."""
        if self._pause is not None:
            self._pause.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                if error.errno not in SHORT:
                    raise
                self._log.error("listener.paused", detail=error.strerror, seconds=_PAUSE_S)
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(_PAUSE_S, self._go_on)
                return
            sock.setblocking(False)
            self._accepted(sock)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)
