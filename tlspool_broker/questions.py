"""Questions of applications about sessions that relay: the worker has the answer, or the remote has.

    application --PRNG, INFO, STARTTLS RENEGOTIATE--> broker --AskExport, AskFact, AskRemote--> worker
    application <------the same command, or ERROR---- broker <-----------Told, RemoteTold------ worker

A question is open until the first of these, and the application hears exactly one reply, or none:

    the answer                                the reply
    the time is up                            [606], [307] when the remote was asked
    the session ends; its worker dies         [115]; [603]
    the connection goes away, or uses the
    request id for something else             none; what still comes is dropped

Numbers are never used again, so a late answer is told from a wrong one: a worker that answers what it was not asked
is not to be believed.  What is open is bounded, for a connection with its other requests, for a session, and for a
worker, whose channel holds so much and no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tlspool_broker import policy
from tlspool_broker.connections import Connection, Connections
from tlspool_broker.events import Arm, Clock, Disarm, SendWorker, SessionId, Timer, ToWorker, WorkerNumber
from tlspool_broker.out import Out
from tlspool_broker.session import Session
from tlspool_broker.workers import Worker
from tlspool_common.errors import Code, PoolError, code_of
from tlspool_common.messages import RemoteTold, Told
from tlspool_common.settings import Settings

PER_SESSION = 16
"""Open questions of a session.  What programs ask of one, all at once, is six parts of certificates and a binding."""

PER_WORKER = 512
"""Open questions of a worker: with 800 bytes each, a tenth of what its channel holds (limits.CHANNEL_QUEUE_B)."""

WORKER_WAIT_MS = 10_000
"""For a worker to answer from what it knows.  That takes microseconds, behind whatever else it is doing."""


class Answered(Protocol):
    """What becomes of an answer: the command and payload of the reply; None: ``settle`` has it later.

    Raises PoolError.
    """

    def __call__(self, answer: Told | RemoteTold) -> tuple[int, bytes] | None:
        """Make the reply."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One open question."""

    number: int
    connection: Connection
    reqid: int
    cmd: int
    session: Session
    worker: WorkerNumber
    answered: Answered
    late: Code


class Questions:
    """All open questions."""

    def __init__(self, out: Out, settings: Settings, connections: Connections) -> None:
        self._out = out
        self._settings = settings
        self._connections = connections
        self._open: dict[int, Question] = {}
        self._by_reqid: dict[tuple[Connection, int], Question] = {}
        self._by_session: dict[SessionId, dict[int, Question]] = {}
        self._by_connection: dict[Connection, dict[int, Question]] = {}
        self._at_worker: Counter[WorkerNumber] = Counter()
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._open)

    # --- asking ---------------------------------------------------------------------------------------

    def ask(
        self,
        connection: Connection,
        reqid: int,
        cmd: int,
        session: Session,
        make: Callable[[int], ToWorker],
        answered: Answered,
        wait_ms: float | None = WORKER_WAIT_MS,
        late: Code = Code.WORKER_SLOW,
    ) -> None:
        """Ask the worker of a session; ``make`` gets the number of the question.

        Raises:
            PoolError: TOO_MANY_REQUESTS; INTERNAL, the session has no worker.
        """
        worker = session.worker
        if worker is None:
            raise PoolError(Code.INTERNAL, f"session {session.session_id} relays in no worker")
        self._check_room(connection, session, worker)
        self._last_number = number = (self._last_number + 1) & 0xFFFFFFFF
        question = Question(number, connection, reqid, cmd, session, worker.number, answered, late)
        self._open[number] = self._by_reqid[connection, reqid] = question
        self._by_session.setdefault(session.session_id, {})[number] = question
        self._by_connection.setdefault(connection, {})[number] = question
        self._at_worker[worker.number] += 1
        session.on_end = self._session_ended
        self._out(SendWorker(worker.number, make(number)))
        if wait_ms is not None:
            self._out(Arm(Timer(Clock.QUESTION, number), wait_ms))

    def _check_room(self, connection: Connection, session: Session, worker: Worker) -> None:
        mine = len(self._by_connection.get(connection, ())) + len(connection.exchanges)
        if mine >= self._settings.max_requests_per_connection:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{mine}")
        if len(self._by_session.get(session.session_id, ())) >= PER_SESSION:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{PER_SESSION} about one session")
        if self._at_worker[worker.number] >= PER_WORKER:
            raise PoolError(Code.TOO_MANY_REQUESTS, f"{PER_WORKER} in one worker")

    # --- ends -----------------------------------------------------------------------------------------

    def _close(self, question: Question) -> None:
        del self._open[question.number]
        del self._by_reqid[question.connection, question.reqid]
        _discard(self._by_session, question.session.session_id, question.number)
        _discard(self._by_connection, question.connection, question.number)
        self._at_worker[question.worker] -= 1
        if not self._at_worker[question.worker]:
            del self._at_worker[question.worker]
        self._out(Disarm(Timer(Clock.QUESTION, question.number)))

    def _fail(self, question: Question, error: PoolError) -> None:
        self._close(question)
        self._connections.note_refusal(question.connection, question.cmd, error.code, error.detail)
        told = policy.told(error.code, error.detail)
        self._connections.error(question.connection, question.reqid, error.code, told)

    def told(self, worker: Worker, message: Told | RemoteTold) -> bool:
        """Take an answer; return whether somebody waited for it.

        Raises:
            PoolError: INTERNAL, nobody asked this worker that.
        """
        question = self._open.get(message.question)
        if question is None:
            if message.question > self._last_number:
                raise PoolError(Code.INTERNAL, f"question {message.question} was not asked")
            return False
        if question.worker != worker.number or question.session.session_id != message.session_id:
            raise PoolError(Code.INTERNAL, f"question {message.question} was asked of another session")
        try:
            reply = question.answered(message)
        except PoolError as error:
            if error.code is Code.INTERNAL:
                raise
            self._fail(question, error)
            return True
        if reply is not None:
            self.settle(question.number, reply)
        return True

    def settle(self, number: int, outcome: tuple[int, bytes] | PoolError) -> None:
        """Reply, if somebody still waits for it."""
        question = self._open.get(number)
        if question is None:
            return
        if isinstance(outcome, PoolError):
            self._fail(question, outcome)
            return
        self._close(question)
        self._connections.send(question.connection, question.reqid, 0, *outcome)

    def claim(self, connection: Connection, reqid: int) -> None:
        """Give up, without a reply, a question whose request id is used for something else."""
        question = self._by_reqid.get((connection, reqid))
        if question is not None:
            self._close(question)

    def connection_gone(self, connection: Connection) -> None:
        """Nobody is there to be told."""
        for question in list(self._by_connection.get(connection, {}).values()):
            self._close(question)

    def worker_lost(self, worker: Worker) -> None:
        """A worker is no more."""
        for session_id in worker.sessions:
            self._end(session_id, Code.WORKER_DIED)

    def _session_ended(self, session: Session) -> None:
        self._end(session.session_id, Code.CTLKEY_UNKNOWN)

    def _end(self, session_id: SessionId, code: Code) -> None:
        for question in list(self._by_session.get(session_id, {}).values()):
            self._fail(question, PoolError(code, "the session is over" if code is Code.CTLKEY_UNKNOWN else ""))

    def timed_out(self, number: int) -> None:
        """An answer has not come in time."""
        question = self._open.get(number)
        if question is not None:
            self._fail(question, PoolError(question.late))


def value_of(answer: Told | RemoteTold) -> bytes:
    """Return what a worker told.

    Raises:
        PoolError: what it could not tell; INTERNAL, that was another question.
    """
    if not isinstance(answer, Told):
        raise PoolError(Code.INTERNAL, "the answer is one to another question")
    if answer.code:
        raise PoolError(code_of(answer.code))
    return answer.value


_K = TypeVar("_K")


def _discard(table: dict[_K, dict[int, Question]], key: _K, number: int) -> None:
    inner = table[key]
    del inner[number]
    if not inner:
        del table[key]
