"""A broker finds workers that an earlier one had: what they tell, what is believed, and what becomes of it."""

from dataclasses import replace

import pytest

from tests.playbook.broker import SERVER, World, kept_of
from tlspool_broker import kept
from tlspool_broker.events import (
    CloseWorker,
    DrainAsked,
    DropFd,
    FinishAsked,
    JoinKeyd,
    KeepWorker,
    MasterSaid,
    SendMaster,
    SendWorker,
    WelcomeMaster,
    WorkerSaid,
)
from tlspool_broker.lasting import BLOCK, Lasting
from tlspool_broker.rejoin import ANSWER_MS
from tlspool_broker.workers import LEFT_MS
from tlspool_common.appwire import Cmd, Control, Flag, Info, Starttls
from tlspool_common.infokind import InfoKind
from tlspool_common.messages import (
    PROTOCOL,
    AskedByRemote,
    AskFact,
    AskRemote,
    EndReason,
    HandshakeDone,
    HandshakeFailed,
    KeepRecord,
    MasterLeaves,
    PlainConnected,
    RemoteShown,
    RemoteTold,
    RetireWorker,
    SessionEnded,
    SessionHere,
    SessionsTold,
    Side,
    TellSessions,
    Told,
    UseCredential,
    WorkerBorn,
)

SECRET = b"a secret of the private directory"
FIRST = 1001
KEY = b"control key 0001"


def lasting(first, secret=SECRET):
    return Lasting(secret, iter(range(first, 10**9, BLOCK)).__next__)


@pytest.fixture
def make(no_leaks):
    made = []

    def build(*args, first=FIRST, secret=SECRET, workers=0, **options):
        made.append(World(*args, workers=workers, lasting=lasting(first, secret), **options))
        return made[-1]

    yield build
    for world in made:
        world.close()


def question(world):
    """Return the question that was asked of a worker just now."""
    [asked] = world.to_worker(TellSessions)
    return asked


def here(world, number, asked, session_id, record):
    message = SessionHere(nonce=asked.nonce, session_id=session_id, record=record)
    return world.happen(WorkerSaid(number, message))


def told(world, number, asked, last=0, more=False):
    return world.happen(WorkerSaid(number, SessionsTold(nonce=asked.nonce, last=last, more=more)))


def record_of(session_id, worker_id=7, secret=SECRET, **fields):
    return kept.seal(Lasting(secret, lambda: 1).key("records"), kept_of(session_id, worker_id, **fields))


def found(world, worker_id=7, sessions=(5,), **fields):
    """Have a worker come from an earlier broker, with sessions; return its number."""
    number = world.worker_comes_again(worker_id)
    asked = question(world)
    for session_id in sessions:
        here(world, number, asked, session_id, record_of(session_id, worker_id, **fields))
    told(world, number, asked, max(sessions, default=0))
    return number


def between(first, second, session_id, worker_id=7):
    """Hand a session over from a broker to a later one, as it was kept last; return the worker's number there."""
    record = [one.message for one in first.kept if one.message.session_id == session_id][-1].record
    number = second.worker_comes_again(worker_id)
    asked = question(second)
    here(second, number, asked, session_id, record)
    told(second, number, asked, session_id)
    return number


class Recorder(World):
    """Remembers what workers were told to keep."""

    kept = ()

    def happen(self, event):
        effects = super().happen(event)
        records = [one for one in effects if isinstance(one, SendWorker) and isinstance(one.message, KeepRecord)]
        self.kept = [*self.kept, *records]
        return effects


@pytest.fixture
def earlier(no_leaks):
    world = Recorder(workers=0, lasting=lasting(1))
    world.worker_comes(7)
    yield world
    world.close()


# --- what is told -----------------------------------------------------------------------------------


def test_a_session_goes_on_with_everything_that_was_known(make, earlier):
    app = earlier.app()
    session_id = earlier.relaying(app, ctlkey=KEY, remoteid="www.example.com", service="imap")
    before = earlier.session(session_id)
    assert KEY not in earlier.kept[-1].message.record
    world = make(records=earlier.records)
    number = between(earlier, world, session_id)
    after = world.session(session_id)
    now_ms = world.now_ms
    same = {name: value for name, value in before.row(now_ms).items() if name != "detached"}
    assert {name: after.row(now_ms)[name] for name in same} == same
    assert after.row(now_ms)["detached"]
    assert (after.generation, after.remoteid, after.verified) == (before.generation, "www.example.com", True)
    assert (after.caller.label, after.caller.uid, after.caller.unit) == (before.caller.label, 1000, "postfix.service")
    [noted] = world.noted("session.resumed")
    [started] = earlier.noted("session.start")
    assert {key: value for key, value in noted.items() if key != "age_s"} == {
        key: value for key, value in started.items() if key != "ms"
    }
    assert world.noted("worker.rejoined") == [{"worker": 7, "sessions": 1}]
    account = world.core.explain.get(session_id)
    assert account.accepted
    assert "before the broker was started again" in account.sentence
    world.happen(WorkerSaid(number, SessionEnded(
        session_id=session_id, reason=EndReason.CLEAN, from_remote_b=10, to_remote_b=20, detail=""
    )))  # fmt: skip
    [end] = world.noted("session.end")
    assert (end["from_remote_b"], end["to_remote_b"], end["localid"]) == (10, 20, "localhost")
    assert world.of(CloseWorker) == [CloseWorker(number)]  # it gets nothing new


def test_the_control_key_reattaches_and_questions_are_answered(make, earlier):
    session_id = earlier.relaying(earlier.app(), ctlkey=KEY)
    world = make(records=earlier.records)
    number = between(earlier, world, session_id)
    stranger, app = world.app(uid=1001), world.app()
    world.send(stranger, Cmd.CONTROL_REATTACH, Control(KEY).to_payload())
    assert world.error(stranger)[1] == 211
    world.send(app, Cmd.CONTROL_REATTACH, Control(bytes(16)).to_payload())
    assert world.error(app)[1] == 115
    world.send(app, Cmd.CONTROL_REATTACH, Control(KEY).to_payload())
    assert world.frames(app)[0].cmd == Cmd.SUCCESS
    world.send(app, Cmd.LOCAL_IDENTITIES, KEY)
    [frame] = world.frames(app)
    assert (frame.cmd, KEY in frame.payload, b"localhost" in frame.payload) == (Cmd.LOCAL_IDENTITIES, True, True)
    world.send(app, Cmd.INFO, Info(KEY, InfoKind.MYCERT_SUBJECT, None).to_payload())
    [asked] = world.to_worker(AskFact)
    world.happen(WorkerSaid(number, Told(session_id=session_id, question=asked.question, code=0, value=b"x")))
    assert world.frames(app)[0].cmd == Cmd.INFO
    other = world.app()
    world.starttls(other, ctlkey=KEY)
    assert world.error(other)[1] == 114
    world.gone(app)
    assert world.state(session_id) == "EXPECT_END"  # FORK was not asked for


def test_fork_counts_after_it_was_reattached(make, earlier):
    session_id = earlier.relaying(earlier.app(), ctlkey=KEY, flags=SERVER | Flag.FORK)
    world = make(records=earlier.records)
    between(earlier, world, session_id)
    app = world.app()
    world.send(app, Cmd.CONTROL_REATTACH, Control(KEY).to_payload())
    world.gone(app)
    assert world.state(session_id) == "RELAYING"


def test_a_key_that_was_free_again_stays_so(make):
    first = Recorder("session_end relay\n", workers=0, lasting=lasting(1))
    first.worker_comes(7)
    app = first.app()
    session_id = first.relaying(app, ctlkey=KEY)
    first.gone(app)
    world = make("session_end relay\n", records=first.records)
    between(first, world, session_id)
    app = world.app()
    world.send(app, Cmd.CONTROL_REATTACH, Control(KEY).to_payload())
    assert world.error(app)[1] == 115
    first.close()


def test_a_client_may_be_asked_again_and_a_server_may_ask(make, earlier):
    mine = earlier.app()
    client = earlier.starttls_client(mine)
    earlier.say(client, HandshakeDone)
    frame, _ = earlier.callback(mine)
    earlier.answer(mine, frame)
    server = earlier.relaying(earlier.app(), ctlkey=KEY)
    world = make(records=earlier.records)
    number = world.worker_comes_again(7)
    asked = question(world)
    records = {one.message.session_id: one.message.record for one in earlier.kept}
    for session_id in sorted(records):
        here(world, number, asked, session_id, records[session_id])
    told(world, number, asked, max(records))
    assert world.session(client).localid == "me.example"
    world.happen(WorkerSaid(number, AskedByRemote(session_id=client)))
    assert len(world.to_worker(UseCredential)) == 2
    app = world.app()
    world.send(app, Cmd.CONTROL_REATTACH, Control(KEY).to_payload())
    request = Starttls(flags=SERVER | Flag.RENEGOTIATE, ctlkey=KEY)
    world.send(app, Cmd.STARTTLS, request.to_payload(), reqid=3)
    [remote] = world.to_worker(AskRemote)
    answer = RemoteTold(
        session_id=server, question=remote.question, asked=True, code=0, detail="", remote_verified=True,
        remote_names=("email:john@example.com",), remote_subject="CN=john", remote_sha256=bytes(32),
    )  # fmt: skip
    world.happen(WorkerSaid(number, answer))
    assert world.session(server).remoteid == "john@example.com"
    [again] = world.to_worker(KeepRecord)  # so that the next broker knows it, too
    key = lasting(FIRST).key("records")
    assert kept.unseal_untrusted(key, again.record, server, 7).remoteid == "john@example.com"


def test_what_was_said_to_a_broker_that_died_is_dropped(make):
    world = make()
    number = world.worker_comes_again(7)
    asked = question(world)
    for stale in (
        HandshakeFailed(session_id=3, code=302, alert=255, detail=""),
        SessionEnded(session_id=4, reason=EndReason.CLEAN, from_remote_b=1, to_remote_b=2, detail=""),
        SessionsTold(nonce=asked.nonce ^ 1, last=9, more=False),
        SessionHere(nonce=asked.nonce ^ 1, session_id=5, record=b"x"),
        Told(session_id=4, question=1 << 31, code=0, value=b""),
    ):
        world.happen(WorkerSaid(number, stale))
    assert not world.noted("worker.condemned")
    here(world, number, asked, 5, record_of(5))
    world.say(5, RemoteShown)  # not ours to say, and not stale any more
    assert world.noted("worker.condemned")
    [end] = [one for one in world.noted("session.end") if one["session"] == 4]
    assert (end["from_remote_b"], end["to_remote_b"]) == (1, 2)


def test_an_end_that_is_told_once_more_is_logged_once(make):
    world = make()
    number = world.worker_comes_again(7)
    asked = question(world)
    ended = SessionEnded(session_id=5, reason=EndReason.CLEAN, from_remote_b=1, to_remote_b=2, detail="")
    other = SessionEnded(session_id=6, reason=EndReason.CLEAN, from_remote_b=3, to_remote_b=4, detail="")
    for early in (ended, other):
        world.happen(WorkerSaid(number, early))
    here(world, number, asked, 5, record_of(5))
    world.happen(WorkerSaid(number, ended))
    assert [one["session"] for one in world.noted("session.end")] == [5]
    told(world, number, asked, 5)
    assert [one["session"] for one in world.noted("session.end")] == [5, 6]


def test_a_word_about_a_session_of_earlier_that_comes_late_is_dropped(make):
    world = make()
    number = found(world)
    world.say(6, HandshakeDone, worker=number)
    assert not world.noted("worker.condemned")
    world.say(FIRST + 5, HandshakeDone, worker=number)
    assert world.noted("worker.condemned")


def test_a_session_may_end_while_others_are_told(make):
    world = make()
    number = world.worker_comes_again(7)
    asked = question(world)
    here(world, number, asked, 5, record_of(5))
    here(world, number, asked, 6, record_of(6))
    world.say(5, SessionEnded, worker=number)
    assert world.state(5) == "OVER"
    assert not world.of(CloseWorker)
    told(world, number, asked, 6, more=True)
    again = question(world)
    assert (again.nonce, again.after) == (asked.nonce, 6)
    here(world, number, again, 9, record_of(9))
    told(world, number, again, 9)
    assert sorted(session.session_id for session in world.core.sessions) == [6, 9]
    world.later(2 * ANSWER_MS)
    assert not world.noted("worker.let_go")


def test_an_idle_worker_is_let_go(make):
    world = make()
    number = found(world, sessions=())
    assert world.of(CloseWorker) == [CloseWorker(number)]
    assert len(world.core.workers) == 0


def test_a_worker_that_was_found_gets_nothing_new_and_keyd_by_a_channel_of_its_own(make):
    world = make("isolation pool\nworkers 1\n")
    number = world.worker_comes_again(7)
    assert [effect.worker_id for effect in world.of(JoinKeyd)] == [7]
    here(world, number, TellSessions(nonce=world.core.workers.get(number).nonce, after=0), 5, record_of(5))
    session_id = world.starttls(world.app())
    assert world.state(session_id) == "EXPECT_WORKER"
    assert world.spawned() > 0
    world.worker_comes(8)
    assert world.session(session_id).worker.worker_id == 8


# --- what is not believed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session_id", "record"),
    [
        (5, record_of(5)[:-1] + b"!"),
        (5, record_of(5)[:-40]),
        (5, record_of(5)[:9]),
        (5, record_of(6)),
        (5, record_of(5, worker_id=8)),
        (FIRST, record_of(FIRST)),
        (5, record_of(5, planned="a..b")),
    ],
)
def test_a_forged_record_ends_the_worker(make, session_id, record):
    world = make()
    number = world.worker_comes_again(7)
    here(world, number, question(world), session_id, record)
    assert world.noted("worker.condemned")
    assert RetireWorker(worker_id=7, kill=True) in [effect.message for effect in world.of(SendMaster)]
    assert not list(world.core.sessions)


def test_a_session_that_is_told_twice_ends_the_worker(make):
    world = make()
    number = world.worker_comes_again(7)
    asked = question(world)
    here(world, number, asked, 5, record_of(5))
    here(world, number, asked, 5, record_of(5))
    assert world.noted("worker.condemned")
    assert world.state(5) == "OVER"


def test_a_worker_that_says_more_and_tells_nothing_is_ended(make):
    world = make()
    number = world.worker_comes_again(7)
    told(world, number, question(world), 0, more=True)
    assert world.noted("worker.condemned")


def test_a_worker_that_nobody_asked_is_ended(make):
    world = make(workers=1)
    [worker] = world.core.workers
    world.happen(WorkerSaid(worker.number, SessionsTold(nonce=0, last=0, more=False)))
    assert world.noted("worker.condemned")


# --- who is let go ----------------------------------------------------------------------------------


def test_records_under_a_lost_key_let_the_worker_go(make):
    world = make()
    number = world.worker_comes_again(7)
    here(world, number, question(world), 5, record_of(5, secret=b"another"))
    assert world.of(CloseWorker) == [CloseWorker(number)]
    assert not world.noted("worker.condemned")
    assert "key" in world.noted("worker.let_go")[0]["detail"]
    world.later(ANSWER_MS)


def test_a_worker_that_does_not_answer_is_let_go(make):
    world = make()
    number = world.worker_comes_again(7)
    here(world, number, question(world), 5, record_of(5))
    world.later(ANSWER_MS)
    assert world.of(CloseWorker) == [CloseWorker(number)]
    assert world.state(5) == "OVER"


def test_a_worker_of_another_protocol_is_let_go(make):
    world = make()
    assert world.worker_comes_again(7, protocol=PROTOCOL + 1) is None
    assert world.dropped() == [True]
    [noted] = world.noted("worker.let_go")
    assert noted["worker"] == 7


def test_a_worker_that_dies_while_it_tells(make):
    world = make()
    number = world.worker_comes_again(7)
    here(world, number, question(world), 5, record_of(5))
    world.worker_goes(number)
    assert world.state(5) == "OVER"
    world.later(ANSWER_MS)
    assert not world.noted("worker.let_go")


# --- masters ----------------------------------------------------------------------------------------


def test_a_master_is_welcome_and_keeps_the_channels_of_others(make):
    world = make(workers=1)
    session_id = world.relaying(world.app())
    worker = world.session(session_id).worker
    world.master_goes()
    world.master_comes()
    assert world.of(WelcomeMaster) == [WelcomeMaster(world.master)]
    assert world.of(KeepWorker) == [KeepWorker(world.master, worker.number, worker.worker_id, worker.pid)]
    # It introduces what it keeps, also what we have.
    assert world.worker_comes_again(worker.worker_id) == worker.number
    assert world.dropped() == [False]
    assert not world.to_worker(TellSessions)
    world.say(session_id, HandshakeDone)
    assert RetireWorker(worker_id=worker.worker_id, kill=True) in [one.message for one in world.of(SendMaster)]


def test_a_number_that_is_taken_is_no_new_worker(make):
    world = make(workers=1)
    [worker] = world.core.workers
    world.happen(MasterSaid(world.master, WorkerBorn(worker_id=worker.worker_id, pid=5), world.fd().fd))
    assert world.of(DropFd)[0].shut
    assert world.noted("worker.unknown")


def test_a_master_that_leaves_for_good_takes_its_workers_along(make):
    world = make(workers=2)
    busy = world.relaying(world.app())
    world.happen(MasterSaid(world.master, MasterLeaves()))
    world.master_goes()
    assert world.noted("master.lost")
    assert [note.level for note in world.notes if note.event == "master.lost"] == ["info"]
    second = world.relaying(world.app(uid=1001))  # until then they serve
    world.later(LEFT_MS)
    assert not world.of(CloseWorker)
    for session_id in (busy, second):
        world.say(session_id, SessionEnded)
        assert world.of(CloseWorker)
    assert len(world.core.workers) == 0


def test_a_master_that_leaves_and_comes_back(make):
    world = make(workers=2)
    world.happen(MasterSaid(world.master, MasterLeaves()))
    world.master_goes()
    world.master_comes()
    world.worker_comes(9)
    world.later(LEFT_MS)
    assert [worker.worker_id for worker in world.core.workers] == [9]


# --- drain ------------------------------------------------------------------------------------------


def test_a_pool_that_drains_takes_nothing_new(make):
    world = make(workers=1)
    app = world.app()
    session_id = world.relaying(app)
    world.happen(DrainAsked(True))
    world.starttls(app, reqid=2)
    assert world.error(app)[1] == 612
    assert world.state(session_id) == "RELAYING"
    world.happen(DrainAsked(False))
    assert world.starttls(app, reqid=2)
    assert not world.frames(app)


def test_a_worker_that_drains_ends_after_its_last_session(make):
    world = make("workers_per_application 1\n", workers=1)
    app = world.app()
    session_id = world.relaying(app)
    worker = world.session(session_id).worker
    world.happen(FinishAsked(worker.worker_id))
    assert not world.of(CloseWorker)
    second = world.starttls(app, reqid=2)
    assert world.state(second) == "EXPECT_WORKER"
    world.worker_comes(9)
    assert world.session(second).worker.worker_id == 9
    world.say(session_id, SessionEnded)
    assert world.of(CloseWorker) == [CloseWorker(worker.number)]
    world.happen(FinishAsked(4711))


def test_numbers_of_sessions_go_on_in_blocks(make):
    world = make(first=5001, workers=1)
    app = world.app()
    numbers = [world.starttls(app, reqid=1) for _ in range(3)]
    assert numbers == [5001, 5002, 5003]
    for _ in range(BLOCK):
        last = world.starttls(app, reqid=1)
    assert last == 5003 + BLOCK


def test_a_client_without_identity(make):
    world = make()
    found(world, planned="", localid="", side=Side.CLIENT, remoteid="www.example.com")
    session = world.session(5)
    assert (session.localid, session.remoteid, session.plan.credentials) == ("", "www.example.com", ())


def test_a_session_that_cannot_be_recorded_relays_all_the_same(make):
    world = make(workers=1)
    app = world.app()
    world.core.connections.get(app).caller = replace(world.core.connections.get(app).caller, uid=-1)
    session_id = world.relaying(app)
    assert not world.to_worker(KeepRecord)
    assert world.to_worker(PlainConnected)
    assert world.noted("session.not_kept")[0]["session"] == session_id


def test_a_record_of_half_a_request_ends_the_worker(make):
    world = make()
    found(world, request=b"x")
    assert world.noted("worker.condemned")
