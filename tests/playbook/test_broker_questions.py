"""PRNG and INFO in the broker's core: what is asked of the worker, what is refused, and every end of a question."""

import pytest

from tests.playbook.broker import World
from tlspool_broker.calls.prng import LABELS
from tlspool_broker.events import Clock, Timer
from tlspool_broker.questions import PER_SESSION, PER_WORKER, WORKER_WAIT_MS
from tlspool_common.appwire import Cmd, Flag, Info, Prng
from tlspool_common.errors import Code, ComErr
from tlspool_common.infokind import InfoKind
from tlspool_common.messages import (
    AskExport,
    AskFact,
    ClientHelloSeen,
    Fact,
    HandshakeDone,
    RemoteTold,
    SessionEnded,
    Told,
)

KEY = bytes(range(16))
LABEL = b"EXPERIMENTAL-test"


@pytest.fixture
def session(world, app):
    return world.relaying(app, ctlkey=KEY)


def prng(world, app, *, key=KEY, label=LABEL, context=None, output_b=32, reqid=5, **frame):
    return world.send(app, Cmd.PRNG, Prng.ask(key, label, context, output_b).to_payload(), reqid=reqid, **frame)


def info(world, app, kind=InfoKind.PEERCERT_SUBJECT, data=None, *, key=KEY, reqid=5):
    return world.send(app, Cmd.INFO, Info(key, kind, data).to_payload(), reqid=reqid)


def told(world, session, number, value=b"", code=0, **fields):
    return world.say(session, Told(session_id=session, question=number, code=int(code), value=value), **fields)


def asked(world):
    [message] = world.to_worker(AskExport, AskFact)
    return message


# --- PRNG -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [None, b"", b"\0ctx"])
@pytest.mark.parametrize("label", [LABEL, *sorted(LABELS)])
def test_an_export(world, app, session, label, context):
    prng(world, app, label=label, context=context)
    question = asked(world)
    assert (question.session_id, question.label, question.size_b) == (session, label, 32)
    assert (question.has_context, question.context) == (context is not None, context or b"")
    assert world.frames() == []
    told(world, session, question.question, b"k" * 32)
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cbid, frame.cmd) == (5, 0, Cmd.PRNG)
    reply = Prng.from_payload_untrusted(frame.payload)
    assert (reply.label_b, reply.output_b) == (len(label), 32)
    assert reply.context_b == (-1 if context is None else len(context))
    assert reply.buffer == (b"k" * 32).ljust(350, b"\0")  # no label, no control key
    assert Timer(Clock.QUESTION, question.question) not in world.timers
    assert len(world.core.questions) == 0


def test_no_bytes_are_exported_without_asking(world, app, session):
    prng(world, app, output_b=0)
    assert world.to_worker() == []
    [frame] = world.frames(app)
    assert Prng.from_payload_untrusted(frame.payload) == Prng(len(LABEL), -1, 0, bytes(350))


@pytest.mark.parametrize(
    "label",
    [
        b"EXPERIMENTAL",
        b"EXPERIMENTAl-x",
        b"EXPERIMENTAL\0x",
        b"EXPERIMENTAL-\xff",
        b"client finished",
        b"client EAP encryptio",
        b"client EAP encryption ",
        b"Client EAP encryption",
        b"EXPORTER-Channel-Binding",
        b"x",
    ],
)
def test_labels_that_are_not_registered(world, app, session, label):
    prng(world, app, label=label)
    assert world.error(app)[:2] == (5, 124)
    assert world.to_worker() == []


@pytest.mark.parametrize(
    ("label_b", "context_b", "output_b"),
    [
        (0, -1, 16),
        (-1, -1, 16),
        (17, -2, 16),
        (17, -1, -1),
        (17, -1, 351),
        (335, -1, 16),
        (17, 318, 16),
        (334, 1, 16),
        (32767, 32767, 16),
    ],
)
def test_lengths_that_do_not_fit(world, app, session, label_b, context_b, output_b):
    """They are told before the control key is: it is one that nobody has."""
    data = (bytes(16) + LABEL).ljust(350, b"x")
    world.send(app, Cmd.PRNG, Prng(label_b, context_b, output_b, data).to_payload())
    frame = world.frames(app)[0]
    assert world.error(app)[1] == 124
    assert frame.payload[:4] == ComErr.PRNG_UNAVAILABLE.number.to_bytes(4, "little", signed=True)
    assert world.to_worker() == []


def test_the_longest_label_and_output(world, app, session):
    label = b"EXPERIMENTAL".ljust(334, b"x")
    prng(world, app, label=label, output_b=350)
    told(world, session, asked(world).question, b"k" * 350)
    assert Prng.from_payload_untrusted(world.frames(app)[0].payload).buffer == b"k" * 350


# --- INFO -------------------------------------------------------------------------------------------

QUERIES = {
    InfoKind.PEERCERT_SUBJECT: Fact.REMOTE_SUBJECT,
    InfoKind.PEERCERT_ISSUER: Fact.REMOTE_ISSUER,
    InfoKind.MYCERT_SUBJECT: Fact.LOCAL_SUBJECT,
    InfoKind.MYCERT_ISSUER: Fact.LOCAL_ISSUER,
    InfoKind.CHANBIND_TLS_UNIQUE: Fact.TLS_UNIQUE,
    InfoKind.CHANBIND_TLS_SERVER_END_POINT: Fact.TLS_SERVER_END_POINT,
    InfoKind.CHANBIND_TLS_EXPORTER: Fact.TLS_EXPORTER,
}
CHECKS = {InfoKind.PEERCERT_SUBJECTALTNAME: Fact.REMOTE_NAME, InfoKind.MYCERT_SUBJECTALTNAME: Fact.LOCAL_NAME}


@pytest.mark.parametrize("kind", QUERIES)
@pytest.mark.parametrize("size_b", [0, 1, 334])
def test_a_value(world, app, session, kind, size_b):
    info(world, app, kind)
    question = asked(world)
    assert (question.session_id, question.fact, question.name) == (session, QUERIES[kind], b"")
    told(world, session, question.question, b"v" * size_b)
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cbid, frame.cmd) == (5, 0, Cmd.INFO)
    assert Info.from_payload_untrusted(frame.payload) == Info(KEY, kind, b"v" * size_b)


@pytest.mark.parametrize("kind", CHECKS)
def test_a_check(world, app, session, kind):
    info(world, app, kind, b"\x82\x01x")
    question = asked(world)
    assert (question.fact, question.name) == (CHECKS[kind], b"\x82\x01x")
    told(world, session, question.question, b"\x82\x01x")
    assert Info.from_payload_untrusted(world.frames(app)[0].payload) == Info(KEY, kind, b"\x82\x01x")


@pytest.mark.parametrize("kind", QUERIES)
def test_a_value_cannot_be_checked(world, app, session, kind):
    info(world, app, kind, b"\x30\0")
    assert world.error(app)[1] == 126
    assert world.to_worker() == []


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize("data", [None, b"x" * 334])
def test_a_name_that_cannot_be_looked_for(world, app, session, kind, data):
    info(world, app, kind, data)
    assert world.error(app)[1] == 126
    assert world.to_worker() == []


@pytest.mark.parametrize("kind", [0, 0x52800003, 0x52800103, 0x59290002, 0x92660001, 0xFFFFFFFF])
def test_unknown_kinds(world, app, session, kind):
    info(world, app, kind)
    frame = world.frames(app)[0]
    assert world.error(app)[1] == 125
    assert frame.payload[:4] == ComErr.INFOKIND_UNKNOWN.number.to_bytes(4, "little", signed=True)


@pytest.mark.parametrize("size", [335, 0x7FFF, 0xFFFE])
def test_key_then_length_then_kind(world, app, session, size):
    def payload(key):
        return Info.FORM.pack(key, 0, size, b"")

    world.send(app, Cmd.INFO, payload(bytes(16)))
    assert world.error(app)[1] == 115
    world.send(app, Cmd.INFO, payload(KEY))
    assert world.error(app)[1] == 101


def test_a_value_that_does_not_fit(world, app, session):
    info(world, app)
    told(world, session, asked(world).question, b"v" * 335)
    assert world.error(app)[1] == 126
    assert len(world.core.questions) == 0


def test_a_fact_that_there_is_not(world, app, session):
    info(world, app)
    told(world, session, asked(world).question, code=Code.INFO_NOT_FOUND)
    assert world.error(app)[:2] == (5, 126)


# --- who may ask ------------------------------------------------------------------------------------

ASK = [prng, info]


@pytest.mark.parametrize("ask", ASK)
def test_an_unknown_key(world, app, session, ask):
    ask(world, app, key=bytes(16))
    assert world.error(app)[1] == 115


@pytest.mark.parametrize("ask", ASK)
def test_a_key_of_another_connection(world, app, session, ask):
    other = world.app()
    ask(world, other)
    assert world.error(other)[1] == 115


@pytest.mark.parametrize("ask", ASK)
def test_a_detached_session(world, app, ask):
    world.relaying(app, ctlkey=KEY, flags=0x6 | Flag.DETACH)
    ask(world, app)
    assert world.error(app)[1] == 115


@pytest.mark.parametrize("ask", ASK)
def test_a_session_that_does_not_relay_yet(world, app, ask):
    session_id = world.starttls(app, ctlkey=KEY)
    ask(world, app)
    assert world.error(app)[1] == 115
    assert world.state(session_id) == "EXPECT_CLIENT_HELLO"


@pytest.mark.parametrize("ask", ASK)
def test_a_facility_that_is_denied(no_leaks, ask):
    world = World("deny_facilities starttls\n")
    app = world.app()
    ask(world, app)
    assert world.error(app)[1] == 206
    world.close()


@pytest.mark.parametrize("ask", ASK)
def test_a_descriptor_is_closed(world, app, session, ask):
    payload = Prng.ask(KEY, LABEL, None, 8) if ask is prng else Info(KEY, InfoKind.PEERCERT_SUBJECT)
    world.send(app, Cmd.PRNG if ask is prng else Cmd.INFO, payload.to_payload(), passed=world.fd())
    assert world.dropped() == [False]
    assert asked(world)


# --- ends of a question -----------------------------------------------------------------------------


def test_many_questions_are_told_apart(world, app, session):
    numbers = []
    for reqid in range(10, 20):
        prng(world, app, reqid=reqid)
        numbers.append(asked(world).question)
    assert len(set(numbers)) == 10
    for number in reversed(numbers):
        told(world, session, number, bytes([number]) * 32)
        [frame] = world.frames(app)
        assert frame.reqid == 10 + numbers.index(number)
        assert frame.payload[6:38] == bytes([number]) * 32


def test_a_session_that_ends_meanwhile(world, app, session):
    info(world, app)
    number = asked(world).question
    world.say(session, SessionEnded)
    assert world.error(app)[:2] == (5, 115)
    assert "the session is over" in world.error(app)[2]
    assert Timer(Clock.QUESTION, number) not in world.timers


def test_a_session_that_is_killed_meanwhile(world, app, session):
    info(world, app)
    world.core.sessions.kill(world.session(session), "operator")
    world.effects = world.core._out.take()
    assert world.error(app)[:2] == (5, 115)


def test_a_worker_that_dies_meanwhile(world, app, session):
    info(world, app)
    world.worker_goes(world.session(session).worker.number)
    assert world.error(app)[:2] == (5, 603)
    assert len(world.core.questions) == 0


def test_a_worker_that_does_not_answer(world, app, session):
    info(world, app)
    number = asked(world).question
    world.later(WORKER_WAIT_MS - 1)
    assert world.frames() == []
    world.later(1)
    assert world.error(app)[:2] == (5, 606)
    assert world.state(session) == "RELAYING"
    assert told(world, session, number, b"late") == []
    assert not world.noted("worker.condemned")


def test_an_application_that_goes_away_meanwhile(world, app):
    session = world.relaying(app, ctlkey=KEY, flags=0x6 | Flag.FORK)
    info(world, app)
    number = asked(world).question
    world.gone(app)
    assert world.state(session) == "RELAYING"
    assert told(world, session, number, b"late") == []
    assert len(world.core.questions) == 0


def test_a_request_id_that_is_used_again(world, app, session):
    """The newest message owns it: one reply, to that."""
    info(world, app, reqid=7)
    first = asked(world).question
    prng(world, app, reqid=7)
    second = asked(world).question
    assert told(world, session, first, b"late") == []
    told(world, session, second, b"k" * 32)
    assert [(frame.reqid, frame.cmd) for frame in world.frames(app)] == [(7, Cmd.PRNG)]


def test_a_request_id_that_a_callback_is_answered_under(world, app, session):
    other = world.starttls(app, reqid=8)
    world.say(other, ClientHelloSeen)
    world.say(other, HandshakeDone)
    callback, _ = world.callback(app)
    info(world, app, reqid=9)
    number = asked(world).question
    world.answer(app, callback, reqid=9)
    assert world.state(other) == "RELAYING"
    assert told(world, session, number, b"late") == []


def test_detaching_does_not_take_the_answer_away(world, app, session):
    info(world, app)
    number = asked(world).question
    world.core.sessions.keys.detach(world.core.connections.get(app), KEY)
    told(world, session, number, b"v")
    assert world.frames(app)[0].reqid == 5


# --- too many ---------------------------------------------------------------------------------------


def test_too_many_about_one_session(world, app, session):
    for reqid in range(100, 100 + PER_SESSION):
        info(world, app, reqid=reqid)
        number = asked(world).question
    info(world, app, reqid=1)
    assert world.error(app)[1] == 205
    told(world, session, number, b"v")
    info(world, app, reqid=1)
    assert asked(world)


def test_too_many_on_one_connection(no_leaks):
    world = World("max_requests_per_connection 3\n")
    app = world.app()
    sessions = [world.relaying(app, ctlkey=bytes([n]) * 16) for n in range(2)]
    info(world, app, key=bytes([0]) * 16, reqid=1)
    info(world, app, key=bytes([0]) * 16, reqid=2)
    info(world, app, key=bytes([1]) * 16, reqid=3)
    assert world.to_worker()
    info(world, app, key=bytes([1]) * 16, reqid=4)
    assert world.error(app)[1] == 205
    assert len(sessions) == 2
    world.close()


def test_too_many_in_one_worker(no_leaks):
    world = World("isolation pool\nworkers 1\n", workers=1)
    app = world.app()
    keys = [number.to_bytes(16) for number in range(1, PER_WORKER // PER_SESSION + 2)]
    for key in keys:
        world.relaying(app, ctlkey=key)
    reqid = 1
    for key in keys[:-1]:
        for _ in range(PER_SESSION):
            reqid += 1
            info(world, app, key=key, reqid=reqid)
            assert world.to_worker(AskFact)
    info(world, app, key=keys[-1], reqid=60000)
    assert world.error(app)[1] == 205
    world.close()


# --- workers that are not to be believed ------------------------------------------------------------


@pytest.mark.parametrize("offset", [1, 2, 2**31])
def test_an_answer_that_nobody_asked_for(world, app, session, offset):
    info(world, app)
    number = asked(world).question
    told(world, session, number + offset, b"v")
    assert world.noted("worker.condemned")
    assert world.state(session) == "OVER"
    assert world.error(app)[1] == 603


def test_an_answer_of_another_worker(world, app, session):
    other = world.relaying(app, reqid=2)
    assert world.session(other).worker is not world.session(session).worker
    info(world, app)
    number = asked(world).question
    told(world, session, number, b"v", worker=world.session(other).worker.number)
    assert world.state(other) == "OVER"
    assert world.state(session) == "RELAYING"
    told(world, session, number, b"v")
    assert world.frames(app)[0].cmd == Cmd.INFO


def test_an_answer_about_another_session(world, app, session):
    info(world, app)
    number = asked(world).question
    worker = world.session(session).worker.number
    told(world, session + 1000, number, b"v", worker=worker)
    assert world.noted("worker.condemned")


@pytest.mark.parametrize("size_b", [0, 31, 33])
def test_an_export_of_the_wrong_size(world, app, session, size_b):
    prng(world, app)
    told(world, session, asked(world).question, b"k" * size_b)
    assert world.noted("worker.condemned")
    assert world.error(app)[1] == 603


def test_an_answer_of_the_wrong_kind(world, app, session):
    info(world, app)
    number = asked(world).question
    world.say(
        session,
        RemoteTold(
            session_id=session, question=number, asked=True, code=0, detail="", remote_verified=True,
            remote_names=("email:root@example.com",), remote_subject="", remote_sha256=bytes(32),
        ),
    )  # fmt: skip
    assert world.noted("worker.condemned")


def test_nothing_secret_is_in_a_repr():
    assert "SECRET" not in repr(Told(session_id=1, question=1, code=0, value=b"SECRETSECRET"))
    assert "SECRET" not in repr(Prng(1, 1, 1, b"SECRETSECRET"))
