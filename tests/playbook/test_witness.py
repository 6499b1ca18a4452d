"""What must be recorded before it happens: sessions in the broker, signatures in keyd, and what if it cannot be."""

import pytest

from tests.fixtures.keyd_play import KEY, Play
from tests.playbook.broker import World
from tlspool_broker.events import DropFd, Note, SendWorker
from tlspool_common.appwire import Cmd
from tlspool_common.errors import Code
from tlspool_common.messages import ClientHelloSeen, EndSession, HandshakeDone, HandshakeFailed, PlainConnected, Signed
from tlspool_keyd import events as e


class Witness:
    """Keeps what it attests; as long as it is there to."""

    def __init__(self):
        self.ready = True
        self.writes = True
        self.seen = []

    def attest(self, event, fields):
        self.seen.append((event, dict(fields)))
        return self.writes


@pytest.fixture
def witness():
    return Witness()


@pytest.fixture
def world(no_leaks, witness):
    made = World(witness=witness)
    yield made
    made.close()


# --- sessions ---------------------------------------------------------------------------------------------


def test_a_session_is_attested_before_it_relays_and_told_as_it_was_attested(world, witness):
    app = world.app()
    session_id = world.starttls(app)
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone)
    assert witness.seen == []
    frame, _ = world.callback(app)
    world.answer(app, frame)
    [(event, fields)] = witness.seen
    assert (event, fields["session"], fields["unit"]) == ("session.start", session_id, "postfix.service")
    assert world.noted("session.start") == [fields]
    assert world.to_worker(PlainConnected)


def test_a_session_that_cannot_be_attested_does_not_relay(world, witness):
    app = world.app()
    session_id = world.starttls(app)
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone)
    frame, _ = world.callback(app)
    witness.writes = False
    world.answer(app, frame)
    assert world.error(app)[1] == Code.AUDIT_LOST
    assert world.to_worker(PlainConnected) == []
    assert [type(message) for message in world.to_worker()] == [EndSession]
    assert world.dropped() == [False]  # the plaintext end
    assert world.noted("session.start") == []
    [failed] = world.noted("session.failed")
    assert (failed["code"], failed["session"]) == (Code.AUDIT_LOST, session_id)
    world.say(session_id, HandshakeFailed)
    assert world.state(session_id) == "OVER"


def test_nothing_begins_while_the_trail_is_lost(world, witness):
    app = world.app()
    witness.ready = False
    assert world.starttls(app) is None
    assert world.error(app)[1] == Code.AUDIT_LOST
    assert world.dropped() == [False]
    witness.ready = True
    world.relaying(app)


def test_a_session_that_relays_is_let_alone(world, witness):
    app = world.app()
    session_id = world.relaying(app)
    witness.ready = witness.writes = False
    world.send(app, Cmd.PING, reqid=9)
    assert world.state(session_id) == "RELAYING"


def test_every_session_of_the_log_was_attested(world, witness):
    app = world.app()
    for _ in range(3):
        world.relaying(app)
    told = [note.fields for note in world.notes if isinstance(note, Note) and note.event == "session.start"]
    assert told == [fields for _, fields in witness.seen]
    assert not [effect for effect in world.effects if isinstance(effect, DropFd)]
    assert [effect for effect in world.effects if isinstance(effect, SendWorker)]


# --- signatures -------------------------------------------------------------------------------------------


def test_a_signature_is_attested_before_it_leaves(witness):
    play = Play(witness=witness)
    play.ask(play.grant(session_id=815))
    assert witness.seen == []
    play.answer()
    [(event, fields)] = witness.seen
    assert (event, fields["session"], fields["key"]) == ("sign.done", 815, KEY)
    assert play.note("sign.done").fields == fields


def test_a_signature_that_cannot_be_attested_does_not_leave(witness):
    play = Play(witness=witness)
    play.ask(play.grant(session_id=815))
    witness.writes = False
    play.answer()
    assert play.only(e.AnswerWorker) == [e.AnswerWorker(1, Signed(code=Code.AUDIT_LOST, signature=b""), 0)]
    assert play.notes() == ["sign.refused"]
    assert play.note("sign.refused").fields["code"] == Code.AUDIT_LOST
    assert play.core.status({})["signed"] == 0


def test_no_token_is_asked_while_the_trail_is_lost(witness):
    play = Play(witness=witness)
    witness.ready = False
    grant = play.grant()
    play.ask(grant)
    play.refused(Code.AUDIT_LOST)
    witness.ready = True
    play.ask(grant)
    play.refused(Code.GRANT_USED)  # good for one attempt, whatever came of it
    play.ask(play.grant())
    play.answer()
    assert play.notes() == ["sign.done"]


def test_time_in_the_queue_and_in_the_token_apart(witness):
    play = Play("pkcs11_sessions 1", "pkcs11_path /lib/m.so", "pkcs11_token pkcs11:token=t1", witness=witness)
    sends = []
    for _ in range(6):  # one more than is sent ahead
        play.ask(play.grant())
        sends += play.only(e.SendToken)
    assert len(sends) == 5
    for send in sends:
        play.now_ms += 10
        play.last = play.core.handle(
            e.TokenSaid(send.generation, play_signed(), send.exchange),
            play.now_ms,
        )
        sends += play.only(e.SendToken)
    measured = [(fields["queue_ms"], fields["token_ms"]) for _, fields in witness.seen]
    assert measured == [(0, 10), (0, 20), (0, 30), (0, 40), (0, 50), (10, 50)]
    assert {fields["token"] for _, fields in witness.seen} == {"pkcs11:token=t1"}


def play_signed():
    from tlspool_common.messages import TokenSigned

    return TokenSigned(code=Code.OK, detail="", signature=b"signature")
