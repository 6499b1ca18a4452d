"""Questions of operators about private keys, which keyd answers when it can: between their coroutines and the core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import count

from tlspool_broker.events import Event, KeyAsked
from tlspool_common.messages import KeyAnswer

WAIT_S = 12.0
"""A token takes its pkcs11_timeout_s, 10; a person who is to enter a PIN may take longer, and is not waited for."""


class KeyQuestions:
    """All that are open."""

    def __init__(self, happened: Callable[[Event], None]) -> None:
        self._happened = happened
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[KeyAnswer | None]] = {}

    async def ask(self, uris: Iterable[str]) -> dict[str, KeyAnswer | None]:
        """Return what keyd says of each URI; None: it did not answer in time."""
        loop = asyncio.get_running_loop()
        asked: dict[str, tuple[int, asyncio.Future[KeyAnswer | None]]] = {}
        for uri in dict.fromkeys(uris):
            number = next(self._numbers) & 0xFFFFFFFF
            asked[uri] = number, loop.create_future()
            self._open[number] = asked[uri][1]
            self._happened(KeyAsked(number, uri))
        try:
            await asyncio.wait([future for _, future in asked.values()], timeout=WAIT_S)
            return {uri: future.result() if future.done() else None for uri, (_, future) in asked.items()}
        finally:
            for number, _ in asked.values():
                self._open.pop(number, None)

    def told(self, number: int, answer: KeyAnswer | None) -> None:
        """Pass an answer on, if anybody still waits for it."""
        future = self._open.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)
