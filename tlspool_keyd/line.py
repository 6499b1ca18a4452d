"""A channel on asyncio's loop: messages come in by a call, and what cannot go out at once goes out later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tlspool_common.channel import Channel, ChannelClosed, Received
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import Message

FRAMES_AT_ONCE = 16
"""Frames taken from one channel before others get their turn: a worker that floods must not keep others waiting."""

OnMessage = Callable[[Received], None]
OnLost = Callable[[ChannelClosed], None]


class Line:
    """Calls ``on_message`` with each message, and ``on_lost`` once when the channel ends other than by ``close``."""

    def __init__(self, channel: Channel, on_message: OnMessage, on_lost: OnLost) -> None:
        self._channel = channel
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._fd = channel.fileno()
        self._writing = False
        self.open = True
        self._loop.add_reader(self._fd, self._readable, FRAMES_AT_ONCE)

    def send(self, message: Message, exchange: int = 0, fd: OwnedFd | None = None) -> None:
        """Send, now or later; ``on_lost`` is called, not now, when the channel turns out to be closed."""
        if not self.open:
            if fd is not None:
                fd.close()
            return
        try:
            self._channel.send(message, exchange=exchange, fd=fd)
        except ChannelClosed as error:
            self.close()
            self._loop.call_soon(self._on_lost, error)
            return
        if self._channel.wants_write and not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)

    def drain(self) -> None:
        """Take what has come already; for the end of a process, whose last words count."""
        while self.open and self._readable(FRAMES_AT_ONCE):
            continue

    def close(self) -> None:
        """Close the channel, and call nobody any more."""
        if self.open:
            self.open = False
            # A channel that found an error has closed its socket already; the number means nothing else yet, as
            # nothing was opened since.  epoll has forgotten it then, and asyncio's selector forgets it with the
            # error that follows.
            with suppress(OSError):
                self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._channel.close()

    def _readable(self, most: int) -> bool:
        """Take messages; return whether there may be more."""
        try:
            for _ in range(most):
                # A message may have closed the line; or something else, with this call on the loop's list.
                if not self.open:
                    return False
                received = self._channel.receive()
                if received is None:
                    return False
                with received:
                    self._on_message(received)
        except ChannelClosed as error:
            self.close()
            self._on_lost(error)
        return self.open

    def _writable(self) -> None:
        if not self.open:
            return
        try:
            self._channel.flush()
        except ChannelClosed as error:
            self.close()
            self._on_lost(error)
            return
        if not self._channel.wants_write:
            self._writing = False
            self._loop.remove_writer(self._fd)
