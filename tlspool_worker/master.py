"""The mind of the worker master: which workers there are, and what is done about each.  No process, no socket.

The master forks and reaps, and does nothing else.  It never reads a byte that came from a network, so that a
worker which was taken over has nothing to attack in it; and it holds nothing of a session, so that it may die
or be replaced while sessions go on.

    at start            fork ``workers`` workers, before the broker is even there
    broker connected    MasterHello, then WorkerBorn with a copy of the broker's end of each worker's channel
    SpawnWorkers        fork that many more
    RetireWorker        SIGHUP: end after the last session; with ``kill``: SIGKILL
    child ended         WorkerGone with its status and what that means
    broker lost         connect again
    broker died         tell its workers (BrokerAway), and introduce them to the next one, as ``again``
    KeepChannel         keep the channel of a worker that an earlier master has forked
    SIGTERM             MasterLeaves, and end; workers stay with the broker

The master keeps a copy of the broker's end of each channel for as long as the worker lives.  So the channel
outlives the broker, and the next one gets it.  Who ends a channel shuts it down.  A broker that has only closed
its connection to us lives on, with its workers; that it died is told by the descriptor of its Welcome.

How many workers there should be, and how soon one that died young is replaced, the broker decides.  What the
master decides is an upper bound.  The id of a worker is its process id: no two that live have the same, whoever
has forked them.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from tlspool_common.log import Note as Note
from tlspool_common.log import Value
from tlspool_common.messages import (
    PROTOCOL,
    MasterHello,
    MasterLeaves,
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
class Welcomed:
    """The broker takes us; BrokerDied follows when it ends, however it does."""


@dataclass(frozen=True, slots=True)
class BrokerDied:
    """The broker that has taken us does not run any more."""


@dataclass(frozen=True, slots=True)
class BrokerSaid:
    """A message of the broker."""

    message: SpawnWorkers | RetireWorker


@dataclass(frozen=True, slots=True)
class Forked:
    """A worker was forked; the broker's end of its channel is kept under its process id."""

    pid: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """The kernel refused a fork (fork(2): EAGAIN, ENOMEM)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The broker's end of the channel of a worker that an earlier master has forked is kept under its process id."""

    pid: int
    protocol: int


@dataclass(frozen=True, slots=True)
class ChannelOver:
    """A channel has ended: its worker has, or the broker has let go of it."""

    pid: int


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A child was reaped.  ``status`` is its exit code, or 128 + the number of a signal."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """SIGTERM or SIGINT."""


Event = (
    BrokerConnected
    | BrokerLost
    | Welcomed
    | BrokerDied
    | BrokerSaid
    | Forked
    | ForkFailed
    | Kept
    | ChannelOver
    | ChildEnded
    | StopAsked
)

# --- effects ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Try to connect to the broker after so many milliseconds; BrokerConnected or BrokerLost follows."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a worker; Forked or ForkFailed follows."""


@dataclass(frozen=True, slots=True)
class SendBroker:
    """Send to the broker."""

    message: Message


@dataclass(frozen=True, slots=True)
class Introduce:
    """Send WorkerBorn, with a copy of the broker's end of this worker's channel."""

    pid: int
    again: bool = False
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class TellAway:
    """Say BrokerAway to a worker, in place of the broker that died."""

    pid: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Send a signal to a worker that has not ended."""

    pid: int
    number: signal.Signals


@dataclass(frozen=True, slots=True)
class Forget:
    """Close our copy of the broker's end of a channel, if there is one."""

    pid: int


@dataclass(frozen=True, slots=True)
class End:
    """Leave the loop."""


Effect = Connect | Fork | SendBroker | Introduce | TellAway | Kill | Forget | End | Note


@dataclass(slots=True)
class Child:
    """A worker that has not ended.

    Attributes:
        ours: we have forked it, and reap it; else its channel says when it has ended.
        introduced: a broker has, or had, its end of the channel.
        over: the channel has ended, and there is nothing to introduce.
    """

    pid: int
    born_ms: int
    ours: bool = True
    protocol: int = PROTOCOL
    introduced: bool = False
    retired: bool = False
    over: bool = False


class MasterCore:
    """Events in, effects out."""

    def __init__(self, pid: int, warm: int, clock_ms: Callable[[], int]) -> None:
        self._pid = pid
        self._warm = warm
        self._clock_ms = clock_ms
        self._connected = False
        self._welcome = False
        self._told_away = False
        self._attempt = 0
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
        """All workers that have not ended, those of earlier masters too."""
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
            case Welcomed():
                self._welcome = True
                return []
            case BrokerDied():
                return self._broker_died()
            case BrokerSaid(message):
                if isinstance(message, SpawnWorkers):
                    return self._fork(message.count)
                return self._retire(message.worker_id, message.kill)
            case Forked(pid):
                return self._forked(pid)
            case ForkFailed(reason):
                self._forking -= 1
                return [Note("error", "worker.fork_failed", {"detail": reason})]
            case Kept(pid, protocol):
                return self._kept(pid, protocol)
            case ChannelOver(pid):
                return self._channel_over(pid)
            case ChildEnded(pid, status):
                return self._ended(pid, status)
            case StopAsked():
                return self._stop()
            case _:
                assert_never(event)

    def _broker_connected(self) -> list[Effect]:
        self._connected, self._told_away, self._attempt = True, False, 0
        effects: list[Effect] = [
            Note("info", "broker.connected"),
            SendBroker(MasterHello(protocol=PROTOCOL, pid=self._pid)),
        ]
        living = [child for child in self._children.values() if not child.over]
        fresh = sum(not child.introduced for child in living)
        for child in living:
            effects += self._introduce(child)
        return effects + self._fork(self._warm - fresh - self._forking)

    def _broker_lost(self, reason: str) -> list[Effect]:
        effects: list[Effect] = []
        if self._connected:
            effects.append(Note("error", "broker.lost", {"detail": reason}))
            if not self._welcome:
                effects += self._broker_died()  # it has not lived long enough to take us
        elif self._attempt == len(RETRY_MS):
            effects.append(Note("warning", "broker.absent", {"detail": reason}))
        self._connected = False
        delay_ms = RETRY_MS[min(self._attempt, len(RETRY_MS) - 1)]
        self._attempt += 1
        return [*effects, Connect(delay_ms)]

    def _broker_died(self) -> list[Effect]:
        self._welcome = False
        if self._told_away:
            return []
        self._told_away = True
        orphans = [child for child in self._children.values() if child.introduced and not child.over]
        return [Note("info", "broker.died", {"workers": len(orphans)}), *(TellAway(child.pid) for child in orphans)]

    def _fork(self, count: int) -> list[Effect]:
        room = WORKERS - len(self._children) - self._forking
        if self._stopping or count <= 0:
            return []
        effects: list[Effect] = []
        if count > room:
            effects.append(Note("error", "worker.too_many", {"wanted": count, "room": room}))
        for _ in range(min(count, room)):
            self._forking += 1
            effects.append(Fork())
        return effects

    def _forked(self, pid: int) -> list[Effect]:
        self._forking -= 1
        child = self._children[pid] = Child(pid, self._clock_ms())
        return self._introduce(child) if self._connected else []

    def _kept(self, pid: int, protocol: int) -> list[Effect]:
        """A worker of an earlier master: whoever tells us of it is, or knew, its broker."""
        self._children[pid] = Child(pid, self._clock_ms(), ours=False, protocol=protocol, introduced=True)
        return [Note("debug", "worker.kept", {"worker": pid, "protocol": protocol})]

    @staticmethod
    def _introduce(child: Child) -> list[Effect]:
        again, child.introduced = child.introduced, True
        return [Introduce(child.pid, again, child.protocol)]

    def _retire(self, worker_id: int, kill: bool) -> list[Effect]:
        child = self._children.get(worker_id)
        if child is None:
            return []  # it ended while the message was on its way
        child.retired = True
        return [Kill(child.pid, signal.SIGKILL if kill else signal.SIGHUP)]

    def _channel_over(self, pid: int) -> list[Effect]:
        child = self._children.get(pid)
        if child is None:
            return []
        child.over = True
        if not child.ours:
            del self._children[pid]
            return [Forget(pid), Note("debug", "worker.gone", {"worker": pid, "meaning": "of an earlier master"})]
        return [Forget(pid)]

    def _ended(self, pid: int, status: int) -> list[Effect]:
        child = self._children.pop(pid, None)
        if child is None:
            return []  # not a worker: adopted from whoever executed this program
        meaning = exits.meaning(status)
        self._endings[meaning] += 1
        fields: dict[str, Value] = {"worker": pid, "status": status, "meaning": meaning}
        fields["age_s"] = (self._clock_ms() - child.born_ms) / 1000
        effects: list[Effect] = [Note("debug" if status == exits.Exit.OK else "error", "worker.gone", fields)]
        effects.append(Forget(pid))
        if child.introduced and self._connected:
            effects.append(SendBroker(WorkerGone(worker_id=pid, status=status, meaning=meaning)))
        return effects

    def _stop(self) -> list[Effect]:
        self._stopping = True
        effects: list[Effect] = [Note("info", "master.stop", {"workers": len(self._children)})]
        if self._connected:
            effects.append(SendBroker(MasterLeaves()))
        return [*effects, End()]
