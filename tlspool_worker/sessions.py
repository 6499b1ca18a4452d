"""The core of a worker: what it does with its sessions, and what it may be told when.

    StartSession ---server---> EXPECT_CLIENT_HELLO --ClientHelloSeen--> EXPECT_PROCEED <---client--- StartSession
                                                                             | Proceed                (or a peer)
                                  a peer: EXPECT_ROLE <--> EXPECT_REMOTE <--> EXPECT_STEP <--> EXPECT_VERDICT
                                                                             | HandshakeDone
                                                          RELAYING <-- EXPECT_PLAINTEXT
    from any of them, by the remote's end, a fault, or EndSession: OVER

* A peer gets the credentials of a client, listens (EXPECT_ROLE), and then speaks as a client, unless the remote has
  spoken before.  As long as ``symmetry`` has no verdict what comes is not OpenSSL's.  If we turn out to be the
  server, the session goes on as one in EXPECT_CLIENT_HELLO would.
* A session that relays can be asked things (``Ask``).  A client's remote may ask who we are once more: that needs
  credentials again, but no state, as the relay stands still meanwhile.
* EXPECT_STEP: OpenSSL is at work, perhaps in a thread that waits for a signature.  Nothing is read meanwhile.
* EXPECT_VERDICT: the same, and what waits in the thread is the broker's word on what the remote has shown, once at
  most in a session.  The thread gives up after some time; a session that ends meanwhile lets it go (Drop).  As a rule
  the thread has told the broker by itself (``remote_told``): that may be known here only when the verdict comes.
* A session that is over is forgotten at once.  What the broker said before it heard of that crosses our last
  word, so a message for a session that we had is dropped; for one that we never had, it breaks the table.
* A broker that breaks the table cannot be trusted: ``BrokenBroker``, and the process ends.
* A broker that goes away takes along what is being set up.  What relays needs nobody, and goes on.  If another one
  may come (BrokerAway), it is told of that (telling.py); a closed channel says that none will.

Rule: every change of ``state`` goes through ``Session.move``, which holds it against TABLE.
"""

from __future__ import annotations

from dataclasses import replace

from tlspool_common.errors import Code
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    AskedByRemote,
    AskExport,
    AskFact,
    AskRemote,
    AskTraffic,
    BrokerAway,
    ClientHelloSeen,
    EndKept,
    EndReason,
    EndSession,
    HandshakeFailed,
    KeepRecord,
    Message,
    PlainConnected,
    Proceed,
    RemoteShown,
    Side,
    StartSession,
    TellSessions,
    Traffic,
    TrustAnchor,
    TrustBegin,
    UseCredential,
    UseKeyChannel,
    Verdict,
    WorkerOwner,
    prose,
)
from tlspool_common.title import count
from tlspool_worker.client_hello import NO_ALERT, HelloRefused, refuse_plaintext_untrusted
from tlspool_worker.effects import (
    Adopt,
    Answer,
    Ask,
    Attach,
    Begin,
    Drop,
    EndRelay,
    Finish,
    ForgetQuestions,
    GoOn,
    Judge,
    Listen,
    Note,
    OpenRelay,
    Out,
    Say,
    SendCipher,
    UseKeys,
    Wait,
)
from tlspool_worker.exits import Exit
from tlspool_worker.session import Handshaking, Session, State, add, alert_record, under
from tlspool_worker.symmetry import IsServer, Symmetry
from tlspool_worker.telling import NO_SESSION, UNSAID_MS, Telling, end_of, no_traffic
from tlspool_worker.tls import Step
from tlspool_worker.trust import Trust


class BrokenBroker(Exception):
    """The broker said what it must not say now."""


class Sessions:
    """All sessions of a worker.  Does no I/O: what is to be done goes to ``out``."""

    def __init__(self, worker_id: int, out: Out) -> None:
        self._worker_id = worker_id
        self._out = out
        self._trust = Trust()
        self._sessions: dict[int, Session] = {}
        self._highest = 0
        self._asked: dict[int, list[UseCredential]] = {}
        self._telling = Telling(out)
        self._has_broker = True
        self._may_come = True
        self._retired = False
        self._waits_to_tell = False
        self.owner = ""

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def title(self) -> str:
        """Whose the worker is and how much it has, for the list of processes."""
        whose = f" of {self.owner}" if self.owner else ""
        return f"worker {self._worker_id}{whose}, {count(len(self), 'session')}"

    # --- what the broker says -------------------------------------------------------------------------

    def broker_said(self, message: Message, fd: OwnedFd | None = None) -> None:
        """Take a message; its descriptor is ours.

        Raises:
            BrokenBroker: the message is out of place.
        """
        match message:
            case UseKeyChannel() if fd is not None:
                if message.worker_id != self._worker_id:
                    fd.close()
                    raise BrokenBroker(f"a key channel for worker {message.worker_id}")
                self._out(UseKeys(fd))
            case TrustBegin() | TrustAnchor():
                self._trust_said(message)
            case WorkerOwner():
                self.owner = message.owner
            case BrokerAway():
                self._out(Note("info", "broker.away", {"worker": self._worker_id, "sessions": len(self._sessions)}))
                self._lose_broker()
            case TellSessions():
                self._tell(message)
            case StartSession() if fd is not None:
                self._start(message, fd)
            case PlainConnected() if fd is not None:
                self._plain_connected(message, fd)
            case AskExport() | AskFact() | AskRemote() | AskTraffic():
                self._ask(message)
            case EndKept():
                self._end_kept(message.session_id)
            case UseCredential() | Proceed() | EndSession() | Verdict() | KeepRecord():
                session = self._find(message.session_id, type(message).__name__)
                if session is not None:
                    self._session_said(session, message)
            case _:
                raise BrokenBroker(f"{type(message).__name__} is not for a worker")

    def _trust_said(self, message: TrustBegin | TrustAnchor) -> None:
        try:
            if not self._trust.said(message):
                self._out(Note("warning", "trust.anchor_unreadable", {"generation": message.generation}))
        except ValueError as error:
            raise BrokenBroker(str(error)) from None

    def _find(self, session_id: int, what: str) -> Session | None:
        """Return a session; None when it is over already."""
        session = self._sessions.get(session_id)
        if session is None and session_id > self._highest:
            raise BrokenBroker(f"{what} for session {session_id}, which was not started")
        return session

    def _start(self, message: StartSession, fd: OwnedFd) -> None:
        session_id = message.session_id
        try:
            if session_id in self._sessions:
                raise BrokenBroker(f"session {session_id} is started again")
            trust = self._trust.use(message.trust_generation)
        except ValueError as error:
            fd.close()
            raise BrokenBroker(str(error)) from None
        except BrokenBroker:
            fd.close()
            raise
        self._highest = max(self._highest, session_id)  # one that had to wait comes after higher numbers
        server = message.side is Side.SERVER
        state = State.EXPECT_CLIENT_HELLO if server else State.EXPECT_PROCEED
        self._sessions[session_id] = Session(session_id, state, Handshaking(message, trust))
        self._out(Adopt(session_id, fd))
        if server:
            self._out(Listen(session_id))

    def _session_said(
        self, session: Session, message: UseCredential | Proceed | EndSession | Verdict | KeepRecord
    ) -> None:
        if isinstance(message, EndSession):
            self._end(session, message.alert)
            return
        if isinstance(message, KeepRecord):
            if session.state not in (State.EXPECT_PLAINTEXT, State.RELAYING):
                raise BrokenBroker(f"a record for session {session.session_id} in {session.state.name}")
            self._telling.keep(session.session_id, message.record, accounted=message.accounted)
            return
        if isinstance(message, Verdict):
            if session.state is not State.EXPECT_VERDICT:
                raise BrokenBroker(f"a verdict for session {session.session_id} in {session.state.name}")
            session.move(State.EXPECT_STEP)
            self._out(Judge(message))
            return
        handshaking = session.handshaking
        given = self._asked.get(session.session_id)
        if handshaking is not None and session.state is State.EXPECT_PROCEED:
            given = handshaking.credentials
        if given is None:
            raise BrokenBroker(f"{type(message).__name__} for session {session.session_id} in {session.state.name}")
        try:
            if isinstance(message, UseCredential):
                add(given, message)
                return
            start = under(None if handshaking is None else handshaking.start, message)
        except ValueError as error:
            raise BrokenBroker(f"session {session.session_id}: {error}") from None
        if handshaking is None or start is None:
            self._out(Answer(session.session_id, tuple(self._asked.pop(session.session_id))))
            return
        handshaking.start = start
        if handshaking.symmetry is not None:
            session.move(State.EXPECT_ROLE)
            self._out(Listen(session.session_id))
            self._out(Wait(session.session_id, handshaking.start.listen_ms))
        else:
            self._begin(session, handshaking)

    def _begin(self, session: Session, handshaking: Handshaking) -> None:
        data = bytes(handshaking.hello.raw) if handshaking.hello else handshaking.data
        handshaking.hello, handshaking.data = None, b""
        credentials, handshaking.credentials = tuple(handshaking.credentials), []
        session.move(State.EXPECT_STEP)
        self._out(Begin(handshaking.start, credentials, handshaking.trust, data))

    def _ask(self, message: AskExport | AskFact | AskRemote | AskTraffic) -> None:
        session = self._find(message.session_id, type(message).__name__)
        if session is None:
            return
        if session.state is not State.RELAYING:
            raise BrokenBroker(f"a question about session {session.session_id} in {session.state.name}")
        try:
            trust = self._trust.use(message.trust_generation) if isinstance(message, AskRemote) else None
        except ValueError as error:
            raise BrokenBroker(str(error)) from None
        self._out(Ask(message, trust))

    def _plain_connected(self, message: PlainConnected, fd: OwnedFd) -> None:
        try:
            session = self._find(message.session_id, "PlainConnected")
            if session is not None and session.state is not State.EXPECT_PLAINTEXT:
                raise BrokenBroker(f"PlainConnected for session {session.session_id} in {session.state.name}")
        except BrokenBroker:
            fd.close()
            raise
        if session is None:
            fd.close()
            return
        session.move(State.RELAYING)
        self._out(Attach(session.session_id, fd))

    def _end(self, session: Session, alert: int) -> None:
        """The broker does not want this session."""
        if session.state in (State.EXPECT_PLAINTEXT, State.RELAYING):
            self._out(EndRelay(session.session_id))
            return
        self._over(session, alert_record(alert) if alert != NO_ALERT and session.is_unencrypted else b"")
        self._out(Say(end_of(EndReason.ORDERED, no_traffic(session.session_id), "")))

    def waited(self, session_id: int) -> None:
        """A peer has listened long enough.  The session may be over, or the remote have begun to speak."""
        if session_id == NO_SESSION and self._waits_to_tell and not self._sessions:
            self._out(Finish(Exit.OK))  # nobody has come to hear how they have ended
        session = self._sessions.get(session_id)
        if session is None or session.state is not State.EXPECT_ROLE or session.handshaking is None:
            return
        symmetry = session.handshaking.symmetry
        if symmetry is not None and not symmetry.has_heard:
            self._begin(session, session.handshaking)

    def _peer_heard(self, session: Session, handshaking: Handshaking, symmetry: Symmetry, data: bytes) -> None:
        """The remote of a peer without role has sent bytes.  Raises HelloRefused."""
        verdict = symmetry.heard_untrusted(data)
        if isinstance(verdict, IsServer):
            handshaking.start = replace(handshaking.start, side=Side.SERVER, peer=False)
            handshaking.symmetry, handshaking.credentials, handshaking.data = None, [], verdict.data
            hello = verdict.hello
            session.move(State.EXPECT_PROCEED)
            self._out(Say(ClientHelloSeen(session_id=session.session_id, sni=hello.sni, alpn=hello.alpn)))
            return
        handshaking.symmetry = symmetry if verdict is None else None
        if verdict is not None and verdict.data:
            self._remote_came(session, handshaking, verdict.data)
        else:
            self._out(Listen(session.session_id))

    # --- what the remote does -------------------------------------------------------------------------

    def cipher_came(self, session_id: int, data: bytes) -> None:
        """The remote has sent bytes."""
        session = self._sessions[session_id]
        handshaking = session.handshaking
        if handshaking is None:
            return
        try:
            if session.state is State.EXPECT_CLIENT_HELLO and handshaking.hello is not None:
                hello = handshaking.hello.feed_untrusted(data)
                if hello is None:
                    self._out(Listen(session_id))
                else:
                    session.move(State.EXPECT_PROCEED)
                    self._out(Say(ClientHelloSeen(session_id=session_id, sni=hello.sni, alpn=hello.alpn)))
            elif session.state in (State.EXPECT_ROLE, State.EXPECT_REMOTE) and handshaking.symmetry is not None:
                self._peer_heard(session, handshaking, handshaking.symmetry, data)
            elif handshaking.symmetry is not None:
                handshaking.data = data  # it came while OpenSSL was making our own ClientHello
            elif session.state is State.EXPECT_REMOTE:
                self._remote_came(session, handshaking, data)
        except HelloRefused as refused:
            # An alert that was received is answered with nothing.
            sends = refused.alert != NO_ALERT and refused.code is not Code.REMOTE_ALERT
            record = alert_record(refused.alert) if sends else b""
            self._fail(session, refused.code, refused.alert, refused.detail, record)

    def _remote_came(self, session: Session, handshaking: Handshaking, data: bytes) -> None:
        """OpenSSL is to read this.  Raises HelloRefused."""
        if handshaking.first and handshaking.start.side is Side.CLIENT:
            refuse_plaintext_untrusted(data[:16])
        handshaking.first = False
        session.move(State.EXPECT_STEP)
        self._out(GoOn(session.session_id, data))

    def cipher_ended(self, session_id: int, reset: str = "") -> None:
        """The remote has closed, or reset the connection, during the handshake."""
        self._fail(self._sessions[session_id], Code.REMOTE_RESET if reset else Code.REMOTE_CLOSED, NO_ALERT, reset)

    # --- what OpenSSL makes of it ---------------------------------------------------------------------

    def remote_shown(self, shown: RemoteShown) -> None:
        """A thread has the remote's credential before it, and waits.  The session may be over by now."""
        session = self._sessions.get(shown.session_id)
        if session is not None and session.state is State.EXPECT_STEP:
            session.move(State.EXPECT_VERDICT)
            self._out(Say(shown))

    def remote_told(self, session_id: int) -> None:
        """A thread has said to the broker what the remote shows, and waits.  The session may be over by now."""
        session = self._sessions.get(session_id)
        if session is not None and session.state is State.EXPECT_STEP:
            session.move(State.EXPECT_VERDICT)

    def stepped(self, session_id: int, step: Step) -> None:
        """A step of a handshake is done.  The session may be over by now."""
        session = self._sessions.get(session_id)
        if session is None or session.state not in (State.EXPECT_STEP, State.EXPECT_VERDICT):
            return
        if session.state is State.EXPECT_VERDICT and step.fault is None:
            self._fail(session, Code.INTERNAL, 80, "a handshake went on without a verdict")
            return
        if step.fault is not None:
            fault, record = step.fault, step.output
            if not record and not fault.received and fault.alert != NO_ALERT and session.nothing_sent:
                record = alert_record(fault.alert)
            self._fail(session, fault.code, fault.alert, fault.detail, record)
            return
        if step.output:
            self._out(SendCipher(session_id, step.output))
            if session.handshaking and session.handshaking.symmetry:
                session.handshaking.symmetry.spoke(step.output)
        if step.facts is None:
            session.move(State.EXPECT_REMOTE)
            if session.handshaking and session.handshaking.data:
                kept, session.handshaking.data = session.handshaking.data, b""
                self.cipher_came(session_id, kept)
            else:
                self._out(Listen(session_id))
            return
        session.move(State.EXPECT_PLAINTEXT)
        session.handshaking = None
        self._out(Say(step.facts))
        self._out(OpenRelay(session_id))

    def could_not_step(self, session_id: int, code: Code, detail: str) -> None:
        """A handshake could not be made, or went wrong by a fault of our own."""
        session = self._sessions.get(session_id)
        if session is not None:
            record = alert_record(80) if session.nothing_sent else b""
            self._fail(session, code, 80, detail, record)

    def remote_asks(self, session_id: int) -> None:
        """The remote of a client's relay wants to know once more who we are; the relay stands still."""
        if self._has_broker and self._telling.knows(session_id):
            self._asked[session_id] = []
            self._out(Say(AskedByRemote(session_id=session_id)))
        else:
            self._out(Answer(session_id, ()))

    # --- ends -----------------------------------------------------------------------------------------

    def relay_ended(self, reason: EndReason, traffic: Traffic, detail: str) -> None:
        """A relay is over, before or after it had its plaintext end."""
        session_id = traffic.session_id
        session = self._sessions.pop(session_id)
        did_relay = session.state is State.RELAYING
        session.move(State.OVER)
        self._asked.pop(session_id, None)
        if did_relay and self._may_come:
            self._telling.ended(end_of(reason, traffic, detail))
        else:
            self._telling.forget(session_id)
            if self._has_broker:
                self._out(Say(end_of(reason, traffic, detail)))
        self._look_for_the_end()

    def broker_gone(self) -> None:
        """The broker's channel is closed for ever: what is being set up ends, and what relays goes on."""
        self._may_come = False
        self._telling.broker_gone()
        self._lose_broker()

    def _lose_broker(self) -> None:
        self._has_broker = False
        self._give_up_setting_up()
        self._look_for_the_end()

    def _give_up_setting_up(self) -> None:
        """The broker that wanted it is no more: end what does not relay, and let what relays be told of."""
        self._telling.broker_away({one for one in self._sessions if self._sessions[one].state is State.RELAYING})
        asked, self._asked = self._asked, {}
        for session_id in asked:
            self._out(Answer(session_id, ()))
        for session in list(self._sessions.values()):
            if session.state is State.EXPECT_PLAINTEXT:
                self._out(EndRelay(session.session_id))
            elif session.state is not State.RELAYING:
                self._over(session, b"")

    def _tell(self, message: TellSessions) -> None:
        """A broker has found us, and wants to know what there is."""
        if not message.after:
            self._has_broker = False
            self._give_up_setting_up()
            self._trust.forget()
            self._out(ForgetQuestions())
            self._has_broker, self._waits_to_tell = True, False
        self._telling.tell(message)

    def _end_kept(self, session_id: int) -> None:
        if session_id in self._sessions:
            raise BrokenBroker(f"session {session_id} has not ended")
        self._telling.end_kept(session_id)
        self._look_for_the_end()

    def retire(self) -> None:
        """No more sessions will come: end after the last one."""
        self._retired = True
        self._look_for_the_end()

    def terminate(self) -> None:
        """End now, as politely as goes without waiting."""
        for session in list(self._sessions.values()):
            if session.state in (State.EXPECT_PLAINTEXT, State.RELAYING):
                self._out(EndRelay(session.session_id))
            else:
                self._over(session, b"")
        self._out(Finish(Exit.OK))

    def _look_for_the_end(self) -> None:
        if self._sessions or not (self._retired or not self._has_broker):
            return
        if not self._telling.unsaid:
            self._out(Finish(Exit.OK))
        elif not self._waits_to_tell:
            self._waits_to_tell = True
            self._out(Wait(NO_SESSION, UNSAID_MS))

    def _fail(self, session: Session, code: Code, alert: int, detail: str, record: bytes = b"") -> None:
        """Report a handshake that did not succeed."""
        self._over(session, record)
        if self._has_broker:
            failed = HandshakeFailed(session_id=session.session_id, code=int(code), alert=alert, detail=prose(detail))
            self._out(Say(failed))
        self._look_for_the_end()

    def _over(self, session: Session, record: bytes) -> None:
        """Forget a session that does not relay, with a last word to its remote."""
        session.move(State.OVER)
        del self._sessions[session.session_id]
        if record:
            self._out(SendCipher(session.session_id, record))
        self._out(Drop(session.session_id))
