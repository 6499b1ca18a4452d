"""The mind of the worker master: which workers there are, and what is done about each.  No process, no socket.

The master forks and reaps, and does nothing else.  It never reads a byte that came from a network, so that a
worker which was taken over has nothing to attack in it; and it holds nothing of a session, so that it may die
or be replaced while sessions go on.

    at start            fork ``workers`` workers, before the broker is even there
    broker connected    MasterHello, then WorkerBorn with the broker's end of each worker's channel
    SpawnWorkers        fork that many more
    RetireWorker        SIGHUP: end after the last session; with ``kill``: SIGKILL
    child ended         WorkerGone with its status and what that means
    broker lost         its workers finish what they relay and end by themselves; connect again, then start anew
    SIGTERM             SIGHUP to all, and end; they finish what they relay

How many workers there should be, and how soon one that died young is replaced, the broker decides.  What the
master decides is an upper bound.  Worker ids are never used again by the same master.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from tlspool_common.log import Value
from tlspool_common.messages import (
    PROTOCOL,
    MasterHello,
    Message,
    RetireWorker,
    SpawnWorkers,
    WorkerGone,
)
from tlspool_worker import exits

WORKERS = 4096
"""Worker processes at most: beyond it a host has more to do with switching than with sessions.  With isolation
``connection`` this bounds the sessions.  pid_max is 32768 on small hosts."""

RETRY_MS = (50, 100, 250, 500, 1000)
"""Waits between attempts to reach the broker; the last one repeats.  A broker starts within half a second."""


# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BrokerConnected:
    """There is a connection to the broker, and it runs as the user it should."""


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """There is no connection to the broker (any more)."""

    reason: str


@dataclass(frozen=True, slots=True)
class BrokerSaid:
    """A message of the broker."""

    message: SpawnWorkers | RetireWorker


@dataclass(frozen=True, slots=True)
class Forked:
    """A worker was forked; the broker's end of its channel is kept under its id."""

    worker_id: int
    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """The kernel refused a fork (fork(2): EAGAIN, ENOMEM)."""

    worker_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A child was reaped.  ``status`` is its exit code, or 128 + the number of a signal."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """SIGTERM or SIGINT."""


Event = BrokerConnected | BrokerLost | BrokerSaid | Forked | ForkFailed | ChildEnded | StopAsked

# --- effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Try to connect to the broker after so many milliseconds; BrokerConnected or BrokerLost follows."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a worker; Forked or ForkFailed follows."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class SendBroker:
    """Send to the broker."""

    message: Message


@dataclass(frozen=True, slots=True)
class Introduce:
    """Send WorkerBorn, with the broker's end of this worker's channel."""

    worker_id: int
    pid: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Send a signal to a child that was not reaped."""

    pid: int
    number: signal.Signals


@dataclass(frozen=True, slots=True)
class Forget:
    """Close the broker's end of the channel of a worker that the broker was never told of."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class End:
    """Leave the loop."""


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line to the log."""

    level: str
    event: str
    fields: dict[str, Value] = field(default_factory=dict)


Effect = Connect | Fork | SendBroker | Introduce | Kill | Forget | End | Note


@dataclass(slots=True)
class Child:
    """A worker that was not reaped yet; ``introduced``: the broker has its end of the channel."""

    worker_id: int
    pid: int
    born_ms: int
    introduced: bool = False
    retired: bool = False


class MasterCore:
    """Events in, effects out."""

    def __init__(self, pid: int, warm: int, clock_ms: Callable[[], int]) -> None:
        self._pid = pid
        self._warm = warm
        self._clock_ms = clock_ms
        self._connected = False
        self._attempt = 0
        self._last_id = 0
        self._forking = 0
        self._children: dict[int, Child] = {}  # by pid
        self._endings: Counter[str] = Counter()
        self._stopping = False

    # --- what an operator sees ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether there is a broker."""
        return self._connected

    @property
    def children(self) -> list[Child]:
        """All workers that were not reaped."""
        return list(self._children.values())

    @property
    def endings(self) -> dict[str, int]:
        """How many workers ended with which meaning."""
        return dict(self._endings)

    def keep_warm(self, count: int) -> None:
        """Have so many workers ready when the broker comes."""
        self._warm = count

    # --- events ---------------------------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """Begin: fork the first workers, so that they are warm when the broker comes, and look for it."""
        return [*self._fork(self._warm), Connect(0)]

    def handle(self, event: Event) -> list[Effect]:
        """Take an event, and return what is to be done, in order."""
        match event:
            case BrokerConnected():
                return self._broker_connected()
            case BrokerLost(reason):
                return self._broker_lost(reason)
            case BrokerSaid(message):
                if isinstance(message, SpawnWorkers):
                    return self._fork(message.count)
                return self._retire(message.worker_id, message.kill)
            case Forked(worker_id, pid):
                return self._forked(worker_id, pid)
            case ForkFailed(worker_id, reason):
                self._forking -= 1
                return [Note("error", "worker.fork_failed", {"worker": worker_id, "detail": reason})]
            case ChildEnded(pid, status):
                return self._ended(pid, status)
            case StopAsked():
                return self._stop()
            case _:
                assert_never(event)

    def _broker_connected(self) -> list[Effect]:
        self._connected, self._attempt = True, 0
        effects: list[Effect] = [
            Note("info", "broker.connected"),
            SendBroker(MasterHello(protocol=PROTOCOL, pid=self._pid)),
        ]
        fresh = [child for child in self._children.values() if not child.introduced]
        for child in fresh:
            effects += self._introduce(child)
        return effects + self._fork(self._warm - len(fresh) - self._forking)

    def _broker_lost(self, reason: str) -> list[Effect]:
        effects: list[Effect] = []
        if self._connected:
            effects.append(Note("error", "broker.lost", {"detail": reason}))
        elif self._attempt == len(RETRY_MS):
            effects.append(Note("warning", "broker.absent", {"detail": reason}))
        self._connected = False
        delay_ms = RETRY_MS[min(self._attempt, len(RETRY_MS) - 1)]
        self._attempt += 1
        return [*effects, Connect(delay_ms)]

    def _fork(self, count: int) -> list[Effect]:
        room = WORKERS - len(self._children) - self._forking
        if self._stopping or count <= 0:
            return []
        effects: list[Effect] = []
        if count > room:
            effects.append(Note("error", "worker.too_many", {"wanted": count, "room": room}))
        for _ in range(min(count, room)):
            self._last_id += 1
            self._forking += 1
            effects.append(Fork(self._last_id))
        return effects

    def _forked(self, worker_id: int, pid: int) -> list[Effect]:
        self._forking -= 1
        child = self._children[pid] = Child(worker_id, pid, self._clock_ms())
        return self._introduce(child) if self._connected else []

    @staticmethod
    def _introduce(child: Child) -> list[Effect]:
        child.introduced = True
        return [Introduce(child.worker_id, child.pid)]

    def _retire(self, worker_id: int, kill: bool) -> list[Effect]:
        for child in self._children.values():
            if child.worker_id == worker_id:
                child.retired = True
                return [Kill(child.pid, signal.SIGKILL if kill else signal.SIGHUP)]
        return []  # it ended while the message was on its way

    def _ended(self, pid: int, status: int) -> list[Effect]:
        child = self._children.pop(pid, None)
        if child is None:
            return []  # not a worker: adopted from whoever executed this program
        meaning = exits.meaning(status)
        self._endings[meaning] += 1
        fields: dict[str, Value] = {"worker": child.worker_id, "pid": pid, "status": status, "meaning": meaning}
        fields["age_s"] = (self._clock_ms() - child.born_ms) / 1000
        effects: list[Effect] = [Note("debug" if status == exits.Exit.OK else "error", "worker.gone", fields)]
        if not child.introduced:
            effects.append(Forget(child.worker_id))
        elif self._connected:
            effects.append(SendBroker(WorkerGone(worker_id=child.worker_id, status=status, meaning=meaning)))
        return effects

    def _stop(self) -> list[Effect]:
        self._stopping = True
        effects: list[Effect] = [Note("info", "master.stop", {"workers": len(self._children)})]
        return [*effects, *(Kill(pid, signal.SIGHUP) for pid in self._children), End()]
