"""What happened in the last minute: rings that forget, callers that are counted, and how late the loop is."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker import loads as module
from tlspool_broker.events import Began, Caller
from tlspool_broker.loads import Lag, Loads

WHO = {"uid": 1000, "caller": "postfix.service[815]"}


class Clock:
    def __init__(self):
        self.ms = 5_000_000

    def __call__(self):
        return self.ms


@pytest.fixture
def made():
    clock = Clock()
    return clock, Loads(clock)


def test_rates_are_of_the_last_minute(made):
    clock, loads = made
    for _ in range(120):
        loads.saw(Began())
        loads.noted("session.start", WHO)
        clock.ms += 1000
    told = loads.describe()
    assert told["window_s"] == 60
    assert told["established_per_s"] == pytest.approx(1, abs=0.05)
    assert told["outcomes"]["established"] in (59, 60)
    clock.ms += 61_000
    told = loads.describe()
    assert told["events_per_s"] == told["outcomes"]["established"] == 0


def test_a_young_broker_does_not_look_idle(made):
    clock, loads = made
    for _ in range(20):
        loads.saw(Began())
    clock.ms += 2_000
    assert loads.describe()["events_per_s"] == 10


def test_callers(made):
    _, loads = made
    loads.asked(Caller(1000, 1000, 815, "postfix.service"))
    loads.noted("session.refused", {**WHO, "code": 402})
    loads.noted("session.refused", {**WHO, "caller": "postfix.service[816]?", "code": 406})
    loads.noted("session.end", {**WHO, "from_remote_b": 10, "to_remote_b": 20})
    loads.noted("worker.lost", {"worker": 1})
    [(key, tally)] = loads.callers.items()
    assert key == (1000, "postfix.service")
    assert (tally.requests, tally.refused, tally.ended, tally.last_code) == (1, 2, 1, 406)
    assert loads.describe()["ended_bytes"] == {"from_remote_b": 10, "to_remote_b": 20}


def test_callers_are_bounded(made, monkeypatch):
    monkeypatch.setattr(module, "CALLERS", 3)
    _, loads = made
    for number in range(10):
        loads.noted("session.start", {"uid": number, "caller": "x[1]"})
        loads.noted("session.start", {"uid": 0, "caller": "x[1]"})
    assert [key[0] for key in loads.callers] == [8, 9, 0]


def test_lag(made):
    clock, loads = made
    for lag in range(100):
        loads.lagged(float(lag))
    assert loads.describe()["lag_ms"] == {"p50": 50.0, "p99": 99.0, "max": 99.0}
    clock.ms += 61_000
    assert loads.describe()["lag_ms"] == {"p50": 0.0, "p99": 0.0, "max": 0.0}


def test_a_loop_that_is_held_up_is_seen():
    async def held_up():
        loads = Loads()
        lag = Lag(loads)
        await asyncio.sleep(module.LOOK_S * 1.2)
        time.sleep(module.LOOK_S * 2)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(module.LOOK_S * 1.2)
        lag.close()
        return loads.describe()["lag_ms"]["max"]

    assert asyncio.run(held_up()) >= module.LOOK_S * 500


@given(st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 5)), max_size=60))
def test_nothing_is_counted_twice_or_kept_too_long(steps):
    clock = Clock()
    loads = Loads(clock)
    events = []
    for pause_ms, count in steps:
        clock.ms += pause_ms
        events += [clock.ms // 1000] * count
        for _ in range(count):
            loads.saw(Began())
    oldest = clock.ms // 1000 - module.WINDOW_S
    assert loads.totals()["events"] == sum(second > oldest for second in events)
