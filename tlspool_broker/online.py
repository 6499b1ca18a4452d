"""What the broker asks the network, by way of a helper: are certificates of remotes revoked; staples for ours.

Theory of operation.  The helper (tlspool_online) is started when something may be to be asked, and then stays.

    ABSENT --wanted, a question--> STARTING --hello--> READY
       ^                              |                  |
       +---------- back-off ----------+--its channel ends, it breaks the table, it says no hello, it hangs

* It takes 18 MiB that are its own, and half a second to start.  So it is *wanted* from the broker's start on where the
  configuration will have it asked (``crl_file``, ``validation`` with any of RrOo), and elsewhere from the first session
  on that may have to ask, before its handshake begins.  A pool whose policy asks nobody goes without.
* Who asks it while it starts may wait for that on top (``start_left_ms``): its own time is for the network.
* Nobody waits here: who asks has a timer of his own, and goes on without an answer when that fires.
* A question has a number, which is its exchange on the border and is not used again.  What was asked and is not wanted
  any more stays in the list until it is answered, as the helper still has it.
* There are so many questions at a time; more are answered at once: nobody knows.
* A helper that leaves a question unanswered for long after its deadline hangs, and is started anew.
* When the helper ends nobody knows the answer to what was asked.  It is started again when it is wanted, but for
  a pause that grows with each failure, so that a helper that cannot start does not become a storm of processes.

A *staple* is an OCSP response for a certificate of ours.  A handshake takes what is there and never waits for it; what
is missing, or has lived half its life, is asked for on that occasion.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass

from tlspool_broker.events import Arm, Clock, Disarm, HelperNumber, SendHelper, StartHelper, StopHelper, Timer
from tlspool_broker.out import Out
from tlspool_broker.validation import expression, predicates
from tlspool_common.messages import (
    PROTOCOL,
    AskRevocation,
    AskStaple,
    OnlineHello,
    RevocationTold,
    StapleTold,
)
from tlspool_common.settings import Settings

QUESTIONS = 256
"""Open questions: as many handshakes as wait for the network at a time.  One has a chain in it, so some MiB in all."""

HELLO_MS = 10_000
"""For a helper to start: Python and a cryptographic library take half a second, ten times that on a busy machine."""

HUNG_MS = 30_000
"""After its deadline; a helper that is well answers within milliseconds of it."""

PAUSE_MS = (1_000, 2_000, 5_000, 15_000, 60_000)
"""After so many failures in a row."""

STAPLES = 256
"""Certificates of ours whose staples are kept; a pool with more than that asks for some of them again."""

STAPLE_WAIT_MS = 30_000
"""For a staple to be fetched: nobody waits for it."""

STAPLE_AGAIN_MS = 600_000
"""Until a staple is asked for again that could not be had."""

STAPLE_REFRESH_MS = 86_400_000
"""Until a staple is asked for again at the latest: what a responder, or the helper, says of its life may be years."""

_OCSP_ACCESS = bytes.fromhex("06082b06010505073001")
"""The identifier of an OCSP responder in a certificate (RFC 5280 section 4.2.2.1), as DER has it."""

Told = Callable[["RevocationTold | None"], None]


@dataclass(slots=True)
class _Question:
    """What was asked; ``told`` None: nobody wants to know any more.  ``key``: it is about a staple of ours.

    ``sent`` is called when it is sent, if it had to wait for that.
    """

    told: Told | None
    overdue_ms: float
    key: bytes = b""
    sent: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _Staple:
    """A response (b"" if there is none), the time it is not used any more, and the time to ask again."""

    response: bytes
    until_ms: float
    again_ms: float


@dataclass(slots=True)
class Counters:
    """What has become of it all, since the broker's start.

    Attributes:
        asked: questions about remotes; each is answered, unanswered (the helper ended), or still open.
        given_up: of these, questions whose session did not wait for the answer.
        not_asked: questions that nobody could take: too many, or no helper.
        started: how often a helper was started, and how often it has ``failed``.
    """

    asked: int = 0
    answered: int = 0
    unanswered: int = 0
    given_up: int = 0
    not_asked: int = 0
    staples_asked: int = 0
    staples_fetched: int = 0
    started: int = 0
    failed: int = 0


class Online:
    """The helper, as far as there is one."""

    def __init__(self, out: Out, settings: Settings, unix_time_s: Callable[[], float]) -> None:
        self._out = out
        self._unix_time_s = unix_time_s
        self._configure(settings)
        self._wanted = False
        self._hello_until_ms = 0
        self.counters = Counters()
        self._outdated = False
        self._helper: HelperNumber | None = None
        self._ready = False
        self._waiting: list[tuple[int, AskRevocation | AskStaple]] = []
        self._open: dict[int, _Question] = {}
        self._staples: OrderedDict[bytes, _Staple] = OrderedDict()
        self._last_question = 0
        self._last_helper = 0
        self._failures = 0
        self._quiet_until_ms = 0

    def __len__(self) -> int:
        return len(self._open)

    def _configure(self, settings: Settings) -> None:
        self._network = settings.online
        self._used = settings.online or bool(settings.crl_file)
        self._always = bool(settings.crl_file) or bool(expression.needs([settings.validation]) & predicates.SLOW)

    def reconfigured(self, settings: Settings) -> None:
        """Go by other settings; the helper has those that it was started with, and is replaced when it is idle."""
        self._configure(settings)
        self._outdated = self._helper is not None
        self._replace_outdated()
        self._look_whether_wanted()

    def _replace_outdated(self) -> None:
        if self._outdated and self._helper is not None and not self._open:
            self._out(StopHelper(self._helper))
            self._out(Disarm(Timer(Clock.HELPER)))
            self._helper, self._ready = None, False
            self._look_whether_wanted()

    def began(self) -> None:
        """The broker has started."""
        self._look_whether_wanted()

    def want(self) -> None:
        """It may be asked soon."""
        self._wanted = True
        self._look_whether_wanted()

    def _look_whether_wanted(self) -> None:
        """Start the helper if there is reason to, and none has to be waited for."""
        is_wanted = self._used and (self._wanted or self._always)
        if is_wanted and self._helper is None and self._out.now_ms >= self._quiet_until_ms:
            self._start()

    @property
    def start_left_ms(self) -> int:
        """How much longer the helper may take to start; 0: it has, or there is none."""
        return 0 if self._ready or self._helper is None else max(0, self._hello_until_ms - self._out.now_ms)

    def describe(self) -> dict[str, object]:
        """Describe the helper for an operator."""
        state = "ready" if self._ready else "starting" if self._helper is not None else "absent"
        return {
            "state": state if self._used else "not used",
            "questions": len(self._open),
            "staples": sum(bool(staple.response) for staple in self._staples.values()),
            **asdict(self.counters),
        }

    @property
    def open_questions(self) -> int:
        """Questions that have no answer yet."""
        return len(self._open)

    # --- questions ------------------------------------------------------------------------------------

    def ask(self, message: AskRevocation, told: Told, sent: Callable[[], None] = lambda: None) -> int:
        """Ask about a chain; ``told`` hears the answer, or None if there will be none.  0: nobody can be asked.

        If the helper has to start first, ``sent`` is called when it has.
        """
        number = self._ask(message, told, message.deadline_ms)
        if number:
            self._open[number].sent = sent
            self.counters.asked += 1
        else:
            self.counters.not_asked += 1
        return number

    def forget(self, number: int) -> None:
        """Nobody wants to know any more what was asked under this number."""
        question = self._open.get(number)
        if question is not None and question.told is not None:
            question.told = None
            self.counters.given_up += 1

    def _ask(self, message: AskRevocation | AskStaple, told: Told | None, wait_ms: int, key: bytes = b"") -> int:
        now_ms = self._out.now_ms
        oldest = next(iter(self._open.values()), None)
        if self._helper is not None and oldest is not None and now_ms >= oldest.overdue_ms:
            self._give_up("it does not answer")
        if not self._used or len(self._open) >= QUESTIONS or (self._helper is None and now_ms < self._quiet_until_ms):
            return 0
        self._last_question = self._last_question % 0xFFFFFFFF + 1
        number = self._last_question
        self._open[number] = _Question(told, now_ms + wait_ms + HUNG_MS, key)
        self._wanted = True
        if self._helper is None:
            self._start()
        if self._ready and self._helper is not None:
            self._out(SendHelper(self._helper, number, message))
        else:
            self._waiting.append((number, message))
        return number

    # --- the helper -----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._last_helper += 1
        self._helper = HelperNumber(self._last_helper)
        self._outdated = False
        self._hello_until_ms = self._out.now_ms + HELLO_MS
        self.counters.started += 1
        self._out(StartHelper(self._helper))
        self._out(Arm(Timer(Clock.HELPER), HELLO_MS))

    def said(self, helper: HelperNumber, exchange: int, message: OnlineHello | RevocationTold | StapleTold) -> None:
        """Take a message."""
        if helper != self._helper:
            return  # it is not believed any more
        if isinstance(message, OnlineHello):
            self._hello(helper, message)
            return
        question = self._open.pop(exchange, None)
        if question is None or not self._ready or bool(question.key) is not isinstance(message, StapleTold):
            self._give_up("it answers a question that nobody asked")
            if question is not None and question.told is not None:
                question.told(None)
            return
        self._failures = 0
        if isinstance(message, StapleTold):
            self._keep(question.key, message)
        else:
            self.counters.answered += 1
            if question.told is not None:
                question.told(message)
        self._replace_outdated()

    def _hello(self, helper: HelperNumber, message: OnlineHello) -> None:
        if message.protocol != PROTOCOL:
            self._give_up(f"it speaks protocol {message.protocol}, this broker {PROTOCOL}")
            return
        self._ready = True
        self._out(Disarm(Timer(Clock.HELPER)))
        self._out.note("info", "helper.connected", pid=message.pid)
        waiting, self._waiting = self._waiting, []
        for number, question in waiting:
            self._out(SendHelper(helper, number, question))
            self._open[number].sent()

    def lost(self, helper: HelperNumber, reason: str) -> None:
        """Forget a helper whose channel is closed."""
        if helper == self._helper:
            self._ended(reason)

    def timed_out(self) -> None:
        """The helper has said no hello in time; or there is none, and it has been quiet for long enough."""
        if self._helper is None:
            self._look_whether_wanted()
        elif not self._ready:
            self._give_up("it does not say hello")

    def stop(self) -> None:
        """The broker ends."""
        if self._helper is not None:
            self._out(StopHelper(self._helper))
            self._helper, self._used = None, False

    def _give_up(self, why: str) -> None:
        if self._helper is not None:
            self._out(StopHelper(self._helper))
            self._ended(why)

    def _ended(self, reason: str) -> None:
        self._helper, self._ready, self._waiting = None, False, []
        self._out(Disarm(Timer(Clock.HELPER)))
        pause_ms = PAUSE_MS[min(self._failures, len(PAUSE_MS) - 1)]
        self._failures += 1
        self.counters.failed += 1
        self._quiet_until_ms = self._out.now_ms + pause_ms
        self._out.note("error", "helper.lost", detail=reason, questions=len(self._open), pause_ms=pause_ms)
        if self._used and (self._wanted or self._always):
            self._out(Arm(Timer(Clock.HELPER), pause_ms))
        asked, self._open = self._open, {}
        for question in asked.values():
            self.counters.unanswered += not question.key
            if question.told is not None:
                question.told(None)
            elif question.key:
                self._missed(question.key, pause_ms)

    # --- staples --------------------------------------------------------------------------------------

    def staple(self, chain: tuple[bytes, ...]) -> bytes:
        """Return a response for a certificate of ours, or b""; ask for it if there is reason to."""
        if not self._network or len(chain) < 2 or _OCSP_ACCESS not in chain[0]:
            return b""
        now_ms = self._out.now_ms
        key = hashlib.sha256(chain[0]).digest()
        found = self._staples.get(key)
        if found is None or now_ms >= found.again_ms:
            found = self._staples.setdefault(key, _Staple(b"", 0, 0))
            asked = self._ask(AskStaple(chain=chain, deadline_ms=STAPLE_WAIT_MS), None, STAPLE_WAIT_MS, key)
            self.counters.staples_asked += bool(asked)
            found.again_ms = now_ms + (STAPLE_WAIT_MS + HUNG_MS if asked else PAUSE_MS[0])
            while len(self._staples) > STAPLES:
                self._staples.popitem(last=False)
        self._staples.move_to_end(key)
        return found.response if now_ms < found.until_ms else b""

    def _keep(self, key: bytes, message: StapleTold) -> None:
        staple = self._staples.get(key)
        if staple is None:
            return
        now_ms = self._out.now_ms
        left_ms = (message.until_s - self._unix_time_s()) * 1000 if message.response else 0
        if left_ms <= 0:
            staple.again_ms = now_ms + STAPLE_AGAIN_MS
            self._out.note("debug", "staple.absent", detail=message.detail)
            return
        self.counters.staples_fetched += 1
        staple.response, staple.until_ms = message.response, now_ms + left_ms
        staple.again_ms = now_ms + max(min(left_ms / 2, STAPLE_REFRESH_MS), STAPLE_AGAIN_MS)
        self._out.note("debug", "staple.fetched", detail=message.detail, left_s=int(left_ms / 1000))

    def _missed(self, key: bytes, pause_ms: int) -> None:
        if key in self._staples:
            self._staples[key].again_ms = self._out.now_ms + pause_ms
