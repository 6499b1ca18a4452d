"""Request ids, callback ids and descriptors: what an application may say, and what we make of it."""

import pytest

from tests.playbook.broker import World
from tlspool_broker.events import DropFd, FdKind, SendWorker
from tlspool_common.appwire import Cmd
from tlspool_common.messages import ClientHelloSeen, EndSession, HandshakeDone, KeepRecord, PlainConnected, SessionEnded


@pytest.fixture
def asked(world):
    """An application whose session waits for its plaintext descriptor: (application, session, callback)."""

    def make(app=None, reqid=4):
        app = world.app() if app is None else app
        session_id = world.starttls(app, reqid=reqid)
        world.say(session_id, ClientHelloSeen)
        world.say(session_id, HandshakeDone)
        return app, session_id, world.callback(app)[0]

    return make


def test_the_answer_names_the_request_id_of_the_reply(world, asked):
    app, session_id, callback = asked()
    world.answer(app, callback, reqid=4242)
    assert world.reply(app)[0].reqid == 4242
    world.starttls(app, reqid=4)  # its first id is free again
    assert world.state(session_id) == "RELAYING"


def test_only_descriptor_and_id_are_taken_from_an_answer(world, asked):
    app, session_id, callback = asked()
    world.send(app, Cmd.PLAINTEXT_CONNECT, b"\xff" * 380, reqid=4, cbid=callback.cbid, passed=world.fd())
    assert world.reply(app)[1].remoteid == "john@example.com"
    assert world.state(session_id) == "RELAYING"


@pytest.mark.parametrize("kind", [FdKind.STREAM, FdKind.SEQPACKET])
def test_the_descriptor_goes_to_the_worker(world, asked, kind):
    app, session_id, callback = asked()
    passed = world.fd(kind)
    world.answer(app, callback, passed=passed)
    kept, sent = world.of(SendWorker)
    assert isinstance(kept.message, KeepRecord)
    assert (sent.message, sent.fd) == (PlainConnected(session_id=session_id), passed.fd)


@pytest.mark.parametrize(
    ("cmd", "kind", "code", "alert"),
    [
        (Cmd.ERROR, None, 109, 49),
        (Cmd.ERROR, FdKind.STREAM, 109, 49),  # the stray descriptor of libtlspool
        (Cmd.SUCCESS, FdKind.STREAM, 109, 49),
        (Cmd.PING, None, 109, 49),
        (Cmd.STARTTLS, FdKind.STREAM, 109, 49),
        (Cmd.STARTTLS_LOCALID, FdKind.STREAM, 109, 49),
        (0xDEADBEEF, None, 109, 49),
        (Cmd.PLAINTEXT_CONNECT, None, 107, 80),
        (Cmd.PLAINTEXT_CONNECT, FdKind.OTHER, 108, 80),
        (Cmd.PLAINTEXT_CONNECT, FdKind.POOL, 108, 80),
    ],
)
def test_answers_that_are_none(world, asked, cmd, kind, code, alert):
    app, session_id, callback = asked()
    world.answer(app, callback, cmd=cmd, reqid=5, passed=kind and world.fd(kind))
    assert world.error(app)[:2] == (5, code)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=alert)]
    assert world.dropped() == ([False] if kind else [])
    assert world.state(session_id) == "EXPECT_END"


def test_a_wrong_callback_id_is_no_answer(world, asked):
    app, session_id, callback = asked()
    world.answer(app, callback, cbid=callback.cbid + 1)
    assert world.error(app)[:2] == (4, 102)
    assert world.dropped() == [False]
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    world.answer(app, callback)
    assert world.reply(app)[0].reqid == 4


def test_a_callback_id_is_of_its_connection(world, asked):
    app, session_id, callback = asked()
    other = world.app()
    world.answer(other, callback)
    assert world.error(other)[1] == 102
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    world.answer(app, callback)
    assert world.reply(app)


def test_a_request_with_a_stale_callback_id_is_a_request(world):
    app = world.app()
    world.send(app, Cmd.PING, cbid=77, reqid=3)
    [frame] = world.frames(app)
    assert (frame.cmd, frame.reqid, frame.cbid) == (Cmd.PING, 3, 0)


@pytest.mark.parametrize("cmd", [Cmd.PING, Cmd.STARTTLS, Cmd.PRNG, 0x999])
def test_a_reused_request_id_abandons_the_callback(world, asked, cmd):
    """A synchronous libtlspool whose callback function refuses says nothing, and uses the id again."""
    app, session_id, callback = asked()
    if cmd == Cmd.STARTTLS:
        world.starttls(app, reqid=4)
        assert not world.frames()
    else:
        world.send(app, cmd, reqid=4)
        assert len(world.frames()) == 1  # of the new request; the old one gets none
    assert EndSession(session_id=session_id, alert=49) in world.to_worker()
    assert world.noted("session.failed") == []
    assert world.noted("session.refused")[0]["rule"] == "bad_callback_answer"
    # the callback is closed: an answer to it comes too late, and whoever waits under this id waits for another
    world.answer(app, callback)
    assert not world.frames()
    assert world.dropped() == [False]


def test_a_reused_request_id_ends_a_handshake_too(world):
    app = world.app()
    first = world.starttls(app, reqid=4)
    second = world.starttls(app, reqid=4)
    assert not world.frames()
    assert world.state(first) == "EXPECT_END"
    assert world.state(second) == "EXPECT_CLIENT_HELLO"


def test_before_a_worker_has_it_the_remote_of_an_abandoned_session_sees_the_end(no_leaks):
    world = World(workers=0)
    app = world.app()
    world.starttls(app, reqid=4)
    world.send(app, Cmd.PING, reqid=4)
    assert world.dropped() == [True]
    world.close()


def test_an_answer_under_the_id_of_another_callback(world, asked):
    """The application forgot that id when it got the callback; the other exchange lives on without one."""
    app, first, first_callback = asked(reqid=1)
    _, second, second_callback = asked(app, reqid=2)
    world.answer(app, second_callback, reqid=1)
    assert world.reply(app)[0].reqid == 1
    assert world.state(first) == "EXPECT_PLAINTEXT"
    world.answer(app, first_callback, reqid=9)
    assert world.reply(app)[0].reqid == 9
    assert world.state(second) == "RELAYING"


def test_a_callback_without_an_id_to_answer_to_times_out_silently(world, asked):
    app, first, _ = asked(reqid=1)
    _, _, second_callback = asked(app, reqid=2)
    world.answer(app, second_callback, reqid=1)
    world.later(60_000)
    assert not world.frames()
    assert world.state(first) == "EXPECT_END"


def test_an_answer_under_the_id_of_a_handshake_ends_that(world, asked):
    app, first, callback = asked(reqid=1)
    second = world.starttls(app, reqid=2)
    world.answer(app, callback, reqid=2)
    assert world.reply(app)[0].reqid == 2
    assert (world.state(first), world.state(second)) == ("RELAYING", "EXPECT_END")


def test_answers_that_come_too_late(world, asked):
    app, _, callback = asked()
    world.later(60_000)
    assert world.error(app)[:2] == (4, 117)
    # under the id that had the error: it crossed ours, and nobody waits
    world.answer(app, callback)
    assert not world.frames()
    assert world.dropped() == [False]
    # said once more it is just wrong
    world.answer(app, callback)
    assert world.error(app)[1] == 102


def test_a_late_answer_under_a_new_id_is_answered(world, asked):
    """An asynchronous libtlspool waits under the new id."""
    app, _, callback = asked()
    world.later(60_000)
    world.answer(app, callback, reqid=777)
    assert world.error(app)[:2] == (777, 117)
    assert world.of(DropFd)


def test_a_late_answer_does_not_disturb_a_new_request(world, asked):
    app, _, callback = asked()
    world.later(60_000)
    new = world.starttls(app, reqid=8)
    world.answer(app, callback, reqid=8)
    assert not world.frames()
    assert world.state(new) == "EXPECT_CLIENT_HELLO"


def test_a_late_answer_takes_the_id_of_a_callback_that_is_open(world, asked):
    """An asynchronous libtlspool uses the id of a callback again as soon as that has come."""
    app, _, callback = asked()
    world.later(1_000)
    _, other_id, other = asked(app, reqid=9)
    world.later(59_500)
    assert world.error(app)[:2] == (4, 117)
    world.answer(app, callback, reqid=9)
    assert world.error(app)[:2] == (9, 117)
    assert world.state(other_id) == "EXPECT_PLAINTEXT"
    world.answer(app, other, reqid=10)
    assert world.reply(app)[0].reqid == 10


def test_an_answer_to_a_session_that_the_worker_ended_meanwhile(world, asked):
    app, session_id, callback = asked()
    world.say(session_id, SessionEnded)
    assert world.error(app)[:2] == (4, 303)
    world.answer(app, callback, cmd=Cmd.ERROR)
    assert not world.frames()


def test_callback_ids_go_round(no_leaks):
    """None is used again soon, none is zero, none of an open callback is given out."""
    world = World(workers=1)
    app = world.app()
    world.core.connections.get(app).last_cbid = 65533
    open_first = world.starttls(app, reqid=1)
    world.say(open_first, ClientHelloSeen)
    world.say(open_first, HandshakeDone)
    seen = [world.callback(app)[0].cbid]
    for _ in range(4):
        session_id = world.starttls(app, reqid=2)
        world.say(session_id, ClientHelloSeen)
        world.say(session_id, HandshakeDone)
        seen.append(world.callback(app)[0].cbid)
        world.answer(app, world.callback(app)[0], cmd=Cmd.ERROR)
    assert seen == [65534, 65535, 1, 2, 3]
    world.core.connections.get(app).last_cbid = 65533
    session_id = world.starttls(app, reqid=2)
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone)
    assert world.callback(app)[0].cbid == 65535
    world.close()


def test_answers_that_came_too_late_are_remembered_within_bounds(world, asked):
    app, _, first = asked()
    world.answer(app, first, cmd=Cmd.ERROR)
    for _ in range(1001):
        session_id = world.starttls(app, reqid=4)
        world.say(session_id, ClientHelloSeen)
        world.say(session_id, HandshakeDone)
        world.send(app, Cmd.PING, reqid=4)
    assert len(world.core.connections.get(app).late) == 1000


def test_a_frame_of_a_connection_that_is_gone(world, asked):
    app, _, callback = asked()
    world.gone(app)
    world.answer(app, callback)
    assert not world.frames()
    assert world.dropped() == [False]
