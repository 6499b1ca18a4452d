"""Access rules at work: which rule decides, for which caller, identity, role and service."""

import pytest

from tests.playbook.broker import CLIENT, SERVER, World, credential
from tlspool_broker.access import Access
from tlspool_broker.events import Caller
from tlspool_common.appwire import Cmd, Flag
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import ClientHelloSeen, EndSession, Side
from tlspool_common.settings import parse_untrusted as settings

WHO = Caller(1000, 100, 815, "postfix.service", "smtpd", exe="/usr/bin/smtpd", groups=(7, 8), socket="/run/mail.sock")
UNSURE = Caller(1000, 100, 815, "postfix.service", "smtpd", certain=False, exe="/usr/bin/smtpd")


def verdict(lines, caller=WHO, side=Side.SERVER, localid="mail.example.com", service="smtp"):
    """Return 'allowed', or the name of the rule that refuses."""
    access = Access(settings("".join(f"access {line}\n" for line in lines)).access)
    try:
        access.check(caller, side, parse_untrusted(localid) if localid else None, service)
    except PoolError as error:
        assert error.code is Code.ACCESS_DENIED
        return error.detail
    return "allowed"


def test_without_rules_everything_is_allowed():
    assert verdict([]) == "allowed"


def test_with_rules_what_none_applies_to_is_refused():
    assert verdict(["a allow role=client"]) == "no rule allows it"


def test_the_first_that_applies_decides():
    assert verdict(["a deny user=1000", "b allow"]) == "rule a"
    assert verdict(["a allow user=1000", "b deny"]) == "allowed"
    assert verdict(["a deny user=1001", "b allow"]) == "allowed"


@pytest.mark.parametrize(
    ("criterion", "applies"),
    [
        ("user=1000", True),
        ("user=1001", False),
        ("user=1,1000", True),
        ("group=100", True),
        ("group=8", True),  # a supplementary one
        ("group=9", False),
        ("unit=postfix.service", True),
        ("unit=dovecot.service", False),
        ("exe=/usr/bin/smtpd", True),
        ("exe=/usr/bin/smtp", False),
        ("socket=/run/mail.sock", True),
        ("socket=/run/web.sock", False),
        ("role=server", True),
        ("role=client", False),
        ("localid=mail.example.com", True),
        ("localid=MAIL.example.com.", True),
        ("localid=.example.com", True),
        ("localid=.", True),
        ("localid=example.com", False),
        ("localid=@.", False),
        ("localid=-", False),
        ("localid=-,mail.example.com", True),
        ("service=smtp", True),
        ("service=imap", False),
        ("user=1000 role=client", False),
        ("user=1000 role=server service=smtp", True),
    ],
)
def test_criteria(criterion, applies):
    assert verdict([f"a allow {criterion}"]) == ("allowed" if applies else "no rule allows it")
    assert verdict([f"a deny {criterion}", "b allow"]) == ("rule a" if applies else "allowed")


@pytest.mark.parametrize(("localid", "allowed"), [("john@example.com", True), ("example.com", False)])
def test_users_are_told_from_domains(localid, allowed):
    assert (verdict(["a allow localid=@example.com"], localid=localid) == "allowed") is allowed


def test_a_client_without_identity():
    assert verdict(["a allow localid=-"], localid="", side=Side.CLIENT) == "allowed"
    assert verdict(["a allow localid=."], localid="", side=Side.CLIENT) == "no rule allows it"
    assert verdict(["a allow"], localid="", side=Side.CLIENT) == "allowed"


@pytest.mark.parametrize(
    ("unit", "applies"),
    [("postfix@-.service", True), ("postfix@a@b.service", True), ("postfix.service", False), ("", False)],
)
def test_instances_of_a_template(unit, applies):
    caller = Caller(1, 1, 1, unit)
    assert (verdict(["a allow unit=postfix@.service"], caller) == "allowed") is applies


@pytest.mark.parametrize("criterion", ["unit=postfix.service", "exe=/usr/bin/smtpd", "unit=other.service", "exe=/x"])
def test_what_is_not_certain_helps_nobody(criterion):
    assert verdict([f"a allow {criterion}"], UNSURE) == "no rule allows it"
    assert verdict([f"a deny {criterion}", "b allow"], UNSURE) == "rule a"


def test_a_program_that_cannot_be_seen_is_not_certain():
    caller = Caller(1000, 100, 815, "postfix.service")
    assert verdict(["a allow exe=/usr/bin/smtpd"], caller) == "no rule allows it"
    assert verdict(["a deny exe=/usr/bin/smtpd", "b allow"], caller) == "rule a"


def test_what_the_kernel_says_is_always_certain():
    assert verdict(["a allow user=1000 group=100"], UNSURE) == "allowed"


def test_how_often_each_decided():
    access = Access(settings("access a deny user=1\naccess b allow user=2\n").access)
    for uid in (1, 2, 2, 3):
        try:
            access.check(Caller(uid, uid, 1), Side.SERVER, None, "")
        except PoolError:
            continue
    assert access.rows() == [
        {"rule": "a", "does": "deny user=1", "used": 1},
        {"rule": "b", "does": "allow user=2", "used": 2},
        {"rule": "-", "does": "deny", "used": 1},
    ]
    assert Access(()).rows() == []


# --- in the broker --------------------------------------------------------------------------------------


@pytest.fixture
def make(no_leaks):
    made = []

    def world(*lines):
        made.append(World("".join(f"access {line}\n" for line in lines)))
        return made[-1]

    yield world
    for one in made:
        one.close()


def test_a_server_is_refused_by_name(make):
    world = make("mail allow unit=postfix.service localid=localhost service=smtp", "rest deny")
    app, other = world.app(), world.app(unit="nginx.service")
    assert world.state(world.starttls(app)) == "EXPECT_CLIENT_HELLO"
    world.starttls(other)
    assert world.error(other)[1:] == (210, world.error(other)[2])
    assert "rule rest" in world.error(other)[2]
    assert world.noted("command.refused")[-1]["detail"] == "rule rest"
    world.starttls(app, reqid=2, service="http")
    assert world.error(app)[1] == 210
    assert world.dropped() == [False]


def test_whether_an_identity_exists_is_not_told_to_whom_it_is_not_for(make):
    world = make("a allow localid=localhost")
    app = world.app()
    world.starttls(app, localid="nobody.example")
    assert world.error(app)[1] == 210


def test_a_client_gets_what_it_may_have_of_what_may_be_disclosed(make):
    world = make("a allow localid=second.example")
    world.records.disclosures["www.example.com"] = ["me.example", "second.example"]
    world.records.identities["second.example", Side.CLIENT] = [credential("second.example")]
    session_id = world.starttls_client(world.app())
    assert str(world.session(session_id).plan.localid) == "second.example"
    app = world.app()
    world.starttls_client(app, localid="me.example")
    assert world.error(app)[1] == 210


@pytest.mark.parametrize(("line", "allowed"), [("a allow localid=-", True), ("a allow role=server", False)])
def test_a_client_that_may_have_none_is_nobody_if_it_may_be(make, line, allowed):
    world = make(line)
    app = world.app()
    session_id = world.starttls_client(app)
    if allowed:
        assert world.session(session_id).plan.localid is None
    else:
        assert world.error(app)[1] == 210


def test_proposals_go_by_the_rules(make):
    world = make("a allow localid=localhost,second.example")
    world.records.identities["other.example", Side.SERVER] = [credential("other.example")]
    world.records.disclosures["www.example.com"] = ["me.example", "second.example"]
    world.records.identities["second.example", Side.CLIENT] = [credential("second.example")]
    app = world.app()
    session_id = world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK, localid="")
    world.say(session_id, ClientHelloSeen, sni="other.example")
    frame, told = world.callback(app, Cmd.STARTTLS_LOCALID)
    assert told.localid == "other.example"  # the remote asked for it; whether we are that is the question
    world.answer(app, frame, passed=None)
    assert world.error(app)[1] == 210
    assert world.to_worker() == [EndSession(session_id=session_id, alert=112)]
    world.starttls_client(app, flags=CLIENT | Flag.LOCALID_CHECK)
    assert world.callback(app, Cmd.STARTTLS_LOCALID)[1].localid == "second.example"


@pytest.mark.parametrize(
    "cmd", [Cmd.CONTROL_DETACH, Cmd.CONTROL_REATTACH, Cmd.LOCAL_DETAILS, Cmd.LOCAL_IDENTITIES, Cmd.LOCAL_OPTIONS]
)
def test_a_facility_that_is_denied(no_leaks, cmd):
    world = World("deny_facilities starttls\n")
    app = world.app()
    world.send(app, cmd)
    assert world.error(app)[1] == 206
    world.starttls(app)
    assert world.error(app)[1] == 206
    world.send(app, Cmd.PING, b"x\0" + bytes(134) + b"\xff" * 4)
    [frame] = world.frames(app)
    assert frame.payload[136:140] == bytes(4)
    world.close()
