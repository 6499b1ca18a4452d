"""A loop that accepts connections and has the pool secure them: what tunnel and inetd have in common.

Theory of operation.  One loop over epoll, no threads, one connection to the pool.  Handlers find out for themselves
whether there is something to do.  A *setup* is kept for each connection, from accept until the pool's final reply, or
until it fails, which is one line in the log.  Accepting stops while there is no room, and pauses when descriptors run
out; then connections wait in the kernel's backlog.  A connection to the pool that was lost is made again when it is
needed.
"""

from __future__ import annotations

import abc
import secrets
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Generic, TypeVar

from libstub.errors import HandshakeFailed, PoolError
from libstub.events import Established, Event, Finish, StarttlsAsked, Ticket, TimePassed
from libstub.line import Line, Told
from tlspool_admin.ending import heard
from tlspool_admin.endpoints import close_listener, shown
from tlspool_admin.preambles.whole import Meeting
from tlspool_admin.talk import Outcome, Talk
from tlspool_common.appwire import CTLKEY_B, Flag, Starttls
from tlspool_common.fd import SHORT, OwnedFd
from tlspool_common.log import Log

LINGER_S = 60.0
"""Longest wait for connections being set up, when the program is to end and lingers; above the pool's default."""

TICK_S = 1.0
"""How often time is looked at while anything is being set up, or accepting pauses."""

_ENDS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the pool is asked for each connection.

    Attributes:
        request: STARTTLS as it is to be sent; each gets a control key of its own.
        alpn: a ProtocolNameList body.
        pool_path: the pool's socket.
        patience_s: as in StarttlsAsked.
    """

    request: Starttls
    pool_path: str
    alpn: bytes = b""
    patience_s: float | None = None

    @property
    def is_server(self) -> bool:
        """Whether what is accepted is the encrypted side."""
        return bool(self.request.flags & Flag.LOCALROLE_SERVER)

    @property
    def lingers(self) -> bool:
        """Whether sessions outlive this program."""
        return bool(self.request.flags & Flag.FORK)


@dataclass(slots=True, eq=False)
class Setup:
    """A connection that is being set up.

    Attributes:
        accepted: until it is given away.
        remote: its address, for the log.
        talk: the conversation before TLS, while there is one.
        opening: what the conversation left to be said first.
    """

    ticket: Ticket
    accepted: socket.socket
    remote: object
    meeting: Meeting
    talk: Talk | None = None
    opening: bytes = b""

    def close(self) -> None:
        """Close what was not given away."""
        self.accepted.close()


S = TypeVar("S", bound=Setup)


class PoolLoop(abc.ABC, Generic[S]):
    """Accepts and asks.  ``run`` returns after ``stop``; it closes the listeners."""

    failed_event: ClassVar[str]
    """What the log calls a connection that could not be set up."""

    def __init__(self, ask: Ask, listeners: Sequence[socket.socket], log: Log) -> None:
        self._ask = ask
        self._listeners = list(listeners)
        self._log = log
        self._line: Line | None = None
        self._last_ticket = 0
        self._setups: dict[Ticket, S] = {}
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._talks: dict[Talk, Callable[[Outcome], None]] = {}
        self._talked: dict[Talk, dict[int, int]] = {}
        self._accepting = False
        self._pause_until_s = 0.0
        self._ticked_s = 0.0
        self._stops = 0
        self._end_s = float("inf")
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._watch(self._wake.fileno(), select.EPOLLIN, self._woken)

    # --- what differs ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def _has_room(self) -> bool:
        """Whether another connection can be accepted."""

    @abc.abstractmethod
    def _accepted(self, sock: socket.socket, remote: object) -> None:
        """Take a connection over."""

    @abc.abstractmethod
    def _established(self, setup: S, established: Established) -> None:
        """Be done with a setup that has become a session."""

    @abc.abstractmethod
    def _called_back(self, setup: S, told: Told) -> None:
        """Answer what the pool wants to know on the way."""

    @abc.abstractmethod
    def _time_passed(self, now_s: float) -> None:
        """End what has taken too long."""

    # --- the loop -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Accept no more, and end; twice: at once.  May be called from another thread."""
        self._stops += 1
        with suppress(OSError):
            self._waker.send(b"\0")

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Have SIGTERM and SIGINT call ``stop``, while the main thread is in this context."""
        # Copies, because a signal may come when ``run`` has closed both.
        with self._wake.dup(), self._waker.dup() as waker, heard(_ENDS, self.stop, waker.fileno()):
            yield

    def run(self) -> None:
        """Serve until ``stop``."""
        try:
            self._adjust()
            while not (self._stops and (self._stops > 1 or self._is_done() or time.monotonic() >= self._end_s)):
                busy = bool(self._setups) or self._pause_until_s > 0
                for fd, _ in self._epoll.poll(TICK_S if busy else None):
                    # A descriptor may have been closed, and its number used again, since poll said this: every
                    # handler finds out for itself whether there is something to do.
                    handler = self._handlers.get(fd)
                    if handler is not None:
                        handler()
                if busy:
                    self._tick()
                self._adjust()
        finally:
            self._close()

    def _is_done(self) -> bool:
        """Whether there is nothing to wait for, after ``stop``."""
        return not self._ask.lingers or not self._setups

    def _close(self) -> None:
        for listener in self._listeners:
            close_listener(listener)
        if self._line is not None:
            self._line.close("the program ends")  # which shuts down what is in a handshake
            self._line.release()
        self._drop()
        self._epoll.close()
        self._wake.close()
        self._waker.close()

    def _drop(self) -> None:
        """Close what is being set up; the connection to the pool is closed already."""
        for setup in self._setups.values():
            setup.close()
        self._setups.clear()

    def _watch(self, fd: int, events: int, handler: Callable[[], None]) -> None:
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._epoll.unregister(fd)

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            self._wake.recv(64)
        if self._stops and self._end_s == float("inf"):
            self._end_s = time.monotonic() + LINGER_S

    def _tick(self) -> None:
        now_s = time.monotonic()
        if now_s - self._ticked_s < TICK_S:
            return
        self._ticked_s = now_s
        if self._line is not None and not self._line.over:
            self._tell(TimePassed())
        for talk, done in list(self._talks.items()):
            if now_s >= talk.deadline_s:
                self._end_talk(talk)
                done(talk.time_out())
        self._time_passed(now_s)
        if self._pause_until_s and now_s >= self._pause_until_s:
            self._pause_until_s = 0.0

    # --- accepting ------------------------------------------------------------------------------------

    def _adjust(self) -> None:
        """Accept, or do not, as there is room."""
        wanted = not self._stops and not self._pause_until_s and self._has_room()
        if self._stops:
            for listener in self._listeners:
                self._unwatch(listener.fileno())
                close_listener(listener)
            self._listeners.clear()
        elif wanted != self._accepting:
            self._accepting = wanted
            for listener in self._listeners:
                if wanted:
                    self._watch(listener.fileno(), select.EPOLLIN, partial(self._accept, listener))
                else:
                    self._unwatch(listener.fileno())

    def _accept(self, listener: socket.socket) -> None:
        if not self._has_room() or self._stops:
            return
        try:
            accepted, remote = listener.accept()
        except OSError as error:
            # Anything else is the fault of that one connection, which is gone (accept(2)).
            if error.errno in SHORT:
                self._pause(error)
            return
        self._accepted(accepted, remote)

    def _pause(self, error: OSError) -> None:
        if not self._pause_until_s:
            self._log.error(f"{self._log.role}.paused", cause=error.strerror or str(error))
        self._pause_until_s = time.monotonic() + TICK_S

    def _next_ticket(self) -> Ticket:
        self._last_ticket += 1
        return Ticket(self._last_ticket)

    # --- before TLS -----------------------------------------------------------------------------------

    def _converse(self, talk: Talk, done: Callable[[Outcome], None]) -> None:
        """Have a conversation; ``done`` learns how it ended, perhaps at once."""
        self._talks[talk] = done
        self._talked[talk] = {}
        self._talk_moved(talk)

    def _talk_moved(self, talk: Talk) -> None:
        if talk not in self._talks:
            return
        outcome = talk.step()
        if outcome is not None:
            done = self._talks[talk]
            self._end_talk(talk)
            done(outcome)
            return
        self._unwatch_talk(talk)
        self._talked[talk] = talk.interests
        for fd, events in self._talked[talk].items():
            self._watch(fd, events, partial(self._talk_moved, talk))

    def _unwatch_talk(self, talk: Talk) -> None:
        for fd in self._talked[talk]:
            self._unwatch(fd)

    def _end_talk(self, talk: Talk) -> None:
        """Be done with a conversation, however far it is; its sockets are still open."""
        if self._talks.pop(talk, None):
            self._unwatch_talk(talk)
            del self._talked[talk]

    # --- the pool -------------------------------------------------------------------------------------

    def _secure(self, setup: S, crypt: socket.socket, *, details: bool) -> None:
        """Give a socket to the pool; without a connection to it the socket is closed, and the setup fails."""
        ask = self._ask
        try:
            self._reach()
        except PoolError as error:
            crypt.close()
            self._fail(setup, "warning", str(error), error.code)
            return
        request = replace(ask.request, ctlkey=secrets.token_bytes(CTLKEY_B))
        fd = OwnedFd(crypt.detach())
        self._tell(StarttlsAsked(setup.ticket, request, fd, ask.alpn, details=details, patience_s=ask.patience_s))

    def _reach(self) -> None:
        """Have a connection to the pool; a new one if the last was lost."""
        if self._line is not None and not self._line.over:
            return
        line = Line(self._ask.pool_path)
        self._line = line
        fd = line.fileno()
        self._watch(fd, select.EPOLLIN, lambda: self._line_ready(line))

    def _line_ready(self, line: Line) -> None:
        if line is self._line and not line.over:
            self._act(line, line.receive)

    def _tell(self, event: Event) -> None:
        """Let the line know; without one there is nobody who would want to."""
        line = self._line
        if line is not None and not line.over:
            self._act(line, lambda: line.handle(event))

    def _act(self, line: Line, step: Callable[[], list[Told]]) -> None:
        """Let the line do something and act upon what it tells."""
        fd, wrote = line.fileno(), line.wants_write
        told = step()
        if line.over:
            self._unwatch(fd)
            line.release()
        elif line.wants_write != wrote:
            self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if line.wants_write else 0))
        for one in told:
            self._tell_owner(one)

    def _tell_owner(self, told: Told) -> None:
        setup = self._setups.get(told.ticket)
        if setup is None:
            return
        match told:
            case Finish(_, Established() as established):
                self._established(setup, established)
            case Finish(_, outcome):
                level = "info" if isinstance(outcome, HandshakeFailed) else "warning"
                code = outcome.code if isinstance(outcome, PoolError) else 0
                self._fail(setup, level, str(outcome), code)
            case _:
                self._called_back(setup, told)

    # --- ends of setups -------------------------------------------------------------------------------

    def _forget(self, setup: S) -> None:
        """Be done with a setup; what was not given away is closed."""
        self._setups.pop(setup.ticket, None)
        if setup.talk is not None:
            self._end_talk(setup.talk)
        setup.close()

    def _fail(self, setup: S, level: str, cause: str, code: int) -> None:
        self._forget(setup)
        self._log.note(level, self.failed_event, remote=shown(setup.remote), code=code, cause=cause)
