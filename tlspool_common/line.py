"""A border channel on asyncio's loop: messages come in by a call, and what cannot go out at once goes out later."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from tlspool_common.channel import Channel, ChannelClosed, Received
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log
from tlspool_common.messages import Message, Party

FRAMES_AT_ONCE = 16
"""Frames taken from one channel before others get their turn: a worker that floods must not keep others waiting."""

OnMessage = Callable[[Received], None]
OnLost = Callable[[ChannelClosed], None]


class Line:
    """Calls ``on_message`` with each message, and ``on_lost`` once when the channel ends other than by ``close``.

    ``on_lost`` may be called in the middle of ``send``.  After ``close`` nobody is called any more.  With a ``log``,
    messages are traced in it at level debug.
    """

    def __init__(self, channel: Channel, on_message: OnMessage, on_lost: OnLost, log: Log | None = None) -> None:
        self._channel = channel
        self._on_message = on_message
        self._on_lost = on_lost
        self._log = log if log is not None and log.wants("debug") else None
        self._loop = asyncio.get_running_loop()
        self._fd = channel.fileno()
        self._writing = False
        self.open = True
        self._loop.add_reader(self._fd, self._readable)
        channel.before_close = self._unwatch

    @property
    def has_queued(self) -> bool:
        """Whether messages wait for the other side to read."""
        return self._channel.wants_write

    def send(self, message: Message, exchange: int = 0, fd: OwnedFd | None = None) -> None:
        """Send, now or when the other side reads.  The descriptor is closed in any case.

        Raises:
            BadFrame: the message does not fit the table; nothing was sent.
        """
        if not self.open:
            if fd is not None:
                fd.close()
            return
        if self._log is not None:
            _trace(self._log, self._channel.me, self._channel.peer, message)
        try:
            self._channel.send(message, exchange=exchange, fd=fd)
        except ChannelClosed as error:
            self.give_up(error)
        else:
            self._watch()

    def drain(self) -> None:
        """Take what has come already; for the end of a process, whose last words count."""
        while self.open and self._readable():
            continue

    def close(self) -> None:
        """Close the channel, and call nobody any more."""
        if self.open:
            self.open = False
            self._channel.close()

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)

    def leave(self) -> None:
        """Close the channel here; who has a copy of it can go on with it."""
        self._channel.is_shared = False
        self.close()

    def copy(self) -> OwnedFd:
        """Return a copy of this end, for somebody to keep it open."""
        return OwnedFd(os.dup(self._fd))

    def give_up(self, error: ChannelClosed) -> None:
        """Close the channel, and say why."""
        if self.open:
            self.close()
            self._on_lost(error)

    def _watch(self) -> None:
        """Be called when the socket can be written to, for as long as something waits for that."""
        if self._channel.wants_write != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _readable(self) -> bool:
        """Take messages; return whether there may be more."""
        for _ in range(FRAMES_AT_ONCE):
            # A message may have closed the line; or something else, with this call on the loop's list.
            if not self.open:
                return False
            try:
                received = self._channel.receive()
            except ChannelClosed as error:
                self.give_up(error)
                return False
            if received is None:
                return False
            with received:
                if self._log is not None:
                    _trace(self._log, self._channel.peer, self._channel.me, received.message)
                self._on_message(received)
        return self.open

    def _writable(self) -> None:
        if not self.open:
            return
        try:
            self._channel.flush()
        except ChannelClosed as error:
            self.give_up(error)
        else:
            self._watch()


def _trace(log: Log, sender: Party, receiver: Party, message: Message) -> None:
    log.debug("border.message", way=f"{sender}->{receiver}", message=type(message).__name__)
