"""How much of the pool one caller may use, how much it uses, and who was refused for it.

A caller is a user, as the kernel names it; where a ``limit`` rule applies (tlspool_common/quota.py), it is the programs
of this user that the rule is about.  What is counted for a caller is in its Account.

Nothing here says no: room.py does for sessions and requests, applications.py for connections.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tlspool_broker.access import covers
from tlspool_broker.events import Caller, SessionId
from tlspool_broker.out import Out
from tlspool_broker.session import Session
from tlspool_common.errors import Code, PoolError
from tlspool_common.quota import LimitRule
from tlspool_common.record import record
from tlspool_common.settings import Settings

REST_S = 2
"""Of a rate without a burst: what comes in so many seconds may come at once."""

_ACCOUNTS = 1024
"""Accounts before those are forgotten that nothing is in: more users than have programs on one host."""

_QUIET_MS = 10_000
"""Refusals of one limit, of one caller, make one line in the log in this time."""

_REPORTS = 4096
"""Such lines that are remembered; beyond it some limits are logged again too soon."""

_BUSIEST = 20
"""Callers that an operator sees."""

_NAMES = {
    "sessions": "max_sessions_per_caller",
    "handshakes": "max_handshakes_per_caller",
    "connections": "max_connections_per_caller",
    "rate": "handshake_rate_per_caller",
    "burst": "handshake_burst_per_caller",
    "requests": "request_rate_per_caller",
}
"""The setting that counts for what a rule does not name."""


@record
class Quota:
    """What one caller may use; ``rule`` '' is what everybody may."""

    sessions: int
    handshakes: int
    connections: int
    rate: float
    burst: int
    requests: float
    rule: str = ""
    ruled: frozenset[str] = frozenset()

    def reached(self, code: Code, what: str, uid: int) -> PoolError:
        """Return the refusal for a limit that was reached: which it is, its value, and what to change."""
        return PoolError(code, f"{self.name_of(what)} is {getattr(self, what):g}, user {uid}")

    def name_of(self, what: str) -> str:
        """Return what an operator changes to have another limit."""
        return f"limit {self.rule} {what}" if what in self.ruled else _NAMES[what]


class Bucket:
    """Tokens that come at a rate, and are kept up to a burst."""

    __slots__ = ("_at_ms", "_taken")

    def __init__(self) -> None:
        self._at_ms = 0
        self._taken = 0.0

    def take(self, now_ms: int, rate: float, burst: float) -> bool:
        """Take one, if there is one.  The rate may be another one each time."""
        if self.rest(now_ms, rate) + 1 > burst:
            return False
        self._taken += 1
        return True

    def rest(self, now_ms: int, rate: float) -> float:
        """Return how many are missing until it is full."""
        self._taken = max(0.0, self._taken - (now_ms - self._at_ms) * rate / 1000)
        self._at_ms = now_ms
        return self._taken


@dataclass(slots=True, eq=False)
class Account:
    """What one caller uses now.

    Attributes:
        silent: handshakes that wait for the first word of their remote, and since when; the oldest first.
        stalled: those that are in the middle, by the last time that the broker heard of them.
    """

    uid: int
    rule: str
    sessions: int = 0
    handshakes: int = 0
    silent: dict[SessionId, tuple[Session, int]] = field(default_factory=dict)
    stalled: dict[SessionId, tuple[Session, int]] = field(default_factory=dict)
    begun: Bucket = field(default_factory=Bucket)
    asked: Bucket = field(default_factory=Bucket)


class Quotas:
    """The limits in force, and all accounts."""

    def __init__(self, out: Out, settings: Settings) -> None:
        self._out = out
        self._settings = settings
        self._accounts: dict[tuple[str, int], Account] = {}
        self._noted: dict[tuple[str, int], tuple[int, int]] = {}
        self.refused: Counter[str] = Counter()
        self.replace()

    def replace(self) -> None:
        """Go by the settings as they are now."""
        mine = self._settings
        self._everybody = Quota(
            sessions=mine.max_sessions_per_caller,
            handshakes=mine.max_handshakes_per_caller,
            connections=mine.max_connections_per_caller,
            rate=mine.handshake_rate_per_caller,
            burst=mine.handshake_burst_per_caller,
            requests=mine.request_rate_per_caller,
        )

    def of(self, caller: Caller) -> Quota:
        """Return what a caller may use."""
        for rule in self._settings.quotas:
            if covers(rule, caller, uncertain=False):
                return self._by_rule(rule)
        return self._everybody

    def _by_rule(self, rule: LimitRule) -> Quota:
        every = self._everybody
        given = {name: value for name in _NAMES if (value := getattr(rule, name)) is not None}
        if "rate" in given and "burst" not in given:
            given["burst"] = max(1, round(given["rate"] * REST_S))
        ruled = frozenset(given)
        rest = {name: getattr(every, name) for name in _NAMES if name not in given}
        return Quota(**given, **rest, rule=rule.name, ruled=ruled)

    def account(self, caller: Caller, quota: Quota) -> Account:
        """Return the account of a caller."""
        key = quota.rule, caller.uid
        found = self._accounts.get(key)
        if found is None:
            if len(self._accounts) >= _ACCOUNTS:
                self._forget()
            found = self._accounts[key] = Account(caller.uid, quota.rule)
        return found

    def _forget(self) -> None:
        """Forget accounts that are as good as new."""
        now_ms, every = self._out.now_ms, self._everybody
        for key, account in list(self._accounts.items()):
            rates = ((account.begun, every.rate), (account.asked, every.requests))
            if not account.sessions and not any(bucket.rest(now_ms, rate) for bucket, rate in rates):
                del self._accounts[key]

    def turned_away(self, caller: Caller) -> None:
        """A connection was refused because its caller has as many as it may."""
        quota = self.of(caller)
        self.note(quota.name_of("connections"), quota.connections, caller)

    def busiest(self) -> Account:
        """Return the account with the most handshakes; there is one."""
        return max(self._accounts.values(), key=lambda account: account.handshakes)

    def note(self, limit: str, allowed: float, caller: Caller) -> None:
        """Count a refusal, and log it unless the same was logged a moment ago."""
        self.refused[limit] += 1
        key = limit, caller.uid
        since_ms, more = self._noted.get(key, (-_QUIET_MS, 0))
        if self._out.now_ms - since_ms < _QUIET_MS:
            self._noted[key] = since_ms, more + 1
            return
        if len(self._noted) >= _REPORTS:
            self._noted.clear()
        self._noted[key] = self._out.now_ms, 0
        self._out.note(
            "warning",
            "limit.reached",
            limit=limit,
            allowed=allowed,
            caller=caller.label,
            uid=caller.uid,
            before=more,
            total=self.refused[limit],
        )

    def rows(self) -> list[dict[str, object]]:
        """Return how often each limit has refused somebody, for an operator."""
        return [{"limit": limit, "refused": count} for limit, count in sorted(self.refused.items())]

    def callers(self) -> list[dict[str, object]]:
        """Return who uses the most."""
        busy = sorted(self._accounts.values(), key=lambda one: (-one.handshakes, -one.sessions, one.uid))
        return [
            {
                "uid": one.uid,
                "rule": one.rule or "-",
                "sessions": one.sessions,
                "handshakes": one.handshakes,
                "silent": len(one.silent),
            }
            for one in busy[:_BUSIEST]
            if one.sessions
        ]
