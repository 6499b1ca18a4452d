"""A helper process of the broker: when it is started, what is asked of it, and what becomes of that when it ends.

    ABSENT --wanted, a question--> STARTING --hello--> READY
       ^                              |                  |
       +---------- back-off ----------+--its channel ends, it breaks the table, it says no hello, it hangs

* There is one of each kind: the one that asks the network (online.py), and the one that speaks RADIUS (radius.py).
* It is *always* wanted where the configuration says so, and elsewhere from the first question on, or from the moment on
  that somebody may ask.
* Nobody waits here: who asks has a timer of his own, and goes on without an answer when that fires.
* A question has a number, which is its exchange on the border and is not used again.  What was sent and is not wanted
  any more stays in the list until it is answered, as the helper still has it.
* There are so many questions at a time; more are answered at once: nobody knows.
* A helper that leaves a question unanswered for long after its deadline hangs, and is started anew.
* When the helper ends nobody knows the answer to what was asked.  It is started again when it is wanted, but for
  a pause that grows with each failure, so that a helper that cannot start does not become a storm of processes.
* Settings are arguments of the process.  When they change, an idle helper is replaced at once, and a busy one when it
  has answered; or at once too, and its questions are asked again, where an answer by old settings is of no use
  (``asks_again``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tlspool_broker.events import (
    Arm,
    Clock,
    Disarm,
    HelperKind,
    HelperNumber,
    SendHelper,
    StartHelper,
    StopHelper,
    Timer,
    ToHelper,
)
from tlspool_broker.out import Out
from tlspool_common.messages import BY_MESSAGE, PROTOCOL, Message, OnlineHello, RadiusHello

HELLO_MS = 10_000
"""For a helper to start: Python and a cryptographic library take half a second, ten times that on a busy machine."""

HUNG_MS = 30_000
"""After its deadline; a helper that is well answers within milliseconds of it."""

PAUSE_MS = (1_000, 2_000, 5_000, 15_000, 60_000)
"""After so many failures in a row."""

Told = Callable[["Message | None"], None]


def _nothing() -> None:
    """Do nothing."""


@dataclass(slots=True)
class _Question:
    """What was asked; ``told`` None: nobody wants to know any more.

    ``sent`` is called when it is sent, if it had to wait for that.  One that is ``quiet`` is not counted.
    """

    message: ToHelper
    told: Told | None
    overdue_ms: float
    sent: Callable[[], None]
    quiet: bool


@dataclass(slots=True)
class Counters:
    """What has become of it all, since the broker's start.

    Attributes:
        asked: questions; each is answered, unanswered (the helper ended), or still open.
        given_up: of these, questions whose session did not wait for the answer.
        not_asked: questions that nobody could take: too many, or no helper.
        started: how often a helper was started, and how often it has ``failed``.
    """

    asked: int = 0
    answered: int = 0
    unanswered: int = 0
    given_up: int = 0
    not_asked: int = 0
    started: int = 0
    failed: int = 0


class Helper:
    """A helper, as far as there is one."""

    def __init__(
        self,
        out: Out,
        kind: HelperKind,
        most: int,
        *,
        asks_again: bool = False,
        greeted: Callable[[], None] = _nothing,
    ) -> None:
        """``most`` questions may be open; ``greeted`` is called when one has said hello, and what waited is sent."""
        self._out = out
        self._kind = kind
        self._most = most
        self._asks_again = asks_again
        self._greeted = greeted
        self._used = self._always = self._wanted = False
        self._hello_until_ms = 0
        self.counters = Counters()
        self._outdated = False
        self._number: HelperNumber | None = None
        self._ready = False
        self._waiting: list[int] = []
        self._open: dict[int, _Question] = {}
        self._last_question = 0
        self._last_number = 0
        self._failures = 0
        self.quiet_until_ms = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def ready(self) -> bool:
        """Whether it takes messages."""
        return self._ready

    @property
    def used(self) -> bool:
        """Whether it may be started at all."""
        return self._used

    def configure(self, *, used: bool, always: bool) -> None:
        """Say whether it is ``used`` at all, and whether it is wanted from the start on."""
        self._used, self._always = used, always

    def reconfigured(self) -> None:
        """Go by other settings; the helper has those that it was started with.

        What kept the last one from starting may have been wrong in the old ones: there is no pause any more.
        """
        self._outdated = self._number is not None
        self._failures, self.quiet_until_ms = 0, self._out.now_ms
        self._replace_outdated()
        self._look_whether_wanted()

    def _replace_outdated(self) -> None:
        if not self._outdated or self._number is None or (self._open and not self._asks_again):
            return
        self._out(StopHelper(self._number))
        self._out(Disarm(self._timer))
        self._number, self._ready = None, False
        self._waiting = list(self._open)
        if not self._used:
            self._nobody_knows()
        self._look_whether_wanted()

    def want(self) -> None:
        """It may be asked soon."""
        self._wanted = True
        self._look_whether_wanted()

    def began(self) -> None:
        """The broker has started."""
        self._look_whether_wanted()

    def _look_whether_wanted(self) -> None:
        """Start the helper if there is reason to, and none has to be waited for."""
        is_wanted = self._used and (self._wanted or self._always)
        if is_wanted and self._number is None and self._out.now_ms >= self.quiet_until_ms:
            self._start()

    @property
    def _timer(self) -> Timer:
        return Timer(Clock.HELPER, self._kind.value)

    @property
    def start_left_ms(self) -> int:
        """How much longer the helper may take to start; 0: it has, or there is none."""
        return 0 if self._ready or self._number is None else max(0, self._hello_until_ms - self._out.now_ms)

    @property
    def state(self) -> str:
        """What an operator reads."""
        if not self._used:
            return "not used"
        return "ready" if self._ready else "starting" if self._number is not None else "absent"

    # --- questions ------------------------------------------------------------------------------------

    def ask(
        self,
        message: ToHelper,
        told: Told,
        wait_ms: float,
        sent: Callable[[], None] = _nothing,
        *,
        quiet: bool = False,
    ) -> int:
        """Ask; ``told`` hears the answer, or None if there will be none.  0: nobody can be asked.

        If the helper has to start first, ``sent`` is called when it has.
        """
        now_ms = self._out.now_ms
        oldest = next(iter(self._open.values()), None)
        if self._number is not None and oldest is not None and now_ms >= oldest.overdue_ms:
            self.give_up("it does not answer")
        if not self._used or len(self._open) >= self._most or (self._number is None and now_ms < self.quiet_until_ms):
            self.counters.not_asked += not quiet
            return 0
        self._last_question = self._last_question % 0xFFFFFFFF + 1
        number = self._last_question
        self._open[number] = _Question(message, told, now_ms + wait_ms + HUNG_MS, sent, quiet)
        self.counters.asked += not quiet
        self._wanted = True
        if self._number is None:
            self._start()
        if self._ready and self._number is not None:
            self._out(SendHelper(self._number, number, message))
        else:
            self._waiting.append(number)
        return number

    def forget(self, number: int) -> None:
        """Nobody wants to know any more what was asked under this number."""
        question = self._open.get(number)
        if question is not None and question.told is not None:
            question.told = None
            self.counters.given_up += not question.quiet

    def tell(self, message: ToHelper, exchange: int = 0) -> None:
        """Say something that is not answered, or an answer, to a helper that is ready."""
        if self._ready and self._number is not None:
            self._out(SendHelper(self._number, exchange, message))

    # --- the helper -----------------------------------------------------------------------------------

    def _start(self) -> None:
        self._last_number += 1
        self._number = HelperNumber(self._kind, self._last_number)
        self._outdated = False
        self._hello_until_ms = self._out.now_ms + HELLO_MS
        self.counters.started += 1
        self._out(StartHelper(self._number))
        self._out(Arm(self._timer, HELLO_MS))

    def is_current(self, number: HelperNumber) -> bool:
        """Whether this one is still believed."""
        return number == self._number

    def said(self, number: HelperNumber, exchange: int, message: Message) -> None:
        """Take a hello or an answer of the one that is believed."""
        if isinstance(message, OnlineHello | RadiusHello):
            self._hello(number, message)
            return
        question = self._open.pop(exchange, None)
        if question is None or not self._ready or not self._fits(question, message):
            self.give_up("it answers a question that nobody asked")
            if question is not None and question.told is not None:
                question.told(None)
            return
        self._failures = 0
        self.counters.answered += not question.quiet
        if question.told is not None:
            question.told(message)
        self._replace_outdated()

    @staticmethod
    def _fits(question: _Question, message: Message) -> bool:
        return BY_MESSAGE[type(question.message)].answer is type(message)

    def _hello(self, number: HelperNumber, message: OnlineHello | RadiusHello) -> None:
        if message.protocol != PROTOCOL:
            self.give_up(f"it speaks protocol {message.protocol}, this broker {PROTOCOL}")
            return
        self._ready = True
        self._out(Disarm(self._timer))
        self._out.note("info", "helper.connected", helper=self._kind.name.lower(), pid=message.pid)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            question = self._open[one]
            self._out(SendHelper(number, one, question.message))
            question.sent()
        self._greeted()

    def lost(self, number: HelperNumber, reason: str) -> None:
        """Forget a helper whose channel is closed."""
        if number == self._number:
            self._ended(reason)

    def timed_out(self) -> None:
        """The helper has said no hello in time; or there is none, and it has been quiet for long enough."""
        if self._number is None:
            self._look_whether_wanted()
        elif not self._ready:
            self.give_up("it does not say hello")

    def stop(self) -> None:
        """The broker ends."""
        if self._number is not None:
            self._out(StopHelper(self._number))
            self._number, self._ready, self._used = None, False, False

    def give_up(self, why: str) -> None:
        """Believe this one no more."""
        if self._number is not None:
            self._out(StopHelper(self._number))
            self._ended(why)

    def _ended(self, reason: str) -> None:
        self._number, self._ready = None, False
        self._out(Disarm(self._timer))
        pause_ms = PAUSE_MS[min(self._failures, len(PAUSE_MS) - 1)]
        self._failures += 1
        self.counters.failed += 1
        self.quiet_until_ms = self._out.now_ms + pause_ms
        self._out.note(
            "error",
            "helper.lost",
            helper=self._kind.name.lower(),
            detail=reason,
            questions=len(self._open),
            pause_ms=pause_ms,
        )
        if self._used and (self._wanted or self._always):
            self._out(Arm(self._timer, pause_ms))
        self._nobody_knows()

    def _nobody_knows(self) -> None:
        self._waiting = []
        asked, self._open = self._open, {}
        for question in asked.values():
            self.counters.unanswered += not question.quiet
            if question.told is not None:
                question.told(None)
