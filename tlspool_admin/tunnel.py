"""The tunnel: accept, connect, and let the pool join the two with TLS on one side.

Theory of operation.  One loop, no threads, and never in the data path: both sockets of a connection are given
to the pool, whose worker relays between them.  What is kept here is a *setup* for each connection under way,
from accept until the pool's final reply; an established session costs this process nothing.

    server     accept ─┬─ connect to the backend ────────────┬─▶ give the backend's socket ──▶ final reply
                       └─ STARTTLS with what was accepted ─▶ asked for plaintext

    client     accept ─── connect to the server ─▶ STARTTLS with it ─▶ asked for plaintext: give what was accepted

A server connects to its backend during the handshake, which takes longer; so a backend that is away is noticed
even if the remote says nothing.  The price is a connection to the backend for everyone who connects to us.

Bounds.  There are at most so many setups; then nothing is accepted, and connections wait in the kernel's backlog.
Each setup ends by itself: connecting has a timeout, and the handshake has that of the request or of the pool.
When descriptors run out, accepting pauses.  Each failure is one line in the log that names the cause.

Sessions end with the tunnel's connection to the pool, so with the tunnel, unless it lingers (FORK).

What would have to change if the backend were to learn who the remote is: AskPlain carries both identities, and
the backend's socket is still ours at that moment.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from libstub.errors import HandshakeFailed, PoolError
from libstub.events import (
    Abandoned,
    AskPlain,
    CallbackRefused,
    Established,
    Event,
    Finish,
    PlainGiven,
    StarttlsAsked,
    Ticket,
    TimePassed,
)
from libstub.line import Line, Told
from tlspool_admin.endpoints import Endpoint, close_listener, shown, tune
from tlspool_common.appwire import CTLKEY_B, Flag, Starttls
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log

SETUPS = 900
"""Connections being set up at once: below the 1000 open requests that a pool allows on one connection."""

SETUP_FDS = 2
OTHER_FDS = 32
"""Descriptors of a setup, and of everything else."""

CONNECT_S = 10.0
"""For connecting: two lost SYN packets are made good after 3 s (RFC 6298 section 2); haproxy advises 5 s."""

LINGER_S = 60.0
"""Longest wait for connections being set up, when the tunnel is to end and lingers; above the pool's default."""

TICK_S = 1.0
"""How often time is looked at while anything is being set up, or accepting pauses."""

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Plan:
    """What the tunnel does.

    Attributes:
        request: STARTTLS as it is to be sent; each gets a control key of its own.
        alpn: a ProtocolNameList body.
        targets: where to connect to, tried in this order.
        pool_path: the pool's socket.
        patience_s: as in StarttlsAsked.
    """

    request: Starttls
    targets: Sequence[Endpoint]
    pool_path: str
    alpn: bytes = b""
    patience_s: float | None = None
    setups: int = SETUPS
    connect_s: float = CONNECT_S

    @property
    def is_server(self) -> bool:
        """Whether what is accepted is the encrypted side."""
        return bool(self.request.flags & Flag.LOCALROLE_SERVER)

    @property
    def lingers(self) -> bool:
        """Whether sessions outlive the tunnel."""
        return bool(self.request.flags & Flag.FORK)


class _Setup:
    """A connection that is being set up.

    Attributes:
        accepted: until it is given away.
        outbound: until it is given away; None between two attempts.
        target: index of the one that ``outbound`` connects to.
        connecting: ``outbound`` is not connected yet.
        asked: the pool wants the plaintext descriptor.
        deadline_s: when connecting has taken too long.
    """

    __slots__ = ("accepted", "asked", "connecting", "deadline_s", "outbound", "remote", "target", "ticket")

    def __init__(self, ticket: Ticket, accepted: socket.socket, remote: object) -> None:
        self.ticket = ticket
        self.accepted = accepted
        self.remote = remote
        self.outbound: socket.socket | None = None
        self.target = -1
        self.connecting = True
        self.asked = False
        self.deadline_s = 0.0

    def close(self) -> None:
        """Close what was not given away."""
        self.accepted.close()
        if self.outbound is not None:
            self.outbound.close()


class Tunnel:
    """A running tunnel.  ``run`` returns after ``stop``; it closes the listeners."""

    def __init__(self, plan: Plan, listeners: Sequence[socket.socket], log: Log) -> None:
        self._plan = plan
        self._is_server = plan.is_server
        self._listeners = list(listeners)
        self._log = log
        self._line: Line | None = None
        self._setups: dict[Ticket, _Setup] = {}
        self._last_ticket = 0
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._accepting = False
        self._pause_until_s = 0.0
        self._ticked_s = 0.0
        self._stops = 0
        self._end_s = float("inf")
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._watch(self._wake.fileno(), select.EPOLLIN, self._woken)

    # --- the loop -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Accept no more, and end; twice: at once.  May be called from a signal handler or another thread."""
        self._stops += 1
        with suppress(OSError):
            self._waker.send(b"\0")

    def run(self) -> None:
        """Serve until ``stop``."""
        try:
            self._adjust()
            while not self._finished():
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

    def _finished(self) -> bool:
        if not self._stops:
            return False
        return self._stops > 1 or not self._plan.lingers or not self._setups or time.monotonic() >= self._end_s

    def _close(self) -> None:
        for listener in self._listeners:
            close_listener(listener)
        if self._line is not None:
            self._line.close("the tunnel ends")  # which shuts down what is in a handshake
            self._line.release()
        for setup in self._setups.values():
            setup.close()
        self._setups.clear()
        self._epoll.close()
        self._wake.close()
        self._waker.close()

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
        for setup in list(self._setups.values()):
            if setup.connecting and now_s >= setup.deadline_s:
                self._connect_failed(setup, os.strerror(errno.ETIMEDOUT))
        if self._pause_until_s and now_s >= self._pause_until_s:
            self._pause_until_s = 0.0

    # --- accepting ------------------------------------------------------------------------------------

    def _adjust(self) -> None:
        """Accept, or do not, as there is room."""
        wanted = not self._stops and not self._pause_until_s and len(self._setups) < self._plan.setups
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
        if len(self._setups) >= self._plan.setups or self._stops:
            return
        try:
            accepted, remote = listener.accept()
        except OSError as error:
            # Anything else is the fault of that one connection, which is gone (accept(2)).
            if error.errno in _SHORT:
                self._pause(error)
            return
        self._last_ticket += 1
        setup = _Setup(Ticket(self._last_ticket), accepted, remote)
        self._setups[setup.ticket] = setup
        self._connect(setup)
        if self._is_server and setup.ticket in self._setups:
            self._starttls(setup, setup.accepted)

    def _pause(self, error: OSError) -> None:
        if not self._pause_until_s:
            self._log.error("tunnel.paused", cause=error.strerror or str(error), setups=len(self._setups))
        self._pause_until_s = time.monotonic() + TICK_S

    # --- connecting -----------------------------------------------------------------------------------

    def _connect(self, setup: _Setup) -> None:
        """Connect to the next target."""
        setup.target += 1
        target = self._plan.targets[setup.target]
        try:
            sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            if error.errno in _SHORT:
                self._pause(error)
            self._connect_failed(setup, error.strerror or str(error))
            return
        setup.outbound = sock
        setup.deadline_s = time.monotonic() + self._plan.connect_s
        if target.family != socket.AF_UNIX:
            tune(sock)
        if not self._connected(setup):
            self._watch(sock.fileno(), select.EPOLLOUT, lambda: self._connect_moved(setup))

    def _connect_moved(self, setup: _Setup) -> None:
        if setup.connecting and setup.outbound is not None:
            self._connected(setup)

    def _connected(self, setup: _Setup) -> bool:
        """Go on with connect(2), which tells how far it is; return whether there is nothing to wait for."""
        sock = setup.outbound
        if sock is None:
            return True
        number = sock.connect_ex(self._plan.targets[setup.target].address)
        if number in (errno.EINPROGRESS, errno.EALREADY):
            return False
        self._unwatch(sock.fileno())
        if number not in (0, errno.EISCONN):
            self._connect_failed(setup, os.strerror(number))
            return True
        setup.connecting = False
        if not self._is_server:
            setup.outbound = None
            self._starttls(setup, sock)
        elif setup.asked:
            self._give_plain(setup)
        return True

    def _connect_failed(self, setup: _Setup, why: str) -> None:
        sock, setup.outbound = setup.outbound, None
        if sock is not None:
            self._unwatch(sock.fileno())
            sock.close()
        if setup.target + 1 < len(self._plan.targets):
            self._connect(setup)
            return
        where = ", ".join(str(target) for target in self._plan.targets)
        self._fail(setup, "warning", f"connect to {where}: {why}", 0)
        if self._line is not None and not self._line.over:
            self._tell(Abandoned(setup.ticket))

    # --- the pool -------------------------------------------------------------------------------------

    def _starttls(self, setup: _Setup, crypt: socket.socket) -> None:
        try:
            self._reach()
        except PoolError as error:
            crypt.close()
            self._fail(setup, "warning", str(error), error.code)
            return
        request = replace(self._plan.request, ctlkey=secrets.token_bytes(CTLKEY_B))
        fd = OwnedFd(crypt.detach())
        self._tell(
            StarttlsAsked(setup.ticket, request, fd, self._plan.alpn, details=False, patience_s=self._plan.patience_s)
        )

    def _reach(self) -> None:
        """Have a connection to the pool; a new one if the last was lost."""
        if self._line is not None and not self._line.over:
            return
        line = Line(self._plan.pool_path)
        self._line = line
        fd = line.fileno()
        self._watch(fd, select.EPOLLIN, lambda: self._line_ready(line))

    def _line_ready(self, line: Line) -> None:
        if line is self._line and not line.over:
            self._act(line, line.receive)

    def _tell(self, event: Event) -> None:
        line = self._line
        if line is not None:
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
            setup = self._setups.get(one.ticket)
            if setup is None:
                continue
            match one:
                case AskPlain():
                    setup.asked = True
                    self._give_plain(setup)
                case Finish(_, Established()):
                    self._forget(setup)
                case Finish(_, outcome):
                    level = "info" if isinstance(outcome, HandshakeFailed) else "warning"
                    code = outcome.code if isinstance(outcome, PoolError) else 0
                    self._fail(setup, level, str(outcome), code)
                case _:
                    self._tell(CallbackRefused(one.ticket))

    def _give_plain(self, setup: _Setup) -> None:
        if self._is_server and setup.connecting:
            return  # it is given when it is connected
        plain: socket.socket | None = setup.accepted
        if self._is_server:
            plain, setup.outbound = setup.outbound, None
        if plain is None or plain.fileno() < 0:
            self._tell(CallbackRefused(setup.ticket))  # it was given before
        else:
            self._tell(PlainGiven(setup.ticket, OwnedFd(plain.detach())))

    def _forget(self, setup: _Setup) -> None:
        """Be done with a setup; what was not given away is closed."""
        self._setups.pop(setup.ticket, None)
        if setup.outbound is not None:
            self._unwatch(setup.outbound.fileno())
        setup.close()

    def _fail(self, setup: _Setup, level: str, cause: str, code: int) -> None:
        self._forget(setup)
        self._log.note(level, "tunnel.failed", remote=shown(setup.remote), code=code, cause=cause)
