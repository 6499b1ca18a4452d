"""Every way through states.py's table is gone, and everything a worker may say where the table has no way."""

import pytest

from tests.playbook.broker import CLIENT, SERVER, World, credential
from tests.playbook.choosing import answer, inquiry
from tests.playbook.test_broker_ends import bring
from tlspool_broker.events import CloseWorker, KillAsked, SendMaster, SessionId, WorkerSaid
from tlspool_broker.session import Session
from tlspool_broker.states import SAID, TABLE, Happening, State
from tlspool_common.appwire import Cmd, Flag, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import (
    ClientHelloSeen,
    Finding,
    HandshakeDone,
    HandshakeFailed,
    RemoteShown,
    RetireWorker,
    SessionEnded,
    Side,
)

S, H = State, Happening
WAYS = [
    (state, happening, end)
    for state, row in TABLE.items()
    for happening, ends in row.items()
    for end in State
    if end in ends
]


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


def answer_localid(world, session_id, localid):
    exchange = world.session(session_id).exchange
    app = exchange.connection.connection_id
    payload = Starttls(localid=localid).to_payload()
    world.send(app, Cmd.STARTTLS_LOCALID, payload, reqid=exchange.reqid, cbid=exchange.cbid)


def do_localid_chosen(world, session_id):
    answer_localid(world, session_id, world.session(session_id).proposals[0])


def do_choice_made(world, session_id):
    service = next(iter(world.core.chooser._posts.values())).connection.connection_id
    frame, _ = inquiry(world, service)
    answer(world, service, frame, localid="me.example")


DO = {
    H.CHOICE_MADE: do_choice_made,
    H.LOCALID_CHOSEN: do_localid_chosen,
    H.LOCALID_REFUSED: lambda world, session_id: answer_localid(world, session_id, ""),
    H.KEYD_JOINED: do_keyd_joined,
    H.WORKER_FOUND: do_worker_found,
    H.REMOTE_SHOWN: lambda world, session_id: world.say(session_id, RemoteShown),
    H.ADVISED: lambda world, session_id: world.helper_says(crl=Finding.GOOD),
    H.HELLO_SEEN: lambda world, session_id: world.say(session_id, ClientHelloSeen),
    H.HANDSHAKE_DONE: lambda world, session_id: world.say(session_id, HandshakeDone),
    H.HANDSHAKE_FAILED: lambda world, session_id: world.say(session_id, HandshakeFailed),
    H.ADMITTED: lambda world, session_id: world.radius_says(),
    H.PLAIN_GIVEN: do_plain_given,
    H.ENDED: lambda world, session_id: world.say(session_id, SessionEnded),
    H.WORKER_LOST: lambda world, session_id: world.worker_goes(world.session(session_id).worker.number),
    H.GIVEN_UP: lambda world, session_id: world.happen(KillAsked(session_id)),
}


def peer(world, app, end):
    """A peer, whom its remote's ClientHello makes a server."""
    for side in Side:
        world.records.identities["localhost", side] = [credential()]
    world.records.disclosures["www.example.com"] = ["localhost"]
    session_id = world.starttls(app, flags=CLIENT | SERVER, remoteid="www.example.com")
    if end is S.EXPECT_LOCALID:
        world.gone(app)
        app = world.app()
        flags = CLIENT | SERVER | Flag.LOCALID_CHECK
        session_id = world.starttls(app, flags=flags, remoteid="www.example.com")
        world.answer(app, world.callback(app, Cmd.STARTTLS_LOCALID)[0], passed=None)
    if end is S.EXPECT_KEYD:
        world.keyd_goes()
    return session_id


def prepare(world, state, happening, end):
    """Bring a session to a state in the manner that leads to this end; return it."""
    app = world.app()
    match state, happening, end:
        case S.EXPECT_CHOICE, H.CHOICE_MADE, S.EXPECT_LOCALID:
            return bring(world, "EXPECT_CHOICE", app, flags=CLIENT | Flag.LOCALID_CHECK)
        case S.EXPECT_CHOICE, H.CHOICE_MADE, S.EXPECT_KEYD:
            world.keyd_goes()
            return bring(world, "EXPECT_CHOICE", app)
        case S.EXPECT_CHOICE, H.CHOICE_MADE, _:
            for worker in list(world.core.workers):
                world.worker_goes(worker.number)
            return bring(world, "EXPECT_CHOICE", app)
        case S.EXPECT_LOCALID, H.LOCALID_REFUSED, _:
            world.records.disclosures["www.example.com"] = ["me.example", "other.example"]
            world.records.identities["other.example", Side.CLIENT] = [credential("other.example")]
            return bring(world, "EXPECT_LOCALID", app)
        case S.EXPECT_LOCALID, H.LOCALID_CHOSEN, S.EXPECT_KEYD:
            world.keyd_goes()
            return bring(world, "EXPECT_LOCALID", app)
        case S.EXPECT_LOCALID, H.LOCALID_CHOSEN, S.EXPECT_WORKER:
            for worker in list(world.core.workers):
                world.worker_goes(worker.number)
            return bring(world, "EXPECT_LOCALID", app)
        case S.EXPECT_LOCALID, H.GIVEN_UP, S.OVER:
            return bring(world, "EXPECT_LOCALID", app)
        case S.EXPECT_LOCALID, _, _:
            return bring(world, "EXPECT_LOCALID with a worker", app)
        case S.EXPECT_CLIENT_HELLO, H.HELLO_SEEN, S.EXPECT_LOCALID:
            return world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK)
        case S.EXPECT_HANDSHAKE, H.HANDSHAKE_DONE, S.RELAYING:
            session_id = bring(world, "EXPECT_LOCALID with a worker", app)
            frame, _ = world.callback(app, Cmd.STARTTLS_LOCALID)
            world.answer(app, frame)
            return session_id
        case S.EXPECT_HANDSHAKE, H.HANDSHAKE_DONE, S.EXPECT_RADIUS:
            world.use_radius()
            return bring(world, "EXPECT_HANDSHAKE", app)
        case S.EXPECT_RADIUS, H.ADMITTED, S.RELAYING:
            world.use_radius()
            session_id = bring(world, "EXPECT_LOCALID with a worker", app)
            world.answer(app, world.callback(app, Cmd.STARTTLS_LOCALID)[0])
            world.say(session_id, HandshakeDone)
            return session_id
        case S.EXPECT_HANDSHAKE, H.HELLO_SEEN, _:
            return peer(world, app, end)
        case S.EXPECT_HANDSHAKE, H.REMOTE_SHOWN, _:
            text = {S.EXPECT_HANDSHAKE: "F", S.EXPECT_ADVICE: "R", S.EXPECT_ALERT: "C"}[end]
            world.records.change(expressions={("localhost", Side.SERVER): text})
            return bring(world, "EXPECT_HANDSHAKE", app)
        case S.EXPECT_ADVICE, H.ADVISED, _:
            session_id = bring(world, "EXPECT_ADVICE", app)
            world.helper_comes()
            return session_id
        case S.EXPECT_END, H.REMOTE_SHOWN, _:
            world.records.change(expressions={("localhost", Side.SERVER): "F"})
            session_id = bring(world, "EXPECT_HANDSHAKE", app)
            world.happen(KillAsked(session_id))
            return session_id
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
    if (state, end) == (S.EXPECT_ADVICE, S.EXPECT_ALERT):
        world.helper_says(crl=Finding.REVOKED)
    else:
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
    assert {to for _, _, to in WAYS} == set(State) - {S.EXPECT_CHOICE}  # where some sessions begin


LIES = [
    (state, message)
    for state in State
    if state not in (S.EXPECT_CHOICE, S.EXPECT_WORKER, S.OVER)
    for message, happening in SAID.items()
    if happening not in TABLE[state]
]


@pytest.mark.parametrize(("state", "message"), LIES, ids=lambda value: getattr(value, "name", value.__class__.__name__))
def test_a_worker_that_says_what_cannot_be(no_leaks, state, message):
    """It is ended with its sessions; those of others do not notice."""
    world = World("isolation connection\nworkers 3\n", workers=3)
    app, other = world.app(), world.app()
    others = world.relaying(other)
    waits = state in (S.EXPECT_KEYD, S.EXPECT_LOCALID)
    name = f"{state.name} with a worker" if waits else state.name
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
