"""Copies of channels: kept, stored, given away, and forgotten when the other end is gone."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.fixtures.living import Store
from tlspool_common.channel import from_fd, raw_pair
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import PROTOCOL, BrokerAway, Party
from tlspool_worker.keeping import Keeping


@pytest.fixture
def store(no_leaks, tmp_path, monkeypatch):
    made = Store(tmp_path / "n")
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    yield made
    made.close()


@pytest.fixture
def keeping(no_leaks):
    made = Keeping()
    yield made
    made.close()


@pytest.fixture
def process(no_leaks):
    """Somebody else's process."""
    made = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield made
    made.kill()
    made.wait()
    made.stdin.close()


def test_a_copy_keeps_the_channel_open_for_another_broker(keeping):
    broker, worker = raw_pair()
    keeping.hold(7, PROTOCOL, broker)
    with worker, keeping.copy(7) as copy:
        os.write(worker.fileno(), b"to a broker that died")
        assert os.read(copy.fileno(), 100) == b"to a broker that died"
        assert os.fstat(copy.fileno()).st_ino == os.fstat(broker.fileno()).st_ino
        assert keeping.over() == []
    assert keeping.over() == [7]
    keeping.forget(7)
    assert (keeping.over(), 7 in keeping, keeping.copy(7)) == ([], False, None)
    keeping.forget(7)


def test_a_channel_that_the_broker_has_shut_is_over(keeping):
    broker, worker = raw_pair()
    with worker, OwnedFd(os.dup(broker.fileno())) as brokers_own:
        keeping.hold(7, PROTOCOL, broker)
        with socket.socket(fileno=os.dup(brokers_own.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
        assert keeping.over() == [7]
        assert os.read(worker.fileno(), 10) == b""


def test_it_speaks_in_place_of_the_broker(keeping):
    broker, worker = raw_pair()
    keeping.hold(7, PROTOCOL, broker)
    channel = from_fd(worker, Party.WORKER, Party.BROKER)
    keeping.tell_away(7)
    with channel.receive() as received:
        assert received.message == BrokerAway()
    assert channel.receive() is None  # and is still open
    keeping.tell_away(8)
    channel.close()
    keeping.tell_away(7)


def test_the_store_has_what_is_kept(store, keeping):
    broker, worker = raw_pair()
    keeping.hold(7, PROTOCOL, broker)
    store.take()
    assert list(store.kept) == [f"worker-7-{PROTOCOL}"]
    worker.close()
    keeping.forget(7)
    store.take()
    assert not store.kept


def test_another_master_takes_it_from_the_store(store, keeping, process):
    broker, worker = raw_pair()
    keeping.hold(process.pid, PROTOCOL, broker)
    store.take()
    inherited = {name: OwnedFd(os.dup(fd.fileno())) for name, fd in store.kept.items()}
    other = Keeping()
    stranger, far = raw_pair()
    assert other.take_stored({**inherited, "something": stranger}) == [(process.pid, PROTOCOL)]
    assert stranger.closed
    with worker, far, other.copy(process.pid) as copy:
        os.write(copy.fileno(), b"x")
        assert os.read(worker.fileno(), 10) == b"x"
    other.close()
    keeping.forget(process.pid)
    store.take()


@pytest.mark.parametrize("gone", ["channel", "process"])
def test_what_has_ended_meanwhile_is_not_taken(store, keeping, process, gone):
    broker, worker = raw_pair()
    name = f"worker-{process.pid}-{PROTOCOL}"
    store.kept[name] = OwnedFd(os.dup(broker.fileno()))
    if gone == "channel":
        worker.close()
    else:
        process.kill()
        process.wait()
    assert keeping.take_stored({name: broker}) == []
    assert broker.closed
    store.take()
    assert not store.kept
    worker.close()


def test_names_of_others_are_none_of_ours(keeping):
    for name in ("worker-0-1", "worker-7", "worker-7-1x", "worker--1", "broker.sock", "worker-99999999999-1"):
        broker, worker = raw_pair()
        with worker:
            assert keeping.take_stored({name: broker}) == []
            assert broker.closed


def test_signals_go_to_workers_of_others_and_to_no_number(keeping, process):
    broker, worker = raw_pair()
    with worker:
        assert not keeping.signal(process.pid, signal.SIGTERM)  # a child of ours is none of its business
        assert keeping.adopt(process.pid, PROTOCOL, broker)
        assert keeping.signal(process.pid, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        assert keeping.signal(process.pid, signal.SIGTERM)  # it has ended, and nobody else is hit
