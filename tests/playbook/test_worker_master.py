"""The worker master: who is forked, who is introduced, who is told, when."""

import signal

import pytest

from tlspool_common.messages import PROTOCOL, MasterHello, MasterLeaves, RetireWorker, SpawnWorkers, WorkerGone
from tlspool_worker import master as m
from tlspool_worker.master import BrokerConnected, BrokerLost, BrokerSaid, ChildEnded, Forked, ForkFailed, StopAsked


class Story:
    """A master with two warm workers, and a clock that stands still unless moved."""

    def __init__(self, warm=2):
        self.now_ms = 1000
        self.core = m.MasterCore(77, warm, lambda: self.now_ms)
        self.pid = 100

    def forks(self, effects):
        """Carry out the forks among effects; return what follows from them."""
        follow = []
        for effect in effects:
            if isinstance(effect, m.Fork):
                self.pid += 1
                follow += self.core.handle(Forked(self.pid))
        return follow

    def begun(self):
        self.forks(self.core.start())
        return self.core.handle(BrokerConnected())


def without_notes(effects):
    return [effect for effect in effects if not isinstance(effect, m.Note)]


@pytest.fixture
def story():
    return Story()


def test_workers_are_warm_before_the_broker_is_there(story):
    assert story.core.start() == [m.Fork(), m.Fork(), m.Connect(0)]
    assert story.forks([m.Fork(), m.Fork()]) == []
    assert without_notes(story.core.handle(BrokerConnected())) == [
        m.SendBroker(MasterHello(protocol=PROTOCOL, pid=77)),
        m.Introduce(101),
        m.Introduce(102),
    ]


def test_a_worker_born_while_connected_is_introduced_at_once(story):
    story.begun()
    effects = story.core.handle(BrokerSaid(SpawnWorkers(count=1)))
    assert effects == [m.Fork()]
    assert story.forks(effects) == [m.Introduce(103)]


def test_how_a_worker_ended_is_told_and_counted(story):
    story.begun()
    note, forget, told = story.core.handle(ChildEnded(101, 137))
    assert forget == m.Forget(101)
    assert (note.level, note.event, note.fields["status"]) == ("error", "worker.gone", 137)
    assert isinstance(told, m.SendBroker)
    assert isinstance(told.message, WorkerGone)
    assert (told.message.worker_id, told.message.status) == (101, 137)
    assert "SIGKILL" in told.message.meaning
    note, _, _ = story.core.handle(ChildEnded(102, 0))
    assert note.level == "debug"
    assert sum(story.core.endings.values()) == 2
    assert story.core.children == []


def test_a_worker_that_dies_before_the_broker_knew_it_is_only_forgotten(story):
    story.forks(story.core.start())
    assert without_notes(story.core.handle(ChildEnded(101, 1))) == [m.Forget(101)]


def test_a_child_of_somebody_else_is_no_worker(story):
    story.begun()
    assert story.core.handle(ChildEnded(4711, 0)) == []


def test_retiring_is_a_request_and_killing_is_not(story):
    story.begun()
    assert story.core.handle(BrokerSaid(RetireWorker(worker_id=101, kill=False))) == [m.Kill(101, signal.SIGHUP)]
    assert story.core.handle(BrokerSaid(RetireWorker(worker_id=102, kill=True))) == [m.Kill(102, signal.SIGKILL)]
    assert story.core.handle(BrokerSaid(RetireWorker(worker_id=9, kill=True))) == []
    assert [child.retired for child in story.core.children] == [True, True]


@pytest.mark.parametrize("died_first", [True, False])
def test_a_broker_that_comes_in_place_of_one_that_died_gets_its_workers_and_fresh_ones(story, died_first):
    story.begun()
    assert story.core.handle(m.Welcomed()) == []
    happened = [BrokerLost("gone"), m.BrokerDied()]
    effects = [effect for event in happened[:: -1 if died_first else 1] for effect in story.core.handle(event)]
    away = [effect for effect in effects if isinstance(effect, m.TellAway)]
    assert away == [m.TellAway(101), m.TellAway(102)]
    assert m.Connect(m.RETRY_MS[0]) in effects
    effects = story.core.handle(BrokerConnected())
    assert [effect for effect in effects if isinstance(effect, m.Fork)] == [m.Fork(), m.Fork()]
    introduced = [effect for effect in effects if isinstance(effect, m.Introduce)]
    assert introduced == [m.Introduce(101, again=True), m.Introduce(102, again=True)]


def test_a_broker_that_closes_our_connection_keeps_its_workers(story):
    story.begun()
    story.core.handle(m.Welcomed())
    effects = story.core.handle(BrokerLost("it has another master"))
    assert without_notes(effects) == [m.Connect(m.RETRY_MS[0])]
    effects = story.core.handle(m.BrokerDied())  # later
    assert without_notes(effects) == [m.TellAway(101), m.TellAway(102)]


def test_a_broker_that_has_not_taken_us_is_taken_for_dead_when_it_goes(story):
    story.begun()
    effects = story.core.handle(BrokerLost("gone"))
    assert without_notes(effects) == [m.TellAway(101), m.TellAway(102), m.Connect(m.RETRY_MS[0])]
    assert not any(isinstance(effect, m.TellAway) for effect in story.core.handle(BrokerLost("still")))


def test_a_worker_that_the_broker_never_knew_is_not_told(story):
    story.forks(story.core.start())
    story.core.handle(BrokerLost("nobody listens"))
    assert without_notes(story.core.handle(m.BrokerDied())) == []


def test_workers_of_an_earlier_master_are_kept_and_introduced(story):
    story.begun()
    [note] = story.core.handle(m.Kept(55, 7))
    assert note.event == "worker.kept"
    assert story.core.handle(BrokerSaid(RetireWorker(worker_id=55, kill=True))) == [m.Kill(55, signal.SIGKILL)]
    effects = story.core.handle(BrokerConnected())
    assert m.Introduce(55, again=True, protocol=7) in effects
    assert without_notes(story.core.handle(m.ChannelOver(55))) == [m.Forget(55)]
    assert [child.pid for child in story.core.children] == [101, 102]
    assert story.core.handle(m.ChannelOver(55)) == []


def test_a_child_that_the_broker_has_let_go_is_not_introduced_again_and_still_reaped(story):
    story.begun()
    assert story.core.handle(m.ChannelOver(101)) == [m.Forget(101)]
    effects = story.core.handle(BrokerConnected())
    assert [effect.pid for effect in effects if isinstance(effect, m.Introduce)] == [102]
    assert m.Forget(101) in story.core.handle(ChildEnded(101, 0))


def test_the_pauses_grow_and_are_noted_once(story):
    story.core.start()
    waits, notes = [], 0
    for _ in range(8):
        effects = story.core.handle(BrokerLost("nobody listens"))
        waits += [effect.delay_ms for effect in effects if isinstance(effect, m.Connect)]
        notes += any(isinstance(effect, m.Note) for effect in effects)
    assert waits == [*m.RETRY_MS, *[m.RETRY_MS[-1]] * 3]
    assert notes == 1


def test_there_is_an_upper_bound(story):
    story.begun()
    effects = story.core.handle(BrokerSaid(SpawnWorkers(count=65535)))
    assert sum(isinstance(effect, m.Fork) for effect in effects) == m.WORKERS - 2
    assert any(isinstance(effect, m.Note) and effect.event == "worker.too_many" for effect in effects)
    assert not any(isinstance(e, m.Fork) for e in story.core.handle(BrokerSaid(SpawnWorkers(count=1))))


def test_a_fork_that_fails_is_said_and_makes_room(story):
    story.begun()
    story.core.handle(BrokerSaid(SpawnWorkers(count=m.WORKERS)))
    (note,) = story.core.handle(ForkFailed("Resource temporarily unavailable"))
    assert (note.level, note.event) == ("error", "worker.fork_failed")
    assert story.core.handle(BrokerSaid(SpawnWorkers(count=1))) == [m.Fork()]


def test_stopping_leaves_workers_to_the_broker_and_forks_no_more(story):
    story.begun()
    effects = without_notes(story.core.handle(StopAsked()))
    assert effects == [m.SendBroker(MasterLeaves()), m.End()]
    assert story.core.handle(BrokerSaid(SpawnWorkers(count=1))) == []


def test_so_many_workers_are_kept_ready_as_the_newest_settings_say(story):
    story.begun()
    story.core.keep_warm(4)
    effects = story.core.handle(BrokerConnected())  # as a new master: those that were introduced are the past
    assert [effect for effect in effects if isinstance(effect, m.Fork)] == [m.Fork()] * 4
    assert effects[1] == m.SendBroker(MasterHello(protocol=PROTOCOL, pid=77))
