"""Letting remotes in: what is between the end of a handshake and the plaintext end, RADIUS above all.

    HandshakeDone, judged --> EXPECT_RADIUS: AskAccess, one for each purpose, at the same time
                                  both accept --> the START of accounting --kept--> EXPECT_PLAINTEXT, or RELAYING
                                  one rejects, is not answered, or nothing can be kept --> refused

* A session that has nothing to do with RADIUS (radius_policy.py) goes on at once, as one that is not asked about and
  not accounted for.
* Who the remote is has been judged before anybody is asked, and everybody was asked before accounting starts.
* A rule may let in whom nobody has answered about, or whom no record can be kept of (``unanswered=accept``).  It lets
  nobody in whom a server rejects, nor whom it cannot be asked about: a remote chooses its name, and could choose one
  that does not fit.
* All of it has ``radius_wait_s``, and never more than the handshake.  The helper is to answer a little sooner: what it
  says of a silence is better than what a timer says.  That one has to start first does not count; that it ends, and the
  next one is asked, does.
* What servers say is kept in one Admission (``Session.access``).  Where both set a time, the shorter one counts.
* A session that relays may be asked about again: when its time is over and the server wants it so, or when its remote
  has become somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from tlspool_broker import policy
from tlspool_broker.accounting import Accounting
from tlspool_broker.connections import Connections
from tlspool_broker.events import Arm
from tlspool_broker.judging import GRACE_MS, Judging
from tlspool_broker.out import Out
from tlspool_broker.radius import Radius
from tlspool_broker.radius_grant import Admission, Heard, Pending
from tlspool_broker.radius_policy import RadiusPolicy, question
from tlspool_broker.session import Happening, Session, State
from tlspool_broker.waits import bound_wait, timer_of
from tlspool_common import limits
from tlspool_common.appwire import Cmd
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import Access, AccessTold, AskAccess, HandshakeDone, Purpose, SessionEnded
from tlspool_common.settings import Settings

T = TypeVar("T")
Fail = Callable[[Session, PoolError], None]
Relay = Callable[[Session, OwnedFd, Happening], None]
Granted = Callable[["Admission | None", "PoolError | None"], None]

_REFUSED = {
    Access.REJECTED: Code.RADIUS_REJECTED,
    Access.UNASKED: Code.RADIUS_UNASKED,
    Access.UNANSWERED: Code.RADIUS_UNANSWERED,
}


class Admitting:
    """Asks, takes the answers, and has accounting begin."""

    def __init__(
        self,
        out: Out,
        settings: Settings,
        connections: Connections,
        judging: Judging,
        radius: Radius,
        rules: RadiusPolicy,
        accounting: Accounting,
    ) -> None:
        self._out = out
        self._settings = settings
        self._connections = connections
        self._judging = judging
        self._radius = radius
        self._rules = rules
        self._accounting = accounting
        self._fail: Fail
        self._relay: Relay

    def bind(self, fail: Fail, relay: Relay) -> None:
        """Say who ends sessions, and who has them relay."""
        self._fail, self._relay = fail, relay

    # --- the handshake is over ------------------------------------------------------------------------

    def done(self, session: Session, facts: HandshakeDone) -> None:
        """Judge a session whose handshake is over, and ask about it.

        Raises:
            PoolError: INTERNAL, its worker is not to be believed.
        """
        session.facts = facts
        try:
            accepted = self._judging.done(session, facts)
            session.remoteid = policy.judge_remote(session.plan, facts, accepted=accepted)
            access = session.access = self._rules.admission(session)
        except PoolError as error:
            if error.code is Code.INTERNAL:
                raise
            self._fail(session, error)
            return
        if access is None:
            self._let_in(session, Happening.HANDSHAKE_DONE)
            return
        session.move(Happening.HANDSHAKE_DONE, State.EXPECT_RADIUS)
        session.pending = Pending()
        self._ask(session, access)

    def _let_in(self, session: Session, happening: Happening) -> None:
        """Have the application give its plaintext end, unless it has."""
        session.pending = None
        if session.plain is not None:
            plain, session.plain = session.plain, None
            self._relay(session, plain, happening)
            return
        session.move(happening, State.EXPECT_PLAINTEXT)
        self._out(Arm(timer_of(session), self._settings.callback_timeout_s * 1000))
        if session.exchange is not None:
            self._connections.call_back(session.exchange, Cmd.PLAINTEXT_CONNECT, session.echo().to_payload())

    # --- asking ---------------------------------------------------------------------------------------

    def _ask(self, session: Session, access: Admission) -> None:
        pending = session.pending
        if pending is None:
            return
        purposes = _purposes(access)
        pending.questions = dict.fromkeys(purposes, 0)
        wait_ms = self._settings.radius_wait_s * 1000
        if session.deadline_ms is not None:
            wait_ms = max(0.0, min(wait_ms, session.deadline_ms - self._out.now_ms))
        deadline_ms = max(1, int(wait_ms - min(GRACE_MS, wait_ms / 4)))
        self._bound(session, self._radius.away_left_ms)
        for purpose in purposes:
            number = self._radius.ask(
                _message(access, purpose, deadline_ms), self._hears(session, purpose), lambda: self._bound(session)
            )
            pending.questions[purpose] = number
            if not number:
                self._told(session, purpose, None)
            if session.pending is not pending:
                return  # that was reason enough to refuse it
        if not purposes:
            self._granted(session)

    def _bound(self, session: Session, away_ms: int = 0) -> None:
        """Bound the wait for servers, and for the helper itself if it is not there yet."""
        if session.state is State.EXPECT_RADIUS:
            bound_wait(self._out, session, self._settings.radius_wait_s * 1000 + away_ms)

    def _hears(self, session: Session, purpose: Purpose) -> Callable[[AccessTold | None], None]:
        return lambda told: self._told(session, purpose, told)

    def _told(self, session: Session, purpose: Purpose, told: AccessTold | None, late: Code | None = None) -> None:
        """A server has answered, or none has."""
        pending, access = session.pending, session.access
        if pending is None or access is None or session.state is not State.EXPECT_RADIUS:
            return
        if pending.questions.pop(purpose, None) is None:
            return
        heard = _heard(purpose, told)
        session.heard = (*session.heard, heard)
        code = _REFUSED.get(heard.access)
        let_in = code is None or (code is Code.RADIUS_UNANSWERED and access.accepts_unkept)
        self._note(session, access, heard, let_in=let_in)
        if code is not None and not let_in:
            detail = heard.message if code is Code.RADIUS_REJECTED else heard.detail
            self._fail(session, PoolError(late or code, detail))
            return
        if told is not None and told.access is Access.ACCEPTED:
            access = session.access = merged(access, purpose, told)
        if not pending.questions:
            self._granted(session)

    def _note(self, session: Session, access: Admission, heard: Heard, *, let_in: bool) -> None:
        if heard.access is Access.ACCEPTED:
            return  # radius.answered tells of it, and session.start
        rejected = heard.access is Access.REJECTED
        self._out.note(
            "info" if rejected else "warning",
            "radius.rejected" if rejected else "radius.unanswered",
            session=session.session_id,
            caller=session.caller.label,
            uid=session.caller.uid,
            service=session.request.service,
            localid=session.localid,
            remoteid=session.remoteid,
            purpose=heard.purpose.name.lower(),
            radius_rule=access.rule,
            server=heard.server,
            detail=heard.message if rejected else heard.detail,
            let_in=let_in,
            ms=heard.ms,
        )

    # --- accounting -----------------------------------------------------------------------------------

    def _granted(self, session: Session) -> None:
        """Everybody who was asked has let it in: accounting begins."""
        pending = session.pending
        if pending is None:
            return
        pending.starts = session.accounted = True
        self._bound(session, self._radius.start_left_ms)
        self._accounting.start(session, lambda error: self._started(session, pending, error))

    def _started(self, session: Session, pending: Pending, error: PoolError | None) -> None:
        """The START is kept, or is not."""
        access = session.access
        if session.pending is not pending or not pending.starts or access is None:
            return  # it is over, or goes on without
        if error is None or access.accepts_unkept:
            self._let_in(session, Happening.ADMITTED)
        else:
            self._fail(session, error)

    # --- ends -----------------------------------------------------------------------------------------

    def late(self, session: Session) -> None:
        """What a session waits for has not come in time."""
        pending = session.pending
        if pending is None:
            return
        code = session.overdue(self._out.now_ms)
        if pending.starts:
            self._started(session, pending, PoolError(Code.ACCOUNT_UNKEPT, "the helper does not say that it is kept"))
            return
        for purpose, number in list(pending.questions.items()):
            self._radius.forget(number)
            self._told(session, purpose, None, code)

    def failed(self, session: Session, error: PoolError) -> None:
        """A session has failed, for whatever reason."""
        pending, session.pending = session.pending, None
        for number in pending.questions.values() if pending is not None else ():
            self._radius.forget(number)
        if session.accounted:
            self._accounting.failed(session, error)

    def ended(self, session: Session, words: SessionEnded) -> None:
        """A session that did relay is over."""
        if session.accounted:
            self._accounting.ended(session, words)

    # --- again ----------------------------------------------------------------------------------------

    def again(self, session: Session, done: Callable[[PoolError | None], None], *, remoteid: str | None = None) -> None:
        """Ask once more about a session that relays; ``done`` hears once whether it may go on, while it relays.

        ``remoteid`` is who its remote has become; None: it is who it was.  With new times and tags, ``Session.access``
        is another one then, with the Acct-Session-Id of the first; one that had none is accounted for from now on.
        The helper's deadline is the bound: who cannot rely on a helper that hangs has a timer of his own.
        """
        try:
            fresh = self._rules.admission(session, remoteid)
        except PoolError as error:
            done(error)
            return
        known = session.access
        if fresh is None or not (fresh.authn or fresh.authz):
            done(None)
            return
        fresh = replace(fresh, acct_id=known.acct_id if known else fresh.acct_id, state=known.state if known else b"")

        def answered(granted: Admission | None, error: PoolError | None) -> None:
            if error is not None:
                done(error)
            else:
                self._goes_on(session, granted or (fresh if session.access is None else None), done)

        Again(self._settings, self._radius, session, fresh, answered).ask()

    def _goes_on(self, session: Session, granted: Admission | None, done: Callable[[PoolError | None], None]) -> None:
        """Let a session have what is granted to it now; None: nobody has answered, and it keeps what it has."""
        known = session.access
        if granted is None:
            done(None)
        elif known is not None and session.accounted:
            session.access = replace(granted, accounts=known.accounts)
            self._accounting.changed(session)
            done(None)
        else:
            session.access, session.accounted = granted, True

            def started(error: PoolError | None) -> None:
                if error is not None:
                    session.access, session.accounted = None, False
                done(error)

            self._accounting.start(session, started)


class Again:
    """One session that relays, and is asked about once more; the helper's deadline bounds it."""

    def __init__(self, settings: Settings, radius: Radius, session: Session, access: Admission, done: Granted) -> None:
        """``done`` hears what is granted (None: nobody has answered), or why it is refused."""
        self._radius = radius
        self._wait_ms = int(settings.radius_wait_s * 1000)
        self._session = session
        self._asked = access
        self._access = access
        self._done: Granted | None = done
        self._open = set(_purposes(access))

    def ask(self) -> None:
        """Begin."""
        for purpose in _purposes(self._asked):
            message = _message(self._asked, purpose, self._wait_ms)
            if self._done is not None and not self._radius.ask(message, self._hears(purpose)):
                self._told(purpose, None)

    def _hears(self, purpose: Purpose) -> Callable[[AccessTold | None], None]:
        return lambda told: self._told(purpose, told)

    def _told(self, purpose: Purpose, told: AccessTold | None) -> None:
        done, session = self._done, self._session
        if done is None or session.state is not State.RELAYING:
            return
        self._open.discard(purpose)
        heard = _heard(purpose, told)
        code = _REFUSED.get(heard.access)
        if code is not None and not (code is Code.RADIUS_UNANSWERED and self._asked.accepts_unkept):
            self._done = None
            done(None, PoolError(code, heard.message if code is Code.RADIUS_REJECTED else heard.detail))
            return
        if told is not None and told.access is Access.ACCEPTED:
            self._access = merged(self._access, purpose, told)
        if not self._open:
            self._done = None
            done(self._access if self._access is not self._asked else None, None)


def _purposes(access: Admission) -> list[Purpose]:
    asked = {Purpose.AUTHENTICATE: access.authn, Purpose.AUTHORIZE: access.authz}
    return [purpose for purpose, is_asked in asked.items() if is_asked]


def _message(access: Admission, purpose: Purpose, deadline_ms: int) -> AskAccess:
    state = access.state if purpose is Purpose.AUTHORIZE or not access.authz else b""
    return AskAccess(
        purpose=purpose,
        attributes=question(access, purpose),
        state=state,
        deadline_ms=deadline_ms,
        password=b"",
    )


def _heard(purpose: Purpose, told: AccessTold | None) -> Heard:
    if told is None:
        return Heard(purpose, Access.UNANSWERED, "", "the helper that speaks RADIUS does not answer", "", 0)
    return Heard(
        purpose, told.access, printable(told.server), printable(told.detail), printable(told.message), told.elapsed_ms
    )


def printable(text: str) -> str:
    """Return a text of a server as people may read it: nothing in it moves a cursor or ends a line."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


def merged(access: Admission, purpose: Purpose, told: AccessTold) -> Admission:
    """Return what is granted with one more answer that accepts."""
    decides = purpose is Purpose.AUTHORIZE or not access.authz
    sooner = _is_sooner(told.session_timeout_s, access.session_timeout_s)
    name = printable(told.user_name)
    attributes = access.attributes
    if name and decides:
        attributes = tuple(f"User-Name={name}" if one.startswith("User-Name=") else one for one in attributes)
    return replace(
        access,
        attributes=attributes,
        classes=_together(access.classes, told.classes, limits.RADIUS_CLASSES),
        tags=_together(access.tags, map(printable, told.tags), limits.RADIUS_TAGS),
        state=told.state if decides else access.state,
        session_timeout_s=told.session_timeout_s if sooner else access.session_timeout_s,
        terminate=told.terminate if sooner else access.terminate,
        idle_timeout_s=_shorter(told.idle_timeout_s, access.idle_timeout_s),
        interim_s=_shorter(told.interim_s, access.interim_s),
        servers=_together(access.servers, (printable(told.server),), len(Purpose)),
    )


def _shorter(*times_s: int) -> int:
    return min(filter(None, times_s), default=0)


def _is_sooner(new_s: int, old_s: int) -> bool:
    return bool(new_s) and (not old_s or new_s < old_s)


def _together(known: tuple[T, ...], more: Iterable[T], most: int) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*known, *more)))[:most]
