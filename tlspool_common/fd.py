"""Descriptors with one owner.

A descriptor that came over a socket is wrapped here before anything else is done with it.  It is closed
exactly once: by ``close``, by leaving a ``with``, or when nobody holds it any more.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

NO_LINGER = struct.pack("ii", 0, 0)
"""For SO_LINGER (socket(7))."""

SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The system is short of descriptors or memory, at the moment."""


class OwnedFd:
    """The right and the duty to close one descriptor.

    One that was ``received`` from another process may be a socket that was told to linger: closing the last copy
    of it would then wait, for as long as its maker liked, until a remote has taken what is unsent (socket(7),
    SO_LINGER; O_NONBLOCK does not help).  It is told not to.

    Attributes:
        giver_uid: the user whose program passed it, where that is known; else -1.
    """

    __slots__ = ("_fd", "_received", "giver_uid")

    def __init__(self, fd: int, *, received: bool = False) -> None:
        self._fd = fd
        self._received = received
        self.giver_uid = -1

    def fileno(self) -> int:
        """Return the number without giving up ownership.

        Raises:
            ValueError: it was closed or detached before.
        """
        if self._fd < 0:
            raise ValueError("descriptor is closed")
        return self._fd

    def detach(self) -> int:
        """Give the number away: the caller closes it from now on."""
        fd, self._fd = self.fileno(), -1
        return fd

    def close(self) -> None:
        """Close; closing twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if not self._received:
            os.close(fd)
            return
        try:
            sock = socket.socket(fileno=fd)
        except OSError:  # it is no socket
            os.close(fd)
            return
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.close()

    @property
    def closed(self) -> bool:
        """Whether nothing is owned any more."""
        return self._fd < 0

    def __enter__(self) -> OwnedFd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OwnedFd({self._fd})"


def shut_down(fd: OwnedFd) -> None:
    """Shut a socket down, whoever else holds a copy; what is none, or not connected, needs it not."""
    with suppress(OSError):
        sock = socket.socket(fileno=fd.fileno())
        try:
            sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.detach()


def await_ready(fds: Sequence[int], wait_s: float | None, events: int = select.POLLIN) -> list[int]:
    """Wait for one of these to be readable, and return which are; they may be above 1023, where select(2) ends.

    Args:
        fds: their numbers.
        wait_s: at most so long; None is for ever.
        events: POLLOUT for writable.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, events)
    return [fd for fd, _ in poll.poll(None if wait_s is None else wait_s * 1000)]


def open_fds() -> set[int]:
    """Return the descriptors of this process, less the one that finds them (proc_pid_fd(5))."""
    found = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    return {fd for fd in found if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
