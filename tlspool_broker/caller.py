"""Who is at the other end of a connection: by word of the kernel, and for people also by word of /proc.

``SO_PEERCRED`` names user, group and process at the time of the connect (unix(7)).  A process id may be
another's by the time /proc is read; ``SO_PEERPIDFD`` (Linux 6.5) holds the process that connected, and tells
afterwards whether it was alive all the time.  Only then is what was read ``certain``.

What /proc says of a process is in the hands of that process, or of who made its control group; it is bounded and
made printable.  Access rules may go by two of these, if they are certain: the control group, which a process does
not leave by itself, and the program.

The unit is one of the host's: of a service that a user's own manager runs it is ``user@1000.service``, whatever
that service calls itself.

XXX The program is the one that runs when the connection is accepted.  A process can connect, and then execute
another program, which holds the connection without knowing: rules that name a program should name a user or a
unit too.  And /proc shows the programs of other users only to a broker with CAP_SYS_PTRACE.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
from pathlib import Path

from tlspool_broker import looker
from tlspool_broker.events import Caller
from tlspool_common import peer
from tlspool_common.fd import OwnedFd

_SO_PEERPIDFD = 77
"""Of asm-generic/socket.h; Python 3.11 has no name for it."""

_INT = struct.Struct("=i")

_PROC_B = 4096
"""Read of one file: a control group's path has at most PATH_MAX, and mostly some 60 bytes."""

_COMMAND_CHARACTERS = 15
"""TASK_COMM_LEN of Linux, less the NUL."""

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.(?:service|scope|socket|mount|swap)")
"""What systemd takes as the name of a unit that can hold processes (systemd.unit(5))."""


def identify(sock: socket.socket) -> Caller:
    """Return who connected.  Never raises for what /proc says, or does not say."""
    pid, uid, gid = peer.credentials(sock)
    groups, path = peer.groups(sock), _path(sock)
    if pid <= 0:  # of another pid namespace
        return Caller(uid, gid, 0, certain=False, groups=groups, socket=path)
    held = _pidfd(sock)
    try:
        unit = unit_untrusted(_read(pid, "cgroup"))
        command = command_untrusted(_read(pid, "comm"))
        exe = _exe(pid)
        certain = held is not None and not _has_ended(held)
    finally:
        if held is not None:
            held.close()
    return Caller(uid, gid, pid, unit, command, certain, exe, groups, path)


def unit_untrusted(text: bytes) -> str:
    """Return the systemd unit in the text of /proc/PID/cgroup, the outermost; '' when there is none.

    That is the one which the host's manager has given its name.  What is inside of it is its own affair: a user's
    manager, or a container's, calls its units what it likes.
    """
    for line in text.decode("ascii", "replace").splitlines():
        # cgroups(7): hierarchy, controllers, path; systemd's is the unified one, else the one that bears its name
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number, controllers) != ("0", "") and controllers != "name=systemd":
            continue
        for part in path.split("/"):
            name = part.removeprefix("_")  # systemd's escape for names that look like a controller's file
            if _UNIT.fullmatch(name):
                return name
    return ""


def command_untrusted(text: bytes) -> str:
    """Return the name in the text of /proc/PID/comm, printable."""
    name = text.decode("utf-8", "replace").rstrip("\n")[:_COMMAND_CHARACTERS]
    return name if name.isprintable() else "".join([letter if letter.isprintable() else "?" for letter in name])


def _path(sock: socket.socket) -> str:
    """Return the path of the socket it connected to, which is that of the listener."""
    address = sock.getsockname()
    return address if isinstance(address, str) else ""


def _exe(pid: int) -> str:
    """Return the program of a process; '' when it may not be seen, or is no file any more."""
    path = looker.program(pid)
    return path if path.startswith("/") and path.isprintable() and not path.endswith(" (deleted)") else ""


def _pidfd(sock: socket.socket) -> OwnedFd | None:
    try:
        (number,) = _INT.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, _INT.size))
    except OSError:  # an older kernel, or the process is no more
        return None
    return OwnedFd(number)


def _has_ended(pidfd: OwnedFd) -> bool:
    poll = select.poll()
    poll.register(pidfd.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _read(pid: int, name: str) -> bytes:
    try:
        fd = os.open(Path("/proc", str(pid), name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _PROC_B)
    except OSError:  # it ended between the two
        return b""
    finally:
        os.close(fd)
