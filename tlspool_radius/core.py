"""The helper's mind: events in, effects out.  No socket, clock, file or thread here or in what it is made of.

    AskAccess -> Asker --Transmit--> ... --Heard--> Said -> Send(AccessTold)                asking.py, servers.py
    Account -> Keep -> SpoolKept -> Send(Accounted)                                         spool.py (in its thread)
                          |
                          +-> Sender --Load--> SpoolLoaded -> Asker ... -> Remove           sending.py
    Requested -> Requests -> Send(DynamicAsked) ... DynamicTold -> Reply                    dynamic.py

What a record says is acknowledged when it is on the disk, and not before.  While the spool cannot be used every record
is refused, with the reason; questions about access do not depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.log import Value, escape
from tlspool_common.messages import (
    PROTOCOL,
    AccessTold,
    Account,
    Accounted,
    AccountSettled,
    AskAccess,
    AskRadius,
    DynamicTold,
    RadiusHello,
    RadiusTold,
    prose,
)
from tlspool_common.messages_radius import Access, Status
from tlspool_common.messages_radius import Purpose as Asked
from tlspool_common.record import record
from tlspool_common.title import count
from tlspool_radius import bounds, packets
from tlspool_radius.asking import Asker, Manner, Outcome
from tlspool_radius.dynamic import Requests
from tlspool_radius.events import (
    Arm,
    BrokerSaid,
    Clock,
    Effect,
    Event,
    Figures,
    Heard,
    Keep,
    Kept,
    ListSpool,
    Note,
    Now,
    OpenSpool,
    Requested,
    Send,
    SpoolFailed,
    SpoolKept,
    SpoolListed,
    SpoolLoaded,
    SpoolOpened,
    Timer,
    TimerFired,
    Unreachable,
    Waiting,
)
from tlspool_radius.said import Said, read_untrusted
from tlspool_radius.sending import Sender
from tlspool_radius.servers import Purpose, Server

_PURPOSES = {Asked.AUTHENTICATE: Purpose.AUTHENTICATE, Asked.AUTHORIZE: Purpose.AUTHORIZE}


@record
class Chance:
    """Randomness: 16 bytes for an authenticator, and a number from 0 to 1."""

    authenticator: Callable[[], bytes]
    number: Callable[[], float]


class RadiusCore:
    """All of the helper but its sockets, files and threads."""

    def __init__(
        self,
        servers: Sequence[Server],
        manner: Manner,
        dynamic_secrets: Mapping[str, bytes],
        chance: Chance,
        pid: int,
    ) -> None:
        self._pid = pid
        self._chance = chance
        self._asker = Asker(servers, manner, chance.number)
        self._sender = Sender(self._asker)
        self._requests = Requests(dynamic_secrets, self._asker.out)
        self._has_spool = self._asker.serves(Purpose.ACCOUNT)
        self._spool_trouble = "it is not open yet" if self._has_spool else ""
        self._figures = Figures()
        self._keeping = 0
        self._refused = 0
        self._is_introduced = False
        self._counts: Counter[str] = Counter()
        self._counted: dict[str, Value] = {}

    # --- what an operator sees --------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The state in a few words, for the list of processes."""
        questions = len(self._asker) - len(self._sender)
        words = [count(questions, "question")]
        if self._has_spool:
            words.append(f"{count(self._figures.waiting, 'record')} waiting")
        return ", ".join(words)

    def state(self) -> dict[str, Value]:
        """Return the counters, and how much waits."""
        return {
            **{name: self._counts[name] for name in ("questions", "accepted", "rejected", "unanswered", "unasked")},
            "kept": self._counts["kept"],
            "refused": self._refused,
            "sent": self._sender.sent,
            "waiting": self._figures.waiting,
            "open": self._figures.open,
        }

    # --- in and out -------------------------------------------------------------------------------------

    def begin(self) -> list[Effect]:
        """Begin: the spool is opened first, if there is one, so that the broker can rely on it when it hears of us."""
        if self._has_spool:
            self._out(OpenSpool())
        else:
            self._introduce()
        self._out(Arm(Timer(Clock.SWEEP), bounds.SWEEP_MS))
        return self._taken()

    def _introduce(self) -> None:
        if not self._is_introduced:
            self._is_introduced = True
            self._out(Send(RadiusHello(protocol=PROTOCOL, pid=self._pid)))

    def _taken(self) -> list[Effect]:
        found = list(self._asker.out)
        self._asker.out.clear()
        return found

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Take an event; return what is to be done, in this order."""
        match event:
            case BrokerSaid(message, exchange):
                self._said(message, exchange, now)
            case Heard(server, port, data):
                self._asker.heard(server, port, data, now)
            case Unreachable(server, port, detail):
                self._asker.unreachable(server, port, detail, now)
            case SpoolKept(kept, figures):
                self._kept(kept, figures, now)
            case SpoolLoaded(records, more):
                self._sender.loaded(records, more, now)
            case SpoolListed(exchange, records, figures):
                self._listed(exchange, records, figures, now)
            case SpoolOpened(figures):
                self._opened(figures, now)
            case SpoolFailed(detail):
                self._failed(detail)
            case Requested(source, data):
                self._requests.came_untrusted(source, data, now)
            case TimerFired(timer):
                self._timer_fired(timer, now)
            case _:
                assert_never(event)
        return self._taken()

    def _out(self, effect: Effect) -> None:
        self._asker.out.append(effect)

    def _said(
        self, message: AskAccess | Account | AccountSettled | AskRadius | DynamicTold, exchange: int, now: Now
    ) -> None:
        match message:
            case AskAccess():
                self._ask(message, exchange, now)
            case Account() | AccountSettled():
                self._account(message, exchange, now)
            case AskRadius():
                self._look(message, exchange, now)
            case DynamicTold():
                self._requests.told(exchange, message, now)
            case _:
                assert_never(message)

    def _timer_fired(self, timer: Timer, now: Now) -> None:
        match timer.clock:
            case Clock.TRY:
                self._asker.timed_out(timer.number, now)
            case Clock.DRAIN:
                self._sender.go_on(now)
            case Clock.DYNAMIC:
                self._requests.timed_out(timer.number)
            case Clock.SPOOL:
                self._out(OpenSpool())
            case Clock.SWEEP:
                self._sweep(now)
            case _:
                assert_never(timer.clock)

    def _sweep(self, now: Now) -> None:
        self._out(Arm(Timer(Clock.SWEEP), bounds.SWEEP_MS))
        self._asker.sweep(now)
        self._requests.sweep(now)
        state = self.state()
        if state != self._counted:
            self._counted = state
            self._out(Note("info", "radius.counters", state))

    # --- access -----------------------------------------------------------------------------------------

    def _ask(self, message: AskAccess, exchange: int, now: Now) -> None:
        self._counts["questions"] += 1

        def make(server: Server, identifier: int, _now: Now) -> packets.Request:
            return packets.question(message, server.secret, identifier, self._chance.authenticator())

        def told(outcome: Outcome, _now: Now) -> None:
            self._told(exchange, outcome)

        self._asker.ask(_PURPOSES[message.purpose], make, read_untrusted, message.deadline_ms, told, now)

    def _told(self, exchange: int, outcome: Outcome) -> None:
        said = outcome.answer
        if not isinstance(said, Said):
            said = Said(Access.UNANSWERED if outcome.is_asked else Access.UNASKED)
        if outcome.server is not None and said.access in (Access.ACCEPTED, Access.REJECTED):
            outcome.server.counters.accepted += said.access is Access.ACCEPTED
            outcome.server.counters.rejected += said.access is Access.REJECTED
        self._counts[said.access.name.lower()] += 1
        detail = "; ".join(filter(None, (said.detail, outcome.detail)))
        self._out(
            Send(
                AccessTold(
                    access=said.access,
                    detail=prose(detail),
                    message=said.message,
                    user_name=said.user_name,
                    classes=said.classes,
                    tags=said.tags,
                    state=said.state,
                    session_timeout_s=said.session_timeout_s,
                    idle_timeout_s=said.idle_timeout_s,
                    interim_s=said.interim_s,
                    terminate=said.terminate,
                    server=outcome.name[: limits.RADIUS_SERVER_B],
                    elapsed_ms=min(int(outcome.elapsed_ms), 0xFFFFFFFF),
                ),
                exchange,
            )
        )

    # --- accounting -------------------------------------------------------------------------------------

    def _account(self, message: Account | AccountSettled, exchange: int, now: Now) -> None:
        code, detail = self._refusal(message)
        if code:
            self._refused += isinstance(message, Account)
            if isinstance(message, Account):
                self._out(Send(Accounted(code=code, detail=prose(detail)), exchange))
            return
        self._keeping += 1
        self._out(Keep(exchange, message, now.wall_ms))

    def _refusal(self, message: Account | AccountSettled) -> tuple[int, str]:
        """Tell why a record is not given to the spool."""
        if not self._has_spool:
            return Code.RADIUS_UNUSED, "radius_acct names no server"
        if self._spool_trouble:
            return Code.ACCOUNT_UNKEPT, self._spool_trouble
        if self._keeping >= bounds.BACKLOG:
            return Code.ACCOUNT_UNKEPT, f"{bounds.BACKLOG} records wait for the disk"
        if isinstance(message, Account) and message.status is Status.START:
            # What cannot be sent is found out before the session begins, and not when it is to be paid for.
            try:
                packets.check_record(message)
            except packets.BadAttribute as error:
                return Code.ACCOUNT_UNKEPT, str(error)
        return 0, ""

    def _kept(self, kept: Sequence[Kept], figures: Figures | None, now: Now) -> None:
        self._keeping -= len(kept)
        self._figures = figures or self._figures
        for one in kept:
            if one.is_record:
                self._counts["kept"] += not one.code
                self._refused += bool(one.code)
                self._out(Send(Accounted(code=one.code, detail=prose(one.detail)), one.exchange))
        if kept:
            self._sender.grown(now)

    def _opened(self, figures: Figures, now: Now) -> None:
        self._spool_trouble = ""
        self._figures = figures
        self._out(Note("info", "radius.spool_open", {"waiting": figures.waiting, "open": figures.open}))
        self._introduce()
        self._sender.begin(now)

    def _failed(self, detail: str) -> None:
        if detail != self._spool_trouble:
            self._out(Note("error", "radius.spool_unusable", {"detail": detail}))
        self._spool_trouble = detail
        self._sender.lost()
        self._introduce()
        self._out(Arm(Timer(Clock.SPOOL), bounds.SPOOL_AGAIN_MS))

    # --- operators --------------------------------------------------------------------------------------

    def _look(self, message: AskRadius, exchange: int, now: Now) -> None:
        if message.retry:
            self._asker.revive()
            self._sender.hurry(now)
        if self._has_spool and not self._spool_trouble:
            self._out(ListSpool(exchange, message.after, min(message.count, limits.RADIUS_LISTED)))
        else:
            self._listed(exchange, (), self._figures, now)

    def _listed(self, exchange: int, records: Sequence[Waiting], figures: Figures | None, now: Now) -> None:
        self._figures = figures = figures or self._figures
        servers = [one.line(now.ms) for one in self._asker.servers.values()][: limits.RADIUS_SERVERS - 2]
        if self._requests.is_used:
            servers.append(self._requests.line())
        if self._spool_trouble:
            servers.append(f"purpose=spool state=unusable trouble={escape(self._spool_trouble)}")
        self._out(
            Send(
                RadiusTold(
                    waiting=figures.waiting,
                    oldest_s=max(0, now.wall_ms - figures.oldest_ms) // 1000 if figures.oldest_ms else 0,
                    open=figures.open,
                    sent=self._sender.sent,
                    refused=self._refused,
                    servers=tuple(map(_cut, servers)),
                    records=tuple(_cut(self._line(one, now)) for one in records),
                ),
                exchange,
            )
        )

    def _line(self, one: Waiting, now: Now) -> str:
        """Describe a record in a line of key=value words."""
        message = one.message
        names = ("User-Name", "TLSPool-Kind", "TLSPool-Instance")
        found = dict(text.partition("=")[::2] for text in message.attributes if text.partition("=")[0] in names)
        words: dict[str, Value] = {
            "number": one.number,
            "status": message.status.name.lower(),
            "acct_id": message.acct_id,
            "age_s": max(0, now.wall_ms - message.at_ms) // 1000,
            "user_name": found.get("User-Name", "")[:120],
            "failures": self._sender.failures_of(message.acct_id),
        }
        if "TLSPool-Kind" in found:
            words |= {"kind": found["TLSPool-Kind"][:80], "instance": found.get("TLSPool-Instance", "")[:80]}
        return " ".join(f"{name}={escape(value)}" for name, value in words.items())


def _cut(line: str) -> str:
    return line.encode()[: limits.RADIUS_LINE_B].decode(errors="ignore")
