"""Accounting of sessions: what is said of them to RADIUS, from their start to their end."""

from __future__ import annotations

from collections.abc import Callable

from tlspool_broker.session import Session
from tlspool_common.errors import PoolError
from tlspool_common.messages import SessionEnded, Traffic


class Accounting:
    """Hears what becomes of sessions that RADIUS has to do with (``Session.access``), and of no others."""

    def start(self, session: Session, done: Callable[[PoolError | None], None]) -> None:
        """A session is let in, and is about to relay; ``done`` hears once that may be, at once or later, or why not.

        The session waits, for a bounded time, and may have failed before that: then ``failed`` was called.
        """
        done(None)

    def failed(self, session: Session, error: PoolError) -> None:
        """A session has failed before it relayed, though ``start`` was called for it."""

    def ended(self, session: Session, words: SessionEnded) -> None:
        """A session that relayed is over; ``session.ended_by`` says who ended it, if it was on our side."""

    def resume(self, session: Session) -> None:
        """A session of an earlier broker relays, and is under our control."""

    def traffic(self, session: Session, traffic: Traffic) -> None:
        """A worker has said what a session has relayed so far."""
