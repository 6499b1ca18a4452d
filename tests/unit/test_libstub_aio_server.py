"""Accepting for TLS: what looks like asyncio's server, its bounds, and its end."""

import asyncio
import contextlib
import errno
import gc
import socket

import pytest

import libstub
from libstub.aio import server as server_module
from tests.fixtures.fake_pool import answer
from tests.unit.test_libstub_aio_pool import running
from tlspool_common.appwire import Cmd


class Greeter(asyncio.Protocol):
    """Says hello, and goes."""

    def connection_made(self, transport):
        transport.write(b"hello")
        transport.close()


async def greeting(fake, **options):
    return await libstub.aio.create_server(Greeter, "127.0.0.1", 0, localid="x.example", pool=fake.path, **options)


async def greeted(server):
    """Connect, and return what is said until the end."""
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@running
async def test_it_looks_like_asyncios(fake):
    server = await greeting(fake)
    assert isinstance(server, asyncio.AbstractServer)
    assert server.get_loop() is asyncio.get_running_loop()
    assert server.is_serving()
    await server.start_serving()
    async with server:
        assert await greeted(server) == b"hello"
    assert not server.is_serving()
    assert server.sockets == ()


@running
async def test_serve_forever(fake):
    for ending in ("cancel", "close"):
        server = await greeting(fake)
        forever = asyncio.ensure_future(server.serve_forever())
        assert await greeted(server) == b"hello"
        forever.cancel() if ending == "cancel" else server.close()
        with pytest.raises(asyncio.CancelledError):
            await forever
        assert server.sockets == ()


@running
async def test_whose_socket_has_the_number_of_a_closed_one_is_heard(fake):
    """The loop forgets a socket before it is closed, and not some steps later."""
    server = await greeting(fake)
    await asyncio.sleep(0)  # now it accepts
    number = server.sockets[0].fileno()
    pool = libstub.aio.AsyncPool(fake.path)
    server.close()
    assert await pool.ping(timeout_s=5)
    assert pool._line.fileno() == number
    pool.close()


@running
async def test_every_address_of_a_host(fake):
    sockets = await server_module.listening("", 0, 10)
    try:
        assert socket.AF_INET in {sock.family for sock in sockets}
        with pytest.raises(OSError, match=r"in use|already"):
            await server_module.listening("0.0.0.0", sockets[0].getsockname()[1], 10)
    finally:
        for sock in sockets:
            sock.close()


@running
async def test_a_socket_that_listens_already(fake):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = await libstub.aio.create_server(Greeter, sock=sock, localid="x.example", pool=fake.path)
        async with server:
            assert await greeted(server) == b"hello"


@running
async def test_a_bound_on_handshakes(fake):
    """With two places, the third waits in the kernel until one handshake has ended."""
    kept = []
    loop = asyncio.get_running_loop()
    full = asyncio.Event()

    def hold(peer, asked):
        kept.append((peer, asked))
        if len(kept) == 2:
            loop.call_soon_threadsafe(full.set)

    fake.on[Cmd.STARTTLS] = hold
    async with await greeting(fake, setups=2) as server:
        greetings = [asyncio.ensure_future(greeted(server)) for _ in range(3)]
        await full.wait()
        assert await libstub.aio.ping(fake.path)  # whatever was on its way is there now
        assert len(kept) == 2
        fake.on.clear()
        await asyncio.to_thread(lambda: [answer(*one) for one in kept])
        assert await asyncio.gather(*greetings) == [b"hello"] * 3


@running
async def test_accepting_fails_and_goes_on(fake):
    failures = [errno.ECONNABORTED, errno.EMFILE]
    kind = asyncio.selector_events.BaseSelectorEventLoop
    real = kind.sock_accept

    async def accept(loop, sock):
        if failures:
            raise OSError(failures.pop(0), "no")
        return await real(loop, sock)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "sock_accept", accept)
        patch.setattr(server_module, "PAUSE_S", 0.01)
        async with await greeting(fake) as server:
            assert await greeted(server) == b"hello"
    assert failures == []


@running
async def test_handshakes_under_way_are_finished(fake):
    """A server that is closed accepts no more; whoever was accepted is served."""
    loop = asyncio.get_running_loop()
    held = asyncio.Event()
    kept = []

    def hold(peer, asked):
        kept.append((peer, asked))
        loop.call_soon_threadsafe(held.set)

    fake.on[Cmd.STARTTLS] = hold
    server = await greeting(fake)
    address = server.sockets[0].getsockname()
    client = asyncio.ensure_future(greeted(server))
    await held.wait()
    server.close()
    with pytest.raises(OSError):
        await asyncio.open_connection(*address)
    closed = asyncio.ensure_future(server.wait_closed())
    await asyncio.sleep(0)
    assert not closed.done()
    await asyncio.to_thread(answer, *kept[0])
    await closed
    assert await client == b"hello"


@running
async def test_a_protocol_that_fails(fake):
    """It costs its own connection only."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    first = [True]

    def factory():
        if first:
            first.clear()
            raise ValueError("a bug")
        return Greeter()

    server = await libstub.aio.create_server(factory, "127.0.0.1", 0, localid="x.example", pool=fake.path)
    async with server:
        with contextlib.suppress(ConnectionError):
            assert await greeted(server) == b""
        assert await greeted(server) == b"hello"
    await asyncio.sleep(0)
    gc.collect()
    assert [str(context["exception"]) for context in told] == ["a bug"]
