"""Which program a caller runs: looked up by a process that was forked before the broker entered its sandbox.

To read the link /proc/PID/exe is, for the kernel, to look into that process as a debugger does (proc_pid_exe(5)), and
Landlock lets nobody look into processes outside (landlock(7)).  So a child without Landlock does it: it gets a process
id and gives a path, and its system calls are those it needs for that; it cannot open what it finds.

It ends when the broker does.  Without it (tests; sandbox off) the link is read here.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import setproctitle

from tlspool_common import child, sandbox_calls, sandbox_seccomp
from tlspool_common.fd import open_fds
from tlspool_common.sandbox_seccomp import Rule

_PID = struct.Struct("=i")
_PATH_B = 4096
"""PATH_MAX of Linux."""

_NOTHING = b"\n"

_WAIT_S = 1.0
"""It takes 30 microseconds; one that is stopped must not stop the broker."""


class _State:
    line: socket.socket | None = None


@contextlib.contextmanager
def started() -> Iterator[None]:
    """Have the process for a while.  To be called while there is one thread."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _serve(theirs, parent_pid)
    theirs.close()
    ours.settimeout(_WAIT_S)
    _State.line = ours
    try:
        yield
    finally:
        _State.line = None
        ours.close()
        # From inside of the sandbox it cannot be killed: it is outside.  If it is stopped it dies with us.
        with child.watch(pid) as pidfd:
            select.select([pidfd], [], [], _WAIT_S)
        os.waitpid(pid, os.WNOHANG)


def program(pid: int) -> str:
    """Return where the link /proc/PID/exe leads to; '' when it may not be seen."""
    if _State.line is None:
        return _read(pid)
    try:
        _State.line.send(_PID.pack(pid))
        answer = _State.line.recv(_PATH_B)
    except OSError:
        _State.line.close()  # an answer that comes late would be taken for the next one's; nobody is known any more
        return ""
    return "" if answer == _NOTHING else os.fsdecode(answer)


def _read(pid: int) -> str:
    try:
        return str(Path("/proc", str(pid), "exe").readlink())
    except OSError:
        return ""


def calls() -> list[Rule]:
    """Return the system calls of the process: it reads links, and nothing else has a path."""
    names = f"{sandbox_calls.MEMORY} {sandbox_calls.THREADS} {sandbox_calls.SIGNALS} {sandbox_calls.TIME}"
    return [
        *sandbox_calls.allow(f"{names} recvfrom sendto read write close poll ppoll readlink readlinkat"),
        *sandbox_calls.allow("mmap", sandbox_seccomp.masked(2, mmap.PROT_EXEC)),
        *sandbox_calls.forbid(f"{sandbox_calls.KILLED} {sandbox_calls.EXECUTING}"),
    ]


def _serve(line: socket.socket, parent_pid: int) -> NoReturn:
    """Answer until the broker is gone.  Whatever happens, this process never comes back into the broker's code."""
    status = 1
    try:
        child.die_with_parent(parent_pid)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole terminal; our parent decides when we end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        setproctitle.setproctitle("tlspool-broker: looker")
        for fd in open_fds() - {2, line.fileno()}:
            os.close(fd)
        with contextlib.suppress(sandbox_seccomp.Unavailable):  # the broker says so, or refuses to start
            sandbox_seccomp.restrict(calls())
        while frame := line.recv(_PID.size):
            line.send(os.fsencode(_read(*_PID.unpack(frame))) or _NOTHING)
        status = 0
    finally:
        os._exit(status)
