"""The helper's hands: its channel, downloads, threads, files, timers and the log.  What for, core.py decides.

One thread on asyncio's loop.  Others look up names (a name server may keep them waiting) and parse lists; how many of
them there are is bounded, and none of them is waited for at the end.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_never

from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed, Received
from tlspool_common.line import Line
from tlspool_common.log import Log
from tlspool_common.messages import AskRevocation, AskStaple
from tlspool_common.title import Title
from tlspool_online import bounds
from tlspool_online import events as e
from tlspool_online.core import OnlineCore, Options
from tlspool_online.fetch import Fetcher, FetchError
from tlspool_online.lists import BadList, RevocationList, read_untrusted
from tlspool_online.watch import Watched

EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an exception nobody expected; a trace is on standard error."""

EXIT_BROKEN = 76
"""EX_PROTOCOL: the broker broke the table of messages."""


def _now() -> e.Now:
    # Dates in lists and responses are of the wall clock; nothing is measured by it.
    return e.Now(time.monotonic() * 1000, time.time())  # noqa: TID251


class Shell:
    """The process.  Make it on a running loop."""

    def __init__(
        self, channel: Channel, options: Options, private: bool, files: Sequence[Watched], log: Log, pid: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._core = OnlineCore(options, pid)
        self._log = log
        self._names = ThreadPoolExecutor(bounds.AT_ONCE, "names")
        self._parsers = ThreadPoolExecutor(1, "lists")
        self._fetcher = Fetcher(options.ports, private, self._resolve)
        self._tasks: set[asyncio.Task[None]] = set()
        self._files = files
        self._title = Title("tlspool-online", lambda: self._core.title)
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._channel = channel
        self._line: Line | None = None

    async def run(self) -> int:
        """Serve until the broker is gone, or until told to stop; return the exit code."""
        self._loop.set_exception_handler(self._bug)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        for file in self._files:
            self._happened(file.read())
        self._line = Line(self._channel, self._said, self._lost)
        self._carry_out(self._core.begin())
        if self._files:
            self._loop.call_later(bounds.FILES_S, self._look_at_files)
        await self._stop.wait()
        self._title.close()
        self._line.close()
        return self._exit_code

    def _bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody expected: nothing can be relied on any more."""
        error = context.get("exception")
        sys.stderr.write("".join(traceback.format_exception(error)) if error else context.get("message", ""))
        self._log.error("online.internal", error=type(error).__name__)
        self._exit_code = EXIT_BUG
        self._stop.set()

    # --- the broker -------------------------------------------------------------------------------------

    def _said(self, received: Received) -> None:
        if isinstance(received.message, (AskRevocation, AskStaple)):
            self._happened(e.BrokerAsked(received.message, received.exchange))

    def _lost(self, error: ChannelClosed) -> None:
        if isinstance(error, ChannelBroken):
            self._log.error("online.broker_broken", detail=str(error))
            self._exit_code = EXIT_BROKEN
        self._stop.set()

    # --- events and effects -----------------------------------------------------------------------------

    def _happened(self, event: e.Event) -> None:
        self._carry_out(self._core.handle(event, _now()))
        self._title.changed()

    def _carry_out(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            match effect:
                case e.Send(message, exchange):
                    if self._line is not None:
                        self._line.send(message, exchange)
                case e.Fetch():
                    self._begin(self._fetch(effect))
                case e.ReadList():
                    self._begin(self._read(effect))
                case e.Arm(timer, delay_ms):
                    self._loop.call_later(delay_ms / 1000, self._happened, e.TimerFired(timer))
                case e.Note(level, event, fields):
                    if self._log.wants(level):
                        self._log.note(level, event, **fields)
                case _:
                    assert_never(effect)

    def _begin(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a task", "exception": error})

    # --- downloads --------------------------------------------------------------------------------------

    async def _fetch(self, order: e.Fetch) -> None:
        try:
            body = await self._fetcher.fetch(order)
        except FetchError as error:
            self._happened(e.FetchFailed(order.number, error.detail, error.status))
            return
        if order.kind is not e.Kind.LIST:
            self._fetcher.release(len(body))
        self._happened(e.Fetched(order.number, body))

    async def _read(self, order: e.ReadList) -> None:
        try:
            found = await self._loop.run_in_executor(self._parsers, _read_list, order)
        except BadList as error:
            self._happened(e.ListRefused(order.number, str(error)))
        else:
            self._happened(e.ListRead(order.number, found))
        finally:
            self._fetcher.release(len(order.body))

    async def _resolve(self, host: str, port: int) -> list[str]:
        found = await self._loop.run_in_executor(self._names, _addresses, host, port)
        return list(dict.fromkeys(found))

    # --- files ------------------------------------------------------------------------------------------

    def _look_at_files(self) -> None:
        self._begin(self._read_files())

    async def _read_files(self) -> None:
        for file in self._files:
            if file.changed():
                self._happened(await self._loop.run_in_executor(self._parsers, file.read))
        self._loop.call_later(bounds.FILES_S, self._look_at_files)


def _read_list(order: e.ReadList) -> RevocationList:
    """Parse a list that was downloaded; it is of use for one issuer.

    Raises:
        BadList: it does not count.
    """
    found = read_untrusted(order.body)
    if why := found.refusal(order.issuer, order.issuer_id):
        raise BadList(why)
    found.forget_source()
    return found


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(address[0]) for *_, address in found]
