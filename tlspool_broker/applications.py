"""The application socket: exact frames in and out, descriptors owned, and nobody waited for.

* A read asks for no more than the frame that is being filled still needs, so a descriptor that comes along
  belongs to that frame.  The first one is kept, the others are closed, where nobody waits for it (closing.py).
* A frame goes out in one call.  While an application does not read, it is not read from; that bounds what it
  can pile up here, and when it goes on for too long, it is sent away.
* Callers take turns, whatever number of connections they have: of each so many frames are read before the others
  are looked at, and the connections of one caller take turns in that.  So a flood delays nobody but who sends it.
* A connection that is one too many for its caller is told so (door.py).
* The end of its input is the end of an application, whether it closed its socket or one direction of it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from tlspool_broker import caller, passed
from tlspool_broker.closing import CONTROL_B, Closer
from tlspool_broker.door import Door
from tlspool_broker.events import (
    AppConnected,
    AppFrame,
    AppGone,
    AppTurnedAway,
    Caller,
    ConnectionId,
    Event,
    FdKind,
    PassedFd,
)
from tlspool_broker.quotas import Quota
from tlspool_common import peer
from tlspool_common.appwire import FRAME_B, Frame, frame_untrusted
from tlspool_common.errors import Code
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log

_FRAMES_AT_ONCE = 16
"""Frames of one user before others have their turn: a few milliseconds, if each begins a handshake."""

_QUIET_S = 1.0
"""Connections that there are no descriptors for make one line in the log in this time."""

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
    rule: str  # that says how many connections there may be; '' is none
    frame: bytearray = field(default_factory=bytearray)
    passed: PassedFd | None = None
    queue: deque[bytes] = field(default_factory=deque)
    deaf: asyncio.TimerHandle | None = None


class Applications:
    """All connections of applications."""

    def __init__(
        self,
        happened: Callable[[Event], None],
        own: Container[str],
        most: int,
        quota_of: Callable[[Caller], Quota],
        log: Log,
    ) -> None:
        """Tell ``happened`` what happens; ``most`` connections are held, half of it at most for one user."""
        self._happened = happened
        self._own = own
        self._most = most
        self._quota_of = quota_of
        self._closer = Closer(log)
        self._door = Door(log, self._closer)
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._lines: dict[ConnectionId, _Line] = {}
        self._by_uid: Counter[int] = Counter()
        self._by_quota: Counter[tuple[str, int]] = Counter()
        self._last = 0
        self._left: dict[int, int] = {}  # frames that may be read of a user in this round
        self._waiting: dict[int, dict[ConnectionId, _Line]] = {}  # what there is to read beyond that
        self._is_turning = False
        self._refused, self._quiet_until_s = 0, 0.0

    def accepted(self, sock: socket.socket) -> None:
        """Take a new connection, if there is room."""
        uid = peer.credentials(sock).uid
        if len(self._lines) >= self._most or self._by_uid[uid] >= self._most // 2:
            self._refuse(uid)
            self._closer.end(uid, sock)
            return
        who = caller.identify(sock)
        quota = self._quota_of(who)
        if self._by_quota[quota.rule, uid] >= quota.connections:
            self._happened(AppTurnedAway(who))
            self._door.turn_away(sock, uid, quota.reached(Code.TOO_MANY_CONNECTIONS, "connections", uid))
            return
        self._last += 1
        line = _Line(ConnectionId(self._last), sock, uid, quota.rule)
        self._lines[line.connection] = line
        self._by_uid[uid] += 1
        self._by_quota[line.rule, uid] += 1
        self._loop.add_reader(sock, self._readable, line)
        self._log.debug("caller.connected", caller=who.label, uid=who.uid, connection=line.connection)
        self._happened(AppConnected(line.connection, who))

    def close(self) -> None:
        """Close all connections, and tell nobody."""
        self._door.close()
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
        given = OwnedFd(line.sock.dup().detach())
        self._forget(line)
        line.sock.close()
        return given

    def let_go(self, fd: OwnedFd) -> None:
        """Close a descriptor that an application has passed, and wait for nothing."""
        self._closer.drop([fd])

    def _refuse(self, uid: int) -> None:
        """Log that there are no descriptors to spare, but not each time."""
        self._refused += 1
        now_s = self._loop.time()
        if now_s >= self._quiet_until_s:
            self._log.warning("caller.refused", uid=uid, connections=self._by_uid[uid], times=self._refused)
            self._refused, self._quiet_until_s = 0, now_s + _QUIET_S

    def _close(self, line: _Line) -> None:
        self._forget(line)
        self._closer.end(line.uid, line.sock)

    def _forget(self, line: _Line) -> None:
        del self._lines[line.connection]
        self._by_uid[line.uid] -= 1
        if not self._by_uid[line.uid]:
            del self._by_uid[line.uid]
        self._by_quota[line.rule, line.uid] -= 1
        if not self._by_quota[line.rule, line.uid]:
            del self._by_quota[line.rule, line.uid]
        self._waiting.get(line.uid, {}).pop(line.connection, None)
        self._loop.remove_reader(line.sock)
        self._loop.remove_writer(line.sock)
        if line.deaf is not None:
            line.deaf.cancel()
        if line.passed is not None:
            self.let_go(line.passed.fd)

    def _lose(self, line: _Line, reason: str) -> None:
        self._close(line)
        self._log.debug("caller.gone", connection=line.connection, detail=reason)
        self._happened(AppGone(line.connection, reason))

    # --- in -------------------------------------------------------------------------------------------

    def _readable(self, line: _Line) -> None:
        """Read at once if it is the turn of this user, else let it wait."""
        left = self._left.get(line.uid, _FRAMES_AT_ONCE)
        if left > 0:
            self._left[line.uid] = left - self._read(line, left)
        else:
            self._waiting.setdefault(line.uid, {})[line.connection] = line
        if not self._is_turning:
            self._is_turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """A round is over.  In the next one those are first that have waited; the loop asks about them again anyway."""
        self._is_turning = False
        self._left.clear()
        for uid, lines in list(self._waiting.items()):
            left = _FRAMES_AT_ONCE
            while lines and left > 0:
                left -= self._read(lines.pop(next(iter(lines))), left)
            self._left[uid] = left
            if not lines:
                del self._waiting[uid]
        if self._left:
            self._is_turning = True
            self._loop.call_soon(self._turn)

    def _read(self, line: _Line, most: int) -> int:
        """Read at most so many frames; return how many times something was read."""
        for count in range(most):
            if line.queue or line.connection not in self._lines or self._closer.is_full(line.uid):
                return count
            try:
                takes_fds = not self._closer.is_stuck(line.uid)
                data, control, flags, _address = line.sock.recvmsg(
                    FRAME_B - len(line.frame), CONTROL_B if takes_fds else 0, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return count
            except OSError as error:
                self._lose(line, error.strerror or "broken")
                return count + 1
            if takes_fds:
                self._take_fds_untrusted(line, control, flags)
            if not data:
                self._lose(line, "closed its connection in the middle of a frame" if line.frame else "closed it")
                return count + 1
            line.frame += data
            if len(line.frame) == FRAME_B:
                frame, came_along = frame_untrusted(bytes(line.frame)), line.passed
                line.frame.clear()
                line.passed = None
                self._happened(AppFrame(line.connection, frame, came_along))
        return most

    def _take_fds_untrusted(self, line: _Line, control: list[tuple[int, int, bytes]], flags: int) -> None:
        fds = self._closer.take(line.uid, control)
        if flags & socket.MSG_CTRUNC:
            # There is room for all, so this process has no descriptors left; the request will be refused.
            self._log.error("caller.descriptors_lost", connection=line.connection, got=len(fds))
            kept = []
        else:
            kept = fds[:1] if line.passed is None else []
        self._closer.drop(fds[len(kept) :])
        for fd in kept:
            line.passed = passed.looked_at(fd, self._own)
            if line.passed.kind is FdKind.OTHER:  # it will be refused; who refuses it must not wait for its end
                line.passed = PassedFd(OwnedFd(os.eventfd(0, os.EFD_CLOEXEC)), FdKind.OTHER)
                self._closer.drop([fd])

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
