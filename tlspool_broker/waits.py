"""Sessions that wait for the pool itself: for keyd to be there, or for a worker to be free.

Whatever is done here for one session takes a time that does not grow with the number of sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tlspool_broker.events import SessionId
from tlspool_broker.session import Session
from tlspool_broker.turns import Turns
from tlspool_broker.workers import Worker, Workers

KEYD_WAIT_MS = 1_000
"""For a keyd that is started anew: it connects within half a second.  Longer would only hide that it is gone."""

WORKER_WAIT_MS = 3_000
"""For a worker: a fork takes milliseconds, a master that is started anew a second or two."""


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
