"""Readiness and passed sockets."""

import asyncio
import os
import resource
import select
import socket
import subprocess
import sys
import time

import pytest

from tlspool_common import systemd
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd


def test_notify(tmp_path, monkeypatch):
    systemd.notify("READY=1")  # nobody listens: nothing happens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        systemd.notify("READY=1")
        assert sock.recv(100) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0tlspool-test-notify-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@tlspool-test-notify-{os.getpid()}")
        systemd.notify("STATUS=x")
        assert sock.recv(100) == b"STATUS=x"


def test_a_process_without_descriptors_goes_on_and_is_heard_later(tmp_path, monkeypatch):
    """Its heart beats on, too: systemd would end a daemon that was short of them once, and recovered."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.setblocking(False)
        heart = systemd.Heart()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            assert heart.beat() is not None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        systemd.notify("WATCHDOG=1")
        assert sock.recv(100) == b"WATCHDOG=1"


def test_notify_with_descriptors(tmp_path, monkeypatch, no_leaks):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, socket.socket() as kept:
        sock.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        systemd.notify("FDSTORE=1\nFDNAME=x", [kept.fileno()])
        text, (copy,), _, _ = socket.recv_fds(sock, 100, 4)
        assert text == b"FDSTORE=1\nFDNAME=x"
        assert os.fstat(copy).st_ino == os.fstat(kept.fileno()).st_ino
        os.close(copy)


CHILD = """
import os
from tlspool_common import systemd
os.environ["LISTEN_PID"] = str(os.getpid())
found = systemd.listen_fds()
print({name: (fd.fileno(), os.get_inheritable(fd.fileno())) for name, fd in found.items()}, "LISTEN_FDS" in os.environ)
print(systemd.listen_fds())
"""


def test_listen_fds(tmp_path):
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(tmp_path / "a"))
        two.bind(str(tmp_path / "b"))
        script = f"exec 3<&{one.fileno()} 4<&{two.fileno()}; exec \"$0\" -c '{CHILD}'"
        done = subprocess.run(
            ["/bin/bash", "-c", script, sys.executable],
            pass_fds=(one.fileno(), two.fileno()),
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "app", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
    assert done.stdout == "{'app': (3, False), '4': (4, False)} False\n{}\n", done.stderr


def test_listen_fds_of_one_name(tmp_path):
    """As those of a socket unit with several ListenStream= lines."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        script = f"exec 3<&{one.fileno()} 4<&{two.fileno()}; exec \"$0\" -c '{CHILD}'"
        done = subprocess.run(
            ["/bin/bash", "-c", script, sys.executable],
            pass_fds=(one.fileno(), two.fileno()),
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "app:app", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
    assert done.stdout == "{'app': (3, False), 'app#4': (4, False)} False\n{}\n", done.stderr


def test_not_meant_for_this_process(monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert systemd.listen_fds() == {}


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """A socket that hears what systemd would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        yield sock


def said(supervisor):
    """Return what it has heard up to now."""
    texts = []
    while select.select([supervisor], [], [], 0)[0]:
        texts.append(supervisor.recv(4096).decode())
    return texts


def test_reloading_ends_whatever_comes(supervisor):
    before_us = time.monotonic_ns() // 1000
    with systemd.reloading():
        [text] = said(supervisor)
    first, _, stamp = text.partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before_us <= int(stamp) <= time.monotonic_ns() // 1000
    assert said(supervisor) == ["READY=1"]
    with pytest.raises(ValueError), systemd.reloading():
        raise ValueError
    assert said(supervisor)[-1] == "READY=1"


def test_a_heart_beats_twice_in_the_time(supervisor, monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    heart = systemd.Heart()
    assert heart.beat() == 15.0
    now_s += 5
    assert heart.beat() == 10.0
    assert said(supervisor) == ["WATCHDOG=1"]
    now_s += 10
    assert heart.beat() == 15.0
    assert said(supervisor) == ["WATCHDOG=1"]


@pytest.mark.parametrize(("period", "pid"), [("", ""), ("0", ""), ("30000000", "1"), ("x", ""), ("-5", "ours")])
def test_no_heart_where_nobody_watches(supervisor, monkeypatch, period, pid):
    monkeypatch.setenv("WATCHDOG_USEC", period)
    monkeypatch.setenv("WATCHDOG_PID", pid.replace("ours", str(os.getpid())))
    assert systemd.Heart().beat() is None
    assert said(supervisor) == []


def test_a_loop_that_hangs_has_no_beat(supervisor, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    async def live():
        loop = asyncio.get_running_loop()
        systemd.Heart().beat_on(loop)
        for _ in range(3):
            assert await loop.run_in_executor(None, supervisor.recv, 100) == b"WATCHDOG=1"
        said(supervisor)
        time.sleep(0.1)  # noqa: ASYNC251 - the loop hangs: five beats would be due
        return said(supervisor)

    assert asyncio.run(live()) == []


def listening(path, kind=socket.SOCK_STREAM):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    sock.listen()
    return OwnedFd(sock.detach())


def test_a_socket_is_taken_by_its_name(no_leaks, tmp_path):
    passed = {"broker": listening(tmp_path / "b"), "app": listening(tmp_path / "a")}
    with systemd.listener(passed, "broker") as sock:
        assert sock.getsockname() == str(tmp_path / "b")
        assert not sock.getblocking()
    assert list(passed) == ["app"]
    assert systemd.listener(passed, "broker") is None
    passed.pop("app").close()


def test_a_socket_that_none_can_connect_to(no_leaks, tmp_path):
    for fd in (listening(tmp_path / "p", socket.SOCK_SEQPACKET), OwnedFd(os.open("/dev/null", os.O_RDONLY))):
        with pytest.raises(PoolError, match="socket from systemd") as caught:
            systemd.listener({"keyd": fd}, "keyd")
        assert caught.value.code is Code.SETTING_INVALID
