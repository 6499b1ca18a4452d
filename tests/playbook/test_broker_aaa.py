"""The AAA of applications: who may ask about whom, what RADIUS is told, every answer, and what comes in between."""

import pytest

from tests.playbook import aaa
from tests.playbook.aaa import (
    KEY,
    NAME,
    REMOTE,
    RULE,
    SERVERS,
    attributes,
    authenticate,
    authorize,
    start,
    subject,
    verdict,
)
from tlspool_broker.aaa import SLACK_MS
from tlspool_broker.events import Clock, Reconfigured, TimerFired
from tlspool_broker.helper import PAUSE_MS
from tlspool_common import limits
from tlspool_common.aaawire import Said, Tags, Verdict
from tlspool_common.appwire import Cmd, Ping
from tlspool_common.errors import Code
from tlspool_common.messages import SessionEnded
from tlspool_common.messages_radius import Access, Purpose
from tlspool_common.settings import Part, parse_untrusted

make, world, app, session = aaa.make, aaa.world, aaa.app, aaa.session

# --- questions ------------------------------------------------------------------------------------------


def test_a_password(world, app):
    assert subject(world, app, "John@Example.ORG", "imap.example.net", "imap").cmd == Cmd.SUCCESS
    assert world.asked == []
    authenticate(world, app, timeout_ms=2_500)
    assert world.frames(app) == []
    [asked] = world.access_asked()
    question = asked.message
    assert (question.purpose, question.password, question.deadline_ms) == (Purpose.AUTHENTICATE, b"secret", 2_500)
    assert attributes(question) == {
        "User-Name": "john@example.org",
        "NAS-Identifier": "imap.example.net",
        "Called-Station-Id": "imap.example.net",
        "NAS-Port-Type": "Virtual",
        "Service-Type": "Authenticate-Only",
        "TLSPool-Service": "imap",
        "TLSPool-Role": "server",
        "TLSPool-Caller-User": "1000",
        "TLSPool-Caller-Unit": "postfix.service",
    }
    world.radius_says(message="hello", tags=("gold", "staff"), session_timeout_s=3600, idle_timeout_s=60)
    assert verdict(world, app) == Verdict(NAME, Said.ACCEPTED, "hello", ("gold", "staff"), 2, 3600, 60)
    [note] = world.noted("aaa.accepted")
    assert (note["purpose"], note["remoteid"], note["server"]) == ("authenticate", "john@example.org", "192.0.2.1:1812")
    assert len(world.core.aaa) == 0
    assert not any(timer.clock is Clock.AAA for timer in world.timers)


def test_a_password_is_in_no_line_and_in_nothing_that_stays(world, app):
    subject(world, app)
    authenticate(world, app, password=b"canary-in-a-mine")
    assert "canary" not in repr(world.access_asked())
    world.radius_says(Access.REJECTED, message="no")
    assert "canary" not in repr(world.notes)
    [entry] = [one for one in world.core.connections._by_id.values() if one.connection_id == app]
    assert "canary" not in repr(entry)


def test_a_rejection_is_an_answer(world, app):
    subject(world, app)
    authenticate(world, app)
    world.radius_says(Access.REJECTED, message="no \x1b[31mcredit")
    assert verdict(world, app) == Verdict(NAME, Said.REJECTED, "no ?[31mcredit")
    assert [note["remoteid"] for note in world.noted("aaa.rejected")] == ["john@example.org"]


@pytest.mark.parametrize(
    ("access", "code"), [(Access.UNANSWERED, Code.RADIUS_UNANSWERED), (Access.UNASKED, Code.RADIUS_UNASKED)]
)
def test_no_answer_is_an_error(world, app, access, code):
    """Also where sessions are let in then: what to do is the application's to decide."""
    subject(world, app)
    authorize(world, app)
    world.radius_says(access, detail="192.0.2.2:1812 is silent")
    reqid, number, text = world.error(app)
    assert (reqid, number) == (8, code)
    assert "192.0.2.2" not in text  # that is for the log
    assert [note["detail"] for note in world.noted("aaa.unanswered")] == ["192.0.2.2:1812 is silent"]


def test_the_helper_ends(world, app):
    """A permission is asked for once more; a password that may have counted is not: not against its owner twice."""
    subject(world, app)
    authenticate(world, app)
    subject(world, app, key=KEY)
    authorize(world, app, KEY, reqid=9)
    world.radius_goes()
    assert [frame.reqid for frame in world.frames(app)] == [8]
    assert world.error(app)[:2] == (8, Code.RADIUS_UNANSWERED)
    assert "secret" not in repr([one.message.password for one in world.core.radius.helper._open.values()])
    world.radius_returns()
    [asked] = world.access_asked()
    assert (asked.message.purpose, asked.message.deadline_ms) == (Purpose.AUTHORIZE, 8_000 - PAUSE_MS[0])
    world.radius_says()
    assert verdict(world, app, Cmd.LOCAL_AUTHORIZE, reqid=9).said == Said.ACCEPTED


def test_a_password_waits_for_a_helper_that_comes(world, app):
    world.radius_goes()
    subject(world, app)
    authenticate(world, app)
    assert world.frames(app) == []
    world.radius_returns()
    [asked] = world.access_asked()
    assert (asked.message.password, asked.message.deadline_ms) == (b"secret", 8_000)
    world.radius_says()
    assert verdict(world, app).said == Said.ACCEPTED


@pytest.mark.parametrize("how", ["time", "gone", "reqid"])
def test_a_password_that_nobody_waits_for_is_not_kept(world, app, how):
    world.radius_goes()
    subject(world, app)
    authenticate(world, app, timeout_ms=10, reqid=8)
    match how:
        case "time":
            world.now_ms += 10 + SLACK_MS  # and the helper is slow to come
            world.happen(TimerFired(next(one for one in world.timers if one.clock is Clock.AAA)))
            assert world.error(app)[:2] == (8, Code.RADIUS_UNANSWERED)
        case "gone":
            world.gone(app)
        case "reqid":
            world.send(app, Cmd.PING, Ping().to_payload(), reqid=8)
    assert len(world.core.radius.helper) == 0
    world.radius_returns()
    assert world.access_asked() == []


def test_the_time_is_up(world, app):
    subject(world, app)
    authenticate(world, app, timeout_ms=100)
    world.later(100 + SLACK_MS - 1)
    assert world.frames(app) == []
    world.later(1)
    assert world.error(app)[:2] == (8, Code.RADIUS_UNANSWERED)
    world.radius_says()  # too late
    assert world.frames(app) == []


@pytest.mark.parametrize("timeout_ms", [0, 3_600_000])
def test_the_pool_bounds_the_time(world, app, timeout_ms):
    subject(world, app)
    authenticate(world, app, timeout_ms=timeout_ms)
    assert world.access_asked()[0].message.deadline_ms == 8_000


def test_nobody_can_be_asked(make):
    world = make(SERVERS + RULE)
    app = world.app()
    world.radius_goes()
    subject(world, app)
    authenticate(world, app)
    world.later(PAUSE_MS[0])
    world.radius_goes()
    assert world.error(app)[:2] == (8, Code.RADIUS_UNANSWERED)
    subject(world, app)
    authenticate(world, app)
    assert world.error(app)[:2] == (8, Code.RADIUS_UNASKED)
    assert len(world.core.aaa) == 0


@pytest.mark.parametrize(
    ("act", "setting"),
    [(authenticate, "radius_authn"), (authorize, "radius_authz"), (start, "radius_acct")],
)
def test_there_is_no_server(make, act, setting):
    lines = (SERVERS + RULE).splitlines(keepends=True)
    world = make("".join(line for line in lines if not line.startswith(setting)))
    app = world.app()
    subject(world, app)
    act(world, app)
    _, code, text = world.error(app)
    assert (code, setting in text) == (Code.RADIUS_UNUSED, True)


def test_a_permission_has_words_of_the_application(world, app):
    subject(world, app, "example.net")
    authorize(world, app, kind="mailbox", instance="Sent = all")
    [asked] = world.access_asked()
    assert (asked.message.purpose, asked.message.password) == (Purpose.AUTHORIZE, b"")
    found = attributes(asked.message)
    assert found["User-Name"] == "example.net"
    assert (found["TLSPool-Kind"], found["TLSPool-Instance"]) == ("mailbox", "Sent = all")
    assert found["Service-Type"] == "Authorize-Only"
    world.radius_says()
    assert verdict(world, app, Cmd.LOCAL_AUTHORIZE).said == Said.ACCEPTED


def test_a_rule_says_what_a_server_is_told(make):
    rule = "radius mine service=imap NAS-Identifier=mail User-Name={remote.user} Service-Type=Login-User\n"
    world = make(SERVERS.replace("radius quiet", f"{rule}radius quiet") + RULE)
    app = world.app()
    subject(world, app, service="imap")
    authorize(world, app)
    found = attributes(world.access_asked()[0].message)
    assert (found["User-Name"], found["NAS-Identifier"]) == ("john", "mail")
    assert found["Service-Type"] == "Authorize-Only"  # what tells the questions apart is not a rule's


def test_tags_that_do_not_fit_are_asked_for(world, app):
    tags = tuple(f"{number:03d}-{'x' * 200}" for number in range(4))
    subject(world, app)
    authorize(world, app)
    world.radius_says(tags=tags)
    told = verdict(world, app, Cmd.LOCAL_AUTHORIZE)
    assert (told.tags, told.tags_total) == (tags[:1], 4)
    found = told.tags
    while len(found) < told.tags_total:
        world.send(app, Cmd.LOCAL_TAGS, Tags(NAME, len(found)).to_payload(), reqid=11)
        [frame] = world.frames(app)
        found += Tags.from_payload_untrusted(frame.payload.ljust(380, b"\0")).tags
    assert found == tags
    world.send(app, Cmd.LOCAL_TAGS, Tags(b"x" * 16).to_payload(), reqid=11)
    assert world.error(app)[1] == Code.CTLKEY_UNKNOWN


def test_verdicts_that_are_remembered_are_bounded(world, app):
    tags = ("x" * 250,)
    for number in range(limits.RADIUS_SUBJECTS + 1):
        key = number.to_bytes(16, "big")
        subject(world, app, key=key)
        authorize(world, app, key)
        world.radius_says(tags=tags)
    world.send(app, Cmd.LOCAL_TAGS, Tags(bytes(16)).to_payload())
    assert world.error(app)[1] == Code.CTLKEY_UNKNOWN


# --- who may ask about whom -----------------------------------------------------------------------------


def test_the_remote_of_a_session(make):
    """The session's own key says who is meant; no rule is needed."""
    world = make()
    app = world.app()
    world.relaying(app, ctlkey=KEY, remoteid=REMOTE, service="imap")
    authorize(world, app, KEY)
    found = attributes(world.access_asked()[0].message)
    assert found["User-Name"] == REMOTE
    assert (found["NAS-Identifier"], found["TLSPool-Service"]) == ("localhost", "imap")
    assert found["TLSPool-TLS-Version"] == "TLSv1.3"


def test_the_remote_of_another_connection_of_the_same_user(make):
    world = make()
    owner, other, stranger = world.app(), world.app(), world.app(uid=1001)
    session = world.relaying(owner, ctlkey=KEY, remoteid=REMOTE, service="imap")
    subject(world, other, REMOTE)
    authorize(world, other)
    assert attributes(world.access_asked()[0].message)["TLSPool-Service"] == "imap"
    for app, name, localid, reqid in (
        (stranger, REMOTE, "", 20),
        (other, "www.example.net", "", 21),
        (other, REMOTE, "other.example.com", 22),
    ):
        subject(world, app, name, localid)
        authorize(world, app, reqid=reqid)
        assert world.error(app)[:2] == (reqid, Code.ACCOUNT_FOREIGN)
    world.gone(owner)
    world.say(session, SessionEnded)
    subject(world, other, REMOTE)
    authorize(world, other, reqid=23)
    assert world.error(other)[:2] == (23, Code.ACCOUNT_FOREIGN)


def test_a_key_of_another_connection_is_none(world, session):
    other = world.app()
    authorize(world, other, KEY)
    assert world.error(other)[1] == Code.CTLKEY_UNKNOWN


def test_a_name_is_for_one_question(world, app):
    subject(world, app)
    authorize(world, app)
    authorize(world, app, reqid=12)
    assert world.error(app)[:2] == (12, Code.CTLKEY_UNKNOWN)
    world.radius_says(Access.REJECTED)
    authorize(world, app, reqid=12)
    assert world.error(app)[:2] == (12, Code.CTLKEY_UNKNOWN)


def test_the_key_of_who_was_accepted_stands_for_the_same(world, app):
    """By a name, or by a session that is over since; if that may still be asked about."""
    subject(world, app, service="imap")
    authenticate(world, app)
    world.radius_says()
    authorize(world, app, reqid=12)
    found = attributes(world.access_asked()[-1].message)
    assert (found["User-Name"], found["TLSPool-Service"]) == ("john@example.org", "imap")
    world.happen(Reconfigured(parse_untrusted(SERVERS, Part.BROKER)))
    authorize(world, app, reqid=13)
    assert world.error(app)[:2] == (13, Code.ACCOUNT_FOREIGN)
    other = world.app()
    authorize(world, other, reqid=14)
    assert world.error(other)[:2] == (14, Code.CTLKEY_UNKNOWN)


def test_the_key_of_a_session_that_is_over_and_was_accepted(make):
    world = make(SERVERS + RULE.replace("@example.org", REMOTE))
    app = world.app()
    number = world.relaying(app, ctlkey=KEY, remoteid=REMOTE)
    authorize(world, app, KEY)
    world.radius_says()
    world.say(number, SessionEnded)
    authorize(world, app, KEY, reqid=12)
    found = attributes(world.access_asked()[-1].message)
    assert found["User-Name"] == REMOTE
    assert "TLSPool-TLS-Version" not in found


def test_names_are_bounded(world, app):
    for number in range(limits.RADIUS_SUBJECTS):
        assert subject(world, app, key=number.to_bytes(16, "big")).cmd == Cmd.SUCCESS
    assert subject(world, app, key=bytes(16)).cmd == Cmd.SUCCESS  # in place of the one before
    assert subject(world, app).cmd == Cmd.ERROR
    assert world.error(app)[1] == Code.TOO_MANY_REQUESTS


@pytest.mark.parametrize("name", ["", "@", "a b", "@example.org", "x" * 127])
def test_a_name_that_is_none(world, app, name):
    assert subject(world, app, name).cmd == Cmd.ERROR
    assert world.error(app)[1] == Code.IDENTITY_MALFORMED


@pytest.mark.parametrize(
    ("rules", "remoteid", "allowed"),
    [
        ("account a allow", "anybody.example", True),
        ("account a allow user=1001", "anybody.example", False),
        ("account a deny remoteid=john@example.org\naccount b allow remoteid=@example.org", "john@example.org", False),
        ("account a deny remoteid=john@example.org\naccount b allow remoteid=@example.org", "mary@example.org", True),
        ("account a allow remoteid=@.example.org", "john@mail.example.org", True),
        ("account a allow remoteid=.", "example.org", True),
        ("account a allow remoteid=.", "john@example.org", False),
        ("account a allow service=imap", "example.org", False),
        ("account a allow localid=-", "example.org", True),
        ("account a allow localid=x.example", "example.org", False),
    ],
)
def test_rules(make, rules, remoteid, allowed):
    world = make(f"{SERVERS}{rules}\n")
    app = world.app()
    subject(world, app, remoteid)
    authorize(world, app)
    assert bool(world.access_asked()) is allowed
    if not allowed:
        assert world.error(app)[1] == Code.ACCOUNT_FOREIGN


@pytest.mark.parametrize(("does", "allowed"), [("allow", False), ("deny", False)])
def test_what_is_not_certain_helps_nobody(make, does, allowed):
    world = make(f"{SERVERS}account a {does} unit=postfix.service\n{RULE}")
    app = world.app(certain=False)
    subject(world, app, "anybody.example" if does == "allow" else "john@example.org")
    authorize(world, app)
    assert bool(world.access_asked()) is allowed


def test_a_rule_that_denies_holds_for_sessions_too(make):
    world = make(SERVERS + "account x deny user=1000 service=imap\n")
    app = world.app()
    world.relaying(app, ctlkey=KEY, remoteid=REMOTE, service="imap")
    authorize(world, app, KEY)
    _, code, text = world.error(app)
    assert (code, "account rule x" in text) == (Code.ACCOUNT_FOREIGN, True)


def test_what_an_operator_sees(world, app):
    for reqid, name in enumerate(("john@example.org", "mary@example.net"), 20):
        subject(world, app, name)
        authorize(world, app, reqid=reqid)
    assert world.core.aaa.describe() == {
        "waiting": 1,
        "items": 0,
        "rules": [
            {"rule": "print", "does": "allow user=1000 remoteid=@example.org,example.net", "used": 1},
            {"rule": "-", "does": "allow remotes of sessions of the same user", "used": 1},
        ],
    }


def test_other_rules_count_at_once(world, app):
    subject(world, app)
    world.happen(Reconfigured(parse_untrusted(SERVERS, Part.BROKER)))
    authorize(world, app)
    assert world.error(app)[1] == Code.ACCOUNT_FOREIGN


def test_a_remote_without_identity(make):
    world = make()
    app = world.app()
    world.relaying(app, ctlkey=KEY, flags=0x1006)  # IGNORE_REMOTEID
    authorize(world, app, KEY)
    assert world.error(app)[1] == Code.RADIUS_ANONYMOUS
    world = make(SERVERS.replace("quiet", "quiet anonymous=guest"))
    app = world.app()
    world.relaying(app, ctlkey=KEY, flags=0x1006)
    authorize(world, app, KEY)
    assert attributes(world.access_asked()[0].message)["User-Name"] == "guest"


# --- what comes in between --------------------------------------------------------------------------------


def test_the_connection_goes_away(world, app):
    subject(world, app)
    authenticate(world, app)
    world.gone(app)
    assert len(world.core.aaa) == 0
    world.radius_says()
    assert world.frames() == []


def test_the_request_id_is_used_again(world, app):
    subject(world, app)
    authenticate(world, app, reqid=8)
    world.send(app, Cmd.PING, Ping().to_payload(), reqid=8)
    assert [frame.cmd for frame in world.frames(app)] == [Cmd.PING]
    world.radius_says()
    assert world.frames() == []
    assert len(world.core.aaa) == 0


def test_one_user_has_so_many_questions(world, app):
    other = world.app()
    for number in range(limits.RADIUS_ASKED_PER_CALLER):
        subject(world, app, key=bytes([number]) * 16)
        authorize(world, app, bytes([number]) * 16, reqid=100 + number)
    subject(world, other)
    authorize(world, other)
    assert world.error(other)[1] == Code.TOO_MANY_REQUESTS
    stranger = world.app(uid=1002)
    world.relaying(stranger, ctlkey=KEY, remoteid=REMOTE)
    authorize(world, stranger, KEY)
    assert world.frames(stranger) == []
    world.radius_says(exchange=world.access_asked()[0].exchange)
    subject(world, other)
    authorize(world, other)
    assert world.frames(other) == []


@pytest.mark.parametrize(
    "cmd", [Cmd.LOCAL_AUTHENTICATE, Cmd.LOCAL_AUTHORIZE, Cmd.LOCAL_SUBJECT, Cmd.LOCAL_ACCOUNT_START]
)
def test_frames_that_are_none(world, app, cmd):
    world.send(app, cmd, b"\xff" * 380)
    assert world.error(app)[1] == Code.FIELD_MALFORMED
