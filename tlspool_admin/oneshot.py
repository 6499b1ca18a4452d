"""`tlspool run` for one connection: accepted by a super-server, or made to a server.

The connection is secured, and then this process *becomes* the program, with the plaintext as its standard input and
output.  So the program has the process number and the exit status that the super-server or the script sees.  Its
session outlives our connection to the pool (FORK), and ends when the program has closed both.

Super-servers make the connection standard error as well.  What we have to say then goes to the system's log: it would
go to the remote otherwise, in plaintext.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import syslog
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from libstub.errors import PoolError
from tlspool_admin.endpoints import Endpoint, tune
from tlspool_admin.preambles.script import Fail, Side
from tlspool_admin.preambles.whole import Meeting, Preamble
from tlspool_admin.talk import Talk, converse
from tlspool_common import log
from tlspool_common.log import Log

CHUNK_B = 65536
"""Copied at a time: what a pipe holds."""


class Unable(Exception):
    """There is no session; the text says why."""


@dataclass(slots=True)
class Report:
    """Where we say something: standard error, or the system's log when that is the connection."""

    is_remote: bool = False
    _log: Log = field(default_factory=lambda: Log("run"))

    @classmethod
    def beside(cls, fd: int) -> Report:
        """Keep clear of a connection: standard error leads nowhere from now on, if it is the same socket."""
        with suppress(OSError):
            if os.path.sameopenfile(fd, sys.stderr.fileno()):
                null_fd = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null_fd, sys.stderr.fileno())
                os.close(null_fd)
                syslog.openlog("tlspool", syslog.LOG_PID, syslog.LOG_DAEMON)
                return cls(is_remote=True)
        return cls()

    def failed(self, remote: str, code: int, cause: str) -> None:
        """Say why there is no session."""
        if self.is_remote:
            syslog.syslog(syslog.LOG_WARNING, log.line("run.failed", {"remote": remote, "code": code, "cause": cause}))
        else:
            self._log.warning("run.failed", remote=remote, code=code, cause=cause)


def standard_input() -> socket.socket:
    """Take the connection that is our standard input.

    Raises:
        Unable: it is none.
    """
    sock = None
    try:
        sock = socket.socket(fileno=os.dup(0))
        sock.getpeername()
    except OSError as error:
        if sock is not None:
            sock.close()
        raise Unable(f"standard input is no connection: {error.strerror}") from None
    os.set_inheritable(sock.fileno(), False)
    return sock


def connected(targets: Sequence[Endpoint], time_s: float) -> socket.socket:
    """Connect to the first target that answers.

    Raises:
        Unable: none does.
    """
    why = ""
    for target in targets:
        sock = socket.socket(target.family, socket.SOCK_STREAM)
        try:
            if target.family != socket.AF_UNIX:
                tune(sock)
            sock.settimeout(time_s)
            sock.connect(target.address)
        except OSError as error:
            sock.close()
            why = error.strerror or str(error)
            continue
        sock.settimeout(None)
        return sock
    raise Unable(f"connect to {', '.join(str(target) for target in targets)}: {why}")


def agree(preamble: Preamble, sock: socket.socket, meeting: Meeting, talk_s: float) -> bytes:
    """Say and hear what precedes TLS; return what the program is to read first.

    Raises:
        Unable: there is no agreement.
    """
    if preamble.is_empty:
        return b""
    outcome = converse(Talk(preamble.dialogue(meeting), {Side.CRYPT: sock}, talk_s))
    if isinstance(outcome, Fail):
        raise Unable(outcome.text)
    return outcome.opening


def pair(opening: bytes) -> tuple[socket.socket, socket.socket]:
    """Return the program's end of the plaintext, with something to read in it, and the pool's."""
    ours, theirs = socket.socketpair()
    theirs.sendall(opening)
    return ours, theirs


def become(command: Sequence[str], plain: socket.socket, made: Mapping[str, str], report: Report) -> int:
    """Become the program, in an environment.  Returns only if it cannot be run."""
    fd = plain.fileno()
    os.dup2(fd, 0)
    os.dup2(fd, 1)
    if report.is_remote:
        os.dup2(fd, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; other programs count on them
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), dict(made))  # noqa: S606
    except OSError as error:
        report.failed("-", 0, f"{command[0]}: {error.strerror}")
        return 1


def pump(plain: socket.socket) -> int:
    """Copy standard input to the remote, and what the remote says to standard output, until the remote has ended."""

    def up() -> None:
        with suppress(OSError):
            while data := os.read(0, CHUNK_B):
                plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)

    threading.Thread(target=up, daemon=True).start()
    try:
        while data := plain.recv(CHUNK_B):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except ConnectionResetError:
        raise Unable("the session was broken off") from None
    return 0


def cause_of(error: Exception) -> tuple[int, str]:
    """Return the code and the text of a failure."""
    return (error.code, str(error)) if isinstance(error, PoolError) else (0, str(error))
