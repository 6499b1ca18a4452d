"""Sessions that wait for a worker: the sessions of each user queue, and users take turns.

Whatever is done here takes a time that does not grow with the number of sessions.
"""

from __future__ import annotations

from tlspool_broker.session import Session


class Turns:
    """The queues."""

    def __init__(self) -> None:
        self._by_uid: dict[int, dict[int, Session]] = {}

    def add(self, session: Session) -> None:
        """Let a session wait."""
        self._by_uid.setdefault(session.caller.uid, {})[session.session_id] = session

    def remove(self, session: Session) -> bool:
        """Let a session wait no more; return whether it did."""
        queue = self._by_uid.get(session.caller.uid, {})
        if queue.pop(session.session_id, None) is None:
            return False
        if not queue:
            del self._by_uid[session.caller.uid]
        return True

    def users(self) -> list[int]:
        """Return who has sessions that wait: first the one whose turn it is."""
        return list(self._by_uid)

    def take(self, uid: int) -> tuple[Session, bool]:
        """Return the first session of a user that has some, and whether there are more.

        The user goes behind the others, also for the next time.
        """
        queue = self._by_uid.pop(uid)
        session = queue.pop(next(iter(queue)))
        if queue:
            self._by_uid[uid] = queue
        return session, bool(queue)
