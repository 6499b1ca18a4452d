"""What the broker asks RADIUS servers, and tells them: by way of a helper, which knows servers and secrets.

Theory of operation.  The helper (tlspool_radius) is one of two; helper.py says how they live.  It is wanted from the
broker's start on where any server is configured, or may send requests of its own.

    ask, status    a question; its answer is heard once, or None when nobody knows: no helper came to tell
    account        a record: kept here until the helper has it on its disk, and said again to the next helper
    settled        every session that relays has been named to this helper (AccountSettled)
    on_dynamic     a server wants sessions ended or changed (RFC 5176); what this returns is the answer
    on_ready       a helper is there, and knows of no session yet: whoever accounts names those that relay, and says
                   ``settled`` once these are all

* When the helper ends, questions about access wait for the next one (helper.py).  Operators are told at once that there
  is none: that is what they want to know.
* A password that a helper had when it ended is not sent by the next one: its answer may have counted, to lock an
  account after so many, or to use up what is good for once.  A State is, as the next server gets it after a silent one.
* The helper is replaced at once when its settings change, and what was asked is asked again: a question to a server
  that nobody wants asked any more would only be waited for.
* Records go out in their order, so many at a time.  When the helper is away an update takes the place of the one that
  waits for the same session.  When there are too many, one that somebody waits for is refused; what nobody waits for is
  taken in any case, as there is one for each session.
* A record that the helper cannot keep is told to who waits for it.  The end of a session that it cannot keep is said
  again later.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

from tlspool_broker.events import FromHelper, HelperKind, HelperNumber
from tlspool_broker.helper import Counters, Helper
from tlspool_broker.out import Out
from tlspool_common.errors import Code
from tlspool_common.messages import (
    Access,
    AccessTold,
    Account,
    Accounted,
    AccountSettled,
    AskAccess,
    AskRadius,
    DynamicAsked,
    DynamicTold,
    Message,
    Purpose,
    RadiusTold,
    Status,
)
from tlspool_common.settings import Settings

QUESTIONS = 3072
"""Open questions: 200 sessions a second that ask two servers, for as long as it takes to find out that these are dead.
One is a kilobyte, and all of them must fit into the queue of a channel (limits.CHANNEL_QUEUE_B)."""

RECORDS = 16_384
"""Records that wait for the helper, which takes hundreds a second while it is well."""

AT_ONCE = 256
"""Records that the helper has, and has not on its disk yet: it writes many with one fsync."""

KEEP_MS = 10_000
"""For the helper to write a record."""

AGAIN_MS = 10_000
"""Until the end of a session is said again that the helper could not keep: a disk does not become empty at once."""

STATUS_MS = 5_000
"""For the helper to say how the servers are: it waits for nobody."""

_NO_SESSION = DynamicTold(sessions=0, error_cause=503)

AccessHeard = Callable[["AccessTold | None"], None]
AccountHeard = Callable[["Accounted | None"], None]


@dataclass(slots=True)
class _Record:
    """A record that the helper has not on its disk."""

    message: Account
    told: AccountHeard | None
    kept: Callable[[], None] | None = None


class Radius:
    """The helper that speaks RADIUS, as far as there is one."""

    def __init__(self, out: Out, settings: Settings, unix_time_s: Callable[[], float]) -> None:
        self._out = out
        self._settings = settings
        self._unix_time_s = unix_time_s
        self.on_dynamic: Callable[[DynamicAsked], DynamicTold] = lambda _asked: _NO_SESSION
        self.on_ready: Callable[[], None] = lambda: None
        self.helper = Helper(out, HelperKind.RADIUS, QUESTIONS, asks_again=True, greeted=self._greeted)
        self._configure()
        self.kept: Counter[tuple[str, str]] = Counter()
        self._last_record = 0
        self._records: dict[int, _Record] = {}
        self._unsent: deque[int] = deque()
        self._sent: set[int] = set()
        self._updates: dict[str, int] = {}
        self._unkept: deque[int] = deque()
        self._again_ms = 0
        self._is_settled = self._was_there = False

    def __len__(self) -> int:
        return len(self.helper)

    def _configure(self) -> None:
        settings = self._settings
        servers = settings.radius_authn or settings.radius_authz or settings.radius_acct or settings.radius_dynamic
        self.helper.configure(used=bool(servers), always=True)

    def reconfigured(self) -> None:
        """Go by the settings as they are now; the helper is replaced."""
        self._configure()
        self.helper.reconfigured()
        if not self.helper.used:
            self._drop_all()

    @property
    def records(self) -> int:
        """Records that the helper has not on its disk."""
        return len(self._records)

    @property
    def open_questions(self) -> int:
        """Questions about access, and about the servers, that have no answer yet."""
        return len(self.helper) - len(self._sent)

    @property
    def counters(self) -> Counters:
        """What has become of questions about access."""
        return self.helper.counters

    @property
    def start_left_ms(self) -> int:
        """How much longer the helper may take to start; 0: it has, or there is none."""
        return self.helper.start_left_ms

    @property
    def away_left_ms(self) -> int:
        """How much longer a question may have to wait for a helper that takes it."""
        return self.helper.away_left_ms

    def describe(self) -> dict[str, object]:
        """Describe the helper for an operator."""
        settings = self._settings
        servers = {"authn": settings.radius_authn, "authz": settings.radius_authz, "acct": settings.radius_acct}
        return {
            "state": self.helper.state,
            **{name: [f"{host}:{port}" for host, port in found] for name, found in servers.items()},
            "questions": self.open_questions,
            "records": len(self._records),
            **asdict(self.counters),
        }

    # --- questions ------------------------------------------------------------------------------------

    def serves(self, purpose: Purpose) -> bool:
        """Whether there are servers for it."""
        return bool(self._settings.radius_authn if purpose is Purpose.AUTHENTICATE else self._settings.radius_authz)

    @property
    def accounts(self) -> bool:
        """Whether there are servers for accounting."""
        return bool(self._settings.radius_acct)

    def ask(self, message: AskAccess, told: AccessHeard, sent: Callable[[], None] = lambda: None) -> int:
        """Ask about a remote; ``told`` hears the answer, or None if there will be none.  0: nobody can be asked.

        If the helper has to start first, ``sent`` is called when it has: not once more if that ends, and another one is
        asked, as the time of a question runs from when it was sent first.
        """

        def answered(answer: Message | None) -> None:
            found = answer if isinstance(answer, AccessTold) else None
            self._note(message.purpose, found)
            told(found)

        tries = 1 if message.password else 2
        number = self.helper.ask(message, answered, message.deadline_ms, sent, tries=tries)
        if not number:
            self._out.note("debug", "radius.answered", purpose=message.purpose.name.lower(), access="not_asked")
        return number

    def forget(self, number: int) -> None:
        """Nobody wants to know any more what was asked under this number."""
        self.helper.forget(number)

    def status(self, message: AskRadius, told: Callable[[RadiusTold | None], None]) -> int:
        """Ask how the servers are, and what waits; like ``ask``."""

        def answered(answer: Message | None) -> None:
            told(answer if isinstance(answer, RadiusTold) else None)

        return self.helper.ask(message, answered, STATUS_MS, quiet=True)

    def _note(self, purpose: Purpose, told: AccessTold | None) -> None:
        access = Access.UNANSWERED if told is None else told.access
        self._out.note(
            "debug",
            "radius.answered",
            purpose=purpose.name.lower(),
            access=access.name.lower(),
            server="" if told is None else told.server,
            detail="the helper has ended" if told is None else told.detail,
            **({} if told is None else {"ms": told.elapsed_ms}),
        )

    # --- accounting -----------------------------------------------------------------------------------

    def account(
        self, message: Account, told: AccountHeard | None = None, *, kept: Callable[[], None] | None = None
    ) -> None:
        """Have a record kept; ``told`` hears when it is, or why it cannot be; None: there is nobody to keep any.

        ``kept`` is for who does not wait for it, and is called when it is on the disk, however long that takes, or when
        there is nobody any more to keep it.
        A record that somebody waits for may be refused here (ACCOUNT_SPOOL_FULL) when too many wait for the helper.
        """
        if not self.helper.used:
            if told is not None:
                told(None)
            if kept is not None:
                kept()
            return
        if told is not None and len(self._records) >= RECORDS:
            full = Accounted(code=Code.ACCOUNT_SPOOL_FULL, detail=f"{len(self._records)} wait for the helper")
            told(full)
            return
        is_update = message.status is Status.INTERIM and told is None
        earlier = self._updates.get(message.acct_id) if is_update else None
        if earlier is not None:
            self._records[earlier].message = message
            return
        self._last_record += 1
        self._records[self._last_record] = _Record(message, told, kept)
        self._unsent.append(self._last_record)
        if is_update:
            self._updates[message.acct_id] = self._last_record
        self._send_records()

    def settled(self) -> None:
        """Every session that relays has been named."""
        self._is_settled = True
        self._send_records()

    def _send_records(self) -> None:
        """Send what may be sent: in order, so many at a time."""
        if self._unkept and self._out.now_ms >= self._again_ms:
            self._unsent.extend(self._unkept)
            self._unkept.clear()
        while self._unsent and len(self._sent) < AT_ONCE and self.helper.ready:
            serial = self._unsent[0]
            record = self._records[serial]
            if not self.helper.ask(record.message, self._hears(serial), KEEP_MS, quiet=True):
                return
            self._unsent.popleft()
            self._sent.add(serial)
            if self._updates.get(record.message.acct_id) == serial:
                del self._updates[record.message.acct_id]
        if self._is_settled and not self._unsent and self.helper.ready:
            self._is_settled = False
            self.helper.tell(AccountSettled(at_ms=int(self._unix_time_s() * 1000)))

    def _hears(self, serial: int) -> Callable[[Message | None], None]:
        return lambda answer: self._accounted(serial, answer)

    def _accounted(self, serial: int, answer: Message | None) -> None:
        """The helper has a record, or has not, or is no more."""
        if not isinstance(answer, Accounted):
            # It is no more, and may have had them: the next one is told all the same.
            self._unsent.extendleft(sorted(self._sent, reverse=True))
            self._sent.clear()
            return
        self._sent.discard(serial)
        record = self._records[serial]
        self.kept[record.message.status.name.lower(), "refused" if answer.code else "kept"] += 1
        if record.kept is not None and not answer.code:
            record.kept()
        if answer.code and record.told is None and record.message.status is Status.STOP:
            self._unkept.append(serial)
            self._again_ms = self._out.now_ms + AGAIN_MS
        else:
            del self._records[serial]
        if record.told is not None:
            record.told(answer)
        elif answer.code:
            self._out.note(
                "error",
                "radius.unkept",
                acct_id=record.message.acct_id,
                status=record.message.status.name.lower(),
                code=answer.code,
                detail=answer.detail,
            )
        self._send_records()

    def _drop_all(self) -> None:
        """There are no servers any more."""
        dropped, self._records = self._records, {}
        self._unsent.clear()
        self._sent.clear()
        self._unkept.clear()
        self._updates.clear()
        for record in dropped.values():
            if record.told is not None:
                record.told(None)
            if record.kept is not None:
                record.kept()

    # --- the helper -----------------------------------------------------------------------------------

    def said(self, helper: HelperNumber, exchange: int, message: FromHelper) -> None:
        """Take a message."""
        if not self.helper.is_current(helper):
            return
        if isinstance(message, DynamicAsked):
            self.helper.tell(self.on_dynamic(message), exchange)
        else:
            self.helper.said(helper, exchange, message)

    def _greeted(self) -> None:
        """A helper is there."""
        if self._was_there:
            self._is_settled = False  # it was said to the one before
        self._was_there = True
        self.on_ready()
        self._send_records()
