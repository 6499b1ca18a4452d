"""The helper's hands: its channel, downloads, threads, files, timers and the log.  What for, core.py decides.

One thread on asyncio's loop.  Others look up names (a name server may keep them waiting) and parse lists; how many of
them there are is bounded, and none of them is waited for at the end.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_never

from tlspool_common.channel import Channel, Received
from tlspool_common.helping import Helping
from tlspool_common.log import Log
from tlspool_common.messages import AskRevocation, AskStaple
from tlspool_online import bounds
from tlspool_online import events as e
from tlspool_online.core import OnlineCore, Options
from tlspool_online.fetch import Fetcher, FetchError
from tlspool_online.lists import BadList, RevocationList, read_untrusted
from tlspool_online.watch import Watched


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
        self._helping = Helping("online", channel, log, lambda: self._core.title, self._said)

    async def run(self) -> int:
        """Serve until the broker is gone, or until told to stop; return the exit code."""
        for file in self._files:
            self._happened(file.read())
        return await self._helping.serve(self._begin_core)

    def _begin_core(self) -> None:
        self._carry_out(self._core.begin())
        if self._files:
            self._loop.call_later(bounds.FILES_S, self._look_at_files)

    # --- the broker -------------------------------------------------------------------------------------

    def _said(self, received: Received) -> None:
        if isinstance(received.message, (AskRevocation, AskStaple)):
            self._happened(e.BrokerAsked(received.message, received.exchange))

    # --- events and effects -----------------------------------------------------------------------------

    def _happened(self, event: e.Event) -> None:
        self._carry_out(self._core.handle(event, _now()))
        self._helping.title.changed()

    def _carry_out(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            match effect:
                case e.Send(message, exchange):
                    self._helping.send(message, exchange)
                case e.Fetch():
                    self._begin(self._fetch(effect))
                case e.ReadList():
                    self._begin(self._read(effect))
                case e.Arm(timer, delay_ms):
                    self._loop.call_later(delay_ms / 1000, self._happened, e.TimerFired(timer))
                case e.Note(level, event, fields):
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
