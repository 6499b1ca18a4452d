"""Servers: what is known of each, and which identifiers are in use on which socket.

    UP --a question got no answer from it, and no other did since--> DEAD --dead time over--> PROBED by one question
     ^                                                                                           |
     +---------------------------------- an answer in time --------------------------------------+-- none: DEAD again

An answer to anything that is open, with the right authenticator, shows that a server is there.  One that comes late
does not: it may be an old one that somebody has kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tlspool_common.log import escape
from tlspool_radius import bounds
from tlspool_radius.packets import Request

_IDS = 256


class Purpose(Enum):
    """What a server is for."""

    AUTHENTICATE = "authn"
    AUTHORIZE = "authz"
    ACCOUNT = "acct"


@dataclass(slots=True)
class Counters:
    """What has become of it all, since the helper's start.

    Attributes:
        asked: questions, each once; ``repeated``: packets that were sent again.
        accepted, rejected: answers; an acknowledged record is accepted.
        timeouts: questions that it left unanswered.  ``refused``: the kernel said that nobody is there.
        authenticator, unsigned, malformed: packets that do not count.  ``late``: answers that nobody waits for.
    """

    asked: int = 0
    repeated: int = 0
    accepted: int = 0
    rejected: int = 0
    timeouts: int = 0
    refused: int = 0
    authenticator: int = 0
    unsigned: int = 0
    malformed: int = 0
    late: int = 0


@dataclass(slots=True)
class Port:
    """A socket: which question has which identifier, and which request had it before."""

    number: int
    next_id: int
    asked: dict[int, int] = field(default_factory=dict)
    before: dict[int, Request] = field(default_factory=dict)
    used_ms: float = 0.0

    def take(self, question: int) -> int | None:
        """Return a free identifier, the one that was free for longest; None: all are in use."""
        if len(self.asked) == _IDS:
            return None
        while self.next_id in self.asked:
            self.next_id = (self.next_id + 1) % _IDS
        found, self.next_id = self.next_id, (self.next_id + 1) % _IDS
        self.asked[found] = question
        return found

    def give_back(self, number: int, request: Request) -> None:
        """Let an identifier be used again; answers to its request are late ones from now on."""
        self.asked.pop(number, None)
        self.before[number] = request


@dataclass(slots=True, eq=False)
class Server:
    """One address for one purpose."""

    number: int
    purpose: Purpose
    host: str
    port: int
    secret: bytes = field(repr=False)
    first_id: int = 0
    dead_until_ms: float | None = None
    probe: int = 0
    answered_ms: float = -1.0
    rtt_ms: float = 0.0
    trouble: str = ""
    fault: str = ""
    fault_ms: float = -1.0
    ports: dict[int, Port] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    last_port: int = 0

    @property
    def name(self) -> str:
        """ADDRESS:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether its address has to be looked up."""
        return re.fullmatch(r"[0-9.]+|.*:.*", self.host) is None

    def state(self, now_ms: float) -> str:
        """Return its state in a word."""
        if not self.secret:
            return "no-secret"
        if self.dead_until_ms is None:
            return "up"
        return "dead" if now_ms < self.dead_until_ms else "probed" if self.probe else "due"

    def is_usable(self, now_ms: float) -> bool:
        """Whether a question may go to it as if it were well."""
        return self.dead_until_ms is None or (now_ms >= self.dead_until_ms and not self.probe)

    def take(self, question: int, now_ms: float) -> tuple[Port, int] | None:
        """Return a socket and an identifier for a question; None: too many are open."""
        for port in self.ports.values():
            if (number := port.take(question)) is not None:
                port.used_ms = now_ms
                return port, number
        if len(self.ports) >= bounds.PORTS:
            return None
        self.last_port += 1
        port = self.ports[self.last_port] = Port(self.last_port, self.first_id, used_ms=now_ms)
        number = port.take(question)
        return None if number is None else (port, number)

    def idle(self, now_ms: float) -> Iterator[Port]:
        """Forget sockets that have had nothing to do for long; yield them.  One stays."""
        for port in list(self.ports.values())[1:]:
            if not port.asked and now_ms - port.used_ms >= bounds.PORT_IDLE_MS:
                del self.ports[port.number]
                yield port

    def answered(self, now_ms: float, sent_ms: float | None) -> bool:
        """It has answered; whether it was thought dead.  ``sent_ms``: when the packet went out, if it went once."""
        was_dead = self.dead_until_ms is not None
        self.dead_until_ms, self.probe, self.answered_ms, self.trouble = None, 0, now_ms, ""
        if sent_ms is not None:
            took_ms = now_ms - sent_ms
            self.rtt_ms = took_ms if not self.rtt_ms else self.rtt_ms * 0.875 + took_ms * 0.125
        return was_dead

    def failed(self, since_ms: float, until_ms: float) -> bool:
        """A question that was sent at ``since_ms`` got no answer; whether it is dead now, and was not before."""
        self.probe = 0
        if self.answered_ms > since_ms:
            return False  # it answers others: this question is what it does not like
        was_dead = self.dead_until_ms is not None
        self.dead_until_ms = until_ms
        return not was_dead

    def sent_fault(self, counter: str, detail: str, now_ms: float) -> None:
        """It, or somebody in its name, has sent what does not count."""
        setattr(self.counters, counter, getattr(self.counters, counter) + 1)
        self.fault, self.fault_ms = detail, now_ms
        self.trouble = f"it sends what is no answer: {detail}"

    def line(self, now_ms: float) -> str:
        """Describe it in a line of key=value words."""
        count = self.counters
        words: dict[str, str | int | float] = {
            "purpose": self.purpose.value,
            "server": self.name,
            "state": self.state(now_ms),
            "open": sum(len(port.asked) for port in self.ports.values()),
            "asked": count.asked,
            "accepted": count.accepted,
            "rejected": count.rejected,
            "timeouts": count.timeouts,
            "refused": count.refused,
            "repeated": count.repeated,
            "authenticator": count.authenticator,
            "unsigned": count.unsigned,
            "malformed": count.malformed,
            "late": count.late,
            "rtt_ms": self.rtt_ms,
            "trouble": self.trouble[:200],
        }
        return " ".join(f"{name}={escape(value)}" for name, value in words.items())
