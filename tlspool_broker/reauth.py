"""Authentication after the handshake: our server asks its remote again, or the remote of our client asks us.

Our server.  An application sends STARTTLS with RENEGOTIATE.  There is one question at a time to a remote
(``Session.asked``), which may answer when it likes; when that takes too long for the application, the answer is
still worth having, and nothing can be asked before it has come.  A remote that has answered is from then on whom it
has proved to be, or nobody; the session goes on in either case, and the application is told.  Expressions count as in
a handshake, but for what they say about the chain: of that nothing is told (``Judging.again``).  Whoever was somebody
else before is asked about at RADIUS servers, where that is asked of sessions: until it is accepted it is nobody.

Our client.  A server asks who we are.  Policy has decided that when the session began: it gets to see the same
identity, with a fresh grant.  The worker's word is all we have that it was asked, so a worker that was taken over
could have signatures made in this way.  They are rationed (``RATION_MS``): without a grant the worker says
that we have no certificate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tlspool_broker import policy
from tlspool_broker.admitting import Admitting
from tlspool_broker.briefing import parameters_of, share_trust
from tlspool_broker.connections import Connection
from tlspool_broker.events import SendWorker, SessionId
from tlspool_broker.judging import Judging
from tlspool_broker.keyd import Keyd
from tlspool_broker.out import Out
from tlspool_broker.policy import Plan
from tlspool_broker.questions import Questions
from tlspool_broker.session import Session, State
from tlspool_broker.sessions import Sessions
from tlspool_broker.snapshot import Snapshots
from tlspool_broker.workers import Worker
from tlspool_common.appwire import BadPayload, Cmd, Flag, Starttls
from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import (
    AskedByRemote,
    AskRemote,
    Proceed,
    RemoteAuth,
    RemoteTold,
    Side,
    Told,
    UseCredential,
)
from tlspool_common.settings import Settings

_TLS13 = 0x0304

RATION_MS = 60_000
"""A server may ask a client as often as that, for a long time ..."""

BURST = 4
"""... and so many times in a row."""

GRANT_MS = 10_000
"""Life of a grant, on top of what a signature may take: it is used at once."""


class Reauth:
    """Both directions."""

    def __init__(
        self,
        out: Out,
        settings: Settings,
        snapshots: Snapshots,
        keyd: Keyd,
        sessions: Sessions,
        questions: Questions,
        judging: Judging,
        admitting: Admitting,
    ) -> None:
        self._out = out
        self._settings = settings
        self._snapshots = snapshots
        self._keyd = keyd
        self._sessions = sessions
        self._questions = questions
        self._judging = judging
        self._admitting = admitting

    # --- our server asks ------------------------------------------------------------------------------

    def ask(self, connection: Connection, reqid: int, request: Starttls) -> None:
        """Ask the remote of a session that this connection controls.

        Raises:
            PoolError: REAUTH_NOT_FOUND, REAUTH_INSECURE, REAUTH_BUSY, ROLE_IMPOSSIBLE, IDENTITY_MALFORMED,
                NOT_SUPPORTED_YET, TOO_MANY_REQUESTS, or what the databases raise.  The session goes on.
            BadPayload: there would be nothing to ask.
        """
        session = self._find(connection, request)
        plan = _plan(session, request)
        if session.asked is not None or session.readmits:
            who = "RADIUS servers were" if session.readmits else "the remote was"
            raise PoolError(Code.REAUTH_BUSY, f"{who} asked, and nobody has answered")
        worker = session.worker
        if worker is None:
            raise PoolError(Code.INTERNAL, f"session {session.session_id} relays in no worker")
        records = self._snapshots.take()
        generation = share_trust(self._out, worker, records)
        sigalgs = parameters_of(session, session.plan, self._settings).sigalgs

        numbers: list[int] = []

        def make(number: int) -> AskRemote:
            numbers.append(number)
            return AskRemote(
                session_id=session.session_id,
                question=number,
                trust_generation=generation,
                sigalgs=sigalgs,
                remote_name=str(plan.expected or ""),
                domain_represents_user=plan.domain_represents_user,
            )

        def answered(answer: Told | RemoteTold) -> None:
            if not isinstance(answer, RemoteTold):
                raise PoolError(Code.INTERNAL, "the answer is one to another question")
            self._take(session, answer, admitted)

        def admitted(error: PoolError | None) -> None:
            reply = request.with_identities(session.localid, session.remoteid).to_payload()
            self._questions.settle(numbers[0], error or (Cmd.STARTTLS, reply))

        wait_ms = policy.handshake_timeout_ms(request, self._settings)
        self._questions.ask(
            connection, reqid, Cmd.STARTTLS, session, make, answered, wait_ms, late=Code.HANDSHAKE_TIMEOUT
        )
        session.asked = plan, records

    def _find(self, connection: Connection, request: Starttls) -> Session:
        try:
            session = self._sessions.keys.controlled(connection, request.ctlkey)
        except PoolError:
            raise PoolError(Code.REAUTH_NOT_FOUND) from None
        if session.plan.side is Side.CLIENT:
            raise PoolError(Code.REAUTH_INSECURE, "this side is the client")
        if session.facts is None or session.facts.tls_version < _TLS13:
            raise PoolError(Code.REAUTH_INSECURE, f"it is {session.version}")
        return session

    def told(self, worker: Worker, message: RemoteTold) -> None:
        """Take an answer.

        Raises:
            PoolError: INTERNAL, nobody asked this worker that.
        """
        if self._questions.told(worker, message):
            return
        session = self._sessions.get(SessionId(message.session_id))
        if session is None or session.worker is not worker or session.asked is None:
            return
        try:
            self._take(session, message, lambda _error: None)  # too late for the application, and still true
        except PoolError as error:
            if error.code is Code.INTERNAL:
                raise

    def _take(self, session: Session, answer: RemoteTold, done: Callable[[PoolError | None], None]) -> None:
        """Let a session's remote be whom it has proved to be, when RADIUS agrees; ``done`` hears whether it does.

        Raises:
            PoolError: it could not be asked, or has not proved who it is; INTERNAL, it was not asked.
        """
        asked, session.asked = session.asked, None
        if asked is None or session.facts is None:
            raise PoolError(Code.INTERNAL, f"session {session.session_id} was not asked")
        code = code_of(answer.code)
        if not answer.asked:
            raise PoolError(code if code // 100 == 1 else Code.REAUTH_BUSY, answer.detail)
        before, (session.plan, session.records), session.remoteid = session.remoteid, asked, ""
        session.facts = replace(
            session.facts,
            remote_verified=answer.remote_verified and not answer.code,
            remote_names=answer.remote_names,
            remote_subject=answer.remote_subject,
            remote_sha256=answer.remote_sha256,
        )
        try:
            if answer.code:
                raise PoolError(code, answer.detail)
            self._judging.again(session, answer)
            remoteid = policy.judge_remote(session.plan, session.facts)
        except PoolError as error:
            self._is_now(session, "", error, answer.code, answer.detail)
            raise

        def admitted(error: PoolError | None) -> None:
            session.readmits = False
            self._is_now(session, remoteid, error, 0, "")
            done(error)

        if remoteid == before and session.access is not None:
            admitted(None)
        else:
            session.readmits = True
            self._admitting.again(session, admitted, remoteid=remoteid)

    def _is_now(self, session: Session, remoteid: str, error: PoolError | None, code: int, detail: str) -> None:
        """Let a remote be somebody, or nobody."""
        if session.facts is not None and error is not None:
            session.facts = replace(session.facts, remote_verified=False)
        session.remoteid = "" if error is not None else remoteid
        self._sessions.keep(session)
        self._out.note(
            "info",
            "session.reauthenticated",
            session=session.session_id,
            remoteid=session.remoteid,
            verified=session.verified,
            code=code or (0 if error is None or error.category != 8 else int(error.code)),
            detail=detail or ("" if error is None or error.category != 8 else error.detail),
        )

    # --- our client is asked --------------------------------------------------------------------------

    def asked_by_remote(self, worker: Worker, message: AskedByRemote) -> None:
        """Say who we are, if that may be said again already.

        Raises:
            PoolError: INTERNAL, no remote of this worker can have asked.
        """
        session = self._sessions.get(SessionId(message.session_id))
        if session is None or session.state is State.EXPECT_END:
            return  # it is over, or told to end: nobody is to be answered
        relays = session.state in (State.EXPECT_RADIUS, State.EXPECT_PLAINTEXT, State.RELAYING)
        if session.worker is not worker or not relays or session.plan.side is not Side.CLIENT:
            raise PoolError(Code.INTERNAL, f"a remote asks in session {message.session_id}, {session.state.name}")
        may = self._keyd.present and self._ration(session)
        deadline_ms = self._out.now_ms + GRANT_MS + self._settings.signature_wait_s * 1000
        for credential in session.plan.credentials if may else ():
            grant = self._keyd.grant(session.session_id, Side.CLIENT, worker, credential, deadline_ms)
            use = UseCredential(
                session_id=session.session_id, key_kind=credential.key_kind, chain=credential.chain, grant=grant
            )
            self._out(SendWorker(worker.number, use))
        self._out(SendWorker(worker.number, Proceed(session_id=session.session_id)))
        level = "info" if may else "warning"
        self._out.note(level, "session.asked", session=session.session_id, localid=session.localid, answered=may)

    def _ration(self, session: Session) -> bool:
        now_ms = self._out.now_ms
        next_ms = max(session.rationed_until_ms, now_ms)
        if next_ms - now_ms > (BURST - 1) * RATION_MS:
            return False
        session.rationed_until_ms = next_ms + RATION_MS
        return True


def _plan(session: Session, request: Starttls) -> Plan:
    """Return what the remote must prove this time; raises PoolError or BadPayload."""
    flags = request.flags
    both = Flag.LOCALROLE_CLIENT | Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT | Flag.REMOTEROLE_SERVER
    if flags & both and Side.SERVER not in policy.sides_of(flags):
        raise PoolError(Code.ROLE_IMPOSSIBLE, "this side is the server")
    if flags & Flag.IGNORE_REMOTEID:
        raise BadPayload("IGNORE_REMOTEID with RENEGOTIATE leaves nothing to ask")
    if request.localid and parse_untrusted(request.localid) != session.plan.localid:
        raise PoolError(Code.NOT_SUPPORTED_YET, f"to become {request.localid}")
    return replace(
        session.plan,
        remote_auth=RemoteAuth.REQUEST if flags & Flag.REQUEST_REMOTEID else RemoteAuth.REQUIRE,
        expected=parse_untrusted(request.remoteid) if request.remoteid else None,
        domain_represents_user=bool(flags & Flag.DOMAIN_REPRESENTS_USER),
    )
