"""What applications account for: items that were started and have not ended, and what is said of them to RADIUS.

    application --START--> broker: on the shelf --Account START--> helper: in its spool --Accounted--> broker --> reply
                 UPDATE            the same         INTERIM
                 END               the same         STOP            and then off the shelf

An *item* is known by its user, its kind and its instance, so that any program of the user can go on with it.  It is
independent of sessions and connections: a broker that is started anew finds it on the shelf (shelf.py), and says again
what an earlier one may not have heard an answer to.  The helper takes what it has been told already for what it is.

* The reply comes when the helper has the record on its disk.  A START that nobody can keep is refused: then the item
  is ended again, without items, in case its record comes through later.
* An item that has ended stays on the shelf until the helper has its STOP.  Nothing can be said of it any more, but END,
  by who has not heard the answer to it.
* An item that is not spoken of for ``limits.RADIUS_ITEM_S`` is ended, with its last figures and the cause Lost-Service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Protocol

from tlspool_broker.events import Arm, Clock, Timer
from tlspool_broker.out import Out
from tlspool_broker.shelf import Shelf
from tlspool_common import limits
from tlspool_common.aaawire import INSTANCE_B, KIND_B
from tlspool_common.codec import HEADER, U8, U32, U64, BadFrame, decode_untrusted, encode
from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.messages import Account, Accounted
from tlspool_common.messages_radius import AcctId, Attributes, Classes, Status
from tlspool_common.record import named_record

_MARK = 0x4954
"""Takes the place of a message code, and changes with the fields of Item."""

USER_REQUEST, LOST_SERVICE, NAS_ERROR = 1, 3, 9
"""Acct-Terminate-Cause (RFC 2866 section 5.10)."""

LOOK_MS = 600_000
"""Between two looks for items that nobody speaks of any more, or whose end the helper has not taken."""

Done = Callable[[PoolError | None], None]
"""Hears that the record is on the disk, or why not."""


class Accountant(Protocol):
    """Who keeps records: Radius (radius.py)."""

    def account(self, message: Account, told: Callable[[Accounted | None], None] | None = None) -> None:
        """Have a record kept; it is said again until it is acknowledged."""


@named_record
class Item:
    """One thing that somebody is billed for.  Times are milliseconds since 1970.

    ``heard_ms``: when its application spoke of it last.  ``cause``: not 0 when it has ended.
    """

    acct_id: AcctId
    uid: U32
    kind: Annotated[str, KIND_B]
    instance: Annotated[str, INSTANCE_B]
    attributes: Attributes
    classes: Classes
    started_ms: U64
    at_ms: U64
    heard_ms: U64
    items: U64
    cause: U8

    @property
    def key(self) -> tuple[int, str, str]:
        """What it is known by."""
        return self.uid, self.kind, self.instance

    def record(self, status: Status) -> Account:
        """Return what is said of it."""
        return Account(
            status=status,
            acct_id=self.acct_id,
            at_ms=self.started_ms if status is Status.START else self.at_ms,
            attributes=self.attributes,
            classes=self.classes,
            from_remote_b=0,
            to_remote_b=0,
            from_remote_records=0,
            to_remote_records=0,
            session_s=0 if status is Status.START else min((self.at_ms - self.started_ms) // 1000, 0xFFFFFFFF),
            items=0 if status is Status.START else self.items,
            has_items=status is not Status.START,
            cause=self.cause if status is Status.STOP else 0,
        )


def to_bytes(item: Item) -> bytes:
    """Write an item as it is on the shelf."""
    return encode(_MARK, 0, item)


def from_bytes_untrusted(content: bytes) -> Item:
    """Read what ``to_bytes`` writes.

    Raises:
        BadFrame: it is something else, or of another version.
    """
    if len(content) < HEADER.size or HEADER.unpack_from(content)[0] != _MARK:
        raise BadFrame("it is no item of this version")
    return decode_untrusted(Item, content)


class Items:
    """All items of all users."""

    def __init__(self, out: Out, shelf: Shelf, accountant: Accountant, unix_time_s: Callable[[], float]) -> None:
        self._out = out
        self._shelf = shelf
        self._accountant = accountant
        self._unix_time_s = unix_time_s
        self._by_key: dict[tuple[int, str, str], Item] = {}
        self._by_uid: Counter[int] = Counter()
        self._begun = False
        self._ending: dict[str, list[Done]] = {}  # whose STOP has been said and is not acknowledged: who waits for that

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Item]:
        return iter(list(self._by_key.values()))

    @property
    def now_ms(self) -> int:
        """The time as records have it."""
        return int(self._unix_time_s() * 1000)

    def began(self) -> None:
        """There are servers for accounting from now on: go on with the items of an earlier broker, once."""
        if self._begun:
            return
        self._begun = True
        try:
            found = self._shelf.load()
        except PoolError as error:  # there may be open ones; who ends one is told that it is unknown
            self._out.note("error", "account.unreadable", acct="", detail=error.detail)
            found = {}
        for name, content in found.items():
            try:
                item = from_bytes_untrusted(content)
            except BadFrame as bad:
                self._out.note("error", "account.unreadable", acct=name, detail=str(bad))
                continue  # it stays there, for who can read it
            self._add(item)
            if item.cause:
                self._stop(item)
            else:
                self._accountant.account(item.record(Status.START))
        if self._by_key:
            self._out.note("info", "account.resumed", items=len(self))
        self._out(Arm(Timer(Clock.ITEMS), LOOK_MS))

    def look(self) -> None:
        """End what nobody speaks of any more."""
        now_ms = self.now_ms
        for item in self:
            if item.cause:
                self._stop(item)
            elif now_ms - item.heard_ms >= limits.RADIUS_ITEM_S * 1000:
                self._end(replace(item, at_ms=max(item.at_ms, item.heard_ms), cause=LOST_SERVICE), anyway=True)
        self._out(Arm(Timer(Clock.ITEMS), LOOK_MS))

    def _add(self, item: Item) -> None:
        self._by_key[item.key] = item
        self._by_uid[item.uid] += 1

    def _remove(self, item: Item) -> None:
        del self._by_key[item.key]
        self._by_uid[item.uid] -= 1
        if not self._by_uid[item.uid]:
            del self._by_uid[item.uid]
        self._shelf.drop(item.acct_id)

    # --- what applications say ------------------------------------------------------------------------

    def check_free(self, uid: int, kind: str, instance: str) -> None:
        """Say whether there may be one more item.

        Raises:
            PoolError: ACCOUNT_EXISTS, TOO_MANY_REQUESTS.
        """
        if (uid, kind, instance) in self._by_key:
            raise PoolError(Code.ACCOUNT_EXISTS, f"{kind} {instance}".rstrip())
        if self._by_uid[uid] >= limits.RADIUS_ITEMS_PER_CALLER:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{limits.RADIUS_ITEMS_PER_CALLER} items of user {uid} are open")
        if len(self) >= limits.RADIUS_ITEMS:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{limits.RADIUS_ITEMS} items are open")

    def start(self, item: Item, done: Done) -> Callable[[], None]:
        """Begin an item that ``check_free`` has let in; return what to call when nobody waits for ``done`` any more.

        Raises:
            PoolError: ACCOUNT_UNKEPT.
        """
        self._shelf.put(item.acct_id, to_bytes(item))
        self._add(item)
        waits = True

        def told(answer: Accounted | None) -> None:
            nonlocal waits
            if not waits:
                return
            waits = False
            if answer is not None and not answer.code:
                self._out.note("info", "account.started", **_said(item))
                done(None)
                return
            if answer is None:
                cancel()
            elif self._by_key.get(item.key) is item:
                self._remove(item)
            done(_why(answer))

        def cancel() -> None:
            nonlocal waits
            waits = False
            if self._by_key.get(item.key) is item:
                self._end(replace(item, cause=NAS_ERROR), anyway=True)

        self._accountant.account(item.record(Status.START), told)
        return cancel

    def item(self, uid: int, kind: str, instance: str, *, ended: bool = False) -> Item:
        """Return an item that has been started, and has not ended, unless one that has will do.

        Raises:
            PoolError: ACCOUNT_UNKNOWN.
        """
        item = self._by_key.get((uid, kind, instance))
        if item is None or (item.cause and not ended):
            raise PoolError(Code.ACCOUNT_UNKNOWN, f"{kind} {instance}".rstrip())
        return item

    def update(self, item: Item, items: int | None, at_ms: int, done: Done) -> None:
        """Take note of how many there are by now.

        Raises:
            PoolError: ACCOUNT_UNKEPT.
        """
        newer = self._newer(item, items, at_ms, 0)
        self._shelf.put(newer.acct_id, to_bytes(newer))
        self._by_key[newer.key] = newer
        self._accountant.account(newer.record(Status.INTERIM), lambda answer: done(_why(answer)))

    def end(self, item: Item, items: int | None, at_ms: int, done: Done) -> None:
        """End an item; one that has ended stays as it was, and ``done`` hears of that.

        Raises:
            PoolError: ACCOUNT_UNKEPT.
        """
        self._end(item if item.cause else self._newer(item, items, at_ms, USER_REQUEST), done)

    def _newer(self, item: Item, items: int | None, at_ms: int, cause: int) -> Item:
        count = item.items if items is None else items
        return replace(item, items=count, at_ms=max(at_ms, item.at_ms), heard_ms=self.now_ms, cause=cause)

    def _end(self, item: Item, done: Done | None = None, *, anyway: bool = False) -> None:
        """End an item; ``anyway``: also if that cannot be written down, where nobody is there to be told."""
        if self._by_key[item.key] is not item:
            try:
                self._shelf.put(item.acct_id, to_bytes(item))
            except PoolError as error:
                if not anyway:
                    raise
                self._out.note("error", "account.unreadable", acct=item.acct_id, detail=error.detail)
            self._by_key[item.key] = item
            self._out.note("info", "account.ended", items=item.items, cause=item.cause, **_said(item))
        self._stop(item, done)

    def _stop(self, item: Item, done: Done | None = None) -> None:
        """Say that it has ended, unless that is being said; ``done`` hears of it."""
        is_said = item.acct_id in self._ending
        waiting = self._ending.setdefault(item.acct_id, [])
        if done is not None:
            waiting.append(done)
        if is_said:
            return

        def told(answer: Accounted | None) -> None:
            why = _why(answer)
            if why is None and self._by_key.get(item.key) is item:
                self._remove(item)
            for hears in self._ending.pop(item.acct_id):
                hears(why)

        self._accountant.account(item.record(Status.STOP), told)


def _said(item: Item) -> dict[str, str | int]:
    return {"acct": item.acct_id, "uid": item.uid, "kind": item.kind, "instance": item.instance}


def _why(answer: Accounted | None) -> PoolError | None:
    """Return why a record is not kept."""
    if answer is None:
        return PoolError(Code.ACCOUNT_UNKEPT, "the helper has ended")
    return PoolError(code_of(answer.code), answer.detail) if answer.code else None
