"""Who shares a worker, how many there are, and masters that come and go."""

import sys

import pytest

from tests.playbook.broker import SERVER, World
from tlspool_broker.events import (
    AdoptWorker,
    AppFrame,
    Clock,
    ClosePeer,
    CloseWorker,
    DropFd,
    JoinKeyd,
    KeepWorker,
    MasterSaid,
    PeerId,
    SendMaster,
    Timer,
    TimerFired,
    WorkerSaid,
)
from tlspool_common.appwire import Cmd, Frame, Starttls
from tlspool_common.messages import (
    PROTOCOL,
    ClientHelloSeen,
    HandshakeFailed,
    MasterHello,
    RetireWorker,
    SessionEnded,
    WorkerBorn,
    WorkerGone,
)


def workers_of(world, *session_ids):
    return [world.session(session_id).worker.worker_id for session_id in session_ids]


def retired(world):
    found = [effect.message for effect in world.of(SendMaster)]
    return [message for message in found if isinstance(message, RetireWorker)]


@pytest.fixture
def make(no_leaks):
    made = []

    def build(*args, **options):
        made.append(World(*args, **options))
        return made[-1]

    yield build
    for world in made:
        world.close()


def test_isolation_by_application(make):
    """Users never share a worker; a user has at most workers_per_application, evenly loaded."""
    world = make("workers_per_application 2\nworkers 2\n")
    one, two = world.app(1000), world.app(1001)
    first = world.starttls(one, reqid=1)
    assert world.spawned() == 0  # the master is left alone for a moment after its hello
    world.later(200)
    assert world.spawned() == 1
    world.worker_comes()
    second = world.starttls(one, reqid=2)
    assert world.spawned() == 1
    world.worker_comes()
    others = [world.starttls(two, reqid=number) for number in range(4)]
    world.worker_comes()
    world.worker_comes()
    more = [world.starttls(one, reqid=number) for number in range(3, 9)]
    mine, theirs = workers_of(world, first, second, *more), workers_of(world, *others)
    assert not set(mine) & set(theirs)
    assert sorted(mine) == [1] * 4 + [2] * 4
    assert len(set(theirs)) == 2


def test_isolation_by_connection(make):
    world = make("isolation connection\nworkers 2\n")
    app = world.app()
    first, second = world.starttls(app, reqid=1), world.starttls(app, reqid=2)
    third = world.starttls(app, reqid=3)
    assert workers_of(world, first, second) == [1, 2]
    assert world.state(third) == "EXPECT_WORKER"
    assert world.spawned() == 3  # one for it, and two that are warm
    world.worker_comes()
    assert workers_of(world, third) == [3]
    world.say(first, HandshakeFailed)
    assert retired(world) == [RetireWorker(worker_id=1, kill=False)]
    world.worker_comes()
    fourth = world.starttls(app, reqid=4)
    assert workers_of(world, fourth) == [4]  # never one that was used


def test_isolation_pool(make):
    world = make("isolation pool\nworkers 2\n")
    sessions = [world.starttls(world.app(uid)) for uid in (1, 2, 3, 4)]
    assert sorted(workers_of(world, *sessions)) == [1, 1, 2, 2]
    world.later(200)
    assert world.spawned() == 0
    world.worker_goes(world.session(sessions[0]).worker.number)
    assert world.spawned() == 1
    world.worker_goes(next(iter(world.core.workers)).number)
    assert world.spawned() == 1


def test_sessions_that_wait_get_the_workers_that_come(make):
    world = make(workers=0)
    one, two = world.app(1), world.app(2)
    first, second = world.starttls(one, reqid=1), world.starttls(one, reqid=2)
    assert world.spawned() == 0  # asked already, for the first
    other = world.starttls(two)
    assert world.spawned() == 1
    world.worker_comes()
    assert [world.state(number) for number in (first, second, other)] == [
        "EXPECT_CLIENT_HELLO",
        "EXPECT_CLIENT_HELLO",
        "EXPECT_WORKER",
    ]
    world.worker_comes()
    assert world.state(other) == "EXPECT_CLIENT_HELLO"


def test_users_take_turns_when_workers_are_scarce(make):
    world = make("isolation connection\nworkers 1\n", workers=0)
    greedy, modest = world.app(1), world.app(2)
    many = [world.starttls(greedy, reqid=number) for number in range(10)]
    one = world.starttls(modest)
    world.worker_comes()
    world.worker_comes()
    assert [world.state(number) for number in (many[0], many[1], one)] == [
        "EXPECT_CLIENT_HELLO",
        "EXPECT_WORKER",
        "EXPECT_CLIENT_HELLO",
    ]
    world.worker_comes()
    assert world.state(many[1]) == "EXPECT_CLIENT_HELLO"


def test_no_master(make):
    world = make(workers=None)
    app = world.app()
    session_id = world.starttls(app)
    assert not world.of(SendMaster)
    world.later(1000)
    world.master_comes()
    assert world.spawned() == 3  # one for it, and two that are warm
    world.worker_comes()
    assert world.state(session_id) == "EXPECT_CLIENT_HELLO"


def test_what_was_asked_for_and_did_not_come_is_asked_for_again(make):
    world = make(workers=0)
    world.later(200)
    assert world.spawned() == 2
    world.later(4999)
    assert world.spawned() == 0
    world.later(1)
    assert world.spawned() == 2


def test_a_worker_that_cannot_start_is_no_storm(make):
    world = make("workers 1\n", workers=0)
    world.later(200)
    asked = 0
    for _ in range(100):
        world.worker_goes(world.worker_comes())
        asked += world.spawned()
        world.later(100)
        asked += world.spawned()
    assert asked <= 11  # in ten seconds


def test_workers_that_die_with_their_first_session_are_no_storm(make):
    """Sessions wait in turn; a worker that has lived for long begins the count anew."""
    world = make("workers 1\nhandshake_timeout_s 600\ndaemon_wait_s 600\n", workers=0)
    app = world.app()
    world.later(200)
    asked = 0
    for number in range(100):
        world.starttls(app, reqid=number + 1)
        worker = world.worker_comes()
        asked += world.spawned()
        world.worker_goes(worker)
        world.later(100)
        asked += world.spawned()
    assert asked <= 20  # in ten seconds, where each death alone would be followed by a fork at once
    world.later(1000)
    old = world.worker_comes()
    world.later(1000)
    world.spawned()
    world.worker_goes(old)
    assert world.spawned() == 1


def test_idle_workers_are_given_back(make):
    world = make("workers 1\n", workers=1)
    app = world.app()
    session_id = world.starttls(app)
    world.later(200)
    world.worker_comes()
    world.say(session_id, HandshakeFailed)
    world.later(55_000)
    assert not [note for note in world.of(SendMaster) if isinstance(note.message, RetireWorker)]
    effects = world.later(20_000)
    assert [effect.message for effect in effects if isinstance(effect, SendMaster)] == [
        RetireWorker(worker_id=1, kill=False)
    ]
    assert len(world.core.workers) == 2  # it is there until its channel closes
    world.starttls(app)
    assert workers_of(world, 2) == [2]


def test_a_busy_worker_is_not_given_back(make):
    world = make("workers 1\n", workers=1)
    app = world.app()
    session_id = world.relaying(app)
    world.later(1_000_000)
    assert world.state(session_id) == "RELAYING"
    assert not retired(world)


@pytest.mark.parametrize("mode", ["application", "connection", "pool"])
def test_a_master_that_comes_back(make, mode):
    """Workers of the old one finish what they have, and get nothing new."""
    world = make(f"isolation {mode}\n")
    app = world.app()
    session_id = world.relaying(app)
    old_master, old_worker = world.master, world.session(session_id).worker
    world.master_goes()
    assert not world.core.workers.has_master
    assert world.state(session_id) == "RELAYING"
    world.master_comes()
    assert not world.of(ClosePeer)
    assert len(world.of(CloseWorker)) == 1  # the one that had nothing to do
    assert len(world.core.workers) == 1
    assert world.of(KeepWorker) == [KeepWorker(world.master, old_worker.number, old_worker.worker_id, old_worker.pid)]
    world.worker_comes()
    assert world.of(AdoptWorker)
    second = world.starttls(app, reqid=2)
    assert world.session(second).worker.number != old_worker.number
    world.say(session_id, SessionEnded)
    assert world.of(CloseWorker) == [CloseWorker(old_worker.number)]
    assert old_master != world.master


def test_a_master_that_takes_the_place_of_one_that_seems_alive(make):
    world = make()
    old = world.master
    world.master_comes()
    assert world.of(ClosePeer) == [ClosePeer(old)]


def test_without_a_master_idle_workers_stay(make):
    world = make("workers 1\n", workers=1)
    app = world.app()
    session_id = world.starttls(app)
    world.master_goes()
    world.say(session_id, HandshakeFailed)
    world.later(200_000)
    again = world.starttls(app)
    assert world.state(again) == "EXPECT_CLIENT_HELLO"


def test_without_a_master_a_worker_for_one_connection_ends(make):
    world = make("isolation connection\nworkers 1\n", workers=1)
    session_id = world.starttls(world.app())
    number = world.session(session_id).worker.number
    world.master_goes()
    world.say(session_id, HandshakeFailed)
    assert world.of(CloseWorker) == [CloseWorker(number)]
    assert len(world.core.workers) == 0


def test_a_master_of_another_protocol(make):
    world = make()
    world.happen(MasterSaid(PeerId(99), MasterHello(protocol=PROTOCOL + 1, pid=1)))
    assert world.of(ClosePeer) == [ClosePeer(PeerId(99))]
    assert world.core.workers.has_master


@pytest.mark.parametrize("whose", ["unknown", "twice"])
def test_workers_that_are_not_believed(make, whose):
    world = make()
    peer = PeerId(99) if whose == "unknown" else world.master
    world.happen(MasterSaid(peer, WorkerBorn(worker_id=1, pid=7), world.fd().fd))
    assert world.of(DropFd)
    assert not world.of(AdoptWorker)
    assert len(world.core.workers) == 2


def test_a_worker_number_may_be_used_again_when_its_worker_is_gone(make):
    world = make()
    world.worker_goes(next(iter(world.core.workers)).number)
    world.worker_comes(1)
    assert world.of(AdoptWorker)
    assert world.of(JoinKeyd)


def test_a_worker_without_a_channel_ends_its_master(make):
    world = make()
    world.happen(MasterSaid(world.master, WorkerBorn(worker_id=9, pid=7), None))
    assert world.of(ClosePeer) == [ClosePeer(world.master)]
    assert not world.core.workers.has_master


@pytest.mark.parametrize(("status", "level"), [(0, "debug"), (137, "error")])
def test_how_workers_ended_is_logged(make, status, level):
    world = make()
    world.happen(MasterSaid(world.master, WorkerGone(worker_id=1, status=status, meaning="killed")))
    [note] = [note for note in world.notes if note.event == "worker.gone"]
    assert (note.level, note.fields["status"]) == (level, status)


def test_events_take_no_longer_with_many_sessions(make):
    """What one event does must not depend on how many sessions there are: lines are counted, not time."""
    world = make("max_requests_per_connection 5000\n")
    app = world.app()

    def lines_of(event):
        lines = 0

        def trace(_frame, _event, _argument):
            nonlocal lines
            lines += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            effects = world.core.handle(event, world.now_ms)
        finally:
            sys.settrace(before)
        world.fds += [effect.fd for effect in effects if getattr(effect, "fd", None)]
        return lines

    def measured(reqid):
        """Lines run for a request, a message of its worker, and a timer."""
        request = Starttls(flags=SERVER, localid="localhost", ctlkey=(2**64 + reqid).to_bytes(16))
        asked = lines_of(AppFrame(app, Frame(reqid, 0, Cmd.STARTTLS, request.to_payload().ljust(380)), world.fd()))
        session = next(reversed(world.core.sessions._by_id.values()))
        said = WorkerSaid(session.worker.number, ClientHelloSeen(session_id=session.session_id, sni="", alpn=b""))
        return asked, lines_of(said), lines_of(TimerFired(Timer(Clock.SESSION, session.session_id)))

    def least(start):
        """Of several, because the collector of garbage may run in any of them."""
        return [min(counts) for counts in zip(*(measured(start + number) for number in range(8)), strict=True)]

    measured(0)  # what is done once is done
    few = least(12)
    for number in range(20, 3000):
        world.starttls(app, reqid=number)
    many = least(3000)
    assert all(later <= earlier + 5 for earlier, later in zip(few, many, strict=True)), (few, many)
