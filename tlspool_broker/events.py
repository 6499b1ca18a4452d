"""What happens to the broker, and what the broker wants done: the two vocabularies between core and shell.

Events are past, effects imperative.  Times are milliseconds of CLOCK_BOOTTIME and enter with each event.  The
shell numbers connections of applications and of the other two daemons; the core numbers sessions and workers.

A descriptor belongs to the event or effect that carries it: the core gets it with the event and gives it away
with exactly one effect, and what an effect carries the shell closes, whether or not the effect succeeds.
"""

from __future__ import annotations

from enum import Enum

from tlspool_broker.parties import Caller as Caller
from tlspool_broker.parties import ConnectionId as ConnectionId
from tlspool_broker.parties import FdKind as FdKind
from tlspool_broker.parties import HelperKind as HelperKind
from tlspool_broker.parties import HelperNumber as HelperNumber
from tlspool_broker.parties import PassedFd as PassedFd
from tlspool_broker.parties import PeerId as PeerId
from tlspool_broker.parties import SessionId as SessionId
from tlspool_broker.parties import WorkerNumber as WorkerNumber
from tlspool_broker.radius_asked import RadiusAsked as RadiusAsked
from tlspool_broker.radius_asked import RadiusHeard as RadiusHeard
from tlspool_broker.said import FromHelper as FromHelper
from tlspool_broker.said import FromWorker as FromWorker
from tlspool_broker.said import OfSession as OfSession
from tlspool_broker.said import ToHelper as ToHelper
from tlspool_broker.said import ToWorker as ToWorker
from tlspool_common.appwire import Frame
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Note as Note
from tlspool_common.messages import (
    KeyAnswer,
    KeydHello,
    KeyQuestion,
    MasterHello,
    MasterLeaves,
    PinService,
    RetireWorker,
    SpawnWorkers,
    WorkerBorn,
    WorkerGone,
)
from tlspool_common.record import record
from tlspool_common.settings import Settings


class Clock(Enum):
    """What a timer is for."""

    __hash__ = object.__hash__  # members are singles, and Enum's own is Python: tables are asked for each message

    SESSION = "what the session expects should have come"
    SPAWN = "look whether workers are missing"
    IDLE = "look whether workers have nothing to do"
    LEFT = "look whether a master has come in place of one that has left"
    TELLING = "a worker that an earlier broker had should have told its sessions"
    QUESTION = "what an application asked of a session should have been answered"
    CHOICE = "a program should have chosen an identity"
    ACCOUNTING = "there is something to do for a session that RADIUS has to do with"
    HELPER = "a helper should have said hello, or may be started again"
    AAA = "what an application asked of RADIUS should have been answered"
    ITEMS = "look for what applications account for and do not speak of any more"


@record
class Timer:
    """A timer; ``number`` tells several of one kind apart."""

    clock: Clock
    number: int = 0


# --- events -----------------------------------------------------------------------------------------


@record
class AppConnected:
    """An application connected."""

    connection: ConnectionId
    caller: Caller


@record
class AppTurnedAway:
    """An application was refused, because its user has as many connections as it may."""

    caller: Caller


@record
class AppFrame:
    """An application sent a frame, and possibly a descriptor."""

    connection: ConnectionId
    frame: Frame
    passed: PassedFd | None = None


@record
class AppGone:
    """The connection of an application is over, or will not be read from any more."""

    connection: ConnectionId
    reason: str


@record
class MasterSaid:
    """A message of the worker master."""

    peer: PeerId
    message: MasterHello | WorkerBorn | WorkerGone | MasterLeaves
    fd: OwnedFd | None = None


@record
class MasterLost:
    """The connection of a worker master is over."""

    peer: PeerId
    reason: str


@record
class KeydSaid:
    """A message of the key daemon."""

    peer: PeerId
    message: KeydHello | KeyAnswer
    exchange: int = 0


@record
class KeydLost:
    """The connection of a key daemon is over."""

    peer: PeerId
    reason: str


@record
class WorkerSaid:
    """A message of a worker."""

    worker: WorkerNumber
    message: FromWorker


@record
class WorkerLost:
    """A worker's channel is closed; ``broken`` when the worker broke the table."""

    worker: WorkerNumber
    reason: str
    broken: bool = False


@record
class HelperSaid:
    """A message of a helper; ``exchange`` is that of the question."""

    helper: HelperNumber
    exchange: int
    message: FromHelper


@record
class HelperLost:
    """A helper's channel is closed, or it could not be started."""

    helper: HelperNumber
    reason: str


@record
class TimerFired:
    """A timer that was armed."""

    timer: Timer


@record
class KeyAsked:
    """An operator wants to know whether a key exists; KeyTold follows, with the same number."""

    number: int
    uri: str


@record
class KillAsked:
    """An operator wants a session to end."""

    session_id: SessionId


@record
class DrainAsked:
    """An operator wants no new sessions, or wants them again; those that relay go on."""

    on: bool


@record
class FinishAsked:
    """An operator wants a worker to get no new sessions, and to end after its last one."""

    worker_id: int


@record
class Reconfigured:
    """The configuration was read again, and all of it is right; ``secrets_changed``: those of RADIUS servers, too."""

    settings: Settings
    secrets_changed: bool = False


@record
class Began:
    """The broker is ready: what it needs later may be started."""


@record
class StopAsked:
    """The broker is to end; sessions that relay go on without it."""


Event = (
    AppConnected
    | AppTurnedAway
    | AppFrame
    | AppGone
    | MasterSaid
    | MasterLost
    | KeydSaid
    | KeydLost
    | WorkerSaid
    | WorkerLost
    | HelperSaid
    | HelperLost
    | TimerFired
    | KeyAsked
    | RadiusAsked
    | KillAsked
    | DrainAsked
    | FinishAsked
    | Reconfigured
    | Began
    | StopAsked
)

# --- effects ----------------------------------------------------------------------------------------


@record
class SendApp:
    """Send one frame to an application, whole, without a descriptor."""

    connection: ConnectionId
    frame: Frame


@record
class SendWorker:
    """Send to a worker; WorkerLost follows when that is not possible."""

    worker: WorkerNumber
    message: ToWorker
    fd: OwnedFd | None = None


@record
class AdoptWorker:
    """Make the descriptor this worker's channel; WorkerLost follows when it is none."""

    worker: WorkerNumber
    fd: OwnedFd


@record
class CloseWorker:
    """End the channel of a worker, for all who have a copy of it, and say no more about it."""

    worker: WorkerNumber


@record
class WelcomeMaster:
    """Say Welcome to a worker master, with what tells it that we live."""

    peer: PeerId


@record
class KeepWorker:
    """Give the worker master a copy of a worker's channel, to be kept for another broker."""

    peer: PeerId
    worker: WorkerNumber
    worker_id: int
    pid: int


@record
class JoinKeyd:
    """Make a channel between a worker and keyd, and give one end to each."""

    worker: WorkerNumber
    worker_id: int
    keyd: PeerId


@record
class AskKeyd:
    """Ask keyd about a key."""

    keyd: PeerId
    exchange: int
    message: KeyQuestion


@record
class KeyTold:
    """Tell who asked what keyd knows of a key; None: it is not there, or has gone."""

    number: int
    answer: KeyAnswer | None


@record
class HandOver:
    """Give the connection of an application to keyd, and read from it no more."""

    connection: ConnectionId
    keyd: PeerId
    message: PinService


@record
class SendMaster:
    """Send to the worker master."""

    peer: PeerId
    message: SpawnWorkers | RetireWorker


@record
class ClosePeer:
    """Close the connection of keyd or a worker master, and say no more about it."""

    peer: PeerId


@record
class StartHelper:
    """Start a helper; HelperLost follows when that is not possible."""

    helper: HelperNumber


@record
class SendHelper:
    """Ask a helper, or answer it."""

    helper: HelperNumber
    exchange: int
    message: ToHelper


@record
class StopHelper:
    """Close the channel of a helper, and say no more about it: it ends then."""

    helper: HelperNumber


@record
class DropFd:
    """Close a descriptor of an application; ``shut``: let the remote see the end, whoever else holds a copy."""

    fd: OwnedFd
    shut: bool = False


@record
class Arm:
    """Fire this timer after so many milliseconds, and not when it was going to."""

    timer: Timer
    delay_ms: float


@record
class Disarm:
    """Do not fire this timer."""

    timer: Timer


Effect = (
    SendApp
    | SendWorker
    | AdoptWorker
    | CloseWorker
    | WelcomeMaster
    | KeepWorker
    | JoinKeyd
    | AskKeyd
    | KeyTold
    | RadiusHeard
    | HandOver
    | SendMaster
    | ClosePeer
    | StartHelper
    | SendHelper
    | StopHelper
    | DropFd
    | Arm
    | Disarm
    | Note
)
