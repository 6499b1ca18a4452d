"""Daemons are killed and started again, one and all, and no session is dropped: bytes, identities, control."""

import contextlib
import os
import random
import signal
import ssl
import time

import pytest

import libstub
from tests.e2e.conftest import await_log, connect, log_of, make_pool
from tlspool_admin.client import ask
from tlspool_admin.devpool import DAEMONS
from tlspool_common.errors import PoolError


def context_for(pool):
    return ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))


class Echoes:
    """TLS clients whose other end is an echo server that goes through the pool."""

    def __init__(self, pool, server, count):
        self.pool = pool
        self.clients = [self.connect(pool, server) for _ in range(count)]
        self.from_remote_b = [0] * count

    @staticmethod
    def connect(pool, server):
        sock = connect(server.port)
        sock.settimeout(20)
        return context_for(pool).wrap_socket(sock, server_hostname="localhost")

    def check(self):
        """Let each send something and have it back."""
        for number, client in enumerate(self.clients):
            sent = random.randbytes(random.choice((1, 100, 20_000)))
            client.sendall(sent)
            back = b""
            while len(back) < len(sent):
                more = client.recv(65536)
                assert more, f"session {number} was dropped"
                back += more
            assert back == sent
            self.from_remote_b[number] += len(sent)

    def close(self):
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.close()


def kill(pool, name, number=signal.SIGKILL):
    """End a daemon and wait until it has; it is a child of ours."""
    pid = pool.running()[name]
    os.kill(pid, number)
    os.waitpid(pid, 0)


def broker_says(pool, command, **fields):
    return ask(pool.run_dir / "broker.sock", {"cmd": command, **fields})


def status_until(pool, test, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        status = broker_says(pool, "status")
        if test(status):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.02)


def sessions_of(pool):
    return {row["session"]: row for row in broker_says(pool, "sessions")["sessions"]}


@pytest.fixture(scope="module")
def life_pool(tmp_path_factory):
    """A pool whose daemons are killed by each test, and started again."""
    pool = make_pool(tmp_path_factory, "life")
    yield pool
    pool.down()


@pytest.fixture
def live(life_pool, echo_server):
    """Four sessions that relay, and no others, and their server."""
    life_pool.up()
    status_until(life_pool, lambda status: status["keyd"] and status["spares"] and not status["sessions"])
    server = echo_server(life_pool)
    echoes = Echoes(life_pool, server, 4)
    server.await_session(4)
    echoes.check()
    yield life_pool, server, echoes
    echoes.close()


def resumed(pool, count):
    return status_until(pool, lambda status: status["states"].get("relaying", 0) >= count and status["spares"])


def test_a_broker_that_is_killed_drops_nothing(live):
    pool, server, echoes = live
    before, start = sessions_of(pool), len(log_of(pool, "broker"))
    keys = [session.ctlkey for session in server.sessions]
    kill(pool, "broker")
    echoes.check()
    pool.up()
    resumed(pool, 4)
    echoes.check()
    after = sessions_of(pool)
    assert after.keys() == before.keys()
    for number, row in after.items():
        assert row["detached"]
        same = ("caller", "uid", "service", "side", "localid", "remoteid", "version", "cipher", "group", "worker")
        assert {name: row[name] for name in same} == {name: before[number][name] for name in same}
        assert row["localid"] == "localhost"
    assert log_of(pool, "broker")[start:].count("event=session.resumed") == 4
    with libstub.Pool(str(pool.socket)) as other:
        again = other.reattach(keys[0])
        assert again.localid == "localhost"
        assert len(again.export_keying_material("EXPERIMENTAL-life", None, 32)) == 32
        assert sum(not row["detached"] for row in sessions_of(pool).values()) == 1
        with pytest.raises(libstub.PoolError):
            other.reattach(os.urandom(16))
    # It was controlled by that connection, which is closed, and FORK was not asked for.
    status_until(pool, lambda status: status["states"].get("relaying", 0) == 3)
    fresh = Echoes(pool, server, 1)
    fresh.check()
    assert max(sessions_of(pool)) > max(before)
    fresh.close()
    number = next(iter(sessions_of(pool)))
    assert broker_says(pool, "explain", session=number)["outcome"] == "accepted"
    broker_says(pool, "kill", session=number)
    status_until(pool, lambda status: number not in sessions_of(pool))


def test_the_end_of_a_session_is_logged_with_its_bytes(live):
    pool, _server, echoes = live
    start = len(log_of(pool, "broker"))
    numbers = sorted(sessions_of(pool))
    kill(pool, "broker")
    echoes.check()
    echoes.clients[0].unwrap()
    echoes.clients[0].close()
    pool.up()
    resumed(pool, 3)
    echoes.clients[1].unwrap()
    for which in (0, 1):
        sent_b = echoes.from_remote_b[which]
        pattern = rf"session\.end session={numbers[which]} [^\n]*localid=localhost[^\n]*"
        pattern += rf"from_remote_b={sent_b} to_remote_b={sent_b} reason=clean"
        await_log(pool, "broker", pattern, start)
    echoes.clients.pop(1).close()
    echoes.clients.pop(0)
    echoes.from_remote_b = echoes.from_remote_b[2:]
    echoes.check()


def test_a_master_that_is_killed_and_then_the_broker(live):
    pool, server, echoes = live
    before = sessions_of(pool)
    kill(pool, "worker")
    echoes.check()
    pool.up()
    status_until(pool, lambda status: status["master"] and status["spares"])
    assert sessions_of(pool).keys() == before.keys()
    fresh = Echoes(pool, server, 1)
    fresh.check()
    kill(pool, "broker")
    echoes.check()
    pool.up()
    resumed(pool, 5)
    echoes.check()
    fresh.check()
    assert set(before) <= set(sessions_of(pool))
    fresh.close()


def test_keyd_comes_back_while_handshakes_wait(live):
    pool, server, echoes = live
    kill(pool, "keyd")
    status_until(pool, lambda status: not status["keyd"])
    sock = connect(server.port)
    sock.settimeout(20)
    tls = context_for(pool).wrap_socket(sock, server_hostname="localhost", do_handshake_on_connect=False)
    tls.setblocking(False)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    status_until(pool, lambda status: status["states"].get("expect_keyd"))
    pool._start("keyd")
    tls.settimeout(20)
    tls.do_handshake()
    tls.sendall(b"hello")
    assert tls.recv(100) == b"hello"
    tls.close()
    echoes.check()


@pytest.mark.parametrize("seed", [1, 2])
def test_all_of_them_in_any_order(live, seed):
    pool, server, echoes = live
    chance = random.Random(seed)
    before = set(sessions_of(pool))
    for turn in [*DAEMONS, *chance.choices(DAEMONS, k=3)] if seed == 1 else chance.choices(DAEMONS, k=6):
        kill(pool, turn, chance.choice((signal.SIGKILL, signal.SIGTERM)))
        echoes.check()
        pool.up()
        status_until(pool, lambda status: status["keyd"] and status["master"] and status["spares"])
        status_until(pool, lambda status: before <= set(sessions_of(pool)))
        echoes.check()
        fresh = Echoes(pool, server, 1)
        fresh.check()
        fresh.close()


def test_a_pool_that_drains(live):
    pool, server, echoes = live
    broker_says(pool, "drain")
    assert broker_says(pool, "status")["draining"] is True
    with pytest.raises((ssl.SSLError, OSError)):
        Echoes(pool, server, 1)
    assert server.await_error().code == 612
    echoes.check()
    broker_says(pool, "drain", state="off")
    fresh = Echoes(pool, server, 1)
    fresh.check()
    workers = broker_says(pool, "workers")["workers"]
    busy = next(row for row in workers if row["sessions"])
    broker_says(pool, "drain", worker=busy["worker"])
    again = Echoes(pool, server, 1)
    again.check()
    echoes.check()
    rows = {row["worker"]: row for row in broker_says(pool, "workers")["workers"]}
    assert rows[busy["worker"]]["retired"]
    for one in (fresh, again):
        one.close()
    with pytest.raises(PoolError):
        broker_says(pool, "drain", worker=1 << 30)
