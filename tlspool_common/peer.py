"""Who is at the other end of a UNIX socket, by word of the kernel."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("=iII")

_SO_PEERGROUPS = 59
"""Of asm-generic/socket.h; Python 3.11 has no name for it."""

_GROUPS_B = 1024
"""As much as getsockopt of Python takes: 256 groups."""


class Credentials(NamedTuple):
    """struct ucred: of the process that called connect or listen, at that time (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


def credentials(sock: socket.socket) -> Credentials:
    """Return who is there; ``pid`` is 0 for a process of another pid namespace.

    Raises:
        OSError: this is no connected UNIX socket.
    """
    return Credentials._make(_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of who is there, at that time (Linux 4.13, SO_PEERGROUPS).

    XXX Of a process in more than 256 groups none is known.
    """
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_B)
    except OSError:
        return ()
    return tuple(memoryview(data).cast("I"))
