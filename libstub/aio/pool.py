"""A pool as an event loop sees it: one connection that never waits.

Theory of operation.  A Line is driven by the loop: its descriptor is watched for reading all the time, so the end
of the pool is noticed at once, and for writing while something waits to be sent.  Each request has a future, by
the Line's ticket.  Cancelling who waits abandons the request: the pool is told, and what was given is closed.

    coroutine A   send ── await future ............ Finish ─▶ return
    coroutine B      send ── await future ... cancelled ─▶ Abandoned
    the loop             └─ readable ─▶ Line.receive ─▶ AskPlain: a socket pair; Finish: set the future

The connection is made when it is first needed, and again when it was lost; a pool that was there and is away is
waited for a little.  It belongs to one loop; when that is
closed, sessions go on until nobody holds this object any more, and another loop may take it over.

Bounds.  At most so many requests are under way, others wait for their turn.  Each has the time limits of core.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import weakref
from collections.abc import Callable
from typing import TypeVar

from libstub.aio.accounts import AskingRadius
from libstub.core import TICK_S
from libstub.errors import Misuse, PoolError, PoolUnavailable, ProtocolError
from libstub.events import (
    Abandoned,
    AskLocalid,
    AskPlain,
    CallbackRefused,
    CommandAsked,
    Established,
    Event,
    Finish,
    Outcome,
    PingAsked,
    PlainGiven,
    Pong,
    Replied,
    StarttlsAsked,
    Ticket,
    TimePassed,
)
from libstub.holding import Holding, OnLocalid
from libstub.line import RETURN_LOOK_S, RETURN_S, Line, Told, is_away
from libstub.plain import Addresses
from libstub.pool import COMMAND_S, CONNECT_S, PING_S
from libstub.questions import Question
from libstub.session import TlsSession
from libstub.where import socket_path
from tlspool_common.appwire import Cmd, Starttls
from tlspool_common.fd import OwnedFd

T = TypeVar("T")

REQUESTS = 900
"""Requests under way at once: below the 1000 that a pool takes on one connection (max_requests)."""

_RETRY_S = 0.02
"""Between two attempts to connect to a pool whose backlog is full; it accepts within milliseconds."""


class _Request(Holding):
    """A request under way."""

    __slots__ = ("future",)

    def __init__(
        self, crypt: OwnedFd | None = None, given: OwnedFd | None = None, on_localid: OnLocalid | None = None
    ) -> None:
        super().__init__(crypt, given, on_localid)
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()


class AsyncPool(AskingRadius):
    """A TLS pool for the coroutines of one event loop, reached by the path of its socket.

    Sessions end with this connection, unless ``fork`` was asked for.  A session keeps its pool; ``close`` ends it.

    Raises:
        Misuse: this cannot be the path of a socket.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = socket_path(path)
        self._closed = False
        self._line: Line | None = None
        self._was_there = False
        self._away_until_s: float | None = None  # when a pool that was there is not waited for any more
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._requests: dict[Ticket, _Request] = {}
        self._last_ticket = 0
        self._writing = False
        self._tick: asyncio.TimerHandle | None = None
        self._turns = asyncio.Semaphore(REQUESTS)
        _POOLS.add(self)

    async def ping(self, timeout_s: float = PING_S) -> Pong:
        """Ask whether there is a pool, and what it can do.

        Raises:
            PoolUnavailable, Refused, Misuse: there is no connection to it.
            Timeout: it did not answer.
        """
        outcome = await self._ask(_Request(), lambda ticket: PingAsked(ticket, patience_s=timeout_s))
        if not isinstance(outcome, Pong):
            raise TypeError(f"PING ended with {type(outcome).__name__}")
        return outcome

    async def starttls(
        self,
        request: Starttls,
        crypt: OwnedFd,
        *,
        alpn: bytes = b"",
        plain: OwnedFd | None = None,
        patience_s: float | None = None,
        on_localid: OnLocalid | None = None,
        addresses: Addresses | None = None,
    ) -> TlsSession:
        """Have a socket secured; ``starttls_client`` and ``starttls_server`` are easier to use.

        Both descriptors are given away, and closed whatever happens.  ``on_localid`` answers to the flag
        LOCALID_CHECK; the loop waits for it.

        Raises:
            PoolError: one of its subclasses.
        """
        waiting = _Request(crypt, plain, on_localid)
        try:
            outcome = await self._ask(
                waiting,
                lambda ticket: StarttlsAsked(ticket, request, waiting.take_crypt(), alpn=alpn, patience_s=patience_s),
            )
            if not isinstance(outcome, Established):
                raise TypeError(f"STARTTLS ended with {type(outcome).__name__}")
            if not waiting.is_served(plain):
                raise ProtocolError("the pool says that there is a session, and did not ask where the plaintext goes")
            session = TlsSession(self, outcome, waiting.ours)
        except BaseException:
            waiting.drop()
            raise
        if session.has_sock:
            session.sock.setblocking(False)
        if addresses is not None:
            session.tell_addresses(addresses)
        return session

    async def command(self, cmd: Cmd, payload: bytes, reply: Cmd, *, patience_s: float | None = COMMAND_S) -> bytes:
        """Send a command that has one reply, and return the payload of that.

        Raises:
            PoolError: one of its subclasses.
        """
        outcome = await self._ask(_Request(), lambda ticket: CommandAsked(ticket, cmd, payload, reply, patience_s))
        if not isinstance(outcome, Replied):
            raise TypeError(f"{cmd.name} ended with {type(outcome).__name__}")
        return outcome.payload

    async def ask(self, question: Question[T], patience_s: float | None = COMMAND_S) -> T:
        """Ask about a session of this pool: ``libstub.questions`` makes what a TlsSession asks by itself elsewhere.

        Raises:
            PoolError: one of its subclasses.
        """
        reply = await self.command(question.cmd, question.payload, question.cmd, patience_s=patience_s)
        return question.answer(reply)

    # --- one request ------------------------------------------------------------------------------------------

    async def _ask(self, request: _Request, make: Callable[[Ticket], Event]) -> Outcome:
        self._join(asyncio.get_running_loop())
        async with self._turns:
            line = await self._reach()
            self._last_ticket += 1
            ticket = Ticket(self._last_ticket)
            self._requests[ticket] = request
            self._act(line.handle(make(ticket)))
            try:
                outcome = await request.future
            finally:
                if self._requests.pop(ticket, None) and self._line is not None:  # cancelled
                    self._act(self._line.handle(Abandoned(ticket)))
        if isinstance(outcome, PoolError):
            raise request.trouble or outcome
        return outcome

    def _join(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this loop, if the one before is over."""
        owner = self._loop() if self._loop is not None else None
        if owner is loop:
            return
        if owner is not None and not owner.is_closed():
            raise Misuse("this AsyncPool belongs to another event loop: make one for each")
        self._loop = weakref.ref(loop)
        self._turns = asyncio.Semaphore(REQUESTS)
        self._tick, self._writing = None, False
        self._requests.clear()
        if self._line is not None:
            loop.add_reader(self._line.fileno(), self._readable)

    async def _reach(self) -> Line:
        """Return the connection, a new one if need be."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + CONNECT_S
        while True:
            if self._closed:
                raise Misuse("this AsyncPool was closed: make another one")
            if self._line is not None:
                self._act(self._line.receive())  # it may have ended a moment ago
            if self._line is not None:
                return self._line
            try:
                self._line = Line(self.path)
            except PoolUnavailable as error:
                if is_away(error) and self._was_there:
                    if self._away_until_s is None:
                        self._away_until_s = loop.time() + RETURN_S
                    if loop.time() >= self._away_until_s:
                        raise
                    await asyncio.sleep(RETURN_LOOK_S)
                    continue
                if not isinstance(error.__cause__, BlockingIOError) or loop.time() >= deadline_s:
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                self._was_there, self._away_until_s = True, None
                loop.add_reader(self._line.fileno(), self._readable)
                return self._line

    # --- what the loop calls ----------------------------------------------------------------------------------

    def _readable(self) -> None:
        if self._line is not None:
            self._act(self._line.receive())

    def _time_passes(self) -> None:
        self._tick = None
        if self._line is not None:
            self._act(self._line.handle(TimePassed()))

    def _act(self, told: list[Told]) -> None:
        """Act upon what the line tells, and wait for what it needs next."""
        line = self._line
        if line is None:
            return
        for one in told:
            if isinstance(one, Finish):
                request = self._requests.pop(one.ticket, None)
                if request is not None and not request.future.done():
                    request.future.set_result(one.outcome)
            else:
                told += line.handle(self._answer(one))
        self._watch(line)

    def _answer(self, told: AskPlain | AskLocalid) -> Event:
        request = self._requests.get(told.ticket)
        if request is None or (isinstance(told, AskLocalid) and request.on_localid is None):
            return CallbackRefused(told.ticket)
        if isinstance(told, AskLocalid):
            try:
                return request.decide(told)
            except Exception as error:  # of the application's function: it is raised where the application waits
                request.trouble = error
                return CallbackRefused(told.ticket)
        plain = request.take_plain()
        return PlainGiven(told.ticket, plain) if plain else CallbackRefused(told.ticket, errno.EMFILE)

    def _watch(self, line: Line) -> None:
        loop = self._loop() if self._loop is not None else None
        if loop is None or loop.is_closed():
            return
        if line.over:
            loop.remove_reader(line.fileno())
            loop.remove_writer(line.fileno())
            self._line, self._writing = None, False
            line.release()
        elif line.wants_write != self._writing:
            self._writing = line.wants_write
            if self._writing:
                loop.add_writer(line.fileno(), self._readable)
            else:
                loop.remove_writer(line.fileno())
        if self._requests and self._tick is None:
            self._tick = loop.call_later(TICK_S, self._time_passes)
        elif not self._requests and self._tick is not None:
            self._tick.cancel()
            self._tick = None

    # --- the end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection, which ends the sessions made over it, unless ``fork`` was asked for."""
        self._closed = True
        line = self._line
        if line is None:
            return
        self._act(line.close())
        if self._line is not None:  # its loop is closed, so nothing waits for it
            self._line = None
            line.release()

    def _forked(self) -> None:
        """Let go in a child after fork(2).  The loop's epoll is still the parent's, so it is not touched."""
        line, self._line, self._loop = self._line, None, None
        self._requests.clear()
        if line is not None:
            line.forked()

    def __repr__(self) -> str:
        return f"AsyncPool({self.path!r})"


AsyncPoolOrPath = AsyncPool | str | os.PathLike[str] | None
"""An AsyncPool, the path of one, or None for the one that the environment or the configuration names."""

_POOLS: weakref.WeakSet[AsyncPool] = weakref.WeakSet()
_ByPath = weakref.WeakValueDictionary[str, AsyncPool]
_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _ByPath] = weakref.WeakKeyDictionary()
"""A loop keeps a pool that has a connection, by watching it; one without is made again."""


def find_pool(pool: AsyncPoolOrPath = None) -> AsyncPool:
    """Return an AsyncPool; for a path the one that the whole event loop shares.

    Raises:
        Misuse: this cannot be the path of a socket.
    """
    if isinstance(pool, AsyncPool):
        return pool
    path = socket_path(pool)
    shared = _by_loop.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
    found = shared.get(path)
    return found if found is not None else shared.setdefault(path, AsyncPool(path))


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool._forked()


os.register_at_fork(after_in_child=_after_fork)
