"""What applications ask of RADIUS: is this somebody's password, may somebody have this, account for that.

    LOCAL_AUTHENTICATE, LOCAL_AUTHORIZE --> who is meant? --> may this program? --> Radius.ask --> Verdict, or ERROR
    LOCAL_ACCOUNT_START, UPDATE, END    --> ............................... --> Items (items.py) --> AccountKept

* Who is meant follows from the key of a question: it is the control key of a session of this connection, or one that a
  Subject on this connection has given to a name.  Such a name is for one question; the key of one that was accepted
  stands for the same from then on, and what is accounted for with it has the Class of that answer.
* ``account`` rules say who may ask about whom; where none applies, a program may ask about the remotes of live sessions
  of its own user (tlspool_common/account_rules.py).  That is looked at when it asks, and so is what a radius rule says.
* What is rejected is an answer.  What is not answered is an error: the rule's ``unanswered`` is for sessions, here the
  application decides what to do then.
* An application hears exactly one reply, within the time of its question and a moment; its connection may go away, or
  use the request id for something else, and then it hears none.
* A password is in the question and in what is sent to the helper, and in nothing that stays: not longer than somebody
  waits for the answer, and it is not asked about twice when the helper has ended (radius.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from tlspool_broker.access import covers
from tlspool_broker.connections import Connection, Connections
from tlspool_broker.ctlkeys import ControlKeys
from tlspool_broker.events import Arm, Caller, Clock, Disarm, Timer
from tlspool_broker.items import Accountant, Item, Items
from tlspool_broker.out import Out
from tlspool_broker.session import Session
from tlspool_common import limits
from tlspool_common.aaawire import AccountCount, AccountKept, AccountStart, Said, Subject, Verdict
from tlspool_common.appwire import Cmd
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import generalise, parse_untrusted
from tlspool_common.messages import AccessTold, AskAccess
from tlspool_common.messages_radius import Access, Purpose
from tlspool_common.settings import Settings

SLACK_MS = 1_000
"""After the deadline of a question, which the helper minds itself."""

KEEP_MS = 10_000
"""For a record to get to the helper's disk.  That takes milliseconds; a helper that has to start, half a second."""

AHEAD_MS = 300_000
"""How far an application's clock may be ahead of ours: as much as RFC 5176 section 6.3 allows for Event-Timestamp."""

_NAMES = {Purpose.AUTHENTICATE: "radius_authn", Purpose.AUTHORIZE: "radius_authz"}
_SERVICE_TYPES = {Purpose.AUTHENTICATE: "Authenticate-Only", Purpose.AUTHORIZE: "Authorize-Only"}


@dataclass(frozen=True, slots=True)
class Who:
    """Who is meant; ``session`` None: the application has said so itself, and a rule has let it."""

    remoteid: str
    localid: str
    service: str
    session: Session | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """Who was accepted, and what of the answer counts later."""

    who: Who
    tags: tuple[str, ...]
    classes: tuple[bytes, ...]


class Describing(Protocol):
    """What RADIUS is told of somebody: by the radius rule that applies."""

    def described(self, caller: Caller, who: Who) -> tuple[str, ...]:
        """Return ``Name=value`` attributes, User-Name among them; raises PoolError RADIUS_ANONYMOUS, RADIUS_UNASKED."""


class Asks(Accountant, Protocol):
    """Who asks servers, and keeps records: Radius (radius.py)."""

    def ask(self, message: AskAccess, told: Callable[[AccessTold | None], None]) -> int:
        """Ask; return the number of the question, or 0 if nobody can be asked."""

    def forget(self, number: int) -> None:
        """Nobody wants to know any more."""


@dataclass(slots=True, eq=False)
class _Open:
    """A request that waits.  ``forget`` is called when nobody waits for it any more."""

    connection: Connection
    reqid: int
    cmd: int
    late: Code
    forget: Callable[[], None] = lambda: None


class Aaa:
    """The AAA of all applications."""

    def __init__(
        self,
        out: Out,
        settings: Settings,
        connections: Connections,
        keys: ControlKeys,
        radius: Asks,
        describing: Describing,
        items: Items,
        next_acct_id: Callable[[], str],
    ) -> None:
        """``next_acct_id`` makes one that no session and no item has ever had."""
        self._out = out
        self._settings = settings
        self._connections = connections
        self._keys = keys
        self._radius = radius
        self._describing = describing
        self.items = items
        self._next_acct_id = next_acct_id
        self._open: dict[int, _Open] = {}
        self._by_reqid: dict[tuple[Connection, int], int] = {}
        self._by_uid: Counter[int] = Counter()
        self._last_number = 0
        self._used: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    # --- who is meant, and whether that may be ----------------------------------------------------------

    def name(self, connection: Connection, subject: Subject) -> None:
        """Take note of whom a key stands for, until a question has it.

        Raises:
            PoolError: IDENTITY_MALFORMED, TOO_MANY_REQUESTS.
        """
        remoteid = str(parse_untrusted(subject.remoteid))
        localid = str(parse_untrusted(subject.localid)) if subject.localid else ""
        subjects = connection.subjects
        if subject.key not in subjects and len(subjects) >= limits.RADIUS_SUBJECTS:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{limits.RADIUS_SUBJECTS} keys that no question has")
        subjects[subject.key] = Who(remoteid, localid, subject.service, None)

    def _who(self, connection: Connection, key: bytes) -> Who:
        """Return who is meant by a key.

        Raises:
            PoolError: CTLKEY_UNKNOWN; ACCOUNT_FOREIGN, this program may not ask about that.
        """
        who = connection.subjects.pop(key, None) or self._known(connection, key)
        if who.session is None and who.remoteid:
            own = self._keys.own(connection.caller.uid, who.remoteid, who.localid)
            if own is not None:
                who = Who(who.remoteid, own.localid, who.service or own.request.service, own)
        self._check(connection.caller, who)
        return who

    def _known(self, connection: Connection, key: bytes) -> Who:
        """Return whose session has this control key, or who was accepted with it."""
        try:
            session = self._keys.controlled(connection, key)
        except PoolError:
            if key not in connection.verdicts:
                raise
            return connection.verdicts[key].who
        return Who(session.remoteid, session.localid, session.request.service, session)

    def _check(self, caller: Caller, who: Who) -> None:
        for rule in self._settings.accounts:
            if (
                covers(rule, caller, uncertain=not rule.allow)
                and _matches(who.remoteid, rule.remoteids)
                and _matches(who.localid, rule.localids)
                and (not rule.services or who.service in rule.services)
            ):
                self._used[rule.name] += 1
                if rule.allow:
                    return
                raise PoolError(Code.ACCOUNT_FOREIGN, f"account rule {rule.name}")
        self._used[""] += 1
        if who.session is None:
            raise PoolError(Code.ACCOUNT_FOREIGN, who.remoteid)

    def describe(self) -> dict[str, object]:
        """Return what an operator sees: what waits, what is accounted for, and how often each rule has decided."""
        rows: list[dict[str, object]] = [
            {"rule": rule.name, "does": str(rule), "used": self._used[rule.name]} for rule in self._settings.accounts
        ]
        rows.append({"rule": "-", "does": "allow remotes of sessions of the same user", "used": self._used[""]})
        return {"waiting": len(self), "items": len(self.items), "rules": rows}

    # --- questions ------------------------------------------------------------------------------------

    def ask(
        self,
        connection: Connection,
        reqid: int,
        cmd: Cmd,
        purpose: Purpose,
        key: bytes,
        timeout_ms: int,
        *,
        password_secret: bytes = b"",
        more: tuple[str, ...] = (),
    ) -> None:
        """Ask about who is meant by a key; the reply comes from here.

        Raises:
            PoolError: RADIUS_UNUSED, CTLKEY_UNKNOWN, ACCOUNT_FOREIGN, TOO_MANY_REQUESTS, RADIUS_ANONYMOUS,
                RADIUS_UNASKED.
        """
        who = self._who(connection, key)
        if not getattr(self._settings, _NAMES[purpose]):
            raise PoolError(Code.RADIUS_UNUSED, _NAMES[purpose])
        attributes = self._attributes(connection.caller, who, f"Service-Type={_SERVICE_TYPES[purpose]}", *more)
        most_ms = int(self._settings.radius_wait_s * 1000)
        wait_ms = min(timeout_ms, most_ms) if timeout_ms else most_ms
        message = AskAccess(
            purpose=purpose, attributes=attributes, state=b"", deadline_ms=wait_ms, password=password_secret
        )
        number = self._begin(connection, reqid, cmd, Code.RADIUS_UNANSWERED, wait_ms + SLACK_MS)
        begun_ms = self._out.now_ms

        def told(answer: AccessTold | None) -> None:
            waiting = self._take(number)
            if waiting is None:
                return
            try:
                verdict = _verdict(key, answer)
            except PoolError as error:
                self._note(connection.caller, who, purpose, answer, begun_ms, error.code.name.lower())
                self._refuse(waiting, error)
                return
            self._note(connection.caller, who, purpose, answer, begun_ms)
            if answer is not None and verdict.said == Said.ACCEPTED:
                named = Who(who.remoteid, who.localid, who.service, None)
                self._remember(connection, key, Accepted(named, answer.tags, answer.classes))
            else:
                connection.verdicts.pop(key, None)
            self._connections.send(connection, waiting.reqid, 0, waiting.cmd, verdict.to_payload())

        asked = self._radius.ask(message, told)
        waiting = self._open.get(number)
        if not asked and waiting is not None:
            self._take(number)
            raise PoolError(Code.RADIUS_UNASKED, "the helper cannot take more now")
        if waiting is not None:
            waiting.forget = lambda: self._radius.forget(asked)

    @staticmethod
    def _remember(connection: Connection, key: bytes, accepted: Accepted) -> None:
        connection.verdicts[key] = accepted
        connection.verdicts.move_to_end(key)
        if len(connection.verdicts) > limits.RADIUS_SUBJECTS:
            connection.verdicts.popitem(last=False)

    def _note(
        self,
        caller: Caller,
        who: Who,
        purpose: Purpose,
        answer: AccessTold | None,
        begun_ms: int,
        why: str = "",
    ) -> None:
        accepted = answer is not None and answer.access is Access.ACCEPTED
        self._out.note(
            "warning" if why else "info",
            "aaa.unanswered" if why else "aaa.accepted" if accepted else "aaa.rejected",
            purpose=purpose.name.lower(),
            why=why,
            caller=caller.label,
            unit=caller.unit,
            uid=caller.uid,
            remoteid=who.remoteid,
            localid=who.localid,
            service=who.service,
            server=answer.server if answer is not None else "",
            detail=answer.detail or answer.message if answer is not None else "the helper has ended",
            ms=self._out.now_ms - begun_ms,
        )

    def tags(self, connection: Connection, key: bytes) -> tuple[str, ...]:
        """Return the tags of who was accepted, or of the remote of a session.

        Raises:
            PoolError: CTLKEY_UNKNOWN.
        """
        if key in connection.verdicts:
            return connection.verdicts[key].tags
        return self._keys.controlled(connection, key).tags

    def _attributes(self, caller: Caller, who: Who, *more: str) -> tuple[str, ...]:
        """Return what is said of somebody; what this is about comes in place of what a rule has."""
        names = {one.partition("=")[0] for one in more}
        rest = self._describing.described(caller, who)
        found = (*(one for one in rest if one.partition("=")[0] not in names), *more)
        if len(found) > limits.RADIUS_ATTRIBUTES:
            raise PoolError(Code.RADIUS_UNASKED, f"{len(found)} attributes where {limits.RADIUS_ATTRIBUTES} fit")
        return found

    # --- accounting -----------------------------------------------------------------------------------

    def start(self, connection: Connection, reqid: int, asked: AccountStart) -> None:
        """Begin to account for something.

        Raises:
            PoolError: RADIUS_UNUSED, CTLKEY_UNKNOWN, ACCOUNT_FOREIGN, ACCOUNT_EXISTS, TOO_MANY_REQUESTS,
                RADIUS_ANONYMOUS, RADIUS_UNASKED, ACCOUNT_UNKEPT; FIELD_MALFORMED, the time.
        """
        caller = connection.caller
        who = self._who(connection, asked.key)
        self._check_accounting()
        self.items.check_free(caller.uid, asked.kind, asked.instance)
        at_ms = self._time(asked.at_ms)
        admission = None if who.session is None else who.session.access
        accepted = connection.verdicts.get(asked.key)
        classes = accepted.classes if accepted is not None else ()
        if admission is not None and not classes:
            classes = admission.classes
        more = [f"{name}={value}" for name, value in _what(asked.kind, asked.instance) if value]
        if admission is not None and admission.acct_id:
            more.append(f"Acct-Multi-Session-Id={admission.acct_id}")
        item = Item(
            acct_id=self._next_acct_id(),
            uid=caller.uid,
            kind=asked.kind,
            instance=asked.instance,
            attributes=self._attributes(caller, who, *more),
            classes=classes,
            started_ms=at_ms,
            at_ms=at_ms,
            heard_ms=self.items.now_ms,
            items=0,
            cause=0,
        )
        number = self._begin(connection, reqid, Cmd.LOCAL_ACCOUNT_START, Code.ACCOUNT_UNKEPT, KEEP_MS)
        try:
            forget = self.items.start(item, self._kept(number, AccountKept(at_ms, item.acct_id)))
        except PoolError:
            self._take(number)
            raise
        if number in self._open:
            self._open[number].forget = forget

    def count(self, connection: Connection, reqid: int, cmd: Cmd, asked: AccountCount) -> None:
        """Take note of how many items there are, and with LOCAL_ACCOUNT_END that there are no more.

        Raises:
            PoolError: ACCOUNT_UNKNOWN, TOO_MANY_REQUESTS, ACCOUNT_UNKEPT; FIELD_MALFORMED, the time.
        """
        ends = cmd is Cmd.LOCAL_ACCOUNT_END
        item = self.items.item(connection.caller.uid, asked.kind, asked.instance, ended=ends)
        at_ms = self._time(asked.at_ms, item.started_ms)
        number = self._begin(connection, reqid, cmd, Code.ACCOUNT_UNKEPT, KEEP_MS)
        act = self.items.end if ends else self.items.update
        try:
            act(item, asked.items, at_ms, self._kept(number, AccountKept(at_ms, item.acct_id)))
        except PoolError:
            self._take(number)
            raise

    def _check_accounting(self) -> None:
        if not self._settings.radius_acct:
            raise PoolError(Code.RADIUS_UNUSED, "radius_acct")

    def _time(self, at_ms: int, earliest_ms: int | None = None) -> int:
        now_ms = self.items.now_ms
        oldest_ms = now_ms - limits.RADIUS_ITEM_S * 1000 if earliest_ms is None else earliest_ms
        if not at_ms:
            return max(now_ms, oldest_ms)
        if at_ms > now_ms + AHEAD_MS:
            raise PoolError(Code.FIELD_MALFORMED, f"at is {(at_ms - now_ms) // 1000} s ahead of the pool's clock")
        if at_ms < oldest_ms:
            what = "is more than a week ago" if earliest_ms is None else "is before the start"
            raise PoolError(Code.FIELD_MALFORMED, f"at {what}")
        return at_ms

    def _kept(self, number: int, reply: AccountKept) -> Callable[[PoolError | None], None]:
        """Return what answers a request when its record is on the disk, or is not going to be."""

        def done(error: PoolError | None) -> None:
            waiting = self._take(number)
            if waiting is None:
                return
            if error is not None:
                self._refuse(waiting, error)
            else:
                self._connections.send(waiting.connection, waiting.reqid, 0, waiting.cmd, reply.to_payload())

        return done

    # --- what waits -------------------------------------------------------------------------------------

    def _begin(self, connection: Connection, reqid: int, cmd: int, late: Code, wait_ms: float) -> int:
        uid = connection.caller.uid
        if self._by_uid[uid] >= limits.RADIUS_ASKED_PER_CALLER:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{limits.RADIUS_ASKED_PER_CALLER} of user {uid} to RADIUS")
        self._last_number += 1
        number = self._last_number
        self._open[number] = _Open(connection, reqid, cmd, late)
        self._by_reqid[connection, reqid] = number
        self._by_uid[uid] += 1
        self._out(Arm(Timer(Clock.AAA, number), wait_ms))
        return number

    def _take(self, number: int) -> _Open | None:
        """Take what waits, if it still does."""
        waiting = self._open.pop(number, None)
        if waiting is None:
            return None
        self._by_reqid.pop((waiting.connection, waiting.reqid), None)
        uid = waiting.connection.caller.uid
        self._by_uid[uid] -= 1
        if not self._by_uid[uid]:
            del self._by_uid[uid]
        self._out(Disarm(Timer(Clock.AAA, number)))
        return waiting

    def _refuse(self, waiting: _Open, error: PoolError) -> None:
        self._connections.note_refusal(waiting.connection, waiting.cmd, error.code, error.detail)
        self._connections.error(waiting.connection, waiting.reqid, error.code)

    def timed_out(self, number: int) -> None:
        """An answer has not come in time."""
        waiting = self._take(number)
        if waiting is not None:
            waiting.forget()
            self._refuse(waiting, PoolError(waiting.late, "the helper has not answered in time"))

    def claim(self, connection: Connection, reqid: int) -> None:
        """A request id is used for something else: who waited under it hears no more."""
        number = self._by_reqid.get((connection, reqid))
        if number is not None:
            self._give_up(number)

    def gone(self, connection: Connection) -> None:
        """A connection is over; what was started for it goes on."""
        for number, waiting in list(self._open.items()):
            if waiting.connection is connection:
                self._give_up(number)

    def _give_up(self, number: int) -> None:
        waiting = self._take(number)
        if waiting is not None and waiting.cmd != Cmd.LOCAL_ACCOUNT_START:
            waiting.forget()


def _what(kind: str, instance: str) -> tuple[tuple[str, str], ...]:
    return ("TLSPool-Kind", kind), ("TLSPool-Instance", instance)


def about(kind: str, instance: str) -> tuple[str, ...]:
    """Return the attributes that say what somebody is to be authorised for."""
    return tuple(f"{name}={value}" for name, value in _what(kind, instance) if value)


def _matches(identity: str, selectors: Collection[str]) -> bool:
    """Whether one of the selectors is that of an identity; a rule that wants nothing in particular takes all."""
    if not selectors:
        return True
    if not identity:
        return "-" in selectors
    return any(one in selectors for one in generalise(parse_untrusted(identity)))


def _verdict(key: bytes, answer: AccessTold | None) -> Verdict:
    """Return what an application is told.

    Raises:
        PoolError: RADIUS_UNANSWERED, RADIUS_UNASKED.
    """
    if answer is None:
        raise PoolError(Code.RADIUS_UNANSWERED, "the helper has ended")
    if answer.access is Access.UNANSWERED:
        raise PoolError(Code.RADIUS_UNANSWERED, answer.detail)
    if answer.access is Access.UNASKED:
        raise PoolError(Code.RADIUS_UNASKED, answer.detail)
    said = Said.ACCEPTED if answer.access is Access.ACCEPTED else Said.REJECTED
    message = "".join(one if one.isprintable() else "?" for one in answer.message)
    return Verdict.of(key, said, message, answer.tags, answer.session_timeout_s, answer.idle_timeout_s)
