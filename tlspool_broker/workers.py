"""Which worker gets a session, and how many workers there are.

A worker is a *spare* from its birth until it gets its first session; from then on it belongs to an *owner* and
never to another one.  Who that is, is the setting ``isolation``:

    application   the calling user; up to ``workers_per_application`` workers, of which the least loaded is taken
    connection    one session; the worker is retired after it
    pool          everybody; ``workers`` workers in all

``workers`` spares are kept warm (for ``pool`` there are just so many workers), and what is missing is asked of
the worker master.  The master may have its own idea of how many to begin with, so it is left alone for a
moment after its hello.  What was asked for and did not come is asked for again; after a spare that died young
there is a pause, so that a worker that cannot start does not become a storm of forks.

Workers of an earlier master, and those that an earlier broker had, finish what they have and get nothing new: the
broker cannot know whose the latter were.  They stay under control.  Their channels are copied to the master of the
day (KeepChannel), so that the next broker finds them, too.  An idle one is let go: its channel is shut, in order with
all that was said over it, so no session is on its way to it.

A master that leaves (MasterLeaves) is expected to come back, or another one: until then its workers serve.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tlspool_broker.events import (
    AdoptWorker,
    Arm,
    Clock,
    ClosePeer,
    CloseWorker,
    DropFd,
    KeepWorker,
    PeerId,
    SendMaster,
    SendWorker,
    SessionId,
    Timer,
    WelcomeMaster,
    WorkerNumber,
)
from tlspool_broker.out import Out
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import PROTOCOL, EndKept, MasterHello, RetireWorker, SpawnWorkers, WorkerBorn, WorkerGone
from tlspool_common.settings import Settings

SETTLE_MS = 200
"""After the master's hello: it has forked its first workers by then, if it does so by itself."""

SPAWN_MS = 5_000
"""A worker that was asked for and is not born by then will not be: a fork takes milliseconds."""

SPAWN_AT_ONCE = 64
"""Workers asked for in one go: one fork is some milliseconds of processor time."""

YOUNG_MS = 1_000
"""A spare that dies at this age was never well; nothing is asked for during as long again."""

IDLE_MS = 60_000
"""A worker without sessions is given back after a minute: longer than between two visits of a busy client."""

IDLE_LOOK_MS = 10_000

LEFT_MS = 15_000
"""For a master that was told to end to be followed by another one.  Then it was meant, and no worker stays idle."""

_EVERYBODY = 0


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process.

    Attributes:
        nonce: of the question that it was asked as one that an earlier broker had; 0: it has told everything.
        answered: its answer has begun; all that came before was not meant for us.
        told_to: the highest number of a session that it has told of; ``asked_after``: it was so when we asked last.
        finishes: it is let go as soon as it has no session, and ``unkept`` is 0: how many have ended of which no record
            is on the disk yet.
    """

    number: WorkerNumber
    worker_id: int
    pid: int
    master: PeerId
    born_ms: int
    idle_since_ms: int
    owner: int | None = None
    sessions: dict[SessionId, None] = field(default_factory=dict)
    retired: bool = False
    introduced: bool = False  # it was told whose it is
    trust_generation: int | None = None
    nonce: int = 0
    answered: bool = False
    told_to: int = 0
    asked_after: int = 0
    finishes: bool = False
    unkept: int = 0

    def row(self, now_ms: int) -> dict[str, object]:
        """Return the worker as the operator's socket shows it."""
        return {
            "worker": self.worker_id,
            "pid": self.pid,
            "owner": self.owner,
            "sessions": len(self.sessions),
            "idle_s": None if self.sessions else round((now_ms - self.idle_since_ms) / 1000, 1),
            "age_s": round((now_ms - self.born_ms) / 1000, 1),
            "retired": self.retired,
            "trust_generation": self.trust_generation,
        }


class Workers:
    """All workers, and the master that forks them."""

    def __init__(self, out: Out, settings: Settings) -> None:
        self._out = out
        self._isolation = settings.isolation
        self._settings = settings
        self._master: PeerId | None = None
        self._all: dict[WorkerNumber, Worker] = {}
        self._by_id: dict[int, WorkerNumber] = {}
        self._leaving = False
        self._spares: dict[WorkerNumber, Worker] = {}
        self._owned: dict[int, dict[WorkerNumber, Worker]] = {}
        self._waiting: Counter[int] = Counter()
        self._last_number = 0
        self._asked = 0
        self._settling = False
        self._quiet_until_ms = 0
        self._idle_armed = False

    @property
    def _warm(self) -> int:
        return self._settings.workers

    @property
    def _per_owner(self) -> int:
        return self._warm if self._isolation == "pool" else self._settings.workers_per_application

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def get(self, number: WorkerNumber) -> Worker | None:
        """Return a worker that lives."""
        return self._all.get(number)

    @property
    def spares(self) -> int:
        """Warm workers that belong to nobody yet."""
        return len(self._spares)

    @property
    def has_master(self) -> bool:
        """Whether more workers can be had."""
        return self._master is not None

    @property
    def settled(self) -> bool:
        """Whether there is a master, and it has had the time to introduce the workers that it has."""
        return self._master is not None and not self._settling

    # --- sessions -------------------------------------------------------------------------------------

    def _owner_of(self, uid: int) -> int:
        return _EVERYBODY if self._isolation == "pool" else uid

    def find(self, uid: int) -> Worker | None:
        """Return a worker for a session of this calling user, if there is one now."""
        owner = self._owner_of(uid)
        mine = {} if self._isolation == "connection" else self._owned.get(owner, {})
        best = min(mine.values(), key=lambda worker: len(worker.sessions), default=None)
        if best is not None and (not best.sessions or len(mine) >= self._per_owner):
            return best
        if self._spares:
            number = next(iter(self._spares))
            spare = self._spares.pop(number)
            spare.owner = owner
            self._owned.setdefault(owner, {})[number] = spare
            self.replenish()
            return spare
        return best

    def wait(self, uid: int) -> None:
        """Say that a session of this user waits for a worker."""
        self._waiting[self._owner_of(uid)] += 1
        self.replenish()

    def waited(self, uid: int) -> None:
        """Say that a session of this user waits no more."""
        owner = self._owner_of(uid)
        self._waiting[owner] -= 1
        if self._waiting[owner] <= 0:
            del self._waiting[owner]

    def release(self, worker: Worker, session_id: SessionId) -> None:
        """A session is over."""
        worker.sessions.pop(session_id, None)
        if worker.sessions or worker.number not in self._all:
            return
        worker.idle_since_ms = self._out.now_ms
        if worker.finishes:
            self.let_go_if_idle(worker)
        elif self._isolation == "connection" and not worker.retired:
            self._retire(worker)
        else:
            self._watch_idle()

    # --- the master -----------------------------------------------------------------------------------

    def master_hello(self, peer: PeerId, message: MasterHello) -> None:
        """A worker master has come."""
        if message.protocol != PROTOCOL:
            why = f"it speaks protocol {message.protocol}, this broker {PROTOCOL}"
            self._out.note("error", "master.refused", detail=why)
            self._out(ClosePeer(peer))
            return
        if self._master is not None:
            self._out(ClosePeer(self._master))
        self._out.note("info", "master.connected", pid=message.pid)
        self._master, self._asked, self._settling, self._leaving = peer, 0, True, False
        self._out(WelcomeMaster(peer))
        for worker in self:
            if not self.let_finish(worker):
                worker.master = peer
                self._out(KeepWorker(peer, worker.number, worker.worker_id, worker.pid))
        self._out(Arm(Timer(Clock.SPAWN), SETTLE_MS))
        self.replenish()

    def master_lost(self, peer: PeerId, reason: str) -> None:
        """The master's connection is over; its workers go on."""
        if peer == self._master:
            self._master, self._asked = None, 0
            self._out.note("info" if self._leaving else "error", "master.lost", detail=reason)

    def master_leaves(self, peer: PeerId) -> None:
        """The master was told to end."""
        if peer == self._master:
            self._leaving = True
            self._out(Arm(Timer(Clock.LEFT), LEFT_MS))

    def look_for_master(self) -> None:
        """The timer LEFT fired: if no master has come, none is to."""
        if self._leaving and self._master is None:
            self._out.note("info", "workers.finish", workers=len(self._all))
            for worker in self:
                self.let_finish(worker)

    def let_finish(self, worker: Worker) -> bool:
        """Give a worker no more sessions, and let it go when it has none; return whether it has none now."""
        self._put_aside(worker)
        worker.retired = worker.finishes = True
        return self.let_go_if_idle(worker)

    def end_kept(self, worker: Worker, session_id: SessionId) -> None:
        """How a session has ended that this worker had is on the disk."""
        worker.unkept -= 1
        if worker.number in self._all:
            self._out(SendWorker(worker.number, EndKept(session_id=session_id)))
            if worker.finishes:
                self.let_go_if_idle(worker)

    def let_go_if_idle(self, worker: Worker) -> bool:
        """Let a worker go that has no session, as far as it has told; return whether it was."""
        if worker.sessions or worker.nonce or worker.unkept or worker.number not in self._all:
            return False
        self.let_go(worker)
        return True

    def by_id(self, worker_id: int) -> Worker | None:
        """Return a worker that lives, by the number that operators see."""
        number = self._by_id.get(worker_id)
        return None if number is None else self._all[number]

    def born(self, peer: PeerId, message: WorkerBorn, fd: OwnedFd) -> Worker | None:
        """A worker was forked, or comes from an earlier broker; return it, unless there is nothing to do with it."""
        worker_id, pid = message.worker_id, message.pid
        known = self._by_id.get(worker_id)
        if peer != self._master or known is not None:
            if peer == self._master and message.again:
                self._out(DropFd(fd))  # ours, of a master that has only connected anew
                return None
            self._out.note("warning", "worker.unknown", worker=worker_id, pid=pid)
            self._out(DropFd(fd, shut=True))
            return None
        if message.protocol != PROTOCOL:
            why = f"it speaks protocol {message.protocol}, this broker {PROTOCOL}: it finishes its sessions by itself"
            self._out.note("warning", "worker.let_go", worker=worker_id, pid=pid, detail=why)
            self._out(DropFd(fd, shut=True))
            return None
        self._last_number += 1
        now_ms = self._out.now_ms
        number = WorkerNumber(self._last_number)
        worker = Worker(number, worker_id, pid, peer, born_ms=now_ms, idle_since_ms=now_ms)
        self._all[number] = worker
        self._by_id[worker_id] = number
        self._out(AdoptWorker(number, fd))
        if message.again:
            worker.retired = worker.finishes = True
            return worker
        self._spares[number] = worker
        self._asked = max(0, self._asked - 1)
        self._out.note("debug", "worker.born", worker=worker.worker_id, pid=worker.pid)
        if len(self._spares) > self._warm:
            self._watch_idle()
        return worker

    def gone(self, message: WorkerGone) -> None:
        """The master says how a worker ended; that it did, its channel says."""
        self._out.note(
            "error" if message.status else "debug",
            "worker.gone",
            worker=message.worker_id,
            status=message.status,
            meaning=message.meaning,
        )

    def lost(self, number: WorkerNumber) -> Worker | None:
        """Forget a worker whose channel is closed; return it."""
        worker = self._all.get(number)
        if worker is None:
            return None
        self._forget(worker)
        young = worker.owner is None and self._out.now_ms - worker.born_ms < YOUNG_MS
        self._put_aside(worker)
        if young and not worker.retired:
            self._quiet_until_ms = self._out.now_ms + YOUNG_MS
            self._out(Arm(Timer(Clock.SPAWN), YOUNG_MS))
        self.replenish()
        return worker

    def condemn(self, worker: Worker) -> None:
        """End a worker that cannot be believed any more."""
        self._out(CloseWorker(worker.number))
        if worker.master == self._master and self._master is not None:
            self._out(SendMaster(self._master, RetireWorker(worker_id=worker.worker_id, kill=True)))
        self.lost(worker.number)

    # --- how many -------------------------------------------------------------------------------------

    def _missing(self) -> int:
        if self._isolation == "pool":
            usable = sum(not worker.retired for worker in self._all.values())
            return self._warm - usable - self._asked
        needed = self._waiting.total() if self._isolation == "connection" else len(self._waiting)
        return self._warm + needed - len(self._spares) - self._asked

    def replenish(self) -> None:
        """Ask the master for what is missing."""
        if self._master is None or self._out.now_ms < self._quiet_until_ms or (self._settling and not self._waiting):
            return
        count = min(self._missing(), SPAWN_AT_ONCE)
        if count > 0:
            self._asked += count
            self._out(SendMaster(self._master, SpawnWorkers(count=count)))
            self._out(Arm(Timer(Clock.SPAWN), SPAWN_MS))

    def look_for_missing(self) -> None:
        """The timer SPAWN fired: write off what has not come, and ask again."""
        self._asked, self._settling = 0, False
        self.replenish()

    def _watch_idle(self) -> None:
        if not self._idle_armed and self._isolation != "pool":
            self._idle_armed = True
            self._out(Arm(Timer(Clock.IDLE), IDLE_LOOK_MS))

    def look_for_idle(self) -> None:
        """The timer IDLE fired: give workers back that have had nothing to do for long."""
        self._idle_armed = False
        surplus = len(self._spares) - self._warm
        again = False
        for worker in self:
            is_spare = worker.owner is None
            if worker.sessions or worker.retired or (is_spare and surplus <= 0):
                continue
            if self._out.now_ms - worker.idle_since_ms < IDLE_MS:
                again = True
                continue
            surplus -= is_spare
            self._retire(worker)
        if again:
            self._watch_idle()

    def _retire(self, worker: Worker) -> None:
        """Let an idle worker end."""
        if self._master is not None:
            worker.retired = True
            self._put_aside(worker)
            self._out(SendMaster(self._master, RetireWorker(worker_id=worker.worker_id, kill=False)))
        elif self._isolation == "connection":
            self._put_aside(worker)
            self.let_go(worker)
        # else it stays: until a new master comes there is nobody to replace it

    def let_go(self, worker: Worker) -> None:
        """Shut the channel of a worker: it ends, after the last of its sessions if it has any."""
        self._put_aside(worker)
        self._out(CloseWorker(worker.number))
        self._forget(worker)

    def _forget(self, worker: Worker) -> None:
        del self._all[worker.number]
        del self._by_id[worker.worker_id]

    def _put_aside(self, worker: Worker) -> None:
        """Give a worker no more sessions."""
        self._spares.pop(worker.number, None)
        if worker.owner is not None:
            mine = self._owned.get(worker.owner, {})
            mine.pop(worker.number, None)
            if not mine:
                self._owned.pop(worker.owner, None)
