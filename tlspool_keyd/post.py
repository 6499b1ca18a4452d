"""The post of the PIN service: which program asks people for PINs, and for which token it asks now.

    VACANT --registers--> REGISTERED --a token wants a PIN--> ASKED --answers--> REGISTERED
       ^                      |                                 |
       +------------- its connection ends ----------------------+

The rules are those of earlier pools (docs/protocol.md).  One program holds the post.  While it waits to be asked,
every other registration is refused, its own too.  While it is asked it may register again, which withdraws the
question; another program may when the holder's timeout has passed since the question.  An answer is the next
registration, whatever is in it.

A *want* is a token that is there and needs a PIN to be used:

    WANTED --asked, answered--> TRYING --ready--> (forgotten)
      ^ ^                         |
      | +----- wrong PIN ---------+--- wrong PIN for the last time, or the token's last try ---> STOPPED
      |
    ON_DEMAND <--no PIN in the answer, ERROR, or the program went away-- (asked)

* It is asked for one token after the other, and for each as soon as it is known to want a PIN: a pool that was just
  started need not wait for the first session.
* Whoever declined is not asked again until a session needs the token, and not within QUIET_MS; or another registers.
* A wrong PIN is asked for again at once, with the number of the attempt.  After ``pin_tries`` wrong ones in a row
  nobody is asked any more, until an operator says so (reload, ``pin.again``): a daemon must not be what locks a token.

With a PIN in the configuration programs may register, and are never asked.  The PIN itself is never here: the shell
keeps what came with an answer if KeepPin says so, and wipes it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from tlspool_common.appwire import Cmd, ErrorReply, Frame
from tlspool_common.errors import Code, PoolError, app_text, com_err
from tlspool_common.log import Value
from tlspool_common.servicewire import Pinentry, fitting
from tlspool_common.settings import Settings
from tlspool_keyd.events import CloseService, Effect, ForgetPin, KeepPin, Note, SendService, ServiceFrame
from tlspool_keyd.pkcs11uri import parse_untrusted

SERVICES = 16
"""Connections of PIN services.  One is needed; others may try to take over, or have been left behind."""

QUIET_MS = 10_000
"""After somebody declined: a busy server would ask again with its next session."""

PROMPT = "Enter PIN: "
_WRONG = "Wrong. Enter PIN: "
_LAST = "Wrong. Enter PIN (last try): "

_CBIDS = 0xFFFF

Typed = Callable[[str, str, float], list[Effect]]
Review = Callable[[float], list[Effect]]


class Stage(Enum):
    """Where a want is."""

    WANTED = "wanted"
    ON_DEMAND = "declined"
    TRYING = "being tried"
    STOPPED = "not asked for any more"


@dataclass(slots=True, eq=False)
class Want:
    """A token that needs a PIN."""

    module: str
    token_uri: str
    stage: Stage = Stage.WANTED
    attempts: int = 0
    quiet_until_ms: float = 0.0


@dataclass(slots=True, eq=False)
class Service:
    """A connection of a program that may be, or want to be, the PIN service."""

    number: int
    uid: int
    gids: tuple[int, ...]
    label: str


@dataclass(slots=True, eq=False)
class Holder:
    """Who holds the post, and what it said last."""

    service: Service
    reqid: int
    flags: int
    timeout_us: int
    asked: Want | None = None
    asked_ms: float = 0.0


class Post:
    """The post, its applicants, and the tokens that want PINs."""

    def __init__(self, settings: Settings, asks: bool) -> None:
        """``asks``: there is no PIN in the configuration, so that people have to be asked."""
        self._settings = settings
        self._asks = asks
        self._services: dict[int, Service] = {}
        self._holder: Holder | None = None
        self._wants: dict[tuple[str, str], Want] = {}
        self._typed: dict[tuple[str, str], None] = {}
        self._last_cbid = 0
        self._on_typed: Typed = lambda _module, _uri, _now_ms: []
        self._on_review: Review = lambda _now_ms: []

    def bind(self, on_typed: Typed, on_review: Review) -> None:
        """Name whom to tell that a PIN was typed, and that for some token none is to be expected any more."""
        self._on_typed, self._on_review = on_typed, on_review

    def describe(self) -> dict[str, object]:
        """Describe the post for an operator."""
        holder = self._holder
        return {
            "service": holder.service.label if holder else "",
            "asked_for": holder.asked.token_uri if holder and holder.asked else "",
            "tokens": [
                {"token": want.token_uri, "state": want.stage.value, "wrong": want.attempts}
                for want in self._wants.values()
            ],
        }

    # --- what the seats ask and tell --------------------------------------------------------------------

    def typed(self, module: str) -> tuple[str, ...]:
        """Return the tokens behind a module for which the shell keeps a PIN."""
        return tuple(uri for its, uri in self._typed if its == module)

    def may_come(self, module: str, lines: Sequence[str]) -> bool:
        """Whether there may soon be a PIN for one of these tokens."""
        stages = {want.stage for want in self._wants_of(module, lines)}
        return Stage.TRYING in stages or (self._holder is not None and Stage.WANTED in stages)

    def needed(self, module: str, lines: Sequence[str], now_ms: float) -> list[Effect]:
        """A session needs one of these tokens: ask again for what was declined."""
        for want in self._wants_of(module, lines):
            if want.stage is Stage.ON_DEMAND and now_ms >= want.quiet_until_ms:
                want.stage = Stage.WANTED
        return self._ask(now_ms)

    def opened(self, module: str, before: Sequence[str], lines: Sequence[str], now_ms: float) -> list[Effect]:
        """A token process has opened these tokens of a seat, which had those ``before``."""
        if not self._asks:
            return []
        effects: list[Effect] = []
        present = dict(_states(lines))
        for uri, _ in _states(before):
            if uri not in present:
                self._wants.pop((module, uri), None)
        for uri, state in present.items():
            effects += self._opened_one(module, uri, state)
        return effects + self._ask(now_ms)

    def _opened_one(self, module: str, uri: str, state: str) -> list[Effect]:
        key = module, uri
        if not _attributes(uri):
            return []  # a process that does not name its tokens gets no PIN
        want = self._wants.get(key)
        if state == "ready":
            self._wants.pop(key, None)
            return [Note("info", "pin.accepted", {"token": uri})] if want and want.stage is Stage.TRYING else []
        if state == Code.PIN_MISSING.name:
            if want is None:
                self._wants[key] = Want(module, uri)
            return []
        if state not in (Code.PIN_WRONG.name, Code.PIN_LOCKED.name, Code.PIN_LAST_TRY.name):
            return []
        if want is None:
            want = self._wants[key] = Want(module, uri)
        wrong = state == Code.PIN_WRONG.name
        tried = want.stage is Stage.TRYING and state != Code.PIN_LAST_TRY.name
        want.attempts += tried
        stops = not wrong or want.attempts >= self._settings.pin_tries
        want.stage = Stage.STOPPED if stops else Stage.WANTED
        effects: list[Effect] = []
        if key in self._typed:
            del self._typed[key]
            effects.append(ForgetPin(module, uri))
        level, event = ("error", "pin.stopped") if stops else ("warning", "pin.wrong")
        return [*effects, Note(level, event, {"token": uri, "why": state, "wrong": want.attempts})]

    def forgive(self, now_ms: float) -> list[Effect]:
        """An operator says that people may be asked again."""
        for want in self._wants.values():
            want.attempts, want.quiet_until_ms = 0, now_ms
            if want.stage is not Stage.TRYING:
                want.stage = Stage.WANTED
        return self._ask(now_ms)

    def _wants_of(self, module: str, lines: Sequence[str]) -> Iterator[Want]:
        for uri, _ in _states(lines):
            if want := self._wants.get((module, uri)):
                yield want

    # --- programs ---------------------------------------------------------------------------------------

    def arrived(self, number: int, uid: int, gids: tuple[int, ...], label: str) -> list[Effect]:
        """A program connected."""
        if len(self._services) >= SERVICES:
            return [Note("warning", "pin.service_refused", {"service": label, "uid": uid}), CloseService(number)]
        self._services[number] = Service(number, uid, gids, label)
        return []

    def gone(self, number: int, reason: str, now_ms: float) -> list[Effect]:
        """A connection is over."""
        service = self._services.pop(number, None)
        holder = self._holder
        if service is None or holder is None or holder.service is not service:
            return []
        self._holder = None
        note = Note("info", "pin.service_gone", {"service": service.label, "detail": reason})
        if holder.asked is not None:
            holder.asked.stage, holder.asked.quiet_until_ms = Stage.ON_DEMAND, now_ms
        return [note, *self._on_review(now_ms)]

    def said(self, number: int, frame: ServiceFrame, now_ms: float) -> list[Effect]:
        """A program said something."""
        service = self._services.get(number)
        if service is None:
            return []
        holder = self._holder
        if holder is not None and holder.service is service and holder.asked and frame.cbid == self._last_cbid:
            return self._answered(holder, holder.asked, frame, now_ms)
        if frame.cmd != Cmd.PINENTRY:
            return [_error(service, frame.reqid, Code.COMMAND_UNKNOWN)]
        if not self._settings.serves_pins(service.uid, service.gids):
            del self._services[number]
            return [
                Note("warning", "pin.service_denied", {"service": service.label, "uid": service.uid}),
                _error(service, frame.reqid, Code.SERVICE_DENIED),
                CloseService(number),
            ]
        return self._register(service, frame, now_ms)

    def _register(self, service: Service, frame: ServiceFrame, now_ms: float) -> list[Effect]:
        holder = self._holder
        if holder is not None:
            if not _yields(holder, service, now_ms):
                return [_error(service, frame.reqid, Code.PINENTRY_TAKEN)]
            holder.asked = None  # it stays wanted; a late answer answers nothing
        self._holder = Holder(service, frame.reqid, frame.flags, frame.timeout_us)
        for want in self._wants.values():
            if want.stage is Stage.ON_DEMAND:  # that was another person
                want.stage = Stage.WANTED
        note = Note("info", "pin.service_registered", {"service": service.label, "uid": service.uid})
        return [note, *self._ask(now_ms)]

    def _ask(self, now_ms: float) -> list[Effect]:
        """Ask for the next PIN, if somebody is there to be asked and has nothing else to answer."""
        holder = self._holder
        if holder is None or holder.asked is not None:
            return []
        want = next((one for one in self._wants.values() if one.stage is Stage.WANTED), None)
        if want is None:
            return []
        holder.asked, holder.asked_ms = want, now_ms
        self._last_cbid = self._last_cbid % _CBIDS + 1
        fields: dict[str, Value] = {"token": want.token_uri, "attempt": want.attempts}
        frame = Frame(holder.reqid, self._last_cbid, Cmd.PINENTRY, self._question(want, holder).to_payload())
        return [
            Note("info", "pin.asked", {**fields, "service": holder.service.label}),
            SendService(holder.service.number, frame),
        ]

    def _question(self, want: Want, holder: Holder) -> Pinentry:
        names = {name: value.decode("utf-8", "replace") for name, value in _attributes(want.token_uri).items()}
        prompt = PROMPT
        if want.attempts:
            prompt = _LAST if want.attempts + 1 >= self._settings.pin_tries else _WRONG
        return Pinentry(
            flags=holder.flags,
            attempt=want.attempts,
            timeout_us=holder.timeout_us,
            prompt=prompt,
            token_manuf=fitting(names.get("manufacturer", ""), 36),
            token_model=fitting(names.get("model", ""), 20),
            token_serial=fitting(names.get("serial", ""), 20),
            token_label=fitting(names.get("token", ""), 36),
        )

    def _answered(self, holder: Holder, want: Want, frame: ServiceFrame, now_ms: float) -> list[Effect]:
        holder.asked, holder.reqid = None, frame.reqid
        if frame.cmd == Cmd.PINENTRY:
            holder.flags, holder.timeout_us = frame.flags, frame.timeout_us
        fields: dict[str, Value] = {"token": want.token_uri, "service": holder.service.label}
        if frame.cmd != Cmd.PINENTRY or not frame.has_pin:
            want.stage, want.quiet_until_ms = Stage.ON_DEMAND, now_ms + QUIET_MS
            effects: list[Effect] = [Note("info", "pin.declined", fields)]
            return effects + self._ask(now_ms) + self._on_review(now_ms)
        if self._wants.get((want.module, want.token_uri)) is not want:
            return [Note("info", "pin.unused", fields), *self._ask(now_ms)]  # the token has gone meanwhile
        want.stage = Stage.TRYING
        self._typed[want.module, want.token_uri] = None
        effects = [Note("info", "pin.typed", fields), KeepPin(holder.service.number, want.module, want.token_uri)]
        return effects + self._on_typed(want.module, want.token_uri, now_ms) + self._ask(now_ms)

    def stop(self) -> list[Effect]:
        """keyd ends.  A C library takes a mere end of the connection for one more question, so it is told before."""
        effects: list[Effect] = []
        if self._holder is not None:
            effects.append(_error(self._holder.service, self._holder.reqid, Code.STOPPING))
        effects += [CloseService(number) for number in self._services]
        self._services.clear()
        self._holder = None
        return effects


def _yields(holder: Holder, applicant: Service, now_ms: float) -> bool:
    """Whether the holder of the post has to give way."""
    if holder.asked is None:
        return False
    return holder.service is applicant or now_ms >= holder.asked_ms + holder.timeout_us / 1000


def _states(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        uri, _, state = line.rpartition(" ")
        yield uri, state


def _attributes(uri: str) -> dict[str, bytes]:
    try:
        return dict(parse_untrusted(uri).attributes)
    except PoolError:  # of a token process, which is not believed more than it must be
        return {}


def _error(service: Service, reqid: int, code: Code) -> Effect:
    return SendService(
        service.number, Frame(reqid, 0, Cmd.ERROR, ErrorReply(com_err(code), app_text(code)).to_payload())
    )
