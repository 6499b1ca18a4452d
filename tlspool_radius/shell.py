"""The helper's hands: its channel, sockets, the thread of the spool, timers and the log.  What for, core.py decides.

One thread on asyncio's loop.  One more writes the spool, and others look up names; those are not waited for at the end.
"""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import assert_never

from tlspool_common.channel import Channel, Received
from tlspool_common.helping import Helping
from tlspool_common.log import Log
from tlspool_common.messages import Account, AccountSettled, AskAccess, AskRadius, DynamicTold
from tlspool_radius import events as e
from tlspool_radius.core import RadiusCore
from tlspool_radius.sockets import Listener, Sockets
from tlspool_radius.spooler import Spooler


def _now() -> e.Now:
    # Servers want to know when it was; nothing is measured by it.
    return e.Now(time.monotonic() * 1000, time.time_ns() // 1_000_000)


class Shell:
    """The process.  Make it on a running loop.  ``spool``: where, and how many records may wait, if any."""

    def __init__(
        self,
        channel: Channel,
        core: RadiusCore,
        spool: tuple[Path, int] | None,
        listener: socket.socket | None,
        log: Log,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._core = core
        self._log = log
        self._sockets = Sockets(self._happened)
        self._listener = Listener(listener, self._happened) if listener is not None else None
        self._spooler = Spooler(*spool, self._from_thread) if spool is not None else None
        self._helping = Helping("radius", channel, log, lambda: self._core.title, self._said)

    async def run(self) -> int:
        """Serve until the broker is gone, or until told to stop; return the exit code."""
        if self._spooler is not None:
            self._spooler.start()
        code = await self._helping.serve(lambda: self._carry_out(self._core.begin()))
        self._sockets.close()
        if self._listener is not None:
            self._listener.close()
        if self._spooler is not None:
            self._spooler.stop()
        return code

    # --- the broker -------------------------------------------------------------------------------------

    def _said(self, received: Received) -> None:
        message = received.message
        if isinstance(message, (AskAccess, Account, AccountSettled, AskRadius, DynamicTold)):
            self._happened(e.BrokerSaid(message, received.exchange))

    # --- events and effects -----------------------------------------------------------------------------

    def _from_thread(self, event: e.Event) -> None:
        self._loop.call_soon_threadsafe(self._happened, event)

    def _happened(self, event: e.Event) -> None:
        if not self._helping.ends:
            self._carry_out(self._core.handle(event, _now()))
            self._helping.title.changed()

    def _carry_out(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            match effect:
                case e.Send(message, exchange):
                    self._helping.send(message, exchange)
                case e.Transmit():
                    self._sockets.transmit(effect)
                case e.ClosePort(server, port):
                    self._sockets.close_port(server, port)
                case e.Keep() | e.Remove() | e.Load() | e.ListSpool() | e.OpenSpool():
                    if self._spooler is not None:
                        self._spooler.put(effect)
                case e.Reply(source, data):
                    if self._listener is not None:
                        self._listener.reply(source, data)
                case e.Arm(timer, delay_ms):
                    self._loop.call_later(delay_ms / 1000, self._happened, e.TimerFired(timer))
                case e.Note(level, event, fields):
                    self._log.note(level, event, **fields)
                case _:
                    assert_never(effect)
