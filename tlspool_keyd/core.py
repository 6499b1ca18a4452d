"""keyd's mind: events in, effects out.  No socket, clock, file, process or PIN here or in what it is made of.

    WorkerAsked -> seal -> ledger -> recognise -> lookup -> seats -> AnswerWorker(signature), sign.done
                    |        |           |          |         |
                    +--------+-----------+----------+---------+---> AnswerWorker(code), sign.refused

    grants.py     who may use a grant, once        recognise.py  what may be signed at all
    lookup.py     which seat has the key           seats.py      token processes, and requests in them
    post.py       who is asked for PINs            patience.py   requests that wait for one
    listing.py    what keys there are              locks.py      tokens that an operator has locked
    views.py      what an operator sees            events.py     both vocabularies

The order is that of trust.  Before the seal was found good nothing in a grant is believed; before the ledger
has it spent nothing else is looked at, so that a grant is good for one attempt whatever its outcome; a token
sees nothing that was not recognised; and no answer goes out before its line is in the log, and in the audit trail.

The secret that seals grants is drawn once and given to each broker that comes: a broker that was started anew
can go on where the old one ended, and grants that workers hold stay good.  Only an end of keyd voids them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from copy import copy
from typing import assert_never

from tlspool_common.auditor import Nobody, Witness
from tlspool_common.errors import Code, PoolError
from tlspool_common.grants import Grant, unseal_untrusted
from tlspool_common.log import Value
from tlspool_common.messages import (
    PROTOCOL,
    KeyAnswer,
    KeyChannel,
    KeydHello,
    KeyQuestion,
    Signed,
    TokenFind,
    TokenOpened,
    TokenSign,
    prose,
)
from tlspool_common.settings import Settings
from tlspool_keyd import views
from tlspool_keyd.events import (
    AdoptWorker,
    AnswerKey,
    AnswerWorker,
    Arm,
    BrokerConnected,
    BrokerLost,
    BrokerSaid,
    Clock,
    ConnectBroker,
    Effect,
    Event,
    KeyAsked,
    KeysAsked,
    KillToken,
    LockAsked,
    Note,
    PinChanged,
    PinForgiven,
    SayReady,
    SendBroker,
    ServiceArrived,
    ServiceGone,
    ServiceSaid,
    Timer,
    TimerFired,
    TokenLost,
    TokenSaid,
    WorkerAsked,
    WorkerLost,
)
from tlspool_keyd.grants import REMEMBERED, Ledger
from tlspool_keyd.listing import Listing
from tlspool_keyd.lookup import Lookup
from tlspool_keyd.post import Post
from tlspool_keyd.recognise import Recognised, recognise_untrusted
from tlspool_keyd.schemes import BY_NUMBER
from tlspool_keyd.seats import Done, Outcome, Seats

READY_MS = 5_000
"""Ready is said when each token process has opened or failed, but not later than this: a module that hangs must
not keep the others, nor the start of the host, waiting."""

BACKOFF_MS = (50, 100, 200, 400, 800, 1_600)
"""Between attempts to reach the broker.  It restarts within a second; an attempt each 1.6 s costs nothing."""

STABLE_MS = 1_000
"""A connection that lasted so long was a good one: the next attempt may come soon."""

REFUSALS_LOGGED = 1_000
"""Refusals written to the log in one second.  A worker that was taken over can ask some ten thousand times a
second, and must not fill the disk; how many more there were is written instead."""


class KeydCore:
    """All of keyd but its sockets, its processes and the PIN."""

    def __init__(
        self,
        settings: Settings,
        grant_secret: bytes,
        pid: int,
        *,
        asks_for_pins: bool = False,
        witness: Witness | None = None,
    ) -> None:
        """``asks_for_pins``: there is no PIN in the configuration, so a PIN service is asked."""
        modules = [(module.path, module.token_uri) for module in settings.pkcs11]
        self._witness = witness or Nobody()
        self._grant_secret = grant_secret
        self._pid = pid
        self._settings = settings
        self._ledger = Ledger()
        self._post = Post(settings, asks_for_pins)
        timeout_ms, pin_wait_ms = settings.pkcs11_timeout_s * 1000, settings.pin_wait_s * 1000
        self._seats = Seats(modules, settings.pkcs11_sessions, timeout_ms, self._post, pin_wait_ms)
        self._post.bind(self._seats.pin_typed, self._seats.review)
        self._lookup = Lookup(self._seats)
        self._workers: set[int] = set()
        self._broker_since_ms: float | None = None
        self._attempts = 0
        self._ready = False
        self._seen = self._spent = self._signed = 0
        self._refusals = Refusals()

    # --- what an operator sees --------------------------------------------------------------------------

    @property
    def seats(self) -> Seats:
        """The token processes."""
        return self._seats

    @property
    def has_broker(self) -> bool:
        """Whether the broker is connected."""
        return self._broker_since_ms is not None

    @property
    def grants_spent(self) -> int:
        """Grants that are remembered."""
        return len(self._ledger)

    @property
    def workers(self) -> int:
        """Workers that may ask."""
        return len(self._workers)

    @property
    def title(self) -> str:
        """The state in a few words, for the list of processes."""
        return views.title(self._seats) + ("" if self._broker_since_ms is not None else ", no broker")

    def status(self, pids: Mapping[int, int]) -> dict[str, object]:
        """Describe the state; ``pids`` knows the process ids of token processes by generation."""
        return {
            "pid": self._pid,
            "broker": self._broker_since_ms is not None,
            "workers": len(self._workers),
            "signed": self._signed,
            "refused": self._refusals.total,
            "waiting": self._seats.waiting,
            "grants_spent": len(self._ledger),
            "locked": self._seats.locks.names,
            "modules": views.modules(self._seats, pids),
            "pin_service": self._post.describe(),
        }

    def tokens(self) -> dict[str, object]:
        """Describe the tokens, and what is locked."""
        return {"tokens": views.tokens(self._seats), "locked": self._seats.locks.names}

    def queue(self, now_ms: float) -> dict[str, object]:
        """Describe what waits for tokens, and what they are at."""
        return {"queue": views.queue(self._seats, now_ms)}

    def grants(self) -> dict[str, object]:
        """Say what became of grants: each was seen, and then either refused or spent."""
        return {
            "seen": self._seen,
            "spent": self._spent,
            "remembered": len(self._ledger),
            "room": REMEMBERED,
            "signed": self._signed,
            "refused": self._refusals.total,
            "refused_by": dict(sorted(self._refusals.by_code.items())),
        }

    def check_lock(self, uri: str, *, locked: bool) -> None:
        """See whether tokens can be locked, or unlocked, by that name.

        Raises:
            PoolError: as ``Locks.add`` and ``Locks.remove``.
        """
        trial = copy(self._seats.locks)
        trial.add(uri, self._token_uris()) if locked else trial.remove(uri)

    def _token_uris(self) -> list[str]:
        return [line.rpartition(" ")[0] for seat in self._seats.seats for line in seat.tokens]

    # --- events -----------------------------------------------------------------------------------------

    def begin(self, now_ms: float) -> list[Effect]:
        """Return what is to be done at the start."""
        effects = [*self._seats.start_all(now_ms), Arm(Timer(Clock.READY), READY_MS), ConnectBroker()]
        return effects + self._readiness()

    def stop(self) -> list[Effect]:
        """Return what is to be said at the end."""
        return self._post.stop()

    def handle(self, event: Event, now_ms: float) -> list[Effect]:
        """Take an event at a time (milliseconds of CLOCK_BOOTTIME), and return what is to be done, in order."""
        effects: list[Effect]
        match event:
            case WorkerAsked():
                effects = self._asked(event, now_ms)
            case TokenSaid():
                effects = self._token_said(event, now_ms)
            case TokenLost(generation, how):
                effects = self._seats.lost(generation, how, now_ms)
            case BrokerConnected():
                effects = self._connected(now_ms)
            case BrokerLost(reason):
                effects = self._disconnected(reason, now_ms)
            case BrokerSaid(message, exchange):
                effects = self._broker_said(message, exchange, now_ms)
            case WorkerLost(worker_id, reason, broken):
                self._workers.discard(worker_id)
                level, name = ("error", "worker.broken") if broken else ("debug", "worker.lost")
                effects = [Note(level, name, {"worker": worker_id, "detail": reason})]
            case TimerFired(timer):
                effects = self._timer_fired(timer, now_ms)
            case PinChanged():
                effects = self._seats.pin_changed(now_ms)
            case KeysAsked(ticket):
                effects = Listing(self._seats, ticket).begin(now_ms)
            case KeyAsked(ticket, uri):
                effects = self._lookup.submit(TokenFind(uri=uri), _answer_key(ticket), now_ms)
            case LockAsked():
                effects = self._lock(event, now_ms)
            case ServiceArrived(service, uid, gids, label):
                effects = self._post.arrived(service, uid, gids, label)
            case ServiceSaid(service, frame):
                effects = self._post.said(service, frame, now_ms)
            case ServiceGone(service, reason):
                effects = self._post.gone(service, reason, now_ms)
            case PinForgiven():
                effects = self._post.forgive(now_ms)
            case _:
                assert_never(event)
        return effects if self._ready else effects + self._readiness()

    def _readiness(self, late: bool = False) -> list[Effect]:
        if self._ready or (self._seats.opening and not late):
            return []
        self._ready = True
        opened = sum(seat.current is not None for seat in self._seats.seats)
        return [SayReady(), Note("info", "keyd.ready", {"modules": len(self._seats.seats), "open": opened})]

    def _timer_fired(self, timer: Timer, now_ms: float) -> list[Effect]:
        match timer.clock:
            case Clock.DEADLINE:
                return self._seats.expire(now_ms)
            case Clock.OPENING:
                return self._seats.opening_expired(timer.number, now_ms)
            case Clock.BROKER:
                return [ConnectBroker()]
            case Clock.READY:
                return self._readiness(late=True)
            case Clock.PIN:
                return self._seats.patience_expired(now_ms)
            case _:
                assert_never(timer.clock)

    def _lock(self, event: LockAsked, now_ms: float) -> list[Effect]:
        locks = self._seats.locks
        if event.locked:
            locks.add(event.uri, self._token_uris())
        else:
            locks.remove(event.uri)
        fields: dict[str, Value] = {"token": event.uri, "uid": event.uid, "author": event.author}
        note = Note("warning", "token.locked" if event.locked else "token.unlocked", fields)
        return [note, *self._seats.renew(now_ms)]

    # --- the broker -------------------------------------------------------------------------------------

    def _connected(self, now_ms: float) -> list[Effect]:
        self._broker_since_ms = now_ms
        hello = KeydHello(protocol=PROTOCOL, pid=self._pid, grant_secret=self._grant_secret)
        return [SendBroker(hello), Note("info", "broker.connected")]

    def _disconnected(self, reason: str, now_ms: float) -> list[Effect]:
        since_ms, self._broker_since_ms = self._broker_since_ms, None
        effects: list[Effect] = []
        if since_ms is not None:
            effects.append(Note("error", "broker.lost", {"detail": reason}))
            if now_ms - since_ms >= STABLE_MS:
                self._attempts = 0
        elif self._attempts == 0:
            effects.append(Note("warning", "broker.unreachable", {"detail": reason}))
        delay_ms = BACKOFF_MS[min(self._attempts, len(BACKOFF_MS) - 1)]
        self._attempts += 1
        return [*effects, Arm(Timer(Clock.BROKER), delay_ms)]

    def _broker_said(self, message: KeyChannel | KeyQuestion, exchange: int, now_ms: float) -> list[Effect]:
        match message:
            case KeyChannel(worker_id=worker_id):
                self._workers.add(worker_id)
                return [AdoptWorker(worker_id), Note("debug", "worker.joined", {"worker": worker_id})]
            case KeyQuestion(uri=uri):

                def answer(outcome: Outcome, _now_ms: float) -> list[Effect]:
                    spki = outcome.payload if outcome.code is Code.OK else b""
                    return [SendBroker(KeyAnswer(code=outcome.code, detail=prose(outcome.detail), spki=spki), exchange)]

                return self._lookup.submit(TokenFind(uri=uri), answer, now_ms)
            case _:
                assert_never(message)

    # --- token processes --------------------------------------------------------------------------------

    def _token_said(self, event: TokenSaid, now_ms: float) -> list[Effect]:
        try:
            if isinstance(event.message, TokenOpened):
                return self._seats.opened(event.generation, event.message, now_ms)
            return self._seats.answered(event.generation, event.exchange, event.message, now_ms)
        except PoolError as error:  # a module may write where it likes in its process, which is not believed now
            why: dict[str, Value] = {"process": event.generation, "detail": error.detail}
            ended = self._seats.lost(event.generation, "it was ended", now_ms)
            return [Note("error", "token.broken", why), *ended, KillToken(event.generation)]

    # --- signatures -------------------------------------------------------------------------------------

    def _asked(self, event: WorkerAsked, now_ms: float) -> list[Effect]:
        """Judge a request of a worker, which may have been taken over."""
        message = event.message
        grant: Grant | None = None
        self._seen += 1
        try:
            grant = unseal_untrusted(self._grant_secret, message.grant)
            self._ledger.spend(grant, event.worker_id, now_ms)
            self._spent += 1
            what = recognise_untrusted(message.content, grant.side, message.scheme)
            self._check_version(what)
            if not self._witness.ready:
                raise PoolError(Code.AUDIT_LOST)
        except PoolError as error:
            return self._refuse(event, grant, Outcome(error.code, error.detail), now_ms)
        permitted = grant

        def done(outcome: Outcome, then_ms: float) -> list[Effect]:
            if outcome.code is not Code.OK:
                return self._refuse(event, permitted, outcome, then_ms)
            fields = _whose(event, permitted)
            fields |= {"what": what.value, "scheme": _scheme(message.scheme), "key": permitted.key_uri}
            fields |= {"token": outcome.token, "ms": then_ms - now_ms}
            fields |= {"queue_ms": then_ms - now_ms - outcome.token_ms, "token_ms": outcome.token_ms}
            if not self._witness.attest("sign.done", fields):
                return self._refuse(event, permitted, Outcome(Code.AUDIT_LOST, token=outcome.token), then_ms)
            self._signed += 1
            signed = Signed(code=Code.OK, signature=outcome.payload)
            return [Note("info", "sign.done", fields), AnswerWorker(event.ticket, signed, event.exchange)]

        order = TokenSign(
            uri=grant.key_uri, scheme=message.scheme, spki_sha256=grant.spki_sha256, content=message.content
        )
        return self._lookup.submit(order, done, now_ms, event.worker_id)

    def _check_version(self, what: Recognised) -> None:
        """Refuse content of a protocol version that policy does not have."""
        least, most = self._settings.tls_min_version, self._settings.tls_max_version
        version = "1.3" if what is Recognised.TLS13_CERTIFICATE_VERIFY else "1.2"
        if not least <= version <= most:
            raise PoolError(Code.CONTENT_REFUSED, f"{what.value}, and policy allows TLS {least} to {most} only")

    def _refuse(self, event: WorkerAsked, grant: Grant | None, outcome: Outcome, now_ms: float) -> list[Effect]:
        effects: list[Effect] = []
        withheld = self._refusals.count(now_ms, outcome.code)
        if withheld:
            effects.append(Note("warning", "sign.refusals_withheld", {"count": withheld}))
        if self._refusals.may_log:
            fields: dict[str, Value] = {"code": int(outcome.code), "why": outcome.code.name, **_whose(event, grant)}
            fields |= {"scheme": _scheme(event.message.scheme), "key": grant.key_uri if grant else None}
            fields |= {"token": outcome.token, "detail": outcome.detail}
            effects.append(Note("warning", "sign.refused", fields))
        return [*effects, AnswerWorker(event.ticket, Signed(code=outcome.code, signature=b""), event.exchange)]


class Refusals:
    """Counts refusals, and says whether the one just counted goes to the log."""

    def __init__(self) -> None:
        self.total = 0
        self.by_code: Counter[str] = Counter()
        self._second = 0
        self._in_second = 0

    def count(self, now_ms: float, code: Code) -> int:
        """Count one; return how many were withheld in the last second that had any, once."""
        self.total += 1
        self.by_code[code.name.lower()] += 1
        second = int(now_ms // 1000)
        withheld = 0
        if second != self._second:
            withheld = max(0, self._in_second - REFUSALS_LOGGED)
            self._second, self._in_second = second, 0
        self._in_second += 1
        return withheld

    @property
    def may_log(self) -> bool:
        """Whether there is room for it."""
        return self._in_second <= REFUSALS_LOGGED


def _answer_key(ticket: int) -> Done:
    def answer(outcome: Outcome, _now_ms: float) -> list[Effect]:
        spki = outcome.payload if outcome.code is Code.OK else b""
        return [AnswerKey(ticket, outcome.code, outcome.detail, spki)]

    return answer


def _whose(event: WorkerAsked, grant: Grant | None) -> dict[str, Value]:
    """Say whose request it is.  A grant is there only if its seal was good."""
    return {
        "session": grant.session_id if grant else None,
        "worker": event.worker_id,
        "side": grant.side.name.lower() if grant else None,
    }


def _scheme(number: int) -> str:
    row = BY_NUMBER.get(number)
    return row.scheme.name.lower() if row else f"{number:#06x}"
