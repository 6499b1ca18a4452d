"""The worker master on a host where much is used up."""

import contextlib
import os
import signal
import socket
import time

import pytest

from tests.fixtures.crowd import crowded, exhausted
from tests.fixtures.loops import Lines
from tlspool_common import control, settings
from tlspool_common.fd import OwnedFd
from tlspool_worker import master_shell
from tlspool_worker.master import StopAsked
from tlspool_worker.master_shell import Master


@pytest.fixture
def master(tmp_path, no_leaks):
    made = Master(settings.parse_untrusted(f"run_dir {tmp_path}"), tmp_path / "tlspool.conf", Lines())
    yield made
    made.close()


def test_a_broker_is_looked_for_although_there_are_many_workers(master):
    """Each is a descriptor, or two, and there may be 4096."""
    life, other = os.pipe()
    with crowded(), OwnedFd(other):
        master._life = OwnedFd(os.dup(life))
        os.close(life)
        master._connect_at_ms = 0
        master._connect_if_due()
        assert master._connect_at_ms > 0  # nobody was there


def test_a_worker_for_which_there_is_no_descriptor(master):
    """It is not forked; all others go on."""
    with exhausted():
        master._carry_out(master._core._fork(1))
    assert [fields for _, event, fields in master._log.lines if event == "worker.fork_failed"] == [
        {"detail": "Too many open files"}
    ]
    assert master._core._forking == 0


def test_an_operator_for_whom_there_is_no_descriptor(master, tmp_path, monkeypatch):
    """Nobody ends for it, nor turns in a circle; it is served when there is one."""
    monkeypatch.setattr(control, "PAUSE_S", 0.2)
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(str(tmp_path / "worker.sock"))
        operator.sendall(b"nothing\n")
        (listener,) = master._control.interests()
        with exhausted():
            master._control.ready(listener)
        assert master._control.interests() == {}
        assert 0 < master._wait_ms() <= 201
        time.sleep(0.2)  # it is a time that is waited for
        assert master._wait_ms() is None
        master._control.ready(*master._control.interests())
        for fd in master._control.filenos()[1:]:
            master._control.ready(fd)
        operator.settimeout(10)
        assert b"known: status" in operator.recv(4096)


def test_more_signals_than_there_is_room_for(master, monkeypatch):
    """Each death of a worker is one."""
    happened = []
    monkeypatch.setattr(master, "_happened", happened.append)
    monkeypatch.setattr(master, "_reap", list)  # children here are others'
    handlers = {number: signal.getsignal(number) for number in master_shell._SIGNALS}
    try:
        master._take_signals()
        with contextlib.suppress(BlockingIOError):
            while True:
                master._wake_write.send(bytes([signal.SIGCHLD]))
        signal.raise_signal(signal.SIGTERM)
        master._signalled()
        assert happened == [StopAsked()]
        master._signalled()
        assert happened == [StopAsked()]
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
