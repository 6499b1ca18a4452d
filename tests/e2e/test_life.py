"""Daemons are killed and started again, one and all, and no session is dropped: bytes, identities, control."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import threading

import pytest

import libstub
from libstub.aio import AsyncPool
from tests.e2e.conftest import await_log, connect, log_of, make_pool
from tests.fixtures.living import Echoes, Store, broker_says, context_for, kill, sessions_of, start_master, status_until
from tlspool_admin.devpool import DAEMONS
from tlspool_common.errors import PoolError
from tlspool_common.messages import PROTOCOL


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
    start, away = len(log_of(pool, "broker")), len(log_of(pool, "worker"))
    before = sessions_of(pool)
    numbers = sorted(before)
    kill(pool, "broker")
    for pid in {row["worker"] for row in before.values()}:
        # What a worker says before it hears of that is of a session that the next broker has never met.
        await_log(pool, "worker", rf"event=broker\.away worker={pid} ", away)
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
    for turn in [*DAEMONS, "broker"] if seed == 1 else chance.choices(DAEMONS, k=4):
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
    broker_says(pool, "resume")
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


def test_applications_do_not_hear_of_a_restart_unless_they_were_waiting(live):
    pool, server, echoes = live
    with libstub.Pool(str(pool.socket)) as mine:
        assert mine.ping()
        ours, theirs = socket.socketpair()
        outcome = []

        def wait_in_vain():
            try:
                libstub.starttls_server(ours, pool=mine, localid="localhost", remote_auth="ignore")
            except libstub.PoolError as error:
                outcome.append(error)

        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        status_until(pool, lambda status: status["states"].get("expect_client_hello"))
        kill(pool, "broker")
        thread.join(20)
        assert isinstance(outcome[0], libstub.PoolUnavailable)
        starting = threading.Thread(target=pool.up)
        starting.start()
        assert mine.ping()  # which is sent to the next broker
        starting.join(60)
        theirs.settimeout(20)
        assert theirs.recv(100) == b""  # the worker has let go of what nobody wants any more
        theirs.close()
    resumed(pool, 4)
    echoes.check()
    fresh = Echoes(pool, server, 1)
    fresh.check()
    fresh.close()


def test_coroutines_do_not_hear_of_a_restart(live):
    pool, _, echoes = live

    async def work():
        mine = AsyncPool(str(pool.socket))
        assert await mine.ping()
        kill(pool, "broker")
        asked = asyncio.ensure_future(mine.ping())
        await asyncio.to_thread(pool.up)
        assert await asked
        mine.close()

    asyncio.run(work())
    resumed(pool, 4)
    echoes.check()


def await_kept(pool, store):
    """Wait until the store has the channels of all workers with sessions, and there are others; return the sessions.

    Spares of a master that was killed may be there before the new one is.
    """

    def kept(status):
        store.drain()
        busy = {row["worker"] for row in sessions_of(pool).values()}
        return status["master"] and status["spares"] and busy <= {int(name.split("-")[1]) for name in store.kept}

    status_until(pool, kept)
    return sessions_of(pool)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_broker_and_master_end_together_and_the_supervisor_has_kept_the_channels(live, tmp_path, number):
    """What systemd does for a unit with FileDescriptorStoreMax=, the test does here."""
    pool, _, echoes = live
    store = Store(tmp_path / "n")
    kill(pool, "worker")
    master = start_master(pool, store)
    try:
        before = await_kept(pool, store)
        assert len(before) == 4
        broker_pid = pool.running()["broker"]
        for pid in (broker_pid, master.pid):
            os.kill(pid, number)
        master.wait(20)
        os.waitpid(broker_pid, 0)
        echoes.check()
        store.drain()
        master = start_master(pool, store)
        pool._start("broker")
        resumed(pool, 4)
        assert sessions_of(pool).keys() == before.keys()
        echoes.check()
    finally:
        master.terminate()
        master.wait(20)
        store.close()
        pool.up()


def test_workers_of_another_protocol_finish_their_sessions_by_themselves(live, tmp_path):
    """As after an upgrade that has changed what is spoken: nothing is dropped, and nobody controls it any more."""
    pool, server, echoes = live
    store = Store(tmp_path / "n")
    kill(pool, "worker")
    master = start_master(pool, store)
    try:
        await_kept(pool, store)
        start = len(log_of(pool, "broker"))
        kill(pool, "broker")
        master.kill()
        master.wait(20)
        store.drain()
        store.kept = {f"{name.rpartition('-')[0]}-{PROTOCOL + 1}": fd for name, fd in store.kept.items()}
        master = start_master(pool, store)
        store.close()  # or it would keep them open
        pool._start("broker")
        status_until(pool, lambda status: status["master"] and status["spares"])
        await_log(pool, "broker", r"event=worker\.let_go [^\n]*protocol", start)
        assert not sessions_of(pool)
        echoes.check()
        fresh = Echoes(pool, server, 1)
        fresh.check()
        fresh.close()
        echoes.check()
    finally:
        master.terminate()
        master.wait(20)
        pool.up()
