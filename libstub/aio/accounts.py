"""What an AsyncPool asks of RADIUS servers: the coroutines to what libstub.accounts has for threads.

Arguments, results and errors are those of the methods of Pool.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import TypeVar

from libstub import aaa
from libstub.aaa import Access, Talk
from libstub.accounts import PATIENCE_S, Accounted
from libstub.errors import PoolError
from libstub.session import TlsSession
from tlspool_common.appwire import Cmd

T = TypeVar("T")


class AsyncAccount(Accounted):
    """An account of an AsyncPool."""

    __slots__ = ("_pool",)

    def __init__(self, pool: AskingRadius, kind: str, instance: str, acct_id: str = "") -> None:
        super().__init__(kind, instance, acct_id)
        self._pool = pool

    async def update(self, items: int | None = None, *, at_s: float | None = None) -> None:
        """Say how many items there are by now."""
        await self._pool.talk(self._talk(items, at_s, ends=False))

    async def end(self, items: int | None = None, *, at_s: float | None = None) -> None:
        """Say how many items there were in the end, and that it is over."""
        await self._pool.talk(self._talk(items, at_s, ends=True))


class Starting:
    """An account that is about to begin: ``await`` it, or use it with ``async with``, which ends it, too."""

    def __init__(self, pool: AskingRadius, started: AsyncAccount, talk: Talk[str]) -> None:
        self._pool = pool
        self._account = started
        self._start = talk

    async def _begin(self) -> AsyncAccount:
        self._account.acct_id = await self._pool.talk(self._start)
        return self._account

    def __await__(self) -> Generator[None, None, AsyncAccount]:
        return self._begin().__await__()

    async def __aenter__(self) -> AsyncAccount:
        return await self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._account.ended:
            await self._account.end()


class AskingRadius(ABC):
    """The questions of an AsyncPool to RADIUS servers."""

    @abstractmethod
    async def command(self, cmd: Cmd, payload: bytes, reply: Cmd, *, patience_s: float | None) -> bytes:
        """Send a command that has one reply, and return the payload of that."""

    async def talk(self, talk: Talk[T]) -> T:
        """Send commands one after the other, as each asks for the next; return what came of it."""
        try:
            command = next(talk)
            while True:
                try:
                    payload = await self.command(command.cmd, command.payload, command.reply, patience_s=PATIENCE_S)
                except PoolError as error:
                    command = talk.throw(error)
                else:
                    command = talk.send(payload)
        except StopIteration as end:
            found: T = end.value
            return found
        finally:
            talk.close()

    async def authenticate(
        self,
        identity: str | TlsSession | Access,
        password: str | bytes,
        *,
        localid: str = "",
        service: str = "",
        timeout_s: float | None = None,
    ) -> Access:
        """Ask a RADIUS server whether this is somebody's password."""
        return await self.talk(aaa.authenticate(identity, password, localid, service, timeout_s))

    async def authorize(
        self,
        identity: str | TlsSession | Access,
        *,
        kind: str = "",
        instance: str = "",
        localid: str = "",
        service: str = "",
        timeout_s: float | None = None,
    ) -> Access:
        """Ask a RADIUS server whether somebody, who has proved who it is, may have something."""
        return await self.talk(aaa.authorize(identity, kind, instance, localid, service, timeout_s))

    def account(
        self,
        kind: str,
        instance: str = "",
        *,
        identity: str | TlsSession | Access,
        localid: str = "",
        service: str = "",
        at_s: float | None = None,
        resume: bool = False,
    ) -> Starting:
        """Begin to bill somebody for something: ``async with pool.account(...)``, or ``await`` it."""
        talk = aaa.start(identity, kind, instance, localid, service, at_s, resume=resume)
        return Starting(self, AsyncAccount(self, kind, instance), talk)
