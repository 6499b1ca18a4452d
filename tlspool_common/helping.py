"""What helper processes of the broker have in common: how they confine themselves, serve, and end.

A helper has one channel, to the broker, and ends when that does; or when it is told to, or has a bug.  One thread on
asyncio's loop serves it.
"""

from __future__ import annotations

import asyncio
import ctypes
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed, Received
from tlspool_common.line import Line
from tlspool_common.log import Log
from tlspool_common.messages import Message
from tlspool_common.title import Title

EXIT_USAGE = 64
"""EX_USAGE of sysexits.h."""

EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an exception nobody expected; a trace is on standard error."""

EXIT_BROKEN = 76
"""EX_PROTOCOL: the broker broke the table of messages."""

_PR_SET_NO_NEW_PRIVS = 38


def give_up(fds: int) -> None:
    """Give up what is never needed: rights of other programs, core files, more than so many descriptors."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = fds if hard == resource.RLIM_INFINITY else min(fds, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Helping:
    """A helper that serves.  Make it on a running loop."""

    def __init__(
        self, name: str, channel: Channel, log: Log, title: Callable[[], str], said: Callable[[Received], None]
    ) -> None:
        self._channel = channel
        self._log = log
        self._said = said
        self._stop = asyncio.Event()
        self._line: Line | None = None
        self._exit_code = 0
        self.title = Title(f"tlspool-{name}", title)

    @property
    def ends(self) -> bool:
        """Whether it is told to, or has to."""
        return self._stop.is_set()

    async def serve(self, begin: Callable[[], None]) -> int:
        """Begin, serve until the broker is gone, or until told to stop; return the exit code."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._bug)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._line = Line(self._channel, self._said, self._lost)
        begin()
        await self._stop.wait()
        self.title.close()
        self._line.close()
        return self._exit_code

    def send(self, message: Message, exchange: int) -> None:
        """Say something to the broker."""
        if self._line is not None:
            self._line.send(message, exchange)

    def _lost(self, error: ChannelClosed) -> None:
        if isinstance(error, ChannelBroken):
            self._log.error("helper.broker_broken", detail=str(error))
            self._exit_code = EXIT_BROKEN
        self._stop.set()

    def _bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody expected: nothing can be relied on any more."""
        error = context.get("exception")
        sys.stderr.write("".join(traceback.format_exception(error)) if error else context.get("message", ""))
        self._log.error("helper.internal", error=type(error).__name__)
        self._exit_code = EXIT_BUG
        self._stop.set()
