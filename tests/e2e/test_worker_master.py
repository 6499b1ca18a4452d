"""A real worker master, with the test in the broker's place."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.native import ROOT
from tlspool_admin.client import ask
from tlspool_common.channel import Channel, ChannelClosed, from_fd, raw_pair
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    PROTOCOL,
    KeepChannel,
    MasterHello,
    MasterLeaves,
    Party,
    RetireWorker,
    SpawnWorkers,
    Welcome,
    WorkerBorn,
    WorkerGone,
)
from tlspool_worker.exits import Exit


def readable(fd, seconds=15):
    return bool(select.select([fd], [], [], seconds)[0])


class Broker:
    """A listener where the broker's would be, and one master's connection to it."""

    def __init__(self, run_dir: Path):
        self.path = run_dir / "private" / "broker.sock"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.listener = None
        self.channel = None
        self.workers = {}

    def listen(self):
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        self.listener.listen()

    def accept(self):
        assert readable(self.listener)
        sock, _ = self.listener.accept()
        self.channel = Channel(sock, Party.BROKER, Party.MASTER)
        return self.next(MasterHello)

    def next(self, kind):
        """Return the next message, which must be of this kind; adopt a worker that comes along."""
        while (received := self.channel.receive()) is None:
            assert readable(self.channel), f"no {kind.__name__} came"
        with received:
            assert isinstance(received.message, kind), received.message
            if kind is WorkerBorn:
                if older := self.workers.pop(received.message.worker_id, None):
                    older.close()
                self.workers[received.message.worker_id] = from_fd(received.take_fd(), Party.BROKER, Party.WORKER)
            return received.message

    def welcome(self):
        """Take the master; return what says that we live."""
        ours, theirs = raw_pair()
        self.channel.send(Welcome(), fd=theirs)
        return ours

    def born_anew(self, count):
        """Return so many workers that no broker had; those that one had may still be introduced, or have ended."""
        found = []
        while len(found) < count:
            worker = self.next(WorkerBorn)
            if not worker.again:
                found.append(worker)
        return found

    def lose(self):
        """Die as a broker does: everything closes at once."""
        self.listener.close()
        self.path.unlink(missing_ok=True)
        for channel in [self.channel, *self.workers.values()]:
            if channel is not None:
                channel.close()
        self.channel, self.workers = None, {}


@pytest.fixture
def run_dir(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


@pytest.fixture
def broker(run_dir):
    made = Broker(run_dir)
    made.listen()
    yield made
    made.lose()


class Process:
    def __init__(self, tmp_path, run_dir, *lines, cwd=ROOT):
        (tmp_path / "conf").write_text("\n".join([f"run_dir {run_dir}", "workers 2", "log_level debug", *lines, ""]))
        self.log_path = tmp_path / "log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tlspool_worker", "--config", str(tmp_path / "conf")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
            )

    @property
    def log(self):
        return self.log_path.read_text()

    def end(self):
        self.process.terminate()
        return self.process.wait(15)


@pytest.fixture
def master(tmp_path, run_dir):
    made = []

    def start(*lines, **options):
        made.append(Process(tmp_path, run_dir, *lines, **options))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.end()


def ended(pid, seconds=15):
    """Wait for the end of a process that is nobody's child of ours."""
    try:
        pid_fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return readable(pid_fd, seconds)
    finally:
        os.close(pid_fd)


def test_it_introduces_itself_and_its_workers(broker, master, no_leaks):
    process = master()
    hello = broker.accept()
    assert hello.pid == process.process.pid
    born = [broker.next(WorkerBorn) for _ in range(2)]
    for worker in born:
        assert (worker.worker_id, worker.again) == (worker.pid, False)
        parent = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) == process.process.pid
    broker.channel.send(SpawnWorkers(count=3))
    more = [broker.next(WorkerBorn).worker_id for _ in range(3)]
    assert len({*more, *(worker.worker_id for worker in born)}) == 5
    assert process.end() == 0
    broker.lose()
    broker.listen()


def test_workers_have_no_descriptor_of_the_master_or_of_each_other(broker, master):
    master()
    broker.accept()
    born = [broker.next(WorkerBorn) for _ in range(2)]
    broker.channel.send(SpawnWorkers(count=1))
    born.append(broker.next(WorkerBorn))

    def sockets(pid):
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        return {link for link in links if link.startswith("socket:")}

    # A worker answers nothing before it is told something, so wait until each has settled into its loop.
    for channel in broker.workers.values():
        assert not readable(channel, 0.2)
    mine = [sockets(worker.pid) for worker in born]
    assert all(not mine[i] & mine[j] for i in range(3) for j in range(i))
    assert all(not one & sockets(os.getppid()) for one in mine)


def test_how_workers_end_is_told(broker, master):
    process = master()
    broker.accept()
    first, second = (broker.next(WorkerBorn) for _ in range(2))
    os.kill(first.pid, signal.SIGKILL)
    gone = broker.next(WorkerGone)
    assert (gone.worker_id, gone.status) == (first.worker_id, 137)
    assert "SIGKILL" in gone.meaning
    broker.channel.send(RetireWorker(worker_id=second.worker_id, kill=False))
    gone = broker.next(WorkerGone)
    assert (gone.worker_id, gone.status) == (second.worker_id, Exit.OK)
    status = ask(broker.path.parent.parent / "worker.sock", {"cmd": "status"})
    assert status["workers"] == []
    assert sum(status["ended"].values()) == 2
    assert process.process.poll() is None


def test_a_worker_ends_with_a_broker_that_breaks_the_table(broker, master):
    master()
    broker.accept()
    born = [broker.next(WorkerBorn) for _ in range(2)]
    raw = broker.workers[born[0].worker_id]
    raw._sock.send(b"\xff\xff\0\0\0\0")
    gone = broker.next(WorkerGone)
    assert (gone.worker_id, gone.status) == (born[0].worker_id, Exit.CHANNEL_BROKEN)


def test_the_broker_goes_and_comes_back(broker, master):
    process = master()
    broker.accept()
    before = [broker.next(WorkerBorn) for _ in range(2)]
    broker.lose()
    assert all(ended(worker.pid) for worker in before)
    broker.listen()
    assert broker.accept().pid == process.process.pid
    fresh = broker.born_anew(2)
    assert not {worker.worker_id for worker in fresh} & {worker.worker_id for worker in before}


def test_it_waits_for_a_broker_that_is_late(tmp_path, run_dir, master):
    process = master()
    late = Broker(run_dir)
    status = None
    while status is None:
        try:
            status = ask(run_dir / "worker.sock", {"cmd": "status"})
        except OSError:
            assert process.process.poll() is None
    assert status["broker"] is False
    assert len(status["workers"]) == 2
    late.listen()
    late.accept()
    assert len({late.next(WorkerBorn).worker_id for _ in range(2)}) == 2
    late.lose()


def test_a_broker_of_another_user_is_not_spoken_to(tmp_path, broker, master):
    process = master(f"broker_user {os.getuid() + 1}")
    assert readable(broker.listener)
    sock, _ = broker.listener.accept()
    with sock:
        assert readable(sock)
        assert sock.recv(100) == b""  # it hung up without a word
    assert process.process.poll() is None


def test_a_broken_broker_costs_its_connection_only(broker, master):
    process = master()
    broker.accept()
    for _ in range(2):
        broker.next(WorkerBorn)
    broker.channel._sock.send(b"\x00\x20\0\0\0\0")
    with pytest.raises(ChannelClosed):
        while True:
            broker.channel.receive()
            readable(broker.channel)
    assert broker.accept().pid == process.process.pid


def test_stopping_leaves_workers_to_the_broker(broker, master):
    process = master()
    broker.accept()
    born = [broker.next(WorkerBorn) for _ in range(2)]
    process.process.terminate()
    broker.next(MasterLeaves)
    assert process.process.wait(15) == 0
    assert not any(ended(worker.pid, 0.1) for worker in born)
    broker.lose()
    assert all(ended(worker.pid) for worker in born)


def test_workers_that_live_are_introduced_to_the_next_broker(broker, master):
    """A broker that has taken the master dies: a worker with unread messages lives, and its channel with it."""
    process = master()
    broker.accept()
    born = [broker.next(WorkerBorn) for _ in range(2)]
    life = broker.welcome()
    for worker in born:
        os.kill(worker.pid, signal.SIGSTOP)  # so that it cannot end before it is introduced again
    try:
        broker.lose()
        life.close()
        broker.listen()
        broker.accept()
        again = [broker.next(WorkerBorn) for _ in range(4)]
        assert sorted(one.worker_id for one in again if one.again) == sorted(one.worker_id for one in born)
        assert sum(not one.again for one in again) == 2
    finally:
        for worker in born:
            os.kill(worker.pid, signal.SIGCONT)
    assert all(ended(worker.pid) for worker in born)  # they were told, and had nothing to do
    assert "event=broker.died workers=2" in process.log


def test_a_broker_that_only_hangs_up_keeps_its_workers(broker, master):
    process = master()
    broker.accept()
    born = [broker.next(WorkerBorn) for _ in range(2)]
    life = broker.welcome()
    broker.channel.close()
    broker.accept()
    again = [broker.next(WorkerBorn) for _ in range(4)]
    assert sum(one.again for one in again) == 2
    assert not any(ended(worker.pid, 0.1) for worker in born)
    life.close()
    assert all(ended(worker.pid) for worker in born)
    assert process.process.poll() is None


def test_a_worker_of_an_earlier_master_is_kept_and_can_be_killed(broker, master, tmp_path):
    first = master()
    broker.accept()
    born = [broker.next(WorkerBorn) for _ in range(2)]
    broker.welcome()
    first.process.kill()
    first.process.wait(15)
    broker.channel.close()
    master()
    broker.accept()
    fresh = [broker.next(WorkerBorn) for _ in range(2)]
    assert len({one.worker_id for one in [*born, *fresh]}) == 4
    kept = born[0]
    copy = OwnedFd(os.dup(broker.workers[kept.worker_id].fileno()))
    broker.channel.send(KeepChannel(worker_id=kept.worker_id, pid=kept.pid, protocol=PROTOCOL), fd=copy)
    broker.channel.send(RetireWorker(worker_id=kept.worker_id, kill=True))
    assert ended(kept.pid)
    status = {}
    while kept.pid in [row["pid"] for row in status.get("workers", [{"pid": kept.pid}])]:
        status = ask(broker.path.parent.parent / "worker.sock", {"cmd": "status"})
    assert len(status["workers"]) == 2


def test_it_refuses_to_start_without_the_provider(tmp_path, run_dir, master):
    tree = tmp_path / "tree"
    for package in ("tlspool_common", "tlspool_worker"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    process = master(cwd=tree)
    assert process.process.wait(15) == Exit.PROVIDER
    assert "code=702" in process.log
    assert "tlspool_provider.so does not exist" in process.log


def test_it_refuses_a_provider_of_another_make(tmp_path, run_dir, master):
    tree = tmp_path / "tree"
    for package in ("tlspool_common", "tlspool_worker"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "tlspool_worker/native/tlspool_provider.so").write_bytes(b"\x7fELF no shared object")
    process = master(cwd=tree)
    assert process.process.wait(15) == Exit.PROVIDER
    assert "OpenSSL has not loaded" in process.log
