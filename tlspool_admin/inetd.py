"""`tlspool run --listen`: a program for each TLS session, as inetd has one for each connection.

Theory of operation.  One loop (loop.py).  A connection is secured first; only then there is a program, with the
plaintext as its standard input and output, and what is known of the session in its environment.  So a handshake
that fails costs no process, and no byte reaches the program that was not authenticated.

    accept ─ talk ─▶ STARTTLS with what was accepted ─▶ asked for plaintext: one end of a pair ─▶ final reply
                                                                                                      │
    reaped ◀── ended, says its pidfd ◀────────────────────────── program with the other end ◀────────┘

Bounds.  Connections being set up and programs that run count together, so that one which is set up never has to
wait for a program to end.  Above that nothing is accepted, and connections wait in the kernel's backlog.

The end.  Sessions end with this process, so that programs read the end of what the remote sent, and may finish their
work; those that do not are told by SIGTERM, and then by SIGKILL.  Each further ``stop`` ends a wait.  With
``--linger`` both go on.

A program is known by a pidfd, so no signal can reach another one that got its number.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from libstub.events import Abandoned, AskPlain, CallbackRefused, Established, PlainGiven
from libstub.line import Told
from libstub.pool import Pool
from libstub.session import TlsSession
from tlspool_admin.endpoints import shown
from tlspool_admin.loop import Ask, PoolLoop, Setup
from tlspool_admin.preambles.proxyheader import Origin, origin_of
from tlspool_admin.preambles.script import Fail, Side
from tlspool_admin.preambles.whole import Meeting, Preamble
from tlspool_admin.talk import TALK_S, Outcome, Talk
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log

CHILDREN = 40
"""Programs and connections being set up at once: what tcpserver(1) has; xinetd's default is no bound at all."""

CHILD_FDS = 4
"""Descriptors of each: what was accepted, both ends of the pair, later the pidfd."""

GRACE_S = 10.0
"""For programs to end by themselves, when their sessions are over; systemd kills after 90 s."""

TERM_S = 5.0
"""From SIGTERM to SIGKILL."""

VARIABLES = ("LOCALID", "REMOTEID", "VERIFIED", "VERSION", "CIPHER", "GROUP", "ALPN", "SUBJECT", "SESSION")
"""With TLSPOOL_ in front.  What is not known is empty, so that nothing is taken over from our own environment."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is run, and for whom.

    Attributes:
        ask: what the pool is asked for each connection.
        command: the program and its arguments.
        preamble: what is said before TLS.
    """

    ask: Ask
    command: Sequence[str]
    preamble: Preamble
    children: int = CHILDREN
    talk_s: float = TALK_S


@dataclass(slots=True, eq=False)
class _Setup(Setup):
    """A connection that is being set up; ``ours`` is the program's end of the pair."""

    ours: socket.socket | None = None

    def close(self) -> None:
        """Close what was not given away."""
        Setup.close(self)  # not super(): slots=True has made this class anew
        if self.ours is not None:
            self.ours.close()


def environment(session: TlsSession, origin: Origin | None) -> dict[str, str]:
    """Return the environment of a program: ours, and what is known of its session."""
    values = (
        session.localid,
        session.remoteid,
        "1" if session.verified else "",
        session.version,
        session.cipher,
        session.group,
        session.alpn,
        session.subject.replace("\0", "?"),
        str(session.session_id or ""),
    )
    made = {**os.environ, **{f"TLSPOOL_{name}": value for name, value in zip(VARIABLES, values, strict=True)}}
    for name in ("REMOTE_HOST", "REMOTE_PORT"):
        made.pop(name, None)
    if origin is not None:
        made["REMOTE_HOST"], made["REMOTE_PORT"] = origin.source[0], str(origin.source[1])
    return made


class Inetd(PoolLoop[_Setup]):
    """A running service.  ``run`` returns after ``stop``; it closes the listeners."""

    failed_event = "run.failed"

    def __init__(self, service: Service, listeners: Sequence[socket.socket], log: Log) -> None:
        super().__init__(service.ask, listeners, log)
        self._service = service
        self._children: dict[int, tuple[subprocess.Popen[bytes], str]] = {}

    def _has_room(self) -> bool:
        return len(self._setups) + len(self._children) < self._service.children

    def _time_passed(self, now_s: float) -> None:
        """Talks and handshakes are all that takes time, and both are bounded already."""

    # --- setting up -----------------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, remote: object) -> None:
        meeting = Meeting(origin_of(sock), secrets.token_hex(8))
        setup = _Setup(self._next_ticket(), sock, remote, meeting)
        self._setups[setup.ticket] = setup
        if self._service.preamble.is_empty:
            self._starttls(setup)
            return
        setup.talk = Talk(self._service.preamble.dialogue(meeting), {Side.CRYPT: sock}, self._service.talk_s)
        self._converse(setup.talk, partial(self._talk_ended, setup))

    def _talk_ended(self, setup: _Setup, outcome: Outcome) -> None:
        setup.talk = None
        if setup.meeting.origin is not None:
            setup.remote = setup.meeting.origin.source
        if isinstance(outcome, Fail):
            self._fail(setup, "info", outcome.text, 0)
            return
        setup.opening = outcome.opening
        self._starttls(setup)

    def _starttls(self, setup: _Setup) -> None:
        self._secure(setup, setup.accepted, details=True)

    def _called_back(self, setup: _Setup, told: Told) -> None:
        if isinstance(told, AskPlain) and setup.ours is None:
            self._give_plain(setup)
        else:
            self._tell(CallbackRefused(told.ticket))

    def _give_plain(self, setup: _Setup) -> None:
        try:
            setup.ours, theirs = socket.socketpair()
        except OSError as error:
            self._pause(error)
            self._fail(setup, "warning", f"no descriptors for the plaintext: {error.strerror}", 0)
            self._tell(Abandoned(setup.ticket))
            return
        self._tell(PlainGiven(setup.ticket, OwnedFd(theirs.detach())))

    # --- programs -------------------------------------------------------------------------------------

    def _established(self, setup: _Setup, established: Established) -> None:
        if setup.ours is None:
            self._fail(setup, "warning", "the pool did not ask where the plaintext goes", 0)
            return
        session = TlsSession(Pool(self._service.ask.pool_path), established, None)
        command = list(self._service.command)
        try:
            made = environment(session, setup.meeting.origin)
            process = subprocess.Popen(command, stdin=setup.ours.fileno(), stdout=setup.ours.fileno(), env=made)
        except OSError as error:
            self._fail(setup, "error", f"{command[0]}: {error.strerror}", 0)
            return
        self._setups.pop(setup.ticket, None)
        setup.close()
        pidfd = os.pidfd_open(process.pid)
        self._children[pidfd] = (process, shown(setup.remote))
        self._watch(pidfd, select.EPOLLIN, partial(self._reap, pidfd))
        self._log.info(
            "run.started",
            pid=process.pid,
            remote=shown(setup.remote),
            remoteid=session.remoteid,
            session=session.session_id,
        )

    def _reap(self, pidfd: int) -> None:
        process, remote = self._children[pidfd]
        status = process.poll()
        if status is None:
            return
        self._unwatch(pidfd)
        os.close(pidfd)
        del self._children[pidfd]
        self._log.info("run.ended", pid=process.pid, remote=remote, status=status)

    # --- ends -----------------------------------------------------------------------------------------

    def _drop(self) -> None:
        super()._drop()
        if not self._service.ask.lingers:
            self._await_children(GRACE_S, 2)
            for number, stops in ((signal.SIGTERM, 3), (signal.SIGKILL, 4)):
                for process, _ in self._children.values():
                    process.send_signal(number)
                self._await_children(TERM_S, stops)
        for pidfd in self._children:
            os.close(pidfd)

    def _await_children(self, time_s: float, stops: int) -> None:
        """Reap until there are none, time is up, or ``stop`` was called so often."""
        end_s = time.monotonic() + time_s
        while self._children and self._stops < stops and (left_s := end_s - time.monotonic()) > 0:
            for fd, _ in self._epoll.poll(left_s):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
