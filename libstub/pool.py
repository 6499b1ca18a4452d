"""A pool as a program sees it: one connection, shared by all threads.

Theory of operation.  There is no thread in here.  Every caller sends its request and waits; of those that wait,
one is the *leader*: it reads the connection for all of them, and wakes those whose answer came.  When its own
answer has come, it makes another one the leader.  So a program with one thread costs no switch between threads,
a program that forks finds no thread missing, and while nobody waits nobody reads, which is right, as the pool
says nothing that it was not asked for.

    caller A   send ── lead: epoll, read, read ──── own answer ─▶ return
    caller B      send ── wait .................................. lead: epoll, read ── own answer ─▶ return
    caller C         send ── wait ........ answer ─▶ return

The connection is opened when it is first needed, and again when it was lost: by a restart of the pool, or by
fork(2), after which the child lets go of the parent's.  A pool that was there and is away is waited for a little: a
request that was not sent yet does not know of its restart, one that was sent fails.  Nothing waits for ever: a
request has its patience, a pool that falls silent is asked whether it is alive (core.py), and connecting is bounded.

A caller that is to decide about a local identity (``on_localid``) does so in its own thread, and does not lead
meanwhile; the others go on.

Locks: ``Pool._lock`` is held while connecting, ``_Shared._lock`` while the core works, never while waiting for
the pool or for a function of the application.  A signal handler must not use the pool that its thread is using.

What would have to change if requests came from an event loop: nothing here; a loop drives a Line of its own.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from types import TracebackType

from libstub import aaa
from libstub.accounts import AskingRadius
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
from libstub.session import TlsSession
from libstub.where import socket_path
from tlspool_common.appwire import CTLKEY_B, BadPayload, Cmd, Control, Details, Starttls
from tlspool_common.fd import OwnedFd

CONNECT_S = 5.0
"""For a pool whose backlog is full.  One that works accepts within milliseconds."""

_CONNECTS = 3
"""Times to find the connection over before anything was asked: it is stale, then new; once more for the races."""

PING_S = 10.0
"""How long an answer to PING may take; a pool takes microseconds."""

COMMAND_S = 30.0
"""How long the reply to a command about a session may take.  Most take as long as PING, some ask the worker."""


def checked_ctlkey(ctlkey: bytes) -> bytes:
    """Accept a control key.

    Raises:
        Misuse: it is none.
    """
    if not isinstance(ctlkey, bytes) or len(ctlkey) != CTLKEY_B:
        raise Misuse(f"a control key is {CTLKEY_B} bytes, as TlsSession.ctlkey has them")
    return ctlkey


class _Waiter(Holding):
    """A caller that waits for an answer.  ``wake`` is a lock that stays locked until there is something to do."""

    __slots__ = ("outcome", "question", "wake")

    def __init__(
        self, crypt: OwnedFd | None = None, given: OwnedFd | None = None, on_localid: OnLocalid | None = None
    ) -> None:
        super().__init__(crypt, given, on_localid)
        self.question: AskLocalid | None = None
        self.outcome: Outcome | None = None
        self.wake = threading.Lock()
        self.wake.acquire()

    def rouse(self) -> None:
        """Wake the caller; the lock of its connection is held, so that nobody else does at the same time."""
        if self.wake.locked():
            self.wake.release()


class _Shared:
    """A Line with its waiters."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._waiters: dict[Ticket, _Waiter] = {}
        self._leader: _Waiter | None = None
        self._last_ticket = 0
        self._ticked_s = time.monotonic()
        self._epoll = select.epoll(1)
        self._epoll.register(line.fileno(), select.EPOLLIN)
        self._armed = select.EPOLLIN

    @property
    def over(self) -> bool:
        """Whether there is no connection any more."""
        return self._line.over

    def ask(self, waiter: _Waiter, make: Callable[[Ticket], Event]) -> Outcome | None:
        """Ask the pool and wait for the outcome; None: the connection was over already, and nothing was asked."""
        ticket = None
        try:
            with self._lock:
                if not self._line.over:
                    self._work(self._line.receive)  # what came, also the end, and nobody has read it yet
                if self._line.over:
                    return None
                self._last_ticket += 1
                ticket = mine = Ticket(self._last_ticket)
                self._waiters[mine] = waiter
                self._work(lambda: self._line.handle(make(mine)))
            return self._wait(waiter)
        finally:
            if ticket is not None:
                self._leave(ticket, waiter)

    def _wait(self, waiter: _Waiter) -> Outcome:
        while True:
            with self._lock:
                if waiter.outcome is not None:
                    return waiter.outcome
                question = waiter.question
                if question is not None and self._leader is waiter:
                    self._leader = None
                    self._call_leader()
                elif question is None and self._leader is None:
                    self._leader = waiter
                leads = self._leader is waiter
            if question is not None:
                event = waiter.decide(question)
                with self._lock:
                    waiter.question = None
                    self._work(partial(self._line.handle, event))
            elif leads:
                self._lead()
            else:
                waiter.wake.acquire()

    def _leave(self, ticket: Ticket, waiter: _Waiter) -> None:
        """Be done with a caller, however it ends; another one leads in its place."""
        with self._lock:
            if self._waiters.pop(ticket, None):  # a signal handler raised: nobody waits any more
                self._work(lambda: self._line.handle(Abandoned(ticket)))
            if self._leader is waiter:
                self._leader = None
                if self._line.over:
                    self._release()
                self._call_leader()

    def _call_leader(self) -> None:
        """Wake a caller that has nothing else to do, so that it leads; ``_lock`` is held."""
        for other in self._waiters.values():
            if other.question is None:
                other.rouse()
                return

    def _lead(self) -> None:
        """Wait for the pool, at most until it is time to say that time passes."""
        ready = self._epoll.poll(TICK_S)
        with self._lock:
            now_s = time.monotonic()
            if ready:
                self._work(self._line.receive)
            if now_s - self._ticked_s >= TICK_S:
                self._ticked_s = now_s
                self._work(lambda: self._line.handle(TimePassed()))

    def _work(self, step: Callable[[], list[Told]]) -> None:
        """Let the line do something, and act upon what it tells; ``_lock`` is held."""
        try:
            told = step()
            for one in told:
                if isinstance(one, Finish):
                    waiter = self._waiters.pop(one.ticket, None)
                    if waiter is not None:
                        waiter.outcome = one.outcome
                        waiter.rouse()
                elif event := self._answer(one):
                    told += self._line.handle(event)
        except BaseException:
            # Interrupted between two steps: nobody knows which; so the connection is given up, as a whole.
            self._end("the program was interrupted while it spoke with the pool")
            raise
        if self._line.over:
            if self._leader is None:
                self._release()
            return
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._line.wants_write else 0)
        if wanted != self._armed:
            self._epoll.modify(self._line.fileno(), wanted)
            self._armed = wanted

    def _answer(self, told: AskPlain | AskLocalid) -> Event | None:
        """Return the answer to a question of the pool; None if the caller gives it."""
        waiter = self._waiters.get(told.ticket)
        if waiter is None or (isinstance(told, AskLocalid) and waiter.on_localid is None):
            return CallbackRefused(told.ticket)
        if isinstance(told, AskLocalid):
            waiter.question = told
            waiter.rouse()
            return None
        plain = waiter.take_plain()
        return PlainGiven(told.ticket, plain) if plain else CallbackRefused(told.ticket, errno.EMFILE)

    def _end(self, reason: str) -> None:
        try:
            self._line.close(reason)
        finally:
            for waiter in self._waiters.values():
                waiter.outcome = PoolUnavailable(reason)
                waiter.rouse()
            self._waiters.clear()

    def _release(self) -> None:
        """Close the descriptors of a connection that is over; a leader may be waiting for them until it leaves."""
        self._line.release()
        self._epoll.close()

    def close(self) -> None:
        """End the connection; who waits learns of it."""
        with self._lock:
            self._work(self._line.close)

    def forked(self) -> None:
        """Let go in a child after fork(2), where there are no other threads, but locks that they held."""
        self._lock = threading.Lock()
        self._leader = None
        self._work(self._line.forked)


class Pool(AskingRadius):
    """A TLS pool, reached by the path of its socket.  All threads may use it at once.

    Sessions end with the pool's connection, unless ``fork`` was asked for: keep the Pool as long as them.  (A
    TlsSession keeps its own.)  ``with`` closes the connection; so does the end of the program.

    Args:
        path: the pool's socket; None looks at TLSPOOL_SOCKET, then at the configuration (libstub.where).

    Raises:
        Misuse: this cannot be the path of a socket.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = socket_path(path)
        self._lock = threading.Lock()
        self._shared: _Shared | None = None
        self._closed = False
        self._failed: tuple[float, PoolError] | None = None
        self._away_until_s: float | None = None  # when a pool that was there is not waited for any more
        _POOLS.add(self)

    def ping(self, timeout_s: float = PING_S) -> Pong:
        """Ask whether there is a pool, and what it can do.

        Raises:
            PoolUnavailable, Refused, Misuse: there is no connection to it.
            Timeout: it did not answer.
        """
        outcome = self._ask(_Waiter(), lambda ticket: PingAsked(ticket, patience_s=timeout_s))
        if not isinstance(outcome, Pong):
            raise TypeError(f"PING ended with {type(outcome).__name__}")
        return outcome

    def starttls(
        self,
        request: Starttls,
        crypt: OwnedFd,
        *,
        alpn: bytes = b"",
        plain: OwnedFd | None = None,
        patience_s: float | None = None,
        on_localid: OnLocalid | None = None,
    ) -> TlsSession:
        """Have a socket secured; ``starttls_client`` and ``starttls_server`` are easier to use.

        Both descriptors are given away, and closed whatever happens.  ``on_localid`` answers to the flag
        LOCALID_CHECK.

        Raises:
            PoolError: one of its subclasses.
        """
        waiter = _Waiter(crypt, plain, on_localid)
        try:
            outcome = self._ask(
                waiter,
                lambda ticket: StarttlsAsked(ticket, request, waiter.take_crypt(), alpn=alpn, patience_s=patience_s),
            )
            if not isinstance(outcome, Established):
                raise TypeError(f"STARTTLS ended with {type(outcome).__name__}")
            if not waiter.is_served(plain):
                raise ProtocolError("the pool says that there is a session, and did not ask where the plaintext goes")
            return TlsSession(self, outcome, waiter.ours)
        except BaseException:
            waiter.drop()
            raise

    def command(self, cmd: Cmd, payload: bytes, reply: Cmd, *, patience_s: float | None = COMMAND_S) -> bytes:
        """Send a command that has one reply, and return the payload of that.

        Raises:
            PoolError: one of its subclasses.
        """
        outcome = self._ask(_Waiter(), lambda ticket: CommandAsked(ticket, cmd, payload, reply, patience_s))
        if not isinstance(outcome, Replied):
            raise TypeError(f"{cmd.name} ended with {type(outcome).__name__}")
        return outcome.payload

    def reattach(self, ctlkey: bytes) -> TlsSession:
        """Take control of a session that no connection controls; ``libstub.reattach`` is the same.

        Raises:
            NotInControl: there is no such session, or another connection or user has it.
            PoolError: another of its subclasses.
        """
        asked = Control(checked_ctlkey(ctlkey)).to_payload()
        self.command(Cmd.CONTROL_REATTACH, asked, Cmd.SUCCESS)
        try:
            told = Starttls.from_payload_untrusted(self.command(Cmd.LOCAL_IDENTITIES, ctlkey, Cmd.LOCAL_IDENTITIES))
            details = Details.from_payload_untrusted(self.command(Cmd.LOCAL_DETAILS, ctlkey, Cmd.LOCAL_DETAILS))
        except BadPayload as error:
            raise ProtocolError(f"the pool sent a malformed frame: {error}") from None
        tags = self.talk(aaa.more_tags(ctlkey, (), details.tags)) if details.tags else ()
        return TlsSession(self, Established(ctlkey, told.localid, told.remoteid, details, tags=tags), None)

    def _ask(self, waiter: _Waiter, make: Callable[[Ticket], Event]) -> Outcome:
        asked_s = time.monotonic()
        outcome = None
        tries = 0
        while outcome is None:
            if tries == _CONNECTS:
                raise PoolUnavailable(f"the pool at {self.path} closes connections at once: look at its log")
            tries += 1
            outcome = self._reach(asked_s).ask(waiter, make)
        if isinstance(outcome, PoolError):
            raise waiter.trouble or outcome
        return outcome

    def _reach(self, asked_s: float) -> _Shared:
        """Return the connection, a new one if need be; who waited while another failed shares the failure."""
        with self._lock:
            if self._closed:
                raise Misuse("this Pool was closed: make another one")
            if self._shared is None or self._shared.over:
                if self._failed and self._failed[0] >= asked_s:
                    raise type(self._failed[1])(*self._failed[1].args)
                if self._shared is not None and self._away_until_s is None:
                    self._away_until_s = time.monotonic() + RETURN_S
                try:
                    self._shared = _Shared(self._line())
                    self._away_until_s = None
                except PoolError as error:
                    self._failed = (time.monotonic(), error)
                    raise
            return self._shared

    def _line(self) -> Line:
        """Connect; a pool that was there is waited for, once for all who want it."""
        while True:
            try:
                return Line(self.path, CONNECT_S)
            except PoolError as error:
                if not is_away(error) or time.monotonic() >= (self._away_until_s or 0):
                    raise
            time.sleep(RETURN_LOOK_S)

    def close(self) -> None:
        """Close the connection, which ends the sessions made over it, unless ``fork`` was asked for."""
        with self._lock:
            self._closed = True
            shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def _forked(self) -> None:
        self._lock = threading.Lock()
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.forked()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Pool({self.path!r})"


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_POOLS):
        pool._forked()


os.register_at_fork(after_in_child=_after_fork)
