"""Who there is around the broker: numbers of connections, workers and sessions, callers, and what they pass."""

from __future__ import annotations

from enum import Enum
from typing import NewType

from tlspool_common.fd import OwnedFd
from tlspool_common.record import record

ConnectionId = NewType("ConnectionId", int)
"""A connection to the application socket."""

PeerId = NewType("PeerId", int)
"""A connection of keyd or the worker master; a daemon that comes back has another one."""

WorkerNumber = NewType("WorkerNumber", int)
"""A worker, for as long as the broker lives.  Its ``worker_id`` may be used again when it has ended."""

SessionId = NewType("SessionId", int)


class HelperKind(Enum):
    """Which helper."""

    ONLINE = 1  # asks the network about certificates
    RADIUS = 2  # speaks RADIUS


@record
class HelperNumber:
    """A helper, for as long as it lives."""

    kind: HelperKind
    number: int


class FdKind(Enum):
    """What a descriptor of an application is good for."""

    STREAM = "a connected stream socket"
    SEQPACKET = "a connected seqpacket socket"
    POOL = "a socket of the pool itself"
    OTHER = "something else"


@record
class PassedFd:
    """A descriptor that an application passed, and what it was found to be.

    ``address`` is the network address of who is at the other end; '' where there is none.
    """

    fd: OwnedFd
    kind: FdKind
    address: str = ""


@record
class Caller:
    """Who is at the other end of a connection to the application socket, by word of the kernel.

    ``unit``, ``command`` and ``exe`` are what /proc says.  ``certain`` says that they are of the process that
    connected, and not of one that got its number later; only then may anything be decided by unit and exe, and by
    the command, which a process chooses for itself, never.  ``groups`` are the supplementary ones, ``socket`` the
    path of the application socket it connected to.
    """

    uid: int
    gid: int
    pid: int
    unit: str = ""
    command: str = ""
    certain: bool = True
    exe: str = ""
    groups: tuple[int, ...] = ()
    socket: str = ""

    @property
    def label(self) -> str:
        """The caller in a log line: ``postfix.service[815]``."""
        return f"{self.unit or self.command or 'unknown'}[{self.pid}]{'' if self.certain else '?'}"
