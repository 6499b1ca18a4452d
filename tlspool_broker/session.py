"""One STARTTLS, from the request to the end of its session: the record; states.py has the table of its states.

Theory of operation.  A session is set up in steps, and in each state exactly one thing is expected:

    STARTTLS -> EXPECT_KEYD -> EXPECT_WORKER -> EXPECT_CLIENT_HELLO -> EXPECT_HANDSHAKE -> EXPECT_PLAINTEXT
             (if it is away)  (if none is free)   (servers only)                                 |
                                                                              final reply, RELAYING -> OVER
    with RADIUS servers: EXPECT_RADIUS, between EXPECT_HANDSHAKE and EXPECT_PLAINTEXT
    with LOCALID_CHECK: EXPECT_LOCALID, for clients first of all, for servers behind EXPECT_CLIENT_HELLO
    judged, and nobody here knows enough: EXPECT_ADVICE, in the middle of EXPECT_HANDSHAKE
    judged, and refused: EXPECT_ALERT until the worker has told the remote, then OVER
    any of them, when we end it: EXPECT_END until the worker has let go, then OVER

* In EXPECT_CHOICE a client waits until somebody has chosen its identity (chooser.py); clients only, and only where a
  program is registered for that.  What is to be ``stored`` of the choice is, when the session begins to relay.
* In EXPECT_LOCALID the application is asked who we are, once or several times (proposals.py).  It may give the
  plaintext descriptor with its answer (``plain``): then it is not asked for it again.
* Which crypto policy a server is under may follow from who it is, and that from the name its client asks for.  A worker
  is told what is known so far (``terms``), and with the credentials what has become of it.
* Everything is decided by one snapshot of the databases (``records``, snapshot.py), whose number is ``generation``.
* A session that is judged (judging.py) has its worker describe what the remote shows, once, and wait (``shown``).  The
  answer is a Verdict.  In EXPECT_ADVICE somebody else is asked first, and nobody but this session waits for that.
  After a Verdict that refuses (``refusal``) a handshake cannot succeed any more.
* In EXPECT_RADIUS servers are asked about the remote that has proved who it is, and then accounting begins
  (admitting.py): what is open is ``pending``, what was said ``heard``, and what was granted ``access``.  ``accounted``:
  accounting.py was told of it, and is to hear of its end; ``meter`` is what it knows.
* Up to EXPECT_WORKER the session's socket is here (``crypt``); from then on the worker has it.  What ends a
  session after that point is a word of the worker (HandshakeFailed, SessionEnded), or the worker's death.
* To end a session ourselves we tell the application (ERROR, unless it is gone or the request id was used
  again), and the worker (EndSession).  What the worker said before it heard of that is allowed, and ignored.
  A worker that does not let go in time is ended.
* The application hears exactly one final reply.  ``exchange`` is the correlation with it, and is there until
  that reply; from the final STARTTLS reply on, the session is *controlled* by the connection that asked for
  it and ends with it, unless FORK or DETACH said otherwise.
* A peer, which may have either role, is set up as a client; ``as_server`` is what it does when its remote speaks
  first.  A remote that relays may be asked who it is once more (reauth.py): ``asked`` is what it must
  prove then, and by which databases.  While it ``readmits``, RADIUS is asked about who it is now.
* A session of an earlier broker is made of the record that its worker has kept (kept.py), and begins in RELAYING.
  ``control`` is the keyed hash of its control key, which is not known; ``localid_was`` who we are in it.
* keyd may go away at any time: a session that gets to its credentials then goes back to EXPECT_KEYD, and has a
  worker there.

Rule: every change of ``state`` goes through ``move``, which holds it against TABLE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tlspool_broker import policy
from tlspool_broker.choice import Stored
from tlspool_broker.connections import Connection, Exchange
from tlspool_broker.events import Caller, DropFd, Note, SessionId
from tlspool_broker.meter import Meter
from tlspool_broker.out import Out
from tlspool_broker.policy import NOTHING_ASKED, Asks, Plan, Terms
from tlspool_broker.radius_grant import Admission, Heard, Pending
from tlspool_broker.states import LAST_WORDS as LAST_WORDS
from tlspool_broker.states import OVERDUE, TABLE
from tlspool_broker.states import SAID as SAID
from tlspool_broker.states import Happening as Happening
from tlspool_broker.states import State as State
from tlspool_broker.validation.judgement import Judgement, Source
from tlspool_broker.wanted import Records
from tlspool_broker.workers import Worker
from tlspool_common.appwire import Details, Flag, Starttls, Verified
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Value
from tlspool_common.messages import (
    EndReason,
    HandshakeDone,
    RemoteAuth,
    RemoteShown,
    RevocationTold,
    SessionEnded,
)

_DAILY = frozenset({Code.CALLER_GONE, Code.STOPPING, Code.DRAINING, Code.HANDSHAKE_YIELDED})
"""Besides the faults of remotes: failures that nobody has to look into."""

_BY_RADIUS = frozenset({Code.RADIUS_REJECTED, Code.RADIUS_ANONYMOUS})
"""Of the codes of RADIUS: policy has decided so."""

VERSIONS = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}

_CIPHER_B, _GROUP_B, _ALPN_B = 63, 31, 63
"""What fits the fields of Details; longer names do not exist in TLS so far."""


def _fitting(text: str, size_b: int) -> str:
    """Make a worker's text fit a field of the application."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else "?" for character in text)
    return text.encode()[:size_b].decode(errors="ignore")


@dataclass(slots=True, eq=False)
class Session:
    """What is known of one session.  The request is ours: nothing but descriptors is taken from later frames."""

    session_id: SessionId
    caller: Caller
    request: Starttls
    plan: Plan
    records: Records
    exchange: Exchange | None
    crypt: OwnedFd | None
    alpn: bytes
    as_server: Plan | None
    started_ms: int
    deadline_ms: float | None
    state: State
    controller: Connection | None = None
    worker: Worker | None = None
    plain: OwnedFd | None = None
    stored: Stored | None = None
    proposals: tuple[str, ...] = ()
    hello_sni: str = ""
    asks: Asks = NOTHING_ASKED
    terms: Terms | None = None
    sources: tuple[Plan, Records, tuple[Source, ...]] | None = None
    shown: RemoteShown | None = None
    advice: RevocationTold | None = None
    question: int = 0
    judgement: Judgement | None = None
    refusal: PoolError | None = None
    facts: HandshakeDone | None = None
    remoteid: str = ""
    established_ms: int = 0
    ended_by: str = ""
    asked: tuple[Plan, Records] | None = None
    readmits: bool = False
    rationed_until_ms: int = 0
    control: bytes = b""
    localid_was: str | None = None
    remote_address: str = ""
    pending: Pending | None = None
    heard: tuple[Heard, ...] = ()
    access: Admission | None = None
    accounted: bool = False
    meter: Meter | None = None
    on_end: Callable[[Session], None] | None = None
    watch: Callable[[Session], None] | None = None

    @property
    def generation(self) -> int:
        """Number of the state of the databases that everything is decided by."""
        return self.records.generation

    def allows(self, happening: Happening) -> bool:
        """Tell whether this may happen now."""
        if happening is Happening.HELLO_SEEN and self.state is State.EXPECT_HANDSHAKE:
            # only a peer that was taken for the client may turn out to be the server
            return self.as_server is not None and self.shown is None
        if happening is Happening.REMOTE_SHOWN and (not self.asks.asks or self.shown is not None):
            return False  # nobody has asked for that, or it was said already
        return happening in TABLE[self.state]

    def serve(self) -> None:
        """The remote has sent a ClientHello: a peer is the server."""
        if self.as_server is not None:
            self.plan, self.as_server = self.as_server, None

    @property
    def resumed(self) -> bool:
        """Whether an earlier broker has set it up."""
        return self.localid_was is not None

    def let_go_of_fds(self, out: Out, *, shut: bool) -> None:
        """Close what is here of a session that ends: to ``shut`` tells the remote."""
        if self.plain is not None:
            out(DropFd(self.plain))
        if self.crypt is not None:
            out(DropFd(self.crypt, shut=shut))
        self.plain = self.crypt = None

    def echo(self) -> Starttls:
        """Return the request as it came, with identities that were authenticated, and of two roles the one we have."""
        request = self.request
        if policy.is_peer(request.flags) and self.facts is not None:
            request = replace(request, flags=policy.flags_of(self.plan.side, request.flags))
        return request.with_identities(self.localid, self.remoteid)

    def move(self, happening: Happening, state: State) -> None:
        """Go to the state where this leads.

        Raises:
            PoolError: INTERNAL, the table has no such way.
        """
        if state not in TABLE[self.state].get(happening, ()):
            raise PoolError(
                Code.INTERNAL, f"session {self.session_id}: {self.state.name} {happening.name} {state.name}"
            )
        self.state = state
        if self.watch is not None:
            self.watch(self)

    def overdue(self, now_ms: int) -> Code | None:
        """Return why a session fails whose timer has fired; None: nothing was to come."""
        code = OVERDUE.get(self.state)
        late = self.is_late(now_ms) and self.state is not State.EXPECT_PLAINTEXT
        return Code.HANDSHAKE_TIMEOUT if code and late else code

    def is_late(self, now_ms: int) -> bool:
        """Whether the handshake should be over."""
        return self.deadline_ms is not None and now_ms >= self.deadline_ms

    @property
    def being_set_up(self) -> bool:
        """Whether the application still waits for its final reply."""
        return self.state not in (State.RELAYING, State.EXPECT_END, State.OVER)

    @property
    def forks(self) -> bool:
        """Whether the session survives the connection of its creator."""
        return bool(self.request.flags & Flag.FORK)

    @property
    def asks_localid(self) -> bool:
        """Whether the application wants to be asked who we are."""
        return bool(self.request.flags & Flag.LOCALID_CHECK)

    @property
    def localid(self) -> str:
        """The identity that was used, or ''."""
        if self.localid_was is not None:
            return self.localid_was
        return str(self.plan.localid) if self.plan.localid and self.plan.credentials else ""

    @property
    def tags(self) -> tuple[str, ...]:
        """What RADIUS servers have tagged the remote's identity with."""
        return self.access.tags if self.access is not None else ()

    @property
    def verified(self) -> bool:
        """Whether the remote was asked who it is, and proved it."""
        return self.facts is not None and self.facts.remote_verified and self.plan.remote_auth is not RemoteAuth.IGNORE

    @property
    def version(self) -> str:
        """The protocol version as people write it."""
        return VERSIONS.get(self.facts.tls_version, hex(self.facts.tls_version)) if self.facts else ""

    def details(self, ctlkey: bytes) -> Details:
        """Return what an application may know that protocol V2 has no field for."""
        facts = self.facts
        if facts is None:
            return Details(ctlkey, int(self.session_id))
        return Details(
            ctlkey,
            int(self.session_id),
            facts.tls_version,
            Verified.X509 if self.verified else Verified.NOT,
            resumed=False,
            cipher=_fitting(facts.cipher, _CIPHER_B),
            group=_fitting(facts.group, _GROUP_B),
            alpn=facts.alpn if len(facts.alpn) <= _ALPN_B else b"",
            subject=_fitting(facts.remote_subject, len(facts.remote_subject.encode())),
            tags=len(self.tags),
        )

    def _fields(self) -> dict[str, Value]:
        fields: dict[str, Value] = {
            "session": self.session_id,
            "caller": self.caller.label,
            "unit": self.caller.unit,
            "uid": self.caller.uid,
            "service": self.request.service,
            "side": self.plan.side.name.lower(),
            "localid": str(self.plan.localid or ""),
            "generation": self.generation,
        }
        if self.facts is None:
            return {**fields, "wanted": str(self.plan.expected or "")}
        return {
            **fields,
            "remoteid": self.remoteid,
            **({"tags": " ".join(self.tags)} if self.tags else {}),
            "verified": self.verified,
            "version": self.version,
            "cipher": self.facts.cipher,
            "group": self.facts.group,
        }

    def start_note(self, now_ms: int) -> Note:
        """Return the log line of a session that begins to relay."""
        return Note("info", "session.start", {**self._fields(), "ms": now_ms - self.started_ms})

    def resumed_note(self, now_ms: int) -> Note:
        """Return the log line of a session that an earlier broker has set up, and that relays."""
        return Note("info", "session.resumed", {**self._fields(), "age_s": (now_ms - self.established_ms) // 1000})

    def lost(self, reason: str) -> SessionEnded:
        """Return what a worker would have said, had it not died."""
        return SessionEnded(
            session_id=self.session_id, reason=EndReason.WORKER_LOST, from_remote_b=0, to_remote_b=0, detail=reason
        )

    def end_note(self, message: SessionEnded, now_ms: int) -> Note:
        """Return the log line of a session that did relay."""
        end: dict[str, Value] = {
            "from_remote_b": message.from_remote_b,
            "to_remote_b": message.to_remote_b,
            "reason": message.reason.name.lower(),
            "by": self.ended_by,
            "detail": message.detail,
            "ms": now_ms - self.established_ms,
        }
        return Note("info", "session.end", {**self._fields(), **end})

    def failure_note(self, error: PoolError, now_ms: int) -> Note:
        """Return the log line of a session that did not come about.

        A remote's fault, or an application that went away, is daily business; the rest may need somebody.
        """
        code = error.code
        daily = code // 100 == 3 or code in _DAILY
        refused = code // 100 in (1, 2, 4) or code in _BY_RADIUS
        event = "session.refused" if refused and not daily else "session.failed"
        why: dict[str, Value] = {"code": int(code), "rule": code.name.lower()}
        how: dict[str, Value] = {
            "state": self.state.name.lower(),
            "detail": error.detail,
            "ms": now_ms - self.started_ms,
        }
        level = "error" if code is Code.INTERNAL else "info" if daily else "warning"
        return Note(level, event, {**why, **self._fields(), **how})

    def row(self, now_ms: int) -> dict[str, object]:
        """Return the session as the operator's socket shows it."""
        facts = self.facts
        return {
            "session": int(self.session_id),
            "state": self.state.name.lower(),
            "caller": self.caller.label,
            "uid": self.caller.uid,
            "service": self.request.service,
            "side": self.plan.side.name.lower(),
            "localid": self.localid,
            "remoteid": self.remoteid,
            "tags": list(self.tags),
            "version": self.version,
            "cipher": facts.cipher if facts else "",
            "group": facts.group if facts else "",
            "age_s": round((now_ms - self.started_ms) / 1000, 1),
            "worker": self.worker.worker_id if self.worker else None,
            "detached": self.state is State.RELAYING and self.controller is None,
        }
