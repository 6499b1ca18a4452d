"""The life of all sessions: what is done in each state of session.py's table, and what is kept for later.

Nothing here looks at a frame or a control message: applications arrive through apps.py and calls/, workers
through ``worker_said``, operators through core.py.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator

from tlspool_broker import briefing, policy
from tlspool_broker.connections import Connection, Connections
from tlspool_broker.events import (
    Arm,
    Clock,
    Disarm,
    DropFd,
    FdKind,
    FromWorker,
    Out,
    PassedFd,
    SendWorker,
    SessionId,
    Timer,
)
from tlspool_broker.keyd import Keyd, RandomBytes
from tlspool_broker.policy import Plan, Records
from tlspool_broker.session import SAID, Happening, Session, State
from tlspool_broker.turns import Turns
from tlspool_broker.workers import Worker, Workers
from tlspool_common.appwire import Cmd, Flag, Frame, Starttls
from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    ClientHelloSeen,
    EndReason,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    PlainConnected,
    SessionEnded,
    Side,
)
from tlspool_common.settings import Settings

KEYD_WAIT_MS = 1_000
"""For a keyd that is started anew: it connects within half a second.  Longer would only hide that it is gone."""

WORKER_WAIT_MS = 3_000
"""For a worker: a fork takes milliseconds, a master that is started anew a second or two."""

END_WAIT_MS = 30_000
"""For a worker to let go of a session, on top of what a signature may take.  One that does not is not well: it
would soon be the one with the fewest sessions, and get them all."""


class Sessions:
    """All sessions."""

    def __init__(
        self,
        out: Out,
        settings: Settings,
        records: Records,
        connections: Connections,
        workers: Workers,
        keyd: Keyd,
        random_bytes: RandomBytes,
    ) -> None:
        self._out = out
        self._settings = settings
        self._records = records
        self._connections = connections
        self._workers = workers
        self._keyd = keyd
        self._by_id: dict[SessionId, Session] = {}
        self._by_ctlkey: dict[bytes, Session] = {}
        self._by_uid: Counter[int] = Counter()
        self._wait_worker = Turns()
        self._wait_keyd: dict[SessionId, Session] = {}
        # The index is by a keyed hash, so that the time of a look-up tells nothing about control keys.
        self._index_secret = random_bytes(16)
        self._last_id = 0
        self._stopping = False

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    def get(self, session_id: SessionId) -> Session | None:
        """Return a session that is not over."""
        return self._by_id.get(session_id)

    def _index(self, ctlkey: bytes) -> bytes:
        return hashlib.blake2b(ctlkey, key=self._index_secret, digest_size=16).digest()

    def controlled(self, connection: Connection, ctlkey: bytes) -> Session:
        """Return the session with this control key, if it relays and this connection controls it.

        Raises:
            PoolError: CTLKEY_UNKNOWN; whether there is one elsewhere is not told.
        """
        session = self._by_ctlkey.get(self._index(ctlkey))
        if session is None or session.controller is not connection or session.state is not State.RELAYING:
            raise PoolError(Code.CTLKEY_UNKNOWN)
        return session

    # --- beginning ------------------------------------------------------------------------------------

    def admit(self, connection: Connection, ctlkey: bytes) -> None:
        """Say whether there is room for one more session.

        Raises:
            PoolError: STOPPING, TOO_MANY_REQUESTS, TOO_MANY_SESSIONS, CTLKEY_IN_USE.
        """
        if self._stopping:
            raise PoolError(Code.STOPPING)
        if len(connection.exchanges) >= self._settings.max_requests_per_connection:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{len(connection.exchanges)}")
        if len(self._by_id) >= self._settings.max_sessions:
            raise PoolError(Code.TOO_MANY_SESSIONS, f"{len(self._by_id)}")
        mine = self._by_uid[connection.caller.uid]
        if mine >= self._settings.max_sessions_per_caller:
            raise PoolError(Code.TOO_MANY_SESSIONS, f"{mine} of user {connection.caller.uid}")
        if self._index(ctlkey) in self._by_ctlkey:
            raise PoolError(Code.CTLKEY_IN_USE)

    def open(
        self, connection: Connection, reqid: int, request: Starttls, plan: Plan, crypt: OwnedFd, alpn: bytes
    ) -> None:
        """Begin a session that was admitted; from here on it answers for itself."""
        self._last_id += 1
        session_id = SessionId(self._last_id)
        timeout_ms = policy.handshake_timeout_ms(request, self._settings)
        wait_for_keyd = bool(plan.credentials) and not self._keyd.present
        session = Session(
            session_id=session_id,
            caller=connection.caller,
            request=request,
            plan=plan,
            exchange=self._connections.open(connection, reqid, session_id),
            crypt=crypt,
            alpn=alpn,
            generation=0,
            started_ms=self._out.now_ms,
            deadline_ms=None if timeout_ms is None else self._out.now_ms + timeout_ms,
            state=State.EXPECT_KEYD if wait_for_keyd else State.EXPECT_WORKER,
        )
        self._by_id[session_id] = session
        self._by_ctlkey[self._index(request.ctlkey)] = session
        self._by_uid[session.caller.uid] += 1
        if wait_for_keyd:
            self._await_keyd(session)
        else:
            self._find_worker(session)

    def _await_keyd(self, session: Session) -> None:
        self._wait_keyd[session.session_id] = session
        self._arm(session, KEYD_WAIT_MS)

    def _find_worker(self, session: Session) -> None:
        worker = self._workers.find(session.caller.uid)
        if worker is not None:
            self._start(session, worker)
        else:
            self._wait_worker.add(session)
            self._workers.wait(session.caller.uid)
            self._arm(session, WORKER_WAIT_MS)

    def _start(self, session: Session, worker: Worker) -> None:
        """Hand a session to a worker."""
        try:
            session.generation = self._records.generation
            trust_generation = briefing.share_trust(self._out, worker, self._records)
        except PoolError as error:
            self._fail(session, error)
            self._workers.release(worker, session.session_id)
            return
        crypt, session.crypt = session.crypt, None
        if crypt is None:
            raise PoolError(Code.INTERNAL, f"session {session.session_id} has no socket any more")
        session.worker = worker
        worker.sessions[session.session_id] = None
        briefing.start(self._out, session, worker, trust_generation, crypt, self._settings)
        if session.plan.side is Side.CLIENT:
            self._go_on(session, worker, Happening.WORKER_FOUND)
        else:
            session.move(Happening.WORKER_FOUND, State.EXPECT_CLIENT_HELLO)
            self._arm(session)

    def _go_on(self, session: Session, worker: Worker, happening: Happening) -> None:
        """Give a worker the credentials it needs, as soon as keyd is there to use them."""
        if session.plan.credentials and not self._keyd.present:
            session.move(happening, State.EXPECT_KEYD)
            self._await_keyd(session)
        else:
            session.move(happening, State.EXPECT_HANDSHAKE)
            briefing.give_credentials(self._out, session, worker, self._keyd)
            self._arm(session)

    # --- others come and go ---------------------------------------------------------------------------

    def keyd_joined(self) -> None:
        """keyd is there: sessions that waited for it go on."""
        waiting, self._wait_keyd = self._wait_keyd, {}
        for session in waiting.values():
            if session.worker is None:
                session.move(Happening.KEYD_JOINED, State.EXPECT_WORKER)
                self._find_worker(session)
            else:
                self._go_on(session, session.worker, Happening.KEYD_JOINED)

    def workers_came(self) -> None:
        """There may be a worker now for sessions that waited."""
        turns = deque(self._wait_worker.users())
        while turns:
            uid = turns.popleft()
            worker = self._workers.find(uid)
            if worker is not None:
                session, more = self._wait_worker.take(uid)
                self._workers.waited(uid)
                self._start(session, worker)
                if more:
                    turns.append(uid)

    def worker_lost(self, worker: Worker, reason: str) -> None:
        """A worker is no more: so are its sessions, and nobody else's."""
        for session_id in list(worker.sessions):
            session = self._by_id[session_id]
            if session.being_set_up:
                self._fail(session, PoolError(Code.WORKER_DIED, reason), Happening.WORKER_LOST)
                continue
            if session.established_ms:
                self._note_end(session, _lost(session, reason))
            self._over(session, Happening.WORKER_LOST)

    # --- what the worker says -------------------------------------------------------------------------

    def worker_said(self, worker: Worker, message: FromWorker) -> None:
        """Take a message of a worker.

        Raises:
            PoolError: INTERNAL, this worker has nothing to say about that session now; it is not to be believed.
        """
        happening = SAID[type(message)]
        session = self._by_id.get(SessionId(message.session_id))
        if session is None and message.session_id <= self._last_id and happening in _LAST_WORDS:
            return  # an EndSession of ours crossed the end
        if session is None or session.worker is not worker or not session.allows(happening):
            state = session.state.name if session else "no session"
            raise PoolError(Code.INTERNAL, f"{type(message).__name__} for session {message.session_id} in {state}")
        if session.state is State.EXPECT_END:
            self._said_at_end(session, message, happening)
            return
        match message:
            case ClientHelloSeen():
                self._hello_seen(session, worker, message)
            case HandshakeDone():
                self._handshake_done(session, message)
            case HandshakeFailed():
                code = code_of(message.code) or Code.INTERNAL
                told = policy.told(code, "", message.alert)
                self._fail(session, PoolError(code, message.detail), happening, told)
            case SessionEnded() if session.state is State.RELAYING:
                self._note_end(session, message)
                self._over(session, happening)
            case SessionEnded():
                self._fail(session, policy.lost_before_plaintext(message), happening, "")

    def _said_at_end(self, session: Session, message: FromWorker, happening: Happening) -> None:
        if happening not in _LAST_WORDS:
            return  # said before it heard of the end
        if session.established_ms:
            words = message if isinstance(message, SessionEnded) else _lost(session, "it spoke of a handshake")
            self._note_end(session, words)
        self._over(session, happening)

    def _hello_seen(self, session: Session, worker: Worker, message: ClientHelloSeen) -> None:
        try:
            policy.judge_hello(session.plan, message.sni)
        except PoolError as error:
            self._fail(session, error)
            return
        self._go_on(session, worker, Happening.HELLO_SEEN)

    def _handshake_done(self, session: Session, facts: HandshakeDone) -> None:
        session.facts = facts
        try:
            session.remoteid = policy.judge_remote(session.plan, facts)
        except PoolError as error:
            self._fail(session, error)
            return
        session.move(Happening.HANDSHAKE_DONE, State.EXPECT_PLAINTEXT)
        self._out(Arm(self._timer(session), self._settings.callback_timeout_s * 1000))
        if session.exchange is not None:
            self._connections.call_back(session.exchange, Cmd.PLAINTEXT_CONNECT, self._echo(session))

    def _echo(self, session: Session) -> bytes:
        """Return the request as it came, with the identities that were authenticated."""
        return session.request.with_identities(session.localid, session.remoteid).to_payload()

    # --- what the application says --------------------------------------------------------------------

    def answered(self, session_id: SessionId, frame: Frame, passed: PassedFd | None) -> None:
        """The application answered the callback of a session."""
        session = self._by_id[session_id]
        if session.exchange is None:
            raise PoolError(Code.INTERNAL, f"session {session_id} has no callback")
        displaced = self._connections.answered(session.exchange, frame.reqid)
        if displaced is not None:
            self.abandon(displaced)
        error = None
        if frame.cmd != Cmd.PLAINTEXT_CONNECT:
            error = PoolError(Code.BAD_CALLBACK_ANSWER, f"command {frame.cmd:#x}")
        elif passed is None:
            error = PoolError(Code.PLAIN_FD_MISSING)
        elif passed.kind not in (FdKind.STREAM, FdKind.SEQPACKET):
            error = PoolError(Code.PLAIN_FD_UNFIT, f"it is {passed.kind.value}")
        if error is not None:
            if passed is not None:
                self._out(DropFd(passed.fd))
            self._fail(session, error)
        elif passed is not None:
            self._relay(session, passed.fd)

    def _relay(self, session: Session, plain: OwnedFd) -> None:
        exchange, worker = session.exchange, session.worker
        if exchange is None or worker is None:
            self._out(DropFd(plain))
            raise PoolError(Code.INTERNAL, f"session {session.session_id} has nobody to relay for")
        session.move(Happening.PLAIN_GIVEN, State.RELAYING)
        session.established_ms = self._out.now_ms
        self._out(Disarm(self._timer(session)))
        self._out(SendWorker(worker.number, PlainConnected(session_id=session.session_id), plain))
        self._connections.finish(exchange, Cmd.STARTTLS, self._echo(session))
        session.exchange = None
        if not session.request.flags & Flag.DETACH:
            session.controller = exchange.connection
            exchange.connection.controlled[session.session_id] = None
        self._out(session.start_note(self._out.now_ms))

    def abandon(self, session_id: SessionId) -> None:
        """End a session that nobody waits for any more, without a reply."""
        session = self._by_id.get(session_id)
        if session is None or not session.being_set_up:
            return
        refused = session.state is State.EXPECT_PLAINTEXT
        code = Code.BAD_CALLBACK_ANSWER if refused else Code.REQID_IN_USE
        self._fail(session, PoolError(code, "the request id was used again"), tell=False)

    def app_gone(self, connection: Connection, reason: str) -> None:
        """The connection is over: what was set up for it ends, and what it controls, unless it forked."""
        for session_id in list(connection.exchanges):
            self._fail(self._by_id[session_id], PoolError(Code.CALLER_GONE, reason), tell=False)
        for session_id in list(connection.controlled):
            session = self._by_id[session_id]
            if session.forks:
                self._detach(session)
            else:
                self._end_relay(session, "caller gone")

    def _detach(self, session: Session) -> None:
        if session.controller is not None:
            session.controller.controlled.pop(session.session_id, None)
            session.controller = None

    # --- ends -----------------------------------------------------------------------------------------

    def timed_out(self, session_id: SessionId) -> Worker | None:
        """What a session expects has not come in time; return a worker that must end for it."""
        session = self._by_id.get(session_id)
        if session is None:
            return None
        late = session.deadline_ms is not None and self._out.now_ms >= session.deadline_ms
        match session.state:
            case State.EXPECT_PLAINTEXT:
                self._fail(session, PoolError(Code.CALLBACK_TIMEOUT))
            case State.EXPECT_CLIENT_HELLO | State.EXPECT_HANDSHAKE:
                self._fail(session, PoolError(Code.HANDSHAKE_TIMEOUT))
            case State.EXPECT_KEYD:
                self._fail(session, PoolError(Code.HANDSHAKE_TIMEOUT if late else Code.NO_KEYD))
            case State.EXPECT_WORKER:
                self._fail(session, PoolError(Code.HANDSHAKE_TIMEOUT if late else Code.NO_WORKER))
            case State.EXPECT_END:
                return session.worker
        return None

    def kill(self, session: Session, by: str) -> None:
        """End a session because an operator wants it."""
        if session.being_set_up:
            self._fail(session, PoolError(Code.SESSION_KILLED))
        elif session.state is State.RELAYING:
            self._end_relay(session, by)

    def stop(self) -> None:
        """End what is being set up; what relays goes on in the workers."""
        self._stopping = True
        for session in self:
            if session.being_set_up:
                self._fail(session, PoolError(Code.STOPPING))

    def _end_relay(self, session: Session, by: str) -> None:
        self._detach(session)
        self._free_ctlkey(session)
        session.ended_by = by
        session.move(Happening.GIVEN_UP, State.EXPECT_END)
        if session.worker is not None:
            self._end_at_worker(session, session.worker, policy.NO_ALERT)

    def _end_at_worker(self, session: Session, worker: Worker, alert: int) -> None:
        self._out(SendWorker(worker.number, EndSession(session_id=session.session_id, alert=alert)))
        self._out(Arm(self._timer(session), END_WAIT_MS + self._settings.pkcs11_timeout_s * 1000))

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
        exchange, session.exchange = session.exchange, None
        if exchange is not None and tell:
            if code is Code.INTERNAL:
                told = f"session {session.session_id}"
            elif told is None:
                told = policy.told(code, error.detail)
            self._connections.fail(exchange, code, told)
        elif exchange is not None:
            self._connections.end(exchange, code)
        self._waits_no_more(session)
        self._free_ctlkey(session)
        if session.crypt is not None:
            # Nobody has spoken to the remote yet.  When the application will not be told, the remote is.
            self._out(DropFd(session.crypt, shut=not tell))
            session.crypt = None
        if happening is Happening.GIVEN_UP and session.worker is not None:
            session.move(happening, State.EXPECT_END)
            self._end_at_worker(session, session.worker, policy.alert_for(code))
        else:
            self._over(session, happening)

    def _over(self, session: Session, happening: Happening) -> None:
        """Forget a session."""
        session.move(happening, State.OVER)
        self._out(Disarm(self._timer(session)))
        self._detach(session)
        self._free_ctlkey(session)
        del self._by_id[session.session_id]
        uid = session.caller.uid
        self._by_uid[uid] -= 1
        if not self._by_uid[uid]:
            del self._by_uid[uid]
        if session.worker is not None:
            self._workers.release(session.worker, session.session_id)

    def _free_ctlkey(self, session: Session) -> None:
        """Let the application use this control key again: for it, the session is no more."""
        index = self._index(session.request.ctlkey)
        if self._by_ctlkey.get(index) is session:
            del self._by_ctlkey[index]

    def _waits_no_more(self, session: Session) -> None:
        self._wait_keyd.pop(session.session_id, None)
        if self._wait_worker.remove(session):
            self._workers.waited(session.caller.uid)

    # --- time -----------------------------------------------------------------------------------------

    @staticmethod
    def _timer(session: Session) -> Timer:
        return Timer(Clock.SESSION, session.session_id)

    def _arm(self, session: Session, wait_ms: float | None = None) -> None:
        """Bound the wait of a session that is in its handshake, or waits for something to begin it."""
        waits = [] if wait_ms is None else [wait_ms]
        if session.deadline_ms is not None:
            waits.append(max(0.0, session.deadline_ms - self._out.now_ms))
        self._out(Arm(self._timer(session), min(waits)) if waits else Disarm(self._timer(session)))

    def _note_end(self, session: Session, message: SessionEnded) -> None:
        self._out(session.end_note(message, self._out.now_ms))


_LAST_WORDS = frozenset({Happening.HANDSHAKE_FAILED, Happening.ENDED})


def _lost(session: Session, reason: str) -> SessionEnded:
    """Return what a worker would have said, had it not died."""
    return SessionEnded(
        session_id=session.session_id, reason=EndReason.WORKER_LOST, from_remote_b=0, to_remote_b=0, detail=reason
    )
