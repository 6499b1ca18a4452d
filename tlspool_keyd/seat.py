"""What the seats know: requests on their way, token processes, and the seats themselves.  seats.py acts on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tlspool_common.errors import Code, code_of
from tlspool_common.messages import TokenFind, TokenFound, TokenList, TokenListed, TokenSign, TokenSigned
from tlspool_common.record import record
from tlspool_keyd.events import Effect
from tlspool_keyd.pkcs11uri import Pkcs11Uri, parse_untrusted
from tlspool_keyd.shares import Shares

RECENT = 1000
"""Answers whose times are kept for operators; some seconds of a busy token, and 100 KiB."""

PIN_TROUBLE = (Code.PIN_MISSING, Code.PIN_WRONG, Code.PIN_LOCKED, Code.PIN_LAST_TRY)


@record
class Outcome:
    """What became of a request: a signature, a public key or a list of keys, or a code and a detail.

    ``token`` is the ``pkcs11_token`` line that answered, ``token_ms`` what that took once it had been sent; that is for
    the log, and of two outcomes that are the same it may differ.
    """

    code: Code
    detail: str = ""
    payload: bytes = b""
    keys: tuple[str, ...] = ()
    more: bool = False
    token: str = field(default="", compare=False)
    token_ms: float = field(default=0.0, compare=False)


Done = Callable[[Outcome, float], list[Effect]]
Request = TokenSign | TokenFind | TokenList
Answer = TokenSigned | TokenFound | TokenListed

ANSWER: dict[type, type] = {TokenSign: TokenSigned, TokenFind: TokenFound, TokenList: TokenListed}


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way; ``done`` is called exactly once."""

    message: Request
    deadline_ms: float
    done: Done
    owner: int = 0  # the worker that wants it; 0: keyd itself, or an operator
    settled: bool = False
    again: bool = False
    patient: bool = True  # it may wait for somebody to type a PIN
    patience_ms: float | None = None  # until then, once it began to
    asked_ms: float = 0.0  # when it came
    sent_ms: float = 0.0  # when it went to a process last

    @property
    def size_b(self) -> int:
        """Bytes that count against IN_FLIGHT_B."""
        return len(self.message.content) if isinstance(self.message, TokenSign) else 0


@dataclass(slots=True, eq=False)
class Process:
    """A token process."""

    generation: int
    started_ms: float
    heard_ms: float  # when it last answered, or had nothing to answer
    pin_number: int  # of the PIN it was started with
    kept_out: tuple[str, ...] = ()  # tokens that it was told not to log in to, as they are locked
    pending: dict[int, Job] = field(default_factory=dict)
    pending_b: int = 0
    timeouts: int = 0
    doubtful: bool = False
    draining: bool = False


@dataclass(slots=True, eq=False)
class Seat:
    """One line ``pkcs11_token`` of the configuration."""

    module: str
    token_uri: Pkcs11Uri
    current: Process | None = None
    successor: Process | None = None
    waiting: Shares[Job] = field(default_factory=Shares)  # for room in current
    hoping: deque[Job] = field(default_factory=deque)  # for the successor
    next_start_ms: float = 0
    failure: Outcome = Outcome(Code.TOKEN_GONE)  # noqa: RUF009 - nobody changes a record
    tokens: tuple[str, ...] = ()
    starts: int = 0
    stumbled: bool = False  # the last process died while opening
    typed: int = 0  # PINs that were typed for its tokens
    label: str = ""  # token_uri as text, for log and metrics
    answers: int = 0
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT))  # queue and token, in ms

    def __post_init__(self) -> None:
        self.label = str(self.token_uri)


class Pins(Protocol):
    """What is asked and told about PINs that people type; a token is a line ``URI STATE`` of TokenOpened."""

    def typed(self, module: str) -> tuple[str, ...]:
        """Return the tokens behind a module for which there is a typed PIN."""

    def may_come(self, module: str, lines: Sequence[str]) -> bool:
        """Whether there may soon be a PIN for one of these tokens."""

    def needed(self, module: str, lines: Sequence[str], now_ms: float) -> list[Effect]:
        """A session needs one of these tokens."""

    def opened(self, module: str, before: Sequence[str], lines: Sequence[str], now_ms: float) -> list[Effect]:
        """A process has opened these tokens."""


def all_ready(seat: Seat) -> bool:
    """Whether there was no trouble with any token."""
    return all(line.endswith(" ready") for line in seat.tokens)


def outcome_of(message: Answer) -> Outcome:
    """Read an answer of a token process."""
    code = code_of(message.code)
    match message:
        case TokenSigned():
            if code is Code.OK and not message.signature:
                return Outcome(Code.TOKEN_FAILED, "the signature is empty")
            return Outcome(code, message.detail, message.signature)
        case TokenFound():
            return Outcome(code, message.detail, message.spki)
        case TokenListed():
            return Outcome(code, message.detail, keys=message.keys, more=message.more)


def has_token(seat: Seat, token_uri: str) -> bool:
    """Whether a seat has this token."""
    return any(line.rpartition(" ")[0] == token_uri for line in seat.tokens)


def overlap(modules: list[tuple[str, str]]) -> tuple[str, str] | None:
    """Return two token URIs of one module that could mean the same token.

    Both would log in to it, and a wrong PIN would be tried twice.
    """
    seen: list[tuple[str, str]] = []
    for module, uri in modules:
        for other_module, other in seen:
            if module == other_module and parse_untrusted(uri).may_match(parse_untrusted(other)):
                return other, uri
        seen.append((module, uri))
    return None
