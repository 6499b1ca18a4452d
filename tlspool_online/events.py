"""What happens to the helper, and what it wants done: the two vocabularies between core and shell.

Events are past, effects imperative.  Two clocks enter with each event: milliseconds that only go forward, for
waiting, and seconds since 1970, for what is signed with dates.
"""

from __future__ import annotations

from enum import Enum

from cryptography import x509

from tlspool_common.log import Note as Note
from tlspool_common.messages import AskRevocation, AskStaple, OnlineHello, RevocationTold, StapleTold
from tlspool_common.record import record
from tlspool_online.lists import RevocationList


@record
class Now:
    """Both clocks."""

    ms: float
    wall_s: float


class Clock(Enum):
    """What a timer is for."""

    QUESTION = "a question has waited long enough"
    SWEEP = "time to refresh and to count"


@record
class Timer:
    """A timer; ``number`` tells several of one kind apart."""

    clock: Clock
    number: int = 0


class Kind(Enum):
    """What is downloaded."""

    LIST = "list"
    RESPONSE = "response"


# --- events -----------------------------------------------------------------------------------------


@record
class BrokerAsked:
    """A question of the broker."""

    message: AskRevocation | AskStaple
    exchange: int


@record
class Fetched:
    """A download is complete."""

    number: int
    body: bytes


@record
class FetchFailed:
    """A download came to nothing.  ``status`` is HTTP's, 0 when it did not get that far."""

    number: int
    detail: str
    status: int = 0


@record
class ListRead:
    """A list that was downloaded is parsed, and its signature was looked at."""

    number: int
    found: RevocationList


@record
class ListRefused:
    """A list that was downloaded does not count."""

    number: int
    detail: str


@record
class FileRead:
    """A file with lists was read, for the first time or because it has changed."""

    path: str
    lists: tuple[RevocationList, ...]


@record
class FileFailed:
    """A file with lists cannot be read, or is none."""

    path: str
    detail: str


@record
class TimerFired:
    """A timer that was armed."""

    timer: Timer


Event = BrokerAsked | Fetched | FetchFailed | ListRead | ListRefused | FileRead | FileFailed | TimerFired


# --- effects ----------------------------------------------------------------------------------------


@record
class Send:
    """Say something to the broker."""

    message: OnlineHello | RevocationTold | StapleTold
    exchange: int = 0


@record
class Fetch:
    """Download; exactly one of Fetched and FetchFailed follows.  ``post`` is sent with POST, if there is any."""

    number: int
    kind: Kind
    url: str
    post: bytes


@record
class ReadList:
    """Parse a list and check that ``issuer`` has signed it, in a thread; ListRead or ListRefused follows."""

    number: int
    body: bytes
    issuer: x509.Certificate
    issuer_id: bytes


@record
class Arm:
    """Let a timer fire."""

    timer: Timer
    delay_ms: float


Effect = Send | Fetch | ReadList | Arm | Note
