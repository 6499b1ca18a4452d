"""Who is at the other end of a UNIX socket, by word of the kernel."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("=iII")


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
