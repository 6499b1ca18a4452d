"""What one caller may use, by settings and by rules; and tokens that come at a rate."""

from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker.events import Caller
from tlspool_broker.out import Out
from tlspool_broker.quotas import Bucket, Quotas
from tlspool_common.errors import Code
from tlspool_common.settings import parse_untrusted


def quotas(text=""):
    return Quotas(Out(), parse_untrusted(text))


def test_without_rules_the_settings_count():
    settings = parse_untrusted("")
    found = quotas().of(Caller(1, 1, 1))
    assert (found.rule, found.sessions, found.handshakes) == (
        "", settings.max_sessions_per_caller, settings.max_handshakes_per_caller,
    )  # fmt: skip
    assert found.name_of("handshakes") == "max_handshakes_per_caller"
    error = found.reached(Code.TOO_MANY_HANDSHAKES, "handshakes", 1)
    assert (error.code, error.detail) == (Code.TOO_MANY_HANDSHAKES, "max_handshakes_per_caller is 2000, user 1")


def test_the_first_rule_that_applies_decides_and_the_rest_is_left_to_the_settings():
    made = quotas(
        "limit one unit=a@.service sessions=5 rate=3/s\nlimit two group=9 sessions=6\nlimit rest sessions=7 burst=8\n"
    )
    unit = {"unit": "a@x.service"}
    one, two = made.of(Caller(1, 1, 1, **unit, groups=(9,))), made.of(Caller(1, 1, 1, groups=(9,)))
    assert (one.rule, one.sessions, one.rate, one.burst) == ("one", 5, 3, 6)
    assert (two.rule, two.sessions, two.rate) == ("two", 6, 2000)
    assert (one.name_of("burst"), two.name_of("rate")) == ("limit one burst", "handshake_rate_per_caller")
    assert made.of(Caller(1, 1, 1, **unit, certain=False)).rule == "rest", "a process that may be another one"
    assert made.of(Caller(1, 1, 1)).burst == 8


def test_accounts_are_of_a_rule_and_a_user():
    made = quotas("limit one unit=a.service sessions=5\n")
    callers = [Caller(1, 1, 1), Caller(1, 1, 2, unit="a.service"), Caller(2, 2, 3), Caller(2, 2, 4, unit="a.service")]
    accounts = [made.account(caller, made.of(caller)) for caller in callers]
    assert len({id(account) for account in accounts}) == 4
    assert made.account(callers[0], made.of(callers[0])) is accounts[0]
    for number, account in enumerate(accounts):
        account.sessions, account.handshakes = 1, number
    assert made.busiest() is accounts[3]
    assert [(row["uid"], row["rule"]) for row in made.callers()] == [(2, "one"), (2, "-"), (1, "one"), (1, "-")]


@given(
    st.lists(st.integers(0, 3_000), max_size=60),
    st.sampled_from([0.5, 1, 10, 1000]),
    st.integers(1, 20),
)
def test_never_more_than_the_burst_and_the_rate(gaps_ms, rate, burst):
    """In any time there are at most so many as the burst, and what comes meanwhile."""
    bucket, now_ms, taken = Bucket(), 1_000_000, []
    for gap_ms in gaps_ms:
        now_ms += gap_ms
        if bucket.take(now_ms, rate, burst):
            taken.append(now_ms)
    for at, begun in enumerate(taken):
        for count, end in enumerate(taken[at:], 1):
            assert count <= burst + (end - begun) * rate / 1000 + 1e-6
    now_ms += int(burst / rate * 1000) + 1
    assert [bucket.take(now_ms, rate, burst) for _ in range(burst + 1)] == [True] * burst + [False]
