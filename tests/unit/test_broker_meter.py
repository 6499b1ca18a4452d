"""When there is something to do for a session, and what is accounted for."""

import pytest

from tlspool_broker.meter import (
    ANSWER_MS,
    CALLER_GONE,
    CAUSES,
    IDLE_TIMEOUT,
    INTERIM_LEAST_S,
    OPERATOR,
    SESSION_TIMEOUT,
    SPREAD,
    Meter,
    cause_of_end,
    cause_of_failure,
    moved_in,
    record_of,
)
from tlspool_broker.radius_grant import Admission
from tlspool_common.errors import Code
from tlspool_common.messages import EndReason, SessionEnded, Traffic
from tlspool_common.messages_radius import Status

AT_MS = 5_000_000


def access(**fields):
    given = {"rule": "", "acct_id": "ab-1", "attributes": ("User-Name=a@b",), "accounts": True, **fields}
    return Admission(**given)


def meter(**fields):
    return Meter(**{"began_ms": AT_MS, "timed_ms": AT_MS, "active_ms": AT_MS, **fields})


def traffic(**fields):
    numbers = {"from_remote_b": 10, "to_remote_b": 2**40, "from_remote_records": 3, "to_remote_records": 4}
    return Traffic(**{"session_id": 1, **numbers, "idle_ms": 0, **fields})


def test_nothing_to_do():
    assert meter().look_ms(access()) is None


def test_the_first_of_all_that_is_due():
    one = meter()
    assert one.look_ms(access(session_timeout_s=10)) == AT_MS + 10_000
    assert one.look_ms(access(session_timeout_s=10, idle_timeout_s=3)) == AT_MS + 3_000
    one.update_ms = AT_MS + 2_000
    assert one.look_ms(access(session_timeout_s=10, idle_timeout_s=3)) == AT_MS + 2_000


def test_a_worker_that_does_not_answer_is_asked_again_later():
    one = meter(asked_ms=AT_MS + 5_000, update_ms=AT_MS + 5_000)
    assert one.look_ms(access(idle_timeout_s=3)) == AT_MS + 5_000 + ANSWER_MS
    assert one.look_ms(access(session_timeout_s=7)) == AT_MS + 7_000


def test_a_session_that_is_asked_about_is_bounded_by_that():
    one = meter(renews_until_ms=AT_MS + 50_000)
    assert one.timeout_ms(access(session_timeout_s=7)) == AT_MS + 50_000


@pytest.mark.parametrize("interval_s", [60, 600, 86_400])
def test_updates_are_spread(interval_s):
    due = []
    for number in range(1000):
        one = meter()
        one.plan(number, interval_s, AT_MS)
        due.append((one.update_ms - AT_MS) / 1000 / interval_s)
    assert 1 - SPREAD / 2 <= min(due) < 1 - SPREAD / 2 + 0.01
    assert 1 + SPREAD / 2 - 0.01 < max(due) <= 1 + SPREAD / 2
    tenths = [sum(1 for one in due if int((one - 1 + SPREAD / 2) / SPREAD * 10) == tenth) for tenth in range(10)]
    assert min(tenths) > 50


def test_sessions_that_were_found_are_updated_within_an_interval():
    due = []
    for number in range(1000):
        one = meter()
        one.plan(number, 600, AT_MS, found=True)
        due.append((one.update_ms - AT_MS) / 600_000)
    assert 0 <= min(due) < 0.01
    assert 0.99 < max(due) <= 1


def test_updates_have_an_interval_of_their_own():
    one = meter()
    one.plan(1, 1, AT_MS)
    assert one.update_ms >= AT_MS + INTERIM_LEAST_S * 1000 * (1 - SPREAD / 2)
    one.plan(1, 0, AT_MS)
    assert one.update_ms is None


def test_what_an_operator_sees():
    shown = dict(meter().describe(access(session_timeout_s=10, idle_timeout_s=3), AT_MS + 2_500))
    assert shown == {"acct_id": "ab-1", "accounted_s": 2, "session_timeout_left_s": 7, "idle_timeout_left_s": 0}
    shown = dict(meter().describe(access(accounts=False), AT_MS))
    assert shown == {"acct_id": "", "accounted_s": 0, "session_timeout_left_s": None, "idle_timeout_left_s": None}


def test_a_record():
    record = record_of(Status.STOP, access(classes=(b"c",)), 77, 12_999, traffic(), "Idle-Timeout")
    assert (record.status, record.acct_id, record.at_ms, record.session_s) == (Status.STOP, "ab-1", 77, 12)
    assert (record.from_remote_b, record.to_remote_b) == (10, 2**40)
    assert (record.from_remote_records, record.to_remote_records) == (3, 4)
    assert (record.cause, record.classes) == (4, (b"c",))
    assert record.attributes == ("User-Name=a@b", "Acct-Authentic=Local")
    assert not record.has_items


def test_a_record_of_nothing_yet():
    record = record_of(Status.START, access(authn=True, servers=("192.0.2.1:1812",)), -5, -1)
    assert (record.at_ms, record.session_s, record.from_remote_b, record.cause) == (0, 0, 0, 0)
    assert record.attributes[-1] == "Acct-Authentic=RADIUS"


def test_what_was_moved_in_the_end():
    words = SessionEnded(
        session_id=1, reason=EndReason.CLEAN, from_remote_b=10, to_remote_b=2**40, detail="", from_remote_records=3,
        to_remote_records=4, idle_ms=8,
    )  # fmt: skip
    assert moved_in(words) == traffic(idle_ms=8)


@pytest.mark.parametrize("reason", EndReason)
@pytest.mark.parametrize("by", ["", SESSION_TIMEOUT, IDLE_TIMEOUT, CALLER_GONE, OPERATOR, "radius 192.0.2.1:3799"])
def test_each_end_has_its_cause(reason, by):
    assert cause_of_end(reason, by) in CAUSES


@pytest.mark.parametrize(
    ("reason", "by", "cause"),
    [
        (EndReason.CLEAN, "", "User-Request"),
        (EndReason.TRUNCATED, "", "Lost-Carrier"),
        (EndReason.PLAIN_LOST, "", "Lost-Service"),
        (EndReason.ORDERED, SESSION_TIMEOUT, "Session-Timeout"),
        (EndReason.ORDERED, IDLE_TIMEOUT, "Idle-Timeout"),
        (EndReason.ORDERED, CALLER_GONE, "Host-Request"),
        (EndReason.CLEAN, CALLER_GONE, "User-Request"),  # it had ended by the time that it was told to
        (EndReason.TRUNCATED, SESSION_TIMEOUT, "Lost-Carrier"),
        (EndReason.ORDERED, "radius 192.0.2.1", "Admin-Reset"),
        (EndReason.ORDERED, "", "NAS-Request"),
        (EndReason.WORKER_LOST, SESSION_TIMEOUT, "NAS-Error"),
    ],
)
def test_causes(reason, by, cause):
    assert cause_of_end(reason, by) == cause


@pytest.mark.parametrize("code", Code)
def test_each_failure_has_its_cause(code):
    assert cause_of_failure(code) in CAUSES
