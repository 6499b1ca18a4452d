"""Overload is refused at once, by a limit that is named, and nobody pays for it but who causes it."""

import os
import socket
import ssl
import statistics
import time
from contextlib import suppress

import pytest

import libstub
from tests import report
from tests.e2e.conftest import connect, log_of, make_pool, until
from tests.fixtures.flooding import Flood, Silent
from tlspool_admin.client import ask
from tlspool_broker.room import SILENT_MS

FLOOD, NOBODY = 10_000, 65_534


def context_for(pool):
    return ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))


def shake(context, port):
    """Have one session; return how long it took to echo."""
    begun_s = time.monotonic()
    with context.wrap_socket(connect(port), server_hostname="localhost") as tls:
        tls.sendall(b"x")
        assert tls.recv(1) == b"x"
    return time.monotonic() - begun_s


def status(pool):
    return ask(pool.run_dir / "broker.sock", {"cmd": "status"})


@pytest.fixture
def limited(tmp_path_factory):
    """Make pools with limits."""
    pools = []

    def make(*extra):
        pools.append(make_pool(tmp_path_factory, "limits", "ec", *extra))
        return pools[-1]

    yield make
    for pool in pools:
        pool.down()


def test_a_flood_of_one_user_does_not_delay_another(limited, echo_server):
    """10 000 requests of one user at once.  Handshakes of another go between them, and do not wait for their end."""
    assert os.getuid() == 0, "this test needs root, to be two users"
    pool = limited("socket_mode 0666", "log_level warning")
    for path in (pool.directory, pool.run_dir):
        path.chmod(0o711)
    pool.socket.chmod(0o666)
    server, context = echo_server(pool), context_for(pool)
    alone = [shake(context, server.port) for _ in range(50)]
    flood = Flood(pool.run_dir, NOBODY, connections=40, requests=FLOOD)
    try:
        beside = []
        while not flood.over:
            spent_s = shake(context, server.port)
            beside.append((time.monotonic(), spent_s))
        told = flood.result()
    finally:
        flood.close()
    answers = told["answers"]
    during = [spent_s for ended_s, spent_s in beside if ended_s < told["last_s"]]
    report.row(
        "a caller beside one that floods",
        f"{FLOOD} requests in {told['last_s'] - told['begun_s']:.1f} s: {answers}",
        f"handshakes alone: median {statistics.median(alone) * 1000:.0f} ms, longest {max(alone) * 1000:.0f} ms",
        f"beside it: {len(during)}, median {statistics.median(during) * 1000:.0f} ms, "
        f"longest {max(during) * 1000:.0f} ms",
    )
    # 2000 may be under way; the others were refused at once, or gave way to later ones.
    assert set(answers) <= {"212", "213", "214"}
    assert FLOOD - 2_000 <= sum(answers.values()) < FLOOD
    assert answers["212"] > 0
    # Had they to wait for the flood, it would be one or two.
    assert len(during) >= 10
    counted = {row["limit"]: row["refused"] for row in status(pool)["limits"]}
    assert sum(counted.values()) == sum(answers.values())
    assert set(counted) <= {"max_handshakes_per_caller", "handshake_rate_per_caller"}
    # A line for each limit, and not one for each refusal.
    assert 1 <= log_of(pool, "broker").count("event=limit.reached") <= 6


def test_silent_remotes_do_not_keep_others_out(limited, echo_server):
    """A server with as many silent remotes as it may have handshakes: the oldest makes room."""
    pool = limited("max_handshakes_per_caller 50")
    server, context = echo_server(pool), context_for(pool)
    silent = Silent(str(pool.socket), 50)
    begun_s = time.monotonic()
    try:
        until(lambda: status(pool)["states"].get("expect_client_hello") == 50)
        with pytest.raises((ssl.SSLError, OSError)):
            shake(context, server.port)
        error = server.await_error()
        if time.monotonic() - begun_s < SILENT_MS / 1000:
            assert error.code == 212
            assert "max_handshakes_per_caller is 50" in str(error)
        time.sleep(max(0.0, begun_s + SILENT_MS / 1000 + 0.2 - time.monotonic()))
        for _ in range(5):
            shake(context, server.port)
        until(lambda: silent.hear(0.2))
        assert {text[:6] for text in silent.errors.values()} == {"[214] "}
        assert len(silent.errors) == 1, "what is over gives its place back, so one was enough"
        assert sorted(silent.errors) == [1], "the oldest"
        silent.remotes[1].settimeout(10)
        with suppress(ConnectionResetError):
            assert silent.remotes[1].recv(1) == b""
    finally:
        silent.close()
    until(lambda: status(pool)["sessions"] == 0)


def test_half_open_handshakes_cost_no_thread_and_end_by_their_timeout(limited, echo_server):
    """A thousand remotes, of which some send a byte now and then; sessions of others of the same user go on."""
    pool = limited("handshake_timeout_s 6", "handshake_threads 4", "log_level warning")
    server, context = echo_server(pool), context_for(pool)
    shake(context, server.port)
    workers = ask(pool.run_dir / "worker.sock", {"cmd": "status"})["workers"]
    silent = Silent(str(pool.socket), 990)
    try:
        for number, remote in enumerate(silent.remotes.values()):
            if number % 3 == 0:
                remote.sendall(b"\x16\x03\x01\x02\x00\x01"[: number % 6 + 1])
        until(lambda: status(pool)["states"].get("expect_client_hello", 0) >= 900)
        spent = [shake(context, server.port) for _ in range(20)]
        for worker in workers:
            threads = len(os.listdir(f"/proc/{worker['pid']}/task"))
            assert threads <= 4 + 4, f"{threads} threads"
        until(lambda: len(silent.hear(0.2)) >= 990, seconds=30)
        assert {text[:6] for text in silent.errors.values()} == {"[307] "}
    finally:
        silent.close()
    report.row("sessions beside 990 half-open handshakes", f"median {statistics.median(spent) * 1000:.0f} ms")
    until(lambda: status(pool)["sessions"] == 0)


def test_a_rule_for_some_and_a_reload(limited):
    pool = limited()
    with libstub.Pool(str(pool.socket)) as mine:
        assert mine.ping()
        pool.config.write_text(pool.config.read_text() + f"limit few user={os.getuid()} handshakes=0 connections=1\n")
        assert "limit" in ask(pool.run_dir / "broker.sock", {"cmd": "reload"})["applied"]
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(libstub.PoolError) as caught:
            libstub.starttls_server(ours, "localhost", pool=mine)
        assert caught.value.code == 212
        assert "limit few handshakes is 0" in str(caught.value)
        with libstub.Pool(str(pool.socket)) as first:
            assert first.ping()
            with libstub.Pool(str(pool.socket)) as second, pytest.raises(libstub.PoolError) as caught:
                second.ping()
            assert caught.value.code == 215
            assert "limit few connections is 1" in str(caught.value)
    pool.config.write_text(pool.config.read_text() + "limit few rate=1\n")
    with pytest.raises(Exception, match=r"50/s or 600/m"):
        ask(pool.run_dir / "broker.sock", {"cmd": "reload"})
