"""Many sessions: at once, one after the other, and with a slow token."""

import concurrent.futures
import os
import resource
import socket
import ssl
import time
from pathlib import Path

import pytest

from bench.peers import pss_kib
from tests.e2e.conftest import connect
from tests.fixtures import slowtoken
from tlspool_admin.client import ask
from tlspool_admin.devpool import DevPool, softhsm_module

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True, scope="module")
def enough_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def context_for(pool):
    return ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))


def test_500_sessions_at_once_each_echoing(pool, echo_server):
    server = echo_server(pool)
    context = context_for(pool)

    def opened(_number):
        return context.wrap_socket(connect(server.port), server_hostname="localhost")

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        sessions = list(threads.map(opened, range(500)))
    for turn in range(3):
        for number, session in enumerate(sessions):
            session.sendall(f"{turn} {number}".encode() * 50)
        for number, session in enumerate(sessions):
            wanted = f"{turn} {number}".encode() * 50
            got = b""
            while len(got) < len(wanted):
                got += session.recv(65536)
            assert got == wanted
    assert len(server.sessions) == 500
    for session in sessions:
        session.close()


def test_16_handshakes_with_a_slow_token_overlap(tmp_path, echo_server):
    """One signature takes 200 ms; sixteen together take little more than one, not sixteen times as long."""
    os.environ["SLOWTOKEN_MODULE"] = softhsm_module()
    os.environ["SLOWTOKEN_MS"] = "200"
    slow = DevPool(tmp_path / "p")
    try:
        slow.up(module=str(slowtoken.build(tmp_path)))
        server = echo_server(slow)
        context = context_for(slow)

        def shake(_number):
            begun = time.monotonic()
            with context.wrap_socket(connect(server.port), server_hostname="localhost") as tls:
                tls.sendall(b"x")
                assert tls.recv(1) == b"x"
            return time.monotonic() - begun

        assert shake(0) >= 0.2
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            list(threads.map(shake, range(16)))
        spent = time.monotonic() - begun
        # In a queue they would take 3.2 s; the bound is far from both, so that a slow machine cannot fail it.
        assert spent < 1.8, spent
    finally:
        slow.down()
        del os.environ["SLOWTOKEN_MODULE"], os.environ["SLOWTOKEN_MS"]


def daemon_pids(pool):
    workers = ask(pool.run_dir / "worker.sock", {"cmd": "status"})["workers"]
    return [*pool.running().values(), *(worker["pid"] for worker in workers)]


def settled(pool):
    """Wait until no session is left, then return (descriptors, KiB) of all daemons."""
    deadline = time.monotonic() + 20
    while ask(pool.run_dir / "broker.sock", {"cmd": "status"})["sessions"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    pids = daemon_pids(pool)
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids), pss_kib(list(pool.running().values()))


def test_2000_sessions_leave_nothing_behind(own_pool, echo_server):
    server = echo_server(own_pool)
    context = context_for(own_pool)

    def one(number):
        sock = connect(server.port)
        if number % 10 == 9:
            sock.sendall(b"this is no TLS at all\r\n")
            sock.close()
            return
        tls = context.wrap_socket(sock, server_hostname="localhost")
        tls.sendall(b"x")
        assert tls.recv(1) == b"x"
        if number % 3:
            tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        tls.close()

    def run(count):
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(one, range(count)))
        return settled(own_pool)

    run(600)  # caches and pools reach their size
    fds, kib = run(200)
    more_fds, more_kib = run(2000)
    assert more_fds <= fds + 2
    assert more_kib - kib < 8 * 1024, f"{more_kib - kib} KiB more after 2000 sessions"
