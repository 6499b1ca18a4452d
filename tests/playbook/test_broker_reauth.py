"""Authentication after the handshake in the broker's core: servers that ask, and clients that are asked."""

import pytest

from tests.playbook.broker import CLIENT, SERVER, World
from tlspool_broker.events import Clock, Timer
from tlspool_broker.reauth import BURST, RATION_MS
from tlspool_common.appwire import Cmd, Flag, Starttls
from tlspool_common.errors import Code, ComErr
from tlspool_common.grants import unseal_untrusted
from tlspool_common.messages import (
    AskedByRemote,
    AskRemote,
    ClientHelloSeen,
    HandshakeDone,
    Proceed,
    RemoteTold,
    SessionEnded,
    Side,
    TrustBegin,
    UseCredential,
)

KEY = bytes(range(16))
AGAIN = SERVER | Flag.RENEGOTIATE


@pytest.fixture
def session(world, app):
    return world.relaying(app, ctlkey=KEY, flags=SERVER | Flag.IGNORE_REMOTEID)


def again(world, app, *, reqid=5, passed=None, **fields):
    request = Starttls(**{"flags": AGAIN, "ctlkey": KEY, **fields})
    return world.send(app, Cmd.STARTTLS, request.to_payload(), reqid=reqid, passed=passed)


def told(world, session, number=None, **fields):
    fields = {
        "asked": True, "code": 0, "detail": "", "remote_verified": True,
        "remote_names": ("email:john@example.com", "dns:example.com"), "remote_subject": "CN=john",
        "remote_sha256": b"h" * 32, **fields,
    }  # fmt: skip
    return world.say(session, RemoteTold(session_id=session, question=number or asked(world).question, **fields))


NOBODY = {"remote_verified": False, "remote_names": (), "remote_subject": "", "remote_sha256": b""}


def asked(world):
    [message] = world.to_worker(AskRemote)
    return message


# --- our server asks --------------------------------------------------------------------------------


def test_a_client_proves_who_it_is(world, app, session):
    assert not world.session(session).verified
    again(world, app, remoteid="john@example.com", localid="localhost", service="smtp", local=77)
    question = asked(world)
    assert (question.session_id, question.remote_name) == (session, "john@example.com")
    assert question.trust_generation == 5
    assert world.frames() == []
    told(world, session)
    frame, reply = world.reply(app)
    assert frame.reqid == 5
    assert (reply.localid, reply.remoteid) == ("localhost", "john@example.com")
    assert (reply.flags, reply.ctlkey, reply.service, reply.local) == (AGAIN, KEY, "smtp", 77)
    assert world.state(session) == "RELAYING"
    assert world.session(session).verified
    world.send(app, Cmd.LOCAL_DETAILS, KEY)
    assert world.frames(app)[0].payload[16 + 8 + 2] == 1
    assert world.noted("session.reauthenticated")[-1]["remoteid"] == "john@example.com"
    assert not any(timer.clock is Clock.QUESTION for timer in world.timers)


def test_anybody_who_verifies_will_do(world, app, session):
    again(world, app, flags=Flag.RENEGOTIATE)  # no role is the role that we have
    assert asked(world).remote_name == ""
    told(world, session)
    assert world.reply(app)[1].remoteid == "john@example.com"


def test_the_anchors_are_those_of_the_day(world, app, session):
    world.records.change(trust=True)
    again(world, app)
    assert asked(world).trust_generation == 8
    assert world.to_worker(TrustBegin)


def test_whom_it_must_prove_to_be_is_decided_here_too(world, app, session):
    again(world, app, remoteid="jane@example.com")
    told(world, session)
    assert world.error(app)[:2] == (5, 406)
    assert world.session(session).remoteid == ""


@pytest.mark.parametrize("flag", [0, Flag.DOMAIN_REPRESENTS_USER])
def test_a_domain_for_its_user(world, app, session, flag):
    again(world, app, remoteid="jane@example.com", flags=AGAIN | flag)
    assert asked(world).domain_represents_user is bool(flag)
    told(world, session)
    if flag:
        assert world.reply(app)[1].remoteid == "jane@example.com"
    else:
        assert world.error(app)[1] == 406


@pytest.mark.parametrize("code", [Code.CHAIN_UNTRUSTED, Code.EXPIRED, Code.NAME_MISMATCH])
def test_a_client_that_proves_nothing_is_nobody_and_goes_on(world, app, code):
    """Also if it was somebody before."""
    session = world.relaying(app, ctlkey=KEY)
    assert world.session(session).remoteid
    again(world, app)
    told(world, session, code=int(code), detail="secret of the remote", **{**NOBODY, "remote_sha256": b"h" * 32})
    assert world.error(app)[1] == code
    assert "secret" not in world.error(app)[2]
    assert world.state(session) == "RELAYING"
    assert world.session(session).remoteid == ""
    assert not world.session(session).verified
    again(world, app)
    told(world, session)
    assert world.reply(app)[1].remoteid == "john@example.com"


@pytest.mark.parametrize("flag", [0, Flag.REQUEST_REMOTEID])
def test_a_client_without_a_certificate(world, app, session, flag):
    again(world, app, flags=AGAIN | flag)
    told(world, session, **NOBODY)
    if flag:
        assert world.reply(app)[1].remoteid == ""
    else:
        assert world.error(app)[1] == 401
    assert world.state(session) == "RELAYING"
    assert not world.session(session).verified


@pytest.mark.parametrize("code", [Code.REAUTH_INSECURE, Code.REAUTH_BUSY])
def test_a_client_that_cannot_be_asked_stays_who_it_was(world, app, code):
    session = world.relaying(app, ctlkey=KEY)
    before = world.session(session).remoteid
    again(world, app)
    told(world, session, asked=False, code=int(code), detail="extension not received", **NOBODY)
    assert world.error(app)[:2] == (5, code)
    assert world.session(session).remoteid == before != ""
    assert world.session(session).verified


def test_one_question_at_a_time(world, app, session):
    again(world, app)
    number = asked(world).question
    again(world, app, reqid=6)
    assert world.error(app)[:2] == (6, 128)
    told(world, session, number)
    assert world.reply(app)[0].reqid == 5
    again(world, app, reqid=6)
    assert asked(world)


def test_a_client_that_takes_its_time(world, app, session):
    """The application is told after the timeout; what the client proves later is true all the same."""
    again(world, app, timeout_ms=1500)
    number = asked(world).question
    world.later(1499)
    assert world.frames() == []
    world.later(1)
    assert world.error(app)[:2] == (5, 307)
    again(world, app, reqid=6)
    assert world.error(app)[:2] == (6, 128)
    told(world, session, number)
    assert world.frames() == []
    assert world.session(session).remoteid == "john@example.com"
    again(world, app, reqid=7)
    assert asked(world)


def test_without_a_timeout_nothing_runs_out(world, app, session):
    again(world, app, timeout_ms=0xFFFFFFFF)
    number = asked(world).question
    world.later(10_000_000)
    assert Timer(Clock.QUESTION, number) not in world.timers
    told(world, session, number)
    assert world.reply(app)


def test_a_session_that_ends_meanwhile(world, app, session):
    again(world, app)
    world.say(session, SessionEnded)
    assert world.error(app)[:2] == (5, 115)


def test_an_answer_that_crosses_the_end(world, app, session):
    again(world, app)
    number = asked(world).question
    worker = world.session(session).worker.number
    world.say(session, SessionEnded)
    message = RemoteTold(session_id=session, question=number, asked=True, code=0, detail="", **NOBODY)
    world.say(session, message, worker=worker)
    assert not world.noted("worker.condemned")


def test_an_application_that_goes_away_meanwhile(world, app):
    session = world.relaying(app, ctlkey=KEY, flags=SERVER | Flag.FORK)
    again(world, app)
    number = asked(world).question
    world.gone(app)
    told(world, session, number)
    assert world.session(session).remoteid == "john@example.com"


# --- what cannot be asked ---------------------------------------------------------------------------


def refused(world, app, code, com_err, **fields):
    again(world, app, **fields)
    frame = world.frames(app)[0]
    assert world.error(app)[:2] == (5, code)
    assert frame.payload[:4] == com_err.number.to_bytes(4, "little", signed=True)
    assert world.to_worker() == []


def test_a_descriptor(world, app, session):
    refused(world, app, 106, ComErr.SUPERFLUOUS_SOCKET, passed=world.fd(), ctlkey=bytes(16))
    assert world.dropped() == [False]


def test_a_key_that_nobody_has(world, app, session):
    refused(world, app, 127, ComErr.RENOGIATE_NOT_FOUND, ctlkey=bytes(16))


def test_a_session_of_another_connection(world, app, session):
    refused(world, world.app(), 127, ComErr.RENOGIATE_NOT_FOUND)


def test_a_detached_session(world, app, session):
    world.core.sessions.keys.detach(world.core.connections.get(app), KEY)
    refused(world, app, 127, ComErr.RENOGIATE_NOT_FOUND)


def client_session(world, app):
    session = world.starttls_client(app, ctlkey=KEY)
    world.say(session, HandshakeDone)
    world.answer(app, world.callback(app)[0])
    assert world.state(session) == "RELAYING"
    return session


def test_a_client_cannot_ask(world, app):
    session = client_session(world, app)
    refused(world, app, 129, ComErr.RENOGIATE_WOULD_BE_INSECURE, flags=CLIENT | Flag.RENEGOTIATE)
    assert world.state(session) == "RELAYING"


def test_not_with_tls12(world, app):
    session = world.starttls(app, ctlkey=KEY)
    world.say(session, ClientHelloSeen)
    world.say(session, HandshakeDone, tls_version=0x0303)
    world.answer(app, world.callback(app)[0])
    refused(world, app, 129, ComErr.RENOGIATE_WOULD_BE_INSECURE)
    assert world.state(session) == "RELAYING"


@pytest.mark.parametrize(
    ("code", "com_err", "fields"),
    [
        (110, ComErr.COMMAND_NOTIMPL, {"flags": CLIENT | Flag.RENEGOTIATE}),
        (101, ComErr.COMMAND_NOTIMPL, {"flags": AGAIN | Flag.IGNORE_REMOTEID}),
        (103, ComErr.COMMAND_NOTIMPL, {"localid": "other.example"}),
        (113, ComErr.CONNECTION_DRIVER_SETUP, {"localid": "@"}),
        (113, ComErr.CONNECTION_DRIVER_SETUP, {"remoteid": "a..b"}),
    ],
)
def test_questions_that_make_no_sense(world, app, session, code, com_err, fields):
    refused(world, app, code, com_err, **fields)
    assert world.state(session) == "RELAYING"
    again(world, app)
    assert asked(world)


def test_a_facility_that_is_denied(no_leaks):
    world = World("deny_facilities starttls\n")
    again(world, world.app())
    assert world.error()[1] == 206
    world.close()


def test_a_worker_that_tells_without_being_asked(world, app, session):
    again(world, app)
    number = asked(world).question
    told(world, session, number)
    told(world, session, number + 1)
    assert world.noted("worker.condemned")


def test_a_worker_that_tells_twice_changes_nothing(world, app, session):
    again(world, app)
    number = asked(world).question
    told(world, session, number)
    told(world, session, number, remote_names=("email:root@example.com",))
    assert world.session(session).remoteid == "john@example.com"
    assert world.frames() == []


# --- our client is asked ----------------------------------------------------------------------------


@pytest.fixture
def client(world, app):
    return client_session(world, app)


def is_asked(world, session):
    world.say(session, AskedByRemote(session_id=session))
    return world.to_worker(UseCredential), world.to_worker(Proceed)


def test_it_says_who_it_is_with_fresh_grants(world, client):
    first, [proceed] = is_asked(world, client)
    assert proceed == Proceed(session_id=client)
    assert [one.chain for one in first] == [(b"me.example",), (b"me.example",)]
    grants = [unseal_untrusted(b"s" * 32, one.grant) for one in first]
    assert len({grant.grant_id for grant in grants}) == 2
    for grant in grants:
        assert (grant.side, grant.session_id) == (Side.CLIENT, client)
        assert 0 < grant.expires_ms - world.now_ms <= 60_000
    assert world.noted("session.asked")[-1]["answered"] is True


def test_not_as_often_as_a_server_likes(world, client):
    for _ in range(BURST):
        assert len(is_asked(world, client)[0]) == 2
    assert is_asked(world, client) == ([], [Proceed(session_id=client)])
    assert world.noted("session.asked")[-1]["answered"] is False
    world.later(RATION_MS)
    assert len(is_asked(world, client)[0]) == 2
    assert is_asked(world, client)[0] == []
    world.later(100 * RATION_MS)
    assert [len(is_asked(world, client)[0]) for _ in range(BURST + 1)] == [2] * BURST + [0]


def test_rations_are_of_a_session(world, app, client):
    for _ in range(BURST + 1):
        is_asked(world, client)
    other = world.starttls_client(app, reqid=2)
    world.say(other, HandshakeDone)
    world.answer(app, world.callback(app)[0])
    assert len(is_asked(world, other)[0]) == 2


def test_without_keyd_it_is_nobody(world, client):
    world.keyd_goes()
    assert is_asked(world, client) == ([], [Proceed(session_id=client)])
    world.keyd_comes()
    assert len(is_asked(world, client)[0]) == 2


def test_a_client_without_identity(world, app):
    world.records.disclosures.clear()
    session = client_session(world, app)
    assert is_asked(world, session) == ([], [Proceed(session_id=session)])


def test_before_there_is_a_plaintext_end(world, app):
    session = world.starttls_client(app)
    world.say(session, HandshakeDone)
    assert world.state(session) == "EXPECT_PLAINTEXT"
    assert len(is_asked(world, session)[0]) == 2


def test_a_session_that_is_told_to_end_is_not_answered(world, app, client):
    worker = world.session(client).worker.number
    world.gone(app)
    assert world.state(client) == "EXPECT_END"
    assert is_asked(world, client) == ([], [])
    world.say(client, SessionEnded)
    world.say(client, AskedByRemote(session_id=client), worker=worker)
    assert not world.noted("worker.condemned")


def test_a_server_cannot_have_been_asked(world, app, session):
    is_asked(world, session)
    assert world.noted("worker.condemned")


def test_nor_a_session_in_its_handshake(world, app):
    session = world.starttls_client(app)
    is_asked(world, session)
    assert world.noted("worker.condemned")


def test_nor_one_of_another_worker(world, app, client):
    other = world.relaying(app, reqid=2)
    world.say(client, AskedByRemote(session_id=client), worker=world.session(other).worker.number)
    assert world.noted("worker.condemned")
    assert world.state(client) == "RELAYING"
    assert world.to_worker(UseCredential) == []


# --- expressions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields", "code"),
    [
        ("1", {}, None),
        ("TF&", {}, None),
        ("U", {}, None),
        ("U", {"remote_names": ("dns:example.com",)}, Code.NAME_MISMATCH),
        ("C", {}, Code.VALIDATION_FAILED),
        ("P", {}, Code.VALIDATION_FAILED),
        ("R", {}, Code.VALIDATION_UNDECIDED),  # the chain is not told
        ("l", {}, Code.VALIDATION_UNDECIDED),
        ("e", {}, Code.VALIDATION_UNDECIDED),
        ("p", {}, Code.VALIDATION_UNDECIDED),
        ("C", NOBODY, Code.CERTIFICATE_MISSING),
    ],
)
def test_an_expression_counts_when_a_remote_is_asked_again(world, app, text, fields, code):
    session = world.relaying(app, ctlkey=KEY, flags=SERVER | Flag.IGNORE_REMOTEID)
    world.records.change(expressions={("localhost", Side.SERVER): text})
    again(world, app)
    told(world, session, **fields)
    if code is None:
        assert world.reply(app)[1].remoteid == "john@example.com"
        assert world.session(session).generation == 8
    else:
        assert world.error(app)[1] == code
        assert world.session(session).remoteid == ""
        assert not world.session(session).verified
    assert world.state(session) == "RELAYING"


def test_what_the_trust_database_says_beyond_anchors_is_not_guessed(world, app, session):
    world.records.change(judges=frozenset(Side))
    again(world, app)
    told(world, session)
    assert world.error(app)[1] == Code.VALIDATION_UNDECIDED


def test_a_remote_that_is_asked_again_is_judged_by_the_day_it_was_asked(world, app, session):
    again(world, app)
    number = asked(world).question
    world.records.change(expressions={("localhost", Side.SERVER): "0"})
    told(world, session, number)
    assert world.reply(app)[1].remoteid == "john@example.com"
