"""Sockets for servers, and the one for requests: what is sent, who is heard, when a server cannot be reached."""

import asyncio
import socket

import pytest

from tests.fixtures.radius_server import free_port
from tlspool_radius import bounds, sockets
from tlspool_radius import events as e
from tlspool_radius.sockets import Listener, Sockets, listening

pytestmark = pytest.mark.usefixtures("no_leaks")


def on_loop(story):
    async def bounded():
        async with asyncio.timeout(20):
            await story

    asyncio.run(bounded())


class Told:
    def __init__(self):
        self.queue = asyncio.Queue()

    def __call__(self, event):
        self.queue.put_nowait(event)

    async def next(self):
        return await asyncio.wait_for(self.queue.get(), 30)


def udp(host="127.0.0.1"):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.settimeout(30)
    return sock


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_question_and_its_answer(host):
    async def play():
        told = Told()
        ours = Sockets(told)
        with udp(host) as server, udp(host) as stranger:
            address = server.getsockname()[:2]
            ours.transmit(e.Transmit(7, 1, address, b"one"))
            ours.transmit(e.Transmit(7, 2, address, b"two"))
            found = {}
            for _ in range(2):
                data, source = server.recvfrom(100)
                found[data] = source
            assert len(set(found.values())) == 2
            stranger.sendto(b"forged", found[b"two"])
            server.sendto(b"answer", found[b"two"])
            assert await told.next() == e.Heard(7, 2, b"answer")
            server.sendto(b"x" * (bounds.RECEIVED_B + 500), found[b"one"])
            heard = await told.next()
            assert (heard.port, len(heard.data)) == (1, bounds.RECEIVED_B)
            ours.close_port(7, 2)
            ours.close_port(7, 2)
            ours.transmit(e.Transmit(7, 2, address, b"three"))
            assert server.recvfrom(100)[1] != found[b"two"]
        ours.close()

    on_loop(play())


def test_nobody_listens():
    async def play():
        told = Told()
        ours = Sockets(told)
        ours.transmit(e.Transmit(7, 1, ("127.0.0.1", free_port()), b"one"))
        assert await told.next() == e.Unreachable(7, 1, "nobody listens there")
        ours.close()

    on_loop(play())


def test_there_is_no_way_there():
    async def play():
        told = Told()
        ours = Sockets(told)
        ours.transmit(e.Transmit(7, 1, ("255.255.255.255", 1812), b"one"))
        found = await told.next()
        assert (found.server, found.port) == (7, 1)
        assert "ermission" in found.detail or "each" in found.detail
        ours.close()

    on_loop(play())


def test_names(monkeypatch):
    async def play():
        told = Told()
        ours = Sockets(told)
        with udp() as server:
            port = server.getsockname()[1]
            answers = {"radius.example": [("127.0.0.1", port)], "none.example": []}

            def look_up(host, _port):
                if host == "wrong.example":
                    raise socket.gaierror(-2, "Name or service not known")
                if host == "odd..example":
                    raise UnicodeError("label empty")
                return answers[host]

            monkeypatch.setattr(sockets, "_addresses", look_up)
            for number in range(300):
                ours.transmit(e.Transmit(1, 1, ("radius.example", port), f"{number}".encode()))
            first, *_ = await asyncio.to_thread(lambda: [server.recv(100) for _ in range(256)])
            assert first == b"44"  # more than there is room for: those that came first are repeated anyway
            ours.transmit(e.Transmit(1, 1, ("radius.example", port), b"later"))
            assert server.recv(100) == b"later"
        for number, (host, why) in enumerate(
            [
                ("wrong.example", "Name or service not known"),
                ("odd..example", "it is none"),
                ("none.example", "no address"),
            ]
        ):
            ours.transmit(e.Transmit(2 + number, 1, (host, 1), b"x"))
            found = await told.next()
            assert (found.server, found.port) == (2 + number, 1)
            assert why in found.detail
        ours.close()

    on_loop(play())


def test_a_socket_that_is_closed_while_its_name_is_looked_up(monkeypatch):
    async def play():
        told = Told()
        ours = Sockets(told)
        monkeypatch.setattr(sockets, "_addresses", lambda host, port: [("127.0.0.1", 9)])
        ours.transmit(e.Transmit(1, 1, ("radius.example", 9), b"x"))
        ours.close_port(1, 1)
        await asyncio.gather(*ours._looking)
        assert ours._ports == {}
        ours.close()

    on_loop(play())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_requests_and_replies(host):
    async def play():
        told = Told()
        address = (host, free_port())
        listener = Listener(listening(address), told)
        with udp(host) as client:
            client.sendto(b"request", address)
            found = await told.next()
            assert found == e.Requested(client.getsockname()[:2], b"request")
            listener.reply(found.source, b"reply")
            assert client.recv(100) == b"reply"
            listener.reply((host, 0), b"nowhere")
        with pytest.raises(OSError, match="in use"):
            listening(address)
        listener.close()

    on_loop(play())


def test_a_name_with_several_addresses(monkeypatch):
    """Where nobody listens the next address is tried, at once, and with what was sent; the last one counts."""

    async def play():
        told = Told()
        ours = Sockets(told)
        with udp() as server:
            number = server.getsockname()[1]
            monkeypatch.setattr(sockets, "_addresses", lambda host, port: [("127.0.0.2", port), ("127.0.0.1", port)])
            ours.transmit(e.Transmit(7, 1, ("server.example", number), b"one"))
            data, source = await asyncio.to_thread(server.recvfrom, 100)
            assert data == b"one"
            server.sendto(b"answer", source)
            assert await told.next() == e.Heard(7, 1, b"answer")
        ours.transmit(e.Transmit(7, 1, ("server.example", number), b"two"))
        assert await told.next() == e.Unreachable(7, 1, "nobody listens there")
        ours.close()

    on_loop(play())
