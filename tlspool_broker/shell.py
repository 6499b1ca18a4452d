"""The broker's body: events to the core one after the other, and its effects carried out in order.

Carrying out an effect may make something happen (a channel turns out to be closed).  That is the next event,
and waits until the effects of this one are through.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from typing import assert_never

from tlspool_broker.applications import Applications
from tlspool_broker.borders import Borders
from tlspool_broker.core import BrokerCore
from tlspool_broker.events import (
    AdoptWorker,
    AppFrame,
    Arm,
    AskKeyd,
    ClosePeer,
    CloseWorker,
    Disarm,
    DropFd,
    Effect,
    Event,
    HandOver,
    JoinKeyd,
    KeepWorker,
    KeyTold,
    Note,
    RadiusHeard,
    SendApp,
    SendHelper,
    SendMaster,
    SendWorker,
    StartHelper,
    StopHelper,
    TimerFired,
    WelcomeMaster,
    WorkerLost,
    WorkerSaid,
)
from tlspool_broker.keyquestions import KeyQuestions
from tlspool_broker.loads import Lag, Loads
from tlspool_broker.radius_questions import RadiusQuestions
from tlspool_broker.timers import Timers
from tlspool_common import grants
from tlspool_common.fd import shut_down
from tlspool_common.log import Log
from tlspool_common.settings import Settings


class Shell:
    """Between the core and the loop."""

    def __init__(
        self,
        core: BrokerCore,
        settings: Settings,
        own: frozenset[str],
        most_connections: int,
        log: Log,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """``own`` are the addresses the pool listens at; ``after`` is called when nothing more happens."""
        self.core = core
        self.applications = Applications(self.happened, own, most_connections, core.quotas.of, log)
        self.borders = Borders(self.happened, settings, log)
        self.questions = KeyQuestions(self.happened)
        self.radius_questions = RadiusQuestions(self.happened)
        self.loads = Loads()
        self._lag = Lag(self.loads)
        self._log = log
        self._after = after
        self._events: deque[Event] = deque()
        self._busy = False
        self._timers = Timers(lambda timer: self.happened(TimerFired(timer)))

    def happened(self, event: Event) -> None:
        """Let the core know, and do what it says."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._take(self._events.popleft())
        finally:
            self._busy = False
        self._after()

    def _take(self, event: Event) -> None:
        self.loads.saw(event)
        if isinstance(event, AppFrame) and (connection := self.core.connections.get(event.connection)) is not None:
            self.loads.asked(connection.caller)
        # The border of the process: a fault in the core must not end everybody's sessions.
        try:
            for effect in self.core.handle(event, grants.now_ms()):
                self._carry_out(effect)
        except Exception as error:
            self.note_fault(error, type(event).__name__)
            if isinstance(event, AppFrame):
                self.applications.drop(event.connection, "an internal error")
            elif isinstance(event, WorkerSaid):
                self._events.append(WorkerLost(event.worker, "an internal error", broken=True))

    def note_fault(self, error: BaseException | None, where: str) -> None:
        """Log a bug: where it is, but not the text of the exception, which may hold anything."""
        frames = traceback.extract_tb(error.__traceback__)[-4:] if error is not None else []
        trace = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
        self._log.error("broker.internal", at=where, error=type(error).__name__, trace=trace)

    def _carry_out(self, effect: Effect) -> None:
        match effect:  # those of every session first: the cases are tried in their order
            case SendWorker(worker, message, fd):
                self.borders.send_worker(worker, message, fd)
            case Arm(timer, delay_ms):
                self._timers.arm(timer, delay_ms)
            case Disarm(timer):
                self._timers.disarm(timer)
            case SendApp(connection, frame):
                self.applications.send(connection, frame)
            case Note(level, name, fields):
                self.loads.noted(name, fields)
                self._log.note(level, name, **fields)
            case AdoptWorker(worker, worker_fd):
                self.borders.adopt(worker, worker_fd)
            case CloseWorker(worker):
                self.borders.close_worker(worker)
            case WelcomeMaster(peer):
                self.borders.welcome(peer)
            case KeepWorker():
                self.borders.keep(effect)
            case JoinKeyd():
                self.borders.join(effect)
            case HandOver(connection, peer, registration):
                if (handed := self.applications.release(connection)) is not None:
                    self.borders.send_peer(peer, registration, handed)
            case AskKeyd(keyd, exchange, about_key):
                self.borders.send_peer(keyd, about_key, exchange=exchange)
            case KeyTold(number, answer):
                self.questions.told(number, answer)
            case RadiusHeard(number, heard):
                self.radius_questions.heard(number, heard)
            case SendMaster(peer, to_master):
                self.borders.send_peer(peer, to_master)
            case ClosePeer(peer):
                self.borders.close_peer(peer)
            case StartHelper(helper):
                self.borders.start_helper(helper)
            case SendHelper(helper, exchange, question):
                self.borders.send_helper(helper, exchange, question)
            case StopHelper(helper):
                self.borders.stop_helper(helper)
            case DropFd(dropped, shut):
                if shut:
                    shut_down(dropped)
                self.applications.let_go(dropped)
            case _:
                assert_never(effect)

    def close(self) -> None:
        """Close everything.  Workers go on with what they relay."""
        self._timers.close()
        self._lag.close()
        self.applications.close()
        self.borders.close()
