"""Sessions from STARTTLS to their end, and every refusal before there is one."""

from dataclasses import replace

import pytest

from tests.playbook.broker import CLIENT, SERVER, FakeRecords, World, broken_database, credential
from tlspool_broker.events import FdKind, JoinKeyd
from tlspool_common import appwire, grants
from tlspool_common.appwire import Cmd, Details, Flag, Options, Ping, Verified
from tlspool_common.errors import ComErr
from tlspool_common.messages import (
    ClientHelloSeen,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    KeyKind,
    PlainConnected,
    Proceed,
    RemoteAuth,
    SessionEnded,
    Side,
    StartSession,
    TrustAnchor,
    TrustBegin,
    UseCredential,
    WorkerOwner,
)


def test_ping(world):
    app = world.app()
    world.send(app, Cmd.PING, b"\xff" * 136 + b"\xff\0\0\0", reqid=0xFFFF)
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cbid, frame.cmd) == (0xFFFF, 0, Cmd.PING)
    assert Ping.from_payload_untrusted(frame.payload) == Ping(appwire.IDENTITY, 1)


def test_ping_with_the_facility_denied(no_leaks):
    world = World("deny_facilities starttls\n")
    app = world.app()
    world.send(app, Cmd.PING, Ping("x", 7).to_payload())
    assert Ping.from_payload_untrusted(world.frames()[0].payload).facilities == 0
    world.starttls(app)
    assert world.error(app)[1] == 206
    world.close()


def test_a_server(world):
    app = world.app()
    session_id = world.starttls(app, reqid=9, flags=SERVER | Flag.FORK, local=77, streamid=5, timeout_ms=5000)
    start = world.to_worker()
    assert [type(message) for message in start] == [TrustBegin, TrustAnchor, TrustAnchor, WorkerOwner, StartSession]
    assert world.to_worker(WorkerOwner)[0].owner == "uid 1000 (postfix)"
    assert start[1] == TrustAnchor(generation=5, for_sides=3, certificate=b"root")
    assert (start[4].side, start[4].remote_auth, start[4].sni) == (Side.SERVER, RemoteAuth.REQUIRE, "")
    assert (start[4].tls_min, start[4].tls_max, start[4].trust_generation) == (0x0303, 0x0304, 5)
    assert world.timer(session_id) == 5000
    assert not world.frames()

    world.say(session_id, ClientHelloSeen)
    use, proceed = world.to_worker()
    assert (use.key_kind, use.chain) == (KeyKind.EC_P256, (b"localhost",))
    grant = grants.unseal_untrusted(b"s" * 32, use.grant)
    assert (grant.session_id, grant.side, grant.key_uri) == (session_id, Side.SERVER, "pkcs11:object=localhost")
    assert grant.worker_id == world.session(session_id).worker.worker_id
    assert world.now_ms < grant.expires_ms <= world.now_ms + 5001
    assert proceed == Proceed(session_id=session_id)

    world.say(session_id, HandshakeDone)
    frame, told = world.callback(app)
    assert frame.reqid == 9
    assert (told.localid, told.remoteid) == ("localhost", "john@example.com")
    assert (told.flags, told.local, told.streamid, told.timeout_ms) == (SERVER | Flag.FORK, 77, 5, 5000)
    assert world.timer(session_id) == 60_000

    world.answer(app, frame)
    assert world.to_worker() == [PlainConnected(session_id=session_id)]
    final, said = world.reply(app)
    assert final.reqid == 9
    assert said == told
    assert world.timer(session_id) is None
    [started] = world.noted("session.start")
    assert (started["remoteid"], started["group"], started["generation"]) == ("john@example.com", "X25519MLKEM768", 7)

    world.say(session_id, SessionEnded)
    assert world.state(session_id) == "OVER"
    assert not world.frames()
    [ended] = world.noted("session.end")
    assert (ended["from_remote_b"], ended["to_remote_b"], ended["reason"]) == (10, 20, "clean")


def test_a_client(world):
    app = world.app()
    session_id = world.starttls_client(app)
    *_, start, first, second, proceed = world.to_worker()
    assert (start.side, start.sni, start.remote_name) == (Side.CLIENT, "www.example.com", "www.example.com")
    assert [message.key_kind for message in (first, second)] == [KeyKind.EC_P256, KeyKind.RSA]
    assert (
        grants.unseal_untrusted(b"s" * 32, first.grant).grant_id
        != grants.unseal_untrusted(b"s" * 32, second.grant).grant_id
    )
    assert isinstance(proceed, Proceed)
    world.say(session_id, HandshakeDone)
    _, told = world.callback(app)
    assert (told.localid, told.remoteid) == ("me.example", "www.example.com")


def test_a_client_that_may_not_say_who_it_is(world):
    world.records.disclosures.clear()
    session_id = world.starttls_client(world.app())
    assert [type(message) for message in world.to_worker()[-2:]] == [StartSession, Proceed]
    world.say(session_id, HandshakeDone)
    assert world.callback()[1].localid == ""


def test_trust_is_sent_once_for_each_generation_and_worker(world):
    app = world.app()
    world.starttls(app, reqid=1)
    world.starttls(app, reqid=2)  # on the other worker
    assert world.to_worker(TrustBegin)
    world.starttls(app, reqid=3)
    assert not world.to_worker(TrustBegin)
    world.records.change(trust=True)
    world.starttls(app, reqid=4)
    assert world.to_worker(TrustBegin) == [TrustBegin(generation=8)]


def refusal(world, code, com_err, event="command.refused"):
    _, number, text = world.error()
    assert number == code, text
    reply = appwire.ErrorReply.from_payload_untrusted(world.frames()[0].payload)
    assert reply.tlserrno == com_err.number
    assert world.noted(event)[-1]["code"] == code
    assert not world.to_worker()
    assert len(world.core.sessions) == 0
    return text


# In the order of the checks: each request has every fault of those behind it as well.
FAULTS = [
    (101, ComErr.COMMAND_NOTIMPL, {"service": "x" * 15}, True),
    (106, ComErr.SUPERFLUOUS_SOCKET, {"flags": Flag.RENEGOTIATE}, True),
    (127, ComErr.RENOGIATE_NOT_FOUND, {"flags": Flag.RENEGOTIATE}, None),
    (104, ComErr.CIPHER_SOCKET_NEEDED, {"flags": 0}, None),
    (105, ComErr.CIPHER_SOCKET_NEEDED, {"flags": 0}, FdKind.OTHER),
    (105, ComErr.CIPHER_SOCKET_NEEDED, {"flags": 0}, FdKind.SEQPACKET),
    (105, ComErr.CIPHER_SOCKET_NEEDED, {"flags": 0}, FdKind.POOL),
    (110, ComErr.COMMAND_NOTIMPL, {"flags": Flag.LOCALID_CHECK}, True),
    (110, ComErr.COMMAND_NOTIMPL, {"flags": Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_CLIENT}, True),
    (114, ComErr.CTLKEY_REGISTRATION_FAILED, {"flags": SERVER}, True),
    (113, ComErr.CONNECTION_DRIVER_SETUP, {"flags": SERVER, "localid": "a..b"}, True),
    (113, ComErr.CONNECTION_DRIVER_SETUP, {"flags": SERVER, "localid": "a.b", "remoteid": "@"}, True),
    (111, ComErr.CONNECTION_DRIVER_SETUP, {"flags": SERVER, "localid": "", "remoteid": ""}, True),
    (112, ComErr.CONNECTION_DRIVER_SETUP, {"flags": CLIENT, "localid": "", "remoteid": ""}, True),
    (201, ComErr.CONNECTION_DRIVER_SETUP, {"flags": SERVER, "localid": "nobody.example", "remoteid": ""}, True),
    # nobody makes certificates up here, so the flag changes nothing
    (
        201,
        ComErr.CONNECTION_DRIVER_SETUP,
        {"flags": SERVER | Flag.LOCALID_ONTHEFLY, "localid": "nobody.example", "remoteid": ""},
        True,
    ),
    (
        202,
        ComErr.CONNECTION_DRIVER_SETUP,
        {"flags": CLIENT, "localid": "localhost", "remoteid": "www.example.com"},
        True,
    ),
]


@pytest.mark.parametrize(("code", "com_err", "fields", "passed"), FAULTS)
def test_refusals_in_their_order(world, code, com_err, fields, passed):
    app = world.app()
    key = bytes(16)
    if code == 114:
        world.starttls(app, reqid=50, ctlkey=key)
    if passed not in (True, None):
        passed = world.fd(passed)
    fields = {"localid": "a..b", "remoteid": "@", "ctlkey": key, **fields}
    if code == 101:
        payload = bytearray(appwire.Starttls(**fields).to_payload())
        payload[284:300] = b"x" * 16
        world.send(app, Cmd.STARTTLS, bytes(payload), reqid=1, passed=world.fd())
    else:
        world.starttls(app, passed=passed, **fields)
    if code == 114:
        assert world.error()[1] == 114
    else:
        refusal(world, code, com_err)
    assert world.dropped() == ([False] if passed else [])


def test_an_identity_without_credentials_for_the_role(world):
    world.records.identities["me.example", Side.CLIENT] = []
    world.starttls_client(world.app(), localid="me.example")
    refusal(world, 201, ComErr.CONNECTION_DRIVER_SETUP)


def test_a_broken_database_is_no_business_of_the_application(world):
    world.records.broken = broken_database()
    world.starttls(world.app())
    text = refusal(world, 605, ComErr.CONNECTION_DRIVER_SETUP)
    assert "/var/lib" not in text
    assert "/var/lib" in world.noted("command.refused")[0]["detail"]


def test_a_database_that_breaks_before_the_worker_has_the_session(world):
    class Breaking(FakeRecords):
        def anchors(self):
            raise broken_database()

    world.records.__class__ = Breaking
    world.starttls(world.app())
    assert "/var/lib" not in refusal(world, 605, ComErr.CONNECTION_DRIVER_SETUP, "session.failed")
    assert world.dropped() == [False]
    world.records.__class__ = FakeRecords
    assert world.state(world.starttls(world.app())) == "EXPECT_CLIENT_HELLO"


@pytest.mark.parametrize(
    ("config", "code", "uid"),
    [
        ("max_sessions 2\n", 204, 1001),
        ("max_sessions_per_caller 2\n", 204, 1000),
        ("max_requests_per_connection 2\n", 205, 1000),
    ],
)
def test_limits(no_leaks, config, code, uid):
    world = World(config)
    first = world.app()
    world.starttls(first, reqid=1)
    world.starttls(first, reqid=2)
    last = first if code == 205 else world.app(uid)
    world.starttls(last, reqid=3)
    assert world.error(last)[:2] == (3, code)
    assert world.dropped() == [False]
    other = world.app(1001)
    if "caller" in config or "requests" in config:
        world.starttls(other)
        assert not world.frames()
    world.gone(first)
    world.say(1, SessionEnded)
    world.say(2, SessionEnded)
    world.starttls(world.app(uid))
    assert not world.frames()
    world.close()


def test_a_key_may_be_used_again_when_its_session_is_over_for_the_application(world):
    app = world.app()
    session_id = world.starttls(app, reqid=1, ctlkey=b"k" * 16)
    world.say(session_id, HandshakeFailed)
    assert world.error(app)[:2] == (1, 303)
    world.starttls(app, reqid=1, ctlkey=b"k" * 16)
    assert not world.frames()


@pytest.mark.parametrize("cmd", [0, 1, 0x11, 0x28, 0x2A, 0x201, 0x80000005, 0xFFFFFFFF])
@pytest.mark.parametrize("cbid", [0, 77])
def test_what_is_no_request(world, cmd, cbid):
    app = world.app()
    world.send(app, cmd, b"\xff" * 380, reqid=5, cbid=cbid, passed=world.fd())
    assert world.error(app)[:2] == (5, 102)
    assert world.dropped() == [False]


def test_options_are_for_one_starttls_with_their_key(world):
    app = world.app()
    key = b"k" * 16
    world.send(app, Cmd.LOCAL_OPTIONS, Options(key, b"\x02h2\x08http/1.1").to_payload(), reqid=3)
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cmd, frame.payload) == (3, Cmd.SUCCESS, b"")
    world.starttls(app, reqid=1)
    assert world.to_worker(StartSession)[0].alpn == b""
    session_id = world.starttls(app, reqid=2, ctlkey=key)
    assert world.to_worker(StartSession)[0].alpn == b"\x02h2\x08http/1.1"
    world.say(session_id, HandshakeFailed)
    world.starttls(app, reqid=2, ctlkey=key)
    assert world.to_worker(StartSession)[0].alpn == b""


def test_options_are_of_one_connection_and_bounded(no_leaks):
    world = World("max_requests_per_connection 2\n")
    app, other = world.app(), world.app()
    for number in range(2):
        world.send(app, Cmd.LOCAL_OPTIONS, Options(bytes([number]) * 16, b"\x02h2").to_payload())
    world.send(app, Cmd.LOCAL_OPTIONS, Options(b"9" * 16, b"").to_payload())
    assert world.error(app)[1] == 205
    world.send(app, Cmd.LOCAL_OPTIONS, Options(bytes(16), b"\x02h3").to_payload())  # instead of the former
    assert world.frames()[0].cmd == Cmd.SUCCESS
    world.starttls(other, ctlkey=bytes(16))
    assert world.to_worker(StartSession)[0].alpn == b""
    world.close()


def test_options_that_are_malformed(world):
    app = world.app()
    world.send(app, Cmd.LOCAL_OPTIONS, Options(bytes(16), b"\x09h2").to_payload()[:18] + b"\x09h2")
    assert world.error(app)[1] == 101


def test_details_of_a_session_that_this_connection_controls(world):
    app, other = world.app(), world.app()
    key = b"k" * 16
    session_id = world.starttls(app, ctlkey=key)
    world.send(app, Cmd.LOCAL_DETAILS, key, reqid=4)
    assert world.error(app)[:2] == (4, 115)  # not yet
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone, alpn=b"h2", remote_subject="CN=j\u0000\u00f6hn" + "x" * 900, cipher="c" * 64)
    world.answer(app, world.callback(app)[0])
    world.send(app, Cmd.LOCAL_DETAILS, key + b"\xff" * 300, reqid=4)
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cmd) == (4, Cmd.LOCAL_DETAILS)
    details = Details.from_payload_untrusted(frame.payload)
    assert (details.ctlkey, details.session_id, details.tls_version) == (key, session_id, 0x0304)
    assert (details.group, details.alpn, details.verified) == ("X25519MLKEM768", b"h2", Verified.X509)
    assert details.subject.startswith("CN=j?\u00f6hnxxx")
    assert details.cipher == "c" * 63
    world.send(other, Cmd.LOCAL_DETAILS, key)
    assert world.error(other)[1] == 115
    # who asks about a short session may come too late by a moment
    world.say(session_id, SessionEnded)
    world.send(other, Cmd.LOCAL_DETAILS, key)
    assert world.error(other)[1] == 115
    world.send(app, Cmd.LOCAL_DETAILS, key)
    [frame] = world.frames(app)
    assert Details.from_payload_untrusted(frame.payload) == details
    world.later(5_001)
    world.send(app, Cmd.LOCAL_DETAILS, key)
    assert world.error(app)[1] == 115


def test_a_remote_that_was_not_asked_proves_nothing(world):
    """Even if the worker says it did."""
    app = world.app()
    session_id = world.relaying(app, ctlkey=b"k" * 16, flags=SERVER | Flag.IGNORE_REMOTEID)
    assert world.reply(app)[1].remoteid == ""
    world.send(app, Cmd.LOCAL_DETAILS, b"k" * 16)
    assert Details.from_payload_untrusted(world.frames()[0].payload).verified == Verified.NOT
    assert world.noted("session.start")[0]["verified"] is False
    assert world.session(session_id).row(world.now_ms)["remoteid"] == ""


@pytest.mark.parametrize(
    ("fields", "code", "alert"),
    [
        ({"remote_verified": False, "remote_sha256": b""}, 401, 116),
        ({"remote_verified": False}, 402, 48),
        ({"remote_names": ("dns:www.example.org",)}, 406, 49),
    ],
)
def test_the_broker_judges_for_itself(world, fields, code, alert):
    """A worker that let a remote in that it should not have is told to end it."""
    app = world.app()
    session_id = world.starttls_client(app)
    world.say(session_id, HandshakeDone, **fields)
    assert world.error(app)[1] == code
    assert world.to_worker() == [EndSession(session_id=session_id, alert=alert)]
    assert world.noted("session.refused")[0]["code"] == code


@pytest.mark.parametrize("when", [ClientHelloSeen, HandshakeDone])
def test_a_name_that_is_not_ours(world, when):
    app = world.app()
    session_id = world.starttls(app)
    if when is HandshakeDone:
        world.say(session_id, ClientHelloSeen)
    world.say(session_id, when, sni="elsewhere.example")
    assert world.error(app)[1] == 203
    assert world.to_worker() == [EndSession(session_id=session_id, alert=112)]


@pytest.mark.parametrize("sni", ["", "LOCALHOST"])
def test_names_that_are_ours(world, sni):
    session_id = world.starttls(world.app())
    world.say(session_id, ClientHelloSeen, sni=sni)
    assert world.state(session_id) == "EXPECT_HANDSHAKE"


def test_what_the_application_hears_of_a_failure(world):
    """Of a remote's fault the alert; of keys, remote text and our own faults nothing but what the code says."""
    for code, alert, heard in (
        (302, 42, "alert 42 bad_certificate; "),
        (302, 200, "alert 200; "),  # the registry has no such
        (302, 255, ""),
        (501, 80, ""),
        (406, 49, ""),
        (901, 255, "session"),
        (0, 255, "session"),
        (60000, 255, "session"),
    ):
        app = world.app()
        session_id = world.starttls(app)
        world.say(session_id, HandshakeFailed, code=code, alert=alert, detail="SECRET")
        _, number, text = world.error(app)
        assert number == (code if code in (302, 501, 406) else 901)
        assert "SECRET" not in text
        assert (f"session {session_id}" if heard == "session" else heard) in text
        notes = world.noted("session.refused" if code == 406 else "session.failed")
        assert notes[-1]["detail"] == "SECRET"


def test_two_hundred_requests_on_one_connection(world):
    app = world.app()
    ids = [world.starttls(app, reqid=number) for number in range(200)]
    callbacks = {}
    for session_id in ids:
        world.say(session_id, ClientHelloSeen)
        world.say(session_id, HandshakeDone)
        frame, _ = world.callback(app)
        callbacks[session_id] = frame
    assert len({frame.cbid for frame in callbacks.values()}) == 200
    for number, session_id in reversed(list(enumerate(ids))):
        world.answer(app, callbacks[session_id])
        assert world.reply(app)[0].reqid == number
    assert len(world.core.sessions) == 200
    world.gone(app)
    assert len(world.to_worker(EndSession)) == 200


def test_what_an_operator_sees(world):
    app = world.app()
    session_id = world.relaying(app)
    row = world.session(session_id).row(world.now_ms + 1500)
    assert row["state"] == "relaying"
    assert row["caller"] == "postfix.service[815]"
    assert (row["remoteid"], row["version"], row["age_s"]) == ("john@example.com", "TLSv1.3", 1.5)
    [worker] = [worker for worker in world.core.workers if worker.sessions]
    assert worker.row(world.now_ms)["sessions"] == 1


def test_a_worker_is_joined_with_keyd_before_it_gets_sessions(no_leaks):
    world = World(keyd=False, workers=0)
    world.worker_comes()
    assert not world.of(JoinKeyd)
    world.keyd_comes()
    assert [effect.worker_id for effect in world.of(JoinKeyd)] == [1]
    world.worker_comes()
    assert [effect.worker_id for effect in world.of(JoinKeyd)] == [2]
    world.close()


def test_ten_thousand_refusals_are_not_ten_thousand_lines(world):
    app = world.app()
    for _ in range(1000):
        world.send(app, 0x999)
    assert len(world.noted("command.refused")) == 20
    world.now_ms += 10_000
    world.send(app, 0x999)
    assert world.noted("command.refusals") == [
        {"caller": "postfix.service[815]", "unit": "postfix.service", "more": 980}
    ]


def test_every_kind_of_key_is_offered(world):
    world.records.identities["localhost", Side.SERVER] = [
        replace(credential(), key_kind=kind) for kind in (KeyKind.RSA, KeyKind.ED25519)
    ]
    session_id = world.starttls(world.app())
    world.say(session_id, ClientHelloSeen)
    assert [message.key_kind for message in world.to_worker(UseCredential)] == [KeyKind.RSA, KeyKind.ED25519]
