"""The core of the helper for RADIUS on a clock and a network of the test's own; the spool is a real one.

world = World(tmp_path, authz=2)
world.server(1).behave = world.manners.rejects("no")
told = world.ask("User-Name=carol@example.net")
"""

from __future__ import annotations

import heapq
import itertools

from tests.fixtures import radius_codec as codec
from tests.fixtures.radius_process import account, question
from tests.fixtures.radius_server import SECRET, Manners
from tlspool_common.messages import (
    AccessTold,
    AccountSettled,
    AskRadius,
    RadiusHello,
    RadiusTold,
)
from tlspool_common.messages_radius import Status
from tlspool_radius import events as e
from tlspool_radius.asking import Manner
from tlspool_radius.core import Chance, RadiusCore
from tlspool_radius.servers import Purpose, Server
from tlspool_radius.spooler import Spooler

WALL_MS = 1_800_000_000_000
REFUSED = "refused"


class FakeServer:
    """A server on the other side.  ``behave`` None: silence; REFUSED: nobody listens.  ``heard``: packets to it."""

    def __init__(self, manners: Manners) -> None:
        self.behave = manners.accepts()
        self.latency_ms = 1.0
        self.heard: list[codec.Packet] = []
        self.times: list[float] = []
        self.places: list[tuple[int, int]] = []


class World:
    def __init__(self, tmp_path=None, authn=0, authz=0, acct=0, most=1_000_000, dynamic=None, secrets=SECRET, **manner):
        self.manners = Manners()
        self.now_ms = 1000.0
        self._order = itertools.count()
        self._due: list = []
        self.told: dict[int, object] = {}
        self.notes: list[e.Note] = []
        self.replies: list[tuple] = []
        self.questions: list[e.Send] = []
        self.closed: list[tuple[int, int]] = []
        self.kept: list = []
        self._last = 0
        self.names = {}
        self.chance = 0.0
        counts = ((Purpose.AUTHENTICATE, authn), (Purpose.AUTHORIZE, authz), (Purpose.ACCOUNT, acct))
        servers = []
        for purpose, count in counts:
            for place in range(count):
                servers.append(Server(len(servers) + 1, purpose, f"192.0.2.{place + 1}", 1812, secrets, 7))
        self.servers = {one.number: one for one in servers}
        self.fakes = {one.number: FakeServer(self.manners) for one in servers}
        counter = itertools.count(1)
        chance = Chance(lambda: next(counter).to_bytes(16, "big"), lambda: self.chance)
        self.spooler = Spooler(tmp_path, most, self._from_spool) if acct else None
        self._spooled: list[e.Event] = []
        self._jobs: list = []
        self.core = RadiusCore(servers, Manner(**manner), dynamic or {}, chance, 4711)
        self._carry_out(self.core.begin())
        self.settle()

    # --- the machine ----------------------------------------------------------------------------------------

    @property
    def now(self) -> e.Now:
        return e.Now(self.now_ms, WALL_MS + int(self.now_ms))

    def _from_spool(self, event) -> None:
        self._spooled.append(event)

    def happened(self, event) -> None:
        self._carry_out(self.core.handle(event, self.now))

    def settle(self) -> None:
        """Let the spool do what it was given."""
        while self._jobs or self._spooled:
            jobs, self._jobs = self._jobs, []
            if jobs:
                self.spooler.do(jobs)
            events, self._spooled = self._spooled, []
            for event in events:
                self.happened(event)

    def _later(self, delay_ms: float, event) -> None:
        heapq.heappush(self._due, (self.now_ms + delay_ms, next(self._order), event))

    def _carry_out(self, effects) -> None:
        for effect in effects:
            match effect:
                case e.Send(message, exchange):
                    if exchange in self.told:
                        raise AssertionError(f"a second answer: {message}")
                    if type(message).__name__ == "DynamicAsked":
                        self.questions.append(effect)
                    elif isinstance(message, RadiusHello):
                        self.hello = message
                    else:
                        self.told[exchange] = message
                case e.Transmit(number, port, _, data):
                    self._transmit(number, port, data)
                case e.Arm(timer, delay_ms):
                    self._later(delay_ms, e.TimerFired(timer))
                case e.ClosePort(server, port):
                    self.closed.append((server, port))
                case e.Note():
                    self.notes.append(effect)
                case e.Reply(source, data):
                    self.replies.append((source, data))
                case _:
                    self._jobs.append(effect)

    def _transmit(self, number: int, port: int, data: bytes) -> None:
        fake = self.fakes[number]
        packet = codec.parse(data)
        fake.heard.append(packet)
        fake.times.append(self.now_ms)
        fake.places.append((port, packet.id))
        if fake.behave == REFUSED:
            self._later(0, e.Unreachable(number, port, "nobody listens there"))
        elif fake.behave is not None:
            for answer in fake.behave(packet):
                self.manners.said.append(answer)
                self._later(fake.latency_ms, e.Heard(number, port, answer))

    def advance(self, ms: float) -> None:
        """Let time go by: everything that is due happens when it is due."""
        until_ms = self.now_ms + ms
        self.settle()
        while self._due and self._due[0][0] <= until_ms:
            at_ms, _, event = heapq.heappop(self._due)
            self.now_ms = max(self.now_ms, at_ms)
            self.happened(event)
            self.settle()
        self.now_ms = until_ms

    # --- the broker -----------------------------------------------------------------------------------------

    def say(self, message) -> int:
        self._last += 1
        self.happened(e.BrokerSaid(message, self._last))
        return self._last

    def question(self, *attributes, **options) -> int:
        return self.say(question(*attributes or ("User-Name=carol@example.net",), **options))

    def wait(self, exchange: int, most_ms: float = 120_000) -> object:
        """Let time go by until something is answered; how long it took is in ``took_ms``."""
        began_ms = self.now_ms
        self.settle()
        while exchange not in self.told:
            assert self._due and self._due[0][0] <= began_ms + most_ms, "it is never answered"
            self.advance(self._due[0][0] - self.now_ms)
        self.took_ms = self.now_ms - began_ms
        return self.told[exchange]

    def ask(self, *attributes, **options) -> AccessTold:
        told = self.wait(self.question(*attributes, **options))
        assert isinstance(told, AccessTold)
        return told

    def account(self, status: Status, acct_id: str, **fields):
        fields.setdefault("at_ms", self.now.wall_ms)
        return self.wait(self.say(account(status, acct_id, **fields)))

    def settled(self) -> None:
        self.happened(e.BrokerSaid(AccountSettled(at_ms=self.now.wall_ms), 0))
        self.settle()

    def look(self, after=0, count=50, retry=False) -> RadiusTold:
        told = self.wait(self.say(AskRadius(after=after, count=count, retry=retry)))
        assert isinstance(told, RadiusTold)
        return told

    def server(self, number: int) -> FakeServer:
        return self.fakes[number]

    def said(self, event: str) -> list[dict]:
        return [note.fields for note in self.notes if note.event == event]

    def records(self, number: int = 1) -> list[tuple[str, int]]:
        """Return what a server has heard of accounting: (id, status), packets that were repeated once."""
        found = dict.fromkeys(
            (one.text(codec.RECORD_ID), one.text(44), one.number(40)) for one in self.fakes[number].heard
        )
        return [one[1:] for one in found]

    def close(self) -> None:
        if self.spooler is not None:
            self.spooler._close()
