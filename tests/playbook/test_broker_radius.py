"""Sessions that RADIUS is asked about: what is asked, every answer, and all that may come in between."""

import pytest

from tests.playbook.broker import SERVER, worlds
from tlspool_broker.events import (
    HelperKind,
    HelperNumber,
    HelperSaid,
    KillAsked,
    Note,
    Reconfigured,
    SendHelper,
    StartHelper,
    StopAsked,
    StopHelper,
)
from tlspool_broker.helper import HELLO_MS, HUNG_MS, PAUSE_MS
from tlspool_broker.judging import GRACE_MS
from tlspool_broker.lasting import Lasting
from tlspool_broker.radius import QUESTIONS
from tlspool_broker.radius_grant import Admission
from tlspool_common.appwire import Cmd, Flag, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import (
    PROTOCOL,
    Access,
    Accounted,
    AskAccess,
    AskRemote,
    ClientHelloSeen,
    EndReason,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    PlainConnected,
    Purpose,
    RadiusHello,
    RemoteTold,
    SessionEnded,
)
from tlspool_common.settings import Part, parse_untrusted

SECRET = "radius_secret_file /etc/tlspool/radius.secrets\n"
AUTHZ = f"{SECRET}radius_authz 192.0.2.1\n"
BOTH = f"{AUTHZ}radius_authn 192.0.2.2\n"
ACCT = f"{SECRET}radius_acct 192.0.2.3\n"


class Ledger:
    """In the place of accounting: what it is told, and when it answers is the test's."""

    def __init__(self, world):
        self.told = []
        self.done = None
        for name in ("start", "failed", "ended", "resume", "traffic"):
            setattr(world.core.accounting, name, getattr(self, name))

    def start(self, session, done):
        self.told.append(("start", int(session.session_id)))
        self.done = done
        if not session.access.accounts:
            done(None)

    def failed(self, session, error):
        self.told.append(("failed", int(session.session_id), error.code))

    def ended(self, session, words):
        self.told.append(("ended", int(session.session_id), words.reason))

    def resume(self, session):
        self.told.append(("resume", int(session.session_id)))

    def traffic(self, session, traffic):
        self.told.append(("traffic", int(session.session_id)))


KEY = bytes(range(16))


@pytest.fixture
def make(no_leaks):
    yield from worlds(AUTHZ)


@pytest.fixture
def world(make):
    return make()


def shaken(world, app, *, names=("email:john@example.com",), verified=True, **fields):
    """Bring a server's session to the end of its handshake."""
    session_id = world.starttls(app, **fields)
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone, remote_names=names, remote_verified=verified)
    return session_id


def asked(world, number=-1):
    """Return a question, its attributes as a dictionary."""
    message = world.access_asked()[number].message
    return message, dict(one.split("=", 1) for one in message.attributes)


# --- what is asked --------------------------------------------------------------------------------------


def test_a_pool_without_servers_has_no_helper_and_asks_nobody(make):
    world = make("", there=False)
    assert world.radius is None
    assert world.core.radius.describe()["state"] == "not used"
    session_id = world.relaying(world.app())
    assert world.session(session_id).access is None
    assert world.asked == []


def test_the_helper_starts_with_the_broker(make):
    world = make(there=False)
    assert world.radius == HelperNumber(HelperKind.RADIUS, 1)
    assert world.core.radius.describe()["state"] == "starting"
    world.radius_comes()
    assert world.core.radius.describe()["state"] == "ready"
    assert world.noted("helper.connected") == [{"helper": "radius", "pid": 55}]


@pytest.mark.parametrize(
    ("config", "starts"),
    [
        (ACCT, True),
        (f"{SECRET}radius_authn 192.0.2.1\n", True),
        (f"{SECRET}radius_dynamic 192.0.2.1\nradius_dynamic_listen 127.0.0.1:3799\n", True),
        (SECRET, False),
    ],
)
def test_it_is_wanted_where_anything_is_configured(make, config, starts):
    assert bool(make(config, there=False).radius) == starts


def test_the_resource_stands_apart_from_who_uses_it(world, app):
    session_id = shaken(world, app)
    assert world.state(session_id) == "EXPECT_RADIUS"
    assert world.frames() == []
    message, attributes = asked(world)
    assert (message.purpose, message.state, message.password) == (Purpose.AUTHORIZE, b"", b"")
    assert attributes == {
        "User-Name": "john@example.com",
        "NAS-Identifier": "localhost",
        "Called-Station-Id": "localhost",
        "NAS-Port-Type": "Virtual",
        "TLSPool-Service": "smtp",
        "TLSPool-Role": "server",
        "TLSPool-Caller-User": "1000",
        "TLSPool-Caller-Unit": "postfix.service",
        "TLSPool-TLS-Version": "TLSv1.3",
        "TLSPool-Certificate": "00" * 32,
        "Acct-Session-Id": world.core.radius_policy.acct_id(session_id),
        "Service-Type": "Authorize-Only",
    }


def test_a_client_is_asked_about_its_server(world, app):
    session_id = world.starttls_client(app)
    world.say(session_id, HandshakeDone)
    _, attributes = asked(world)
    assert (attributes["User-Name"], attributes["NAS-Identifier"]) == ("www.example.com", "me.example")
    assert attributes["TLSPool-Role"] == "client"


def test_the_network_address_of_the_remote(world, app):
    passed = world.fd()
    passed = type(passed)(passed.fd, passed.kind, "198.51.100.7")
    shaken(world, app, passed=passed)
    assert asked(world)[1]["Calling-Station-Id"] == "198.51.100.7"


def test_acct_session_ids_differ_between_pools_that_begin_at_one(make):
    secrets = (bytes(32), b"x" * 32)
    worlds = [make(lasting=Lasting(secret, lambda: 1)) for secret in secrets]
    ids = {one.core.radius_policy.acct_id(1) for one in worlds}
    assert len(ids) == 2
    assert all(one.endswith("-1") for one in ids)


def test_nobody_is_asked_before_the_identity_is_certain(world, app):
    session_id = shaken(world, app, verified=False)
    assert world.error(app)[1] == Code.CHAIN_UNTRUSTED
    assert world.state(session_id) == "EXPECT_END"
    assert world.asked == []


# --- answers --------------------------------------------------------------------------------------------


def test_accepted(world, app):
    session_id = shaken(world, app)
    world.radius_says(classes=(b"c1",), tags=("gold",), session_timeout_s=60, idle_timeout_s=9, interim_s=70)
    frame, _ = world.callback(app)
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    assert world.timer(session_id) == world.settings.callback_timeout_s * 1000
    world.answer(app, frame)
    access = world.session(session_id).access
    assert access == Admission(
        rule="",
        acct_id=world.core.radius_policy.acct_id(session_id),
        attributes=access.attributes,
        accounts=False,
        classes=(b"c1",),
        tags=("gold",),
        session_timeout_s=60,
        idle_timeout_s=9,
        interim_s=70,
        servers=("192.0.2.1:1812",),
        authz=True,
    )
    assert world.noted("session.start")[0]["tags"] == "gold"
    assert world.session(session_id).row(world.now_ms)["tags"] == ["gold"]
    told = world.core.explain.get(session_id)
    assert told.as_json()["radius"] == {
        "rule": "the defaults",
        "acct_id": access.acct_id,
        "tags": ["gold"],
        "servers": ["192.0.2.1:1812"],
        "asked": [
            {
                "purpose": "authorize",
                "access": "accepted",
                "server": "192.0.2.1:1812",
                "detail": "",
                "message": "",
                "ms": 3,
            }
        ],
    }
    assert "192.0.2.1:1812" in told.sentence


def test_rejected(world, app):
    session_id = shaken(world, app)
    world.radius_says(Access.REJECTED, message="not on a Sunday")
    _, code, text = world.error(app)
    assert code == Code.RADIUS_REJECTED
    assert text == "[801] the RADIUS server refuses the remote: not on a Sunday"
    assert world.to_worker(EndSession) == [EndSession(session_id=session_id, alert=49)]
    [note] = world.noted("session.refused")
    assert (note["code"], note["detail"], note["state"]) == (801, "not on a Sunday", "expect_radius")
    [note] = world.noted("radius.rejected")
    assert (note["remoteid"], note["server"], note["let_in"]) == ("john@example.com", "192.0.2.1:1812", False)
    told = world.core.explain.get(session_id)
    assert "when RADIUS was asked" in told.sentence
    assert told.as_json()["radius"]["asked"][0]["message"] == "not on a Sunday"
    world.say(session_id, HandshakeFailed)
    assert world.state(session_id) == "OVER"


def test_what_a_server_says_is_made_printable_and_bounded(world, app):
    shaken(world, app)
    world.radius_says(Access.REJECTED, message="\x1b[2Jred\n" + "x" * 900, server="192.0.2.1:1812")
    _, _, text = world.error(app)
    assert text.isprintable()
    assert len(text.encode()) <= 127
    assert "?[2Jred?" in text


@pytest.mark.parametrize("detail", ["192.0.2.1:1812 is silent", "the answer has a wrong authenticator"])
def test_unanswered_refuses(world, app, detail):
    session_id = shaken(world, app)
    world.radius_says(Access.UNANSWERED, detail=detail)
    _, code, text = world.error(app)
    assert code == Code.RADIUS_UNANSWERED
    assert "192.0.2.1" not in text
    assert world.to_worker(EndSession) == [EndSession(session_id=session_id, alert=80)]
    assert world.noted("session.failed")[0]["detail"] == detail
    assert world.noted("radius.unanswered")[0]["detail"] == detail


def test_unanswered_accepts_where_the_rule_says_so(make):
    world = make(f"{AUTHZ}radius lax unanswered=accept\n")
    session_id = shaken(world, world.app())
    world.radius_says(Access.UNANSWERED, detail="silent")
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    assert world.session(session_id).access.servers == ()
    assert world.noted("radius.unanswered")[0]["let_in"] is True
    assert world.noted("radius.unanswered")[0]["radius_rule"] == "lax"


@pytest.mark.parametrize("rule", ["", "radius lax unanswered=accept\n"])
def test_a_question_that_cannot_be_asked_refuses_whatever_the_rule_says(make, rule):
    world = make(AUTHZ + rule)
    app = world.app()
    session_id = shaken(world, app)
    world.radius_says(Access.UNASKED, detail="User-Name does not fit")
    assert world.error(app)[1] == Code.RADIUS_UNASKED
    assert world.state(session_id) == "EXPECT_END"


def test_an_answer_that_nobody_waits_for(world, app):
    session_id = shaken(world, app)
    exchange = world.access_asked()[-1].exchange
    world.gone(app)
    assert world.state(session_id) == "EXPECT_END"
    assert world.radius_says(exchange=exchange) == []
    assert len(world.core.radius) == 0


# --- both purposes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_are_asked_at_once_and_both_must_accept(make, order):
    world = make(BOTH)
    app = world.app()
    session_id = shaken(world, app)
    questions = world.access_asked()
    assert [one.message.purpose for one in questions] == [Purpose.AUTHENTICATE, Purpose.AUTHORIZE]
    assert [asked(world, n)[1]["Service-Type"] for n in (0, 1)] == ["Authenticate-Only", "Authorize-Only"]
    said = [
        {"classes": (b"n",), "tags": ("a", "b"), "session_timeout_s": 50, "terminate": 1, "state": b"of authn"},
        {
            "classes": (b"z", b"n"),
            "tags": ("b", "c"),
            "session_timeout_s": 70,
            "idle_timeout_s": 5,
            "state": b"of authz",
        },
    ]
    servers = ["192.0.2.2:1812", "192.0.2.1:1812"]
    for number in order:
        assert world.state(session_id) == "EXPECT_RADIUS"
        world.radius_says(exchange=questions[number].exchange, server=servers[number], **said[number])
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    access = world.session(session_id).access
    assert set(access.classes) == {b"n", b"z"}
    assert sorted(access.tags) == ["a", "b", "c"]
    assert (access.session_timeout_s, access.terminate, access.idle_timeout_s) == (50, 1, 5)
    assert access.state == b"of authz"
    assert set(access.servers) == set(servers)


@pytest.mark.parametrize("rejects", [0, 1])
def test_one_rejects_while_the_other_is_open(make, rejects):
    world = make(BOTH)
    app = world.app()
    session_id = shaken(world, app)
    questions = world.access_asked()
    world.radius_says(Access.REJECTED, exchange=questions[rejects].exchange)
    assert world.error(app)[1] == Code.RADIUS_REJECTED
    assert world.state(session_id) == "EXPECT_END"
    assert world.radius_says(exchange=questions[1 - rejects].exchange) == []
    assert world.core.radius.counters.given_up == 1


def test_one_accepts_and_the_other_rejects(make):
    world = make(BOTH)
    app = world.app()
    session_id = shaken(world, app)
    first, second = world.access_asked()
    world.radius_says(exchange=first.exchange)
    assert world.state(session_id) == "EXPECT_RADIUS"
    world.radius_says(Access.REJECTED, exchange=second.exchange)
    assert world.error(app)[1] == Code.RADIUS_REJECTED


def test_one_is_silent_and_the_other_accepts(make):
    world = make(f"{BOTH}radius lax unanswered=accept\n")
    session_id = shaken(world, world.app())
    first, second = world.access_asked()
    world.radius_says(Access.UNANSWERED, exchange=first.exchange)
    assert world.state(session_id) == "EXPECT_RADIUS"
    world.radius_says(exchange=second.exchange, tags=("gold",))
    assert world.session(session_id).tags == ("gold",)
    assert world.state(session_id) == "EXPECT_PLAINTEXT"


# --- rules ----------------------------------------------------------------------------------------------


def test_the_first_rule_that_applies_decides(make):
    world = make(f"{AUTHZ}radius mail service=imap User-Name=a\nradius all User-Name=b-{{remote.user}}\n")
    session_id = shaken(world, world.app())
    assert asked(world)[1]["User-Name"] == "b-john"
    assert world.session(session_id).access.rule == "all"
    assert world.core.radius_policy.rows() == [
        {"rule": "mail", "does": "service=imap User-Name=a", "used": 0},
        {"rule": "all", "does": "User-Name=b-{remote.user}", "used": 1},
        {"rule": "-", "does": "the defaults", "used": 0},
    ]


@pytest.mark.parametrize("criterion", ["role=client", "localid=other.example", "unit=dovecot.service", "user=4711"])
def test_a_rule_that_does_not_apply(make, criterion):
    world = make(f"{AUTHZ}radius not {criterion} authz=no\n")
    shaken(world, world.app())
    assert len(world.access_asked()) == 1


@pytest.mark.parametrize("criterion", ["role=server", "localid=localhost", "unit=postfix.service", "user=1000", ""])
def test_a_session_that_no_server_is_asked_about_by_rule(make, criterion):
    world = make(f"{AUTHZ}radius not {criterion} authz=no\n")
    session_id = world.relaying(world.app())
    assert world.asked == []
    assert world.session(session_id).access is None


def test_a_caller_that_is_not_certain_is_not_spared(make):
    rule = "radius not unit=postfix.service authz=no\nradius strict unit=postfix.service User-Name=x\n"
    world = make(AUTHZ + rule)
    shaken(world, world.app(certain=False))
    assert asked(world)[1]["User-Name"] == "x"


def test_templates_are_filled(make):
    template = (
        "Connect-Info={remote.user}/{remote.domain}/{local.user}/{local.domain}/{caller.uid}/{session}/{cipher}/{group}"
        "/{generation} Service-Type=Framed-User NAS-Port={caller.uid} TLSPool-Certificate="
    )
    world = make(f"{AUTHZ}radius all {template}\n")
    session_id = shaken(world, world.app())
    _, attributes = asked(world)
    assert attributes["Connect-Info"] == (
        f"john/example.com//localhost/1000/{session_id}/TLS_AES_256_GCM_SHA384/X25519MLKEM768/7"
    )
    assert (attributes["Service-Type"], attributes["NAS-Port"]) == ("Framed-User", "1000")
    assert "TLSPool-Certificate" not in attributes


def test_what_does_not_fit_is_left_out(make):
    world = make(f"{AUTHZ}radius all NAS-Port={{caller.unit}} Connect-Info={'{remoteid}' * 20}\n")
    shaken(world, world.app())
    assert not {"NAS-Port", "Connect-Info"} & set(asked(world)[1])


@pytest.mark.parametrize("rule", ["", " unanswered=accept"])
def test_a_name_that_does_not_fit_refuses(make, rule):
    world = make(f"{AUTHZ}radius all User-Name={'{remoteid}' * 20}{rule}\n")
    app = world.app()
    shaken(world, app)
    assert world.error(app)[1] == Code.RADIUS_UNASKED
    assert world.asked == []


# --- remotes without identity -------------------------------------------------------------------------


def anonymous(world, app):
    """A session whose remote shows nothing."""
    session_id = world.starttls(app, flags=SERVER | Flag.REQUEST_REMOTEID)
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone, remote_names=(), remote_verified=False, remote_sha256=b"", remote_subject="")
    return session_id


def test_an_anonymous_remote_is_refused(world, app):
    anonymous(world, app)
    assert world.error(app)[1] == Code.RADIUS_ANONYMOUS
    assert world.asked == []
    assert world.noted("session.refused")[0]["rule"] == "radius_anonymous"


def test_an_anonymous_remote_is_let_in_by_rule(make):
    world = make(f"{AUTHZ}radius open anonymous=accept\n")
    session_id = anonymous(world, world.app())
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    assert world.asked == []


def test_an_anonymous_remote_is_asked_about_by_another_name(make):
    world = make(f"{AUTHZ}radius open anonymous=guest@local.example\n")
    session_id = anonymous(world, world.app())
    assert asked(world)[1]["User-Name"] == "guest@local.example"
    world.radius_says()
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    assert world.session(session_id).remoteid == ""


def test_an_anonymous_remote_that_is_only_accounted_for(make):
    world = make(ACCT)
    ledger = Ledger(world)
    session_id = anonymous(world, world.app())
    assert ledger.told == [("start", session_id)]
    assert not any(one.startswith("User-Name=") for one in world.session(session_id).access.attributes)


# --- accounting -----------------------------------------------------------------------------------------


def test_accounting_begins_when_everybody_has_accepted(make):
    world = make(BOTH + "radius_acct 192.0.2.3\n")
    ledger = Ledger(world)
    app = world.app()
    session_id = shaken(world, app)
    first, second = world.access_asked()
    world.radius_says(exchange=first.exchange)
    assert ledger.told == []
    world.radius_says(exchange=second.exchange, user_name="john@real.example")
    assert ledger.told == [("start", session_id)]
    assert world.state(session_id) == "EXPECT_RADIUS"
    access = world.session(session_id).access
    assert "User-Name=john@real.example" in access.attributes
    ledger.done(None)
    ledger.done(None)  # twice is once
    world.effects = world.core._out.take()
    frame, _ = world.callback(app)
    world.answer(app, frame)
    assert world.state(session_id) == "RELAYING"
    world.say(session_id, SessionEnded)
    assert ledger.told == [("start", session_id), ("ended", session_id, EndReason.CLEAN)]


@pytest.mark.parametrize("code", [Code.ACCOUNT_UNKEPT, Code.ACCOUNT_SPOOL_FULL])
def test_a_start_that_cannot_be_kept_refuses(make, code):
    world = make(ACCT)
    ledger = Ledger(world)
    app = world.app()
    session_id = shaken(world, app)
    ledger.done(PoolError(code, "no space left on device"))
    world.effects = world.core._out.take()
    assert world.error(app)[1] == code
    assert "space" not in world.error(app)[2]
    assert ledger.told[-1] == ("failed", session_id, code)


def test_a_start_that_cannot_be_kept_is_gone_without_by_rule(make):
    world = make(f"{ACCT}radius lax unanswered=accept\n")
    ledger = Ledger(world)
    session_id = shaken(world, world.app())
    ledger.done(PoolError(Code.ACCOUNT_UNKEPT, "no space"))
    world.effects = world.core._out.take()
    assert world.state(session_id) == "EXPECT_PLAINTEXT"


@pytest.mark.parametrize("rule", ["", "radius lax unanswered=accept\n"])
def test_a_start_that_nobody_says_is_kept(make, rule):
    world = make(ACCT + rule)
    ledger = Ledger(world)
    app = world.app()
    session_id = shaken(world, app)
    world.later(world.settings.radius_wait_s * 1000)
    if rule:
        assert world.state(session_id) == "EXPECT_PLAINTEXT"
    else:
        assert world.error(app)[1] == Code.ACCOUNT_UNKEPT
        assert ledger.told[-1][0] == "failed"
    before = world.state(session_id)
    ledger.done(None)
    assert world.core._out.take() == []
    assert world.state(session_id) == before


def test_a_session_that_is_not_accounted_for_by_rule(make):
    world = make(f"{AUTHZ}radius_acct 192.0.2.3\nradius free acct=no\n")
    ledger = Ledger(world)
    session_id = shaken(world, world.app())
    world.radius_says()
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    assert ledger.told == [("start", session_id)]  # which enforces times


def test_a_callback_that_is_refused_after_the_start(make):
    world = make(ACCT)
    ledger = Ledger(world)
    app = world.app()
    session_id = shaken(world, app)
    ledger.done(None)
    world.effects = world.core._out.take()
    frame, _ = world.callback(app)
    world.answer(app, frame, passed=None)
    assert ledger.told == [("start", session_id), ("failed", session_id, Code.PLAIN_FD_MISSING)]


@pytest.mark.parametrize("how", ["worker", "kill", "clean"])
def test_the_end_of_an_accounted_session_is_told_once(make, how):
    world = make(ACCT)
    ledger = Ledger(world)
    app = world.app()
    session_id = shaken(world, app)
    ledger.done(None)
    world.effects = world.core._out.take()
    frame, _ = world.callback(app)
    world.answer(app, frame)
    match how:
        case "worker":
            world.worker_goes(world.session(session_id).worker.number)
            reason = EndReason.WORKER_LOST
        case "kill":
            world.happen(KillAsked(session_id))
            world.say(session_id, SessionEnded, reason=EndReason.ORDERED)
            reason = EndReason.ORDERED
        case "clean":
            world.say(session_id, SessionEnded)
            reason = EndReason.CLEAN
    assert ledger.told == [("start", session_id), ("ended", session_id, reason)]


# --- time, and what comes in between --------------------------------------------------------------------


def test_everything_is_bounded(world, app):
    session_id = shaken(world, app)
    wait_ms = world.settings.radius_wait_s * 1000
    assert world.timer(session_id) == wait_ms
    assert asked(world)[0].deadline_ms == wait_ms - GRACE_MS
    world.later(wait_ms)
    assert world.error(app)[1] == Code.RADIUS_UNANSWERED
    assert world.state(session_id) == "EXPECT_END"
    assert world.radius_says() == []


def test_a_handshake_that_has_less_time(world, app):
    session_id = shaken(world, app, timeout_ms=2000)
    assert world.timer(session_id) <= 2000
    assert asked(world)[0].deadline_ms == 2000 - GRACE_MS
    world.later(2000)
    assert world.error(app)[1] == Code.HANDSHAKE_TIMEOUT


def test_a_helper_that_hangs_lets_in_by_rule(make):
    world = make(f"{AUTHZ}radius lax unanswered=accept\n")
    session_id = shaken(world, world.app())
    world.later(world.settings.radius_wait_s * 1000)
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    world.now_ms += HUNG_MS
    app = world.app()
    shaken(world, app)
    assert world.noted("helper.lost")[0]["detail"] == "it does not answer"


RULES = pytest.mark.parametrize(
    ("rule", "state"), [("", "EXPECT_END"), ("radius l unanswered=accept\n", "EXPECT_PLAINTEXT")]
)


@RULES
@pytest.mark.parametrize("said", [Access.ACCEPTED, Access.REJECTED])
def test_the_helper_goes_in_the_middle_and_the_next_one_is_asked(make, rule, state, said):
    """Whoever was asked about, and whoever comes in between; by any rule, as there is somebody to answer."""
    world = make(BOTH + rule)
    wait_ms = world.settings.radius_wait_s * 1000
    first = shaken(world, world.app())
    world.later(2000)
    world.radius_goes()
    assert [one["helper"] for one in world.noted("helper.lost")] == ["radius"]
    second = shaken(world, world.app())
    assert world.timer(second) == wait_ms + PAUSE_MS[0] + HELLO_MS
    assert {world.state(first), world.state(second)} == {"EXPECT_RADIUS"}
    assert world.frames() == []
    world.radius_returns()
    questions = world.access_asked()
    left_ms = wait_ms - 2000 - PAUSE_MS[0]
    assert [one.message.deadline_ms for one in questions] == [left_ms - GRACE_MS] * 2 + [wait_ms - GRACE_MS] * 2
    assert (world.timer(first), world.timer(second)) == (left_ms, wait_ms)
    assert len({one.exchange for one in questions}) == 4
    for question in questions:
        if world.state(first if question in questions[:2] else second) == "EXPECT_RADIUS":
            world.radius_says(said, exchange=question.exchange)
    end = "EXPECT_PLAINTEXT" if said is Access.ACCEPTED else "EXPECT_END"
    assert (world.state(first), world.state(second)) == (end, end)
    assert world.noted("radius.unanswered") == []


def test_one_of_two_was_answered_before_the_helper_went(make):
    world = make(BOTH)
    session_id = shaken(world, world.app())
    world.radius_says(exchange=world.access_asked()[0].exchange, tags=("before",))
    world.radius_goes()
    world.radius_returns()
    [question] = world.access_asked()
    assert question.message.purpose is Purpose.AUTHORIZE
    world.radius_says(tags=("after",))
    assert world.session(session_id).tags == ("before", "after")
    assert world.state(session_id) == "EXPECT_PLAINTEXT"


@RULES
@pytest.mark.parametrize("hello", [False, True])
def test_the_next_helper_goes_too(make, rule, state, hello):
    """Whether it came or could not even be started: then it is over, for all, long before the time is."""
    world = make(BOTH + rule)
    apps = [world.app() for _ in range(3)]
    sessions = [shaken(world, apps[0])]
    world.radius_goes()
    sessions.append(shaken(world, apps[1]))
    if hello:
        world.radius_returns()
    else:
        world.later(PAUSE_MS[0])
    assert {world.state(one) for one in sessions} == {"EXPECT_RADIUS"}
    world.radius_goes()
    sessions.append(shaken(world, apps[2]))  # nobody can be asked for a while, and nobody waits for that
    assert {world.state(one) for one in sessions} == {state}
    assert {note["code"] for note in world.noted("session.failed")} == (set() if rule else {Code.RADIUS_UNANSWERED})
    assert len(world.core.radius) == 0
    world.later(PAUSE_MS[1])
    world.asked.clear()
    world.radius_comes()
    last = shaken(world, world.app())
    for question in world.access_asked():
        world.radius_says(exchange=question.exchange)
    assert world.state(last) == "EXPECT_PLAINTEXT"


@RULES
@pytest.mark.parametrize("before", [False, True])
def test_the_next_helper_does_not_come(make, rule, state, before):
    """It says no hello: who was asked about waits for as long as for an answer, all others until it is given up."""
    world = make(AUTHZ + rule)
    app = world.app()
    session_id = shaken(world, app) if before else 0
    world.radius_goes()
    session_id = session_id or shaken(world, app)
    most_ms = world.settings.radius_wait_s * 1000 if before else PAUSE_MS[0] + HELLO_MS
    world.later(most_ms - 1)
    assert world.state(session_id) == "EXPECT_RADIUS"
    world.later(1)
    assert world.state(session_id) == state
    if not rule:
        assert world.error(app)[1] == Code.RADIUS_UNANSWERED
    assert not [one for one in world.core.radius.helper._open.values() if one.told is not None]


def test_a_handshake_that_has_no_time_to_wait_for_the_next_helper(world, app):
    shaken(world, app, timeout_ms=500)
    world.radius_goes()
    world.later(500)
    assert world.error(app)[1] == Code.HANDSHAKE_TIMEOUT


@pytest.mark.parametrize("how", ["app", "remote", "kill", "stop"])
@pytest.mark.parametrize("before", [False, True])
def test_a_session_that_ends_while_it_waits_for_the_next_helper(make, how, before):
    world = make(BOTH)
    app = world.app()
    if before:
        session_id = shaken(world, app)
    world.radius_goes()
    if not before:
        session_id = shaken(world, app)
    world.ends(app, session_id, how)
    assert len(world.core.radius) == 0
    if how == "stop":
        assert not [one for one in world.later(PAUSE_MS[0]) if isinstance(one, StartHelper)]
    else:
        world.radius_returns()
        assert world.access_asked() == []


@pytest.mark.parametrize("answered", [False, True])
def test_accounting_and_questions_wait_for_the_next_helper(make, answered):
    world = make(f"{AUTHZ}radius_acct 192.0.2.3\n")
    session_id = shaken(world, world.app())
    if answered:
        world.radius_says()
    world.radius_goes()
    world.radius_returns()
    if not answered:
        world.radius_says()
    assert world.state(session_id) == "EXPECT_RADIUS"
    world.radius_keeps()
    assert world.state(session_id) == "EXPECT_PLAINTEXT"


@RULES
def test_a_start_does_not_wait_longer_for_a_helper_that_is_away(make, rule, state):
    world = make(ACCT + rule)
    world.radius_goes()
    session_id = shaken(world, world.app())
    if rule:
        assert world.state(session_id) == state  # it waits for no record
        return
    world.later(PAUSE_MS[0])
    world.radius_goes()
    world.later(world.settings.radius_wait_s * 1000 - PAUSE_MS[0])
    assert world.state(session_id) == state
    assert world.noted("session.failed")[-1]["code"] == Code.ACCOUNT_UNKEPT


def test_a_helper_that_is_slow_to_start_is_waited_for(make):
    world = make(there=False)
    session_id = shaken(world, world.app())
    assert world.access_asked() == []
    wait_ms = world.settings.radius_wait_s * 1000
    assert world.timer(session_id) == wait_ms + HELLO_MS
    world.later(5000)
    world.radius_comes()
    assert world.timer(session_id) == wait_ms
    world.radius_says()
    assert world.state(session_id) == "EXPECT_PLAINTEXT"


def test_so_it_is_where_there_is_nothing_but_accounting(make):
    world = make(ACCT, there=False)
    session_id = shaken(world, world.app())
    assert world.timer(session_id) == world.settings.radius_wait_s * 1000 + HELLO_MS
    world.radius_comes()
    world.radius_keeps()
    assert world.state(session_id) == "EXPECT_PLAINTEXT"


def test_a_helper_of_another_version(make):
    world = make(there=False)
    app = world.app()
    shaken(world, app)
    for pause_ms in PAUSE_MS[:2]:
        assert world.frames() == []
        world.happen(HelperSaid(world.radius, 0, RadiusHello(protocol=PROTOCOL + 1, pid=1)))
        assert world.of(StopHelper)
        last = world.effects
        world.later(pause_ms)
    world.effects = last
    assert world.error(app)[1] == Code.RADIUS_UNANSWERED


def test_a_helper_that_answers_with_the_wrong_kind(world, app):
    session_id = shaken(world, app)
    exchange = world.access_asked()[-1].exchange
    world.happen(HelperSaid(world.radius, exchange, Accounted(code=0, detail="")))
    assert world.of(StopHelper)
    assert world.state(session_id) == "EXPECT_END"


def test_there_are_so_many_questions_and_no_more(world, app):
    question = AskAccess(purpose=Purpose.AUTHORIZE, attributes=(), state=b"", deadline_ms=1, password=b"")
    for _ in range(QUESTIONS):
        assert world.core.radius.ask(question, lambda _told: None)
    session_id = shaken(world, app)
    assert world.error(app)[1] == Code.RADIUS_UNANSWERED
    assert world.state(session_id) == "EXPECT_END"
    assert world.noted("radius.answered")[-1]["access"] == "not_asked"


@pytest.mark.parametrize("how", ["app", "worker", "remote", "closed", "kill", "stop", "reqid"])
@pytest.mark.parametrize("stage", ["asked", "starts"])
def test_what_ends_a_session_that_waits(make, how, stage):
    world = make(AUTHZ + "radius_acct 192.0.2.3\n")
    ledger = Ledger(world)
    app = world.app()
    session_id = shaken(world, app)
    exchange = world.access_asked()[-1].exchange
    if stage == "starts":
        world.radius_says()
    code = Code.CALLER_GONE
    match how:
        case "app":
            world.gone(app)
            assert not world.frames()
        case "worker":
            world.worker_goes(world.session(session_id).worker.number)
            code = world.error(app)[1]
            assert code == Code.WORKER_DIED
        case "remote":
            world.say(session_id, HandshakeFailed)
            code = world.error(app)[1]
            assert code == Code.REMOTE_CLOSED
        case "closed":
            world.say(session_id, SessionEnded)
            code = world.error(app)[1]
            assert code == Code.REMOTE_CLOSED
        case "kill":
            world.happen(KillAsked(session_id))
            code = world.error(app)[1]
            assert code == Code.SESSION_KILLED
        case "stop":
            world.happen(StopAsked())
            code = world.error(app)[1]
            assert code == Code.STOPPING
            assert world.of(StopHelper)
        case "reqid":
            world.starttls(app)
            code = Code.REQID_IN_USE
    assert world.state(session_id) in ("OVER", "EXPECT_END")
    if stage == "starts":
        assert ledger.told[:2] == [("start", session_id), ("failed", session_id, code)]
        ledger.done(None)
        assert world.core._out.take() == []
    else:
        assert ledger.told == []
        assert [one for one in world.radius_says(exchange=exchange) if not isinstance(one, SendHelper)] == []
    assert world.state(session_id) in ("OVER", "EXPECT_END")


def test_nobody_else_waits(make):
    world = make(f"{AUTHZ}radius mail service=imap\nradius rest authz=no\n")
    session_id = shaken(world, world.app(), service="imap")
    world.relaying(world.app())
    assert world.state(session_id) == "EXPECT_RADIUS"


def test_an_application_that_gave_its_plaintext_end_before(world, app):
    """With its answer to LOCALID_CHECK: it is not asked for it again."""
    session_id = world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK, localid="")
    world.say(session_id, ClientHelloSeen)
    frame, _ = world.callback(app, cmd=world.frames(app)[0].cmd)
    world.answer(app, frame, cmd=None)
    world.say(session_id, HandshakeDone)
    assert world.state(session_id) == "EXPECT_RADIUS"
    assert world.session(session_id).plain is not None
    world.radius_says()
    assert world.state(session_id) == "RELAYING"
    assert world.to_worker(PlainConnected)
    assert world.reply(app)


def test_an_application_that_gave_it_and_is_refused(world, app):
    session_id = world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK, localid="")
    world.say(session_id, ClientHelloSeen)
    frame, _ = world.callback(app, cmd=world.frames(app)[0].cmd)
    world.answer(app, frame, cmd=None)
    world.say(session_id, HandshakeDone)
    world.radius_says(Access.REJECTED)
    assert world.dropped() == [False]
    assert world.state(session_id) == "EXPECT_END"


# --- settings -------------------------------------------------------------------------------------------


def reconfigure(world, config):
    return world.happen(Reconfigured(parse_untrusted(config, Part.BROKER)))


def test_a_reload_takes_effect_for_new_sessions_at_once(world, app):
    session_id = shaken(world, app)
    first = world.radius
    reconfigure(world, f"{SECRET}radius_authz 192.0.2.9\n")
    assert world.of(StopHelper) == [StopHelper(first)]
    assert world.of(StartHelper) == [StartHelper(HelperNumber(HelperKind.RADIUS, first.number + 1))]
    world.asked.clear()
    world.radius_comes()
    assert len(world.access_asked()) == 1  # what was open is asked again
    world.radius_says()
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    assert not world.noted("helper.lost")


def test_a_reload_of_rules_needs_no_other_helper(world, app):
    reconfigure(world, f"{AUTHZ}radius all User-Name=x\nradius_wait_s 3\n")
    assert not world.of(StopHelper)
    session_id = shaken(world, app)
    assert asked(world)[1]["User-Name"] == "x"
    assert world.timer(session_id) == 3000


def test_a_reload_with_other_secrets_replaces_the_helper(world):
    first = world.radius
    world.happen(Reconfigured(parse_untrusted(AUTHZ, Part.BROKER), secrets_changed=True))
    assert world.of(StopHelper) == [StopHelper(first)]
    assert world.of(StartHelper)


def test_a_reload_that_takes_all_servers_away(world, app):
    session_id = shaken(world, app)
    reconfigure(world, "")
    assert world.of(StopHelper)
    assert not world.of(StartHelper)
    assert world.error(app)[1] == Code.RADIUS_UNANSWERED
    assert world.state(session_id) == "EXPECT_END"
    world.relaying(world.app())


def test_a_reload_that_brings_the_first_server(make):
    world = make("", there=False)
    reconfigure(world, AUTHZ)
    assert world.of(StartHelper) == [StartHelper(HelperNumber(HelperKind.RADIUS, 1))]
    world.radius_comes()
    session_id = shaken(world, world.app())
    assert world.state(session_id) == "EXPECT_RADIUS"


# --- asked about again ----------------------------------------------------------------------------------


def relaying(world, app, **fields):
    """Bring a session to where it relays: a server that asked its remote for nothing, unless told otherwise."""
    session_id = world.starttls(app, **{"ctlkey": KEY, "flags": SERVER | Flag.IGNORE_REMOTEID, **fields})
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone, remote_names=("email:john@example.com",))
    if world.state(session_id) == "EXPECT_RADIUS":
        world.radius_says(session_timeout_s=60, terminate=1, state=b"first")
    frame, _ = world.callback(app)
    world.answer(app, frame)
    assert world.state(session_id) == "RELAYING"
    world.asked.clear()
    return session_id


def proves(world, app, session_id, *, names=("email:jane@example.com",), code=0):
    """Ask the remote again; it proves who it is."""
    request = Starttls(flags=SERVER | Flag.RENEGOTIATE, ctlkey=KEY)
    world.send(app, Cmd.STARTTLS, request.to_payload(), reqid=5)
    [question] = world.to_worker(AskRemote)
    answer = RemoteTold(
        session_id=session_id, question=question.question, asked=True, code=code, detail="", remote_verified=not code,
        remote_names=() if code else names, remote_subject="", remote_sha256=b"h" * 32,
    )  # fmt: skip
    world.say(session_id, answer)


@pytest.fixture
def lax(make):
    """A pool that lets in whoever has no identity, without asking."""
    return make(f"{AUTHZ}radius all anonymous=accept\n")


def test_who_proves_later_who_it_is_is_asked_about_then(lax):
    app = lax.app()
    session_id = relaying(lax, app)
    assert lax.session(session_id).access is None
    proves(lax, app, session_id)
    assert lax.frames() == []
    assert lax.session(session_id).remoteid == ""
    assert asked(lax)[1]["User-Name"] == "jane@example.com"
    lax.radius_says(tags=("late",))
    assert lax.reply(app)[1].remoteid == "jane@example.com"
    assert lax.session(session_id).tags == ("late",)
    assert lax.noted("session.reauthenticated")[-1]["remoteid"] == "jane@example.com"


def test_who_is_let_in_later_is_accounted_for_and_timed_from_then_on(make):
    world = make(f"{AUTHZ}radius_acct 192.0.2.3\nradius all anonymous=accept\n")
    ledger = Ledger(world)
    app = world.app()
    session_id = shaken(world, app, flags=SERVER | Flag.IGNORE_REMOTEID, ctlkey=KEY)
    assert ledger.told == [("start", session_id)]  # nobody was asked about nobody
    ledger.done(None)
    world.effects = world.core._out.take()
    world.answer(app, world.callback(app)[0])
    changed = []
    world.core.accounting.changed = changed.append
    proves(world, app, session_id)
    world.radius_says(session_timeout_s=60)
    session = world.session(session_id)
    assert changed == [session]
    assert ledger.told == [("start", session_id)]
    assert (session.access.accounts, session.access.session_timeout_s) == (True, 60)


@pytest.mark.parametrize("error", [None, PoolError(Code.ACCOUNT_UNKEPT, "no space left")])
def test_accounting_of_one_that_had_nothing_to_do_with_radius_begins_then(make, error):
    world = make("", there=False)
    ledger = Ledger(world)
    app = world.app()
    session_id = relaying(world, app)
    reconfigure(world, f"{AUTHZ}radius_acct 192.0.2.3\n")
    world.radius_comes()
    proves(world, app, session_id)
    world.radius_says()
    assert ledger.told == [("start", session_id)]
    assert world.frames() == []
    ledger.done(error)
    world.effects = world.core._out.take()
    session = world.session(session_id)
    if error is None:
        assert world.reply(app)[1].remoteid == "jane@example.com"
    else:
        assert world.error(app)[1] == Code.ACCOUNT_UNKEPT
        assert session.remoteid == ""
    assert (session.access is None) == (error is not None)
    world.say(session_id, SessionEnded)
    assert [what for what, *_ in ledger.told] == ["start", "ended"] if error is None else ["start"]


@pytest.mark.parametrize(
    ("access", "code"), [(Access.REJECTED, Code.RADIUS_REJECTED), (Access.UNANSWERED, Code.RADIUS_UNANSWERED)]
)
def test_whom_radius_refuses_then_is_nobody(lax, access, code):
    app = lax.app()
    session_id = relaying(lax, app)
    proves(lax, app, session_id)
    lax.radius_says(access, message="no")
    assert lax.error(app)[:2] == (5, code)
    assert lax.state(session_id) == "RELAYING"
    assert lax.session(session_id).remoteid == ""
    assert not lax.session(session_id).verified
    assert lax.noted("session.reauthenticated")[-1]["code"] == code


def test_nobody_is_asked_about_one_that_did_not_prove_who_it_is(lax):
    app = lax.app()
    session_id = relaying(lax, app)
    proves(lax, app, session_id, code=Code.CHAIN_UNTRUSTED)
    assert lax.error(app)[1] == Code.CHAIN_UNTRUSTED
    assert lax.asked == []


def test_one_question_at_a_time(lax):
    app = lax.app()
    session_id = relaying(lax, app)
    proves(lax, app, session_id)
    request = Starttls(flags=SERVER | Flag.RENEGOTIATE, ctlkey=KEY)
    lax.send(app, Cmd.STARTTLS, request.to_payload(), reqid=6)
    assert lax.error(app)[:2] == (6, Code.REAUTH_BUSY)
    lax.radius_says()
    assert lax.reply(app)[0].reqid == 5


def test_whoever_was_accepted_is_not_asked_about_twice(world, app):
    session_id = relaying(world, app, flags=SERVER)
    access = world.session(session_id).access
    proves(world, app, session_id, names=("email:john@example.com",))
    assert world.reply(app)[1].remoteid == "john@example.com"
    assert world.asked == []
    assert world.session(session_id).access is access


def test_a_session_that_ends_meanwhile(lax):
    app = lax.app()
    session_id = relaying(lax, app)
    proves(lax, app, session_id)
    lax.say(session_id, SessionEnded)
    assert lax.error(app)[:2] == (5, Code.CTLKEY_UNKNOWN)
    assert not [one for one in lax.radius_says() if not isinstance(one, Note)]


def test_the_helper_goes_meanwhile(lax):
    app = lax.app()
    session_id = relaying(lax, app)
    proves(lax, app, session_id)
    lax.radius_goes()
    lax.radius_returns()
    assert asked(lax)[1]["User-Name"] == "jane@example.com"
    lax.radius_goes()
    assert lax.error(app)[1] == Code.RADIUS_UNANSWERED
    proves(lax, app, session_id)  # and there is none now
    assert lax.error(app)[1] == Code.RADIUS_UNANSWERED


@pytest.mark.parametrize(("said", "code"), [(Access.ACCEPTED, None), (Access.REJECTED, Code.RADIUS_REJECTED)])
def test_when_its_time_is_over(world, app, said, code):
    """With the State of the answer that asked for it, and new times if there are any."""
    session_id = relaying(world, app, flags=SERVER)
    heard = []
    session = world.session(session_id)
    world.core.admitting.again(session, heard.append)
    world.effects = world.happen(KillAsked(4711))  # whatever happens: the effects come out
    message, attributes = asked(world)
    assert (message.state, attributes["Acct-Session-Id"]) == (b"first", session.access.acct_id)
    world.radius_says(said, session_timeout_s=90)
    [error] = heard
    if code is None:
        assert error is None
        assert (session.access.session_timeout_s, session.access.terminate) == (90, 0)
    else:
        assert error.code is code
        assert session.access.session_timeout_s == 60


def test_when_its_time_is_over_and_nobody_answers(make):
    world = make(f"{BOTH}radius lax unanswered=accept\n")
    app = world.app()
    session_id = shaken(world, app)
    for question in world.access_asked():
        world.radius_says(exchange=question.exchange, session_timeout_s=60)
    world.answer(app, world.callback(app)[0])
    session = world.session(session_id)
    access, heard = session.access, []
    world.radius_goes()
    world.core.admitting.again(session, heard.append)
    assert heard == []
    world.later(PAUSE_MS[0])
    world.radius_goes()
    assert heard == [None]
    assert session.access is access  # what was granted goes on
