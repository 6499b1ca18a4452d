"""What a worker keeps for a broker that comes after the present one, and what it has told it.

The broker gives a record with each session that relays, which is opaque here.  As long as there is no broker
nothing is said, so that nothing piles up in the channel; what ends in this time is kept with its record, and told to
the next broker as if it had ended just then.  The end of a session that is accounted for is kept likewise until a
broker has it on record, in case that one dies with what it was told.  A broker asks in portions, as the channel holds
only so much.

Rule: a broker hears of a session that was not its own from the beginning by SessionHere first, or never.
"""

from __future__ import annotations

import heapq

from tlspool_common.messages import (
    EndReason,
    Message,
    SessionEnded,
    SessionHere,
    SessionsTold,
    TellSessions,
    Traffic,
    prose,
)
from tlspool_worker.effects import Out, Say

NO_SESSION = 0
"""No session has this number."""

UNSAID_MS = 60_000
"""How long an idle worker waits for a broker that it can tell how its sessions have ended."""

PORTION = 128
"""Sessions told at a time: with the longest records half of what a channel may queue (limits.CHANNEL_QUEUE_B)."""

UNSAID = 1000
"""Sessions that have ended without a broker, and are kept: more than end in the seconds that a restart takes."""


class Telling:
    """Records, and who knows what."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._records: dict[int, bytes] = {}
        self._accounted: set[int] = set()
        self._untold: set[int] = set()
        self._unsaid: dict[int, SessionEnded] = {}

    @property
    def unsaid(self) -> int:
        """How many sessions have ended and nobody knows, or has it on record."""
        return len(self._unsaid)

    def keep(self, session_id: int, record: bytes, *, accounted: bool) -> None:
        """Keep the record of a session."""
        self._records[session_id] = record
        if accounted:
            self._accounted.add(session_id)
        else:
            self._accounted.discard(session_id)

    def forget(self, session_id: int) -> None:
        """Forget a session that did not come to relay."""
        self._records.pop(session_id, None)
        self._accounted.discard(session_id)

    def end_kept(self, session_id: int) -> None:
        """Forget a session whose end is on record."""
        self._unsaid.pop(session_id, None)
        self.forget(session_id)

    def knows(self, session_id: int) -> bool:
        """Whether the broker, if there is one, has heard of this session."""
        return session_id not in self._untold

    def broker_away(self, relaying: set[int]) -> None:
        """There is no broker; the next one knows nothing of these sessions."""
        self._untold = relaying | self._unsaid.keys()

    def broker_gone(self) -> None:
        """There will be none any more."""
        self._records.clear()
        self._accounted.clear()
        self._unsaid.clear()

    def ended(self, message: SessionEnded) -> None:
        """A session that did relay is over."""
        session_id = message.session_id
        if session_id not in self._untold:
            self._out(Say(message))
            if session_id not in self._accounted:
                self._records.pop(session_id, None)
        if session_id in self._records:
            self._unsaid[session_id] = message
            if len(self._unsaid) > UNSAID:
                self.end_kept(next(iter(self._unsaid)))

    def tell(self, asked: TellSessions) -> None:
        """Tell of the next sessions."""
        ids = heapq.nsmallest(PORTION + 1, (one for one in self._untold & self._records.keys() if one > asked.after))
        more, ids = len(ids) > PORTION, ids[:PORTION]
        for session_id in ids:
            self._untold.discard(session_id)
            here: Message = SessionHere(nonce=asked.nonce, session_id=session_id, record=self._records[session_id])
            self._out(Say(here))
            ended = self._unsaid.pop(session_id, None)
            if ended is not None:
                self.ended(ended)
        self._out(Say(SessionsTold(nonce=asked.nonce, last=ids[-1] if ids else asked.after, more=more)))


def end_of(reason: EndReason, traffic: Traffic, detail: str) -> SessionEnded:
    """Return what is said of the end of a session."""
    return SessionEnded(
        session_id=traffic.session_id,
        reason=reason,
        from_remote_b=traffic.from_remote_b,
        to_remote_b=traffic.to_remote_b,
        detail=prose(detail),
        from_remote_records=traffic.from_remote_records,
        to_remote_records=traffic.to_remote_records,
        idle_ms=traffic.idle_ms,
    )


def no_traffic(session_id: int) -> Traffic:
    """Return what a session has moved that had nothing to move."""
    return Traffic(
        session_id=session_id,
        from_remote_b=0,
        to_remote_b=0,
        from_remote_records=0,
        to_remote_records=0,
        idle_ms=0,
    )
