"""What the broker answers operators about RADIUS, with a helper that says what a test has it say."""

import asyncio
import json
import os

import pytest

from tests.playbook.broker import World
from tlspool_broker import radius_control
from tlspool_broker.events import Began, HelperSaid, RadiusAsked, RadiusHeard, SendHelper
from tlspool_broker.radius_control import RadiusControl
from tlspool_broker.radius_grant import Admission
from tlspool_broker.radius_questions import RadiusQuestions
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Access, AccessTold, AskAccess, AskRadius, Purpose, RadiusTold

TOLD = RadiusTold(
    waiting=2,
    oldest_s=9,
    open=1,
    sent=4,
    refused=0,
    servers=(
        'purpose=authz server=127.0.0.1:1812 state=up rtt_ms=0.4 asked=7 detail="a b"',
        "\x00 no line",
        "purpose=dynamic asked=3",
    ),
    records=("number=17 status=start acct_id=0017 at_s=5",),
)
SECRETS = "radius_secret_file /nowhere\n"


def told(access=Access.ACCEPTED, **more):
    fields = {
        "detail": "", "message": "", "user_name": "", "classes": (), "tags": (), "state": b"", "session_timeout_s": 0,
        "idle_timeout_s": 0, "interim_s": 0, "terminate": 0, "server": "127.0.0.1:1812", "elapsed_ms": 2,
    }  # fmt: skip
    return AccessTold(access=access, **{**fields, **more})


class Lines:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))


class Helper:
    """Answers questions in order."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def ask(self, message):
        self.asked.append(message)
        return self.answers.pop(0)


@pytest.fixture
def make(no_leaks):
    worlds = []

    def made(helper, conf=f"radius_authn 127.0.0.1\nradius_authz 127.0.0.1\n{SECRETS}"):
        world, log = World(conf), Lines()
        worlds.append(world)
        return RadiusControl(world.core, world.settings, helper, log), log

    yield made
    for world in worlds:
        world.close()


def ask(control, cmd, **fields):
    return asyncio.run(control.commands[cmd]({"cmd": cmd, **fields}))


def refused(control, cmd, **fields):
    with pytest.raises(PoolError) as caught:
        ask(control, cmd, **fields)
    return caught.value.code


def test_servers_and_records(make):
    helper = Helper(TOLD, TOLD)
    control, log = make(helper)
    answer = ask(control, "radius")
    server = {
        "purpose": "authz",
        "server": "127.0.0.1:1812",
        "state": "up",
        "rtt_ms": "0.4",
        "asked": 7,
        "detail": "a b",
    }
    assert answer["servers"] == [server, {"line": "\x00 no line"}]
    assert answer["dynamic"] == {"purpose": "dynamic", "asked": 3}
    assert "spool" not in answer
    assert (answer["waiting"], answer["oldest_s"], answer["open"], answer["sent"]) == (2, 9, 1, 4)
    assert helper.asked == [AskRadius(after=0, count=0, retry=False)]
    answer = ask(control, "radius.spool", after=5, count=3, retry=True, author="jane")
    assert answer["records"] == [{"number": 17, "status": "start", "acct_id": "0017", "at_s": 5}]
    assert helper.asked[1:] == [AskRadius(after=5, count=3, retry=True)]
    assert log.lines == [("radius.retry", {"uid": os.getuid(), "author": "jane"})]


def test_a_helper_that_does_not_answer(make):
    control, _ = make(Helper(None))
    answer = ask(control, "radius")
    assert "waiting" not in answer
    assert "the helper does not answer" in answer["warnings"][0]


def test_a_pool_without_servers(make):
    control, _ = make(Helper(), "")
    assert refused(control, "radius") is Code.RADIUS_UNUSED
    assert refused(control, "radius.spool") is Code.RADIUS_UNUSED


@pytest.mark.parametrize("fields", [{"count": 51}, {"count": -1}, {"after": "x"}, {"retry": "yes"}])
def test_fields_that_are_wrong(make, fields):
    assert refused(make(Helper())[0], "radius.spool", **fields) is Code.FIELD_MALFORMED


ADMISSION = Admission(
    rule="mail", acct_id="x-0", attributes=("User-Name=a@b.example",), accounts=False, authn=True, authz=False
)


def test_a_remote_is_asked_about(make, monkeypatch):
    monkeypatch.setattr(radius_control, "rehearse_untrusted", lambda _core, _fields: ADMISSION)
    first = told(tags=("staff",), classes=(b"gold",), session_timeout_s=60, terminate=1, state=b"s")
    helper = Helper(first, told(Access.REJECTED, message="not you", detail="why"))
    control, log = make(helper)
    answer = ask(control, "radius.test", remoteid="a@b.example", password="canary-password", author="jane")
    assert (answer["outcome"], answer["rule"]) == ("rejected", "mail")
    authn, authz = answer["answers"]
    assert (authn["purpose"], authn["access"], authn["asked_of_sessions"]) == ("authn", "accepted", True)
    assert authn["got"] == {
        "Class": [b"gold".hex()], "tags": ["staff"], "State": b"s".hex(), "Session-Timeout": 60,
        "Termination-Action": "RADIUS-Request",
    }  # fmt: skip
    assert (authz["purpose"], authz["access"], authz["asked_of_sessions"]) == ("authz", "rejected", False)
    assert (authz["got"], authz["detail"]) == ({"Reply-Message": "not you"}, "why")
    question, other = helper.asked
    assert (question.purpose, question.password, question.deadline_ms) == (
        Purpose.AUTHENTICATE,
        b"canary-password",
        8000,
    )
    assert {"User-Name=a@b.example", "Acct-Session-Id=x-0", "Service-Type=Authenticate-Only"} == set(
        question.attributes
    )
    assert (other.purpose, other.password) == (Purpose.AUTHORIZE, b"")
    assert "Service-Type=Authorize-Only" in authz["sent"]
    assert "canary" not in json.dumps(answer) + str(log.lines)
    assert log.lines == [
        ("radius.test", {"remoteid": "a@b.example", "outcome": "rejected", "uid": os.getuid(), "author": "jane"})
    ]


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([Access.ACCEPTED, Access.ACCEPTED], "accepted"),
        ([Access.UNANSWERED, Access.ACCEPTED], "unanswered"),
        ([Access.UNANSWERED, Access.REJECTED], "rejected"),
        ([Access.ACCEPTED, Access.UNASKED], "unasked"),
        ([None, Access.ACCEPTED], "unanswered"),
    ],
)
def test_the_worst_answer_counts(make, monkeypatch, answers, outcome):
    monkeypatch.setattr(radius_control, "rehearse_untrusted", lambda _core, _fields: ADMISSION)
    control, _ = make(Helper(*(None if one is None else told(one) for one in answers)))
    assert ask(control, "radius.test", remoteid="a@b.example")["outcome"] == outcome


def test_one_purpose(make, monkeypatch):
    monkeypatch.setattr(radius_control, "rehearse_untrusted", lambda _core, _fields: ADMISSION)
    helper = Helper(told())
    control, _ = make(helper)
    assert [one["purpose"] for one in ask(control, "radius.test", remoteid="a.b", purpose="authz")["answers"]] == [
        "authz"
    ]
    control, _ = make(Helper(), f"radius_authn 127.0.0.1\n{SECRETS}")
    assert refused(control, "radius.test", remoteid="a.b", purpose="authz") is Code.RADIUS_UNUSED
    monkeypatch.setattr(radius_control, "rehearse_untrusted", lambda _core, _fields: None)
    assert refused(control, "radius.test", remoteid="a.b") is Code.RADIUS_UNUSED


@pytest.mark.parametrize(
    "fields", [{"purpose": "x"}, {"purpose": 1}, {"password": "x" * 129}, {"password": 7}, {"password": "\ud800"}]
)
def test_questions_that_cannot_be(make, monkeypatch, fields):
    monkeypatch.setattr(radius_control, "rehearse_untrusted", lambda _core, _fields: ADMISSION)
    assert refused(make(Helper())[0], "radius.test", remoteid="a.b", **fields) is Code.FIELD_MALFORMED


# --- what such a question is made of -------------------------------------------------------------------


def test_the_attributes_are_those_of_a_session(make):
    rule = "radius mail service=imap NAS-Identifier={local.domain} Called-Station-Id={caller.unit} authn=no\n"
    helper = Helper(told(), told())
    control, _ = make(helper, f"radius_authn 127.0.0.1\nradius_authz 127.0.0.1\n{SECRETS}{rule}")
    fields = {"remoteid": "alice@b.example", "localid": "post@home.example", "service": "imap", "unit": "x.service"}
    answer = ask(control, "radius.test", **fields)
    assert answer["rule"] == "mail"
    assert [one["asked_of_sessions"] for one in answer["answers"]] == [False, True]
    sent = set(answer["answers"][1]["sent"])
    expected = {"User-Name=alice@b.example", "NAS-Identifier=home.example", "Called-Station-Id=x.service"}
    assert expected | {"TLSPool-Service=imap", "TLSPool-Role=server", "Service-Type=Authorize-Only"} <= sent
    assert not any(one.startswith("TLSPool-Certificate") for one in sent), "there was no handshake"


def test_a_remote_without_a_name(make):
    control, _ = make(Helper())
    assert refused(control, "radius.test") is Code.RADIUS_ANONYMOUS
    assert refused(control, "radius.test", remoteid="") is Code.RADIUS_ANONYMOUS
    assert refused(control, "radius.test", remoteid=7) is Code.FIELD_MALFORMED
    assert refused(control, "radius.test", remoteid="a b@c") is Code.IDENTITY_MALFORMED
    assert refused(control, "radius.test", remoteid="a.b", side="peer") is Code.FIELD_MALFORMED
    assert refused(control, "radius.test", remoteid="a.b", service="x" * 200) is Code.FIELD_MALFORMED
    assert refused(control, "radius.test", remoteid="a.b", uid="x") is Code.FIELD_MALFORMED


# --- between coroutines and the core --------------------------------------------------------------------


def test_an_answer_finds_who_asked():
    events = []

    async def main():
        questions = RadiusQuestions(events.append)
        asking = [asyncio.create_task(questions.ask(AskRadius(after=n, count=0, retry=False))) for n in (1, 2)]
        await asyncio.sleep(0)
        assert [event.message.after for event in events] == [1, 2]
        questions.heard(events[1].number, TOLD)
        questions.heard(99, TOLD)
        questions.heard(events[0].number, None)
        assert await asyncio.gather(*asking) == [None, TOLD]
        questions.heard(events[0].number, TOLD)

    asyncio.run(main())


def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr("tlspool_broker.radius_questions.WAIT_S", 0.01)
    questions = RadiusQuestions(lambda _event: None)
    question = AskAccess(purpose=Purpose.AUTHORIZE, attributes=(), state=b"", deadline_ms=10, password=b"")
    assert asyncio.run(questions.ask(question)) is None


def test_the_core_answers_at_once_where_nobody_can_be_asked(no_leaks):
    world = World()
    question = AskRadius(after=0, count=0, retry=False)
    world.happen(RadiusAsked(5, question))
    assert world.of(RadiusHeard)[-1:] == [RadiusHeard(5, None)]
    world.close()


def test_the_core_asks_the_helper(no_leaks):
    world = World(f"radius_authz 127.0.0.1\n{SECRETS}")
    world.happen(Began())
    world.radius_comes()
    world.happen(RadiusAsked(6, AskRadius(after=0, count=0, retry=False)))
    sent = world.of(SendHelper)[-1]
    assert sent.message == AskRadius(after=0, count=0, retry=False)
    world.happen(HelperSaid(sent.helper, sent.exchange, TOLD))
    assert world.of(RadiusHeard)[-1] == RadiusHeard(6, TOLD)
    question = AskAccess(purpose=Purpose.AUTHORIZE, attributes=(), state=b"", deadline_ms=10, password=b"")
    world.happen(RadiusAsked(7, question))
    world.radius_goes()
    world.happen(RadiusAsked(8, AskRadius(after=0, count=0, retry=False)))
    assert world.of(RadiusHeard) == [RadiusHeard(8, None)]  # how it is an operator is told at once
    world.radius_returns()
    assert world.of(RadiusHeard)[-1] == RadiusHeard(7, None)
    world.close()
