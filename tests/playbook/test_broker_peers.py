"""Peers in the broker's core: a plan for either role, and what becomes of it."""

import pytest

from tests.playbook.broker import credential
from tlspool_broker import policy
from tlspool_common.appwire import Cmd, Flag
from tlspool_common.messages import ClientHelloSeen, HandshakeDone, Proceed, Side, StartSession, UseCredential
from tlspool_common.settings import parse_untrusted

PEER = 0xF
FIELDS = {"flags": PEER, "localid": "me.example", "remoteid": "www.example.com"}


@pytest.fixture
def world(world):
    world.records.identities["me.example", Side.SERVER] = [credential("me.example as server")]
    return world


def test_it_is_a_client_when_nothing_else_is_said(world, app):
    session = world.starttls(app, **FIELDS)
    [start] = world.to_worker(StartSession)
    assert (start.side, start.peer, start.sni) == (Side.CLIENT, True, "www.example.com")
    assert 150 <= start.listen_ms <= 300
    assert [one.chain for one in world.to_worker(UseCredential)] == [(b"me.example",), (b"me.example",)]
    assert world.to_worker(Proceed)
    world.say(session, HandshakeDone)
    callback, shown = world.callback(app)
    assert (shown.flags, shown.localid, shown.remoteid) == (0x9, "me.example", "www.example.com")
    world.answer(app, callback)
    assert world.reply(app)[1].flags == 0x9
    assert world.session(session).row(world.now_ms)["side"] == "client"


def test_it_is_the_server_of_a_client_that_speaks(world, app):
    session = world.starttls(app, **FIELDS)
    world.say(session, ClientHelloSeen, sni="me.example")
    assert world.state(session) == "EXPECT_HANDSHAKE"
    assert [one.chain for one in world.to_worker(UseCredential)] == [(b"me.example as server",)]
    world.say(session, HandshakeDone, sni="me.example")
    callback, shown = world.callback(app)
    assert (shown.flags, shown.localid, shown.remoteid) == (0x6, "me.example", "www.example.com")
    world.answer(app, callback)
    assert world.reply(app)[1].flags == 0x6
    assert world.session(session).row(world.now_ms)["side"] == "server"


def test_other_flags_are_kept(world, app):
    session = world.starttls(app, **{**FIELDS, "flags": PEER | Flag.FORK | Flag.DTLS})
    world.say(session, HandshakeDone)
    assert world.callback(app)[1].flags == 0x9 | Flag.FORK | Flag.DTLS


def test_one_hello_only(world, app):
    session = world.starttls(app, **FIELDS)
    world.say(session, ClientHelloSeen, sni="")
    world.say(session, ClientHelloSeen, sni="")
    assert world.noted("worker.condemned")


def test_a_client_is_not_made_a_server_by_its_worker(world, app):
    session = world.starttls_client(app)
    assert world.state(session) == "EXPECT_HANDSHAKE"
    world.say(session, ClientHelloSeen)
    assert world.noted("worker.condemned")
    assert world.error(app)[1] == 603


def test_a_name_that_is_not_ours(world, app):
    session = world.starttls(app, **FIELDS)
    world.say(session, ClientHelloSeen, sni="other.example")
    assert world.error(app)[1] == 203
    assert world.state(session) == "EXPECT_END"


def test_keyd_goes_between_both_roles(world, app):
    session = world.starttls(app, **FIELDS)
    world.keyd_goes()
    world.say(session, ClientHelloSeen, sni="")
    assert world.state(session) == "EXPECT_KEYD"
    world.keyd_comes()
    assert [one.chain for one in world.to_worker(UseCredential)] == [(b"me.example as server",)]


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (111, {"localid": ""}),
        (112, {"remoteid": ""}),
        (202, {"localid": "localhost"}),
        (202, {"remoteid": "other.example"}),
        (113, {"localid": "@"}),
    ],
)
def test_both_roles_must_be_possible(world, app, code, change):
    world.starttls(app, **{**FIELDS, **change})
    assert world.error(app)[1] == code
    assert len(world.core.sessions) == 0


@pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER])
def test_a_certificate_for_both_roles(world, app, side):
    del world.records.identities["me.example", side]
    world.starttls(app, **FIELDS)
    assert world.error(app)[1] == 201
    assert side.name.lower() in world.error(app)[2]


def test_each_session_listens_for_another_time():
    settings = parse_untrusted("peer_listen_s 2\n")
    times = {policy.listen_ms(number.to_bytes(16), settings) for number in range(100)}
    assert len(times) > 50
    assert all(1000 <= time <= 2000 for time in times)
    assert policy.listen_ms(bytes(16), parse_untrusted("peer_listen_s 0\n")) == 0


def test_the_application_is_asked_in_either_role(world, app):
    session = world.starttls(app, **{**FIELDS, "flags": PEER | Flag.LOCALID_CHECK})
    callback, shown = world.callback(app, Cmd.STARTTLS_LOCALID)
    assert shown.localid == "me.example"
    world.answer(app, callback, passed=None)
    assert world.to_worker(StartSession)[0].peer
    world.say(session, ClientHelloSeen, sni="me.example")
    callback, shown = world.callback(app, Cmd.STARTTLS_LOCALID)
    assert shown.localid == "me.example"
    world.answer(app, callback, passed=None)
    assert [one.chain for one in world.to_worker(UseCredential)] == [(b"me.example as server",)]
    world.say(session, HandshakeDone, sni="me.example")
    assert world.callback(app)[1].flags == 0x6 | Flag.LOCALID_CHECK
