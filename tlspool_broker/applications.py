"""The application socket: exact frames in and out, descriptors owned, and nobody waited for.

* A read asks for no more than the frame that is being filled still needs, so a descriptor that comes along
  belongs to that frame.  The first one is kept, the others are closed.
* A frame goes out in one call.  While an application does not read, it is not read from; that bounds what it
  can pile up here, and when it goes on for too long, it is sent away.
* The end of its input is the end of an application, whether it closed its socket or one direction of it.
"""

from __future__ import annotations

import array
import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from tlspool_broker import caller, passed
from tlspool_broker.events import AppConnected, AppFrame, AppGone, ConnectionId, Event, PassedFd
from tlspool_common.appwire import FRAME_B, Frame, frame_untrusted
from tlspool_common.channel import fds_of
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log

_CONTROL_B = socket.CMSG_SPACE(253 * array.array("i").itemsize)
"""Room for all descriptors that a message can have (SCM_MAX_FD of Linux), so that none is out of our hands."""

_FRAMES_AT_ONCE = 16
"""Frames of one application before others have their turn."""

_QUEUE_FRAMES = 4096
"""Frames for an application that does not read: final replies of its open requests, 1000 by default, and some."""

_DEAF_S = 30.0
"""An application that reads nothing for so long is sent away; programs read at once, or never."""


@dataclass(slots=True, eq=False)
class _Line:
    """A connection of an application."""

    connection: ConnectionId
    sock: socket.socket
    uid: int
    frame: bytearray = field(default_factory=bytearray)
    passed: PassedFd | None = None
    queue: deque[bytes] = field(default_factory=deque)
    deaf: asyncio.TimerHandle | None = None


class Applications:
    """All connections of applications."""

    def __init__(self, happened: Callable[[Event], None], own: Container[str], most: int, log: Log) -> None:
        """Tell ``happened`` what happens; ``most`` connections are held, half of it for one user."""
        self._happened = happened
        self._own = own
        self._most = most
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._lines: dict[ConnectionId, _Line] = {}
        self._by_uid: Counter[int] = Counter()
        self._last = 0

    def accepted(self, sock: socket.socket) -> None:
        """Take a new connection, if there is room."""
        who = caller.identify(sock)
        if len(self._lines) >= self._most or self._by_uid[who.uid] >= self._most // 2:
            self._log.warning(
                "caller.refused",
                caller=who.label,
                unit=who.unit,
                uid=who.uid,
                connections=self._by_uid[who.uid],
            )
            sock.close()
            return
        self._last += 1
        line = _Line(ConnectionId(self._last), sock, who.uid)
        self._lines[line.connection] = line
        self._by_uid[who.uid] += 1
        self._loop.add_reader(sock, self._readable, line)
        self._log.debug("caller.connected", caller=who.label, uid=who.uid, connection=line.connection)
        self._happened(AppConnected(line.connection, who))

    def close(self) -> None:
        """Close all connections, and tell nobody."""
        for line in list(self._lines.values()):
            self._close(line)

    @property
    def has_queued(self) -> bool:
        """Whether something waits for an application to read."""
        return any(line.queue for line in self._lines.values())

    def drop(self, connection: ConnectionId, reason: str) -> None:
        """Close a connection."""
        line = self._lines.get(connection)
        if line is not None:
            self._lose(line, reason)

    def release(self, connection: ConnectionId) -> OwnedFd | None:
        """Give a connection away; nothing more is read from it or sent over it.  None: it is not there any more."""
        line = self._lines.get(connection)
        if line is None:
            return None
        number = line.sock.dup().detach()
        self._close(line)
        return OwnedFd(number)

    def _close(self, line: _Line) -> None:
        del self._lines[line.connection]
        self._by_uid[line.uid] -= 1
        if not self._by_uid[line.uid]:
            del self._by_uid[line.uid]
        self._loop.remove_reader(line.sock)
        self._loop.remove_writer(line.sock)
        if line.deaf is not None:
            line.deaf.cancel()
        if line.passed is not None:
            line.passed.fd.close()
        line.sock.close()

    def _lose(self, line: _Line, reason: str) -> None:
        self._close(line)
        self._log.debug("caller.gone", connection=line.connection, detail=reason)
        self._happened(AppGone(line.connection, reason))

    # --- in -------------------------------------------------------------------------------------------

    def _readable(self, line: _Line) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            if line.queue or line.connection not in self._lines:
                return
            try:
                data, control, flags, _address = line.sock.recvmsg(
                    FRAME_B - len(line.frame), _CONTROL_B, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(line, error.strerror or "broken")
                return
            self._take_fds_untrusted(line, control, flags)
            if not data:
                self._lose(line, "closed its connection in the middle of a frame" if line.frame else "closed it")
                return
            line.frame += data
            if len(line.frame) == FRAME_B:
                frame, came_along = frame_untrusted(bytes(line.frame)), line.passed
                line.frame.clear()
                line.passed = None
                self._happened(AppFrame(line.connection, frame, came_along))

    def _take_fds_untrusted(self, line: _Line, control: list[tuple[int, int, bytes]], flags: int) -> None:
        fds = fds_of(control)
        if flags & socket.MSG_CTRUNC:
            # There is room for all, so this process has no descriptors left; the request will be refused.
            self._log.error("caller.descriptors_lost", connection=line.connection, got=len(fds))
            kept = []
        else:
            kept = fds[:1] if line.passed is None else []
        for fd in fds[len(kept) :]:
            fd.close()
        for fd in kept:
            line.passed = passed.looked_at(fd, self._own)

    # --- out ------------------------------------------------------------------------------------------

    def send(self, connection: ConnectionId, frame: Frame) -> None:
        """Send a frame, now or as soon as the application reads."""
        line = self._lines.get(connection)
        if line is None:
            return
        line.queue.append(frame.to_bytes())
        if len(line.queue) == 1:
            self._flush(line)
        elif len(line.queue) > _QUEUE_FRAMES:
            self._lose(line, "does not read what it is sent")

    def _flush(self, line: _Line) -> None:
        before = len(line.queue)
        while line.queue:
            try:
                sent_b = line.sock.send(line.queue[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError as error:
                self._lose(line, error.strerror or "broken")
                return
            if sent_b < len(line.queue[0]):  # Linux takes a small message whole, or not at all
                line.queue[0] = line.queue[0][sent_b:]
                break
            line.queue.popleft()
        if line.queue and (line.deaf is None or len(line.queue) < before):
            self._hold(line)
        elif not line.queue and line.deaf is not None:
            line.deaf.cancel()
            line.deaf = None
            self._loop.remove_writer(line.sock)
            self._loop.add_reader(line.sock, self._readable, line)

    def _hold(self, line: _Line) -> None:
        """Read no more from an application until it has read."""
        if line.deaf is not None:
            line.deaf.cancel()
        else:
            self._loop.remove_reader(line.sock)
            self._loop.add_writer(line.sock, self._flush, line)
        line.deaf = self._loop.call_later(_DEAF_S, self._lose, line, "does not read what it is sent")
