"""Workers that an earlier broker had: they tell which sessions relay, and these are ours from then on.

    master --WorkerBorn(again) + channel--> broker --TellSessions(nonce, after)--> worker
    worker --whatever it said to the broker that died--> dropped; SessionEnded is logged, unless it is told once more
    worker --SessionHere(nonce, record) ...--> a session in RELAYING, which no connection controls
    worker --SessionsTold(nonce, last, more)--> the next question, or that was all

* The nonce tells our answer from one to a broker that died while it asked.  What the worker says after the first
  message with ours counts as if the session had always been here: it may end before all others are told.
* A record is sealed (kept.py).  One that is forged, of another worker, or of a session that is here already ends the
  worker.  One under a key that is not ours tells nothing (the private directory was emptied): such a worker is let go,
  as is one that does not answer in time.  It finishes its sessions by itself, and nobody controls it any more.
* A session of which the application's connection has gone with the broker stays, FORK or not: that was our fault.  Its
  user may reattach it by its control key.  What can be read of the generation that has admitted it, is.
* When a master has come, and what it has introduced has told everything, there is nothing else (``all_told``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tlspool_broker import kept
from tlspool_broker.accounting import Accounting
from tlspool_broker.events import Arm, Clock, Disarm, FromWorker, SendWorker, SessionId, Timer, WorkerNumber
from tlspool_broker.lasting import Lasting
from tlspool_broker.out import Out
from tlspool_broker.sessions import Sessions
from tlspool_broker.snapshot import Snapshots
from tlspool_broker.workers import Worker, Workers
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import SessionEnded, SessionHere, SessionsTold, Side, TellSessions

ANSWER_MS = 30_000
"""For a worker to tell some of its sessions; a busy one takes milliseconds."""

_NONCE_B = 7


class Rejoin:
    """Asks, and takes the answers."""

    def __init__(
        self,
        out: Out,
        workers: Workers,
        sessions: Sessions,
        snapshots: Snapshots,
        lasting: Lasting,
        random_bytes: Callable[[int], bytes],
        accounting: Accounting,
    ) -> None:
        self._out = out
        self._workers = workers
        self._sessions = sessions
        self._snapshots = snapshots
        self._lasting = lasting
        self._random_bytes = random_bytes
        self._accounting = accounting
        self._is_over = False
        self._early: dict[WorkerNumber, dict[int, SessionEnded]] = {}  # said to an earlier broker

    def ask(self, worker: Worker) -> None:
        """Begin: ask a worker for its first sessions."""
        worker.nonce = int.from_bytes(self._random_bytes(_NONCE_B), "big") + 1  # 0 is none
        self._ask_on(worker)

    def _ask_on(self, worker: Worker) -> None:
        worker.asked_after = worker.told_to
        self._out(SendWorker(worker.number, TellSessions(nonce=worker.nonce, after=worker.told_to)))
        self._out(Arm(_timer(worker), ANSWER_MS))

    def said(self, worker: Worker, message: FromWorker) -> bool:
        """Take what is for us of a worker's messages; return whether it was.

        Raises:
            PoolError: INTERNAL, the worker is not to be believed.
        """
        if isinstance(message, SessionHere | SessionsTold):
            if not worker.nonce:
                raise PoolError(Code.INTERNAL, f"{type(message).__name__} of a worker that nobody asked")
            if message.nonce == worker.nonce:
                worker.answered = True
                self._told(worker, message)
            return True
        if not worker.nonce or worker.answered:
            return False
        if isinstance(message, SessionEnded):
            self._early.setdefault(worker.number, {})[message.session_id] = message
        return True

    def _note_early(self, worker: Worker) -> None:
        for message in self._early.pop(worker.number, {}).values():
            self._out.note(
                "info",
                "session.end",
                session=message.session_id,
                worker=worker.worker_id,
                from_remote_b=message.from_remote_b,
                to_remote_b=message.to_remote_b,
                reason=message.reason.name.lower(),
                detail="said to an earlier broker, which did not hear it",
            )

    def _told(self, worker: Worker, message: SessionHere | SessionsTold) -> None:
        if isinstance(message, SessionHere):
            self._here(worker, message)
            return
        if message.more:
            if worker.asked_after == worker.told_to:
                raise PoolError(Code.INTERNAL, "it tells of no sessions, and says that there are more")
            self._ask_on(worker)
            return
        self._out(Disarm(_timer(worker)))
        worker.nonce = 0
        self._note_early(worker)
        self._out.note("info", "worker.rejoined", worker=worker.worker_id, sessions=len(worker.sessions))
        self._workers.let_go_if_idle(worker)
        self.look_whether_all()

    def _here(self, worker: Worker, message: SessionHere) -> None:
        session_id = message.session_id
        if session_id <= worker.told_to or self._sessions.get(SessionId(session_id)) is not None:
            raise PoolError(Code.INTERNAL, f"session {session_id} is told twice")
        worker.told_to = session_id
        self._early.get(worker.number, {}).pop(session_id, None)  # its end follows: it is accounted for
        key = self._lasting.key("records")
        found = kept.unseal_untrusted(key, message.record, session_id, worker.worker_id)
        if found is None:
            self._let_go(worker, "its records are under a key that is lost")
            return
        if session_id >= self._lasting.first:
            raise PoolError(Code.INTERNAL, f"session {session_id} is none of an earlier broker")
        session = kept.session_of(found, worker, self._snapshots.of(found.generation))
        if session.plan.side is Side.CLIENT and session.plan.localid is not None:
            # Its remote may ask once more who we are.
            try:
                credentials = tuple(session.records.credentials(session.plan.localid, Side.CLIENT))
            except PoolError:
                credentials = ()  # that generation is forgotten: then we are nobody
            session.plan = replace(session.plan, credentials=credentials)
        self._sessions.resume(session, worker)
        self._accounting.resume(session)

    def timed_out(self, number: int) -> None:
        """A worker has not answered."""
        worker = self._workers.get(WorkerNumber(number))
        if worker is not None and worker.nonce:
            self._let_go(worker, "it does not tell its sessions")

    def lost(self, worker: Worker) -> None:
        """A worker is no more."""
        if worker.nonce:
            worker.nonce = 0
            self._out(Disarm(_timer(worker)))
            self._note_early(worker)
            self.look_whether_all()

    def look_whether_all(self) -> None:
        """Say once that all workers of an earlier broker have told what they have, when they have."""
        if self._is_over or not self._workers.settled or any(worker.nonce for worker in self._workers):
            return
        self._is_over = True
        self._accounting.all_told()

    def _let_go(self, worker: Worker, why: str) -> None:
        self.lost(worker)
        self._out.note("warning", "worker.let_go", worker=worker.worker_id, pid=worker.pid, detail=why)
        self._workers.let_go(worker)
        self._sessions.worker_lost(worker, "it is not controlled any more")


def _timer(worker: Worker) -> Timer:
    return Timer(Clock.TELLING, worker.number)
