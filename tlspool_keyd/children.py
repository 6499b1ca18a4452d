"""The token processes as children of keyd: start, hear, end, reap.

A PKCS #11 module is loaded only behind an exec, because a forked child would inherit sessions and login (and
libraries that were initialised once).  A child whose channel is closed logs out and ends by itself
(token_process.py); one that has not done so after GRACE_S hangs in its module and is killed.  Whatever a child said
before it ended is heard before its end is told.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tlspool_common import child as process
from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed, Received, pair
from tlspool_common.fd import OwnedFd
from tlspool_common.line import Line
from tlspool_common.messages import Message, Party

GRACE_S = 0.5
"""For C_Finalize, which takes some milliseconds; a network HSM gets its chance to end sessions in order."""

OnMessage = Callable[[int, Received], None]
OnLost = Callable[[int, str], None]


@dataclass(slots=True, eq=False)
class _Child:
    pid: int
    pid_fd: OwnedFd
    line: Line
    killer: asyncio.TimerHandle | None = None


class Children:
    """All token processes, by generation."""

    def __init__(self, on_message: OnMessage, on_lost: OnLost, words: Sequence[str] = ()) -> None:
        """``words``: arguments of the processes besides channel and parent."""
        self._on_message = on_message
        self._on_lost = on_lost
        self._words = words
        self._loop = asyncio.get_running_loop()
        self._all: dict[int, _Child] = {}
        self._none_left = asyncio.Event()

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by generation."""
        return {generation: child.pid for generation, child in self._all.items()}

    def start(self, generation: int, opening: Message) -> None:
        """Start a process and say the opening message; ``on_lost`` follows if that is not possible."""
        try:
            channel, pid, pid_fd = _spawn(self._words)
        except OSError as error:
            self._loop.call_soon(self._on_lost, generation, f"cannot be started: {error.strerror}")
            return
        line = Line(
            channel,
            lambda received: self._on_message(generation, received),
            lambda error: self._deaf(generation, error),
        )
        self._all[generation] = _Child(pid, pid_fd, line)
        self._loop.add_reader(pid_fd.fileno(), self._ended, generation)
        line.send(opening, exchange=1)

    def send(self, generation: int, message: Message, exchange: int) -> None:
        """Send to a process, if it is still there."""
        if child := self._all.get(generation):
            child.line.send(message, exchange)

    def end(self, generation: int) -> None:
        """End a process; what it still says is not heard."""
        if child := self._all.get(generation):
            child.line.close()
            self._expect_end(generation)

    async def end_all(self) -> None:
        """End all processes and wait until they are gone."""
        for generation in list(self._all):
            self.end(generation)
        self._none_left.clear()
        if self._all:
            await self._none_left.wait()

    def _expect_end(self, generation: int) -> None:
        child = self._all[generation]
        if child.killer is None:
            child.killer = self._loop.call_later(GRACE_S, self._kill, generation)

    def _kill(self, generation: int) -> None:
        if child := self._all.get(generation):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pid_fd.fileno(), signal.SIGKILL)

    def _deaf(self, generation: int, error: ChannelClosed) -> None:
        """The channel is closed: the process is ending, or not to be believed any more."""
        if generation not in self._all:
            return
        if isinstance(error, ChannelBroken):
            self._kill(generation)
        else:
            self._expect_end(generation)

    def _ended(self, generation: int) -> None:
        child = self._all[generation]
        self._loop.remove_reader(child.pid_fd.fileno())
        child.line.drain()
        child.line.close()
        if child.killer is not None:
            child.killer.cancel()
        child.pid_fd.close()
        _, status = os.waitpid(child.pid, 0)  # it has ended: does not block
        del self._all[generation]
        if not self._all:
            self._none_left.set()
        self._on_lost(generation, _how(os.waitstatus_to_exitcode(status)))


def spawn(channel_fd: OwnedFd, more: Sequence[str] = ()) -> int:
    """Start a token process that speaks over this descriptor, with more arguments; return its process id.

    Raises:
        OSError: it could not be started.
    """
    words = [str(process.CHANNEL_FD), str(os.getpid()), *more]
    return process.start(channel_fd, "tlspool_keyd.token_process", words, process.environment())


def _spawn(words: Sequence[str]) -> tuple[Channel, int, OwnedFd]:
    """Start a process; return our end of its channel, its number, and a descriptor of it.

    Raises:
        OSError: it could not be started; nothing is left of it.
    """
    channel, theirs = pair(Party.KEYD, Party.TOKEN)
    try:
        pid = spawn(theirs, words)
        return channel, pid, process.watch(pid)
    except OSError:
        channel.close()
        raise


def _how(code: int) -> str:
    return f"exit {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
