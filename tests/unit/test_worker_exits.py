"""Every end of a worker has words."""

import signal

import pytest

from tlspool_worker.exits import _MEANINGS, Exit, meaning


def test_every_code_has_a_meaning_and_keeps_its_number():
    assert set(_MEANINGS) == set(Exit)
    assert {exit.name: exit.value for exit in Exit} == {
        "OK": 0,
        "UNCAUGHT": 1,
        "CHANNEL_BROKEN": 10,
        "BUG": 11,
        "START": 12,
        "PROVIDER": 13,
        "CONFIGURATION": 78,
    }


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "in order"),
        (10, "broke the table"),
        (128 + signal.SIGKILL, "SIGKILL"),
        (-signal.SIGSEGV, "SIGSEGV"),
        (128 + 99, "signal 99"),
        (77, "exit code 77"),
    ],
)
def test_meaning(status, words):
    assert words in meaning(status)
