"""How sessions end before their time: timeouts, and each party going away in each state."""

import pytest

from tests.playbook.broker import CLIENT, SERVER, World
from tests.playbook.choosing import register
from tlspool_broker.events import ClosePeer, CloseWorker, KeydSaid, KillAsked, PeerId, SendMaster, StopAsked
from tlspool_common.appwire import TIMEOUT_INFINITE_MS, Flag
from tlspool_common.errors import Code
from tlspool_common.messages import (
    PROTOCOL,
    ClientHelloSeen,
    EndReason,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    KeyAnswer,
    KeydHello,
    Proceed,
    RemoteShown,
    RetireWorker,
    SessionEnded,
    Side,
    StartSession,
)

JUDGED = ("EXPECT_ADVICE", "EXPECT_ALERT")


def bring(world, state, app, *, reqid=4, **fields):
    """Bring a session to a state; return it."""
    if state == "EXPECT_CHOICE":
        register(world)
        return world.starttls_client(app, **{"reqid": reqid, **fields})
    if state == "EXPECT_LOCALID":
        return world.starttls_client(app, **{"reqid": reqid, "flags": CLIENT | Flag.LOCALID_CHECK, **fields})
    if state == "EXPECT_LOCALID with a worker":
        session_id = world.starttls(app, **{"reqid": reqid, "flags": SERVER | Flag.LOCALID_CHECK, **fields})
        world.say(session_id, ClientHelloSeen)
        return session_id
    if state == "EXPECT_KEYD":
        world.keyd_goes()
        return world.starttls(app, reqid=reqid, **fields)
    if state == "EXPECT_WORKER":
        for worker in list(world.core.workers):
            world.worker_goes(worker.number)
        return world.starttls(app, reqid=reqid, **fields)
    if state == "RELAYING":
        return world.relaying(app, reqid=reqid, **fields)
    if state == "EXPECT_RADIUS":
        world.use_radius()
    if state in JUDGED:
        world.records.change(expressions={("localhost", Side.SERVER): "R"})
    session_id = world.starttls(app, reqid=reqid, **fields)
    if state == "EXPECT_CLIENT_HELLO":
        return session_id
    if state == "EXPECT_KEYD with a worker":
        world.keyd_goes()
    world.say(session_id, ClientHelloSeen)
    if state in ("EXPECT_HANDSHAKE", "EXPECT_KEYD with a worker"):
        return session_id
    if state == "EXPECT_ADVICE":
        world.say(session_id, RemoteShown)
        return session_id
    if state == "EXPECT_ALERT":
        world.say(session_id, RemoteShown, fault=Code.EXPIRED)
        return session_id
    world.say(session_id, HandshakeDone)
    if state in ("EXPECT_RADIUS", "EXPECT_PLAINTEXT"):
        return session_id
    assert state == "EXPECT_END"
    world.happen(KillAsked(session_id))
    return session_id


SETTING_UP = [
    "EXPECT_CHOICE",
    "EXPECT_LOCALID",
    "EXPECT_LOCALID with a worker",
    "EXPECT_KEYD",
    "EXPECT_KEYD with a worker",
    "EXPECT_WORKER",
    "EXPECT_CLIENT_HELLO",
    "EXPECT_HANDSHAKE",
    "EXPECT_ADVICE",
    "EXPECT_ALERT",
    "EXPECT_RADIUS",
    "EXPECT_PLAINTEXT",
]
WITHOUT_WORKER = ("EXPECT_CHOICE", "EXPECT_LOCALID", "EXPECT_KEYD", "EXPECT_WORKER")


@pytest.mark.parametrize("state", SETTING_UP)
def test_bring_gets_there(world, state):
    session_id = bring(world, state, world.app())
    assert world.state(session_id) == state.split()[0]
    assert (world.session(session_id).worker is None) == (state in WITHOUT_WORKER)


# --- the application goes away --------------------------------------------------------------------------


@pytest.mark.parametrize("state", SETTING_UP)
def test_the_application_goes_away(world, state):
    app = world.app()
    session_id = bring(world, state, app)
    world.gone(app, "closed it")
    assert not world.frames()
    if state in WITHOUT_WORKER:
        assert world.state(session_id) == "OVER"
        assert world.dropped() == [True]
    else:
        assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]
        world.say(session_id, SessionEnded)
        assert world.state(session_id) == "OVER"
    assert world.noted("session.failed")[-1]["code"] == 207


@pytest.mark.parametrize(
    ("flag", "ends"), [(0, True), (Flag.FORK, False), (Flag.DETACH, False), (Flag.FORK | Flag.DETACH, False)]
)
def test_sessions_end_with_the_connection_unless_they_are_to_survive_it(world, flag, ends):
    app, other = world.app(), world.app()
    session_id = bring(world, "RELAYING", app, flags=SERVER | flag)
    others = bring(world, "RELAYING", other)
    assert world.session(session_id).row(world.now_ms)["detached"] == bool(flag & Flag.DETACH)
    world.gone(app)
    if ends:
        assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]
        world.say(session_id, SessionEnded)
        assert world.noted("session.end")[0]["by"] == "caller gone"
    else:
        assert not world.to_worker()
        assert world.state(session_id) == "RELAYING"
        assert world.session(session_id).row(world.now_ms)["detached"]
        world.say(session_id, SessionEnded)
        assert world.noted("session.end")[0]["by"] == ""
    assert world.state(session_id) == "OVER"
    assert world.state(others) == "RELAYING"


def test_an_application_that_goes_away_twice(world):
    app = world.app()
    bring(world, "EXPECT_HANDSHAKE", app)
    world.gone(app)
    assert world.gone(app) == []


# --- time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout_ms", "after_ms"), [(0, 40_000), (1500, 1500), (3_600_000, 3_600_000), (TIMEOUT_INFINITE_MS, None)]
)
@pytest.mark.parametrize("state", ["EXPECT_CLIENT_HELLO", "EXPECT_HANDSHAKE"])
def test_handshake_timeouts(world, timeout_ms, after_ms, state):
    app = world.app()
    session_id = bring(world, state, app, timeout_ms=timeout_ms)
    if after_ms is None:
        assert world.timer(session_id) is None
        return
    world.later(after_ms - 1)
    assert world.state(session_id) == state
    world.later(1)
    assert world.error(app)[:2] == (4, 307)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]


def test_the_default_is_a_setting(no_leaks):
    world = World("handshake_timeout_s 2\ncallback_timeout_s 3\n")
    app = world.app()
    session_id = world.starttls(app)
    assert world.timer(session_id) == 2000
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone)
    assert world.timer(session_id) == 3000
    world.close()


def test_the_handshake_has_one_timeout_for_all_its_steps(world):
    app = world.app()
    session_id = world.starttls(app, timeout_ms=1000)
    world.now_ms += 600
    world.say(session_id, ClientHelloSeen)
    assert world.timer(session_id) == 400


def test_the_wait_for_the_callback_is_not_part_of_it(world):
    app = world.app()
    session_id = bring(world, "EXPECT_PLAINTEXT", app, timeout_ms=10)
    world.later(59_999)
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    world.later(1)
    assert world.error(app)[:2] == (4, 117)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=80)]


@pytest.mark.parametrize(
    ("state", "wait_ms", "code"),
    [("EXPECT_KEYD", 5000, 601), ("EXPECT_KEYD with a worker", 5000, 601), ("EXPECT_WORKER", 5000, 602)],
)
@pytest.mark.parametrize("timeout_ms", [0, 500, TIMEOUT_INFINITE_MS])
def test_waiting_for_the_pool_itself(world, state, wait_ms, code, timeout_ms):
    app = world.app()
    session_id = bring(world, state, app, timeout_ms=timeout_ms)
    world.later(min(wait_ms, timeout_ms or wait_ms) - 1)
    assert world.state(session_id) == state.split()[0]
    world.later(1)
    assert world.error(app)[1] == (307 if timeout_ms == 500 else code)
    if state in WITHOUT_WORKER:
        assert world.dropped() == [False]


def test_a_worker_that_does_not_let_go(world):
    """It is ended, with its other sessions: else it would soon be the one with the fewest, and get them all."""
    app = world.app()
    stuck = world.starttls(app, reqid=1, timeout_ms=100)
    worker = world.session(stuck).worker
    world.starttls(app, reqid=2)  # on the other worker
    beside = world.starttls(app, reqid=3)
    assert world.session(beside).worker is worker
    world.later(100)
    assert world.state(stuck) == "EXPECT_END"
    world.later(69_000)  # a signature may have to wait for somebody to type the PIN
    assert world.state(stuck) == "EXPECT_END"
    world.later(2_000)
    assert world.state(stuck) == world.state(beside) == "OVER"
    assert world.noted("worker.condemned")[0]["worker"] == worker.worker_id
    assert world.core.workers.get(worker.number) is None


# --- the worker goes away -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    ["EXPECT_KEYD with a worker", "EXPECT_CLIENT_HELLO", "EXPECT_HANDSHAKE", "EXPECT_RADIUS", "EXPECT_PLAINTEXT"],
)
def test_the_worker_goes_away_during_the_setup(world, state):
    app = world.app()
    session_id = bring(world, state, app)
    world.worker_goes(world.session(session_id).worker.number)
    assert world.error(app)[:2] == (4, 603)
    assert world.state(session_id) == "OVER"
    assert world.noted("session.failed")[-1]["rule"] == "worker_died"


@pytest.mark.parametrize("state", ["RELAYING", "EXPECT_END"])
def test_the_worker_goes_away_later(world, state):
    app = world.app()
    session_id = bring(world, "RELAYING", app)
    worker = world.session(session_id).worker.number
    if state == "EXPECT_END":
        world.happen(KillAsked(session_id))
    world.worker_goes(worker)
    assert not world.frames()
    assert world.state(session_id) == "OVER"
    assert [note["reason"] for note in world.noted("session.end")] == ["worker_lost"]
    assert world.core.workers.get(worker) is None


def test_sessions_of_other_workers_go_on(world):
    app = world.app()
    first, second = world.relaying(app, reqid=1), world.relaying(app, reqid=2)
    workers = {world.session(number).worker.number for number in (first, second)}
    assert len(workers) == 2
    world.worker_goes(world.session(first).worker.number)
    assert (world.state(first), world.state(second)) == ("OVER", "RELAYING")


def test_a_worker_that_breaks_the_border_table_is_killed(world):
    app = world.app()
    session_id = world.starttls(app)
    worker = world.session(session_id).worker
    world.worker_goes(worker.number, broken=True)
    assert world.of(CloseWorker)
    assert world.of(SendMaster)[0].message == RetireWorker(worker_id=worker.worker_id, kill=True)
    assert world.error(app)[1] == 603
    assert world.worker_goes(worker.number) == []


# --- keyd goes away, and comes back ---------------------------------------------------------------------


def test_keyd_comes_back_in_time(world):
    app = world.app()
    first = bring(world, "EXPECT_KEYD", app, reqid=1)
    second = world.starttls_client(app, reqid=2)
    assert world.state(second) == "EXPECT_KEYD"
    world.later(500)
    world.keyd_comes(b"t" * 32)
    assert world.state(first) == "EXPECT_CLIENT_HELLO"
    assert world.state(second) == "EXPECT_HANDSHAKE"
    assert world.to_worker(Proceed) == [Proceed(session_id=second)]


def test_keyd_comes_back_when_the_worker_waits_for_it(world):
    app = world.app()
    session_id = bring(world, "EXPECT_KEYD with a worker", app)
    assert world.timer(session_id) == 5000
    world.keyd_comes()
    assert world.state(session_id) == "EXPECT_HANDSHAKE"
    assert world.to_worker(Proceed)
    assert world.timer(session_id) == 40_000


def test_a_client_that_got_a_worker_when_keyd_was_gone(no_leaks):
    world = World(workers=0)
    session_id = world.starttls_client(world.app())
    assert world.state(session_id) == "EXPECT_WORKER"
    world.keyd_goes()
    world.worker_comes()
    assert world.state(session_id) == "EXPECT_KEYD"
    assert world.to_worker(StartSession)
    world.keyd_comes()
    assert world.state(session_id) == "EXPECT_HANDSHAKE"
    world.close()


def test_a_session_without_credentials_needs_no_keyd(world):
    world.keyd_goes()
    session_id = world.starttls(world.app(), flags=CLIENT, localid="", remoteid="nobody.example")
    assert world.state(session_id) == "EXPECT_HANDSHAKE"


@pytest.mark.parametrize("state", ["EXPECT_CLIENT_HELLO", "EXPECT_HANDSHAKE", "EXPECT_PLAINTEXT", "RELAYING"])
def test_keyd_going_away_ends_no_session(world, state):
    session_id = bring(world, state, world.app())
    world.keyd_goes()
    assert not world.frames()
    assert not world.to_worker()
    assert world.state(session_id) == state
    assert world.noted("keyd.lost")


def test_a_second_keyd_takes_the_place_of_the_first(world):
    old = world.keyd
    world.keyd_comes(b"t" * 32)
    assert world.of(ClosePeer) == [ClosePeer(old)]
    assert world.core.keyd.present


def test_a_keyd_that_is_none(world):
    world.happen(KeydSaid(PeerId(999), KeydHello(protocol=PROTOCOL + 1, pid=1, grant_secret=bytes(32))))
    assert world.of(ClosePeer) == [ClosePeer(PeerId(999))]
    assert world.core.keyd.present  # the other one
    world.happen(KeydSaid(world.keyd, KeyAnswer(code=0, detail="", spki=b"")))
    assert world.of(ClosePeer) == [ClosePeer(world.keyd)]
    assert not world.core.keyd.present


# --- operators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", SETTING_UP)
def test_an_operator_ends_a_session_that_is_set_up(world, state):
    app = world.app()
    session_id = bring(world, state, app)
    world.happen(KillAsked(session_id))
    assert world.error(app)[:2] == (4, 208)
    if state not in WITHOUT_WORKER:
        assert world.to_worker() == [EndSession(session_id=session_id, alert=49)]


def test_an_operator_ends_a_relay(world):
    app = world.app()
    session_id = bring(world, "RELAYING", app, ctlkey=b"k" * 16)
    world.happen(KillAsked(session_id))
    assert not world.frames()
    assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]
    world.happen(KillAsked(session_id))  # once is enough
    assert not world.effects
    world.starttls(app, ctlkey=b"k" * 16)  # for the application it is over
    assert not world.frames()
    world.say(session_id, SessionEnded)
    assert world.noted("session.end")[0]["by"] == "operator"
    world.happen(KillAsked(session_id))
    assert not world.effects


@pytest.mark.parametrize("state", SETTING_UP)
def test_stop(world, state):
    app, other = world.app(), world.app()
    relaying = world.relaying(other)
    session_id = bring(world, state, app)
    world.happen(StopAsked())
    assert world.error(app)[:2] == (4, 604)
    assert world.state(session_id) in ("OVER", "EXPECT_END")
    if state != "EXPECT_WORKER":
        assert world.state(relaying) == "RELAYING"
    world.starttls(other, reqid=9)
    assert world.error(other)[:2] == (9, 604)
    assert world.dropped() == [False]


# --- the remote -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", ["EXPECT_KEYD with a worker", "EXPECT_CLIENT_HELLO", "EXPECT_HANDSHAKE", "EXPECT_PLAINTEXT"]
)
def test_the_remote_fails(world, state):
    app = world.app()
    session_id = bring(world, state, app)
    world.say(session_id, HandshakeFailed, code=302, alert=48, detail="unknown ca")
    assert world.error(app)[:2] == (4, 302)
    assert world.state(session_id) == "OVER"
    if state == "EXPECT_KEYD with a worker":
        world.keyd_comes()  # nothing waits for it any more
        assert not world.to_worker(Proceed)


@pytest.mark.parametrize(("reason", "code"), [(1, 303), (2, 303), (3, 304), (4, 302), (5, 303)])
def test_the_remote_ends_before_there_is_a_plaintext(world, reason, code):
    app = world.app()
    session_id = bring(world, "EXPECT_PLAINTEXT", app)
    world.say(session_id, SessionEnded, reason=EndReason(reason))
    assert world.error(app)[:2] == (4, code)
