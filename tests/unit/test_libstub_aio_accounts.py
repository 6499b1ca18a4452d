"""The coroutines that ask RADIUS, and accounts in an event loop."""

import asyncio

import pytest

import libstub
from libstub.aio import AsyncPool
from tests.fixtures.fake_aaa import ALICE, TAGS, FakeAaa
from tests.fixtures.fake_pool import FakePool


@pytest.fixture
def fake(no_leaks, tmp_path):
    aaa = FakeAaa()
    made = FakePool(tmp_path / "s", dict(aaa.on))
    made.aaa = aaa
    yield made
    made.stop()


def running(test):
    """Run a coroutine function as a test, with a pool of its loop."""

    async def whole(fake):
        pool = AsyncPool(fake.path)
        try:
            await asyncio.wait_for(test(fake, pool), 20)
        finally:
            pool.close()

    def run(fake):
        asyncio.run(whole(fake), debug=True)

    run.__name__ = test.__name__
    return run


@running
async def test_questions(fake, pool):
    accepted, rejected, allowed = await asyncio.gather(
        pool.authenticate(ALICE, "secret"),
        pool.authenticate(ALICE, "guess"),
        pool.authorize(ALICE, kind="mailbox"),
        return_exceptions=True,
    )
    assert accepted.session_timeout_s == 60
    assert isinstance(rejected, libstub.AccessRejected)
    assert allowed.tags == TAGS
    assert fake.connections == 1


@running
async def test_an_account(fake, pool):
    async with pool.account("print", "1", identity=ALICE) as account:
        await account.update(items=3)
    assert account.acct_id == "A-1"
    assert [one[0] for one in fake.aaa.told] == ["start", "update", "end"]


@running
async def test_an_account_that_is_awaited(fake, pool):
    account = await pool.account("print", "1", identity=ALICE)
    assert (await pool.account("print", "1", identity=ALICE, resume=True)).acct_id == ""
    with pytest.raises(libstub.Misuse):
        await pool.account("print", "1", identity=ALICE)
    await account.end(items=2)
    assert fake.aaa.open == {}


@running
async def test_one_that_was_ended_is_not_ended_again(fake, pool):
    with pytest.raises(KeyError):
        async with pool.account("print", identity=ALICE) as account:
            await account.end(items=1)
            raise KeyError
    assert [one[0] for one in fake.aaa.told] == ["start", "end"]


@running
async def test_cancelling(fake, pool):
    """Who is cancelled hears no more; the pool may have done it."""
    fake.on[0x80000022] = lambda peer, asked: None
    task = asyncio.create_task(pool.authorize(ALICE))
    await asyncio.to_thread(fake.await_commands, 0x80000022)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.ping()).facilities is not None
