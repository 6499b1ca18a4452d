"""One connection to the pool: a socket around the protocol core.  It never waits, and it is not thread-safe.

Theory of operation.  What the core wants sent goes into a queue, and so does what it wants closed, because a
descriptor must not be closed before it was sent.  The queue moves as far as the socket takes it, on every call.
All else happens at once: an answer is not held up by a pool that does not read.  The owner calls ``receive``
when the socket is readable, or writable while ``wants_write``, and lets time pass now and then.

What the owner must act upon is returned: AskPlain and AskLocalid want an answer, Finish ends a ticket.  When
the connection is over, every ticket has had its Finish; the owner calls ``release``, and makes a new Line.

libstub.pool shares a Line among threads; `tlspool tunnel` runs one in its loop.
"""

from __future__ import annotations

import errno
import socket
import stat
import struct
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

from libstub.core import ClientCore
from libstub.errors import Misuse, PoolError, PoolUnavailable, Refused
from libstub.events import (
    AskLocalid,
    AskPlain,
    Break,
    BytesReceived,
    Close,
    ConnectionLost,
    Event,
    Finish,
    Forked,
    Send,
    Shut,
)
from tlspool_common.fd import shut_down

RECEIVE_B = 64 * 388
"""What is read in one go: more frames than a pool says at once."""

_TIMEVAL = struct.Struct("@ll")
_INT = struct.Struct("@i")

_LATER = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""The kernel is short of something; the frame is tried again with the next one, or when time passes."""

_GONE = frozenset({errno.EPIPE, errno.ECONNRESET})

Told = AskPlain | AskLocalid | Finish
"""What the owner must act upon."""


def _connected(path: str, wait_s: float) -> socket.socket:
    """Connect, and return a socket that never waits.  A backlog that is full is waited for at most so long."""
    until_s = time.monotonic() + wait_s
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        while True:
            left_s = until_s - time.monotonic()
            if wait_s > 0 and left_s > 0:
                # Only this bounds connect(2) on a UNIX socket: without waiting it knows no "in progress" (unix(7)).
                bound = _TIMEVAL.pack(int(left_s), max(1, int(left_s % 1 * 1_000_000)))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
            else:
                sock.setblocking(False)
            sock.connect(path)
            if _is_connected(sock):
                break
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_connected(sock: socket.socket) -> bool:
    """Tell whether connect(2) was done.  If a signal interrupts it, Python takes it for one that goes on by itself."""
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return False
    return True


def _unreachable(path: str, error: OSError) -> PoolError:
    """Say in words why there is no connection."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return PoolUnavailable(f"there is no pool at {path}: start it, or set TLSPOOL_SOCKET to where it is")
        case errno.ECONNREFUSED if not _is_socket(path):
            return Misuse(f"{path} is not a socket: set TLSPOOL_SOCKET to the pool's")
        case errno.ECONNREFUSED:
            return PoolUnavailable(f"the pool at {path} is not running: start it")
        case errno.EACCES | errno.EPERM:
            return Refused(f"this user may not open {path}: its operator decides by socket_group and socket_mode")
        case errno.EPROTOTYPE:
            return Misuse(f"{path} is a socket of another kind: set TLSPOOL_SOCKET to the pool's")
        case errno.EAGAIN:
            return PoolUnavailable(f"the pool at {path} does not accept connections: it is stopped or overloaded")
    return PoolUnavailable(f"no connection to the pool at {path}: {error.strerror or error}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError:
        return True  # it cannot be told: then it is taken for one


RETURN_S = 5.0
"""How long a pool that was there may be away before a request fails: a broker that is started anew takes a second."""

RETURN_LOOK_S = 0.05


def is_away(error: PoolError) -> bool:
    """Whether nobody listens, as between the end of a pool and its new beginning."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ECONNREFUSED)


def connect(path: str, wait_s: float) -> socket.socket:
    """Connect to a pool, and return a socket that never waits.

    Raises:
        Misuse, Refused, PoolUnavailable: no connection to ``path`` within ``wait_s``; 0 does not wait.
    """
    try:
        return _connected(path, wait_s)
    except OSError as error:
        raise _unreachable(path, error) from error


class Line:
    """A connection to the pool.

    Attributes:
        over: there is no connection any more.
        wants_write: something waits until the socket is writable.

    Raises:
        Misuse, Refused, PoolUnavailable: no connection to ``path`` within ``wait_s``; 0 does not wait.
    """

    def __init__(self, path: str, wait_s: float = 0.0) -> None:
        self.path = path
        self.over = True
        self._sock = connect(path, wait_s)
        self.over = False
        self.wants_write = False
        self._mute = False
        self._core = ClientCore()
        self._queue: deque[Send | Close] = deque()

    def fileno(self) -> int:
        """Return the descriptor, to wait for its being readable."""
        return self._sock.fileno()

    @property
    def open_count(self) -> int:
        """Exchanges for which the pool may still say something."""
        return self._core.open_count

    def handle(self, event: Event) -> list[Told]:
        """Let the core take an event; carry out what it wants, and return what the owner must act upon."""
        told: list[Told] = []
        broken = False
        for effect in self._core.handle(event, time.monotonic()):
            match effect:
                case Send() | Close():
                    self._queue.append(effect)
                case Shut(fd):
                    shut_down(fd)
                case Break():
                    broken = True
                case AskPlain() | AskLocalid() | Finish():
                    told.append(effect)
        self._flush()
        if broken:
            self._end()
        return told

    def receive(self) -> list[Told]:
        """Read once, send what waits, and return what the owner must act upon."""
        if self.over:
            return []
        try:
            data = self._sock.recv(RECEIVE_B)
        except BlockingIOError:
            self._flush()
            return []
        except OSError as error:
            return self._lost(f"the connection to the pool at {self.path} failed: {error.strerror}")
        if not data:
            return self._lost(f"the pool at {self.path} closed the connection: it stopped, or was restarted")
        return self.handle(BytesReceived(data))

    def _flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        self.wants_write = False
        while self._queue:
            effect = self._queue[0]
            if isinstance(effect, Close):
                effect.fd.close()
            elif not self._send(effect):
                return
            self._queue.popleft()

    def _send(self, effect: Send) -> bool:
        """Return whether the frame is done with; the rest of one that was cut stays in front of the queue."""
        if self._mute:
            return True
        rights = []
        if effect.fd is not None:
            rights.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(effect.fd.fileno())))
        try:
            sent = self._sock.sendmsg([effect.data], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self.wants_write = True
            return False
        except OSError as error:
            if error.errno in _LATER:
                return False
            self._mute = True
            if error.errno not in _GONE:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
            # What the pool said before it went can still be read; then comes the end, and the core hears of it.
            return True
        if sent < len(effect.data):
            self._queue[0] = Send(effect.data[sent:])
            self.wants_write = True
            return False
        return True

    def close(self, reason: str = "this program closed its connection to the pool") -> list[Told]:
        """End the connection, and with it the sessions made over it; return how the open tickets ended."""
        return [] if self.over else self._lost(reason)

    def forked(self) -> list[Told]:
        """In a child after fork(2): let go of everything without a sign to the pool, or to the remotes."""
        if self.over:
            return []
        self._mute = True
        told = self.handle(Forked())
        self.over = True
        self.release()
        return told

    def _lost(self, reason: str) -> list[Told]:
        self._mute = True
        told = self.handle(ConnectionLost(reason))
        self._end()
        return told

    def _end(self) -> None:
        self.over = self._mute = True
        self._flush()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Close the socket of a connection that is over, when nobody waits for it any more.

        Shutting it down, as was done before, wakes who waits; closing would not.
        """
        self._sock.close()

    def __del__(self) -> None:
        if hasattr(self, "_sock"):
            self._sock.close()
