"""Connections that are one too many: they are told why, in answer to the first thing they say, and closed.

An application that is only closed upon does not know whether to try again, where the pool is, or what to change.  Few
are told at a time, and none is waited for longer than a moment; the others are closed without a word.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from tlspool_broker.closing import CONTROL_B, Closer
from tlspool_common.appwire import FRAME_B, Cmd, ErrorReply, Frame, frame_untrusted
from tlspool_common.errors import PoolError, app_text, com_err
from tlspool_common.log import Log

_GUESTS = 64
"""At the door at a time, of these at most _GUESTS_OF_USER of one user; each is a descriptor."""

_GUESTS_OF_USER = 8

_WAIT_S = 1.0
"""For the first frame, which programs send at once."""


@dataclass(slots=True, eq=False)
class _Guest:
    """A connection that will not be one."""

    sock: socket.socket
    uid: int
    error: PoolError
    timer: asyncio.TimerHandle | None = None
    frame: bytearray = field(default_factory=bytearray)


class Door:
    """All that are at the door."""

    def __init__(self, log: Log, closer: Closer) -> None:
        self._log = log
        self._closer = closer
        self._loop = asyncio.get_running_loop()
        self._guests: set[_Guest] = set()
        self._by_uid: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._guests)

    def turn_away(self, sock: socket.socket, uid: int, error: PoolError) -> None:
        """Take a connection, and end it with this error."""
        if len(self._guests) >= _GUESTS or self._by_uid[uid] >= _GUESTS_OF_USER:
            self._closer.end(uid, sock)
            return
        guest = _Guest(sock, uid, error)
        self._guests.add(guest)
        self._by_uid[uid] += 1
        self._loop.add_reader(sock, self._readable_untrusted, guest)
        guest.timer = self._loop.call_later(_WAIT_S, self._end, guest)

    def close(self) -> None:
        """Close all of them."""
        for guest in list(self._guests):
            self._end(guest)

    def _readable_untrusted(self, guest: _Guest) -> None:
        """Read until there is a frame; descriptors that come along are closed."""
        try:
            control_b = 0 if self._closer.is_stuck(guest.uid) else CONTROL_B
            data, control, _, _ = guest.sock.recvmsg(FRAME_B - len(guest.frame), control_b, socket.MSG_CMSG_CLOEXEC)
            self._closer.drop(self._closer.take(guest.uid, control))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        guest.frame += data
        if data and len(guest.frame) < FRAME_B:
            return
        if data:
            asked = frame_untrusted(bytes(guest.frame))
            reply = ErrorReply(com_err(guest.error.code), app_text(guest.error.code, guest.error.detail))
            with suppress(OSError):  # it has gone
                guest.sock.send(Frame(asked.reqid, 0, Cmd.ERROR, reply.to_payload()).to_bytes(), socket.MSG_NOSIGNAL)
            self._log.debug("caller.turned_away", uid=guest.uid, code=int(guest.error.code), cmd=asked.cmd)
        self._end(guest)

    def _end(self, guest: _Guest) -> None:
        self._guests.remove(guest)
        self._by_uid[guest.uid] -= 1
        if not self._by_uid[guest.uid]:
            del self._by_uid[guest.uid]
        if guest.timer is not None:
            guest.timer.cancel()
        self._loop.remove_reader(guest.sock)
        self._closer.end(guest.uid, guest.sock)
