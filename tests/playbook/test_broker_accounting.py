"""What is accounted for of sessions, and what ends them: from what servers grant to the last record."""

from dataclasses import replace

import pytest

from tests.playbook.broker import kept_of, worlds
from tests.playbook.test_broker_rejoin import lasting
from tlspool_broker import kept, kept_access
from tlspool_broker.accounting import LATE_MS, SOON_MS
from tlspool_broker.events import (
    Clock,
    CloseWorker,
    HelperSaid,
    KillAsked,
    Reconfigured,
    SendHelper,
    SessionId,
    WorkerNumber,
    WorkerSaid,
)
from tlspool_broker.helper import PAUSE_MS
from tlspool_broker.meter import ANSWER_MS, CAUSES, SPREAD, Meter
from tlspool_broker.radius_dynamic import IDLE, MISSING_ATTRIBUTE, NOT_FOUND, TAGS, TIMEOUT
from tlspool_broker.radius_grant import Admission
from tlspool_broker.readings import readings
from tlspool_broker.sessions import END_WAIT_MS
from tlspool_broker.views import describe
from tlspool_common.errors import Code
from tlspool_common.messages import (
    Access,
    Account,
    AccountSettled,
    AskTraffic,
    ClientHelloSeen,
    DynamicAsked,
    DynamicTold,
    EndKept,
    EndReason,
    EndSession,
    HandshakeDone,
    KeepRecord,
    SessionEnded,
    SessionHere,
    SessionsTold,
    TellSessions,
    Traffic,
)
from tlspool_common.messages_radius import Dynamic, Status
from tlspool_common.settings import parse_untrusted

SECRET = "radius_secret_file /etc/tlspool/radius.secrets\n"
ACCT = f"{SECRET}radius_acct 192.0.2.3\n"
AUTHZ = f"{SECRET}radius_authz 192.0.2.1\n"
BOTH = f"{AUTHZ}radius_acct 192.0.2.3\n"
START, STOP, INTERIM = Status.START, Status.STOP, Status.INTERIM


@pytest.fixture
def make(no_leaks):
    yield from worlds(BOTH)


@pytest.fixture
def world(make):
    return make()


def let_in(world, app, **granted):
    """Bring a session to where its START waits to be kept."""
    session_id = world.starttls(app)
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, HandshakeDone, remote_names=("email:john@example.com",), remote_verified=True)
    if world.settings.radius_authz:
        world.radius_says(**granted)
    return session_id


def relaying(world, app=None, **granted):
    app = app or world.app()
    session_id = let_in(world, app, **granted)
    started = world.session(session_id)
    if started.access.accounts and started.meter.waits:
        world.radius_keeps()
    frame, _ = world.callback(app)
    world.radius_keeps()
    world.answer(app, frame)
    assert world.state(session_id) == "RELAYING"
    return session_id


def records(world):
    """Return the records that helpers were given since the last ``radius_keeps``."""
    return [one.message for one in world.asked if isinstance(one.message, Account)]


def given(world):
    """Return the records that a helper was given just now."""
    return [one.message for one in world.effects if isinstance(one, SendHelper) and isinstance(one.message, Account)]


def moves(world, session_id, idle_ms=0, **numbers):
    """Let the worker say what was moved."""
    fields = {"from_remote_b": 5, "to_remote_b": 7, "from_remote_records": 1, "to_remote_records": 2, **numbers}
    return world.say(session_id, Traffic(session_id=session_id, idle_ms=idle_ms, **fields))


def ends(world, session_id, reason=EndReason.CLEAN):
    return world.say(session_id, SessionEnded, reason=reason, from_remote_records=3, to_remote_records=4)


# --- from the start to the end --------------------------------------------------------------------------


def test_a_session(world):
    app = world.app()
    session_id = let_in(world, app, classes=(b"gold",))
    [start] = records(world)
    assert (start.status, start.at_ms, start.session_s) == (START, 1_700_000_000_500, 0)
    assert start.acct_id == world.session(session_id).access.acct_id
    assert start.classes == (b"gold",)
    assert "User-Name=john@example.com" in start.attributes
    assert world.state(session_id) == "EXPECT_RADIUS"
    assert not world.frames(app)
    world.radius_keeps()
    frame, _ = world.callback(app)
    world.answer(app, frame)
    [keep] = world.to_worker(KeepRecord)
    assert keep.accounted
    world.now_ms += 12_345
    world.unix_time_s += 12.345
    ends(world, session_id)
    [stop] = records(world)
    assert (stop.status, stop.acct_id, stop.at_ms, stop.session_s) == (STOP, start.acct_id, 1_700_000_012_845, 12)
    assert (stop.from_remote_b, stop.to_remote_b, stop.from_remote_records, stop.to_remote_records) == (10, 20, 3, 4)
    assert (stop.cause, stop.attributes, stop.classes) == (CAUSES["User-Request"], start.attributes, start.classes)
    assert not world.to_worker(EndKept)
    world.radius_keeps()
    assert world.to_worker(EndKept) == [EndKept(session_id=session_id)]
    assert not len(world.core.accounting)


def test_sessions_that_radius_has_nothing_to_do_with(make):
    world = make(f"{BOTH}radius free authz=no acct=no\n")
    app = world.app()
    session_id = world.relaying(app)
    assert world.session(session_id).meter is None
    [keep] = world.to_worker(KeepRecord)
    assert not keep.accounted
    world.say(session_id, SessionEnded)
    assert records(world) == []
    assert not [timer for timer in world.timers if timer.clock is Clock.ACCOUNTING]


def test_without_accounting_there_are_no_records(make):
    world = make(AUTHZ)
    session_id = relaying(world, session_timeout_s=100)
    assert not world.to_worker(KeepRecord)[0].accounted
    world.later(100_000)
    assert [type(one) for one in world.to_worker()] == [EndSession]
    ends(world, session_id, EndReason.ORDERED)
    assert records(world) == []
    assert not world.to_worker(EndKept)


@pytest.mark.parametrize("code", [Code.ACCOUNT_SPOOL_FULL, Code.ACCOUNT_UNKEPT])
def test_a_start_that_cannot_be_kept(world, code):
    app = world.app()
    let_in(world, app)
    world.radius_keeps(code, "no space left on device")
    assert world.error(app)[1] == code
    assert records(world) == []
    assert not len(world.core.accounting)


def test_by_rule_a_session_does_not_wait_for_its_start(make):
    world = make(f"{BOTH}radius lax unanswered=accept\n")
    app = world.app()
    session_id = let_in(world, app)
    frame, _ = world.callback(app)
    world.radius_keeps(Code.ACCOUNT_SPOOL_FULL)
    world.answer(app, frame)
    ends(world, session_id)
    assert [one.status for one in records(world)] == [STOP]  # there may be room by now


def test_servers_that_are_taken_away_while_a_start_waits(make):
    world = make(ACCT, there=False)
    app = world.app()
    let_in(world, app)
    world.happen(Reconfigured(parse_untrusted("")))
    assert world.error(app)[1] == Code.ACCOUNT_UNKEPT
    assert not len(world.core.accounting)


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("refused", "Host-Request"), ("gone", "Host-Request"), ("late", "Host-Request"), ("killed", "Admin-Reset"),
        ("worker", "NAS-Error"), ("remote", "Lost-Carrier"),
    ],
)  # fmt: skip
def test_a_session_that_fails_after_its_start(world, how, cause):
    app = world.app()
    session_id = let_in(world, app)
    world.radius_keeps()
    frame, _ = world.callback(app)
    match how:
        case "refused":
            world.answer(app, frame, cmd=0x28, passed=None)
        case "gone":
            world.gone(app)
        case "late":
            world.later(world.settings.callback_timeout_s * 1000)
        case "killed":
            world.happen(KillAsked(SessionId(session_id)))
        case "worker":
            world.worker_goes(world.session(session_id).worker.number)
        case "remote":
            ends(world, session_id, EndReason.TRUNCATED)
    [stop] = records(world)
    assert (stop.status, stop.from_remote_b, stop.to_remote_b, stop.cause) == (STOP, 0, 0, CAUSES[cause])
    assert not len(world.core.accounting)


def test_a_session_that_fails_while_its_start_waits(world):
    """The START may be kept yet: so its end is told, too."""
    app = world.app()
    let_in(world, app)
    world.gone(app)
    assert [one.status for one in records(world)] == [START, STOP]
    assert len({one.acct_id for one in records(world)}) == 1
    world.radius_keeps()
    assert not world.frames(app)


@pytest.mark.parametrize("reason", [one for one in EndReason if one is not EndReason.WORKER_LOST])
def test_each_reason_has_its_cause(world, reason):
    session_id = relaying(world)
    ends(world, session_id, reason)
    [stop] = records(world)
    assert stop.cause in CAUSES.values()


def test_who_has_ended_it_counts(world):
    app = world.app()
    session_id = relaying(world, app)
    world.gone(app)
    ends(world, session_id, EndReason.ORDERED)
    assert records(world)[0].cause == CAUSES["Host-Request"]


def test_of_a_dead_worker_s_session_is_told_what_was_known(world):
    session_id = relaying(world, interim_s=60)
    worker = world.session(session_id).worker.number
    world.later(60_000 * (1 + SPREAD))
    moves(world, session_id, from_remote_b=1_000_000)
    world.radius_keeps()
    world.worker_goes(worker)
    [stop] = records(world)
    assert (stop.status, stop.from_remote_b, stop.to_remote_records) == (STOP, 1_000_000, 2)
    assert stop.cause == CAUSES["NAS-Error"]
    world.radius_keeps()
    assert not world.to_worker(EndKept)


def test_of_a_dead_worker_s_session_nothing_may_be_known(world):
    session_id = relaying(world)
    world.worker_goes(world.session(session_id).worker.number)
    assert records(world)[0].from_remote_b == 0


# --- updates --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "granted_s", "interval_s"), [(BOTH, 0, 600), (BOTH, 120, 120), (BOTH, 5, 60)])
def test_updates(make, config, granted_s, interval_s):
    world = make(config)
    session_id = relaying(world, interim_s=granted_s)
    for number in range(1, 4):
        left_ms = world.session(session_id).meter.update_ms - world.now_ms
        assert abs(left_ms / (interval_s * 1000) - 1) <= SPREAD / 2
        world.later(left_ms - 1)
        assert not world.to_worker()
        world.later(1)
        assert world.to_worker() == [AskTraffic(session_id=session_id)]
        moves(world, session_id, from_remote_b=number * 100)
        [update] = given(world)
        assert (update.status, update.from_remote_b) == (INTERIM, number * 100)
        assert update.session_s > number * interval_s * (1 - SPREAD)
        world.radius_keeps()


def test_without_updates(make):
    world = make(f"{BOTH}radius_interim_s 0\n")
    relaying(world)
    assert not [timer for timer in world.timers if timer.clock is Clock.ACCOUNTING]


def test_a_worker_that_does_not_answer_is_asked_again(world):
    session_id = relaying(world, interim_s=60)
    world.later(60_000 * (1 + SPREAD / 2))
    assert world.to_worker(AskTraffic)
    world.later(ANSWER_MS)
    assert world.to_worker(AskTraffic)
    moves(world, session_id)
    assert len(given(world)) == 1
    moves(world, session_id)  # it was asked twice
    assert given(world) == []
    assert world.state(session_id) == "RELAYING"


def test_a_worker_that_tells_what_nobody_asked(world):
    session_id = relaying(world)
    worker = world.session(session_id).worker
    moves(world, session_id)
    assert CloseWorker(worker.number) in world.effects
    assert records(world)[0].cause == CAUSES["NAS-Error"]


def test_a_worker_that_tells_of_another_one_s_session(world):
    session_id = relaying(world, interim_s=60)
    other = next(one for one in world.core.workers if one is not world.session(session_id).worker)
    told = Traffic(
        session_id=session_id, from_remote_b=1, to_remote_b=1, from_remote_records=1, to_remote_records=1, idle_ms=0
    )
    world.say(session_id, told, worker=other.number)
    assert CloseWorker(other.number) in world.effects
    assert world.state(session_id) == "RELAYING"


def test_an_answer_that_crosses_the_end(world):
    session_id = relaying(world, interim_s=60)
    world.later(60_000 * (1 + SPREAD / 2))
    world.happen(KillAsked(SessionId(session_id)))
    moves(world, session_id)
    assert given(world) == []
    assert world.state(session_id) == "EXPECT_END"
    ends(world, session_id, EndReason.ORDERED)
    assert given(world)[0].cause == CAUSES["Admin-Reset"]


# --- timeouts -------------------------------------------------------------------------------------------


def ended_by(world):
    return world.noted("session.end")[-1]["by"]


def test_a_session_timeout(world):
    session_id = relaying(world, session_timeout_s=100)
    world.later(99_999)
    assert world.state(session_id) == "RELAYING"
    world.later(1)
    assert world.to_worker() == [EndSession(session_id=session_id, alert=255)]
    ends(world, session_id, EndReason.ORDERED)
    assert ended_by(world) == "session timeout"
    assert records(world)[-1].cause == CAUSES["Session-Timeout"]


def test_a_session_timeout_that_is_over_before_the_application_has_answered(world):
    app = world.app()
    session_id = let_in(world, app, session_timeout_s=1)
    world.radius_keeps()
    frame, _ = world.callback(app)
    world.later(5_000)
    assert world.state(session_id) == "EXPECT_PLAINTEXT"
    world.answer(app, frame)
    world.later(SOON_MS)
    assert world.state(session_id) == "EXPECT_END"


def test_an_idle_timeout(world):
    session_id = relaying(world, idle_timeout_s=30)
    world.later(30_000)
    assert world.to_worker() == [AskTraffic(session_id=session_id)]
    moves(world, session_id, idle_ms=10_000)
    assert records(world) == []  # no update was due
    world.later(19_999)
    assert not world.to_worker()
    world.later(1)
    assert world.to_worker(AskTraffic)
    moves(world, session_id, idle_ms=30_001)
    assert world.to_worker(EndSession)
    ends(world, session_id, EndReason.ORDERED)
    assert ended_by(world) == "idle timeout"
    assert records(world)[-1].cause == CAUSES["Idle-Timeout"]


def test_a_worker_that_does_not_let_go_of_a_session_whose_time_is_over(world):
    session_id = relaying(world, session_timeout_s=100)
    worker = world.session(session_id).worker.number
    world.later(100_000)
    world.later(END_WAIT_MS + world.settings.signature_wait_s * 1000)
    assert CloseWorker(worker) in world.effects
    assert records(world)[-1].cause == CAUSES["NAS-Error"]


def renewing(world, **granted):
    """A session whose time is over, and that is asked about again."""
    session_id = relaying(world, session_timeout_s=100, terminate=1, state=b"again", **granted)
    before = len(world.access_asked())
    world.later(100_000)
    assert len(world.access_asked()) == before + 1
    assert world.state(session_id) == "RELAYING"
    return session_id


def test_asked_about_again(world):
    session_id = renewing(world, tags=("silver",), classes=(b"old",))
    question = world.access_asked()[-1].message
    acct_id = world.session(session_id).access.acct_id
    assert (question.state, question.password) == (b"again", b"")
    assert {f"Acct-Session-Id={acct_id}", "User-Name=john@example.com"} <= set(question.attributes)
    world.radius_says(session_timeout_s=50, tags=("gold",), classes=(b"new",))
    assert world.session(session_id).tags == ("gold",)
    assert [one.accounted for one in world.to_worker(KeepRecord)] == [True]
    assert world.noted("session.renewed")[0]["goes_on"] is True
    world.later(49_999)
    assert world.state(session_id) == "RELAYING"
    world.later(1)
    assert world.state(session_id) == "EXPECT_END"  # the last answer wants no question any more
    ends(world, session_id, EndReason.ORDERED)
    assert (records(world)[-1].acct_id, records(world)[-1].classes) == (acct_id, (b"new",))


def test_asked_about_again_and_rejected(world):
    session_id = renewing(world)
    world.radius_says(Access.REJECTED, message="enough")
    assert world.to_worker(EndSession)
    assert world.noted("session.renewed")[0]["goes_on"] is False
    ends(world, session_id, EndReason.ORDERED)
    assert records(world)[-1].cause == CAUSES["Session-Timeout"]


@pytest.mark.parametrize("how", ["unanswered", "gone", "hangs"])
@pytest.mark.parametrize(("rule", "state"), [("", "EXPECT_END"), ("radius lax unanswered=accept\n", "RELAYING")])
def test_asked_about_again_and_nobody_answers(make, how, rule, state):
    world = make(BOTH + rule)
    session_id = renewing(world)
    if how == "unanswered":
        world.radius_says(Access.UNANSWERED)
    elif how == "gone":
        world.radius_goes()
        world.later(PAUSE_MS[0])
        assert world.state(session_id) == "RELAYING"
        world.radius_goes()
    else:
        world.later(world.settings.radius_wait_s * 1000 + LATE_MS)
    assert world.state(session_id) == state
    if rule:
        assert world.session(session_id).meter.look_ms(world.session(session_id).access) == world.now_ms + 100_000


def test_asked_about_again_and_the_next_helper_answers(world):
    """With the State once more: where servers are silent, another server gets the same one, too."""
    session_id = renewing(world)
    world.radius_goes()
    world.radius_returns()
    [question] = world.access_asked()
    assert question.message.state == b"again"
    world.radius_says(session_timeout_s=50)
    assert world.noted("session.renewed")[0]["goes_on"] is True
    world.later(49_999)
    assert world.state(session_id) == "RELAYING"
    world.later(1)
    assert world.state(session_id) == "EXPECT_END"


def test_asked_about_again_while_there_is_no_helper(world):
    """It goes on until the next one can have answered, though that is slow to start."""
    session_id = relaying(world, session_timeout_s=100, terminate=1)
    world.later(99_900)
    world.radius_goes()
    world.later(100 + PAUSE_MS[0] + LATE_MS)
    world.radius_comes()
    world.later(world.settings.radius_wait_s * 1000)
    assert world.state(session_id) == "RELAYING"
    world.radius_says(Access.UNANSWERED)
    assert world.state(session_id) == "EXPECT_END"


def test_asked_about_again_and_over_meanwhile(world):
    session_id = renewing(world)
    ends(world, session_id)
    world.radius_says()
    assert world.state(session_id) == "OVER"
    assert [one.status for one in records(world)].count(STOP) == 1


def test_updates_go_on_while_a_session_is_asked_about(world):
    session_id = relaying(world, session_timeout_s=50, terminate=1, interim_s=60)
    world.later(50_000)
    world.radius_says(session_timeout_s=50, terminate=1, interim_s=60)
    world.later(16_000)
    assert world.to_worker(AskTraffic)
    moves(world, session_id)
    assert [one.status for one in given(world)] == [INTERIM]


# --- helpers and brokers that come and go ----------------------------------------------------------------


def settled(world):
    return [
        one.message for one in world.effects if isinstance(one, SendHelper) and isinstance(one.message, AccountSettled)
    ]


def test_a_helper_is_told_that_there_is_nothing_else(make):
    world = make(there=False, workers=0)
    world.radius_comes()
    assert not settled(world)  # the master may introduce workers yet
    assert any(isinstance(one.message, AccountSettled) for one in world.later(1000) if isinstance(one, SendHelper))


def test_without_a_master_nobody_knows(make):
    world = make(workers=None)
    world.later(100_000)
    assert not any(isinstance(one.message, AccountSettled) for one in world.asked)


def test_another_helper_hears_of_everything(world):
    world.later(1000)
    one, other = relaying(world), relaying(world)
    app = world.app()
    let_in(world, app)
    waits = world.core.accounting
    starting = [session.session_id for session in waits if session.meter.waits]
    ends(world, other)
    world.radius_goes()
    world.later(PAUSE_MS[0])
    world.asked.clear()
    world.radius_comes()
    ids = {number: world.session(number).access.acct_id for number in (one, *starting)}
    told = [(record.status, record.acct_id) for record in records(world)]
    assert (START, ids[one]) in told
    assert told.count((START, ids[starting[0]])) == 1
    assert [status for status, _ in told].count(STOP) == 1
    assert isinstance(world.asked[-1].message, AccountSettled)
    world.radius_keeps()
    assert world.callback(app)


def grant(session_id, **fields):
    access = Admission("mail", f"0A-{session_id}", ("User-Name=john@example.com",), True, classes=(b"c",))
    return replace(access, **fields)


def kept_with(session_id, worker_id, access, meter):
    class Fake:
        pass

    fake = Fake()
    fake.access, fake.meter = access, meter
    return kept_of(session_id, worker_id, access=kept_access.to_bytes(fake))


FOUND = Meter(began_ms=900_000, timed_ms=900_000, active_ms=950_000)


def rejoined(make, access, *, there=True, config=BOTH, **fields):
    """A broker that finds a worker with one session; return the world and its number."""
    world = make(config, there=there, lasting=lasting(1001), workers=0, **fields)
    key = world.core.rejoin._lasting.key("records")
    worker = world.worker_comes_again(7)
    [asked] = world.to_worker(TellSessions)
    sealed = kept.seal(key, kept_with(5, 7, access, FOUND))
    tell(world, worker, SessionHere(nonce=asked.nonce, session_id=5, record=sealed))
    return world, worker, asked


def tell(world, worker, message):
    return world.happen(WorkerSaid(WorkerNumber(worker), message))


@pytest.mark.parametrize("there", [True, False])
def test_the_next_broker_goes_on(make, there):
    world, worker, asked = rejoined(make, grant(5, session_timeout_s=300), there=there)
    if not there:
        assert records(world) == []
        world.radius_comes()
    [start] = records(world)
    assert (start.status, start.acct_id) == (START, "0A-5")
    assert start.at_ms == 1_700_000_000_500 - 100_000  # when it was
    world.later(1_000)
    assert not any(isinstance(one.message, AccountSettled) for one in world.asked)
    tell(world, worker, SessionsTold(nonce=asked.nonce, last=5, more=False))
    assert isinstance(world.asked[-1].message, AccountSettled)
    world.radius_keeps()
    world.later(198_999)
    assert world.state(5) == "RELAYING"
    world.later(1)
    assert world.state(5) == "EXPECT_END"
    ends(world, 5, EndReason.ORDERED)
    [stop] = records(world)
    assert (stop.status, stop.session_s, stop.classes) == (STOP, 300, (b"c",))
    assert not world.of(CloseWorker)  # it has had no other session, and has to hold the end of this one
    world.radius_keeps()
    assert world.to_worker(EndKept) == [EndKept(session_id=5)]
    assert world.of(CloseWorker) == [CloseWorker(worker)]


def test_nobody_is_there_any_more_to_keep_an_end(make):
    world, worker, asked = rejoined(make, grant(5))
    tell(world, worker, SessionsTold(nonce=asked.nonce, last=5, more=False))
    ends(world, 5)
    world.happen(Reconfigured(parse_untrusted("")))
    assert world.to_worker(EndKept) == [EndKept(session_id=5)]
    assert world.of(CloseWorker) == [CloseWorker(worker)]


def test_an_end_when_there_are_no_servers_any_more(world):
    session_id = relaying(world)
    world.happen(Reconfigured(parse_untrusted("")))
    ends(world, session_id)
    assert world.to_worker(EndKept) == [EndKept(session_id=session_id)]


def test_the_next_broker_hears_of_an_end(make):
    world, worker, _ = rejoined(make, grant(5))
    ended = SessionEnded(session_id=5, reason=EndReason.CLEAN, from_remote_b=10, to_remote_b=20, detail="")
    tell(world, worker, ended)
    assert [(one.status, one.acct_id, one.from_remote_b) for one in records(world)] == [
        (START, "0A-5", 0),
        (STOP, "0A-5", 10),
    ]
    world.radius_keeps()
    assert world.to_worker(EndKept) == [EndKept(session_id=5)]


def test_the_next_broker_asks_for_an_update_within_an_interval(make):
    world, worker, asked = rejoined(make, grant(5, interim_s=600))
    tell(world, worker, SessionsTold(nonce=asked.nonce, last=5, more=False))
    world.radius_keeps()
    assert AskTraffic(session_id=5) in [one.message for one in world.later(600_000) if hasattr(one, "message")]
    moves(world, 5)
    assert given(world)[0].session_s >= 100


def test_an_idle_timeout_goes_on_from_what_was_known(make):
    world, worker, asked = rejoined(make, grant(5, idle_timeout_s=60))
    tell(world, worker, SessionsTold(nonce=asked.nonce, last=5, more=False))
    world.later(10_000)
    assert AskTraffic(session_id=5) in world.to_worker()


def test_a_worker_that_dies_before_it_has_told_holds_nobody_up(make):
    world, worker, _ = rejoined(make, grant(5))
    world.later(1_000)
    world.worker_goes(worker)
    assert any(isinstance(one.message, AccountSettled) for one in world.asked)
    assert [one.status for one in records(world)] == [START, STOP]


# --- servers that want something -------------------------------------------------------------------------


def dynamic(world, kind=Dynamic.DISCONNECT, *, acct_id="", attributes=(), changes=0, timeout=0, idle=0, tags=()):
    """A server asks; return what it is told."""
    asked = DynamicAsked(
        dynamic=kind, server="192.0.2.9", acct_id=acct_id, attributes=attributes, changes=changes,
        session_timeout_s=timeout, idle_timeout_s=idle, tags=tags,
    )  # fmt: skip
    world.happen(HelperSaid(world.radius, 99, asked))
    [told] = [one for one in world.effects if isinstance(one, SendHelper) and isinstance(one.message, DynamicTold)]
    assert told.exchange == 99
    return told.message


def told(sessions, cause=0):
    return DynamicTold(sessions=sessions, error_cause=cause)


def test_disconnect_by_id(world):
    one, other = relaying(world), relaying(world)
    acct_id = world.session(one).access.acct_id
    assert dynamic(world, acct_id=acct_id) == told(1)
    assert (world.state(one), world.state(other)) == ("EXPECT_END", "RELAYING")
    assert world.noted("radius.disconnect")[0]["acct_id"] == acct_id
    ends(world, one, EndReason.ORDERED)
    assert ended_by(world) == "radius 192.0.2.9"
    assert records(world)[-1].cause == CAUSES["Admin-Reset"]
    assert dynamic(world, acct_id=acct_id) == told(0, NOT_FOUND)


def test_disconnect_by_name(world):
    both = [relaying(world), relaying(world)]
    assert dynamic(world, attributes=("User-Name=jane@example.com",)) == told(0, NOT_FOUND)
    assert dynamic(world, attributes=("User-Name=john@example.com", "NAS-Identifier=other")) == told(0, NOT_FOUND)
    assert dynamic(world, attributes=("User-Name=john@example.com", "NAS-Identifier=localhost")) == told(2)
    assert [world.state(one) for one in both] == ["EXPECT_END"] * 2


def test_all_that_is_named_must_match(world):
    session_id = relaying(world)
    acct_id = world.session(session_id).access.acct_id
    assert dynamic(world, acct_id=acct_id, attributes=("User-Name=jane@example.com",)) == told(0, NOT_FOUND)
    assert dynamic(world, acct_id=f"{acct_id}0", attributes=("User-Name=john@example.com",)) == told(0, NOT_FOUND)
    assert world.state(session_id) == "RELAYING"


@pytest.mark.parametrize("attributes", [(), ("NAS-Identifier=localhost",)])
def test_a_request_that_names_no_session_is_for_none(world, attributes):
    session_id = relaying(world)
    assert dynamic(world, attributes=attributes) == told(0, MISSING_ATTRIBUTE)
    assert world.state(session_id) == "RELAYING"


def test_disconnect_of_a_session_that_is_not_accounted_for(make):
    world = make(AUTHZ)
    session_id = relaying(world)
    assert dynamic(world, attributes=("User-Name=john@example.com",)) == told(1)
    assert world.state(session_id) == "EXPECT_END"


def test_disconnect_of_a_session_that_is_being_set_up(world):
    app = world.app()
    session_id = let_in(world, app)
    assert dynamic(world, acct_id=world.session(session_id).access.acct_id) == told(1)
    assert world.error(app)[1] == Code.SESSION_KILLED
    assert [one.status for one in records(world)] == [START, STOP]


def test_change_of_timeouts_and_tags(world):
    session_id = relaying(world, session_timeout_s=1000, tags=("silver",))
    acct_id = world.session(session_id).access.acct_id
    world.later(50_000)
    assert dynamic(world, Dynamic.CHANGE, acct_id=acct_id, changes=TIMEOUT, timeout=20, tags=("no",)) == told(1)
    assert len(world.to_worker(KeepRecord)) == 1
    access = world.session(session_id).access
    assert (access.session_timeout_s, access.tags, access.acct_id) == (20, ("silver",), acct_id)
    assert dynamic(world, Dynamic.CHANGE, acct_id=acct_id, changes=TAGS | IDLE, tags=("gold",), idle=5) == told(1)
    access = world.session(session_id).access
    assert (access.session_timeout_s, access.idle_timeout_s, access.tags) == (20, 5, ("gold",))
    assert AskTraffic(session_id=session_id) in [one.message for one in world.later(5_000) if hasattr(one, "message")]
    moves(world, session_id)
    world.later(14_999)
    assert world.state(session_id) == "RELAYING"
    world.later(1)
    assert world.state(session_id) == "EXPECT_END"
    assert [one["tags"] for one in world.noted("radius.change")] == ["silver", "gold"]


def test_change_takes_a_timeout_away(world):
    session_id = relaying(world, session_timeout_s=100)
    dynamic(world, Dynamic.CHANGE, acct_id=world.session(session_id).access.acct_id, changes=TIMEOUT)
    world.later(1_000_000)
    assert world.state(session_id) == "RELAYING"


def test_a_change_of_nothing(world):
    session_id = relaying(world)
    acct_id = world.session(session_id).access.acct_id
    assert dynamic(world, Dynamic.CHANGE, acct_id=acct_id) == told(0, MISSING_ATTRIBUTE)
    assert dynamic(world, Dynamic.CHANGE, acct_id=acct_id, changes=8) == told(0, MISSING_ATTRIBUTE)


# --- what an operator sees -------------------------------------------------------------------------------


def test_a_session_is_shown_with_what_is_left(world):
    session_id = relaying(world, session_timeout_s=100, idle_timeout_s=30, tags=("gold",))
    world.now_ms += 12_000
    shown = describe(world.session(session_id), world.now_ms)
    assert shown["acct_id"] == world.session(session_id).access.acct_id
    assert (shown["accounted_s"], shown["session_timeout_left_s"], shown["idle_timeout_left_s"]) == (12, 88, 18)
    assert shown["tags"] == ["gold"]


def test_what_is_counted(world):
    sessions = [relaying(world) for _ in range(2)]
    ends(world, sessions[0])
    world.radius_keeps()
    let_in(world, world.app())
    world.radius_keeps(Code.ACCOUNT_SPOOL_FULL)
    numbers = {name: value for name, labels, value in readings(world.core, Databases()) if not labels}
    assert numbers["tlspool_radius_sessions"] == 1
    told = [(labels, value) for name, labels, value in readings(world.core, Databases()) if name == TOLD]
    assert [(labels, count) for labels, count in told if count] == [
        ({"status": "start", "kept": "kept"}, 2),
        ({"status": "start", "kept": "refused"}, 1),
        ({"status": "stop", "kept": "kept"}, 1),
    ]


class Databases:
    generation = trust_generation = oldest = 0


TOLD = "tlspool_radius_records_told"


# --- many ------------------------------------------------------------------------------------------------


def test_updates_of_many_do_not_come_at_once(make):
    world = make(f"{BOTH}max_sessions 5000\nmax_sessions_per_caller 5000\n")
    app = world.app()
    for _ in range(300):
        relaying(world, app, interim_s=100)
        world.radius_keeps()
    dues = sorted(session.meter.update_ms for session in world.core.accounting)
    assert dues[-1] - dues[0] > 15_000
    assert max(sum(1 for one in dues if at <= one < at + 1_000) for at in range(int(dues[0]), int(dues[-1]))) < 60
