"""Sessions that are judged: what is asked, the verdict, waiting for the network, and all that may come in between."""

import itertools

import pytest

from tests.playbook.broker import CLIENT, SERVER, World, anchor, credential
from tlspool_broker.events import (
    HelperKind,
    HelperNumber,
    HelperSaid,
    Reconfigured,
    SendHelper,
    StartHelper,
    StopHelper,
)
from tlspool_broker.helper import HELLO_MS, HUNG_MS, PAUSE_MS
from tlspool_broker.online import QUESTIONS
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_common.appwire import TIMEOUT_INFINITE_MS, Cmd, Flag
from tlspool_common.errors import Code
from tlspool_common.messages import (
    PROTOCOL,
    AskRevocation,
    ClientHelloSeen,
    EndSession,
    Finding,
    HandshakeDone,
    HandshakeFailed,
    OnlineHello,
    RemoteShown,
    SessionEnded,
    Side,
    StapleTold,
    StartSession,
    TrustAnchor,
    Verdict,
)
from tlspool_common.settings import Part, parse_untrusted

LEAF = bytes(32)


def demand(world, text, side=Side.SERVER, localid="localhost"):
    """Give an identity an expression."""
    world.records.change(expressions={**world.records.expressions, (localid, side): text})


def begun(world, app, **fields):
    """Bring a server's session into its handshake."""
    session_id = world.starttls(app, **fields)
    world.say(session_id, ClientHelloSeen)
    return session_id


def shows(world, session_id, **fields):
    """Let the remote show a certificate; return the verdict, if there is one."""
    world.say(session_id, RemoteShown, **fields)
    found = world.to_worker(Verdict)
    return found[0] if found else None


def refused(world, app, session_id, code):
    """The worker has told the remote; the application hears the code, and no more."""
    assert world.state(session_id) == "EXPECT_ALERT"
    world.say(session_id, HandshakeFailed, code=int(code), alert=44)
    _, number, text = world.error(app)
    assert (number, world.state(session_id)) == (code, "OVER")
    assert "root" not in text
    assert "localhost" not in text
    assert world.noted("session.refused")[-1]["code"] == code
    return world.core.explain.get(session_id)


def accepted(world, app, session_id, **fields):
    """Bring a session from its verdict to where it relays."""
    world.say(session_id, HandshakeDone, **fields)
    frame, _ = world.callback(app)
    world.answer(app, frame)
    assert world.state(session_id) == "RELAYING"
    return world.core.explain.get(session_id)


# --- what is asked --------------------------------------------------------------------------------------


def start(world):
    return world.to_worker(StartSession)[-1]


def test_nothing_is_asked_where_nobody_has_anything_to_say(world, app):
    world.starttls(app)
    assert (start(world).asks, start(world).tells_chain, start(world).wants_staple) == (False, False, False)


@pytest.mark.parametrize(
    ("changes", "asks"),
    [
        ({"expressions": {("localhost", Side.SERVER): "1"}}, (False, False)),
        ({"expressions": {("localhost", Side.CLIENT): "T"}}, (False, False)),
        ({"expressions": {("localhost", Side.SERVER): "T"}}, (True, False)),
        ({"expressions": {("localhost", Side.SERVER): "TR&"}}, (True, True)),
        ({"expressions": {("localhost", Side.SERVER): "?"}}, (True, False)),  # refused, when it is judged
        ({"trusted": [anchor(valexp="0")]}, (True, False)),
        ({"trusted": [anchor(valexp="o")]}, (True, True)),
        ({"judges": frozenset({Side.SERVER})}, (True, False)),
        ({"judges": frozenset({Side.CLIENT})}, (False, False)),
        ({"policies": {"service:smtp": "pq-required"}}, (True, False)),
        ({"policies": {"host": "modern"}}, (False, False)),
    ],
)
def test_what_a_worker_is_to_ask(world, app, changes, asks):
    world.records.change(**changes)
    world.starttls(app)
    assert (start(world).asks, start(world).tells_chain) == asks
    assert not start(world).wants_staple


@pytest.mark.parametrize(("text", "staple"), [("R", False), ("o", True), ("TO&", True), ("1R|", False)])
def test_a_client_wants_a_staple_if_that_may_help(world, app, text, staple):
    world.records.change(disclosure_expressions={"www.example.com": text})
    world.starttls_client(app)
    assert (start(world).asks, start(world).wants_staple) == (True, staple)


def test_nothing_is_asked_about_a_remote_that_is_ignored(world, app):
    demand(world, "T")
    world.starttls(app, flags=SERVER | Flag.IGNORE_REMOTEID)
    assert not start(world).asks


@pytest.mark.parametrize(("expressions", "asks"), [({}, False), ({("other.example", Side.SERVER): "T"}, True)])
def test_a_server_whose_identity_is_open_asks_if_any_identity_might_need_it(world, app, expressions, asks):
    world.records.change(expressions=expressions)
    session_id = world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK, localid="")
    assert (start(world).asks, start(world).tells_chain) == (asks, asks)
    assert world.state(session_id) == "EXPECT_CLIENT_HELLO"


def test_a_peer_asks_for_either_role(world, app):
    for side in Side:
        world.records.identities["localhost", side] = [credential()]
    world.records.disclosures["www.example.com"] = ["localhost"]
    demand(world, "F")
    world.starttls(app, flags=CLIENT | SERVER, remoteid="www.example.com")
    assert start(world).asks


def test_anchors_that_accept_nobody_stay_here(world, app):
    world.records.change(trust=True, trusted=[anchor(valexp="0"), anchor(der=b"good", valexp="F")])
    world.starttls(app)
    assert [one.certificate for one in world.to_worker(TrustAnchor)] == [b"good"]


def test_the_parameters_are_those_of_the_crypto_policy(world, app):
    world.records.change(policies={"host": "modern", "localid:localhost": "intermediate"})
    world.starttls(app)
    assert start(world).tls_min == 0x0303
    world.starttls_client(app)
    assert start(world).tls_min == 0x0304


def test_a_crypto_policy_that_does_not_exist_begins_nothing(world, app):
    world.records.change(policies={"host": "nonsense"})
    session_id = world.starttls(app)
    assert world.error(app)[1] // 100 == 7
    assert world.state(session_id) == "OVER"
    assert all(not worker.sessions for worker in world.core.workers)


# --- decided at once ------------------------------------------------------------------------------------


def test_accepted(world, app):
    demand(world, "TF&")
    session_id = begun(world, app)
    verdict = shows(world, session_id)
    assert verdict == Verdict(session_id=session_id, code=0, detail="")
    assert world.state(session_id) == "EXPECT_HANDSHAKE"
    assert world.timer(session_id) == 40_000
    account = accepted(world, app, session_id)
    assert account.accepted
    assert account.generation == 8
    assert [(line.name, line.text, line.value) for line in account.trace if line.kind == "source"] == [
        ("localid localhost", "TF&", True),
        (f"trust {b'root....'.hex()}", "1", True),
    ]
    assert account.sentence.startswith(f"session {session_id} of postfix.service[815] for smtp as server localhost was")
    assert account.as_json()["outcome"] == "accepted"


@pytest.mark.parametrize(
    ("text", "fields", "code", "rule"),
    [
        ("T", {"fault": Code.EXPIRED, "detail": "it has expired"}, Code.EXPIRED, "localid localhost"),
        ("F", {"fault": Code.CHAIN_UNTRUSTED, "anchor_sha256": b""}, Code.CHAIN_UNTRUSTED, "baseline"),
        ("A", {"tls_version": 0x0303, "cipher": "ECDHE-RSA-AES128-GCM-SHA256"}, Code.VALIDATION_FAILED, None),
        ("Q", {}, Code.NOT_POST_QUANTUM, "localid localhost"),
        ("L", {"strengths": ("rsa 2048 sha256", "ec 256 sha256")}, Code.KEY_WEAK, "localid localhost"),
        ("P", {}, Code.VALIDATION_FAILED, "localid localhost"),
        ("D", {}, Code.VALIDATION_UNDECIDED, "localid localhost"),
        ("nonsense", {}, Code.VALIDATION_FAILED, "localid localhost"),
    ],
)
def test_refused(world, app, text, fields, code, rule):
    demand(world, text)
    session_id = begun(world, app)
    verdict = shows(world, session_id, **fields)
    assert (verdict.code, bool(verdict.detail)) == (code, True)
    assert world.timer(session_id) == 5000
    assert not world.frames()
    account = refused(world, app, session_id, code)
    assert (account.code, account.detail) == (code, verdict.detail)
    assert account.rule == (rule or "localid localhost")
    assert f"[{int(code)}]" in account.sentence
    assert account.as_json()["remote"]["subject"] == "CN=www.example.com"


def test_the_expression_of_the_anchor(world, app):
    world.records.change(trust=True, trusted=[anchor(valexp="C"), anchor(1, valexp="0"), anchor(2, b"other", "1")])
    session_id = begun(world, app)
    assert shows(world, session_id).code == Code.VALIDATION_FAILED
    assert refused(world, app, session_id, Code.VALIDATION_FAILED).rule == f"trust {b'root....'.hex()}"
    session_id = begun(world, app)
    assert shows(world, session_id, anchor_sha256=anchor(der=b"other").sha256).code == 0
    accepted(world, app, session_id)


def test_an_anchor_that_accepts_nobody_is_named(world, app):
    world.records.change(trust=True, trusted=[anchor(valexp="0")])
    session_id = begun(world, app)
    verdict = shows(world, session_id, fault=Code.CHAIN_UNTRUSTED, detail="no issuer", anchor_sha256=b"")
    assert verdict.code == Code.CHAIN_UNTRUSTED
    assert "whose expression is 0" in verdict.detail


def test_a_worker_that_names_an_anchor_there_is_not(world, app):
    demand(world, "T")
    session_id = begun(world, app)
    assert shows(world, session_id, anchor_sha256=b"x" * 32).code == Code.VALIDATION_FAILED


def test_all_sources_of_a_client(world, app):
    world.records.change(
        expressions={("me.example", Side.CLIENT): "F"},
        disclosure_expressions={"www.example.com": "A"},
        policies={"service:smtp": "pq-required"},
    )
    session_id = world.starttls_client(app)
    assert shows(world, session_id).code == 0
    account = accepted(world, app, session_id)
    assert [line.name for line in account.trace if line.kind == "source"] == [
        "baseline",
        "localid me.example",
        "disclose www.example.com",
        "crypto policy pq-required",
        f"trust {b'root....'.hex()}",
    ]


def test_the_setting(no_leaks):
    world = World("validation C\n")
    app = world.app()
    session_id = begun(world, app)
    assert shows(world, session_id).code == Code.VALIDATION_FAILED
    assert refused(world, app, session_id, Code.VALIDATION_FAILED).rule == "setting validation"
    world.close()


@pytest.mark.parametrize(("before", "after"), [("S", "C"), ("C", "S")])
def test_a_session_goes_on_under_the_configuration_it_began_with(no_leaks, before, after):
    world = World(f"validation {before}~\n")
    app = world.app()
    old = world.starttls_client(app)
    world.happen(Reconfigured(parse_untrusted(f"validation {after}~\n", Part.BROKER)))
    new = world.starttls_client(app, reqid=2)
    world.records.identities["me.example", Side.SERVER] = []  # so that C holds
    for session_id, text in ((old, before), (new, after)):
        code = Code.VALIDATION_FAILED if text == "C" else Code.OK
        assert shows(world, session_id).code == code
    world.close()


def test_what_is_found_out_about_anchors_is_of_their_generation_and_our_role(world, app):
    """Whether the helper might be needed follows from the expressions of anchors for that role."""
    for trusted, asked in (
        ([anchor(1, b"root", "R"), anchor(2, b"other", "L")], False),
        ([anchor(1, b"root", "L"), anchor(2, b"other", "R")], True),
        ([anchor(3, b"root", "L"), anchor(3, b"other", "1")], False),
    ):
        world.records.change(trust=True, trusted=trusted)
        session_id = world.starttls(app, reqid=int(asked) + len(world.core.explain) + 1)
        assert world.session(session_id).asks.tells_chain is asked


def test_the_expression_is_that_of_who_we_turn_out_to_be(world, app):
    world.records.identities["www.example.com", Side.SERVER] = [credential("www.example.com")]
    demand(world, "C", localid="www.example.com")
    session_id = world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK, localid="")
    world.say(session_id, ClientHelloSeen, sni="www.example.com")
    frame, _ = world.callback(app, Cmd.STARTTLS_LOCALID)
    world.answer(app, frame, passed=None)
    assert shows(world, session_id).code == Code.VALIDATION_FAILED


def test_what_is_known_to_be_revoked_needs_no_expression(world, app):
    key = anchor().key
    world.records.change(
        trust=True, judges=frozenset(Side), revoked={key: Revocations(1, 2_000_000_000, frozenset({b"\x05"}))}
    )
    session_id = begun(world, app)
    assert shows(world, session_id).code == Code.REVOKED
    assert refused(world, app, session_id, Code.REVOKED).as_json()["field"] == "serialNumber"
    session_id = begun(world, app)
    assert shows(world, session_id, links=(f"{key.hex()} 06",)).code == 0


def test_a_name_that_an_expression_takes_for_the_expected_one(world, app):
    """It is told who the remote has proved to be, not whom one had hoped for."""
    demand(world, "i", side=Side.CLIENT, localid="me.example")
    world.records.change(disclosures={"@www.example.com": ["me.example"]})
    session_id = world.starttls_client(app, remoteid="jane@www.example.com")
    assert shows(world, session_id, names=("dns:www.example.com",)).code == 0
    world.say(session_id, HandshakeDone, remote_names=("dns:www.example.com",))
    assert world.callback(app)[1].remoteid == "www.example.com"


# --- what a worker must not say -------------------------------------------------------------------------


def condemned(world, session_id):
    return bool(world.noted("worker.condemned")) and world.state(session_id) == "OVER"


def test_what_nobody_has_asked_for(world, app):
    session_id = begun(world, app)
    world.say(session_id, RemoteShown)
    assert condemned(world, session_id)


def test_to_show_twice(world, app):
    demand(world, "F")
    session_id = begun(world, app)
    shows(world, session_id)
    world.say(session_id, RemoteShown)
    assert condemned(world, session_id)


def test_to_be_done_without_having_shown_what_was_asked_for(world, app):
    demand(world, "F")
    session_id = begun(world, app)
    world.say(session_id, HandshakeDone)
    assert condemned(world, session_id)


def test_to_be_done_with_another_certificate(world, app):
    demand(world, "F")
    session_id = begun(world, app)
    shows(world, session_id)
    world.say(session_id, HandshakeDone, remote_sha256=b"x" * 32)
    assert condemned(world, session_id)


def test_to_be_done_after_a_refusal(world, app):
    demand(world, "C")
    session_id = begun(world, app)
    shows(world, session_id)
    world.say(session_id, HandshakeDone)
    assert condemned(world, session_id)


def test_a_peer_that_has_shown_something_stays_what_it_is(world, app):
    for side in Side:
        world.records.identities["localhost", side] = [credential()]
        demand(world, "F", side=side)
    world.records.disclosures["www.example.com"] = ["localhost"]
    session_id = world.starttls(app, flags=CLIENT | SERVER, remoteid="www.example.com")
    shows(world, session_id)
    world.say(session_id, ClientHelloSeen)
    assert condemned(world, session_id)


# --- at the end -----------------------------------------------------------------------------------------


def test_what_is_known_at_the_end_only(world, app):
    """TLS 1.2: the group is agreed on behind the certificate."""
    demand(world, "q")
    session_id = begun(world, app)
    assert shows(world, session_id).code == 0
    world.say(session_id, HandshakeDone, group="x25519")
    assert world.error(app)[1] == Code.NOT_POST_QUANTUM
    assert world.to_worker(EndSession) == [EndSession(session_id=session_id, alert=71)]
    world.say(session_id, SessionEnded)
    account = world.core.explain.get(session_id)
    assert (account.code, account.rule) == (Code.NOT_POST_QUANTUM, "localid localhost")


@pytest.mark.parametrize(
    ("text", "flag", "code"),
    [
        ("F", Flag.REQUEST_REMOTEID, None),
        ("T", Flag.REQUEST_REMOTEID, Code.CERTIFICATE_MISSING),
        ("Ts~&", Flag.REQUEST_REMOTEID, Code.CERTIFICATE_MISSING),
        ("1TS?", Flag.REQUEST_REMOTEID, Code.CERTIFICATE_MISSING),
        ("F", 0, Code.CERTIFICATE_MISSING),
        ("F", Flag.IGNORE_REMOTEID, None),
        ("T", Flag.IGNORE_REMOTEID, Code.VALIDATION_FAILED),
        ("C", Flag.IGNORE_REMOTEID, Code.VALIDATION_FAILED),
    ],
)
def test_a_remote_that_shows_nothing(world, app, text, flag, code):
    demand(world, text)
    session_id = begun(world, app, flags=SERVER | flag)
    facts = {"remote_verified": False, "remote_sha256": b"", "remote_names": ()}
    if code is None:
        account = accepted(world, app, session_id, **facts)
        assert account.judged
        assert account.as_json()["remote"] is None
    else:
        world.say(session_id, HandshakeDone, **facts)
        assert world.error(app)[1] == code


def test_a_remote_that_is_ignored_is_not_looked_at(world, app):
    demand(world, "F")
    session_id = begun(world, app, flags=SERVER | Flag.IGNORE_REMOTEID)
    world.say(session_id, HandshakeDone)
    assert world.callback(app)[1].remoteid == ""


# --- first use ------------------------------------------------------------------------------------------


def test_a_certificate_is_pinned_when_the_session_begins(world, app):
    demand(world, "p")
    session_id = begun(world, app)
    assert shows(world, session_id).code == 0
    world.say(session_id, HandshakeDone)
    frame, _ = world.callback(app)
    assert not world.records.pinned
    world.answer(app, frame)
    reason = f"first use, by session {session_id} of postfix.service[815]"
    assert world.records.pinned == [("john@example.com", LEAF, "tlspool-broker", reason)]
    assert world.noted("pin.stored")[0]["remote"] == "john@example.com"
    assert world.session(session_id).generation == 8  # the one that admitted it, and not the one that it made
    session_id = begun(world, app)
    assert shows(world, session_id).code == 0
    accepted(world, app, session_id)
    assert len(world.records.pinned) == 1
    session_id = begun(world, app)
    assert shows(world, session_id, leaf_sha256=b"x" * 32).code == Code.PIN_UNMATCHED


def test_nothing_is_pinned_if_the_application_refuses(world, app):
    demand(world, "p")
    session_id = begun(world, app)
    shows(world, session_id)
    world.say(session_id, HandshakeDone)
    frame, _ = world.callback(app)
    world.answer(app, frame, cmd=Cmd.ERROR)
    assert not world.records.pinned


def test_a_pin_in_the_last_part_of_its_life_is_replaced(world, app):
    now_s = int(world.unix_time_s)
    pin = Pin(b"old".ljust(32), until_s=now_s + 10, before_s=100, remote="john@example.com")
    demand(world, "p")
    world.records.change(stored_pins={"john@example.com": [pin]})
    session_id = begun(world, app)
    assert shows(world, session_id).code == 0
    accepted(world, app, session_id)
    assert world.records.pinned[0][:2] == ("john@example.com", LEAF)


def test_a_database_that_does_not_take_the_pin(world, app):
    demand(world, "p")
    session_id = begun(world, app)
    shows(world, session_id)

    def full(*_):
        from tests.playbook.broker import broken_database

        raise broken_database()

    world.records.pin_add = full
    accepted(world, app, session_id)
    assert world.noted("pin.not_stored")[0]["code"] == Code.DATABASE


# --- asking the network ---------------------------------------------------------------------------------


def waits(world, app, text="R", *, ready=True, **fields):
    """Bring a session to where it waits for advice."""
    demand(world, text)
    session_id = begun(world, app, **fields)
    assert shows(world, session_id) is None
    assert world.state(session_id) == "EXPECT_ADVICE"
    if ready:
        world.helper_comes()
    return session_id


def test_the_helper_is_started_when_it_may_be_needed(world, app):
    """Before the handshake begins; what is left of its start then does not count as the time it has for an answer."""
    world.starttls(app, reqid=9)
    assert not world.of(StartHelper)
    demand(world, "R")
    session_id = world.starttls(app)
    assert world.of(StartHelper) == [StartHelper(HelperNumber(HelperKind.ONLINE, 1))]
    world.now_ms += 400
    world.say(session_id, ClientHelloSeen)
    assert shows(world, session_id) is None
    assert not world.of(SendHelper)
    assert world.timer(session_id) == 5000 + HELLO_MS - 400
    world.now_ms += 200
    world.helper_comes()
    assert world.timer(session_id) == 5000
    [asked] = world.of(SendHelper)
    assert asked.message == AskRevocation(
        wants=1,
        chain=(b"leaf", b"root"),
        crl_urls=("http://crl.example.com/root.crl",),
        ocsp_urls=("http://ocsp.example.com/",),
        deadline_ms=4750,
    )
    world.helper_says(crl=Finding.GOOD, detail="the list of today")
    assert world.to_worker() == [Verdict(session_id=session_id, code=0, detail="")]
    assert world.timer(session_id) == 40_000 - 600
    accepted(world, app, session_id)
    # and it stays
    session_id = begun(world, app)
    world.say(session_id, RemoteShown)
    assert len(world.of(SendHelper)) == 1
    assert not world.of(StartHelper)


@pytest.mark.parametrize(("text", "wants"), [("R", 1), ("r", 1), ("O", 2), ("TRO|&", 3)])
def test_what_is_asked(world, app, text, wants):
    waits(world, app, text)
    assert world.questions[0].message.wants == wants


@pytest.mark.parametrize(
    ("text", "crl", "ocsp", "code"),
    [
        ("R", Finding.GOOD, Finding.NONE, 0),
        ("R", Finding.NONE, Finding.GOOD, Code.REVOCATION_UNKNOWN),
        ("r", Finding.NONE, Finding.NONE, 0),
        ("r", Finding.BAD, Finding.NONE, Code.REVOCATION_UNKNOWN),
        ("O", Finding.NONE, Finding.GOOD, 0),
        ("o", Finding.NONE, Finding.UNKNOWN, 0),
        ("o", Finding.REVOKED, Finding.GOOD, Code.REVOKED),
        ("RO|", Finding.BAD, Finding.GOOD, 0),
    ],
)
def test_what_the_answer_leads_to(world, app, text, crl, ocsp, code):
    session_id = waits(world, app, text)
    world.helper_says(crl, ocsp)
    assert world.to_worker(Verdict)[0].code == code
    if code:
        refused(world, app, session_id, code)
    else:
        accepted(world, app, session_id)


def test_a_helper_that_is_slow(world, app):
    """It is refused undecided; the answer that comes then is dropped."""
    session_id = waits(world, app)
    world.later(4999)
    assert world.state(session_id) == "EXPECT_ADVICE"
    world.later(1)
    assert world.to_worker(Verdict)[0].code == Code.VALIDATION_UNDECIDED
    assert refused(world, app, session_id, Code.VALIDATION_UNDECIDED).missing == ("R",)
    assert world.helper_says(crl=Finding.GOOD) == []
    assert not world.noted("helper.lost")
    assert len(world.core.online) == 0


def test_a_handshake_that_has_less_time_than_the_helper(world, app):
    session_id = waits(world, app, timeout_ms=2000)
    assert world.timer(session_id) == 2000
    assert world.questions[0].message.deadline_ms == 1750
    world.later(2000)
    assert world.error(app)[1] == Code.HANDSHAKE_TIMEOUT
    assert world.to_worker(EndSession) == [EndSession(session_id=session_id, alert=255)]
    world.say(session_id, HandshakeFailed)
    assert world.helper_says(crl=Finding.GOOD) == []


def test_a_handshake_without_a_deadline_waits_no_longer_for_that(world, app):
    session_id = waits(world, app, timeout_ms=TIMEOUT_INFINITE_MS)
    assert world.timer(session_id) == 5000
    world.helper_says(crl=Finding.GOOD)
    assert world.timer(session_id) is None


def test_a_handshake_without_a_deadline_in_which_the_worker_does_not_tell_the_remote(world, app):
    demand(world, "C")
    session_id = begun(world, app, timeout_ms=TIMEOUT_INFINITE_MS)
    shows(world, session_id)
    world.later(5000)
    assert world.error(app)[1] == Code.VALIDATION_FAILED
    assert world.state(session_id) == "EXPECT_END"


def test_the_helper_goes_while_sessions_wait(world):
    first, second = world.app(), world.app()
    one, other = waits(world, first), waits(world, second, ready=False)
    world.helper_goes()
    verdicts = world.to_worker(Verdict)
    assert [verdict.code for verdict in verdicts] == [Code.VALIDATION_UNDECIDED] * 2
    refused(world, first, one, Code.VALIDATION_UNDECIDED)
    refused(world, second, other, Code.VALIDATION_UNDECIDED)
    assert len(world.core.online) == 0


def test_a_helper_that_cannot_be_started_is_not_started_all_the_time(world, app):
    for pause_ms in (*PAUSE_MS, PAUSE_MS[-1]):
        session_id = waits(world, app, ready=False)
        world.helper_goes()
        refused(world, app, session_id, Code.VALIDATION_UNDECIDED)
        session_id = begun(world, app)
        assert shows(world, session_id).code == Code.VALIDATION_UNDECIDED  # at once
        refused(world, app, session_id, Code.VALIDATION_UNDECIDED)
        assert world.noted("helper.lost")[-1]["pause_ms"] == pause_ms
        assert not [one for one in world.later(pause_ms - 1) if isinstance(one, StartHelper)]
        assert world.later(1)[0] == StartHelper(world.helper)  # somebody will want it again
    # one that answers makes good for all of that
    session_id = waits(world, app)
    world.helper_says(crl=Finding.GOOD)
    accepted(world, app, session_id)
    world.helper_goes()
    assert world.noted("helper.lost")[-1]["pause_ms"] == PAUSE_MS[0]


def test_a_helper_without_a_hello(world, app):
    session_id = waits(world, app, ready=False)
    world.later(HELLO_MS)
    assert world.noted("helper.lost")
    assert world.state(session_id) == "EXPECT_ALERT"
    assert world.core.online.describe()["unanswered"] == 1
    assert world.helper_comes() == []  # it is not believed any more


def test_a_helper_of_another_version(world, app):
    session_id = waits(world, app, ready=False)
    world.happen(HelperSaid(world.helper, 0, OnlineHello(protocol=PROTOCOL + 1, pid=1)))
    assert world.of(StopHelper)
    assert world.to_worker(Verdict)[0].code == Code.VALIDATION_UNDECIDED
    assert world.state(session_id) == "EXPECT_ALERT"


@pytest.mark.parametrize("exchange", [0, 99])
def test_a_helper_that_answers_what_nobody_asked(world, app, exchange):
    waits(world, app)
    world.helper_says(crl=Finding.GOOD, exchange=exchange)
    assert world.of(StopHelper)
    assert world.to_worker(Verdict)[0].code == Code.VALIDATION_UNDECIDED


def test_a_helper_that_answers_with_the_wrong_kind(world, app):
    waits(world, app)
    world.happen(
        HelperSaid(world.helper, world.questions[-1].exchange, StapleTold(response=b"x", until_s=1, detail=""))
    )
    assert world.of(StopHelper)
    assert world.to_worker(Verdict)[0].code == Code.VALIDATION_UNDECIDED


def test_a_helper_that_hangs_is_replaced(world, app):
    session_id = waits(world, app)
    world.later(5000)
    refused(world, app, session_id, Code.VALIDATION_UNDECIDED)
    world.later(HUNG_MS)
    session_id = begun(world, app)
    assert shows(world, session_id).code == Code.VALIDATION_UNDECIDED
    assert world.of(StopHelper)
    assert world.noted("helper.lost")[-1]["detail"] == "it does not answer"
    refused(world, app, session_id, Code.VALIDATION_UNDECIDED)
    world.later(PAUSE_MS[0])
    waits(world, app)


def test_there_are_so_many_questions_and_no_more(no_leaks):
    world = World(f"max_requests_per_connection {QUESTIONS + 9}\n")
    app = world.app()
    demand(world, "R")
    waiting = []
    for number in range(QUESTIONS + 1):
        waiting.append(begun(world, app, reqid=number))
        verdict = shows(world, waiting[-1])
    assert verdict.code == Code.VALIDATION_UNDECIDED
    assert len(world.core.online) == QUESTIONS
    world.helper_comes()
    assert len(world.questions) == QUESTIONS
    world.close()


@pytest.mark.parametrize("how", ["app", "worker", "remote", "kill", "stop"])
def test_what_ends_a_session_that_waits(world, app, how):
    session_id = waits(world, app)
    world.ends(app, session_id, how)
    if how == "stop":
        assert world.of(StopHelper)
    assert world.helper_says(crl=Finding.GOOD) == []


def test_nobody_else_waits(world):
    first, second = world.app(), world.app()
    waits(world, first)
    world.records.change(expressions={})
    world.relaying(second)


def test_nobody_is_asked_where_no_answer_could_help(world, app):
    demand(world, "R")
    session_id = begun(world, app)
    assert shows(world, session_id, fault=Code.EXPIRED).code == Code.EXPIRED
    assert not world.of(StartHelper)
    refused(world, app, session_id, Code.EXPIRED)


def test_a_pool_that_asks_nobody(no_leaks):
    world = World("online no\n")
    app = world.app()
    demand(world, "R")
    session_id = begun(world, app)
    assert shows(world, session_id).code == Code.VALIDATION_UNDECIDED
    assert not world.of(StartHelper)
    world.close()


def test_a_staple_that_says_good_is_enough(world, app):
    world.records.change(disclosure_expressions={"www.example.com": "O"})
    session_id = world.starttls_client(app)
    assert shows(world, session_id, stapled=Finding.GOOD).code == 0
    assert not world.of(StartHelper)


# --- one generation -------------------------------------------------------------------------------------


def test_a_session_is_decided_by_one_generation(world, app):
    """Whatever is changed while it is being set up, and in every step of that."""
    demand(world, "F")
    session_id = begun(world, app)
    demand(world, "0")
    assert shows(world, session_id).code == 0
    demand(world, "C")
    account = accepted(world, app, session_id)
    assert account.generation == world.session(session_id).generation == 8
    session_id = begun(world, app)
    assert shows(world, session_id).code == Code.VALIDATION_FAILED
    assert refused(world, app, session_id, Code.VALIDATION_FAILED).generation == 10


def test_every_step_of_a_server_that_asks_its_application(world, app):
    """Identity, credential, expression, anchors and pins are all of the generation that the session began with."""
    world.records.change(
        trust=True,
        identities={("www.example.com", Side.SERVER): [credential("first")]},
        expressions={("www.example.com", Side.SERVER): "P"},
        stored_pins={"john@example.com": [Pin(LEAF, remote="john@example.com")]},
    )
    worse = {
        "identities": {("www.example.com", Side.SERVER): [credential("second")]},
        "expressions": {("www.example.com", Side.SERVER): "0"},
        "stored_pins": {},
        "trusted": [],
    }
    session_id = world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK, localid="")
    world.records.change(trust=True, **worse)
    world.say(session_id, ClientHelloSeen, sni="www.example.com")
    frame, _ = world.callback(app, Cmd.STARTTLS_LOCALID)
    world.answer(app, frame, passed=None)
    assert world.session(session_id).plan.credentials == (credential("first"),)
    assert shows(world, session_id).code == 0
    account = accepted(world, app, session_id, sni="www.example.com")
    assert account.generation == 8


def test_a_session_whose_identity_is_chosen_is_of_the_day_it_was_chosen(world, app):
    from tests.playbook.choosing import answer, inquiry, register

    service = register(world)
    session_id = world.starttls_client(app)
    world.records.change(expressions={("me.example", Side.CLIENT): "F"})
    frame, _ = inquiry(world, service)
    answer(world, service, frame, localid="me.example")
    assert world.session(session_id).generation == 8
    assert start(world).asks


def test_any_order_of_changes_and_steps(no_leaks):
    """The verdict is that of the expression which was there when the session began, whenever it changes."""
    for before, when in itertools.product(["F", "C"], range(4)):
        world = World()
        app = world.app()
        demand(world, before)
        other = "C" if before == "F" else "F"

        def step(number, world=world, when=when, other=other):
            if number == when:
                demand(world, other)

        session_id = world.starttls(app)
        step(0)
        world.say(session_id, ClientHelloSeen)
        step(1)
        verdict = shows(world, session_id)
        assert (verdict.code == 0) is (before == "F")
        step(2)
        end = refused if verdict.code else accepted
        account = end(world, app, session_id, **({"code": verdict.code} if verdict.code else {}))
        step(3)
        assert account.generation == 8
        world.close()
