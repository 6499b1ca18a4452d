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
* Such a helper is also waited for when it has ended, by questions that have ``tries`` left: those that come in the
  pause, and those that it had, which the next one gets with the time that is left to them.  A question may be what
  ended it: so there are few tries.  After a second failure in a row nobody waits: the pause is too long by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
from tlspool_common.messages import BY_MESSAGE, PROTOCOL, AskAccess, Message, OnlineHello, RadiusHello

HELLO_MS = 10_000
"""For a helper to start: Python and a cryptographic library take half a second, ten times that on a busy machine."""

HUNG_MS = 30_000
"""After its deadline; a helper that is well answers within milliseconds of it."""

PAUSE_MS = (1_000, 2_000, 5_000, 15_000, 60_000)
"""After so many failures in a row."""

WELL_MS = 60_000
"""One that has been ready for as long as the longest pause was well: its end is the first failure, whatever was before,
even where nobody has asked it anything."""

Told = Callable[["Message | None"], None]


def _nothing() -> None:
    """Do nothing."""


@dataclass(slots=True)
class _Question:
    """What was asked; ``told`` None: nobody wants to know any more.

    ``sent`` is called when it is sent, if it had to wait for that.  One that is ``quiet`` is not counted.
    ``tries``: how many more helpers it may be sent to when one has failed.  ``until_ms``: when its time is over, which
    runs from when it was sent first; None: it was not.  ``is_out``: the helper that is there has it.
    """

    message: ToHelper
    told: Told | None
    wait_ms: float
    overdue_ms: float
    sent: Callable[[], None]
    quiet: bool
    tries: int
    until_ms: float | None = None
    is_out: bool = False

    @property
    def is_lasting(self) -> bool:
        """Whether it may wait for another helper."""
        return self.tries > 0 and self.told is not None


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
        """``most`` questions may be open; ``greeted`` is called when one has said hello, and what waited is sent.

        ``asks_again``: another one answers as well, so that questions wait for it.
        """
        self._out = out
        self._kind = kind
        self._most = most
        self._asks_again = asks_again
        self._greeted = greeted
        self._used = self._always = self._wanted = False
        self._hello_until_ms = self._ready_ms = 0
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
        if not self._used and self._number is None:
            self._nobody_knows()
        self._look_whether_wanted()

    def _replace_outdated(self) -> None:
        if not self._outdated or self._number is None or (self._open and not self._asks_again):
            return
        self._out(StopHelper(self._number))
        self._out(Disarm(self._timer))
        self._number, self._ready = None, False
        self._wait(lambda question: self._used and question.told is not None)
        for question in self._open.values():
            question.until_ms = None  # by other settings it has all its time
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
    def _is_awaited(self) -> bool:
        """Whether questions wait until another one is started."""
        return self._asks_again and self._used and self._number is None and self._failures <= 1

    @property
    def away_left_ms(self) -> int:
        """How much longer a question may have to wait until there is a helper that takes it."""
        if self._is_awaited:
            return max(0, self.quiet_until_ms - self._out.now_ms) + HELLO_MS
        return self.start_left_ms

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
        tries: int = 0,
    ) -> int:
        """Ask; ``told`` hears the answer, or None if there will be none.  0: nobody can be asked.

        If the helper has to start first, ``sent`` is called when it has.
        ``tries``: how many helpers may be sent this; with 0 it does not wait for one after a failure.
        """
        now_ms = self._out.now_ms
        oldest = next(iter(self._open.values()), None)
        if self._number is not None and oldest is not None and now_ms >= oldest.overdue_ms:
            self.give_up("it does not answer")
        pauses = self._number is None and now_ms < self.quiet_until_ms
        if not self._used or len(self._open) >= self._most or (pauses and not (tries and self._is_awaited)):
            self.counters.not_asked += not quiet
            return 0
        self._last_question = self._last_question % 0xFFFFFFFF + 1
        number = self._last_question
        question = _Question(message, told, wait_ms, now_ms + wait_ms + HUNG_MS, sent, quiet, tries)
        self._open[number] = question
        self.counters.asked += not quiet
        self._wanted = True
        if self._number is None and not pauses:
            self._start()
        if self._ready and self._number is not None:
            self._send(self._number, number, question, message)
        else:
            self._waiting.append(number)
        return number

    def _send(self, helper: HelperNumber, number: int, question: _Question, message: ToHelper) -> None:
        question.is_out = True
        question.tries -= 1
        if question.until_ms is None:
            question.until_ms = self._out.now_ms + question.wait_ms
        self._out(SendHelper(helper, number, message))

    def forget(self, number: int) -> None:
        """Nobody wants to know any more what was asked under this number."""
        question = self._open.get(number)
        if question is not None and question.told is not None:
            question.told = None
            self.counters.given_up += not question.quiet
            if not question.is_out:
                self._unanswered([self._open.pop(number)])

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
        self._ready, self._ready_ms = True, self._out.now_ms
        self._out(Disarm(self._timer))
        self._out.note("info", "helper.connected", helper=self._kind.name.lower(), pid=message.pid)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if one in self._open:
                self._send_waiting(number, one, self._open[one])
        self._greeted()

    def _send_waiting(self, helper: HelperNumber, number: int, question: _Question) -> None:
        """Send what has waited: for the first time, or once more, with what is left of its time."""
        message = question.message
        if question.until_ms is None:
            self._send(helper, number, question, message)
            question.sent()
            return
        left_ms = int(question.until_ms - self._out.now_ms)
        if left_ms <= 0:
            self._unanswered([self._open.pop(number)])
            return
        if isinstance(message, AskAccess):
            message = replace(message, deadline_ms=left_ms)
        self._send(helper, number, question, message)

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
        if self._ready and self._out.now_ms - self._ready_ms >= WELL_MS:
            self._failures = 0
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
        self._wait(lambda question: question.is_lasting and self._is_awaited)

    def _nobody_knows(self) -> None:
        self._wait(lambda _question: False)

    def _wait(self, lasts: Callable[[_Question], bool]) -> None:
        """Have questions wait for the next helper; of those that do not nobody knows the answer."""
        asked = self._open
        self._open = {number: question for number, question in asked.items() if lasts(question)}
        self._waiting = list(self._open)
        for question in self._open.values():
            question.is_out = False
        self._unanswered([question for number, question in asked.items() if number not in self._open])

    def _unanswered(self, questions: list[_Question]) -> None:
        for question in questions:
            self.counters.unanswered += not question.quiet
            if question.told is not None:
                question.told(None)
