"""What happens to keyd, and what keyd wants done: the two vocabularies between core and shell.

Events are past, effects imperative.  Times are milliseconds of CLOCK_BOOTTIME and enter with each event.
A *generation* numbers a token process, a *ticket* the descriptor over which one worker waits for one answer.
"""

from __future__ import annotations

from enum import Enum

from tlspool_common.appwire import Frame
from tlspool_common.errors import Code
from tlspool_common.log import Note as Note
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
from tlspool_common.record import record


class Clock(Enum):
    """What a timer is for."""

    BROKER = "try to connect to the broker again"
    DEADLINE = "the oldest request has waited long enough"
    OPENING = "a token process should have opened by now"
    READY = "say ready, whether or not all tokens have opened"
    PIN = "a request has waited long enough for somebody to type a PIN"


@record
class Timer:
    """A timer; ``number`` tells several of one kind apart."""

    clock: Clock
    number: int = 0


# --- events -----------------------------------------------------------------------------------------


@record
class BrokerConnected:
    """The broker's socket took our connection, and the broker runs as the user it should."""


@record
class BrokerLost:
    """There is no connection to the broker (any more)."""

    reason: str


@record
class BrokerSaid:
    """A message of the broker; the descriptor of a KeyChannel stays with the shell."""

    message: KeyChannel | KeyQuestion
    exchange: int


@record
class WorkerAsked:
    """A worker wants a signature."""

    worker_id: int
    message: SignHandshake
    exchange: int
    ticket: int


@record
class WorkerLost:
    """A worker's channel is closed; ``broken`` when the worker broke the table."""

    worker_id: int
    reason: str
    broken: bool


@record
class TokenSaid:
    """A message of a token process."""

    generation: int
    message: TokenOpened | TokenSigned | TokenFound | TokenListed
    exchange: int


@record
class TokenLost:
    """A token process has ended; ``how`` says with what status."""

    generation: int
    how: str


@record
class TimerFired:
    """A timer that was armed."""

    timer: Timer


@record
class PinChanged:
    """The source of the PIN has another PIN than before."""


@record
class KeysAsked:
    """An operator wants to see the keys; the ticket is for the answer."""

    ticket: int


@record
class KeyAsked:
    """An operator wants to know whether there is a key, and its public part; the ticket is for the answer."""

    ticket: int
    uri: str


@record
class LockAsked:
    """An operator locks tokens, or unlocks them; ``uri`` was found good by ``KeydCore.check_lock``."""

    uri: str
    locked: bool
    uid: int
    author: str = ""


@record
class ServiceFrame:
    """What a PIN service said.  The PIN itself stays with the shell; here is only whether there is one."""

    reqid: int
    cbid: int
    cmd: int
    flags: int = 0
    timeout_us: int = 0
    has_pin: bool = False


@record
class ServiceArrived:
    """A program connected that may become the PIN service; user and groups are by word of the kernel."""

    service: int
    uid: int
    gids: tuple[int, ...]
    label: str


@record
class ServiceSaid:
    """A PIN service sent a frame."""

    service: int
    frame: ServiceFrame


@record
class ServiceGone:
    """The connection of a PIN service is over."""

    service: int
    reason: str


@record
class PinForgiven:
    """An operator says that people may be asked for PINs again."""


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
    | KeyAsked
    | LockAsked
    | ServiceArrived
    | ServiceSaid
    | ServiceGone
    | PinForgiven
)

# --- effects ----------------------------------------------------------------------------------------


@record
class ConnectBroker:
    """Try to connect; BrokerConnected or BrokerLost follows."""


@record
class SendBroker:
    """Send to the broker, if it is connected."""

    message: KeydHello | KeyAnswer
    exchange: int = 0


@record
class AdoptWorker:
    """Serve the descriptor that came with the KeyChannel now being handled; close this worker's older one."""

    worker_id: int


@record
class AnswerWorker:
    """Answer over the descriptor that came with the request, and close that."""

    ticket: int
    message: Signed
    exchange: int


@record
class StartToken:
    """Start a token process and send it TokenOpen; the PIN is the shell's and never comes here."""

    generation: int
    module: str
    token_uri: str
    pin_refused_by: tuple[str, ...]
    typed: tuple[str, ...] = ()  # tokens for which the shell keeps a PIN that somebody typed


@record
class SendToken:
    """Send to a token process."""

    generation: int
    message: TokenSign | TokenFind | TokenList
    exchange: int


@record
class KillToken:
    """End a token process, whatever it is doing."""

    generation: int


@record
class AnswerKey:
    """Tell an operator about a key: a code of tlspool_common.errors, and its SubjectPublicKeyInfo if that is 0."""

    ticket: int
    code: Code
    detail: str
    spki: bytes


@record
class AnswerKeys:
    """Tell an operator about the keys: one dictionary for each, and what could not be looked at."""

    ticket: int
    keys: tuple[dict[str, str | bool], ...]
    troubles: tuple[str, ...]


@record
class SayReady:
    """Tell the supervisor that we can serve."""


@record
class SendService:
    """Send a frame to a PIN service."""

    service: int
    frame: Frame


@record
class CloseService:
    """Close the connection of a PIN service, and say no more about it."""

    service: int


@record
class KeepPin:
    """Keep the PIN that came with the frame now being handled: it is for this token."""

    service: int
    module: str
    token_uri: str


@record
class ForgetPin:
    """Wipe the PIN that was kept for this token."""

    module: str
    token_uri: str


@record
class LookAtPin:
    """See whether the PIN's source has changed; PinChanged follows if so."""


@record
class Arm:
    """Fire this timer after so many milliseconds."""

    timer: Timer
    delay_ms: float


Effect = (
    ConnectBroker
    | SendBroker
    | AdoptWorker
    | AnswerWorker
    | StartToken
    | SendToken
    | KillToken
    | AnswerKey
    | AnswerKeys
    | SayReady
    | SendService
    | CloseService
    | KeepPin
    | ForgetPin
    | LookAtPin
    | Arm
    | Note
)
