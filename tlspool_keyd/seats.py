"""The life of token processes: one seat for each ``pkcs11_token`` line, and who sits in it.

    StartToken -> successor --TokenOpened, code 0--> current --retired--> drained --> KillToken
                      |                                 |
                      +-- other code, death, too slow --+--> seat empty: the next request starts another

A seat has at most one *current* process that gets requests, and one *successor* that is being opened.  A
PKCS #11 module sees tokens as they were at C_Initialize, so what is done about any doubt is the same: start
a successor, let it take over when it is open, and end the old one when it has answered what it had.

* TOKEN_GONE, or KEY_NOT_FOUND from a process that is not fresh: the token may have been taken out and put
  in again.  The request waits for a successor and is sent once more; a second TOKEN_GONE is the answer.
* TOKEN_FAILED: that is the answer, and the next request goes to a successor.
* Death of the process (a crash of the module): TOKEN_FAILED for what it had, never sent again, because the
  same request might crash the next one too.
* Death while opening: tried once more at once, as no request has reached it.  (SoftHSM2 rewrites a token's file at
  each login, and a process that reads it at that moment can abort.)
* No answer in time: TOKEN_SLOW.  A process that said nothing for that long, while three or more of its
  requests ran out of time, hangs and is killed; one that is only overloaded goes on answering.
* A wrong PIN: remembered with module and token, and said to every later process, which will not try it.
  Two seats of one module must therefore not be able to mean the same token (``overlap``).
* No PIN, and somebody who can be asked for it (post.py): the request waits (patience.py).  A PIN that was typed is
  tried by a successor, as TokenOpen is the only message that brings PINs.

Starts are limited to one a second for each seat (a start costs about 0.1 s of processor time), and to one
in 30 s when the PIN is the trouble, as only a change of the PIN mends that (``pin_changed``).

Requests in a process are limited in number and bytes; the rest waits here (shares.py), up to a bound.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import replace

from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.log import Value
from tlspool_common.messages import TokenList, TokenOpened
from tlspool_keyd.events import Arm, Clock, Effect, KillToken, LookAtPin, Note, SendToken, StartToken, Timer
from tlspool_keyd.locks import DETAIL, Locks
from tlspool_keyd.patience import Patience
from tlspool_keyd.pkcs11uri import parse_untrusted
from tlspool_keyd.seat import (
    ANSWER,
    PIN_TROUBLE,
    Answer,
    Done,
    Job,
    Outcome,
    Pins,
    Process,
    Request,
    Seat,
    all_ready,
    has_token,
    outcome_of,
    overlap,
)

__all__ = ["Done", "Outcome", "Seat", "Seats", "overlap"]

START_INTERVAL_MS = 1_000
PIN_INTERVAL_MS = 30_000
PIN_LOOK_MS = 1_000
"""Least time between two looks at the PIN's source: a look is one stat(2)."""

FRESH_MS = 10_000
"""A process younger than this is believed when it does not find a key."""

TIMEOUTS_IN_A_ROW = 3
OPENING_TIMEOUTS = 3
"""Opening may take this many times pkcs11_timeout_s: it is several calls, and a login."""

LOOK_AHEAD = 4
"""Requests beyond the number of sessions that are sent ahead, so that no session waits for the next one."""

IN_FLIGHT_B = 2 * 1024 * 1024
"""Half of what a channel may queue (limits.CHANNEL_QUEUE_B)."""

JOBS = 4096
"""Requests waiting in all; a worker has 64 handshake threads, so this is 64 busy workers."""


class Seats:
    """All seats and processes.  No I/O, no clock: every method returns effects."""

    def __init__(
        self, modules: list[tuple[str, str]], sessions: int, timeout_ms: float, pins: Pins, pin_wait_ms: float
    ) -> None:
        self.seats = [Seat(module, parse_untrusted(uri)) for module, uri in modules]
        self._pins = pins
        self._patience = Patience(pin_wait_ms)
        self._room = sessions + LOOK_AHEAD
        self._timeout_ms = timeout_ms
        self._processes: dict[int, tuple[Seat, Process]] = {}
        self.locks = Locks()
        self._refused: dict[str, dict[str, None]] = {}  # by module: tokens that did not take the PIN, in order
        self._open: OrderedDict[Job, None] = OrderedDict()  # without an answer, oldest first
        self._pin_number = 0
        self._armed = False
        self._generation = 0
        self._exchange = 0
        self._pin_look_ms = float("-inf")

    @property
    def waiting(self) -> int:
        """Requests that have no answer yet."""
        return len(self._open) + len(self._patience)

    @property
    def opening(self) -> bool:
        """Whether a seat has no process yet, but soon."""
        return any(seat.current is None and seat.successor is not None for seat in self.seats)

    def generations_of(self, seat: Seat) -> list[int]:
        """Return the token processes of a seat, of which some may be ending."""
        return [generation for generation, (its, _) in self._processes.items() if its is seat]

    def jobs_of(self, seat: Seat) -> list[Job]:
        """Return the requests of a seat: those in a process first; some may be settled."""
        pending = [job for its, process in self._processes.values() if its is seat for job in process.pending.values()]
        return [*pending, *seat.waiting, *seat.hoping, *self._patience.of(seat)]

    # --- requests ---------------------------------------------------------------------------------------

    def submit(
        self, seat: Seat, message: Request, done: Done, now_ms: float, *, owner: int = 0, patient: bool = True
    ) -> list[Effect]:
        """Send a request to a seat's process; ``done`` gets the outcome, possibly before this returns.

        Workers, the ``owner`` of requests, take turns.  One that is not ``patient`` does not wait for somebody to type
        a PIN.
        """
        job = Job(message, now_ms + self._timeout_ms, done, owner, patient=patient, asked_ms=now_ms)
        if self.waiting >= JOBS:
            return self._settle(job, Outcome(Code.TOKEN_SLOW, f"{JOBS} requests wait already"), now_ms)
        self._open[job] = None
        effects = self._watch(now_ms)
        current = seat.current
        if current is not None and not (current.doubtful and self._may_hope(seat, now_ms)):
            seat.waiting.append(job)
            return effects + self._pump(seat, now_ms)
        if self._may_hope(seat, now_ms):
            seat.hoping.append(job)
            return effects + self._start(seat, now_ms)
        return effects + self._fail(seat, [job], seat.failure, now_ms)

    def pin_may_come(self, seat: Seat) -> bool:
        """Whether a PIN that somebody is asked for may soon make more of a seat's tokens usable."""
        return self._pins.may_come(seat.module, seat.tokens)

    def _fail(self, seat: Seat, jobs: Iterable[Job], outcome: Outcome, now_ms: float) -> list[Effect]:
        """Settle requests, but let those wait that a PIN could help, if somebody may be typing one."""
        if outcome.code not in PIN_TROUBLE:
            return self._settle_all(deque(jobs), outcome, now_ms)
        effects = self._pins.needed(seat.module, seat.tokens, now_ms)
        may_come = self.pin_may_come(seat)
        for job in jobs:
            if may_come and job.patient and not job.settled:
                self._open.pop(job, None)
                effects += self._patience.add(seat, job, now_ms)
            else:
                effects += self._settle(job, outcome, now_ms)
        return effects

    def _watch(self, now_ms: float) -> list[Effect]:
        """Keep one timer running for the oldest request."""
        if self._armed or not self._open:
            return []
        self._armed = True
        return [Arm(Timer(Clock.DEADLINE), max(0.0, next(iter(self._open)).deadline_ms - now_ms))]

    def _pump(self, seat: Seat, now_ms: float) -> list[Effect]:
        """Send what there is room for."""
        effects: list[Effect] = []
        process = seat.current
        while process and seat.waiting and len(process.pending) < self._room and process.pending_b <= IN_FLIGHT_B:
            job = seat.waiting.popleft()
            if job.settled:
                continue
            if not process.pending:
                process.heard_ms = now_ms
            self._exchange = self._exchange % 0xFFFFFFFF + 1
            process.pending[self._exchange], job.sent_ms = job, now_ms
            process.pending_b += job.size_b
            effects.append(SendToken(process.generation, job.message, self._exchange))
        return effects

    def _settle(self, job: Job, outcome: Outcome, now_ms: float) -> list[Effect]:
        if job.settled:
            return []
        job.settled = True
        self._open.pop(job, None)
        effects = job.done(outcome, now_ms)
        if outcome.code in PIN_TROUBLE and now_ms >= self._pin_look_ms + PIN_LOOK_MS:
            self._pin_look_ms = now_ms
            effects = [*effects, LookAtPin()]
        return effects

    def _settle_all(self, jobs: deque[Job], outcome: Outcome, now_ms: float) -> list[Effect]:
        effects: list[Effect] = []
        while jobs:
            effects += self._settle(jobs.popleft(), outcome, now_ms)
        return effects

    # --- starting and ending ----------------------------------------------------------------------------

    def start_all(self, now_ms: float) -> list[Effect]:
        """Start a process in each seat, so that the first session need not wait, and trouble is known early."""
        return [effect for seat in self.seats for effect in self._start(seat, now_ms)]

    def _may_hope(self, seat: Seat, now_ms: float) -> bool:
        return seat.successor is not None or now_ms >= seat.next_start_ms

    def _start(self, seat: Seat, now_ms: float) -> list[Effect]:
        if seat.successor is not None:
            return []
        self._generation += 1
        process = seat.successor = Process(self._generation, now_ms, now_ms, self._pin_number + seat.typed)
        self._processes[process.generation] = (seat, process)
        seat.next_start_ms = now_ms + START_INTERVAL_MS
        seat.starts += 1
        process.kept_out = self.locks.of(seat.tokens)
        refused = tuple(dict.fromkeys((*self._refused.get(seat.module, ()), *process.kept_out)))
        usable = [uri for uri in self._pins.typed(seat.module) if not self.locks.covers(uri)]
        typed = tuple(uri for uri in usable if seat.token_uri.may_match(parse_untrusted(uri)))
        return [
            StartToken(process.generation, seat.module, str(seat.token_uri), refused, typed),
            Arm(Timer(Clock.OPENING, process.generation), self._timeout_ms * OPENING_TIMEOUTS),
        ]

    def _retire(self, seat: Seat) -> list[Effect]:
        """Let the current process finish what it has, and end it then."""
        process, seat.current = seat.current, None
        if process is None:
            return []
        process.draining = True
        return self._drained(process)

    def _drained(self, process: Process) -> list[Effect]:
        if not process.draining or any(not job.settled for job in process.pending.values()):
            return []
        return [KillToken(process.generation)]

    def opened(self, generation: int, message: TokenOpened, now_ms: float) -> list[Effect]:
        """A process said TokenOpened."""
        seat, process = self._processes.get(generation, (None, None))
        if seat is None or process is None or process is not seat.successor:
            return []
        seat.successor, seat.stumbled = None, False
        before, seat.tokens = seat.tokens, self.locks.mark(message.tokens)
        effects = self._retire(seat)
        # Of another PIN than the one it was started with it says nothing.
        stale = process.pin_number != self._pin_number + seat.typed
        if not stale:
            typed = self._pins.typed(seat.module)
            for line in seat.tokens:
                uri, _, state = line.rpartition(" ")
                if state == Code.PIN_WRONG.name and uri not in typed:
                    self._refused.setdefault(seat.module, {})[uri] = None
            effects += self._pins.opened(seat.module, before, seat.tokens, now_ms)
        code = code_of(message.code)
        if code in PIN_TROUBLE and self.locks.of(seat.tokens):
            code = Code.TOKEN_LOCKED
        note: Effect = Note(
            "info" if code is Code.OK else "warning",
            "token.opened",
            {
                "module": seat.module,
                "process": generation,
                "code": int(code),
                "detail": message.detail,
                "tokens": " ".join(seat.tokens),
                "ms": now_ms - process.started_ms,
            },
        )
        effects.append(note)
        if set(self.locks.of(seat.tokens)) - set(process.kept_out):  # a token that was not there when it was locked
            return [*effects, KillToken(generation), *self._start(seat, now_ms)]
        if code is Code.OK:
            seat.current = process
            # The PIN changed while it was opening: what it could not use, another may.
            process.doubtful = stale and not all_ready(seat)
            seat.waiting.extend(seat.hoping)
            seat.hoping.clear()
            for job in self._patience.take(seat):
                job.deadline_ms = now_ms + self._timeout_ms
                self._open[job] = None
                seat.waiting.append(job)
            if process.doubtful and self.pin_may_come(seat):
                effects += self._start(seat, now_ms)
            return effects + self._watch(now_ms) + self._pump(seat, now_ms)
        seat.failure = Outcome(code, message.detail)
        if code is Code.TOKEN_LOCKED:
            seat.next_start_ms = now_ms + PIN_INTERVAL_MS
            seat.failure = Outcome(code, DETAIL)
        if code in PIN_TROUBLE and not stale:
            seat.next_start_ms = now_ms + PIN_INTERVAL_MS
            seat.failure = Outcome(code, f"so token process {generation} found it")
        effects += self._fail_all(seat, seat.failure, now_ms)
        if stale and self.pin_may_come(seat):
            effects += self._start(seat, now_ms)  # there is a PIN that it did not have
        return [*effects, KillToken(generation)]

    def _fail_all(self, seat: Seat, outcome: Outcome, now_ms: float) -> list[Effect]:
        """Fail whatever waits for a seat."""
        jobs = [*self._patience.take(seat), *seat.hoping, *seat.waiting]
        seat.hoping.clear()
        seat.waiting.clear()
        return self._fail(seat, jobs, outcome, now_ms)

    def lost(self, generation: int, how: str, now_ms: float) -> list[Effect]:
        """A process has ended."""
        seat, process = self._processes.pop(generation, (None, None))
        if seat is None or process is None:
            return []
        expected = process not in (seat.current, seat.successor)
        outcome = Outcome(Code.TOKEN_FAILED, f"the module's process ended: {how}")
        effects: list[Effect] = []
        if not expected:
            fields: dict[str, Value] = {"module": seat.module, "process": generation, "how": how}
            effects.append(Note("error", "token.died", {**fields, "requests": len(process.pending)}))
            seat.failure = outcome
        if process is seat.current:
            seat.current = None
            seat.hoping.extend(seat.waiting)  # these never reached it
            seat.waiting.clear()
        elif process is seat.successor:
            seat.successor = None
            if not seat.stumbled:
                seat.stumbled = True
                return effects + self._start(seat, now_ms)
            effects += self._settle_all(seat.hoping, outcome, now_ms)
            effects += self._settle_all(deque(self._patience.take(seat)), outcome, now_ms)
        effects += self._settle_all(deque(process.pending.values()), outcome, now_ms)
        if seat.hoping and seat.successor is None:
            if self._may_hope(seat, now_ms):
                effects += self._start(seat, now_ms)
            else:
                effects += self._settle_all(seat.hoping, outcome, now_ms)
        return effects

    # --- answers ----------------------------------------------------------------------------------------

    def answered(self, generation: int, exchange: int, message: Answer, now_ms: float) -> list[Effect]:
        """A process answered a request.

        Raises:
            PoolError: INTERNAL, there was no such request; the process is not to be believed any more.
        """
        seat, process = self._processes.get(generation, (None, None))
        if seat is None or process is None:
            return []
        job = process.pending.pop(exchange, None)
        if job is None or type(message) is not ANSWER[type(job.message)]:
            raise PoolError(Code.INTERNAL, f"{type(message).__name__} {exchange} answers nothing")
        process.pending_b -= job.size_b
        process.timeouts, process.heard_ms = 0, now_ms
        seat.answers += 1
        seat.recent.append((job.sent_ms - job.asked_ms, now_ms - job.sent_ms))
        outcome = replace(outcome_of(message), token=seat.label, token_ms=now_ms - job.sent_ms)
        effects = self._judge(seat, process, job, outcome, now_ms)
        return effects + self._drained(process) + self._pump(seat, now_ms)

    def _judge(self, seat: Seat, process: Process, job: Job, outcome: Outcome, now_ms: float) -> list[Effect]:
        """Settle a request, or try it once more with a fresh process."""
        absent = outcome.code is Code.TOKEN_GONE or (
            outcome.code is Code.KEY_NOT_FOUND and now_ms - process.started_ms >= FRESH_MS
        )
        if absent and not job.again and not job.settled and self._may_hope(seat, now_ms):
            job.again = True
            seat.hoping.append(job)
            note: Effect = Note(
                "info", "token.again", {"module": seat.module, "process": process.generation, "detail": outcome.detail}
            )
            return [note, *self._start(seat, now_ms)]
        if outcome.code in (Code.TOKEN_GONE, Code.TOKEN_FAILED):
            process.doubtful = True
        if outcome.code is Code.OK:
            return self._settle(job, outcome, now_ms)
        return self._fail(seat, [job], outcome, now_ms)

    # --- time, and the PIN --------------------------------------------------------------------------------

    def expire(self, now_ms: float) -> list[Effect]:
        """The timer of the oldest request fired."""
        self._armed = False
        effects: list[Effect] = []
        late: set[Job] = set()
        while self._open and (oldest := next(iter(self._open))).deadline_ms <= now_ms:
            late.add(oldest)
            detail = f"no answer in {self._timeout_ms / 1000:g} s"
            effects += self._settle(oldest, Outcome(Code.TOKEN_SLOW, detail), now_ms)
        if late:
            for seat, process in list(self._processes.values()):
                process.timeouts += sum(job in late for job in process.pending.values())
                effects += self._drained(process)
                if process is not seat.current:
                    continue
                # Requests that wait for room count too: when all of it is taken by calls that never return,
                # nothing else will run out of time.
                process.timeouts += sum(job in late for job in seat.waiting)
                silent = now_ms - process.heard_ms >= self._timeout_ms
                if silent and process.timeouts >= TIMEOUTS_IN_A_ROW:
                    effects += self._give_up(seat, process, Outcome(Code.TOKEN_SLOW, "it was hanging"), now_ms)
        return effects + self._watch(now_ms)

    def opening_expired(self, generation: int, now_ms: float) -> list[Effect]:
        """A process should have opened by now."""
        seat, process = self._processes.get(generation, (None, None))
        if seat is None or process is None or process is not seat.successor:
            return []
        seat.successor = None
        seat.failure = Outcome(Code.TOKEN_SLOW, "the module did not open in time")
        effects = self._fail_all(seat, seat.failure, now_ms)
        note: Effect = Note("error", "token.slow", {"module": seat.module, "process": generation, "phase": "opening"})
        return [note, *effects, KillToken(generation)]

    def _give_up(self, seat: Seat, process: Process, outcome: Outcome, now_ms: float) -> list[Effect]:
        """Kill a process that hangs."""
        seat.current = None
        seat.failure = outcome
        fields: dict[str, Value] = {
            "module": seat.module,
            "process": process.generation,
            "requests": len(process.pending),
        }
        effects: list[Effect] = [Note("error", "token.slow", {**fields, "phase": "signing"})]
        effects += self._settle_all(deque(process.pending.values()), outcome, now_ms)
        process.pending.clear()
        seat.hoping.extend(seat.waiting)
        seat.waiting.clear()
        if any(not job.settled for job in seat.hoping):
            effects += self._start(seat, now_ms)
        return [*effects, KillToken(process.generation)]

    def pin_changed(self, now_ms: float) -> list[Effect]:
        """Forget which tokens refused the PIN: there is another one.  Try it where the old one was no good."""
        self._refused.clear()
        self._pin_number += 1
        effects: list[Effect] = [Note("info", "pin.changed")]
        for seat in self.seats:
            seat.next_start_ms = 0
            if not all_ready(seat):
                if seat.current is not None:
                    seat.current.doubtful = True
                effects += self._start(seat, now_ms)
        return effects

    def pin_typed(self, module: str, token_uri: str, now_ms: float) -> list[Effect]:
        """Somebody has typed a PIN for a token: try it."""
        effects: list[Effect] = []
        for seat in self.seats:
            if seat.module == module and f"{token_uri} ready" not in seat.tokens and has_token(seat, token_uri):
                self._refused.get(module, {}).pop(token_uri, None)
                seat.typed += 1
                seat.next_start_ms = 0
                if seat.current is not None:
                    seat.current.doubtful = True
                effects += self._start(seat, now_ms)
        return effects

    def renew(self, now_ms: float) -> list[Effect]:
        """Which tokens are locked has changed: refuse what waits for those, log out, and start anew without them."""
        effects: list[Effect] = []
        locked = Outcome(Code.TOKEN_LOCKED, DETAIL)
        for seat in self.seats:
            for job in self._patience.take(seat):
                job.deadline_ms = now_ms + self._timeout_ms
                self._open[job] = None
                seat.hoping.append(job)
            for job in self.jobs_of(seat):
                if not isinstance(job.message, TokenList) and self.locks.covers(job.message.uri):
                    effects += self._settle(job, locked, now_ms)
            seat.hoping.extend(seat.waiting)
            seat.waiting.clear()
            seat.tokens = self.locks.mark(seat.tokens)
            if (successor := seat.successor) is not None:
                seat.successor = None
                effects.append(KillToken(successor.generation))
            effects += [*self._retire(seat), *self._start(seat, now_ms)]
        return effects + self._watch(now_ms)

    def review(self, now_ms: float) -> list[Effect]:
        """Some PIN is not to be expected any more: let those wait no longer who waited for it."""
        effects: list[Effect] = []
        for seat in self._patience.seats():
            if not self.pin_may_come(seat):
                jobs = deque(self._patience.take(seat))
                effects += self._settle_all(jobs, Outcome(Code.PIN_MISSING, "nobody has typed it"), now_ms)
        return effects

    def patience_expired(self, now_ms: float) -> list[Effect]:
        """The timer of the request fired that has waited longest for a PIN."""
        late, effects = self._patience.expire(now_ms)
        return effects + self._settle_all(deque(late), Outcome(Code.PIN_MISSING, "nobody has typed it yet"), now_ms)
