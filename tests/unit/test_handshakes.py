"""Threads are made when needed, hold nothing afterwards, and one that fails is no worse than one that works."""

import gc
import select
import threading
import time
import weakref
from dataclasses import replace

import pytest

from tests.fixtures import certs
from tlspool_common.messages import Verdict
from tlspool_worker import handshakes
from tlspool_worker.handshakes import Handshakes, Waiting
from tlspool_worker.shown import Chain, Wire, describe_untrusted


class Step:
    """Stands for a handshake: waits until it is told to go on."""

    def __init__(self, answer):
        self.answer = answer
        self.go = threading.Event()

    def step(self, data):
        assert self.go.wait(10)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer, data


@pytest.fixture
def made(no_leaks):
    found = Handshakes(3)
    yield found
    found.close(5)


def results(handshakes, count):
    found = []
    while len(found) < count:
        assert select.select([handshakes], [], [], 10)[0]
        handshakes.heard()
        found += handshakes.finished()
    return found


def test_as_many_at_once_as_there_are_threads(made):
    steps = [Step(number) for number in range(5)]
    for step in steps:
        made.submit(step, b"data")
    for step in steps[:3]:
        step.go.set()
    assert {result[0] for _, result in results(made, 3)} == {0, 1, 2}
    for step in steps[3:]:
        step.go.set()
    assert {result for _, result in results(made, 2)} == {(3, b"data"), (4, b"data")}
    assert made.finished() == []


def test_threads_are_used_again(made):
    for number in range(4):
        step = Step(number)
        step.go.set()
        made.submit(step, b"")
        results(made, 1)
    assert len(made._threads) == 1


def test_an_exception_comes_back_and_the_thread_lives(made):
    for answer in (ValueError("a bug"), "fine"):
        step = Step(answer)
        step.go.set()
        made.submit(step, b"")
        ((found, result),) = results(made, 1)
        assert found is step
        assert result is answer or result == ("fine", b"")


def test_an_idle_thread_holds_nothing(made):
    step = Step(1)
    step.go.set()
    gone = weakref.ref(step)
    made.submit(step, b"")
    results(made, 1)
    del step
    gc.collect()
    assert gone() is None


def test_a_host_that_gives_no_more_threads(made, monkeypatch):
    """What cannot be done at all fails, the rest is done by those that there are; and the loop goes on."""
    before = threading.stack_size()
    start = threading.Thread.start
    steps = [Step(number) for number in range(4)]
    for step in steps:
        step.go.set()
    monkeypatch.setattr(threading.Thread, "start", lambda _thread: start_new_thread_fails())
    made.submit(steps[0], b"")
    ((found, error),) = results(made, 1)
    assert found is steps[0]
    assert str(error) == "can't start new thread"
    monkeypatch.setattr(threading.Thread, "start", start)
    steps[1].go.clear()
    made.submit(steps[1], b"")
    monkeypatch.setattr(threading.Thread, "start", lambda _thread: start_new_thread_fails())
    made.submit(steps[2], b"")
    steps[1].go.set()
    assert [result[0] for _, result in results(made, 2)] == [1, 2]
    monkeypatch.setattr(threading.Thread, "start", start)
    made.submit(steps[3], b"")
    assert [result[0] for _, result in results(made, 1)] == [3]
    assert threading.stack_size() == before


def start_new_thread_fails():
    raise RuntimeError("can't start new thread")


# --- threads that wait for the broker ---------------------------------------------------------------------


class Asking:
    """Stands for a handshake that asks the broker."""

    def __init__(self, made, number):
        self.made, self.number, self.waiting = made, number, Waiting()

    def step(self, _data):
        shown = replace(SHOWN, session_id=self.number)
        return self.made.ask(self.waiting, shown)


SHOWN = describe_untrusted(Chain(ders=(certs.leaf().der,), anchored=False), Wire())


def until_shown(made, count, done=None):
    found = []
    while len(found) < count:
        assert select.select([made], [], [], 10)[0]
        made.heard()
        found += [shown.session_id for shown in made.shown()]
        finished = made.finished()
        assert done is not None or finished == []
        (done if done is not None else []).extend(finished)
    return found


def verdict(number):
    return Verdict(session_id=number, code=0, detail="")


def test_a_thread_that_asks_gets_its_answer(made):
    asking = Asking(made, 7)
    made.submit(asking, b"")
    assert until_shown(made, 1) == [7]
    asking.waiting.answer(verdict(7))
    assert results(made, 1) == [(asking, verdict(7))]


def test_threads_that_ask_delay_nobody():
    made = Handshakes(1)
    asking = [Asking(made, number) for number in range(5)]
    for one in asking:
        made.submit(one, b"")
    step = Step("fine")
    step.go.set()
    made.submit(step, b"")
    done = []
    assert sorted(until_shown(made, 5, done)) == [0, 1, 2, 3, 4]
    assert (done or results(made, 1)) == [(step, ("fine", b""))]
    assert len(made._threads) == 6
    for one in asking:
        one.waiting.answer(verdict(one.number))
    assert dict(results(made, 5)) == {one: verdict(one.number) for one in asking}
    until_s = time.monotonic() + 10
    while len(made._threads) > 1 and time.monotonic() < until_s:
        time.sleep(0.005)
    assert len(made._threads) == 1  # the others have ended
    made.submit(step, b"again")
    assert results(made, 1) == [(step, ("fine", b"again"))]
    made.close(5)


def test_there_are_bounds_to_that(monkeypatch):
    monkeypatch.setattr(handshakes, "ASKING", 2)
    made = Handshakes(1)
    asking = [Asking(made, number) for number in range(4)]
    for one in asking:
        made.submit(one, b"")
    assert until_shown(made, 3) == [0, 1, 2]
    assert len(made._threads) == 3
    for one in asking:
        one.waiting.let_go()
    assert dict(results(made, 4)) == dict.fromkeys(asking)
    made.close(5)


def test_no_thread_is_overheard(made):
    """One that asks while others are looked at makes the descriptor readable again."""
    first, second = Asking(made, 1), Asking(made, 2)
    made.submit(first, b"")
    assert select.select([made], [], [], 10)[0]
    made.heard()
    assert [shown.session_id for shown in made.shown()] == [1]
    made.submit(second, b"")
    assert select.select([made], [], [], 10)[0]  # between the two looks
    assert made.finished() == []
    assert until_shown(made, 1) == [2]
    for one in (first, second):
        one.waiting.let_go()
    results(made, 2)


def test_a_session_that_ends_lets_its_thread_go(made):
    early, late = Asking(made, 1), Asking(made, 2)
    early.waiting.let_go()  # before it has come to wait
    made.submit(early, b"")
    made.submit(late, b"")
    found = []
    while len(found) < 2:
        assert select.select([made], [], [], 10)[0]
        made.heard()
        if any(shown.session_id == 2 for shown in made.shown()):
            late.waiting.let_go()
        found += made.finished()
    assert dict(found) == {early: None, late: None}


def test_nobody_waits_for_ever(made, monkeypatch):
    monkeypatch.setattr(handshakes, "VERDICT_S", 0.01)
    asking = Asking(made, 1)
    made.submit(asking, b"")
    until_shown(made, 1)
    assert results(made, 1) == [(asking, None)]


def test_threads_that_wait_are_left_behind():
    made = Handshakes(4)
    steps = [Step(number) for number in range(4)]
    for step in steps:
        made.submit(step, b"")
    begun = time.monotonic()
    made.close(0.05)
    assert time.monotonic() - begun < 1
    for step in steps:
        step.go.set()
    made.close(5)


# --- threads that tell the broker themselves --------------------------------------------------------------


class Beside:
    """Stands for the way to the broker; ``verdict`` is there before the thread has come back from sending."""

    def __init__(self, sends=True, verdict=None):
        self.sends, self.verdict, self.sent, self.closed = sends, verdict, [], False

    def send(self, shown):
        if self.verdict is not None:
            self.verdict(shown)
        if self.sends:
            self.sent.append(shown.session_id)
        return self.sends

    def close(self):
        self.closed = True


def readable(made):
    return bool(select.select([made], [], [], 0)[0])


def until(condition):
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_the_loop_is_not_woken_for_what_a_thread_has_said(no_leaks):
    beside = Beside()
    made = Handshakes(1, beside)
    asking = Asking(made, 7)
    made.submit(asking, b"")
    until(lambda: beside.sent)
    assert not readable(made)
    assert asking.waiting.has_told()
    assert not asking.waiting.has_told()  # that is said once
    asking.waiting.answer(verdict(7))
    assert results(made, 1) == [(asking, verdict(7))]
    assert made.shown() == []
    made.close(5)
    assert beside.closed


def test_a_verdict_may_be_there_before_the_thread_knows_that_it_has_asked(no_leaks):
    told = []

    def answer(shown):
        told.append(asking.waiting.has_told())
        asking.waiting.answer(verdict(shown.session_id))

    made = Handshakes(1, Beside(verdict=answer))
    asking = Asking(made, 7)
    made.submit(asking, b"")
    assert results(made, 1) == [(asking, verdict(7))]
    assert (told, asking.waiting.has_told()) == ([True], False)
    made.close(5)


def test_what_the_channel_does_not_take_is_for_the_loop(no_leaks):
    made = Handshakes(1, Beside(sends=False))
    asking = Asking(made, 7)
    made.submit(asking, b"")
    assert until_shown(made, 1) == [7]
    assert not asking.waiting.has_told()
    asking.waiting.answer(verdict(7))
    assert results(made, 1) == [(asking, verdict(7))]
    made.close(5)


def test_nothing_is_said_of_a_session_that_is_over(no_leaks):
    beside = Beside()
    made = Handshakes(1, beside)
    asking = Asking(made, 7)
    asking.waiting.let_go()
    made.submit(asking, b"")
    assert results(made, 1) == [(asking, None)]
    assert (beside.sent, made.shown(), asking.waiting.has_told()) == ([], [], False)
    made.close(5)


def test_the_end_of_a_session_waits_for_what_is_being_said_of_it(no_leaks):
    """What the loop says next must not overtake it."""
    order, sending, go = [], threading.Event(), threading.Event()

    def slowly(_shown):
        sending.set()
        assert go.wait(10)
        order.append("shown")

    made = Handshakes(1, Beside(verdict=slowly))
    asking = Asking(made, 7)
    made.submit(asking, b"")
    assert sending.wait(10)
    loop = threading.Thread(target=lambda: (asking.waiting.let_go(), order.append("ended")))
    loop.start()
    go.set()
    loop.join(10)
    assert order == ["shown", "ended"]
    assert results(made, 1) == [(asking, None)]
    made.close(5)


def test_a_step_that_waits_gets_the_place_of_a_thread_that_asks(no_leaks):
    """It was submitted when there was no other thread to be had, and nothing else wakes the loop."""
    beside, first = Beside(), Step("first")
    made = Handshakes(1, beside)
    made.submit(first, b"")
    asking, last = Asking(made, 7), Step("last")
    made.submit(asking, b"")
    made.submit(last, b"")
    last.go.set()
    first.go.set()
    done = []
    until_s = time.monotonic() + 10
    while len(done) < 2 and time.monotonic() < until_s:
        assert select.select([made], [], [], 10)[0]
        made.heard()
        assert made.shown() == []
        done += made.finished()
    assert [result for _, result in done] == [("first", b""), ("last", b"")]
    assert beside.sent == [7]
    asking.waiting.let_go()
    results(made, 1)
    made.close(5)


def test_an_answer_and_an_end_may_both_come():
    waiting = Waiting()
    waiting.answer(verdict(1))
    waiting.let_go()
    waiting.let_go()
    assert waiting.wait(10) == verdict(1)
