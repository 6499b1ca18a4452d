"""Programs that let people choose who they are: one for each user, asked when a client needs an identity.

Theory of operation.  A program registers for its user, and is asked about sessions of that user; one whose user the
setting ``choice_services`` names is asked about those of other users too, who have no program of their own.

    VACANT --registers--> REGISTERED --a session asks--> ASKED --answers--> REGISTERED
                                                           |
                                                           +--deadline--> LATE --answers, late--> REGISTERED

* A *sequence* is one question: the entries of the disclose database, one callback each, if the program wants them,
  and the inquiry.  It belongs to one session; others wait for it, in order.  All of it has one deadline: the timeout
  of the registration, from its first callback on.
* While the program waits to be asked, every other registration of its user is refused, its own too.  In a sequence
  it may register again, which withdraws the question: it is asked anew.  Another program may when the deadline is over.
* Every answer is the next registration, a late one as well; for the session a late one counts for nothing.
* ERROR as an answer fails the session, and is sent back: then the program is not registered any more, and knows it.
* What may be taken from the database without asking (the SKIP_ flags) is taken at once, without waiting for anybody.
* A session whose program goes away, or is not registered any more, is decided as if there had been none, but for the
  one that was being asked about: that fails.

A session is decided by the databases as they are when the choice is made, not by what they were when it began.

What was chosen is used for this session only.  If it is to be stored, that is done when the session begins to relay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tlspool_broker import choice, policy
from tlspool_broker.access import Access
from tlspool_broker.choice import Disclosure, Stored
from tlspool_broker.connections import Connection, Connections
from tlspool_broker.events import Arm, Caller, Clock, Disarm, SessionId, Timer
from tlspool_broker.out import Out
from tlspool_broker.policy import Plan
from tlspool_broker.session import Session
from tlspool_broker.snapshot import Snapshots
from tlspool_broker.wanted import Records
from tlspool_common.appwire import Cmd, ErrorReply, Flag, Frame, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, generalise, parse_untrusted
from tlspool_common.log import Value
from tlspool_common.servicewire import CHOICE_REGISTRATION, Asker, ChoiceFlag, Lidentry
from tlspool_common.settings import Settings

TIMEOUT_S = 24 * 3600
"""Longest deadline; a program may ask for 136 years."""

Chosen = Callable[[Session, Plan, "Stored | None"], None]
Failed = Callable[[Session, PoolError], None]


@dataclass(slots=True, eq=False)
class Question:
    """A session that needs an identity."""

    session: Session
    remote: Donai
    found: Disclosure
    entries: deque[str] = field(default_factory=deque)
    maxlevels: int = 0


@dataclass(slots=True, eq=False)
class Post:
    """The program of a user."""

    number: int
    connection: Connection
    reqid: int
    flags: int
    timeout_s: int
    registered: bool = True
    busy: bool = False  # a callback is out
    cbid: int = 0  # of the last callback
    asked: Question | None = None  # what it is asked; None: nobody waits for the answer
    inquires: bool = False  # the callback that is out is the inquiry
    deadline_unix_s: int = 0
    queue: deque[Question] = field(default_factory=deque)

    @property
    def caller(self) -> Caller:
        """Whose program it is."""
        return self.connection.caller


class Chooser:
    """All posts."""

    def __init__(
        self,
        out: Out,
        settings: Settings,
        records: Records,
        snapshots: Snapshots,
        access: Access,
        connections: Connections,
        unix_time_s: Callable[[], float],
    ) -> None:
        self._out = out
        self._settings = settings
        self._records = records
        self._snapshots = snapshots
        self._access = access
        self._connections = connections
        self._unix_time_s = unix_time_s
        self._posts: dict[int, Post] = {}  # by user
        self._last = 0
        self._chosen: Chosen = lambda _session, _plan, _stored: None
        self._failed: Failed = lambda _session, _error: None
        self._abandon: Callable[[SessionId], None] = lambda _session_id: None

    def bind(self, chosen: Chosen, failed: Failed, abandon: Callable[[SessionId], None]) -> None:
        """Name what leads out of here: a plan, an error; and what ends the session of a request id that was taken."""
        self._chosen, self._failed, self._abandon = chosen, failed, abandon

    def describe(self) -> list[dict[str, object]]:
        """Describe the posts for an operator."""
        return [
            {
                "service": post.caller.label,
                "uid": uid,
                "state": "asked" if post.busy else "registered" if post.registered else "late",
                "waiting": len(post.queue),
            }
            for uid, post in self._posts.items()
        ]

    # --- sessions ---------------------------------------------------------------------------------------

    def plan(self, caller: Caller, request: Starttls) -> Plan | None:
        """Return the plan of a session that has to ask; None: nobody is to be asked about it.

        Raises:
            PoolError: as ``policy.make_plan``.
        """
        flags = request.flags
        client = flags & Flag.LOCALROLE_CLIENT and flags & Flag.REMOTEROLE_SERVER
        server = flags & Flag.LOCALROLE_SERVER and flags & Flag.REMOTEROLE_CLIENT
        # To a remote that need not prove who it is, nothing is disclosed in any case.
        if not client or server or flags & Flag.IGNORE_REMOTEID or not request.remoteid or self._find(caller) is None:
            return None
        return choice.undecided(request, self._records)

    def _find(self, caller: Caller) -> Post | None:
        own = self._posts.get(caller.uid)
        if own is not None and own.registered:
            return own
        for post in self._posts.values():
            groups = (post.caller.gid, *post.caller.groups)
            if post.registered and self._settings.chooses_for_others(post.caller.uid, groups):
                return post
        return None

    def ask(self, session: Session) -> None:
        """Have an identity chosen for a session."""
        try:
            remote = parse_untrusted(session.request.remoteid)
            found = choice.disclosure(self._records, remote)
        except PoolError as error:
            self._failed(session, error)
            return
        suggestion = _suggestion(session)
        post = self._find(session.caller)
        if post is None or choice.may_skip(post.flags, remote, found, suggestion):
            self._by_database(session)
            return
        post.queue.append(Question(session, remote, found))
        self._next(post)

    def _by_database(self, session: Session) -> None:
        """Decide as if there were no program."""
        try:
            allowed = self._access.for_session(session.caller, session.request.service)
            session.records = self._snapshots.take()
            plan = policy.make_plan(session.request, session.records, allowed)
        except PoolError as error:
            self._failed(session, error)
            return
        self._chosen(session, plan, None)

    def forget(self, session: Session) -> None:
        """A session has failed, or was decided: it waits no more."""
        for post in self._posts.values():
            if post.asked is not None and post.asked.session is session:
                post.asked = None  # the answer is awaited all the same: the sequence is the program's, too
            for question in post.queue:
                if question.session is session:
                    post.queue.remove(question)
                    break

    def store(self, session: Session, stored: Stored) -> None:
        """Store a choice: the handshake has succeeded."""
        fields: dict[str, Value] = {
            "session": session.session_id,
            "selector": str(stored.selector),
            "localid": str(stored.localid),
        }
        try:
            changed = self._records.disclose_add(stored.selector, stored.localid, first=stored.first, move=stored.move)
        except PoolError as error:
            # The session has the identity that was chosen; it will be asked about again.
            self._out.note("error", "choice.not_stored", code=int(error.code), detail=error.detail, **fields)
            return
        self._out.note("info", "choice.stored", changed=changed, caller=session.caller.label, **fields)

    # --- sequences --------------------------------------------------------------------------------------

    def _next(self, post: Post) -> None:
        """Begin the next sequence, if the program is free."""
        while post.queue and post.registered and not post.busy:
            question = post.queue.popleft()
            session = question.session
            try:  # what was stored meanwhile may be the answer
                question.found = choice.disclosure(self._records, question.remote)
            except PoolError as error:
                self._failed(session, error)
                continue
            if choice.may_skip(post.flags, question.remote, question.found, _suggestion(session)):
                self._by_database(session)
                continue
            self._begin(post, question)

    def _begin(self, post: Post, question: Question) -> None:
        if post.flags & ChoiceFlag.WANT_DBENTRY:
            question.entries.extend(question.found.identities[: choice.ENTRIES])
        question.maxlevels = len(list(generalise(question.remote))) - 1
        post.deadline_unix_s = int(self._unix_time_s()) + post.timeout_s
        self._out(Arm(self._timer(post), post.timeout_s * 1000))
        session = question.session
        self._out.note(
            "debug", "choice.asked", session=session.session_id, service=post.caller.label, remote=str(question.remote)
        )
        self._say(post, question)

    def _say(self, post: Post, question: Question) -> None:
        """Send the next callback of a sequence."""
        post.inquires = not question.entries
        if question.entries:
            asked = Lidentry(
                flags=post.flags | ChoiceFlag.DBENTRY,
                maxlevels=question.found.levels,
                timeout_s=post.deadline_unix_s,
                localid=question.entries.popleft(),
                remoteid=question.found.selector,
            )
        else:
            asked = Lidentry(
                flags=post.flags,
                maxlevels=question.maxlevels,
                timeout_s=post.deadline_unix_s,
                localid=_suggestion(question.session),
                remoteid=str(question.remote),
            )
        post.asked, post.busy = question, True
        post.cbid = self._connections.ask(post.connection, post.reqid, Cmd.LIDENTRY_CALLBACK, asked.to_payload())

    def answered(self, connection: Connection, frame: Frame) -> None:
        """A program answered the callback that it got last, in time or not."""
        connection.asked.discard(frame.cbid)
        post = self._posts.get(connection.caller.uid)
        if post is None or post.connection is not connection:
            return
        if (other := self._connections.claim(connection, frame.reqid)) is not None:
            self._abandon(other)
        question, post.asked = post.asked, None
        post.reqid, post.cbid = frame.reqid, 0
        post.busy, post.registered = False, True
        if frame.cmd == Cmd.ERROR:
            text = ErrorReply.from_payload_untrusted(frame.payload)
            self._connections.send(connection, frame.reqid, 0, Cmd.ERROR, frame.payload[: ErrorReply.FORM.size])
            self._leave(post, question, PoolError(Code.CHOICE_REFUSED, f"error {text.tlserrno} {text.message}".strip()))
            return
        if question is not None and frame.cmd != Cmd.LIDENTRY_CALLBACK:
            self._failed(question.session, PoolError(Code.CHOICE_REFUSED, f"command {frame.cmd:#x}"))
        elif question is not None and not post.inquires:
            self._say(post, question)
            return
        elif question is not None:
            self._decide_untrusted(post, question, frame.payload)
        self._out(Disarm(self._timer(post)))
        self._next(post)

    def _decide_untrusted(self, post: Post, question: Question, payload: bytes) -> None:
        session = question.session
        allowed = self._access.for_session(session.caller, session.request.service)
        try:
            session.records = self._snapshots.take()
            plan, stored = choice.decided_untrusted(
                payload, session.request, question.remote, question.maxlevels, session.records, allowed
            )
        except PoolError as error:
            self._failed(session, error)
            return
        localid = (plan.candidates or (str(plan.localid or ""),))[0]
        who: dict[str, Value] = {
            "session": session.session_id,
            "service": post.caller.label,
            "caller": session.caller.label,
        }
        self._out.note("info", "choice.made", localid=localid, remote=str(question.remote), **who)
        self._chosen(session, plan, stored)

    # --- programs ---------------------------------------------------------------------------------------

    def register(self, connection: Connection, frame: Frame) -> None:
        """A program wants to be asked.

        Raises:
            PoolError: LIDENTRY_TAKEN.
            BadPayload: a field is malformed.
        """
        asked = Lidentry.from_payload_untrusted(frame.payload)
        uid = connection.caller.uid
        before = self._posts.get(uid)
        if before is not None and before.registered:
            if not before.busy or before.connection is not connection:
                raise PoolError(Code.LIDENTRY_TAKEN, before.caller.label)
            if before.asked is not None:  # it is asked anew
                before.queue.appendleft(before.asked)
        self._last += 1
        timeout_s = min(max(asked.timeout_s, 1), TIMEOUT_S)
        post = Post(self._last, connection, frame.reqid, asked.flags & CHOICE_REGISTRATION, timeout_s)
        if before is not None:
            self._remove(before)
            post.queue = before.queue
        self._posts[uid] = post
        self._out.note(
            "info", "choice.service_registered", service=post.caller.label, uid=uid, flags=f"{post.flags:#x}"
        )
        self._next(post)

    def asker(self, connection: Connection) -> Asker:
        """Return who wants the identity that a program is asked about.

        Raises:
            PoolError: SESSION_UNKNOWN, it is not asked about any.
        """
        post = self._posts.get(connection.caller.uid)
        if post is None or post.connection is not connection or post.asked is None:
            raise PoolError(Code.SESSION_UNKNOWN, "no identity is to be chosen")
        caller = post.asked.session.caller
        return Asker(caller.uid, caller.pid, caller.label, post.asked.session.request.service)

    def holds(self, connection: Connection) -> bool:
        """Whether a connection is that of a program which chooses identities."""
        post = self._posts.get(connection.caller.uid)
        return post is not None and post.connection is connection

    def displaced(self, connection: Connection, reqid: int) -> None:
        """A fresh request took a request id: if it was that of a registration, that is over."""
        post = self._posts.get(connection.caller.uid)
        if post is not None and post.connection is connection and post.reqid == reqid:
            self._leave(post, post.asked, PoolError(Code.CHOICE_REFUSED, "the request id was used again"))

    def gone(self, connection: Connection) -> None:
        """A connection is over."""
        post = self._posts.get(connection.caller.uid)
        if post is not None and post.connection is connection:
            self._leave(post, post.asked, PoolError(Code.CHOICE_REFUSED, "the program went away"))

    def timed_out(self, number: int) -> None:
        """The deadline of a sequence is over."""
        post = next((one for one in self._posts.values() if one.number == number), None)
        if post is None or not post.busy:
            return
        question, post.asked = post.asked, None
        post.busy = post.registered = False
        if question is not None:
            self._failed(question.session, PoolError(Code.CHOICE_TIMEOUT, post.caller.label))
        self._requeue(post)

    def stop(self) -> None:
        """The broker ends.  A C library takes a mere end of the connection for one more question."""
        for post in list(self._posts.values()):
            if post.registered:
                self._connections.error(post.connection, post.reqid, Code.STOPPING)
            self._remove(post)

    def _leave(self, post: Post, question: Question | None, error: PoolError) -> None:
        """A program is not there to be asked any more."""
        self._remove(post)
        self._out.note("info", "choice.service_gone", service=post.caller.label, uid=post.caller.uid)
        if question is not None:
            self._failed(question.session, error)
        self._requeue(post)

    def _remove(self, post: Post) -> None:
        self._posts.pop(post.caller.uid, None)
        post.connection.asked.discard(post.cbid)
        self._out(Disarm(self._timer(post)))

    def _requeue(self, post: Post) -> None:
        """Ask others, or the database, about the sessions that waited for a program."""
        waiting, post.queue = post.queue, deque()
        for question in waiting:
            self.ask(question.session)

    @staticmethod
    def _timer(post: Post) -> Timer:
        return Timer(Clock.CHOICE, post.number)


def _suggestion(session: Session) -> str:
    """Return the identity that the application named, in normal form."""
    return str(parse_untrusted(session.request.localid)) if session.request.localid else ""
