"""What happens to the broker, and what the broker wants done: the two vocabularies between core and shell.

Events are past, effects imperative.  Times are milliseconds of CLOCK_BOOTTIME and enter with each event.  The
shell numbers connections of applications and of the other two daemons; the core numbers sessions and workers.

A descriptor belongs to the event or effect that carries it: the core gets it with the event and gives it away
with exactly one effect, and what an effect carries the shell closes, whether or not the effect succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from tlspool_common.appwire import Frame
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Value
from tlspool_common.messages import (
    ClientHelloSeen,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    KeyAnswer,
    KeydHello,
    MasterHello,
    PlainConnected,
    Proceed,
    RetireWorker,
    SessionEnded,
    SpawnWorkers,
    StartSession,
    TrustAnchor,
    TrustBegin,
    UseCredential,
    WorkerBorn,
    WorkerGone,
)

ConnectionId = NewType("ConnectionId", int)
"""A connection to the application socket."""

PeerId = NewType("PeerId", int)
"""A connection of keyd or the worker master; a daemon that comes back has another one."""

WorkerNumber = NewType("WorkerNumber", int)
"""A worker, for as long as the broker lives.  The master's ``worker_id`` begins anew when the master does."""

SessionId = NewType("SessionId", int)

FromWorker = ClientHelloSeen | HandshakeDone | HandshakeFailed | SessionEnded
ToWorker = TrustBegin | TrustAnchor | StartSession | UseCredential | Proceed | PlainConnected | EndSession


class FdKind(Enum):
    """What a descriptor of an application is good for."""

    STREAM = "a connected stream socket"
    SEQPACKET = "a connected seqpacket socket"
    POOL = "a socket of the pool itself"
    OTHER = "something else"


@dataclass(frozen=True, slots=True)
class PassedFd:
    """A descriptor that an application passed, and what it was found to be."""

    fd: OwnedFd
    kind: FdKind


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a connection to the application socket, by word of the kernel.

    ``unit`` and ``command`` are for people: nothing is decided by them.  ``certain`` says that they are of the
    process that connected, and not of one that got its number later.
    """

    uid: int
    gid: int
    pid: int
    unit: str = ""
    command: str = ""
    certain: bool = True

    @property
    def label(self) -> str:
        """The caller in a log line: ``postfix.service[815]``."""
        return f"{self.unit or self.command or 'unknown'}[{self.pid}]{'' if self.certain else '?'}"


class Clock(Enum):
    """What a timer is for."""

    SESSION = "what the session expects should have come"
    SPAWN = "look whether workers are missing"
    IDLE = "look whether workers have nothing to do"


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer; ``number`` tells several of one kind apart."""

    clock: Clock
    number: int = 0


# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AppConnected:
    """An application connected."""

    connection: ConnectionId
    caller: Caller


@dataclass(frozen=True, slots=True)
class AppFrame:
    """An application sent a frame, and possibly a descriptor."""

    connection: ConnectionId
    frame: Frame
    passed: PassedFd | None = None


@dataclass(frozen=True, slots=True)
class AppGone:
    """The connection of an application is over, or will not be read from any more."""

    connection: ConnectionId
    reason: str


@dataclass(frozen=True, slots=True)
class MasterSaid:
    """A message of the worker master."""

    peer: PeerId
    message: MasterHello | WorkerBorn | WorkerGone
    fd: OwnedFd | None = None


@dataclass(frozen=True, slots=True)
class MasterLost:
    """The connection of a worker master is over."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class KeydSaid:
    """A message of the key daemon."""

    peer: PeerId
    message: KeydHello | KeyAnswer


@dataclass(frozen=True, slots=True)
class KeydLost:
    """The connection of a key daemon is over."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerSaid:
    """A message of a worker."""

    worker: WorkerNumber
    message: FromWorker


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's channel is closed; ``broken`` when the worker broke the table."""

    worker: WorkerNumber
    reason: str
    broken: bool = False


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that was armed."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class KillAsked:
    """An operator wants a session to end."""

    session_id: SessionId


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The broker is to end; sessions that relay go on without it."""


Event = (
    AppConnected
    | AppFrame
    | AppGone
    | MasterSaid
    | MasterLost
    | KeydSaid
    | KeydLost
    | WorkerSaid
    | WorkerLost
    | TimerFired
    | KillAsked
    | StopAsked
)

# --- effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendApp:
    """Send one frame to an application, whole, without a descriptor."""

    connection: ConnectionId
    frame: Frame


@dataclass(frozen=True, slots=True)
class SendWorker:
    """Send to a worker; WorkerLost follows when that is not possible."""

    worker: WorkerNumber
    message: ToWorker
    fd: OwnedFd | None = None


@dataclass(frozen=True, slots=True)
class AdoptWorker:
    """Make the descriptor this worker's channel; WorkerLost follows when it is none."""

    worker: WorkerNumber
    fd: OwnedFd


@dataclass(frozen=True, slots=True)
class CloseWorker:
    """Close the channel of a worker, and say no more about it."""

    worker: WorkerNumber


@dataclass(frozen=True, slots=True)
class JoinKeyd:
    """Make a channel between a worker and keyd, and give one end to each."""

    worker: WorkerNumber
    worker_id: int
    keyd: PeerId


@dataclass(frozen=True, slots=True)
class SendMaster:
    """Send to the worker master."""

    peer: PeerId
    message: SpawnWorkers | RetireWorker


@dataclass(frozen=True, slots=True)
class ClosePeer:
    """Close the connection of keyd or a worker master, and say no more about it."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class DropFd:
    """Close a descriptor of an application; ``shut``: let the remote see the end, whoever else holds a copy."""

    fd: OwnedFd
    shut: bool = False


@dataclass(frozen=True, slots=True)
class Arm:
    """Fire this timer after so many milliseconds, and not when it was going to."""

    timer: Timer
    delay_ms: float


@dataclass(frozen=True, slots=True)
class Disarm:
    """Do not fire this timer."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line to the log."""

    level: str
    event: str
    fields: dict[str, Value] = field(default_factory=dict)


Effect = (
    SendApp | SendWorker | AdoptWorker | CloseWorker | JoinKeyd | SendMaster | ClosePeer | DropFd | Arm | Disarm | Note
)


class Out:
    """Where the parts of the core put effects, and read the time."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._effects: list[Effect] = []

    def __call__(self, effect: Effect) -> None:
        """Add an effect."""
        self._effects.append(effect)

    def note(self, level: str, event: str, **fields: Value) -> None:
        """Add a line for the log."""
        self._effects.append(Note(level, event, fields))

    def take(self) -> list[Effect]:
        """Return what was added since the last time."""
        effects, self._effects = self._effects, []
        return effects
