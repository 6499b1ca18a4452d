"""One connection for an event loop: many at once, cancelling, restarts, silence, and loops that end."""

import asyncio
import gc
import os
import socket
import time
import unittest.mock

import pytest

import libstub
from libstub.aio import AsyncPool
from libstub.aio import pool as pool_module
from tests.fixtures.fake_pool import answer, error
from tlspool_common.appwire import Cmd, Frame


def running(test):
    """Run a coroutine function as a test; nothing may be left for the garbage collector to complain about."""

    async def whole(fake):
        await asyncio.wait_for(test(fake), 20)
        if others := asyncio.all_tasks() - {asyncio.current_task()}:  # handlers, whose clients have gone
            await asyncio.wait(others, timeout=20)

    def run(fake):
        asyncio.run(whole(fake), debug=True)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def remote():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return ours, theirs


async def client(pool, sock, name="x.example", **options):
    return await libstub.aio.starttls_client(sock, name, pool=pool, **options)


@running
async def test_ping(fake):
    assert (await libstub.aio.ping(fake.path)).identity == "20151111api@tlspool.arpa2.net"


@running
async def test_many_at_once_over_one_connection(fake):
    async def converse(number):
        ours, theirs = remote()
        with theirs, await client(fake.path, ours, f"host{number}.example") as session:
            assert session.remoteid == f"host{number}.example"
            await asyncio.get_running_loop().sock_sendall(session.sock, b"%d" % number)
            assert await asyncio.get_running_loop().sock_recv(theirs, 100) == b"%d" % number
        return number

    assert await asyncio.gather(*map(converse, range(100))) == list(range(100))
    assert fake.connections == 1


@running
async def test_more_than_the_pool_takes_wait_for_their_turn(fake):
    pool = AsyncPool(fake.path)
    waiting = []
    fake.on[Cmd.PING] = lambda peer, asked: waiting.append((peer, asked))
    pings = [asyncio.ensure_future(pool.ping()) for _ in range(pool_module.REQUESTS + 5)]
    await asyncio.to_thread(fake.await_change, lambda: len(waiting) == pool_module.REQUESTS)
    fake.on.clear()

    def answer_all():
        for peer, asked in waiting:
            answer(peer, asked)

    await asyncio.to_thread(answer_all)
    assert len(await asyncio.gather(*pings)) == pool_module.REQUESTS + 5
    pool.close()


@running
async def test_cancelling_closes_everything_and_disturbs_nobody(fake):
    pool = AsyncPool(fake.path)
    fake.on[Cmd.STARTTLS] = lambda _peer, _asked: None
    ours, theirs = remote()
    task = asyncio.ensure_future(client(pool, ours))
    await asyncio.to_thread(fake.await_commands, Cmd.STARTTLS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for asked in fake.seen:
        asked.drop()
    with theirs:
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
    fake.on.clear()
    assert await pool.ping()
    assert fake.connections == 1
    pool.close()


@running
async def test_cancelled_when_the_session_is_there_already(fake):
    """The answer has come, and whoever waited for it is cancelled in the same step of the loop."""
    pool = AsyncPool(fake.path)
    ours, theirs = remote()
    task = asyncio.ensure_future(client(pool, ours))
    real_act = pool._act

    def act(told):
        real_act(told)
        if not pool._requests and fake.commands()[-1:] == [Cmd.LOCAL_DETAILS]:
            task.cancel()

    pool._act = act
    with pytest.raises(asyncio.CancelledError):
        await task
    del pool._act
    with theirs:
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
    pool.close()


@running
async def test_a_time_limit_of_asyncio(fake):
    fake.on[Cmd.STARTTLS] = lambda _peer, _asked: None
    ours, theirs = remote()
    with theirs, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client(fake.path, ours)


@running
async def test_errors_of_the_pool(fake):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: peer.send(error(asked.frame, "[201] nobody knows you"))
    ours, theirs = remote()
    with theirs, pytest.raises(libstub.Refused) as caught:
        await client(fake.path, ours)
    assert caught.value.code == 201


@running
async def test_what_cannot_be_is_said_before_the_pool_is_asked(fake):
    for options in ({"timeout_s": -1}, {"remote_auth": "maybe"}, {"alpn": [""]}):
        ours, theirs = remote()
        with theirs, pytest.raises(libstub.Misuse):
            await client(fake.path, ours, **options)
        assert ours.fileno() == -1
    ours, theirs = remote()
    with theirs, pytest.raises(libstub.Misuse, match="remoteid is missing"):
        await client(fake.path, ours, "")
    ours, theirs = remote()
    with theirs, pytest.raises(libstub.Misuse, match="localid is missing"):
        await libstub.aio.starttls_server(ours, "", pool=fake.path)
    assert fake.commands() == []


@running
async def test_a_pool_that_is_away_is_waited_for_with_what_was_not_sent(fake):
    pool = AsyncPool(fake.path)
    assert await pool.ping()
    await asyncio.to_thread(fake.stop)
    asked = [asyncio.ensure_future(pool.ping()) for _ in range(3)]
    done, _ = await asyncio.wait(asked, timeout=0.1)
    assert not done
    fake.start()
    assert all(await asyncio.gather(*asked))
    pool.close()


@running
async def test_a_pool_that_stays_away_is_waited_for_once(fake):
    with unittest.mock.patch("libstub.aio.pool.RETURN_S", 0.3):
        pool = AsyncPool(fake.path)
        assert await pool.ping()
        await asyncio.to_thread(fake.stop)
        began_s = time.monotonic()
        for _ in range(10):
            with pytest.raises(libstub.PoolUnavailable, match="is not running"):
                await pool.ping()
        assert 0.2 <= time.monotonic() - began_s < 1.5
        fake.start()
        assert await pool.ping()
        pool.close()


@running
async def test_a_restart(fake):
    with unittest.mock.patch("libstub.aio.pool.RETURN_S", 0.1):
        await restarted(fake)


async def restarted(fake):
    pool = AsyncPool(fake.path)
    assert await pool.ping()
    held = asyncio.Event()
    loop = asyncio.get_running_loop()
    fake.on[Cmd.PING] = lambda _peer, _asked: loop.call_soon_threadsafe(held.set)
    under_way = asyncio.ensure_future(pool.ping())
    await held.wait()
    fake.on.clear()
    await asyncio.to_thread(fake.stop)
    with pytest.raises(libstub.PoolUnavailable):
        await under_way
    with pytest.raises(libstub.PoolUnavailable, match="is not running"):
        await pool.ping()
    fake.start()
    assert await pool.ping()
    pool.close()


@running
async def test_a_pool_that_accepts_late(fake):
    """Its backlog is full: connecting is tried again, and others go on meanwhile."""
    path = fake.path + "2"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            ping = asyncio.ensure_future(libstub.aio.ping(path))
            assert await libstub.aio.ping(fake.path)
            assert not ping.done()
            ping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ping


@running
async def test_a_pool_that_never_accepts(fake):
    path = fake.path + "2"
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "CONNECT_S", 0.1)
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(libstub.PoolUnavailable, match="does not accept"):
                await libstub.aio.ping(path)


@running
async def test_a_silent_pool_is_given_up(fake):
    fake.on[Cmd.PING] = lambda _peer, _asked: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "TICK_S", 0.02)
        with pytest.raises(libstub.Timeout):
            await libstub.aio.ping(fake.path, timeout_s=0.1)


@running
async def test_a_closed_pool(fake):
    pool = AsyncPool(fake.path)
    assert await pool.ping()
    pool.close()
    pool.close()
    with pytest.raises(libstub.Misuse, match="was closed"):
        await pool.ping()


def test_a_pool_outlives_its_loop_and_joins_another(fake):
    pool = AsyncPool(fake.path)

    async def begin():
        ours, theirs = remote()
        return await client(pool, ours), theirs

    session, theirs = asyncio.run(begin())
    theirs.settimeout(10)
    with session, theirs:
        session.sock.sendall(b"x")
        assert theirs.recv(1) == b"x"
        assert asyncio.run(pool.ping())
        assert fake.connections == 1
    pool.close()


def test_a_session_keeps_the_pool_of_its_loop(fake):
    async def begin():
        ours, theirs = remote()
        return await client(fake.path, ours), theirs

    session, theirs = asyncio.run(begin())
    gc.collect()
    theirs.settimeout(10)
    with theirs:
        session.sock.sendall(b"x")
        assert theirs.recv(1) == b"x"
        session.close()
        del session
        gc.collect()
        fake.await_change(lambda: not fake.peers)


def test_two_loops_cannot_share_a_pool(fake):
    pool = AsyncPool(fake.path)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        assert first.run_until_complete(pool.ping())
        with pytest.raises(libstub.Misuse, match="another event loop"):
            second.run_until_complete(pool.ping())
    finally:
        pool.close()
        first.close()
        second.close()


def test_a_forked_child_lets_go(fake):
    """The child closes its copy; the parent's loop and its session go on."""
    pool = AsyncPool(fake.path)

    async def begin():
        assert await pool.ping()
        child = os.fork()
        if not child:
            os._exit(0 if pool._line is None else 1)
        assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
        assert await pool.ping()

    asyncio.run(begin())
    assert fake.connections == 1
    pool.close()


@running
async def test_no_descriptors_for_the_plaintext(fake):
    with pytest.MonkeyPatch.context() as patch:
        real = socket.socketpair
        ours, theirs = real()

        def fails(*_):
            raise OSError(24, "Too many open files")

        patch.setattr(socket, "socketpair", fails)
        with theirs, pytest.raises(libstub.PoolUnavailable, match="no descriptors"):
            await client(fake.path, ours)


@running
async def test_the_application_gives_the_plaintext_socket(fake):
    ours, theirs = remote()
    inner, outer = socket.socketpair()
    outer.setblocking(False)
    session = await client(fake.path, ours, plain=inner)
    with theirs, outer:
        with pytest.raises(libstub.Misuse):
            _ = session.sock
        await asyncio.get_running_loop().sock_sendall(outer, b"x")
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b"x"


# --- who we are ---------------------------------------------------------------------------------------------------


def proposes(peer, asked):
    answer(peer, asked, Cmd.STARTTLS_LOCALID)


@running
async def test_the_application_chooses_who_it_is(fake):
    fake.on[Cmd.STARTTLS] = proposes
    fake.on[Cmd.STARTTLS_LOCALID] = lambda peer, asked: peer.call_back(asked)
    asked = []

    def on_localid(proposal):
        asked.append(proposal)
        return "me@x.example"

    ours, theirs = remote()
    with theirs, await client(fake.path, ours, on_localid=on_localid) as session:
        assert asked == ["testcli@tlspool.arpa2.lab"]
        assert session.localid == "me@x.example"


@running
async def test_the_application_makes_a_mistake(fake):
    """What its function raises comes out where it waits; the pool gets an answer, and others are not disturbed."""
    fake.on[Cmd.STARTTLS] = proposes

    def on_localid(_proposal):
        raise KeyError("a bug")

    ours, theirs = remote()
    with theirs, pytest.raises(KeyError, match="a bug"):
        await client(fake.path, ours, on_localid=on_localid)
    ours, theirs = remote()
    with theirs, pytest.raises(libstub.Misuse, match="on_localid returns"):
        await client(fake.path, ours, on_localid=lambda _proposal: 5)
    ours, theirs = remote()
    with theirs, pytest.raises(libstub.Misuse):  # a proposal that it has not asked for
        await client(fake.path, ours)
    assert await libstub.aio.ping(fake.path)


@running
async def test_questions_about_a_session(fake):
    """The frames are those of the methods (test_libstub_asking.py); here it is how they travel."""
    ours, theirs = remote()
    with theirs, await client(fake.path, ours) as session:
        for cmd in (Cmd.CONTROL_DETACH, Cmd.CONTROL_REATTACH):
            fake.on[cmd] = lambda peer, asked: peer.send(Frame(asked.frame.reqid, 0, Cmd.SUCCESS))
        fake.on[Cmd.INFO] = lambda peer, asked: peer.send(error(asked.frame, "[112] no"))
        with pytest.raises(libstub.PoolError):
            await libstub.aio.channel_binding(session)
        await libstub.aio.detach(session)
        other = AsyncPool(fake.path)
        await libstub.aio.reattach(session, other)
        assert session.pool is other
        with pytest.raises(libstub.Misuse, match=r"libstub\.aio"):
            session.detach()
        other.close()
    with libstub.Pool(fake.path) as blocking:
        session.pool = blocking
        with pytest.raises(libstub.Misuse, match="not of an event loop"):
            await libstub.aio.detach(session)
