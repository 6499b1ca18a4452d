"""What happens to the helper, and what it wants done: the two vocabularies between core and shell.

Events are past, effects imperative.  Two clocks enter with each event: milliseconds that only go forward, for
waiting, and milliseconds since 1970, for what is told to servers.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum

from tlspool_common.log import Note as Note
from tlspool_common.messages import (
    AccessTold,
    Account,
    Accounted,
    AccountSettled,
    AskAccess,
    AskRadius,
    DynamicAsked,
    DynamicTold,
    RadiusHello,
    RadiusTold,
)
from tlspool_common.record import record

Address = tuple[str, int]


@record
class Now:
    """Both clocks."""

    ms: float
    wall_ms: int


class Clock(Enum):
    """What a timer is for."""

    TRY = "a server has had its time"
    DRAIN = "records that were not taken may be tried again"
    DYNAMIC = "the broker has had its time"
    SPOOL = "the spool may be there again"
    SWEEP = "time to count, and to close what is idle"


@record
class Timer:
    """A timer; ``number`` tells several of one kind apart."""

    clock: Clock
    number: int = 0


@record
class Kept:
    """What became of one thing that was given to the spool: ``code`` 0, or why it is not kept.

    ``is_record``: it is one, and the broker waits for the answer.
    """

    exchange: int
    is_record: bool
    code: int = 0
    detail: str = ""


@record
class Waiting:
    """A record in the spool.  ``record_id`` is its own in all spools there are: number and id of the spool."""

    number: int
    record_id: str
    message: Account


@record
class Figures:
    """How full the spool is; ``oldest_ms``: when the oldest record was, since 1970, 0 if there is none."""

    waiting: int = 0
    oldest_ms: int = 0
    open: int = 0


# --- events -----------------------------------------------------------------------------------------


@record
class BrokerSaid:
    """A message of the broker."""

    message: AskAccess | Account | AccountSettled | AskRadius | DynamicTold
    exchange: int


@record
class Heard:
    """A datagram from a server, at one of our sockets for it."""

    server: int
    port: int
    data: bytes = field(repr=False)


@record
class Unreachable:
    """A socket for a server says that it cannot be reached: nobody listens there, no route, no such name."""

    server: int
    port: int
    detail: str


@record
class SpoolKept:
    """The spool has done jobs: they are on the disk, or each says why not.  ``figures`` None: they are not known."""

    kept: tuple[Kept, ...]
    figures: Figures | None


@record
class SpoolLoaded:
    """Records, in their order; ``more``: there are others behind them."""

    records: tuple[Waiting, ...]
    more: bool


@record
class SpoolListed:
    """What an operator wants to see."""

    exchange: int
    records: tuple[Waiting, ...]
    figures: Figures | None


@record
class SpoolOpened:
    """The spool is there."""

    figures: Figures


@record
class SpoolFailed:
    """The spool cannot be opened, or is not usable any more."""

    detail: str


@record
class Requested:
    """A datagram of somebody who may want a session ended."""

    source: Address
    data: bytes = field(repr=False)


@record
class TimerFired:
    """A timer that was armed."""

    timer: Timer


Event = (
    BrokerSaid
    | Heard
    | Unreachable
    | SpoolKept
    | SpoolLoaded
    | SpoolListed
    | SpoolOpened
    | SpoolFailed
    | Requested
    | TimerFired
)


# --- effects ----------------------------------------------------------------------------------------


@record
class Send:
    """Say something to the broker."""

    message: RadiusHello | AccessTold | Accounted | RadiusTold | DynamicAsked
    exchange: int = 0


@record
class Transmit:
    """Send a datagram to a server from one of our sockets for it, which is opened if need be."""

    server: int
    port: int
    address: Address
    data: bytes = field(repr=False)


@record
class ClosePort:
    """Close a socket."""

    server: int
    port: int


@record
class Keep:
    """Give a record, or the word that all are named, to the spool; Kept follows."""

    exchange: int
    message: Account | AccountSettled
    wall_ms: int


@record
class Remove:
    """A record was acknowledged."""

    record_id: str


@record
class Load:
    """Read records behind that number; SpoolLoaded follows."""

    after: int
    count: int


@record
class ListSpool:
    """Read some for an operator; SpoolListed follows."""

    exchange: int
    after: int
    count: int


@record
class OpenSpool:
    """Try to open it; SpoolOpened or SpoolFailed follows."""


@record
class Reply:
    """Send the answer to a Requested."""

    source: Address
    data: bytes = field(repr=False)


@record
class Arm:
    """Let a timer fire."""

    timer: Timer
    delay_ms: float


Effect = Send | Transmit | ClosePort | Keep | Remove | Load | ListSpool | OpenSpool | Reply | Arm | Note
