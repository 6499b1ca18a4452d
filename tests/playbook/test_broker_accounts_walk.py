"""Whatever happens in whatever order, accounts come out even.

Sessions begin, are let in or not, relay, are changed and end; workers and helpers come and go; records can be kept, or
not.  A spool that does what the helper's does (a START that it knows, and whatever comes behind a STOP, changes
nothing) has in the end one START and one STOP of each session that relayed, and nobody waits for anything any more.
"""

import random
from collections import Counter

import pytest

from tests.playbook.broker import World
from tests.playbook.test_broker_accounting import BOTH, dynamic, moves
from tlspool_broker.events import Began, Clock, HelperSaid, KillAsked, SendWorker, SessionId
from tlspool_broker.helper import PAUSE_MS
from tlspool_broker.radius import AGAIN_MS
from tlspool_broker.session import State
from tlspool_common.appwire import Cmd
from tlspool_common.errors import Code
from tlspool_common.messages import (
    Access,
    Account,
    Accounted,
    AskTraffic,
    ClientHelloSeen,
    EndKept,
    EndReason,
    HandshakeDone,
    SessionEnded,
)
from tlspool_common.messages_radius import Dynamic, Status

STEPS = 500
RULES = "radius lax service=lax unanswered=accept\nradius free service=free acct=no\n"


HAPPENS = {
    "begin": 8, "hello": 8, "done": 8, "accept": 12, "keep": 12, "answer": 12, "traffic": 8, "end": 1, "kill": 0.5,
    "gone": 0.5, "time": 6, "worker": 0.2, "helper": 1, "disconnect": 0.7, "change": 1, "reject": 0.7, "refuse": 0.7,
}  # fmt: skip
"""How likely what is."""


class Walk:
    """A world, and a spool that is played."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.world = World(BOTH + RULES, workers=2)
        self.world.happen(Began())
        self.world.radius_comes()
        self.there = True
        self.records = {}  # by Acct-Session-Id, what has been kept
        self.relayed = set()
        self.kept = set()
        self.told = set()
        self.asked = Counter()
        self.apps = {}
        self.open = {}  # requests by session
        self.seen = 0

    def look(self, effects):
        """Take note of what workers are told, and of a helper that is not believed any more."""
        self.there = self.world.core.radius.helper.ready
        self.world.asked = [one for one in self.world.asked if self.there and one.helper == self.world.radius]
        for effect in effects:
            if isinstance(effect, SendWorker) and isinstance(effect.message, EndKept):
                assert effect.message.session_id in self.told, "nobody has told its end"
                self.kept.add(effect.message.session_id)
            if isinstance(effect, SendWorker) and isinstance(effect.message, AskTraffic):
                self.asked[effect.message.session_id] += 1

    def step(self):
        sessions = list(self.world.core.sessions)
        [what] = self.chance.choices(list(HAPPENS), HAPPENS.values())
        getattr(self, what)(sessions)
        self.look(self.world.effects)

    def _one(self, sessions, *states):
        found = [one for one in sessions if one.state in states]
        return self.chance.choice(found) if found else None

    def begin(self, _sessions):
        app = self.world.app()
        service = self.chance.choice(["smtp", "smtp", "lax", "free"])
        number = self.world.starttls(app, service=service)
        if number is not None and self.world.session(number).exchange is not None:
            self.apps[number] = app

    def hello(self, sessions):
        if one := self._one(sessions, State.EXPECT_CLIENT_HELLO):
            self.world.say(one.session_id, ClientHelloSeen)

    def done(self, sessions):
        if one := self._one(sessions, State.EXPECT_HANDSHAKE):
            names = ("email:john@example.com",)
            self.world.say(one.session_id, HandshakeDone, remote_names=names, remote_verified=True)

    def _questions(self):
        return [one.exchange for one in self.world.access_asked()]

    def _told(self, access, **granted):
        if self.there and (open_now := self._questions()):
            exchange = self.chance.choice(open_now)
            self.world.asked = [one for one in self.world.asked if one.exchange != exchange]
            self.world.radius_says(access, exchange=exchange, **granted)

    def accept(self, _sessions):
        granted = {
            "session_timeout_s": self.chance.choice([0, 0, 5, 100]),
            "idle_timeout_s": self.chance.choice([0, 0, 7]),
            "interim_s": self.chance.choice([0, 60]),
            "terminate": self.chance.choice([0, 1]),
        }
        self._told(Access.ACCEPTED, **granted)

    def reject(self, _sessions):
        self._told(self.chance.choice([Access.REJECTED, Access.UNANSWERED]))

    def _records(self, code):
        """The helper answers some of the records that it has, in their order."""
        if not self.there:
            return
        given = [one for one in self.world.asked if isinstance(one.message, Account)]
        given = given[: self.chance.randint(1, 3)]
        for one in given:
            self.world.asked.remove(one)
            # The helper takes the STOP of what it has as open, however full it is.
            refused = code if one.message.status is not Status.STOP else 0
            if not refused:
                self._keep(one.message)
            told = Accounted(code=int(refused), detail="")
            self.look(self.world.happen(HelperSaid(self.world.radius, one.exchange, told)))

    def _keep(self, message):
        mine = self.records.setdefault(message.acct_id, [])
        if message.status is Status.START and mine:
            return
        if not mine or mine[-1].status is not Status.STOP:
            mine.append(message)

    def keep(self, _sessions):
        self._records(0)

    def refuse(self, _sessions):
        self._records(Code.ACCOUNT_SPOOL_FULL)

    def answer(self, sessions):
        one = self._one(sessions, State.EXPECT_PLAINTEXT)
        if one is None or one.exchange is None:
            return
        app, number = self.apps[one.session_id], one.session_id
        well = self.chance.random() < 0.9
        exchange = one.exchange
        payload = one.echo().to_payload()
        passed = self.world.fd() if well else None
        self.world.send(app, Cmd.PLAINTEXT_CONNECT, payload, reqid=exchange.reqid, cbid=exchange.cbid, passed=passed)
        if self.world.state(number) == "RELAYING":
            self.relayed.add(number)

    def traffic(self, sessions):
        asked = [one for one in sessions if self.asked[one.session_id] and one.state is State.RELAYING]
        if asked:
            one = self.chance.choice(asked)
            self.asked[one.session_id] -= 1
            moves(self.world, one.session_id, idle_ms=self.chance.choice([0, 0, 8_000]))

    def end(self, sessions):
        if one := self._one(sessions, State.RELAYING, State.EXPECT_END, State.EXPECT_PLAINTEXT):
            self._end(one)

    def _end(self, one):
        if one.established_ms:
            self.told.add(one.session_id)
        reason = self.chance.choice([each for each in EndReason if each is not EndReason.WORKER_LOST])
        self.look(self.world.say(one.session_id, SessionEnded, reason=reason))

    def kill(self, sessions):
        if sessions:
            self.world.happen(KillAsked(SessionId(self.chance.choice(sessions).session_id)))

    def gone(self, _sessions):
        if self.apps:
            number = self.chance.choice(sorted(self.apps))
            self.world.gone(self.apps.pop(number))

    def time(self, sessions):
        for one in sessions:  # workers do as they are told, as a rule
            if one.state is State.EXPECT_END and self.chance.random() < 0.9:
                self._end(one)
        self.look(self.world.later(self.chance.choice([100, 100, 100, 1_000, 1_000, 1_000, 6_000, 70_000])))
        self.world.effects = []

    def worker(self, _sessions):
        workers = list(self.world.core.workers)
        if workers:
            self.world.worker_goes(self.chance.choice(workers).number)
            self.look(self.world.effects)
            self.world.worker_comes()

    def helper(self, _sessions):
        if self.there:
            self.world.radius_goes()  # what it had not kept is lost with it
        else:
            self.come_back()

    def come_back(self):
        while self.world.core.radius.helper.state == "absent":
            self.look(self.world.later(PAUSE_MS[0]))
        if self.world.core.radius.helper.state == "starting":
            self.look(self.world.radius_comes())

    def _acct_id(self, sessions):
        found = [one.access.acct_id for one in sessions if one.access is not None]
        return self.chance.choice([*found, "none"])

    def disconnect(self, sessions):
        if self.there:
            dynamic(self.world, acct_id=self._acct_id(sessions))

    def change(self, sessions):
        if self.there:
            timeout = self.chance.choice([0, 3, 50])
            dynamic(
                self.world, Dynamic.CHANGE, acct_id=self._acct_id(sessions), changes=3, timeout=timeout, idle=timeout
            )

    def finish(self):
        """Let everything come to its end."""
        for one in self.world.core.sessions:
            self.look(self.world.happen(KillAsked(SessionId(one.session_id))))
        for one in self.world.core.sessions:
            if one.established_ms:
                self.told.add(one.session_id)
            self.look(self.world.say(one.session_id, SessionEnded, reason=EndReason.ORDERED))
        for _ in range(20):
            if not self.there:
                self.come_back()
            while any(isinstance(one.message, Account) for one in self.world.asked):
                self._records(0)
            self.look(self.world.later(AGAIN_MS))
            if not self.world.core.radius.records:
                break


def test_walks_get_about():
    """Most of what there is to see was seen."""
    seen = Counter()
    for seed in range(10):
        walk = walked(1000 + seed)
        seen["relayed"] += len(walk.relayed)
        seen["kept"] += len(walk.kept)
        seen.update(record.status.name for records in walk.records.values() for record in records)
        seen.update(record.cause for records in walk.records.values() for record in records if record.cause)
    assert seen["relayed"] > 50
    assert seen["kept"] > 20
    assert seen["INTERIM"] > 3
    assert len({one for one in seen if isinstance(one, int)}) > 5


def walked(seed):
    walk = Walk(seed)
    try:
        for _ in range(STEPS):
            walk.step()
        walk.finish()
    finally:
        walk.world.close()
    return walk


@pytest.mark.parametrize("seed", range(40))
def test_accounts_come_out_even(seed):
    walk = walked(seed)
    core = walk.world.core
    assert not list(core.sessions)
    assert not len(core.accounting)
    assert not core.radius.records
    assert not [timer for timer in walk.world.timers if timer.clock is Clock.ACCOUNTING]
    assert all("does not let go" in one["detail"] for one in walk.world.noted("worker.condemned"))
    numbers = {int(acct_id.rpartition("-")[2], 16): records for acct_id, records in walk.records.items()}
    for number, records in numbers.items():
        kinds = [record.status for record in records]
        assert kinds[-1] is Status.STOP, (number, kinds)
        assert kinds.count(Status.STOP) == 1
        assert kinds.count(Status.START) <= 1
        assert all(record.at_ms <= records[-1].at_ms for record in records)
    strict = {one["session"] for one in walk.world.noted("session.start") if one["service"] == "smtp"}
    for number in strict:
        assert next(record.status for record in numbers[number]) is Status.START
    free = {one["session"] for one in walk.world.noted("session.start") if one["service"] == "free"}
    assert not free & set(numbers)
    assert walk.kept <= walk.told
