"""Room for sessions, and for handshakes: whether there may be one more, and who makes room for it.

Overload is refused at once, and who causes it pays.  What is limited is in quotas.py; this is where it is said.

* A handshake whose remote says nothing costs memory and no thread, but it has a place.  When a caller has as many as it
  may, a new one takes the place of its oldest that has waited for the first word of its remote for SILENT_MS, else
  of the oldest in the middle of which nothing was heard for STALLED_MS and the time that a signature may take.  So a
  thousand silent remotes of a server do not keep others out.  If all are younger the new one is refused.
* When all callers together have as many as may be, somebody with fewer takes a place of the one that has the most:
  that of its oldest silent handshake, however young it is.
* What a caller may begin in a second is counted when it asks, whatever comes of it.

What is done for one session takes a time that does not grow with the number of sessions.
"""

from __future__ import annotations

from collections.abc import Callable

from tlspool_broker.connections import Connection
from tlspool_broker.events import SessionId
from tlspool_broker.out import Out
from tlspool_broker.quotas import Account, Quota, Quotas
from tlspool_broker.session import Session, State
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import Settings

SILENT_MS = 3_000
"""For the first word of a remote: a lost packet comes again after one second, and after two more (RFC 6298)."""

STALLED_MS = 10_000
"""For the rest of its handshake, which may be long over a slow line; Apache's mod_reqtimeout gives handshakes as much
when it limits them."""


class Room:
    """Counts sessions and handshakes, and refuses those that are too many."""

    def __init__(
        self, out: Out, settings: Settings, quotas: Quotas, give_up: Callable[[Session, PoolError], None]
    ) -> None:
        """``give_up`` ends a session that makes room for another."""
        self._out = out
        self._settings = settings
        self.stopping = False
        self.draining = False
        self._quotas = quotas
        self._give_up = give_up
        self._accounts: dict[SessionId, Account] = {}
        self._in_flight: set[SessionId] = set()

    @property
    def handshakes(self) -> int:
        """Handshakes that are under way."""
        return len(self._in_flight)

    # --- whether there is room --------------------------------------------------------------------------

    def request(self, connection: Connection) -> None:
        """Count a request of any kind.

        Raises:
            PoolError: TOO_FAST.
        """
        quota = self._quotas.of(connection.caller)
        rate = quota.requests
        account = self._quotas.account(connection.caller, quota)
        if rate and not account.asked.take(self._out.now_ms, rate, max(1, 2 * rate)):
            raise self._reached(connection, quota, Code.TOO_FAST, "requests")

    def check(self, connection: Connection) -> None:
        """Say whether there is room for one more session.

        Raises:
            PoolError: STOPPING, DRAINING, AUDIT_LOST, TOO_MANY_REQUESTS, TOO_FAST, TOO_MANY_SESSIONS,
                TOO_MANY_HANDSHAKES.
        """
        self._check_open()
        settings = self._settings
        quota = self._quotas.of(connection.caller)
        account = self._quotas.account(connection.caller, quota)
        if len(connection.exchanges) >= settings.max_requests_per_connection:
            most = settings.max_requests_per_connection
            raise self._refusal(connection, Code.TOO_MANY_REQUESTS, "max_requests_per_connection", most)
        if quota.rate and not account.begun.take(self._out.now_ms, quota.rate, quota.burst):
            raise self._reached(connection, quota, Code.TOO_FAST, "rate")
        if len(self._accounts) >= settings.max_sessions:
            raise self._refusal(connection, Code.TOO_MANY_SESSIONS, "max_sessions", settings.max_sessions)
        if account.sessions >= quota.sessions:
            raise self._reached(connection, quota, Code.TOO_MANY_SESSIONS, "sessions")
        if account.handshakes >= quota.handshakes and self._late(account) is None:
            raise self._reached(connection, quota, Code.TOO_MANY_HANDSHAKES, "handshakes")
        if self.handshakes >= settings.max_handshakes and self._for(account) is None:
            raise self._refusal(connection, Code.TOO_MANY_HANDSHAKES, "max_handshakes", settings.max_handshakes)

    def _check_open(self) -> None:
        if self.stopping or self.draining:
            raise PoolError(Code.STOPPING if self.stopping else Code.DRAINING)
        if not self._out.witness.ready:
            raise PoolError(Code.AUDIT_LOST)

    def _reached(self, connection: Connection, quota: Quota, code: Code, what: str) -> PoolError:
        error = quota.reached(code, what, connection.caller.uid)
        self._quotas.note(quota.name_of(what), getattr(quota, what), connection.caller)
        return error

    def _refusal(self, connection: Connection, code: Code, setting: str, allowed: int) -> PoolError:
        self._quotas.note(setting, allowed, connection.caller)
        return PoolError(code, f"{setting} is {allowed}")

    def _late(self, account: Account) -> Session | None:
        """Return the handshake of a caller that has waited long enough for its remote to make room."""
        now_ms = self._out.now_ms
        session, since_ms = next(iter(account.silent.values()), (None, now_ms))
        if now_ms - since_ms >= SILENT_MS:
            return session
        session, since_ms = next(iter(account.stalled.values()), (None, now_ms))
        return session if now_ms - since_ms >= STALLED_MS + self._settings.signature_wait_s * 1000 else None

    def _for(self, account: Account) -> Session | None:
        """Return the handshake that makes room for one of this caller where all callers together have too many."""
        busiest = self._quotas.busiest()
        if busiest.handshakes > account.handshakes + 1 and busiest.silent:
            return next(iter(busiest.silent.values()))[0]
        return self._late(account)

    # --- who is there -----------------------------------------------------------------------------------

    def enter(self, session: Session) -> None:
        """Count a session for which there was room; another one may have to end for it."""
        quota = self._quotas.of(session.caller)
        account = self._quotas.account(session.caller, quota)
        late = None
        if account.handshakes >= quota.handshakes:
            late, limit, allowed = self._late(account), quota.name_of("handshakes"), quota.handshakes
        elif self.handshakes >= self._settings.max_handshakes:
            late, limit, allowed = self._for(account), "max_handshakes", self._settings.max_handshakes
        if late is not None:
            self._quotas.note(limit, allowed, late.caller)
            self._give_up(late, PoolError(Code.HANDSHAKE_YIELDED, f"{limit} is {allowed}"))
        self._accounts[session.session_id] = account
        account.sessions += 1
        account.handshakes += 1
        self._in_flight.add(session.session_id)
        session.watch = self._moved

    def resume(self, session: Session) -> None:
        """Count a session of an earlier broker, which relays; there is room for it, as it is there."""
        account = self._quotas.account(session.caller, self._quotas.of(session.caller))
        self._accounts[session.session_id] = account
        account.sessions += 1

    def _moved(self, session: Session) -> None:
        """A session has come to another state, or has come back to its own: something was heard of it."""
        session_id = session.session_id
        account = self._accounts[session_id]
        account.silent.pop(session_id, None)
        account.stalled.pop(session_id, None)
        if session.state is State.EXPECT_CLIENT_HELLO:
            account.silent[session_id] = session, self._out.now_ms
        elif session.state is State.EXPECT_HANDSHAKE:
            account.stalled[session_id] = session, self._out.now_ms
        elif not session.being_set_up and session_id in self._in_flight:
            self._in_flight.remove(session_id)
            account.handshakes -= 1

    def leave(self, session: Session) -> None:
        """Count a session no more."""
        self._accounts.pop(session.session_id).sessions -= 1
        session.watch = None

    def users(self) -> list[int]:
        """Return the user of each session, in order."""
        return sorted(account.uid for account in self._accounts.values())
