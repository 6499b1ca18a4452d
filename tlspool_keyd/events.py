"""What happens to keyd, and what keyd wants done: the two vocabularies between core and shell.

Events are past, effects imperative.  Times are milliseconds of CLOCK_BOOTTIME and enter with each event.
A *generation* numbers a token process, a *ticket* the descriptor over which one worker waits for one answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tlspool_common.log import Value
from tlspool_common.messages import (
    KeyAnswer,
    KeyChannel,
    KeydHello,
    KeyQuestion,
    Signed,
    SignHandshake,
    TokenFind,
    TokenFound,
    TokenList,
    TokenListed,
    TokenOpened,
    TokenSign,
    TokenSigned,
)


class Clock(Enum):
    """What a timer is for."""

    BROKER = "try to connect to the broker again"
    DEADLINE = "the oldest request has waited long enough"
    OPENING = "a token process should have opened by now"
    READY = "say ready, whether or not all tokens have opened"


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer; ``number`` tells several of one kind apart."""

    clock: Clock
    number: int = 0


# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BrokerConnected:
    """The broker's socket took our connection, and the broker runs as the user it should."""


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """There is no connection to the broker (any more)."""

    reason: str


@dataclass(frozen=True, slots=True)
class BrokerSaid:
    """A message of the broker; the descriptor of a KeyChannel stays with the shell."""

    message: KeyChannel | KeyQuestion
    exchange: int


@dataclass(frozen=True, slots=True)
class WorkerAsked:
    """A worker wants a signature."""

    worker_id: int
    message: SignHandshake
    exchange: int
    ticket: int


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's channel is closed; ``broken`` when the worker broke the table."""

    worker_id: int
    reason: str
    broken: bool


@dataclass(frozen=True, slots=True)
class TokenSaid:
    """A message of a token process."""

    generation: int
    message: TokenOpened | TokenSigned | TokenFound | TokenListed
    exchange: int


@dataclass(frozen=True, slots=True)
class TokenLost:
    """A token process has ended; ``how`` says with what status."""

    generation: int
    how: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that was armed."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class PinChanged:
    """The source of the PIN has another PIN than before."""


@dataclass(frozen=True, slots=True)
class KeysAsked:
    """An operator wants to see the keys; the ticket is for the answer."""

    ticket: int


Event = (
    BrokerConnected
    | BrokerLost
    | BrokerSaid
    | WorkerAsked
    | WorkerLost
    | TokenSaid
    | TokenLost
    | TimerFired
    | PinChanged
    | KeysAsked
)

# --- effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectBroker:
    """Try to connect; BrokerConnected or BrokerLost follows."""


@dataclass(frozen=True, slots=True)
class SendBroker:
    """Send to the broker, if it is connected."""

    message: KeydHello | KeyAnswer
    exchange: int = 0


@dataclass(frozen=True, slots=True)
class AdoptWorker:
    """Serve the descriptor that came with the KeyChannel now being handled; close this worker's older one."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class AnswerWorker:
    """Answer over the descriptor that came with the request, and close that."""

    ticket: int
    message: Signed
    exchange: int


@dataclass(frozen=True, slots=True)
class StartToken:
    """Start a token process and send it TokenOpen; the PIN is the shell's and never comes here."""

    generation: int
    module: str
    token_uri: str
    pin_refused_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SendToken:
    """Send to a token process."""

    generation: int
    message: TokenSign | TokenFind | TokenList
    exchange: int


@dataclass(frozen=True, slots=True)
class KillToken:
    """End a token process, whatever it is doing."""

    generation: int


@dataclass(frozen=True, slots=True)
class AnswerKeys:
    """Tell an operator about the keys: one dictionary for each, and what could not be looked at."""

    ticket: int
    keys: tuple[dict[str, str | bool], ...]
    troubles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SayReady:
    """Tell the supervisor that we can serve."""


@dataclass(frozen=True, slots=True)
class LookAtPin:
    """See whether the PIN's source has changed; PinChanged follows if so."""


@dataclass(frozen=True, slots=True)
class Arm:
    """Fire this timer after so many milliseconds."""

    timer: Timer
    delay_ms: float


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line to the log."""

    level: str
    event: str
    fields: dict[str, Value] = field(default_factory=dict)


Effect = (
    ConnectBroker
    | SendBroker
    | AdoptWorker
    | AnswerWorker
    | StartToken
    | SendToken
    | KillToken
    | AnswerKeys
    | SayReady
    | LookAtPin
    | Arm
    | Note
)
