"""The tunnel: accept, connect, and let the pool join the two with TLS on one side.

Theory of operation.  One loop (loop.py), and never in the data path: both sockets of a connection are given to the
pool, whose worker relays between them.  What is kept here is a *setup* for each connection under way, from accept
until the pool's final reply; an established session costs this process nothing.

    server     accept ─┬─ connect to the backend ────────────────┬─▶ give the backend's socket ──▶ final reply
                       └─ talk ─ STARTTLS with what was accepted ─▶ asked for plaintext

    client     accept ─── connect to the server ─ talk ─▶ STARTTLS with it ─▶ asked: give what was accepted

*Talk* is what a protocol says in plaintext before TLS (preambles); mostly there is none.  One that has the backend
speak, as SMTP does, begins when the backend is connected, and only then is STARTTLS said.

Otherwise a server connects to its backend during the handshake, which takes longer; so a backend that is away is
noticed even if the remote says nothing.  The price is a connection to the backend for everyone who connects to us.

Bounds.  There are at most so many setups; then nothing is accepted, and connections wait in the kernel's backlog.
Each setup ends by itself: connecting and talking have time limits, and the handshake has that of the request or of
the pool.  Each failure is one line in the log that names the cause.

Sessions end with the tunnel's connection to the pool, so with the tunnel, unless it lingers (FORK).
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from libstub.events import (
    Abandoned,
    AskPlain,
    CallbackRefused,
    Established,
    PlainGiven,
)
from libstub.line import Told
from tlspool_admin.endpoints import Endpoint, tune
from tlspool_admin.loop import Ask, PoolLoop, Setup
from tlspool_admin.preambles.proxyheader import origin_of
from tlspool_admin.preambles.script import Fail, Side
from tlspool_admin.preambles.whole import Meeting, Preamble
from tlspool_admin.talk import TALK_S, Outcome, Talk
from tlspool_common.fd import SHORT, OwnedFd
from tlspool_common.log import Log

SETUPS = 900
"""Connections being set up at once: below the 1000 open requests that a pool allows on one connection."""

SETUP_FDS = 2
OTHER_FDS = 32
"""Descriptors of a setup, and of everything else."""

CONNECT_S = 10.0
"""For connecting: two lost SYN packets are made good after 3 s (RFC 6298 section 2); haproxy advises 5 s."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the tunnel does.

    Attributes:
        ask: what the pool is asked for each connection.
        targets: where to connect to, tried in this order.
        preamble: what is said before TLS.
    """

    ask: Ask
    targets: Sequence[Endpoint]
    preamble: Preamble
    setups: int = SETUPS
    connect_s: float = CONNECT_S
    talk_s: float = TALK_S


@dataclass(slots=True, eq=False)
class _Setup(Setup):
    """A connection that is being set up.

    Attributes:
        outbound: until it is given away; None between two attempts.
        target: index of the one that ``outbound`` connects to.
        connecting: ``outbound`` is not connected yet.
        asked: the pool wants the plaintext descriptor, for a session with this remote identity.
        deadline_s: when connecting has taken too long.
    """

    outbound: socket.socket | None = None
    target: int = -1
    connecting: bool = True
    asked: str | None = None
    deadline_s: float = 0.0

    def close(self) -> None:
        """Close what was not given away."""
        Setup.close(self)  # not super(): slots=True has made this class anew
        if self.outbound is not None:
            self.outbound.close()


class Tunnel(PoolLoop[_Setup]):
    """A running tunnel.  ``run`` returns after ``stop``; it closes the listeners."""

    failed_event = "tunnel.failed"

    def __init__(self, plan: Plan, listeners: Sequence[socket.socket], log: Log) -> None:
        super().__init__(plan.ask, listeners, log)
        self._plan = plan
        self._is_server = plan.ask.is_server

    def _has_room(self) -> bool:
        return len(self._setups) < self._plan.setups

    def _time_passed(self, now_s: float) -> None:
        for setup in list(self._setups.values()):
            if setup.connecting and now_s >= setup.deadline_s:
                self._connect_failed(setup, os.strerror(errno.ETIMEDOUT))

    # --- accepting and connecting -----------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, remote: object) -> None:
        setup = _Setup(self._next_ticket(), sock, remote, Meeting(nonce=secrets.token_hex(8)))
        if self._plan.preamble.send_proxy:
            setup.meeting.origin = origin_of(sock)
        self._setups[setup.ticket] = setup
        self._connect(setup)
        if not self._plan.preamble.asks_backend and setup.ticket in self._setups:
            self._begin(setup)

    def _connect(self, setup: _Setup) -> None:
        """Connect to the next target."""
        setup.target += 1
        target = self._plan.targets[setup.target]
        try:
            sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            if error.errno in SHORT:
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
        if self._plan.preamble.asks_backend:
            self._begin(setup)
        elif setup.asked is not None:
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
        self._tell(Abandoned(setup.ticket))

    # --- before TLS -----------------------------------------------------------------------------------

    def _begin(self, setup: _Setup) -> None:
        """Talk, if there is something to be said, and ask for TLS."""
        preamble = self._plan.preamble
        if preamble.is_empty:
            self._starttls(setup)
            return
        crypt, plain = (setup.accepted, setup.outbound) if self._is_server else (setup.outbound, setup.accepted)
        ends = {Side.CRYPT: crypt, Side.PLAIN: plain}
        if not preamble.asks_backend:
            del ends[Side.PLAIN]  # it may not be connected yet
        socks = {side: sock for side, sock in ends.items() if sock is not None}
        setup.talk = Talk(preamble.dialogue(setup.meeting), socks, self._plan.talk_s)
        self._converse(setup.talk, lambda outcome: self._talk_ended(setup, outcome))

    def _talk_ended(self, setup: _Setup, outcome: Outcome) -> None:
        setup.talk = None
        if self._plan.preamble.accept_proxy and setup.meeting.origin is not None:
            setup.remote = setup.meeting.origin.source
        if isinstance(outcome, Fail):
            # What we connect to is the operator's choice; who connects to us is not.
            is_accepted = (outcome.side is Side.CRYPT) == self._is_server
            self._fail(setup, "info" if is_accepted else "warning", outcome.text, 0)
            return
        setup.opening = outcome.opening
        self._starttls(setup)

    # --- the pool -------------------------------------------------------------------------------------

    def _starttls(self, setup: _Setup) -> None:
        crypt: socket.socket | None = setup.accepted
        if not self._is_server:
            crypt, setup.outbound = setup.outbound, None
        if crypt is None:
            return
        self._secure(setup, crypt, details=False)

    def _established(self, setup: _Setup, established: Established) -> None:
        self._forget(setup)

    def _called_back(self, setup: _Setup, told: Told) -> None:
        if isinstance(told, AskPlain):
            setup.asked = told.remoteid
            self._give_plain(setup)
        else:
            self._tell(CallbackRefused(told.ticket))

    def _give_plain(self, setup: _Setup) -> None:
        if self._is_server and setup.connecting:
            return  # it is given when it is connected
        plain: socket.socket | None = setup.accepted
        if self._is_server:
            plain, setup.outbound = setup.outbound, None
        if plain is None or plain.fileno() < 0:
            self._tell(CallbackRefused(setup.ticket))  # it was given before
            return
        opening = self._plan.preamble.opening(setup.meeting, setup.asked or "", setup.opening)
        if opening and not _sent(plain, opening):
            plain.close()
            self._fail(setup, "info", "the side without TLS is gone", 0)
            self._tell(Abandoned(setup.ticket))
            return
        self._tell(PlainGiven(setup.ticket, OwnedFd(plain.detach())))

    def _forget(self, setup: _Setup) -> None:
        if setup.outbound is not None:
            self._unwatch(setup.outbound.fileno())
        super()._forget(setup)


def _sent(sock: socket.socket, data: bytes) -> bool:
    """Send a few hundred bytes.  They fit into the buffer of a socket that has nothing else in it."""
    try:
        return sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
    except OSError:
        return False
