"""Streams and transports: what asyncio's look like, with a pool under them; and bytes that came too early."""

import asyncio
import gc
import logging
import socket

import pytest

import libstub
from tests.fixtures.fake_pool import error
from tests.unit.test_libstub_aio_pool import running
from tlspool_common.appwire import Cmd, Flag


def request_of(fake):
    return next(asked.starttls for asked in fake.seen if asked.frame.cmd == Cmd.STARTTLS)


async def echo(reader, writer):
    while data := await reader.read(1000):
        writer.write(data)
    writer.write_eof()
    await writer.drain()
    writer.close()


async def ended(writer):
    writer.close()
    await writer.wait_closed()


@running
async def test_client_and_server(fake):
    seen = []

    async def handler(reader, writer):
        seen.append(writer.get_extra_info("tlspool"))
        seen.append(writer.get_extra_info("peername"))
        await echo(reader, writer)

    server = await libstub.aio.start_server(handler, "127.0.0.1", 0, localid="localhost", pool=fake.path)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await libstub.aio.open_connection("127.0.0.1", port, "localhost", pool=fake.path)
        assert writer.get_extra_info("peername") == ("127.0.0.1", port)
        assert writer.get_extra_info("tlspool").remoteid == "localhost"
        assert writer.get_extra_info("socket").getpeername() == ("127.0.0.1", port)
        assert writer.get_extra_info("nothing", 5) == 5
        writer.write(b"x" * 1_000_000)
        assert writer.can_write_eof()
        writer.write_eof()
        assert await reader.read() == b"x" * 1_000_000
        assert seen[0].localid == "localhost"
        assert seen[1] == writer.get_extra_info("sockname")
        await ended(writer)


@running
async def test_the_host_is_who_the_remote_must_be(fake):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        _, writer = await libstub.aio.open_connection("localhost", port, pool=fake.path, alpn=["h2"])
        assert request_of(fake).remoteid == "localhost"
        assert writer.get_extra_info("tlspool").alpn == "h2"
        await ended(writer)


@running
async def test_a_socket_in_place_of_a_host(fake):
    ours, theirs = socket.socketpair()
    with theirs:
        _, writer = await libstub.aio.open_connection(sock=ours, remoteid="x.example", pool=fake.path, limit=10)
        assert ours.fileno() == -1
        await ended(writer)


@running
async def test_nobody_listens(fake):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await libstub.aio.open_connection("127.0.0.1", port, "x.example", pool=fake.path)


@running
async def test_a_server_says_at_once_what_cannot_be(fake):
    with pytest.raises(libstub.Misuse):
        await libstub.aio.start_server(echo, "127.0.0.1", 0, localid="", pool=fake.path)
    with pytest.raises(libstub.Misuse):
        await libstub.aio.start_server(echo, "127.0.0.1", 0, localid="x.example", timeout_s=0, pool=fake.path)


@running
async def test_a_slow_handshake_delays_nobody(fake):
    loop = asyncio.get_running_loop()
    held, answered = asyncio.Event(), asyncio.Event()
    errors = []

    async def echo_to_the_end(reader, writer):
        await echo(reader, writer)
        answered.set()

    def hold(_peer, _asked):
        fake.on.clear()
        loop.call_soon_threadsafe(held.set)

    fake.on[Cmd.STARTTLS] = hold
    server = await libstub.aio.start_server(
        echo_to_the_end, "127.0.0.1", 0, localid="localhost", pool=fake.path, on_error=lambda *args: errors.append(args)
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        slow_reader, slow_writer = await asyncio.open_connection("127.0.0.1", port)
        await held.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await ended(writer)
        await asyncio.to_thread(fake.drop_connections)
        for asked in fake.seen:
            asked.drop()
        assert await slow_reader.read() == b""
        assert isinstance(errors[0][0], libstub.PoolUnavailable)
        assert errors[0][1] == slow_writer.get_extra_info("sockname")
        await ended(slow_writer)
        await answered.wait()


@running
async def test_a_failure_is_logged_and_the_server_goes_on(fake):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("libstub").addHandler(handler)
    logging.getLogger("libstub").setLevel(logging.INFO)

    def refuse(peer, asked):
        asked.drop()
        peer.send(error(asked.frame, "[307] too slow"))

    fake.on[Cmd.STARTTLS] = refuse
    async with await libstub.aio.start_server(echo, "127.0.0.1", 0, localid="x.example", pool=fake.path) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        await ended(writer)
    logging.getLogger("libstub").removeHandler(handler)
    assert "[307] too slow" in lines[0]


# --- STARTTLS in mid-stream --------------------------------------------------------------------------------------


async def wire():
    """Return streams, and the socket at the other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    return reader, writer, theirs


async def said(sock, data):
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def heard(sock, number):
    data = b""
    while len(data) < number:
        part = await asyncio.get_running_loop().sock_recv(sock, number - len(data))
        if not part:
            break
        data += part
    return data


@running
async def test_a_client_upgrades(fake):
    reader, writer, theirs = await wire()
    with theirs:
        writer.write(b"STARTTLS\r\n")
        await said(theirs, b"220 go ahead\r\n")
        assert await reader.readline() == b"220 go ahead\r\n"
        plain_reader, plain_writer = reader, writer
        reader, writer = await libstub.aio.upgrade(reader, writer, remoteid="mail.example", pool=fake.path)
        assert plain_reader.at_eof()
        assert plain_writer.is_closing()
        assert await heard(theirs, 10) == b"STARTTLS\r\n"
        writer.write(b"EHLO\r\n")
        assert await heard(theirs, 6) == b"EHLO\r\n"
        await said(theirs, b"250 ok\r\n")
        assert await reader.readline() == b"250 ok\r\n"
        assert writer.get_extra_info("tlspool").remoteid == "mail.example"
        await ended(writer)
    assert request_of(fake).flags & Flag.LOCALROLE_CLIENT


@running
async def test_a_server_upgrades_and_loses_no_byte(fake):
    """The answer goes out after reading has stopped, so what follows it is the pool's to read, all of it."""
    reader, writer, theirs = await wire()
    with theirs:
        await said(theirs, b"STARTTLS\r\n")
        await reader.readline()

        async def remote():
            assert await heard(theirs, 14) == b"220 go ahead\r\n"
            await said(theirs, b"a client hello")

        other = asyncio.ensure_future(remote())
        reader, writer = await libstub.aio.upgrade(
            reader, writer, server=True, localid="mail.example", answer=b"220 go ahead\r\n", pool=fake.path
        )
        await other
        assert await reader.readexactly(14) == b"a client hello"
        await ended(writer)
    assert request_of(fake).flags & Flag.LOCALROLE_SERVER


@pytest.mark.parametrize("server", [False, True])
def test_bytes_that_came_too_early_are_refused(fake, server):
    async def run():
        reader, writer, theirs = await wire()
        with theirs:
            await said(theirs, b"STARTTLS\r\nRCPT TO:<me>\r\n")
            assert await reader.readline() == b"STARTTLS\r\n"
            identity = {"localid": "x.example"} if server else {"remoteid": "x.example"}
            with pytest.raises(libstub.HandshakeFailed, match="14 bytes came in plaintext"):
                await libstub.aio.upgrade(reader, writer, server=server, answer=b"220\r\n", pool=fake.path, **identity)
            assert await heard(theirs, 1) == b""

    asyncio.run(run(), debug=True)
    assert fake.commands() == []


@running
async def test_what_was_written_goes_out_before_tls(fake):
    """More than the socket takes at once: the upgrade waits until all of it is gone."""
    reader, writer, theirs = await wire()
    with theirs:
        writer.write(b"x" * 3_000_000)
        assert writer.transport.get_write_buffer_size()
        upgraded = asyncio.ensure_future(
            libstub.aio.upgrade(reader, writer, remoteid="x.example", answer=b"y" * 1_000_000, pool=fake.path)
        )
        assert await heard(theirs, 3_000_000) == b"x" * 3_000_000
        assert await heard(theirs, 1_000_000) == b"y" * 1_000_000
        _, writer = await upgraded
        await ended(writer)


@running
async def test_the_remote_goes_away_before_tls(fake):
    reader, writer, theirs = await wire()
    writer.write(b"x" * 3_000_000)
    upgraded = asyncio.ensure_future(libstub.aio.upgrade(reader, writer, remoteid="x.example", pool=fake.path))
    await heard(theirs, 1)
    theirs.close()
    with pytest.raises(libstub.HandshakeFailed, match="ended before TLS"):
        await upgraded
    reader, writer, theirs = await wire()
    with theirs:
        writer.close()
        with pytest.raises(libstub.HandshakeFailed, match="over before TLS"):
            await libstub.aio.upgrade(reader, writer, remoteid="x.example", pool=fake.path)
        await writer.wait_closed()


@running
async def test_the_answer_cannot_be_given(fake):
    reader, writer, theirs = await wire()
    theirs.close()
    with pytest.raises(libstub.HandshakeFailed, match="ended before TLS"):
        await libstub.aio.upgrade(reader, writer, server=True, localid="x", answer=b"220\r\n", pool=fake.path)


@running
async def test_an_upgrade_is_cancelled(fake):
    fake.on[Cmd.STARTTLS] = lambda _peer, _asked: None
    reader, writer, theirs = await wire()
    upgrade = asyncio.ensure_future(libstub.aio.upgrade(reader, writer, remoteid="x.example", pool=fake.path))
    await asyncio.to_thread(fake.await_commands, Cmd.STARTTLS)
    upgrade.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upgrade
    for asked in fake.seen:
        asked.drop()
    with theirs:
        assert await heard(theirs, 1) == b""


@running
async def test_an_upgrade_is_cancelled_while_it_still_writes(fake):
    reader, writer, theirs = await wire()
    with theirs:
        writer.write(b"x" * 3_000_000)
        upgrade = asyncio.ensure_future(libstub.aio.upgrade(reader, writer, remoteid="x.example", pool=fake.path))
        await asyncio.sleep(0)  # it has begun
        upgrade.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrade
        assert len(await heard(theirs, 3_000_000)) < 3_000_000


# --- protocols and transports ------------------------------------------------------------------------------------


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.events = []
        self.changed = asyncio.Event()

    def note(self, event):
        self.events.append(event)
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self.note("made")

    def data_received(self, data):
        self.note(data)

    def eof_received(self):
        self.note("eof")

    def connection_lost(self, error):
        self.note(("lost", error))

    async def until(self, event):
        while event not in self.events:
            self.changed.clear()
            await self.changed.wait()


async def protocol_wire():
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=ours)
    return transport, protocol, theirs


@running
async def test_start_tls_under_a_protocol(fake):
    transport, protocol, theirs = await protocol_wire()
    with theirs:
        tls = await libstub.aio.start_tls(transport, protocol, remoteid="x.example", pool=fake.path)
        assert (transport.is_closing(), tls.is_closing(), tls.get_protocol()) == (True, False, protocol)
        assert protocol.events == ["made"]
        tls.writelines([b"a", b"b"])
        assert await heard(theirs, 2) == b"ab"
        tls.pause_reading()
        assert not tls.is_reading()
        await said(theirs, b"early")
        tls.resume_reading()
        await protocol.until(b"early")
        tls.set_write_buffer_limits(high=10, low=5)
        assert tls.get_write_buffer_limits() == (5, 10)
        assert tls.get_write_buffer_size() == 0
        assert "x.example" in repr(tls)
        tls.set_protocol(other := Recorder())
        theirs.shutdown(socket.SHUT_WR)
        await other.until("eof")
        tls.abort()
        await other.until(("lost", None))


@running
async def test_a_protocol_hears_of_the_failure(fake):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: peer.send(error(asked.frame, "[402] a stranger"))
    transport, protocol, theirs = await protocol_wire()
    with theirs, pytest.raises(libstub.RemoteUnverified) as caught:
        await libstub.aio.start_tls(transport, protocol, remoteid="x.example", pool=fake.path)
    assert protocol.events == ["made", ("lost", caught.value)]


@running
async def test_create_server(fake):
    made = Recorder()
    server = await libstub.aio.create_server(lambda: made, "127.0.0.1", 0, localid="x.example", pool=fake.path)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        await writer.drain()
        await made.until(b"hello")
        made.transport.write(b"bye")
        assert await reader.readexactly(3) == b"bye"
        made.transport.close()
        await ended(writer)


@running
async def test_what_has_no_socket_is_refused(fake):
    class Strange(asyncio.Transport):
        def is_closing(self):
            return False

    with pytest.raises(libstub.Misuse, match="plain transport with a socket"):
        await libstub.aio.start_tls(Strange(), Recorder(), remoteid="x.example", pool=fake.path)


def test_nothing_is_left_of_a_loop(fake):
    """A program that ends its loop: the connection to the pool is closed when the garbage is collected."""

    async def converse():
        ours, theirs = socket.socketpair()
        with theirs:
            _, writer = await libstub.aio.open_connection(sock=ours, remoteid="x.example", pool=fake.path)
            await ended(writer)

    asyncio.run(converse())
    gc.collect()
    fake.await_change(lambda: not fake.peers)
