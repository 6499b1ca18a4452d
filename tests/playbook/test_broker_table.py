"""Every way through session.py's table is gone, and everything a worker may say where the table has no way."""

import pytest

from tests.playbook.broker import World
from tests.playbook.test_broker_ends import bring
from tlspool_broker.events import CloseWorker, KillAsked, SendMaster, SessionId, WorkerSaid
from tlspool_broker.session import SAID, TABLE, Happening, Session, State
from tlspool_common.appwire import Cmd
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import (
    ClientHelloSeen,
    HandshakeDone,
    HandshakeFailed,
    RetireWorker,
    SessionEnded,
)

S, H = State, Happening
WAYS = [(state, happening, end) for state, row in TABLE.items() for happening, ends in row.items() for end in ends]


def do_worker_found(world, session_id):
    world.worker_comes()


def do_keyd_joined(world, session_id):
    world.keyd_comes()


def do_plain_given(world, session_id):
    session = world.session(session_id)
    exchange = session.exchange
    world.send(
        exchange.connection.connection_id,
        Cmd.PLAINTEXT_CONNECT,
        reqid=exchange.reqid,
        cbid=exchange.cbid,
        passed=world.fd(),
    )


DO = {
    H.KEYD_JOINED: do_keyd_joined,
    H.WORKER_FOUND: do_worker_found,
    H.HELLO_SEEN: lambda world, session_id: world.say(session_id, ClientHelloSeen),
    H.HANDSHAKE_DONE: lambda world, session_id: world.say(session_id, HandshakeDone),
    H.HANDSHAKE_FAILED: lambda world, session_id: world.say(session_id, HandshakeFailed),
    H.PLAIN_GIVEN: do_plain_given,
    H.ENDED: lambda world, session_id: world.say(session_id, SessionEnded),
    H.WORKER_LOST: lambda world, session_id: world.worker_goes(world.session(session_id).worker.number),
    H.GIVEN_UP: lambda world, session_id: world.happen(KillAsked(session_id)),
}


def prepare(world, state, happening, end):
    """Bring a session to a state in the manner that leads to this end; return it."""
    app = world.app()
    match state, happening, end:
        case S.EXPECT_WORKER, H.WORKER_FOUND, S.EXPECT_CLIENT_HELLO:
            return bring(world, "EXPECT_WORKER", app)
        case S.EXPECT_WORKER, H.WORKER_FOUND, _:
            for worker in list(world.core.workers):
                world.worker_goes(worker.number)
            session_id = world.starttls_client(app)
            if end is S.EXPECT_KEYD:
                world.keyd_goes()
            return session_id
        case S.EXPECT_KEYD, H.KEYD_JOINED, S.EXPECT_WORKER:
            return bring(world, "EXPECT_KEYD", app)
        case S.EXPECT_KEYD, H.GIVEN_UP, S.OVER:
            return bring(world, "EXPECT_KEYD", app)
        case S.EXPECT_KEYD, _, _:
            return bring(world, "EXPECT_KEYD with a worker", app)
        case S.EXPECT_CLIENT_HELLO, H.HELLO_SEEN, S.EXPECT_KEYD:
            session_id = bring(world, "EXPECT_CLIENT_HELLO", app)
            world.keyd_goes()
            return session_id
        case _:
            return bring(world, state.name, app)


@pytest.mark.parametrize(("state", "happening", "end"), WAYS, ids=lambda value: getattr(value, "name", value))
def test_every_way(no_leaks, monkeypatch, state, happening, end):
    gone = []
    move = Session.move

    def watched(self, how, to):
        gone.append((self.state, how, to))
        move(self, how, to)

    monkeypatch.setattr(Session, "move", watched)
    world = World()
    session_id = prepare(world, state, happening, end)
    assert world.session(session_id).state is state
    gone.clear()
    DO[happening](world, session_id)
    if state is end:  # what the worker said before it heard of the end: nothing moves
        assert world.session(session_id).state is end
    else:
        assert (state, happening, end) in gone
    assert not world.noted("worker.condemned")
    world.close()


def test_the_table_is_whole():
    assert set(TABLE) == set(State)
    assert {happening for row in TABLE.values() for happening in row} == set(Happening)
    assert all(ends for row in TABLE.values() for ends in row.values())
    assert {to for _, _, to in WAYS} | {S.EXPECT_KEYD} == set(State)


LIES = [
    (state, message)
    for state in State
    if state not in (S.EXPECT_WORKER, S.OVER)
    for message, happening in SAID.items()
    if happening not in TABLE[state]
]


@pytest.mark.parametrize(("state", "message"), LIES, ids=lambda value: getattr(value, "name", value.__class__.__name__))
def test_a_worker_that_says_what_cannot_be(no_leaks, state, message):
    """It is ended with its sessions; those of others do not notice."""
    world = World("isolation connection\nworkers 3\n", workers=3)
    app, other = world.app(), world.app()
    others = world.relaying(other)
    name = "EXPECT_KEYD with a worker" if state is S.EXPECT_KEYD else state.name
    session_id = bring(world, name, app)
    worker = world.session(session_id).worker
    world.say(session_id, message)
    assert world.state(session_id) == "OVER"
    assert CloseWorker(worker.number) in world.effects
    assert RetireWorker(worker_id=worker.worker_id, kill=True) in [effect.message for effect in world.of(SendMaster)]
    assert world.noted("worker.condemned")[0]["pid"] == worker.pid
    if state not in (S.RELAYING, S.EXPECT_END):
        assert world.error(app)[1] == 603
    assert world.state(others) == "RELAYING"
    # whatever it still says is not heard
    assert world.happen(WorkerSaid(worker.number, SessionEnded(session_id=others, **ENDED))) == []
    assert world.state(others) == "RELAYING"
    world.close()


ENDED = {"reason": 1, "from_remote_b": 0, "to_remote_b": 0, "detail": ""}
LAST_WORDS = (HandshakeFailed, SessionEnded)


@pytest.mark.parametrize("message", SAID)
def test_a_worker_that_speaks_of_sessions_of_others(no_leaks, message):
    world = World()
    app = world.app()
    first, second = world.starttls(app, reqid=1), world.starttls(app, reqid=2)
    liar = world.session(second).worker.number
    assert world.session(first).worker.number != liar
    world.say(first, message, worker=liar)
    assert world.noted("worker.condemned")
    assert world.state(first) == "EXPECT_CLIENT_HELLO"
    assert world.state(second) == "OVER"
    world.close()


@pytest.mark.parametrize("message", SAID)
@pytest.mark.parametrize("number", [0, 1, 2, 2**64 - 1])
def test_a_worker_that_speaks_of_no_session(no_leaks, message, number):
    """The last words of a session that is over are allowed: they may cross an EndSession."""
    world = World()
    app = world.app()
    session_id = world.starttls(app)
    world.say(session_id, HandshakeFailed)
    worker = next(iter(world.core.workers)).number
    world.say(SessionId(number), message, worker=worker)
    allowed = number <= 1 and message in LAST_WORDS
    assert bool(world.noted("worker.condemned")) is not allowed
    world.close()


def test_move_refuses_what_is_not_in_the_table(no_leaks):
    world = World()
    session = world.session(world.starttls(world.app()))
    with pytest.raises(PoolError) as caught:
        session.move(H.PLAIN_GIVEN, S.RELAYING)
    assert caught.value.code is Code.INTERNAL
    assert session.state is S.EXPECT_CLIENT_HELLO
    world.close()


@pytest.mark.parametrize("said", [HandshakeFailed, SessionEnded])
def test_a_session_that_began_has_an_end_in_the_log(no_leaks, said):
    """Also if the worker's last words are of another kind than they should be."""
    world = World()
    app = world.app()
    session_id = world.relaying(app)
    world.gone(app)
    world.say(session_id, said)
    assert [note["session"] for note in world.noted("session.end")] == [session_id]
    world.close()
