"""libstub.aio with whole pools: both ends, other TLS programs, many at once, and what is asked of sessions."""

import asyncio
import contextlib
import socket
import ssl

import pytest

import libstub
from tests.e2e.conftest import await_log, log_of

SERVER = "testsrv@tlspool.arpa2.lab"
CLIENT = "testcli@tlspool.arpa2.lab"


@pytest.fixture
def run(pool, no_leaks, monkeypatch):
    """Run a coroutine function in a loop of its own, where the pool is the one of the environment."""
    for name, value in pool.environment.items():
        monkeypatch.setenv(name, value)

    def start(test):
        asyncio.run(asyncio.wait_for(test(), 60))

    return start


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    await ended(writer)


async def ended(writer):
    writer.close()
    await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(handler, *, plain=False, **options):
    """Run a server; the handlers of all its clients must end."""
    tasks = []

    async def handle(reader, writer):
        tasks.append(asyncio.current_task())
        await handler(reader, writer)

    if plain:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
    else:
        server = await libstub.aio.start_server(handle, "127.0.0.1", 0, **options)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*tasks)


def test_many_at_once(run):
    async def converse(port, number):
        reader, writer = await libstub.aio.open_connection("127.0.0.1", port, SERVER)
        data = b"%d," % number * 10_000
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        await ended(writer)

    async def test():
        async with serving(echo, localid=SERVER) as port:
            await asyncio.gather(*(converse(port, number) for number in range(60)))

    run(test)


def test_both_ends_of_a_session(run):
    seen = {}

    async def handler(reader, writer):
        tls = writer.get_extra_info("tlspool")
        seen["ids"] = (tls.localid, tls.remoteid, tls.version)
        for kind in ("tls-exporter", "tls-server-end-point"):
            seen[kind] = await libstub.aio.channel_binding(tls, kind)
        seen["export"] = await libstub.aio.export_keying_material(tls, "EXPERIMENTAL-test", b"context", 32)
        seen["subject"] = await libstub.aio.distinguished_name(tls)
        await echo(reader, writer)

    async def test():
        async with serving(handler, localid=SERVER) as port:
            reader, writer = await libstub.aio.open_connection("127.0.0.1", port, SERVER)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            tls = writer.get_extra_info("tlspool")
            assert seen["ids"] == (SERVER, CLIENT, "TLSv1.3") == (tls.remoteid, tls.localid, tls.version)
            for kind in ("tls-exporter", "tls-server-end-point"):
                assert await libstub.aio.channel_binding(tls, kind) == seen[kind]
            exported = await libstub.aio.export_keying_material(tls, "EXPERIMENTAL-test", b"context", 32)
            assert exported == seen["export"]
            assert await libstub.aio.distinguished_name(tls, local=True) == seen["subject"]
            assert await libstub.aio.has_general_name(tls, b"\x81\x19" + SERVER.encode())
            assert not await libstub.aio.has_general_name(tls, b"\x81\x01x")
            with pytest.raises(libstub.NotAvailable):
                await libstub.aio.channel_binding(tls, "tls-unique")
            await ended(writer)

    run(test)


def test_detach_and_reattach(run):
    async def test():
        async with serving(echo, localid=SERVER) as port:
            mine = libstub.aio.AsyncPool()
            reader, writer = await libstub.aio.open_connection("127.0.0.1", port, SERVER, pool=mine)
            tls = writer.get_extra_info("tlspool")
            await libstub.aio.detach(tls)
            with pytest.raises(libstub.NotInControl):
                await libstub.aio.detach(tls)
            mine.close()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await libstub.aio.reattach(tls)
            assert len(await libstub.aio.channel_binding(tls)) == 32
            await ended(writer)

    run(test)


def test_reauthentication(run):
    """A session begins without asking the client, and asks when it matters."""
    asked = []

    async def handler(reader, writer):
        tls = writer.get_extra_info("tlspool")
        assert tls.remoteid == ""
        asked.append(await libstub.aio.reauthenticate(tls))
        assert tls.remoteid == CLIENT
        await echo(reader, writer)

    async def test():
        async with serving(handler, localid=SERVER, remote_auth="ignore") as port:
            reader, writer = await libstub.aio.open_connection("127.0.0.1", port, SERVER, localid=CLIENT)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await ended(writer)

    run(test)
    assert asked == [CLIENT]


def test_two_equals(run):
    async def test():
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        sessions = await asyncio.gather(
            libstub.aio.starttls_peer(one, CLIENT, CLIENT), libstub.aio.starttls_peer(other, CLIENT, CLIENT)
        )
        assert {tls.role for tls in sessions} == {"client", "server"}
        with sessions[0], sessions[1]:
            await loop.sock_sendall(sessions[0].sock, b"x")
            assert await loop.sock_recv(sessions[1].sock, 1) == b"x"

    run(test)


def test_the_standard_librarys_tls_is_the_other_end(run, pool):
    async def test():
        context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
        async with serving(echo, localid="localhost", remote_auth="ignore") as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            await ended(writer)

    run(test)


def test_upgrade_with_the_standard_librarys_starttls(run, pool):
    """Its client starts TLS as soon as it has read the answer, so its first bytes must be left to the pool."""

    async def starttls(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        reader, writer = await libstub.aio.upgrade(
            reader, writer, server=True, localid="localhost", remote_auth="ignore", answer=b"go\n"
        )
        await echo(reader, writer)

    async def one(port, context):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(context, server_hostname="localhost")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.transport.abort()
        await asyncio.sleep(0)

    async def test():
        context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
        async with serving(starttls, plain=True) as port:
            await asyncio.gather(*(one(port, context) for _ in range(20)))

    run(test)


def test_cancelling_ends_the_handshake(run, pool):
    async def test():
        start = len(log_of(pool, "broker"))
        begun = asyncio.Event()

        async def silent(reader, writer):
            begun.set()
            await reader.read()
            writer.close()

        async with serving(silent, plain=True) as port:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await libstub.aio.open_connection("127.0.0.1", port, SERVER)
            await begun.wait()
        await asyncio.to_thread(await_log, pool, "broker", r"event=session\.\w+ .*code=", start)

    run(test)


def test_who_we_are_is_decided_in_the_loop(run):
    names = []

    def host(name):
        names.append(name)
        return name if name == "localhost" else None

    async def test():
        async with serving(echo, on_localid=host, remote_auth="ignore") as port:
            _, writer = await libstub.aio.open_connection("localhost", port)
            assert writer.get_extra_info("tlspool").remoteid == "localhost"
            await ended(writer)
            with pytest.raises(libstub.HandshakeFailed):
                await libstub.aio.open_connection("127.0.0.1", port, "playground.arpa2.lab")

    run(test)
    assert names == ["localhost", "playground.arpa2.lab"]
