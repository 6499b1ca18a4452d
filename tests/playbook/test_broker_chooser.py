"""Programs that choose identities: what they are asked, what becomes of their answers, and whom that concerns."""

import pytest

from tests.playbook.broker import CLIENT, World, credential
from tests.playbook.choosing import TIMEOUT_S, answer, asked, inquiry, register
from tests.playbook.test_broker_ends import bring
from tlspool_broker.events import DropFd, StopAsked
from tlspool_common.appwire import Cmd, ErrorReply, Flag
from tlspool_common.errors import Code, ComErr, PoolError
from tlspool_common.messages import HandshakeDone, HandshakeFailed, Proceed, Side, UseCredential
from tlspool_common.servicewire import Asker, ChoiceFlag, Lidentry

REMOTE = "john@www.example.com"
ALL = ["john@www.example.com", "@www.example.com", "john@.example.com", "@.example.com"]
ALL += ["john@.com", "@.com", "john@.", "@."]
WANT = ChoiceFlag.WANT_DBENTRY


@pytest.fixture
def world(world):
    world.records.identities["other.example", Side.CLIENT] = [credential("other.example")]
    world.records.disclosures = {"@.example.com": ["me.example", "other.example"]}
    return world


def ask(world, app=None, **fields):
    """Ask for a session of a client that needs an identity."""
    app = world.app() if app is None else app
    return app, world.starttls_client(app, **{"remoteid": REMOTE, **fields})


def chosen(world, session_id):
    session = world.session(session_id)
    return session.localid


# --- the sequence ---------------------------------------------------------------------------------------


def test_entries_then_the_inquiry_then_the_handshake(world):
    service = register(world, WANT)
    assert not world.frames()
    _, session_id = ask(world)
    for localid in ("me.example", "other.example"):
        frame, entry = asked(world, service)
        assert (entry.flags, entry.localid, entry.remoteid, entry.maxlevels) == (
            WANT | ChoiceFlag.DBENTRY,
            localid,
            "@.example.com",
            3,
        )
        assert entry.timeout_s == 1_700_000_000 + TIMEOUT_S
        answer(world, service, frame)
    frame, question = asked(world, service)
    assert question == Lidentry(WANT, len(ALL) - 1, 1_700_000_000 + TIMEOUT_S, "", REMOTE)
    assert world.state(session_id) == "EXPECT_CHOICE"
    answer(world, service, frame, localid="other.example")
    assert world.state(session_id) == "EXPECT_HANDSHAKE"
    assert len(world.to_worker(UseCredential, Proceed)) == 2
    assert chosen(world, session_id) == "other.example"
    assert not world.frames(service)  # the answer was the next registration


def test_who_does_not_want_the_entries_gets_only_the_inquiry(world):
    service = register(world, 0)
    _, session_id = ask(world)
    frame, question = asked(world, service)
    assert question.flags == 0
    answer(world, service, frame, localid="me.example")
    assert chosen(world, session_id) == "me.example"


def test_the_suggestion_of_the_application_and_a_choice_that_policy_does_not_disclose(world):
    service = register(world)
    world.records.disclosures.clear()
    _, session_id = ask(world, localid="Me.Example")
    frame, question = asked(world, service)
    assert question.localid == "me.example"
    answer(world, service, frame, localid="other.example")
    assert chosen(world, session_id) == "other.example"


def test_the_identity_that_was_chosen_is_told_and_the_request_is_not_changed(world):
    service = register(world, 0)
    app, session_id = ask(world, localid="me.example")
    answer(world, service, asked(world, service)[0], localid="other.example")
    world.say(session_id, HandshakeDone, remote_names=("email:john@www.example.com",))
    _, told = world.callback(app)
    assert (told.localid, told.remoteid) == ("other.example", REMOTE)


def test_nobody_chosen(world):
    service = register(world, 0)
    _, session_id = ask(world)
    answer(world, service, asked(world, service)[0])
    assert world.state(session_id) == "EXPECT_HANDSHAKE"
    assert not world.to_worker(UseCredential)
    assert chosen(world, session_id) == ""


def test_nobody_instead_of_what_the_application_named(world):
    service = register(world, 0)
    app, session_id = ask(world, localid="me.example")
    answer(world, service, asked(world, service)[0], localid="")
    assert world.error(app)[1] == Code.CHOICE_REFUSED
    assert world.state(session_id) == "OVER"


def test_the_application_is_asked_about_the_choice_if_it_wants_to(world):
    service = register(world, 0)
    app, session_id = ask(world, flags=CLIENT | Flag.LOCALID_CHECK)
    answer(world, service, asked(world, service)[0], localid="other.example")
    assert world.state(session_id) == "EXPECT_LOCALID"
    _, proposal = world.callback(app, Cmd.STARTTLS_LOCALID)
    assert proposal.localid == "other.example"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"localid": "nobody.example"}, Code.LOCALID_UNKNOWN),
        ({"localid": "@.example"}, Code.IDENTITY_MALFORMED),
        ({"localid": "me.example", "remoteid": "evil.example"}, Code.REMOTEID_NOT_GENERAL),
        ({"localid": "me.example", "remoteid": "example.com"}, Code.REMOTEID_NOT_GENERAL),
        ({"localid": "me.example", "remoteid": "@"}, Code.IDENTITY_MALFORMED),
        ({"localid": "me.example", "flags": ChoiceFlag.NEW}, Code.LOCALID_UNKNOWN),
        ({"localid": "me.example", "flags": ChoiceFlag.ONTHEFLY}, Code.LOCALID_UNKNOWN),
        ({"payload": b"\xff" * 380}, Code.FIELD_MALFORMED),
        ({"cmd": Cmd.PING}, Code.CHOICE_REFUSED),
    ],
)
def test_answers_that_lead_nowhere(world, fields, code):
    service = register(world, 0)
    app, session_id = ask(world)
    answer(world, service, asked(world, service)[0], **fields)
    assert world.error(app)[1] == code
    assert world.state(session_id) == "OVER"
    _, again = ask(world)  # it is registered all the same
    asked(world, service)
    assert world.state(again) == "EXPECT_CHOICE"


def test_who_wants_it(world):
    service = register(world, WANT)
    world.send(service, Cmd.LOCAL_ASKER, reqid=7)
    assert world.error(service)[:2] == (7, Code.SESSION_UNKNOWN)
    ask(world, service="smtp")
    world.send(service, Cmd.LOCAL_ASKER, reqid=7)
    [frame] = world.frames(service)
    assert (frame.reqid, frame.cmd, frame.cbid) == (7, Cmd.LOCAL_ASKER, 0)
    assert Asker.from_payload_untrusted(frame.payload.ljust(380, b"\0")) == Asker(
        1000, 815, "postfix.service[815]", "smtp"
    )
    other = world.app()
    world.send(other, Cmd.LOCAL_ASKER)
    assert world.error(other)[1] == Code.SESSION_UNKNOWN


def test_access_rules_hold_for_choices(no_leaks):
    world = World("access no deny localid=me.example\naccess rest allow\n")
    service = register(world, 0)
    app, _ = ask(world, remoteid="www.example.com")
    answer(world, service, asked(world, service)[0], localid="me.example")
    assert world.error(app)[1] == Code.ACCESS_DENIED
    world.close()


# --- what is not asked ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"flags": CLIENT | Flag.IGNORE_REMOTEID},
        {"flags": 0x6, "localid": "localhost", "remoteid": ""},
    ],
)
def test_sessions_that_need_no_choice(world, fields):
    register(world, 0)
    _, session_id = ask(world, **fields)
    assert world.state(session_id) != "EXPECT_CHOICE"


def test_the_program_of_another_user_is_not_asked(world):
    register(world, 0, uid=1001)
    _, session_id = ask(world)
    assert chosen(world, session_id) == "me.example"


@pytest.mark.parametrize("line", ["choice_services 7", "choice_services @77", "choice_services 1 @7"])
def test_but_one_that_policy_names_is(no_leaks, line):
    world = World(line + "\n")
    service = register(world, 0, uid=7, groups=(77,))
    ask(world)
    asked(world, service)
    own = register(world, 0, uid=1000)
    ask(world)
    asked(world, own)  # one's own comes first
    world.close()


SKIP, USER, SAME, ONEUP = (
    ChoiceFlag.SKIP_DBENTRY,
    ChoiceFlag.SKIP_USER,
    ChoiceFlag.SKIP_DOMAIN_SAME,
    ChoiceFlag.SKIP_DOMAIN_ONEUP,
)
NOTROOT = ChoiceFlag.SKIP_NOTROOT


@pytest.mark.parametrize(
    ("flags", "skipped"),
    [
        (0, set()),
        (WANT, set()),
        (SKIP, set(ALL)),
        (USER, {"john@www.example.com", "john@.example.com", "john@.com", "john@."}),
        (SAME, set(ALL[:2])),
        (ONEUP, set(ALL[2:4])),
        (SAME | ONEUP, set(ALL[:4])),
        (NOTROOT, set(ALL[:6])),
        (USER | SAME | ONEUP, {"john@www.example.com", "john@.example.com"}),
        (USER | NOTROOT, {"john@www.example.com", "john@.example.com", "john@.com"}),
    ],
)
def test_what_may_be_taken_from_the_database_without_asking(world, flags, skipped):
    register(world, flags)
    found = set()
    for selector in ALL:
        world.records.disclosures = {selector: ["me.example"]}
        _, session_id = ask(world)
        if world.state(session_id) != "EXPECT_CHOICE":
            found.add(selector)
    assert found == skipped


def test_a_domain_has_no_user_that_could_have_been_dropped(world):
    register(world, USER)
    world.records.disclosures = {".com": ["me.example"]}
    _, session_id = ask(world, remoteid="www.example.com")
    assert chosen(world, session_id) == "me.example"


def test_what_the_database_does_not_have_is_always_asked(world):
    service = register(world, SKIP)
    world.records.disclosures = {}
    ask(world)
    asked(world, service)
    world.records.disclosures = {"@.": ["me.example"]}
    service = register(world, SKIP, uid=1001)
    app = world.app(1001)
    ask(world, app, localid="other.example")
    asked(world, service)


# --- storing --------------------------------------------------------------------------------------------


def finish(world, app, session_id):
    world.say(session_id, HandshakeDone, remote_names=("email:john@www.example.com",))
    frame, _ = world.callback(app)
    assert world.records.added == []
    world.answer(app, frame)
    assert world.state(session_id) == "RELAYING"


@pytest.mark.parametrize(
    ("flags", "added"),
    [
        (0, []),
        (ChoiceFlag.DBREORDER, []),
        (ChoiceFlag.DBINSERT, [("@.example.com", "me.example", True, False)]),
        (ChoiceFlag.DBAPPEND, [("@.example.com", "me.example", False, False)]),
        (ChoiceFlag.DBAPPEND | ChoiceFlag.DBREORDER, [("@.example.com", "me.example", False, True)]),
    ],
)
def test_a_choice_is_stored_when_the_session_relays(world, flags, added):
    service = register(world, 0)
    app, session_id = ask(world)
    answer(world, service, asked(world, service)[0], localid="me.example", remoteid="@.EXAMPLE.com", flags=flags)
    finish(world, app, session_id)
    assert world.records.added == added
    assert bool(world.noted("choice.stored")) is bool(added)


def test_a_choice_is_not_stored_when_the_handshake_fails(world):
    service = register(world, 0)
    app, session_id = ask(world)
    answer(world, service, asked(world, service)[0], localid="me.example", flags=ChoiceFlag.DBINSERT)
    world.say(session_id, HandshakeFailed)
    assert world.error(app)
    assert world.records.added == []


def test_a_choice_is_not_stored_when_the_application_refuses(world):
    service = register(world, 0)
    app, session_id = ask(world)
    answer(world, service, asked(world, service)[0], localid="me.example", flags=ChoiceFlag.DBINSERT)
    world.say(session_id, HandshakeDone, remote_names=("email:john@www.example.com",))
    frame, _ = world.callback(app)
    world.answer(app, frame, cmd=Cmd.ERROR, passed=None)
    assert world.records.added == []


def test_a_database_that_cannot_store_does_not_end_the_session(world):
    service = register(world, 0)
    app, session_id = ask(world)
    answer(world, service, asked(world, service)[0], localid="me.example", flags=ChoiceFlag.DBINSERT)
    world.say(session_id, HandshakeDone, remote_names=("email:john@www.example.com",))
    frame, _ = world.callback(app)
    world.records.broken = PoolError(Code.DATABASE, "full")
    world.answer(app, frame)
    assert world.state(session_id) == "RELAYING"
    assert world.noted("choice.not_stored")


# --- one at a time --------------------------------------------------------------------------------------


def test_sessions_wait_for_the_sequence_of_another(world):
    service = register(world, WANT)
    _, first = ask(world)
    _, second = ask(world)
    assert not world.frames(service)
    frame, _ = asked_again(world, service, first)
    answer(world, service, frame, localid="me.example")
    assert chosen(world, first) == "me.example"
    frame, question = asked(world, service)
    assert question.flags & ChoiceFlag.DBENTRY
    assert world.state(second) == "EXPECT_CHOICE"


def asked_again(world, service, session_id):
    """Go on with a sequence whose first callback was sent by an earlier event."""
    post = next(iter(world.core.chooser._posts.values()))
    assert post.asked.session.session_id == session_id
    payload = Lidentry(flags=WANT).to_payload()
    world.send(service, Cmd.LIDENTRY_CALLBACK, payload, reqid=post.reqid, cbid=post.cbid)
    return inquiry(world, service)


def test_what_was_stored_meanwhile_is_not_asked_again(world):
    world.records.disclosures = {}
    service = register(world, SKIP)
    _, first = ask(world)
    frame, _ = asked(world, service)
    _, second = ask(world)
    world.records.disclosures = {"@.example.com": ["other.example"]}
    answer(world, service, frame, localid="me.example")
    assert (chosen(world, first), chosen(world, second)) == ("me.example", "other.example")


def test_a_missed_deadline_is_the_failure_of_that_session_only(world):
    service = register(world, 0, timeout_s=5)
    _, first = ask(world)
    frame, _ = asked(world, service)
    _, second = ask(world)
    effects = world.later(5_000)
    assert world.state(first) == "OVER"
    assert [note["rule"] for note in world.noted("session.refused")] == ["choice_timeout"]
    assert chosen(world, second) == "me.example"  # as if there were no program
    assert not [effect for effect in effects if getattr(effect, "connection", None) == service]
    _, third = ask(world)
    assert chosen(world, third) == "me.example"
    answer(world, service, frame, localid="other.example")  # swallowed, and the next registration
    assert not world.frames()
    ask(world)
    asked(world, service)


def test_the_deadline_is_one_for_the_whole_sequence(world):
    service = register(world, WANT, timeout_s=5)
    _, session_id = ask(world)
    frame, _ = asked(world, service)
    world.later(4_000)
    answer(world, service, frame)
    frame, entry = asked(world, service)
    assert entry.timeout_s == 1_700_000_005
    world.later(1_000)
    assert world.state(session_id) == "OVER"


def test_the_handshake_timeout_counts(world):
    service = register(world, 0)
    _, session_id = ask(world, timeout_ms=2_000)
    frame, _ = asked(world, service)
    world.later(2_000)
    assert world.state(session_id) == "OVER"
    assert world.noted("session.failed")[0]["rule"] == "handshake_timeout"
    answer(world, service, frame, localid="me.example")
    ask(world)
    asked(world, service)


# --- registration ---------------------------------------------------------------------------------------


def refused(world, service):
    reqid, code, _ = world.error(service)
    return reqid, code


@pytest.mark.parametrize("same", [True, False])
def test_one_registration_of_a_user_at_a_time(world, same):
    service = register(world)
    other = service if same else world.app()
    register(world, app=other, reqid=9)
    assert refused(world, other) == (9, Code.LIDENTRY_TAKEN)
    [frame] = world.frames(other)
    number = ErrorReply.from_payload_untrusted(frame.payload.ljust(380, b"\0")).tlserrno
    assert number == ComErr.LIDENTRY_NOT_VACANT.number
    ask(world)
    asked(world, service)


def test_two_users_have_a_program_each(world):
    register(world)
    register(world, uid=1001)
    assert not world.frames()


def test_while_it_is_asked_it_may_register_again_and_is_asked_anew(world):
    service = register(world, 0)
    _, session_id = ask(world)
    before, _ = asked(world, service)
    register(world, 0, app=service, reqid=3)
    frame, _ = asked(world, service)
    assert (frame.reqid, frame.cbid != before.cbid) == (3, True)
    answer(world, service, before, localid="other.example")
    assert refused(world, service)[1] == Code.COMMAND_UNKNOWN  # that answers nothing any more
    answer(world, service, frame, localid="me.example")
    assert chosen(world, session_id) == "me.example"


def test_while_it_is_asked_others_have_to_wait_for_the_deadline(world):
    register(world, 0, timeout_s=5)
    ask(world)
    other = world.app()
    register(world, app=other)
    assert refused(world, other)[1] == Code.LIDENTRY_TAKEN
    world.later(5_000)
    register(world, 0, app=other)
    assert not world.frames()
    ask(world)
    asked(world, other)


def test_the_program_of_a_late_answer_that_lost_its_post(world):
    service = register(world, 0, timeout_s=5)
    ask(world)
    frame, _ = asked(world, service)
    world.later(5_000)
    other = register(world, 0)
    answer(world, service, frame, localid="me.example")
    assert refused(world, service)[1] == Code.COMMAND_UNKNOWN
    ask(world)
    asked(world, other)


def test_the_connection_ends(world):
    service = register(world, 0)
    _, first = ask(world)
    asked(world, service)
    _, second = ask(world)
    world.gone(service)
    assert world.state(first) == "OVER"
    assert world.noted("session.refused")[0]["rule"] == "choice_refused"
    assert chosen(world, second) == "me.example"
    register(world, 0)  # the post is free at once
    assert not world.frames()


def test_an_error_is_sent_back_and_ends_the_registration(world):
    service = register(world, 0, reqid=0)
    app, _ = ask(world)
    frame, _ = asked(world, service)
    payload = ErrorReply(22, "no more").to_payload()
    answer(world, service, frame, cmd=Cmd.ERROR, payload=payload, reqid=4)
    [bounced] = world.frames(service)
    assert (bounced.reqid, bounced.cbid, bounced.cmd, bounced.payload) == (4, 0, Cmd.ERROR, payload)
    assert world.error(app)[1] == Code.CHOICE_REFUSED
    _, again = ask(world)
    assert chosen(world, again) == "me.example"
    register(world, 0, app=service)
    assert not world.frames()


def test_the_session_is_gone_when_the_answer_comes(world):
    service = register(world, 0)
    app, session_id = ask(world)
    frame, _ = asked(world, service)
    world.gone(app)
    assert world.state(session_id) == "OVER"
    ask(world)
    assert not world.frames(service)
    answer(world, service, frame, localid="me.example")
    asked(world, service)


def test_a_request_under_the_id_of_the_registration_ends_it(world):
    service = register(world, 0, reqid=3)
    world.send(service, Cmd.PING, reqid=3)
    assert [frame.cmd for frame in world.frames(service)] == [Cmd.PING]
    _, session_id = ask(world)
    assert chosen(world, session_id) == "me.example"


def test_an_answer_under_the_id_of_another_request_of_the_connection(world):
    service = register(world, 0, reqid=3)
    waiting = bring(world, "EXPECT_CLIENT_HELLO", service, reqid=8)
    ask(world)
    frame, _ = asked(world, service)
    answer(world, service, frame, reqid=8, localid="me.example")
    assert world.state(waiting) == "EXPECT_END"
    ask(world)
    frame, _ = asked(world, service)
    assert frame.reqid == 8


def test_a_descriptor_with_an_answer_is_closed(world):
    service = register(world, 0)
    ask(world)
    frame, _ = asked(world, service)
    world.send(service, Cmd.LIDENTRY_CALLBACK, frame.payload, reqid=0, cbid=frame.cbid, passed=world.fd())
    assert world.of(DropFd)


def test_the_pool_stops(world):
    service = register(world, 0, reqid=2)
    world.happen(StopAsked())
    assert refused(world, service) == (2, Code.STOPPING)


def test_what_an_operator_sees(world):
    service = register(world, 0)
    ask(world)
    ask(world)
    assert world.core.chooser.describe() == [
        {"service": "lidsel[815]", "uid": 1000, "state": "asked", "waiting": 1},
    ]
    world.gone(service)
    assert world.core.chooser.describe() == []


def test_a_registration_that_is_malformed(world):
    app = world.app()
    world.send(app, Cmd.LIDENTRY_REGISTER, b"\xff" * 380)
    assert refused(world, app)[1] == Code.FIELD_MALFORMED
