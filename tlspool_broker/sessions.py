"""The life of all sessions: what is done in each state of states.py's table, and what is kept for later.

Nothing here looks at a frame or a control message: applications arrive through apps.py and calls/, workers
through ``worker_said``, operators through core.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from tlspool_broker import briefing, kept, policy
from tlspool_broker.access import Access
from tlspool_broker.admitting import Admitting
from tlspool_broker.choice import Stored
from tlspool_broker.chooser import Chooser
from tlspool_broker.connections import Connection, Connections
from tlspool_broker.ctlkeys import ControlKeys
from tlspool_broker.events import Arm, Disarm, DropFd, OfSession, PassedFd, SendWorker, SessionId
from tlspool_broker.explain import Explain
from tlspool_broker.judging import Judging
from tlspool_broker.keyd import Keyd
from tlspool_broker.lasting import Lasting
from tlspool_broker.online import Online
from tlspool_broker.out import Out
from tlspool_broker.policy import Plan
from tlspool_broker.proposals import Proposals
from tlspool_broker.quotas import Quotas
from tlspool_broker.room import Room
from tlspool_broker.session import LAST_WORDS, SAID, Happening, Session, State
from tlspool_broker.waits import Waits, bound_wait, timer_of
from tlspool_broker.wanted import Records
from tlspool_broker.workers import Worker, Workers
from tlspool_common.appwire import Cmd, Flag, Frame, Starttls
from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    ClientHelloSeen,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    PlainConnected,
    RemoteShown,
    SessionEnded,
    Side,
)
from tlspool_common.settings import Settings

END_WAIT_MS = 30_000
"""For a worker to let go of a session, on top of what a signature may take; one that is not well would get them all."""


class Sessions:
    """All sessions."""

    def __init__(
        self,
        out: Out,
        settings: Settings,
        connections: Connections,
        workers: Workers,
        keyd: Keyd,
        lasting: Lasting,
        access: Access,
        chooser: Chooser,
        online: Online,
        judging: Judging,
        admitting: Admitting,
        explain: Explain,
        quotas: Quotas,
    ) -> None:
        self._out = out
        self._settings = settings
        self._online = online
        self._judging = judging
        self._admitting = admitting
        admitting.bind(self._fail, self._relay)
        self._explain = explain
        self._connections = connections
        self._workers = workers
        self._keyd = keyd
        self._by_id: dict[SessionId, Session] = {}
        self.room = Room(out, settings, quotas, self._fail)
        self._waits = Waits(workers)
        self._chooser = chooser
        chooser.bind(self._choice_made, self._fail, self.abandon)
        self.keys = ControlKeys(out, settings, lasting.key("control keys"))
        self._proposals = Proposals(out, settings, access, connections, self._fail, self._localid_chosen)
        self._lasting = lasting
        self._last_id = lasting.first - 1

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def get(self, session_id: SessionId) -> Session | None:
        """Return a session that is not over."""
        return self._by_id.get(session_id)

    # --- beginning ------------------------------------------------------------------------------------

    def admit(self, connection: Connection, ctlkey: bytes) -> None:
        """Say whether there is room for one more session.

        Raises:
            PoolError: CTLKEY_IN_USE, or what Room.check raises.
        """
        self.room.check(connection)
        self.keys.check_free(ctlkey)

    def open(
        self,
        connection: Connection,
        reqid: int,
        request: Starttls,
        plan: Plan,
        records: Records,
        crypt: OwnedFd,
        alpn: bytes,
        as_server: Plan | None = None,
        *,
        remote_address: str = "",
        chooses: bool = False,
    ) -> None:
        """Begin a session that was admitted; from here on it answers for itself.

        ``as_server`` makes it a peer.  With ``chooses`` somebody is to choose its identity first.
        """
        self._last_id = self._lasting.number()
        session_id = SessionId(self._last_id)
        timeout_ms = policy.handshake_timeout_ms(request, self._settings)
        session = Session(
            session_id=session_id,
            caller=connection.caller,
            request=request,
            plan=plan,
            records=records,
            exchange=self._connections.open(connection, reqid, session_id),
            crypt=crypt,
            alpn=alpn,
            as_server=as_server,
            started_ms=self._out.now_ms,
            deadline_ms=None if timeout_ms is None else self._out.now_ms + timeout_ms,
            state=State.EXPECT_CHOICE if chooses else self._first_state(plan),
            remote_address=remote_address,
        )
        self._by_id[session_id] = session
        self.keys.add(session)
        self.room.enter(session)
        if chooses:
            bound_wait(self._out, session)
            self._chooser.ask(session)
        else:
            self._begin(session)

    def _choice_made(self, session: Session, plan: Plan, stored: Stored | None) -> None:
        """Somebody has chosen an identity, or the database has."""
        session.plan, session.stored = plan, stored
        session.move(Happening.CHOICE_MADE, self._first_state(plan))
        self._begin(session)

    def _first_state(self, plan: Plan) -> State:
        """Return what a session expects first."""
        if plan.side is Side.CLIENT and plan.candidates:
            return State.EXPECT_LOCALID
        return State.EXPECT_KEYD if plan.credentials and not self._keyd.present else State.EXPECT_WORKER

    def _begin(self, session: Session) -> None:
        if session.state is State.EXPECT_LOCALID:
            self._propose(session)
        elif session.state is State.EXPECT_KEYD:
            self._await_keyd(session)
        else:
            self._find_worker(session)

    def _propose(self, session: Session) -> None:
        """Ask the application who we are; all proposals together have the time of one callback."""
        bound_wait(self._out, session, self._settings.callback_timeout_s * 1000)
        self._proposals.begin(session)

    def _localid_chosen(self, session: Session) -> None:
        if session.worker is not None:
            self._go_on(session, session.worker, Happening.LOCALID_CHOSEN)
        else:
            session.move(Happening.LOCALID_CHOSEN, self._first_state(session.plan))
            self._begin(session)

    def _await_keyd(self, session: Session) -> None:
        self._waits.for_keyd(session)
        bound_wait(self._out, session, self._settings.daemon_wait_s * 1000)

    def _find_worker(self, session: Session) -> None:
        worker = self._workers.find(session.caller.uid)
        if worker is not None:
            self._start(session, worker)
        else:
            self._waits.for_worker(session)
            bound_wait(self._out, session, self._settings.daemon_wait_s * 1000)

    def _start(self, session: Session, worker: Worker) -> None:
        """Hand a session to a worker."""
        try:
            session.asks = self._judging.asks(session)
            terms = session.terms = self._judging.terms(session)
            trust_generation = briefing.share_trust(self._out, worker, session.records)
        except PoolError as error:
            self._fail(session, error)
            self._workers.release(worker, session.session_id)
            return
        crypt, session.crypt = session.crypt, None
        if crypt is None:
            raise PoolError(Code.INTERNAL, f"session {session.session_id} has no socket any more")
        session.worker = worker
        worker.sessions[session.session_id] = None
        briefing.start(self._out, session, worker, trust_generation, terms, crypt, self._settings)
        if session.plan.side is Side.CLIENT:
            self._go_on(session, worker, Happening.WORKER_FOUND)
        else:
            session.move(Happening.WORKER_FOUND, State.EXPECT_CLIENT_HELLO)
            bound_wait(self._out, session)

    def _go_on(self, session: Session, worker: Worker, happening: Happening) -> None:
        """Give a worker the credentials it needs, as soon as keyd is there to use them."""
        if session.plan.credentials and not self._keyd.present:
            session.move(happening, State.EXPECT_KEYD)
            self._await_keyd(session)
            return
        try:
            terms = self._judging.terms(session) if session.plan.side is Side.SERVER else session.terms
        except PoolError as error:
            self._fail(session, error)
            return
        session.move(happening, State.EXPECT_HANDSHAKE)
        briefing.give_credentials(self._out, session, worker, self._keyd, self._online, terms)
        bound_wait(self._out, session)

    # --- others come and go ---------------------------------------------------------------------------

    def keyd_joined(self) -> None:
        """keyd is there: sessions that waited for it go on."""
        for session in self._waits.keyd_came():
            if session.worker is None:
                session.move(Happening.KEYD_JOINED, State.EXPECT_WORKER)
                self._find_worker(session)
            else:
                self._go_on(session, session.worker, Happening.KEYD_JOINED)

    def workers_came(self) -> None:
        """There may be a worker now for sessions that waited."""
        for session, worker in self._waits.workers_came():
            self._start(session, worker)

    def worker_lost(self, worker: Worker, reason: str) -> None:
        """A worker is no more: so are its sessions, and nobody else's."""
        for session_id in list(worker.sessions):
            session = self._by_id[session_id]
            if session.being_set_up:
                self._fail(session, PoolError(Code.WORKER_DIED, reason), Happening.WORKER_LOST)
                continue
            if session.established_ms:
                self._relay_ended(session, session.lost(reason), Happening.WORKER_LOST)
            else:
                self._over(session, Happening.WORKER_LOST)

    # --- what the worker says -------------------------------------------------------------------------

    def worker_said(self, worker: Worker, message: OfSession) -> None:
        """Take a message of a worker.

        Raises:
            PoolError: INTERNAL, this worker has nothing to say about that session now; it is not to be believed.
        """
        happening = SAID[type(message)]
        session = self._by_id.get(SessionId(message.session_id))
        number, first = message.session_id, self._lasting.first
        if session is None and (number <= self._last_id if happening in LAST_WORDS else 0 < number < first):
            return  # an EndSession of ours crossed the end; or it was said to an earlier broker
        if session is None or session.worker is not worker or not session.allows(happening):
            state = session.state.name if session else "no session"
            raise PoolError(Code.INTERNAL, f"{type(message).__name__} for session {message.session_id} in {state}")
        if session.state is State.EXPECT_END:
            self._said_at_end(session, message, happening)
            return
        match message:
            case ClientHelloSeen():
                self._hello_seen(session, worker, message)
            case RemoteShown():
                self._judging.shown(session, message)
            case HandshakeDone():
                self._admitting.done(session, message)
            case HandshakeFailed():
                error = session.refusal or PoolError(code_of(message.code) or Code.INTERNAL, message.detail)
                self._fail(session, error, happening, policy.told(error.code, "", message.alert))
            case SessionEnded() if session.state is State.RELAYING:
                self._relay_ended(session, message, happening)
            case SessionEnded():
                self._fail(session, policy.lost_before_plaintext(message), happening, "")

    def _said_at_end(self, session: Session, message: OfSession, happening: Happening) -> None:
        if happening not in LAST_WORDS:
            return  # said before it heard of the end
        if session.established_ms:
            words = message if isinstance(message, SessionEnded) else session.lost("it spoke of a handshake")
            self._relay_ended(session, words, happening)
        else:
            self._over(session, happening)

    def _relay_ended(self, session: Session, words: SessionEnded, happening: Happening) -> None:
        self._out(session.end_note(words, self._out.now_ms))
        self._admitting.ended(session, words)
        self._over(session, happening)

    def _hello_seen(self, session: Session, worker: Worker, message: ClientHelloSeen) -> None:
        try:
            self._proposals.hello(session, message.sni)
        except PoolError as error:
            self._fail(session, error)
            return
        if session.asks_localid:
            session.move(Happening.HELLO_SEEN, State.EXPECT_LOCALID)
            self._propose(session)
        else:
            self._go_on(session, worker, Happening.HELLO_SEEN)

    # --- what the application says --------------------------------------------------------------------

    def answered(self, session_id: SessionId, frame: Frame, passed: PassedFd | None) -> None:
        """The application answered the callback of a session."""
        session = self._by_id[session_id]
        if session.exchange is None:
            raise PoolError(Code.INTERNAL, f"session {session_id} has no callback")
        if (displaced := self._connections.answered(session.exchange, frame.reqid)) is not None:
            self.abandon(displaced)
        if session.state is State.EXPECT_LOCALID:
            self._proposals.answered(session, frame, passed)
            return
        try:
            plain = policy.plaintext_of(frame.cmd, passed)
        except PoolError as error:
            if passed is not None:
                self._out(DropFd(passed.fd))
            self._fail(session, error)
        else:
            self._relay(session, plain, Happening.PLAIN_GIVEN)

    def _relay(self, session: Session, plain: OwnedFd, happening: Happening) -> None:
        exchange, worker = session.exchange, session.worker
        if exchange is None or worker is None:
            self._out(DropFd(plain))
            raise PoolError(Code.INTERNAL, f"session {session.session_id} has nobody to relay for")
        try:
            self._judging.begins(session)
            self._out.attest(session.start_note(self._out.now_ms))
        except PoolError as error:
            self._out(DropFd(plain))
            self._fail(session, error)
            return
        session.move(happening, State.RELAYING)
        session.established_ms = self._out.now_ms
        self._out(Disarm(timer_of(session)))
        self.keep(session)
        self._out(SendWorker(worker.number, PlainConnected(session_id=session.session_id), plain))
        if session.stored is not None:
            self._chooser.store(session, session.stored)
        self._explain.accepted(session)
        session.shown = session.judgement = session.advice = None  # they are of no use to a session that relays
        self._connections.finish(exchange, Cmd.STARTTLS, session.echo().to_payload())
        session.exchange = None
        if not session.request.flags & Flag.DETACH:
            self.keys.attach(session, exchange.connection)

    def keep(self, session: Session) -> None:
        """Have its worker keep what another broker must know of a session as it is now."""
        kept.keep(self._out, self._lasting.key("records"), session)

    def resume(self, session: Session, worker: Worker) -> None:
        """Take a session of an earlier broker, which relays."""
        self._by_id[session.session_id] = session
        worker.sessions[session.session_id] = None
        self.room.resume(session)
        self.keys.resume(session)
        self._explain.accepted(session)
        self._out(session.resumed_note(self._out.now_ms))

    def abandon(self, session_id: SessionId) -> None:
        """End a session that nobody waits for any more, without a reply."""
        session = self._by_id.get(session_id)
        if session is None or not session.being_set_up:
            return
        refused = {State.EXPECT_PLAINTEXT: Code.BAD_CALLBACK_ANSWER, State.EXPECT_LOCALID: Code.LOCALID_REFUSED}
        error = PoolError(refused.get(session.state, Code.REQID_IN_USE), "the request id was used again")
        self._fail(session, error, tell=False)

    def app_gone(self, connection: Connection, reason: str) -> None:
        """The connection is over: what was set up for it ends, and what it controls, unless it forked."""
        for session_id in list(connection.exchanges):
            self._fail(self._by_id[session_id], PoolError(Code.CALLER_GONE, reason), tell=False)
        for session_id in list(connection.controlled):
            session = self._by_id[session_id]
            if session.forks:
                self.keys.release(session)
            elif self._settings.session_end == "relay":
                self.keys.release(session)
                self.keys.free(session)
                self.keep(session)
            else:
                self._end_relay(session, "caller gone")

    # --- ends -----------------------------------------------------------------------------------------

    def timed_out(self, session_id: SessionId) -> Worker | None:
        """What a session expects has not come in time; return a worker that must end for it."""
        session = self._by_id.get(session_id)
        if session is None or session.state is State.EXPECT_END:
            return session.worker if session else None
        if session.state is State.EXPECT_ADVICE and not session.is_late(self._out.now_ms):
            self._judging.late(session)
        elif session.state is State.EXPECT_RADIUS:
            self._admitting.late(session)
        elif session.refusal is not None:
            self._fail(session, session.refusal)
        elif code := session.overdue(self._out.now_ms):
            self._fail(session, PoolError(code))
        return None

    def kill(self, session: Session, by: str) -> None:
        """End a session because an operator wants it."""
        if session.being_set_up:
            self._fail(session, PoolError(Code.SESSION_KILLED))
        elif session.state is State.RELAYING:
            self._end_relay(session, by)

    def stop(self) -> None:
        """End what is being set up; what relays goes on in the workers."""
        self.room.stopping = True
        for session in self:
            if session.being_set_up:
                self._fail(session, PoolError(Code.STOPPING))

    def _end_relay(self, session: Session, by: str) -> None:
        self.keys.ended(session)
        self.keys.free(session)
        session.ended_by = by
        session.move(Happening.GIVEN_UP, State.EXPECT_END)
        if session.worker is not None:
            self._end_at_worker(session, session.worker, policy.NO_ALERT)

    def _end_at_worker(self, session: Session, worker: Worker, alert: int) -> None:
        self._out(SendWorker(worker.number, EndSession(session_id=session.session_id, alert=alert)))
        self._out(Arm(timer_of(session), END_WAIT_MS + self._settings.signature_wait_s * 1000))

    def _fail(
        self,
        session: Session,
        error: PoolError,
        happening: Happening = Happening.GIVEN_UP,
        told: str | None = None,
        *,
        tell: bool = True,
    ) -> None:
        """End a session that is being set up, with a final ERROR unless nobody waits for it."""
        code = error.code
        self._out(session.failure_note(error, self._out.now_ms))
        self._explain.refused(session, error)
        exchange, session.exchange = session.exchange, None
        if exchange is not None and tell:
            if code is Code.INTERNAL:
                told = f"session {session.session_id}"
            elif told is None:
                told = policy.told(code, error.detail)
            self._connections.fail(exchange, code, told)
        elif exchange is not None:
            self._connections.end(exchange, code)
        for keeper in (self._waits, self._chooser, self._judging):
            keeper.forget(session)
        self._admitting.failed(session, error)
        self.keys.free(session)
        session.let_go_of_fds(self._out, shut=not tell)  # when the application will not be told, the remote is
        if happening is Happening.GIVEN_UP and session.worker is not None:
            session.move(happening, State.EXPECT_END)
            self._end_at_worker(session, session.worker, policy.alert_for(code))
        else:
            self._over(session, happening)

    def _over(self, session: Session, happening: Happening) -> None:
        """Forget a session."""
        session.move(happening, State.OVER)
        self._out(Disarm(timer_of(session)))
        self.keys.ended(session)
        self.keys.free(session)
        del self._by_id[session.session_id]
        self.room.leave(session)
        if session.worker is not None:
            self._workers.release(session.worker, session.session_id)
