"""epoll with a handler for each descriptor: the whole of the worker's event loop."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

IN, OUT = select.EPOLLIN, select.EPOLLOUT

Handler = Callable[[int], None]

_EVENTS = 64
"""Events taken at once: small, so that a descriptor that was closed meanwhile is not looked at for long."""


class Poller:
    """Calls ``handler(events)`` for each descriptor that is ready.  Level-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._handlers: dict[int, Handler] = {}
        self._late: dict[int, Handler] = {}
        self.now_s = time.monotonic()  # when the last events came

    def watch(self, fd: int, mask: int, handler: Handler, *, late: bool = False) -> None:
        """Watch a descriptor, from now on for ``mask``.

        A ``late`` handler is called when all others of a batch have been: one that brings new descriptors must
        be, as they may get the numbers of some that were closed in the same batch.
        """
        if fd in self._handlers or fd in self._late:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        (self._late if late else self._handlers)[fd] = handler

    def modify(self, fd: int, mask: int) -> None:
        """Change what a watched descriptor is watched for."""
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Watch a descriptor no more.  To be called before its number can be used again."""
        if self._handlers.pop(fd, None) or self._late.pop(fd, None):
            with suppress(OSError):  # closing it has taken it out already
                self._epoll.unregister(fd)

    def run_once(self, timeout_s: float | None) -> None:
        """Wait for events, and handle them."""
        ready = self._epoll.poll(timeout_s, _EVENTS)
        self.now_s = time.monotonic()
        handlers, late = self._handlers, None
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is not None:
                handler(events)
            elif fd in self._late:
                late = late or []
                late.append((fd, events))
        for fd, events in late or ():
            if fd in self._late:
                self._late[fd](events)

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()


def is_hung_up(sock: socket.socket) -> bool:
    """Tell whether the other end is closed altogether, not only its sending half (poll(2), POLLHUP)."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
