"""The looker: a process that reads one link for the broker, and nothing that it does can stop the broker."""

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import children
from tlspool_broker import looker
from tlspool_common.sandbox_seccomp import Verdict

OURS = os.path.realpath("/proc/self/exe")


@pytest.fixture
def process(no_leaks, monkeypatch):
    monkeypatch.setattr(looker, "_WAIT_S", 5.0)
    before = children()
    with looker.started():
        (pid,) = children() - before
        yield pid


def test_without_it():
    assert looker.program(os.getpid()) == OURS
    assert looker.program(2**22 + 1) == ""


def test_with_it(process):
    assert looker.program(os.getpid()) == OURS
    assert looker.program(2**22 + 1) == ""  # there is no such process
    assert looker.program(process) == OURS
    status = Path(f"/proc/{process}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert {int(one.name) for one in Path(f"/proc/{process}/fd").iterdir()} - {2} != set()
    assert len(list(Path(f"/proc/{process}/fd").iterdir())) == 2


def test_one_that_has_died(process):
    os.kill(process, signal.SIGKILL)
    assert looker.program(os.getpid()) == ""
    assert looker.program(os.getpid()) == ""


def test_one_that_hangs(process, monkeypatch):
    os.kill(process, signal.SIGSTOP)
    looker._State.line.settimeout(0.05)
    assert looker.program(os.getpid()) == ""
    os.kill(process, signal.SIGCONT)
    assert looker.program(os.getpid()) == ""  # its late answer is nobody's


def test_signals_for_the_whole_group_are_not_for_it(process):
    assert looker.program(os.getpid()) == OURS  # so it has begun
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process, number)
    assert looker.program(os.getpid()) == OURS


def test_it_has_no_call_that_opens_anything():
    allowed = {rule.call for rule in looker.calls() if rule.verdict is Verdict.ALLOW}
    assert not allowed & {
        "open",
        "openat",
        "openat2",
        "socket",
        "connect",
        "execve",
        "clone",
        "fork",
        "kill",
        "sendmsg",
    }
