"""One border channel on the loop: messages in, messages out, and one word when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed, Received
from tlspool_common.codec import BadFrame
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log
from tlspool_common.messages import Message

_AT_ONCE = 64
"""Messages of one channel before others have their turn."""


class Pump:
    """Calls ``said`` for each message, and ``lost`` once, with a reason and whether the table was broken.

    ``lost`` may be called in the middle of ``send``.  After ``close`` nothing is called any more.
    """

    def __init__(
        self, channel: Channel, said: Callable[[Received], None], lost: Callable[[str, bool], None], log: Log
    ) -> None:
        self._channel = channel
        self._said = said
        self._lost = lost
        self._log = log
        self._traces = log.wants("debug")
        self._loop = asyncio.get_running_loop()
        self._fd = channel.fileno()
        self._open = True
        self._writing = False

    def start(self) -> None:
        """Begin to receive."""
        self._loop.add_reader(self._fd, self._readable)

    @property
    def has_queued(self) -> bool:
        """Whether messages wait for the other side to read."""
        return self._channel.wants_write

    def close(self) -> None:
        """Close the channel, and say nothing."""
        if self._open:
            self._open = False
            for remove in (self._loop.remove_reader, self._loop.remove_writer):
                # A channel closes itself when it fails.  Python's selector forgets the descriptor all the same.
                with suppress(OSError):
                    remove(self._fd)
            self._channel.close()

    def give_up(self, reason: str, broken: bool = False) -> None:
        """Close the channel, and say why."""
        if self._open:
            self.close()
            self._lost(reason, broken)

    def send(self, message: Message, fd: OwnedFd | None = None, exchange: int = 0) -> None:
        """Send, now or when the other side reads.  The descriptor is closed in any case."""
        if not self._open:
            if fd is not None:
                fd.close()
            return
        if self._traces:
            self._trace(self._channel.me, self._channel.peer, message)
        try:
            self._channel.send(message, exchange=exchange, fd=fd)
        except BadFrame as error:
            self._log.error("border.internal", message=type(message).__name__, detail=str(error))
            self.give_up("a message to it broke the table")
        except ChannelClosed as error:
            self._over(error)
        else:
            self._watch()

    def _trace(self, sender: str, receiver: str, message: Message) -> None:
        self._log.debug("border.message", way=f"{sender}->{receiver}", message=type(message).__name__)

    def _over(self, error: ChannelClosed) -> None:
        self.give_up(str(error), isinstance(error, ChannelBroken))

    def _watch(self) -> None:
        """Be called when the socket can be written to, for as long as something waits for that."""
        if self._channel.wants_write != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        try:
            self._channel.flush()
        except ChannelClosed as error:
            self._over(error)
        else:
            self._watch()

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._open:
                return
            try:
                received = self._channel.receive()
            except ChannelClosed as error:
                self._over(error)
                return
            if received is None:
                return
            with received:
                if self._traces:
                    self._trace(self._channel.peer, self._channel.me, received.message)
                self._said(received)
