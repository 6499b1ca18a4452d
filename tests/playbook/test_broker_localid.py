"""STARTTLS_LOCALID: who we are is proposed to the application, and what becomes of each of its answers."""

import pytest

from tests.playbook.broker import CLIENT, SERVER, World, broken_database, credential
from tlspool_broker.events import FdKind, SendWorker
from tlspool_common.appwire import Cmd, Flag, Starttls
from tlspool_common.messages import (
    ClientHelloSeen,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    KeepRecord,
    PlainConnected,
    Proceed,
    SessionEnded,
    Side,
    StartSession,
    UseCredential,
)

ASK = Flag.LOCALID_CHECK


def populate(world):
    for name in ("www.example.com", "other.example", "john@example.org"):
        world.records.identities[name, Side.SERVER] = [credential(name)]
    for name in ("second.example", "third.example", "secret.example"):
        world.records.identities[name, Side.CLIENT] = [credential(name)]
    world.records.disclosures["www.example.com"] = ["me.example", "gone.example", "second.example", "third.example"]
    return world


@pytest.fixture
def world(no_leaks):
    made = populate(World())
    yield made
    made.close()


def hosted(world, sni="www.example.com", **fields):
    """A server that wants to be asked, and got a ClientHello; return (application, session)."""
    app = world.app()
    session_id = world.starttls(app, **{"reqid": 8, "flags": SERVER | ASK, "localid": "", **fields})
    world.say(session_id, ClientHelloSeen, sni=sni)
    return app, session_id


def proposal(world, app):
    """Return the callback that was sent, and who is proposed in it."""
    frame, told = world.callback(app, Cmd.STARTTLS_LOCALID)
    return frame, told.localid


def credentials(world):
    return [message.chain[0].decode() for message in world.to_worker(UseCredential)]


# --- servers --------------------------------------------------------------------------------------------


def test_the_server_name_is_proposed_and_accepted(world):
    """Virtual hosting: the client's SNI becomes the local identity."""
    app, session_id = hosted(world, local=77, timeout_ms=5000)
    assert not world.to_worker()
    frame, told = world.callback(app, Cmd.STARTTLS_LOCALID)
    assert (frame.reqid, told.localid, told.remoteid) == (8, "www.example.com", "")
    assert (told.flags, told.local, told.timeout_ms, told.service) == (SERVER | ASK, 77, 5000, "smtp")
    assert world.state(session_id) == "EXPECT_LOCALID"
    world.answer(app, frame, passed=None)
    assert credentials(world) == ["www.example.com"]
    assert world.to_worker(Proceed) == [Proceed(session_id=session_id)]
    world.say(session_id, HandshakeDone, sni="www.example.com")
    frame, told = world.callback(app)
    assert told.localid == "www.example.com"
    world.answer(app, frame)
    assert world.reply(app)[1].localid == "www.example.com"
    assert world.noted("session.start")[0]["localid"] == "www.example.com"


def test_a_descriptor_accepts_and_is_the_plaintext(world):
    app, session_id = hosted(world)
    frame, _ = proposal(world, app)
    passed = world.fd(FdKind.SEQPACKET)
    world.answer(app, frame, passed=passed, reqid=4242)
    assert credentials(world) == ["www.example.com"]
    assert not passed.fd.closed
    world.say(session_id, HandshakeDone, sni="www.example.com")
    kept, sent = world.of(SendWorker)
    assert isinstance(kept.message, KeepRecord)
    assert (sent.message, sent.fd) == (PlainConnected(session_id=session_id), passed.fd)
    final, said = world.reply(app)  # and no PLAINTEXT_CONNECT
    assert (final.reqid, said.localid, said.remoteid) == (4242, "www.example.com", "john@example.com")
    assert world.state(session_id) == "RELAYING"
    assert world.timer(session_id) is None


@pytest.mark.parametrize("localid", ["", "other.example", "a..b"])
def test_a_descriptor_accepts_whatever_the_answer_says(world, localid):
    app, _ = hosted(world)
    frame, _ = proposal(world, app)
    world.answer(app, frame, localid=localid)
    assert credentials(world) == ["www.example.com"]


def test_a_preset_identity_is_proposed_too(world):
    app, _ = hosted(world, localid="LocalHost.", sni="localhost")
    frame, proposed = proposal(world, app)
    assert proposed == "localhost"
    world.answer(app, frame, passed=None)
    assert credentials(world) == ["localhost"]


def test_a_preset_identity_that_the_client_did_not_ask_for(world):
    app, session_id = hosted(world, localid="localhost", sni="www.example.com")
    assert world.error(app)[:2] == (8, 203)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=112)]


def test_no_server_name_proposes_nobody(world):
    """The application says who we are by default; nobody is refused."""
    app, _ = hosted(world, sni="")
    frame, proposed = proposal(world, app)
    assert proposed == ""
    world.answer(app, frame, passed=None, localid="other.example")
    assert credentials(world) == ["other.example"]


def test_no_server_name_and_a_descriptor(world):
    app, session_id = hosted(world, sni="")
    world.answer(app, proposal(world, app)[0], localid="other.example")
    assert credentials(world) == ["other.example"]
    world.say(session_id, HandshakeDone, sni="")
    assert world.reply(app)[1].localid == "other.example"


@pytest.mark.parametrize("passed", [None, True])
def test_no_server_name_and_no_answer_to_who_we_are(world, passed):
    app, session_id = hosted(world, sni="")
    world.answer(app, proposal(world, app)[0], passed=passed)
    assert world.error(app)[:2] == (8, 209)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=112)]
    assert world.dropped() == ([False] if passed else [])


def test_another_identity_answers_for_the_name(world):
    """The application's word makes it a virtual host; the name must stay the one that was asked for."""
    app, session_id = hosted(world)
    world.answer(app, proposal(world, app)[0], passed=None, localid="John@Example.org")
    assert credentials(world) == ["john@example.org"]
    world.say(session_id, HandshakeDone, sni="www.example.com")
    assert world.callback(app)[1].localid == "john@example.org"


def test_a_name_that_changes_behind_our_back(world):
    app, session_id = hosted(world)
    world.answer(app, proposal(world, app)[0], passed=None, localid="other.example")
    world.say(session_id, HandshakeDone, sni="third.example")
    assert world.error(app)[:2] == (8, 203)


def test_another_identity_does_not_where_the_rule_is_strict(no_leaks):
    world = populate(World("sni_rule strict\n"))
    app, session_id = hosted(world)
    world.answer(app, proposal(world, app)[0], passed=None, localid="other.example")
    assert world.error(app)[:2] == (8, 203)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=112)]
    app, _ = hosted(world)
    world.answer(app, proposal(world, app)[0], passed=None, localid="jane@www.example.com")
    assert world.error(app)[1] == 201  # its domain is the name, but there is no such identity
    app, _ = hosted(world, sni="")
    world.answer(app, proposal(world, app)[0], passed=None, localid="other.example")
    assert credentials(world) == ["other.example"]
    world.close()


@pytest.mark.parametrize(
    ("sni", "localid", "code", "alert"),
    [
        ("nobody.example", "nobody.example", 201, 112),
        ("www.example.com", "nobody.example", 201, 112),
        ("www.example.com", "a..b", 113, 80),
        ("www.example.com", "", 209, 112),
    ],
)
def test_identities_that_cannot_be(world, sni, localid, code, alert):
    app, session_id = hosted(world, sni=sni)
    world.answer(app, proposal(world, app)[0], passed=None, localid=localid)
    assert world.error(app)[:2] == (8, code)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=alert)]


def test_a_server_name_that_is_none(world):
    app, session_id = hosted(world, sni="a..b")
    assert world.error(app)[:2] == (8, 203)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=112)]


def test_a_preset_identity_that_is_not_ours_is_refused_at_once(world):
    app = world.app()
    world.starttls(app, flags=SERVER | ASK, localid="nobody.example")
    assert world.error(app)[1] == 201
    assert world.dropped() == [False]


@pytest.mark.parametrize(
    ("cmd", "kind", "code", "alert"),
    [
        (Cmd.ERROR, None, 209, 112),
        (Cmd.ERROR, FdKind.STREAM, 209, 112),  # the stray descriptor of libtlspool
        (Cmd.PLAINTEXT_CONNECT, FdKind.STREAM, 209, 112),
        (Cmd.SUCCESS, None, 209, 112),
        (Cmd.PING, None, 209, 112),
        (0xDEADBEEF, None, 209, 112),
        (Cmd.STARTTLS_LOCALID, FdKind.OTHER, 108, 80),
        (Cmd.STARTTLS_LOCALID, FdKind.POOL, 108, 80),
    ],
)
def test_answers_that_are_none(world, cmd, kind, code, alert):
    app, session_id = hosted(world)
    world.answer(app, proposal(world, app)[0], cmd=cmd, reqid=5, passed=kind and world.fd(kind))
    assert world.error(app)[:2] == (5, code)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=alert)]
    assert world.dropped() == ([False] if kind else [])
    assert world.noted("session.refused")[-1]["code"] == code


def test_an_answer_full_of_rubbish(world):
    app, _ = hosted(world)
    frame, _ = proposal(world, app)
    world.send(app, Cmd.STARTTLS_LOCALID, b"\xff" * 380, reqid=8, cbid=frame.cbid, passed=world.fd())
    assert world.error(app)[:2] == (8, 101)
    assert world.dropped() == [False]


def test_nothing_but_identities_is_taken_from_an_answer(world):
    app, session_id = hosted(world, flags=SERVER | ASK | Flag.IGNORE_REMOTEID)
    frame, _ = proposal(world, app)
    payload = Starttls(flags=0, localid="www.example.com", remoteid="evil.example", ctlkey=b"x" * 16).to_payload()
    world.send(app, Cmd.STARTTLS_LOCALID, payload, reqid=8, cbid=frame.cbid)
    world.say(session_id, HandshakeDone, sni="www.example.com", remote_verified=False)
    _, told = world.callback(app)
    assert (told.flags, told.remoteid) == (SERVER | ASK | Flag.IGNORE_REMOTEID, "")
    assert told.ctlkey != b"x" * 16


# --- clients --------------------------------------------------------------------------------------------


def asking(world, **fields):
    """A client that wants to be asked; return (application, session)."""
    app = world.app()
    return app, world.starttls_client(app, **{"reqid": 8, "flags": CLIENT | ASK, **fields})


def test_what_may_be_disclosed_is_proposed_in_order(world):
    app, session_id = asking(world)
    assert not world.to_worker()  # the remote hears nothing before it is known who we are
    proposed = []
    for localid in ("", "", None):
        frame, told = world.callback(app, Cmd.STARTTLS_LOCALID)
        assert told.remoteid == "www.example.com"
        proposed.append(told.localid)
        world.answer(app, frame, passed=None, **({} if localid is None else {"localid": localid}))
    assert proposed == ["me.example", "second.example", "third.example"]
    assert credentials(world) == ["third.example"]
    assert [note["localid"] for note in world.noted("localid.refused")] == ["me.example", "second.example"]
    world.say(session_id, HandshakeDone)
    assert world.callback(app)[1].localid == "third.example"


def test_when_all_are_refused_the_session_fails(world):
    app, session_id = asking(world)
    for _ in range(3):
        world.answer(app, proposal(world, app)[0], passed=None, localid="")
    assert world.error(app)[:2] == (8, 209)
    assert world.state(session_id) == "OVER"
    assert world.dropped() == [False]


def test_proposals_are_bounded(world):
    names = [f"n{number}.example" for number in range(40)]
    world.records.disclosures["www.example.com"] = names
    for name in names:
        world.records.identities[name, Side.CLIENT] = [credential(name)]
    app, _ = asking(world)
    for _ in range(16):
        world.answer(app, proposal(world, app)[0], passed=None, localid="")
    assert world.error(app)[1] == 209


def test_the_one_a_client_names_is_proposed(world):
    app, _ = asking(world, localid="second.example")
    assert proposal(world, app)[1] == "second.example"
    world.answer(app, proposal(world, app)[0], passed=None, localid="")
    assert world.error(app)[1] == 209


@pytest.mark.parametrize(
    ("localid", "code"), [("secret.example", 202), ("gone.example", 201), ("nobody.example", 202), ("@", 113)]
)
def test_others_must_be_disclosed_and_ours(world, localid, code):
    app, _ = asking(world)
    world.answer(app, proposal(world, app)[0], passed=None, localid=localid)
    assert world.error(app)[1] == code


def test_another_one_that_is_disclosed(world):
    app, _ = asking(world)
    world.answer(app, proposal(world, app)[0], passed=None, localid="Third.Example")
    assert credentials(world) == ["third.example"]


@pytest.mark.parametrize("fields", [{"remoteid": "nobody.example"}, {"flags": CLIENT | ASK | Flag.IGNORE_REMOTEID}])
def test_with_nobody_to_propose_nothing_is_asked(world, fields):
    _, session_id = asking(world, **fields)
    assert not world.frames()
    assert [type(message) for message in world.to_worker()[-2:]] == [StartSession, Proceed]
    assert world.state(session_id) == "EXPECT_HANDSHAKE"


@pytest.mark.parametrize(
    ("remoteid", "code"),
    [
        ("www.example.com", None),
        ("WWW.example.com.", None),
        (".example.com", None),
        (".", None),
        ("", None),
        ("example.com", 123),
        ("@www.example.com", 123),
        (".www.example.com", 123),
        ("www.example.com.evil.example", 123),
        ("@", 113),
    ],
)
@pytest.mark.parametrize("passed", [None, True])
def test_a_generalised_remote_identity(world, remoteid, code, passed):
    """It must match; whom the remote must prove to be does not change."""
    app, _ = asking(world)
    world.answer(app, proposal(world, app)[0], passed=passed, remoteid=remoteid)
    if code is None:
        assert world.to_worker(StartSession)[0].remote_name == "www.example.com"
    else:
        assert world.error(app)[1] == code
        assert world.dropped() == ([False, False] if passed else [False])


def test_an_identity_that_went_away_meanwhile_is_passed_over(world):
    """The descriptor of its acceptance is kept, unless another one comes: the last one counts."""
    app, session_id = asking(world)
    frame, _ = proposal(world, app)
    del world.records.identities["me.example", Side.CLIENT]
    first, last = world.fd(), world.fd()
    world.answer(app, frame, passed=first)
    frame, proposed = proposal(world, app)
    assert proposed == "second.example"
    assert not first.fd.closed
    world.answer(app, frame, passed=last)
    assert world.dropped() == [False]
    world.say(session_id, HandshakeDone)
    assert [sent.fd for sent in world.of(SendWorker)] == [None, last.fd]


def test_a_broken_database_is_not_passed_over(world):
    app, _ = asking(world)
    frame, _ = proposal(world, app)
    world.records.broken = broken_database()
    world.answer(app, frame)
    assert world.error(app)[1] == 605
    assert world.dropped() == [False, False]


# --- time, and going away -------------------------------------------------------------------------------


@pytest.mark.parametrize(("timeout_ms", "after_ms", "code"), [(1000, 1000, 307), (0xFFFFFFFF, 60_000, 117)])
@pytest.mark.parametrize("side", ["server", "client"])
def test_an_answer_that_never_comes(world, side, timeout_ms, after_ms, code):
    app, session_id = (hosted if side == "server" else asking)(world, timeout_ms=timeout_ms)
    frame, _ = proposal(world, app)
    world.later(after_ms - 1)
    assert world.state(session_id) == "EXPECT_LOCALID"
    world.later(1)
    assert world.error(app)[:2] == (8, code)
    if side == "server":
        assert world.to_worker() == [EndSession(session_id=session_id, alert=255 if code == 307 else 80)]
    world.answer(app, frame)  # too late: whoever waits under that id has the error already
    assert not world.frames()
    assert world.dropped() == [False]


def test_the_time_of_the_question_counts_to_the_handshake(world):
    app, session_id = hosted(world, timeout_ms=1000)
    frame, _ = proposal(world, app)
    world.now_ms += 900
    world.answer(app, frame, passed=None)
    assert world.timer(session_id) == 100


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("cmd", [Cmd.PING, Cmd.STARTTLS])
def test_an_abandoned_question(world, side, cmd):
    """A synchronous libtlspool whose callback function refuses says nothing, and uses the id again."""
    app, session_id = (hosted if side == "server" else asking)(world)
    frame, _ = proposal(world, app)
    if cmd == Cmd.STARTTLS:
        world.starttls(app, reqid=8)
        assert not world.frames(app)
    else:
        world.send(app, cmd, reqid=8)
        assert [sent.cmd for sent in world.frames(app)] == [Cmd.PING]
    assert world.noted("session.refused")[-1]["rule"] == "localid_refused"
    if side == "server":
        assert EndSession(session_id=session_id, alert=112) in world.to_worker()
    else:
        assert world.dropped() == [True]
    world.answer(app, frame)
    assert not world.frames()


def test_a_wrong_callback_id_is_no_answer(world):
    app, session_id = hosted(world)
    frame, _ = proposal(world, app)
    world.answer(app, frame, cbid=frame.cbid + 1)
    assert world.error(app)[1] == 102
    assert world.state(session_id) == "EXPECT_LOCALID"
    world.answer(app, frame)
    assert world.state(session_id) == "EXPECT_HANDSHAKE"


@pytest.mark.parametrize("message", [HandshakeFailed, SessionEnded])
def test_the_descriptor_of_an_early_acceptance_is_closed_when_the_handshake_fails(world, message):
    app, session_id = hosted(world)
    world.answer(app, proposal(world, app)[0])
    if message is HandshakeFailed:
        world.say(session_id, HandshakeFailed)
        assert world.error(app)[1] == 303
    else:
        world.gone(app)
    assert world.dropped() == [False]


def test_the_remote_goes_away_during_the_question(world):
    app, session_id = hosted(world)
    frame, _ = proposal(world, app)
    world.say(session_id, HandshakeFailed)
    assert world.error(app)[:2] == (8, 303)
    world.answer(app, frame)
    assert not world.frames()


def test_keyd_is_needed_after_the_answer_only(no_leaks):
    world = populate(World(keyd=False))
    app, session_id = hosted(world)
    world.answer(app, proposal(world, app)[0], passed=None)
    assert world.state(session_id) == "EXPECT_KEYD"
    world.keyd_comes()
    assert credentials(world) == ["www.example.com"]
    app, session_id = asking(world)
    world.keyd_goes()
    frame = world.core.connections.get(app).exchanges[session_id]
    world.send(app, Cmd.STARTTLS_LOCALID, Starttls(localid="me.example").to_payload(), reqid=8, cbid=frame.cbid)
    assert world.state(session_id) == "EXPECT_KEYD"
    world.close()


def test_an_answer_under_a_new_request_id_names_the_next_proposals(world):
    """The asynchronous C library takes a new id for everything it sends."""
    app, _ = asking(world)
    for reqid in (100, 200):
        world.answer(app, proposal(world, app)[0], passed=None, localid="", reqid=reqid)
        assert proposal(world, app)[0].reqid == reqid
    world.answer(app, proposal(world, app)[0], passed=None, reqid=300)
    assert world.state(max(one.session_id for one in world.core.sessions)) == "EXPECT_HANDSHAKE"
