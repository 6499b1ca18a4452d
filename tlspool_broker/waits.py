"""How long sessions wait, and who waits for the pool itself: for keyd to be there, or for a worker to be free.

Whatever is done here for one session takes a time that does not grow with the number of sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tlspool_broker.events import Arm, Clock, Disarm, SessionId, Timer
from tlspool_broker.out import Out
from tlspool_broker.session import Session
from tlspool_broker.turns import Turns
from tlspool_broker.workers import Worker, Workers


def timer_of(session: Session) -> Timer:
    """Return the timer of what a session expects."""
    return Timer(Clock.SESSION, session.session_id)


def bound_wait(out: Out, session: Session, wait_ms: float | None = None) -> None:
    """Bound the wait of a session that is in its handshake, or waits for something to begin it."""
    waits = [] if wait_ms is None else [wait_ms]
    if session.deadline_ms is not None:
        waits.append(max(0.0, session.deadline_ms - out.now_ms))
    out(Arm(timer_of(session), min(waits)) if waits else Disarm(timer_of(session)))


class Waits:
    """Who waits for what."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._turns = Turns()
        self._for_keyd: dict[SessionId, Session] = {}

    def __bool__(self) -> bool:
        return bool(self._for_keyd or self._turns.users())

    def for_keyd(self, session: Session) -> None:
        """Let a session wait for keyd."""
        self._for_keyd[session.session_id] = session

    def for_worker(self, session: Session) -> None:
        """Let a session wait for a worker."""
        self._turns.add(session)
        self._workers.wait(session.caller.uid)

    def keyd_came(self) -> list[Session]:
        """Return the sessions that waited for keyd."""
        waiting, self._for_keyd = self._for_keyd, {}
        return list(waiting.values())

    def workers_came(self) -> Iterator[tuple[Session, Worker]]:
        """Yield the sessions that waited for a worker and can have one now; users take turns."""
        turns = deque(self._turns.users())
        while turns:
            uid = turns.popleft()
            worker = self._workers.find(uid)
            if worker is not None:
                session, more = self._turns.take(uid)
                self._workers.waited(uid)
                yield session, worker
                if more:
                    turns.append(uid)

    def forget(self, session: Session) -> None:
        """Let a session wait no more, if it did."""
        self._for_keyd.pop(session.session_id, None)
        if self._turns.remove(session):
            self._workers.waited(session.caller.uid)
