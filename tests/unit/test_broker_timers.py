"""Timers fire when they are due and not otherwise, and what was disarmed costs the loop nothing."""

import random

from tests.fixtures.loops import on_loop, until
from tlspool_broker import timers
from tlspool_broker.events import Clock, Timer
from tlspool_broker.timers import Timers


def session(number):
    return Timer(Clock.SESSION, number)


class Fake:
    """A loop whose time is the test's."""

    class Handle:
        def __init__(self, at, call):
            self.at, self.call = at, call
            self.cancelled = False

        def cancel(self):
            self.cancelled = True

    def __init__(self):
        self.now = 100.0
        self.handles = []
        self.calls = 0

    def time(self):
        return self.now

    def call_at(self, at, call):
        self.handles.append(self.Handle(at, call))
        self.calls += 1
        return self.handles[-1]

    @property
    def waiting(self):
        self.handles = [handle for handle in self.handles if not handle.cancelled]
        return self.handles

    def until(self, now):
        while due := [handle for handle in self.waiting if handle.at <= now]:
            first = min(due, key=lambda handle: handle.at)
            self.handles.remove(first)
            self.now = max(self.now, first.at)
            first.call()
        self.now = now


def made(monkeypatch):
    loop, fired = Fake(), []
    monkeypatch.setattr(timers.asyncio, "get_running_loop", lambda: loop)
    return loop, fired, Timers(lambda timer: fired.append((timer.number, loop.now)))


def test_each_fires_once_at_its_time(monkeypatch):
    loop, fired, found = made(monkeypatch)
    for number, delay_ms in ((1, 500), (2, 100), (3, 300)):
        found.arm(session(number), delay_ms)
    loop.until(200)
    assert fired == [(2, 100.1), (3, 100.3), (1, 100.5)]
    assert not loop.waiting
    assert len(found) == 0


def test_what_was_disarmed_does_not_fire(monkeypatch):
    loop, fired, found = made(monkeypatch)
    found.arm(session(1), 100)
    found.arm(session(2), 200)
    found.disarm(session(1))
    found.disarm(session(3))
    found.arm(session(1), 50)
    found.disarm(session(1))
    loop.until(200)
    assert fired == [(2, 100.2)]


def test_armed_anew_counts_from_then(monkeypatch):
    loop, fired, found = made(monkeypatch)
    found.arm(session(1), 100)
    found.arm(session(1), 400)  # later
    found.arm(session(2), 900)
    found.arm(session(2), 200)  # sooner
    loop.until(200)
    assert fired == [(2, 100.2), (1, 100.4)]


def test_one_that_fires_may_disarm_another_or_arm_itself(monkeypatch):
    loop, _, found = made(monkeypatch)
    fired = []

    def fire(timer):
        fired.append(timer.number)
        if timer.number == 1:
            found.disarm(session(2))
            if len(fired) < 3:
                found.arm(session(1), 100)

    found._fired = fire
    found.arm(session(1), 100)
    found.arm(session(2), 100)
    loop.until(200)
    assert fired == [1, 1, 1]


def test_a_timer_that_is_always_disarmed_keeps_neither_memory_nor_the_loop_busy(monkeypatch):
    loop, fired, found = made(monkeypatch)
    for number in range(100_000):
        found.arm(session(number), 30_000)
        found.arm(session(number), 29_000)
        found.disarm(session(number))
        loop.until(loop.now + 0.001)
    assert len(found._heap) <= 2 * timers._STALE
    assert len(found._looks) <= 2 * timers._STALE
    assert loop.calls < 1000
    loop.until(1e6)
    assert not fired
    assert not loop.waiting


def test_against_a_simple_one(monkeypatch):
    """Whatever is armed and disarmed in any order: the same fires at the same times as with a dictionary."""
    monkeypatch.setattr(timers, "_STALE", 8)
    chance = random.Random(7)
    loop, fired, found = made(monkeypatch)
    due, expected = {}, []
    for _ in range(5000):
        number = chance.randrange(30)
        if chance.random() < 0.6:
            delay_ms = chance.randrange(2000)
            found.arm(session(number), delay_ms)
            due[number] = loop.now + delay_ms / 1000
        elif chance.random() < 0.8:
            found.disarm(session(number))
            due.pop(number, None)
        else:
            loop.until(loop.now + chance.random())
            late = sorted((at, one) for one, at in due.items() if at <= loop.now)
            expected += [(one, at) for at, one in late]
            for _, one in late:
                del due[one]
        assert len(found) == len(due)
    assert len(expected) > 500
    assert sorted(fired, key=lambda one: (one[1], one[0])) == sorted(expected, key=lambda one: (one[1], one[0]))


@on_loop
async def test_on_a_real_loop():
    fired = []
    found = Timers(fired.append)
    found.arm(session(1), 10)
    found.arm(Timer(Clock.SPAWN), 0)
    await until(lambda: len(fired) == 2)
    assert fired == [Timer(Clock.SPAWN), session(1)]
    found.arm(session(2), 0)
    found.close()
    found.arm(session(3), 0)
    await until(lambda: len(fired) == 3)
    assert fired[2] == session(3)
