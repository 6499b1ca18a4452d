"""Questions of operators about RADIUS: between their coroutines and the core, which asks the helper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from tlspool_broker.events import Event, RadiusAsked, RadiusHeard
from tlspool_broker.out import Out
from tlspool_broker.radius import Radius
from tlspool_common.messages import AccessTold, AskAccess, AskRadius, RadiusTold

Heard = AccessTold | RadiusTold | None

WAIT_S = 5.0
"""Beyond its own deadline: for a helper to start, and for an answer to come through a busy loop."""


def pass_on(out: Out, radius: Radius, asked: RadiusAsked) -> None:
    """Ask the helper; RadiusHeard follows, with None if nobody can be asked."""

    def heard(answer: Heard) -> None:
        out(RadiusHeard(asked.number, answer))

    message = asked.message
    number = radius.ask(message, heard) if isinstance(message, AskAccess) else radius.status(message, heard)
    if not number:
        heard(None)


class RadiusQuestions:
    """All that are open."""

    def __init__(self, happened: Callable[[Event], None]) -> None:
        self._happened = happened
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[Heard]] = {}

    async def ask(self, message: AskAccess | AskRadius) -> Heard:
        """Return what was said; None: nobody could be asked, or has answered in time."""
        number = next(self._numbers) & 0xFFFFFFFF
        future = self._open[number] = asyncio.get_running_loop().create_future()
        own_s = message.deadline_ms / 1000 if isinstance(message, AskAccess) else 0
        self._happened(RadiusAsked(number, message))
        try:
            return await asyncio.wait_for(future, own_s + WAIT_S)
        except TimeoutError:
            return None
        finally:
            self._open.pop(number, None)

    def heard(self, number: int, answer: Heard) -> None:
        """Pass an answer on, if anybody still waits for it."""
        future = self._open.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)
