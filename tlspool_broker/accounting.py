"""Accounting of sessions, and their timeouts: what is said of them to RADIUS, from their start to their end.

    let in by servers --start--> START --the helper has it on its disk--> the application is called back
    relays             at intervals:      the worker is asked what was moved --> INTERIM
                       session timeout:   the session ends, or is asked about again (Admitting.again)
                       idle timeout:      the worker is asked since when nothing was moved; the session ends, or goes on
    over --ended, failed--> STOP --the helper has it--> its worker is told that it may forget it (EndKept)

* There is one timer for a session, which fires when there is something to do for it (meter.py).
* A session counts from its START.  What it has moved its worker tells; of one whose worker has died, what was known.
* The helper takes a record that it knows for what it is.  So everything that may not have arrived is said again: by
  radius.py to the next helper, by the worker to the next broker (kept_access.py has what that must know).
* A helper that comes is told of all sessions that there are, and, once all workers of an earlier broker have told
  theirs (rejoin.py), that there are no others: it ends the accounting of what has ended and nobody knows how.
* A session whose time is over, and that servers are asked about again, goes on meanwhile; for a bounded time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tlspool_broker.events import Arm, Clock, Disarm, SendWorker, SessionId, Timer
from tlspool_broker.meter import (
    IDLE_TIMEOUT,
    SESSION_TIMEOUT,
    Meter,
    cause_of_end,
    cause_of_failure,
    moved_in,
    record_of,
)
from tlspool_broker.out import Out
from tlspool_broker.radius import Radius
from tlspool_broker.radius_grant import Admission
from tlspool_broker.session import Session, State
from tlspool_broker.workers import Workers
from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.messages import Accounted, AskTraffic, EndReason, SessionEnded, Traffic
from tlspool_common.messages_radius import Status
from tlspool_common.settings import Settings

_RADIUS_REQUEST = 1
"""Termination-Action (RFC 2865 section 5.29)."""

SOON_MS = 1_000
"""Until a session is looked at again whose timeout is over while its application is still being called back."""

LATE_MS = 5_000
"""Beyond the time that servers have together, for the helper to say what they have said about a session that relays."""

End = Callable[[Session, str], None]
"""End a session that relays, or is being set up; the text says who does."""

Keep = Callable[[Session], None]
"""Have its worker keep what another broker must know of a session."""

Again = Callable[[Session, Callable[[PoolError | None], None]], None]
"""Ask servers once more about a session that relays; hear whether it may go on, by what is its ``access`` then."""


class Accounting:
    """Hears what becomes of sessions that RADIUS has to do with (``Session.access``), and of no others."""

    def __init__(
        self, out: Out, settings: Settings, radius: Radius, workers: Workers, unix_time_s: Callable[[], float]
    ) -> None:
        self._out = out
        self._settings = settings
        self._radius = radius
        self._workers = workers
        self._unix_time_s = unix_time_s
        self._sessions: dict[SessionId, Session] = {}
        self._all_told = False
        self._end: End
        self._keep: Keep
        self._again: Again
        radius.on_ready = self._name_all

    def bind(self, end: End, keep: Keep, again: Again) -> None:
        """Say how sessions are ended, kept and asked about: by who has them, and is made later than this."""
        self._end, self._keep, self._again = end, keep, again

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    # --- from the start to the end --------------------------------------------------------------------

    def start(self, session: Session, done: Callable[[PoolError | None], None]) -> None:
        """A session is let in, and is about to relay; ``done`` hears once that may be, at once or later, or why not.

        The session waits, for a bounded time, and may have failed before that: then ``failed`` was called.
        """
        access = session.access
        if access is None:
            done(None)
            return
        now_ms = self._out.now_ms
        meter = session.meter = Meter(began_ms=now_ms, timed_ms=now_ms, active_ms=now_ms)
        self._sessions[session.session_id] = session
        if access.accounts:
            meter.plan(session.session_id, self._interval_s(access), now_ms)
        record = record_of(Status.START, access, self._wall_ms(meter.began_ms))
        if not access.accounts or access.accepts_unkept:
            if access.accounts:
                self._radius.account(record)
            self._arm(session, meter, access)
            done(None)
            return
        meter.waits = True
        self._radius.account(record, lambda answer: self._started(session, meter, access, answer, done))

    def _started(
        self,
        session: Session,
        meter: Meter,
        access: Admission,
        answer: Accounted | None,
        done: Callable[[PoolError | None], None],
    ) -> None:
        if session.meter is not meter:
            return  # it has failed
        meter.waits = False
        if answer is not None and not answer.code:
            self._arm(session, meter, access)
            done(None)
            return
        self._forget(session)
        if answer is None:
            done(PoolError(Code.ACCOUNT_UNKEPT, "there is no helper to keep it"))
        else:
            done(PoolError(code_of(answer.code) or Code.ACCOUNT_UNKEPT, answer.detail))

    def failed(self, session: Session, error: PoolError) -> None:
        """A session has failed before it relayed, though ``start`` was called for it."""
        self._stop(session, None, cause_of_failure(error.code))

    def ended(self, session: Session, words: SessionEnded) -> None:
        """A session that relayed is over; ``session.ended_by`` says who ended it, if it was on our side."""
        meter = session.meter
        lost = words.reason is EndReason.WORKER_LOST
        moved = meter.told if lost and meter is not None else moved_in(words)
        self._stop(session, moved, cause_of_end(words.reason, session.ended_by), told_by_worker=not lost)

    def _stop(self, session: Session, moved: Traffic | None, cause: str, *, told_by_worker: bool = False) -> None:
        access, meter = session.access, session.meter
        if access is None or meter is None:
            return
        self._forget(session)
        if not access.accounts:
            return
        now_ms, worker = self._out.now_ms, session.worker
        record = record_of(Status.STOP, access, self._wall_ms(now_ms), now_ms - meter.began_ms, moved, cause)

        def kept() -> None:
            if worker is not None:
                self._workers.end_kept(worker, session.session_id)

        if worker is not None and told_by_worker:
            worker.unkept += 1
            self._radius.account(record, kept=kept)
        else:
            self._radius.account(record)

    def _forget(self, session: Session) -> None:
        del self._sessions[session.session_id]
        session.meter = None
        self._out(Disarm(_timer(session)))

    def _wall_ms(self, boot_ms: int) -> int:
        """Return when that was, in milliseconds since 1970, by the clock as it is now."""
        return int(self._unix_time_s() * 1000) - (self._out.now_ms - boot_ms)

    # --- other brokers and helpers --------------------------------------------------------------------

    def resume(self, session: Session) -> None:
        """A session of an earlier broker relays, and is under our control."""
        access, meter = session.access, session.meter
        if access is None or meter is None:
            return
        self._sessions[session.session_id] = session
        if access.accounts:
            meter.plan(session.session_id, self._interval_s(access), self._out.now_ms, found=True)
            if self._radius.helper.ready:
                self._name(access, meter)
        self._arm(session, meter, access)

    def _name(self, access: Admission, meter: Meter) -> None:
        self._radius.account(record_of(Status.START, access, self._wall_ms(meter.began_ms)))

    def _name_all(self) -> None:
        """A helper is there, and knows of no session yet: what waits for it is told anyway."""
        for session in self:
            access, meter = session.access, session.meter
            if access is not None and access.accounts and meter is not None and not meter.waits:
                self._name(access, meter)
        self._settle()

    def all_told(self) -> None:
        """All workers of an earlier broker have told what they have."""
        if not self._all_told:
            self._all_told = True
            self._settle()

    def _settle(self) -> None:
        if self._all_told and self._radius.helper.ready:
            self._radius.settled()

    # --- updates and timeouts -------------------------------------------------------------------------

    def _interval_s(self, access: Admission) -> float:
        return access.interim_s or self._settings.radius_interim_s

    def _arm(self, session: Session, meter: Meter, access: Admission, least_ms: float = 0.0) -> None:
        look_ms = meter.look_ms(access)
        if look_ms is None:
            self._out(Disarm(_timer(session)))
        else:
            self._out(Arm(_timer(session), max(least_ms, look_ms - self._out.now_ms)))

    def timed_out(self, number: int) -> None:
        """There is something to do for a session."""
        session = self._sessions.get(SessionId(number))
        if session is None or session.access is None or session.meter is None:
            return
        access, meter, now_ms = session.access, session.meter, self._out.now_ms
        if session.being_set_up:
            self._arm(session, meter, access, SOON_MS)
            return
        if session.state is not State.RELAYING:
            return  # it is told to end
        timeout_ms, look_ms = meter.timeout_ms(access), meter.look_ms(access)
        if timeout_ms is not None and now_ms >= timeout_ms and meter.renews_until_ms is not None:
            late = PoolError(Code.RADIUS_UNANSWERED, "the helper does not answer")
            self._renewed(session, meter, None if access.accepts_unkept else late)
            return
        if timeout_ms is not None and now_ms >= timeout_ms:
            if access.terminate != _RADIUS_REQUEST or not (access.authn or access.authz):
                self._end(session, SESSION_TIMEOUT)
                return
            self._renew(session, meter, access)
            return
        if look_ms is not None and now_ms >= look_ms:
            self._ask_worker(session, meter)
        self._arm(session, meter, access)

    def _ask_worker(self, session: Session, meter: Meter) -> None:
        meter.asked_ms = self._out.now_ms
        meter.open += 1
        if session.worker is not None:
            self._out(SendWorker(session.worker.number, AskTraffic(session_id=session.session_id)))

    def traffic(self, session: Session, traffic: Traffic) -> None:
        """A worker has said what a session has relayed so far.

        Raises:
            PoolError: INTERNAL, nobody asked.
        """
        access, meter, now_ms = session.access, session.meter, self._out.now_ms
        if session.state is State.EXPECT_END:
            return
        if access is None or meter is None or not meter.open:
            raise PoolError(Code.INTERNAL, f"Traffic for session {session.session_id}, which nobody asked about")
        meter.asked_ms = None
        meter.open -= 1
        meter.told = traffic
        meter.active_ms = max(meter.active_ms, now_ms - traffic.idle_ms)
        idle_ms = meter.idle_ms(access)
        if idle_ms is not None and now_ms >= idle_ms:
            self._end(session, IDLE_TIMEOUT)
            return
        if meter.update_ms is not None and now_ms >= meter.update_ms:
            wall_ms = self._wall_ms(now_ms)
            self._radius.account(record_of(Status.INTERIM, access, wall_ms, now_ms - meter.began_ms, traffic))
            meter.plan(session.session_id, self._interval_s(access), now_ms)
        self._arm(session, meter, access)

    # --- changes --------------------------------------------------------------------------------------

    def changed(self, session: Session, *, timed: bool = True) -> None:
        """What is granted to a session is something else by now; ``timed``: its session timeout counts from now on."""
        access, meter = session.access, session.meter
        if access is None or meter is None:
            return
        if timed:
            meter.timed_ms = self._out.now_ms
        interval_s = self._interval_s(access) if access.accounts else 0
        if interval_s != meter.interval_s:
            meter.plan(session.session_id, interval_s, self._out.now_ms)
        if session.state is State.RELAYING:
            self._keep(session)
        if not meter.waits:
            self._arm(session, meter, access)

    def _renew(self, session: Session, meter: Meter, access: Admission) -> None:
        """Ask servers about a session whose time is over."""
        wait_ms = int(self._settings.radius_wait_s * 1000) + self._radius.away_left_ms + LATE_MS
        meter.renews_until_ms = self._out.now_ms + wait_ms
        self._arm(session, meter, access)
        self._again(session, lambda error: self._renewed(session, meter, error))

    def _renewed(self, session: Session, meter: Meter, error: PoolError | None) -> None:
        """A session was asked about again."""
        if session.meter is not meter or meter.renews_until_ms is None:
            return
        meter.renews_until_ms = None
        self._out.note(
            "info",
            "session.renewed",
            session=session.session_id,
            remoteid=session.remoteid,
            goes_on=error is None,
            code=int(error.code) if error is not None else 0,
            detail=error.detail if error is not None else "",
        )
        if error is not None:
            self._end(session, SESSION_TIMEOUT)
        elif meter.timed_ms != self._out.now_ms:
            self.changed(session)  # nobody has answered: what was granted holds once more
        elif session.access is not None:
            self._arm(session, meter, session.access)


def _timer(session: Session) -> Timer:
    return Timer(Clock.ACCOUNTING, session.session_id)
