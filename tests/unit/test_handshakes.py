"""Threads are made when needed, hold nothing afterwards, and one that fails is no worse than one that works."""

import gc
import select
import threading
import time
import weakref

import pytest

from tlspool_worker.handshakes import Handshakes


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
