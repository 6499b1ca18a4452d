"""A conversation in plaintext before TLS, as a script, with no socket or clock in it.

Theory of operation.  Two sides talk: CRYPT, whose socket is to carry TLS, and PLAIN, the other one.  A protocol is
written down as a generator, a *script*: it yields what is to be said, and what it needs to hear before it goes on.
A Dialogue runs a script: events go in, effects come out.

    script                        dialogue
    yield Say(side, data)         effect Say
    yield Need(side, size)        reads that many bytes, and sends them into the script
    yield NeedUntil(side, end)    the same, up to and with ``end``
    raise Refused(side, text)     effect Fail
    return opening                effect Secure; ``opening`` is what PLAIN is told when the remote is known

Bounds.  No more is read than ``wants`` says, so what comes later stays in the kernel for who gets the socket next.
Each line and the whole conversation have a limit.  What was read and not asked for when a script ends is refused:
it came in plaintext, and must not be taken for something that came over TLS (CVE-2011-0411).

A script raises nothing but Refused for what it hears.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

LINE_B = 4096
"""Longest line.  RFC 5321 section 4.5.3.1 allows 512, RFC 3501 leaves it open; Dovecot's capabilities have 400."""

LINES = 100
"""Lines of one answer: a server that has more extensions than this is none."""

TOTAL_B = 65536
"""Read in one conversation.  The longest that is known, IMAP with capabilities asked twice, has 3000."""

COMMANDS = 20
"""Commands of a client before it turns to TLS; Postfix ends after 20 that make no sense, too."""


class Side(Enum):
    """The ends of a tunnel."""

    CRYPT = "crypt"
    PLAIN = "plain"

    __hash__ = object.__hash__  # of Enum it is a function in Python, which every look into a dictionary calls


class Refused(Exception):
    """There will be no TLS.  ``side`` is whose doing it is; the text is for the log."""

    def __init__(self, side: Side, text: str) -> None:
        super().__init__(text)
        self.side = side
        self.text = text


@dataclass(frozen=True, slots=True)
class Say:
    """Send to a side."""

    side: Side
    data: bytes


@dataclass(frozen=True, slots=True)
class Need:
    """Hear so many bytes, and do not read one more."""

    side: Side
    size_b: int


@dataclass(frozen=True, slots=True)
class NeedUntil:
    """Hear everything up to and with ``end``, within ``limit_b``; ``exact`` does not read one byte more."""

    side: Side
    end: bytes = b"\n"
    limit_b: int = LINE_B
    exact: bool = False


Step = Say | Need | NeedUntil
Script = Generator[Step, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes came from the side that ``wants`` named; no more than it named."""

    side: Side
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A side says no more."""

    side: Side
    reason: str = "closed the connection"


@dataclass(frozen=True, slots=True)
class TimedOut:
    """It takes too long."""


Event = Received | Ended | TimedOut


@dataclass(frozen=True, slots=True)
class Secure:
    """CRYPT waits for TLS now.  ``opening`` is for PLAIN, once the remote is known."""

    opening: bytes


@dataclass(frozen=True, slots=True)
class Fail:
    """There will be no TLS."""

    side: Side
    text: str


Effect = Say | Secure | Fail

_NAMES = {Side.CRYPT: "the remote", Side.PLAIN: "the backend"}


@dataclass(slots=True)
class Dialogue:
    """A script under way.  ``handle`` never raises for what it hears.

    Attributes:
        over: there was a Secure or a Fail.
    """

    script: Script
    names: Mapping[Side, str] = field(default_factory=lambda: _NAMES)
    over: bool = False
    _need: Need | NeedUntil | None = None
    _buffers: dict[Side, bytearray] = field(default_factory=lambda: {Side.CRYPT: bytearray(), Side.PLAIN: bytearray()})
    _read_b: int = 0

    def start(self) -> list[Effect]:
        """Begin."""
        return self._go_on(None)

    @property
    def wants(self) -> tuple[Side, int] | None:
        """Whom to listen to, and how much to read at most; None when it is over."""
        need = self._need
        if need is None or self.over:
            return None
        held = self._buffers[need.side]
        if isinstance(need, Need):
            return need.side, need.size_b - len(held)
        if need.exact:
            # The shortest that can be missing: the last byte of ``end``, or all of it.
            matched = len(need.end)
            while not held.endswith(need.end[:matched]):
                matched -= 1
            return need.side, len(need.end) - matched
        return need.side, need.limit_b - len(held)

    def handle(self, event: Event) -> list[Effect]:
        """Take an event, and return what is to be done."""
        if self.over:
            return []
        match event:
            case Received(side, data):
                return self._received_untrusted(side, data)
            case Ended(side, reason):
                return self._fail(side, f"{self.names[side]} {reason}")
            case TimedOut():
                side = self._need.side if self._need else Side.CRYPT
                return self._fail(side, f"{self.names[side]} took too long to agree on TLS")
            case _:
                assert_never(event)

    def _received_untrusted(self, side: Side, data: bytes) -> list[Effect]:
        self._buffers[side] += data
        self._read_b += len(data)
        if self._read_b > TOTAL_B:
            return self._fail(side, f"{self.names[side]} said more than {TOTAL_B} bytes before TLS")
        effects: list[Effect] = []
        while not self.over and (need := self._need) is not None:
            held = self._buffers[need.side]
            if isinstance(need, Need):
                if len(held) < need.size_b:
                    return effects
                end = need.size_b
            else:
                at = held.find(need.end, 0, need.limit_b)
                if at < 0:
                    if len(held) >= need.limit_b:
                        effects += self._fail(need.side, f"{self.names[need.side]} sent an endless line")
                    return effects
                end = at + len(need.end)
            part = bytes(held[:end])
            del held[:end]
            effects += self._go_on(part)
        return effects

    def _go_on(self, heard: bytes | None) -> list[Effect]:
        """Let the script run until it needs something that is not there."""
        effects: list[Effect] = []
        self._need = None
        try:
            step = next(self.script) if heard is None else self.script.send(heard)
            while isinstance(step, Say):
                effects.append(step)
                step = self.script.send(b"")
            self._need = step
        except StopIteration as end:
            # Where something is behind the last word that was needed, not even the answer to it is given.
            effects = self._glued() or [*effects, Secure(end.value)]
            self.over = True
        except Refused as error:
            effects += self._fail(error.side, error.text)
        return effects

    def _glued(self) -> list[Effect]:
        for side, held in self._buffers.items():
            if held:
                return self._fail(
                    side, f"{self.names[side]} sent {len(held)} bytes in plaintext after it agreed on TLS"
                )
        return []

    def _fail(self, side: Side, text: str) -> list[Effect]:
        self.over = True
        self.script.close()
        return [Fail(side, text)]
