"""How a question is asked: of one server after the other, until one of them answers or its time is up.

    next server -> Transmit -> no answer in time -> Transmit again, the same packet -> ... -> next server -> ... -> told
                      |                                                                            |
                      +-- Heard: is it an answer, with the right authenticators? -- yes ------> told

* Servers that are up come first, in the order of the configuration.  Those that are dead come last, and get one try:
  if all are dead nobody knows which of them will be back first.
* A packet is repeated with identifier and authenticator as they were, so that a server knows it again (RFC 5080
  section 2.2.2); to another server goes another packet.
* What does not count as an answer changes nothing: the question goes on waiting, so that nobody can end it who does
  not know the secret.  What there was of it is told in the end, as it may be all that is wrong.
* The kernel's word that nobody listens at a port counts at once, for all questions at that socket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tlspool_radius import bounds
from tlspool_radius.events import Arm, Clock, ClosePort, Effect, Note, Now, Timer, Transmit
from tlspool_radius.packets import BadAttribute, BadPacket, Fault, Packet, Request, answer_untrusted, split_untrusted
from tlspool_radius.servers import Port, Purpose, Server

Make = Callable[[Server, int, Now], Request]
"""Makes the packet for a server, with an identifier; raises BadAttribute."""

Read = Callable[[Packet], object]
"""Takes an answer whose authenticators are right; raises BadPacket if it is not what it should be."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question; ``answer`` is what Read made of it, None: there is none.

    ``is_asked`` false: it could not be sent to anybody.
    """

    answer: object
    server: Server | None
    detail: str
    elapsed_ms: float
    is_asked: bool = True

    @property
    def name(self) -> str:
        """ADDRESS:PORT of the server that has answered, or was asked last."""
        return self.server.name if self.server else ""


Told = Callable[[Outcome, Now], None]


@dataclass(slots=True, eq=False)
class _Question:
    purpose: Purpose
    make: Make
    read: Read
    told: Told
    began_ms: float
    deadline_ms: float
    left: list[Server]
    server: Server | None = None
    port: Port | None = None
    id: int = 0
    request: Request | None = None
    tries: int = 0
    most: int = 0
    first_ms: float = 0.0
    due_ms: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Manner:
    """How servers are asked: the settings radius_timeout_s, radius_tries, radius_dead_s and radius_unsigned."""

    timeout_ms: float = 2000.0
    tries: int = 2
    dead_ms: float = 60_000.0
    accepts_unsigned: bool = False


class Asker:
    """All servers, and all questions that wait for them.  ``chance``: a random number from 0 to 1."""

    def __init__(self, servers: Sequence[Server], manner: Manner, chance: Callable[[], float]) -> None:
        self.servers = {server.number: server for server in servers}
        self._manner = manner
        self._chance = chance
        self._questions: dict[int, _Question] = {}
        self._last = 0
        self._notes: Counter[str] = Counter()
        self.out: list[Effect] = []

    def __len__(self) -> int:
        return len(self._questions)

    def serves(self, purpose: Purpose) -> bool:
        """Whether there is a server for that."""
        return any(server.purpose is purpose for server in self.servers.values())

    def is_down(self, purpose: Purpose) -> bool:
        """Whether all servers for that are dead, or cannot be asked."""
        found = (one for one in self.servers.values() if one.purpose is purpose)
        return all(one.dead_until_ms is not None or not one.secret for one in found)

    def patience_ms(self, purpose: Purpose) -> float:
        """Return how long it takes until all servers have had their tries."""
        count = sum(server.purpose is purpose for server in self.servers.values())
        return count * self._manner.tries * self._manner.timeout_ms

    def revive(self) -> None:
        """Forget that servers were dead."""
        for server in self.servers.values():
            server.dead_until_ms, server.probe = None, 0

    # --- a question ---------------------------------------------------------------------------------------

    def ask(
        self,
        purpose: Purpose,
        make: Make,
        read: Read,
        wait_ms: float,
        told: Told,
        now: Now,
    ) -> int:
        """Ask; ``told`` hears what comes of it, perhaps before this returns.  0: it was told already."""
        servers = [server for server in self.servers.values() if server.purpose is purpose]
        if not servers or len(self._questions) >= bounds.QUESTIONS:
            detail = f"{bounds.QUESTIONS} questions wait already" if servers else "there is no server for it"
            told(Outcome(None, None, detail, 0.0, is_asked=False), now)
            return 0
        self._last += 1
        number = self._last
        deadline_ms = now.ms + min(wait_ms, bounds.QUESTION_MS)
        self._questions[number] = _Question(purpose, make, read, told, now.ms, deadline_ms, servers)
        self._move_on(number, now)
        return number if number in self._questions else 0

    def _pick(self, question: _Question, now_ms: float) -> Server | None:
        usable = [one for one in question.left if one.secret and one.is_usable(now_ms)]
        dead = sorted((one for one in question.left if one.secret), key=lambda one: one.dead_until_ms or 0.0)
        chosen = next(iter([*usable, *dead]), None)
        if chosen is None:
            question.troubles += [f"{one.name} has no line in radius_secret_file" for one in question.left]
            question.left = []
            return None
        question.left.remove(chosen)
        question.most = self._manner.tries if chosen in usable and chosen.dead_until_ms is None else 1
        return chosen

    def _move_on(self, number: int, now: Now) -> None:
        """Turn to the next server; if there is none, the question is over."""
        question = self._questions[number]
        while (server := self._pick(question, now.ms)) is not None:
            question.server = server  # it is named as the one that was asked last, even if that does not succeed
            if (place := server.take(number, now.ms)) is None:
                question.troubles.append(f"{server.name} has left {bounds.PORTS * 256} questions open")
                continue
            port, identifier = place
            try:
                request = question.make(server, identifier, now)
            except BadAttribute as error:
                del port.asked[identifier]
                self._over(number, None, str(error), now, is_asked=False)
                return
            if server.dead_until_ms is not None and not server.probe:
                server.probe = number
            question.port, question.id, question.request = port, identifier, request
            question.tries, question.first_ms, question.faults = 0, now.ms, {}
            server.counters.asked += 1
            self._transmit(number, server, port, request, now)
            return
        is_asked = question.request is not None
        self._over(number, None, "; ".join(question.troubles), now, is_asked=is_asked)

    def _transmit(self, number: int, server: Server, port: Port, request: Request, now: Now) -> None:
        question = self._questions[number]
        question.tries += 1
        server.counters.repeated += question.tries > 1
        wait_ms = self._manner.timeout_ms * (1 - bounds.JITTER * self._chance())
        question.due_ms = min(now.ms + wait_ms, question.deadline_ms)
        self.out.append(Transmit(server.number, port.number, (server.host, server.port), request.datagram))
        self.out.append(Arm(Timer(Clock.TRY, number), max(0.0, question.due_ms - now.ms)))

    def timed_out(self, number: int, now: Now) -> None:
        """A question's timer has fired: perhaps one of an earlier server."""
        question = self._questions.get(number)
        if question is None or now.ms < question.due_ms - 0.5:
            return
        server, port, request = question.server, question.port, question.request
        if server is None or port is None or request is None:
            return
        is_late = now.ms >= question.deadline_ms - 0.5
        if question.tries < question.most and not is_late:
            self._transmit(number, server, port, request, now)
            return
        waited_ms = now.ms - question.first_ms
        server.counters.timeouts += 1
        detail = self._silence(question, server)
        self._leave(question)
        if waited_ms >= self._manner.timeout_ms * (1 - bounds.JITTER) - 1:
            self._blame(server, question.first_ms, detail, now)
        question.troubles.append(detail)
        if is_late:
            self._over(number, None, "; ".join(question.troubles), now)
        else:
            self._move_on(number, now)

    def _silence(self, question: _Question, server: Server) -> str:
        """Say what a server did instead of answering."""
        tries = f"{question.tries} {'try' if question.tries == 1 else 'tries'}"
        if not question.faults:
            text = f"{server.name} has not answered in {tries}"
            if server.fault_ms >= question.first_ms:
                text += f", and has sent what is no answer to anything: {server.fault}"
            return text
        found = "; ".join(f"{text} ({count})" if count > 1 else text for text, count in question.faults.items())
        return f"{server.name} has sent what is no answer in {tries}: {found}"

    def _blame(self, server: Server, since_ms: float, detail: str, now: Now) -> None:
        server.trouble = detail
        if server.failed(since_ms, now.ms + self._manner.dead_ms):
            self._note("warning", "radius.server_dead", server, detail=detail)
        if server.is_name and not any(port.asked for port in server.ports.values()):
            self._close_ports(server)  # its name is looked up again with the next socket

    def _close_ports(self, server: Server) -> None:
        for port in server.ports.values():
            self.out.append(ClosePort(server.number, port.number))
        server.ports.clear()

    def _leave(self, question: _Question) -> None:
        """Give the identifier back."""
        if question.port is not None and question.request is not None:
            question.port.give_back(question.id, question.request)
            question.port = None

    def _over(self, number: int, answer: object, detail: str, now: Now, *, is_asked: bool = True) -> None:
        question = self._questions.pop(number)
        self._leave(question)
        for server in self.servers.values() if answer is None else ():
            if server.probe == number:
                server.probe = 0
        question.told(Outcome(answer, question.server, detail, now.ms - question.began_ms, is_asked), now)

    # --- what comes back ----------------------------------------------------------------------------------

    def heard(self, server_number: int, port_number: int, data: bytes, now: Now) -> None:
        """Take a datagram from a server's address."""
        server = self.servers[server_number]
        port = server.ports.get(port_number)
        if port is None:
            return
        identifier = data[1] if len(data) > 1 else 0
        number = port.asked.get(identifier, 0)
        question = self._questions.get(number)
        if question is None or question.request is None:
            self._unexpected(server, port.before.get(identifier), data, now)
            return
        try:
            found = answer_untrusted(
                question.request,
                data,
                needs_signature=server.purpose is not Purpose.ACCOUNT and not self._manner.accepts_unsigned,
            )
            answer = question.read(found)
        except BadPacket as error:
            if error.fault is Fault.AUTHENTICATOR and self._is_late(port.before.get(identifier), data):
                server.counters.late += 1
                return
            self._count_fault(server, error, now)
            if len(question.faults) < 4 or str(error) in question.faults:
                question.faults[str(error)] = question.faults.get(str(error), 0) + 1
            return
        sent_ms = question.first_ms if question.tries == 1 else None
        if server.answered(now.ms, sent_ms):
            self._note("info", "radius.server_back", server)
        self._over(number, answer, "; ".join(question.troubles), now)

    @staticmethod
    def _is_late(before: Request | None, data: bytes) -> bool:
        """Whether it is the answer to what had the identifier before."""
        if before is None:
            return False
        try:
            answer_untrusted(before, data, needs_signature=False)
        except BadPacket:
            return False
        return True

    def _unexpected(self, server: Server, before: Request | None, data: bytes, now: Now) -> None:
        """Count a datagram that nobody waits for."""
        try:
            if before is None:
                split_untrusted(data)
                raise BadPacket(Fault.MALFORMED, "nothing was asked under its identifier")
            answer_untrusted(before, data, needs_signature=False)
        except BadPacket as error:
            self._count_fault(server, error, now)
        else:
            server.counters.late += 1

    def _count_fault(self, server: Server, error: BadPacket, now: Now) -> None:
        server.sent_fault(error.fault.value, str(error), now.ms)
        self._note("warning", "radius.bad_answer", server, detail=str(error))

    def unreachable(self, server_number: int, port_number: int, detail: str, now: Now) -> None:
        """The kernel says that nobody is there: whoever waits at this socket turns to the next server."""
        server = self.servers[server_number]
        port = server.ports.get(port_number)
        if port is None or not port.asked:
            return
        text = f"{server.name}: {detail}"
        numbers = list(port.asked.values())
        for number in numbers:
            question = self._questions[number]
            self._leave(question)
            question.troubles.append(text)
        server.counters.refused += len(numbers)
        self._blame(server, now.ms, text, now)
        for number in numbers:
            self._move_on(number, now)

    # --- now and then ---------------------------------------------------------------------------------------

    def sweep(self, now: Now) -> None:
        """Close sockets that have nothing to do."""
        self._notes.clear()
        for server in self.servers.values():
            self.out += [ClosePort(server.number, port.number) for port in server.idle(now.ms)]

    def _note(self, level: str, event: str, server: Server, **fields: str) -> None:
        self._notes[event] += 1
        if self._notes[event] <= bounds.NOTES_A_MINUTE:
            self.out.append(Note(level, event, {"server": server.name, "purpose": server.purpose.value, **fields}))
