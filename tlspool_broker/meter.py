"""What is known of a session for accounting and timeouts: since when it counts, what it has moved, when to look again.

All times here are milliseconds of CLOCK_BOOTTIME, so that a broker that is started anew goes on with them, and so that
they count while the host sleeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tlspool_broker.radius_grant import Admission
from tlspool_common.errors import Code
from tlspool_common.messages import Account, EndReason, SessionEnded, Status, Traffic
from tlspool_common.radius_table import BY_NAME

INTERIM_LEAST_S = 60
"""Seconds between two updates at least: RFC 2869 section 5.16 has no less, and advises ten minutes."""

SPREAD = 0.2
"""Of an interval: sessions that began together are not to be updated together for ever."""

ANSWER_MS = 30_000
"""For a worker to say what a session has moved, until it is asked again; it takes microseconds when it is its turn."""

SESSION_TIMEOUT, IDLE_TIMEOUT, CALLER_GONE, OPERATOR = "session timeout", "idle timeout", "caller gone", "operator"
"""Who has ended a session (``Session.ended_by``), besides ``radius SERVER``."""

CAUSES = dict(BY_NAME["Acct-Terminate-Cause"].values)

_BY_REASON = {
    EndReason.CLEAN: "User-Request",
    EndReason.TRUNCATED: "Lost-Carrier",
    EndReason.REMOTE_RESET: "Lost-Carrier",
    EndReason.REMOTE_ALERT: "User-Error",
    EndReason.PLAIN_LOST: "Lost-Service",
    EndReason.ORDERED: "NAS-Request",
    EndReason.WORKER_LOST: "NAS-Error",
}
_BY_ENDER = {
    SESSION_TIMEOUT: "Session-Timeout",
    IDLE_TIMEOUT: "Idle-Timeout",
    CALLER_GONE: "Host-Request",
    OPERATOR: "Admin-Reset",
}
_BY_CODE = {
    Code.CALLER_GONE: "Host-Request",
    Code.BAD_CALLBACK_ANSWER: "Host-Request",
    Code.CALLBACK_TIMEOUT: "Host-Request",
    Code.REQID_IN_USE: "Host-Request",
    Code.SESSION_KILLED: "Admin-Reset",
    Code.WORKER_DIED: "NAS-Error",
    Code.INTERNAL: "NAS-Error",
}

_SECONDS_MOST = 2**32 - 1


@dataclass(slots=True, eq=False)
class Meter:
    """Of one session that RADIUS has to do with.

    Attributes:
        began_ms: of its START.
        timed_ms: from when on its session timeout counts: its START, or when a server has set it last.
        active_ms: when the last byte was moved, as far as is known.
        told: what its worker has said last, if it has.
        update_ms: when the next update is due; None: there are none.
        interval_s: between updates, as it was planned last.
        asked_ms: when the worker was asked last, if it has not answered since; ``open``: answers that are to come.
        renews_until_ms: not None: its session timeout is over, and servers are asked whether it may go on.
        waits: nobody knows yet whether the START can be kept.
    """

    began_ms: int
    timed_ms: int
    active_ms: int
    told: Traffic | None = None
    update_ms: int | None = None
    updates: int = 0
    interval_s: float = 0
    asked_ms: int | None = None
    open: int = 0
    renews_until_ms: int | None = None
    waits: bool = False

    def timeout_ms(self, access: Admission) -> int | None:
        """Return when the session timeout is over, or the wait for servers that are asked about that; None: never."""
        if self.renews_until_ms is not None:
            return self.renews_until_ms
        return self.timed_ms + access.session_timeout_s * 1000 if access.session_timeout_s else None

    def idle_ms(self, access: Admission) -> int | None:
        """Return when the idle timeout is over, if nothing is moved until then; None: never."""
        return self.active_ms + access.idle_timeout_s * 1000 if access.idle_timeout_s else None

    def look_ms(self, access: Admission) -> int | None:
        """Return when there is something to do; None: never."""
        traffic = [one for one in (self.update_ms, self.idle_ms(access)) if one is not None]
        if self.asked_ms is not None:
            traffic = [max(one, self.asked_ms + ANSWER_MS) for one in traffic]
        timeout_ms = self.timeout_ms(access)
        return min(traffic if timeout_ms is None else [*traffic, timeout_ms], default=None)

    def plan(self, number: int, interval_s: float, now_ms: int, *, found: bool = False) -> None:
        """Set the time of the next update: after ``interval_s``, or one that was ``found`` at some time before it."""
        self.updates += 1
        self.interval_s = interval_s
        if not interval_s:
            self.update_ms = None
            return
        chance = ((number * 2_654_435_761 + self.updates * 40_503_003) & 0xFFFFFFFF) / 2**32
        share = chance if found else 1 - SPREAD / 2 + SPREAD * chance
        self.update_ms = now_ms + int(max(interval_s, INTERIM_LEAST_S) * 1000 * share)

    def describe(self, access: Admission, now_ms: int) -> Iterator[tuple[str, object]]:
        """Yield what an operator sees: names and values."""
        yield "acct_id", access.acct_id if access.accounts else ""
        yield "accounted_s", max(0, now_ms - self.began_ms) // 1000
        for name, due_ms in (("session_timeout", self.timeout_ms(access)), ("idle_timeout", self.idle_ms(access))):
            yield f"{name}_left_s", None if due_ms is None else max(0, int(due_ms - now_ms)) // 1000


def record_of(
    status: Status, access: Admission, at_ms: int, session_ms: int = 0, moved: Traffic | None = None, cause: str = ""
) -> Account:
    """Return what is to be accounted for; ``at_ms`` since 1970."""
    authentic = "RADIUS" if access.authn and access.servers else "Local"
    return Account(
        status=status,
        acct_id=access.acct_id,
        at_ms=max(0, at_ms),
        attributes=(*access.attributes, f"Acct-Authentic={authentic}"),
        classes=access.classes,
        from_remote_b=0 if moved is None else moved.from_remote_b,
        to_remote_b=0 if moved is None else moved.to_remote_b,
        from_remote_records=0 if moved is None else moved.from_remote_records,
        to_remote_records=0 if moved is None else moved.to_remote_records,
        session_s=min(_SECONDS_MOST, max(0, session_ms) // 1000),
        items=0,
        has_items=False,
        cause=CAUSES[cause] if cause else 0,
    )


def moved_in(words: SessionEnded) -> Traffic:
    """Return what a session has moved that has ended so."""
    return Traffic(
        session_id=words.session_id,
        from_remote_b=words.from_remote_b,
        to_remote_b=words.to_remote_b,
        from_remote_records=words.from_remote_records,
        to_remote_records=words.to_remote_records,
        idle_ms=words.idle_ms,
    )


def cause_of_end(reason: EndReason, ended_by: str) -> str:
    """Return the name of an Acct-Terminate-Cause (RFC 2866 section 5.10) for a session that relayed.

    Who ended it on our side counts if that is what ended it: an application that hangs up when its remote has ended
    is often heard of before the session's end.
    """
    if reason is not EndReason.ORDERED or not ended_by:
        return _BY_REASON[reason]
    return _BY_ENDER.get(ended_by, "Admin-Reset")  # a server


def cause_of_failure(code: Code) -> str:
    """Return the same for one that has failed between its START and its first byte."""
    return _BY_CODE.get(code, "Lost-Carrier" if code // 100 == 3 else "NAS-Request")
