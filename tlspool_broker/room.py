"""Room for sessions: how many there are, in all and of each user, and whether there may be one more."""

from __future__ import annotations

from collections import Counter

from tlspool_broker.connections import Connection
from tlspool_common.auditor import Witness
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import Settings


class Room:
    """Counts sessions."""

    def __init__(self, settings: Settings, witness: Witness) -> None:
        self._settings = settings
        self._witness = witness
        self._by_uid: Counter[int] = Counter()
        self._all = 0

    def check(self, connection: Connection) -> None:
        """Say whether there is room for one more session.

        Raises:
            PoolError: AUDIT_LOST, TOO_MANY_REQUESTS, TOO_MANY_SESSIONS.
        """
        if not self._witness.ready:
            raise PoolError(Code.AUDIT_LOST)
        if len(connection.exchanges) >= self._settings.max_requests_per_connection:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{len(connection.exchanges)}")
        if self._all >= self._settings.max_sessions:
            raise PoolError(Code.TOO_MANY_SESSIONS, f"{self._all}")
        mine = self._by_uid[connection.caller.uid]
        if mine >= self._settings.max_sessions_per_caller:
            raise PoolError(Code.TOO_MANY_SESSIONS, f"{mine} of user {connection.caller.uid}")

    def enter(self, uid: int) -> None:
        """Count a session of a user."""
        self._all += 1
        self._by_uid[uid] += 1

    def leave(self, uid: int) -> None:
        """Count it no more."""
        self._all -= 1
        self._by_uid[uid] -= 1
        if not self._by_uid[uid]:
            del self._by_uid[uid]

    def users(self) -> list[int]:
        """Return the user of each session, in order."""
        return sorted(self._by_uid.elements())
