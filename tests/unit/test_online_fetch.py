"""Downloads: one request over http, bounded in every way."""

import asyncio
import contextlib

import pytest

from tests.fixtures.loops import on_loop
from tlspool_online import bounds
from tlspool_online.events import Fetch, Kind
from tlspool_online.fetch import Fetcher, FetchError

OK = b"HTTP/1.1 200 OK\r\n"


class Host:
    """A server on loopback that says what it is told to; each connection takes the next of ``answers``."""

    def __init__(self, *answers, hangs=False):
        self.answers = list(answers)
        self.requests = []
        self.hangs = hangs
        self.ended = asyncio.Event()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.ended.set()

    async def _serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
            self.requests.append(head + await reader.readexactly(length))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            for part in [answer] if isinstance(answer, bytes) else answer:
                writer.write(part.replace(b"PORT", str(self.port).encode()))
                await writer.drain()
            if self.hangs:
                await self.ended.wait()
        writer.transport.abort() if self.hangs else writer.close()

    def fetcher(self, addresses=("127.0.0.1",), private=True, ports=()):
        async def resolve(host, port):
            if host == "nowhere.example":
                raise OSError(-2, "Name or service not known")
            return list(addresses)

        return Fetcher((self.port, *ports), private, resolve)

    def order(self, kind=Kind.LIST, post=b"", path="/a.crl", name="a.example"):
        return Fetch(1, kind, f"http://{name}:{self.port}{path}", post)


async def fails(host, why, fetcher=None, **order):
    fetcher = fetcher or host.fetcher()
    with pytest.raises(FetchError, match=why) as caught:
        await fetcher.fetch(host.order(**order))
    assert fetcher.buffered_b == 0
    return caught.value


@on_loop
async def test_get():
    async with Host(OK + b"Content-Length: 5\r\n\r\nhello") as host:
        fetcher = host.fetcher()
        assert await fetcher.fetch(host.order()) == b"hello"
        assert fetcher.buffered_b == 5
        fetcher.release(5)
        (request,) = host.requests
        assert request == (
            b"GET /a.crl HTTP/1.1\r\nHost: a.example:%d\r\nUser-Agent: tlspool\r\nAccept: application/pkix-crl\r\n"
            b"Connection: close\r\n\r\n" % host.port
        )


@on_loop
async def test_post():
    async with Host(OK + b"Content-Length: 2\r\n\r\nok") as host:
        assert await host.fetcher().fetch(host.order(Kind.RESPONSE, b"question")) == b"ok"
        assert host.requests[0].startswith(b"POST /a.crl HTTP/1.1\r\n")
        assert b"\r\nContent-Type: application/ocsp-request\r\nContent-Length: 8\r\n\r\nquestion" in host.requests[0]


@on_loop
async def test_ways_to_say_where_a_body_ends():
    for answer in (
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        OK + b"\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        [b"HTTP/1.1 100 Continue\r\n\r\n", OK, b"Content-Length:", b" 5\r\n\r\nhel", b"lo"],
    ):
        async with Host(answer) as host:
            assert await host.fetcher().fetch(host.order()) == b"hello"


@on_loop
async def test_answers_that_are_none():
    for answer, why in (
        (b"", "closed"),
        (b"220 smtp.example ESMTP\r\n", "no HTTP|closed"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "no HTTP|closed"),
        (OK + b"Content-Length: 5\r\n\r\nhel", "no HTTP"),
        (OK + b"Content-Length: -1\r\n\r\n", "no HTTP"),
        (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "no HTTP"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", "no HTTP"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\n", "no HTTP"),
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "compressed"),
        (OK + b"X: " + b"a" * 20_000, "no HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3, "closed"),
    ):
        async with Host(answer) as host:
            assert (await fails(host, why)).status == 0


@on_loop
async def test_status():
    for status in (204, 206, 304, 400, 404, 500):
        async with Host(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status) as host:
            assert (await fails(host, f"HTTP status {status}")).status == status


@on_loop
async def test_bodies_are_bounded():
    async with Host(OK + b"Content-Length: 16385\r\n\r\n") as host:
        await fails(host, "an answer of 16385 bytes; at most 16384", kind=Kind.RESPONSE)
    async with Host(OK + b"Content-Length: 99999999999999999999999\r\n\r\n") as host:
        await fails(host, "an answer of 99999999999999999999 bytes|no HTTP")
    async with Host([OK, b"\r\n", *[b"x" * 4096] * 5]) as host:
        await fails(host, "more than 16384 bytes", kind=Kind.RESPONSE)
    async with Host(OK + b"\r\n" + b"x" * 16384) as host:
        assert len(await host.fetcher().fetch(host.order(Kind.RESPONSE))) == 16384


@on_loop
async def test_all_bodies_together_are_bounded():
    async with Host(OK + b"\r\n" + b"x" * 5000) as host:
        fetcher = host.fetcher()
        fetcher.buffered_b = bounds.BUFFERED_B - 7000
        await fetcher.fetch(host.order())
        with pytest.raises(FetchError, match="together"):
            await fetcher.fetch(host.order())
        assert fetcher.buffered_b == bounds.BUFFERED_B - 2000
        fetcher.release(5000)
        await fetcher.fetch(host.order())


def test_hosts_that_are_slow(monkeypatch):
    @on_loop
    async def story():
        for answer in (b"", OK, OK + b"Content-Length: 10\r\n\r\nhel", [OK, b"X: y\r\n"]):
            async with Host(answer, hangs=True) as host:
                await fails(host, "not complete within 0.05 s")

    monkeypatch.setitem(module_kinds(), Kind.LIST, (bounds.LIST_B, 0.05, b"x"))
    story(None)


def module_kinds():
    from tlspool_online import fetch

    return fetch._OF_KIND


# --- redirections -----------------------------------------------------------------------------------------


def moved(where, status=302):
    return b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, where)


@on_loop
async def test_one_redirection_is_followed():
    for status in (301, 302, 303, 307, 308):
        for where in (b"/b", b"http://b.example:PORT/b"):
            async with Host(moved(where, status), OK + b"Content-Length: 2\r\n\r\nok") as host:
                assert await host.fetcher().fetch(host.order()) == b"ok"
                assert host.requests[1].startswith(b"GET /b HTTP/1.1")


@on_loop
async def test_redirections_that_are_not():
    for where, why in (
        (b"/loop", "redirected more than 1 time"),
        (b"https://a.example/", "only http"),
        (b"file:///etc/passwd", "only http"),
        (b"http://a.example:22/", "port 22"),
        (b"http://u:p@a.example:PORT/", "names a user"),
        (b"http://[fe80::1%25lo]:PORT/", "scope"),
        (b"", "HTTP status 302"),
        (b"\xff\xfe", "printable"),
    ):
        async with Host(moved(where)) as host:
            await fails(host, why)


@on_loop
async def test_a_redirection_to_an_address_that_is_refused():
    async with Host(moved(b"http://b.example:PORT/")) as host:
        answers = iter([["127.0.0.1"], ["169.254.169.254"]])

        async def resolve(_host, _port):
            return next(answers)

        await fails(host, "169.254.169.254, which is link-local", Fetcher((host.port,), True, resolve))
        assert len(host.requests) == 1


# --- addresses --------------------------------------------------------------------------------------------


@on_loop
async def test_addresses_that_are_refused():
    async with Host(OK + b"\r\n") as host:
        for address, why in (("127.0.0.1", "this host"), ("10.0.0.1", "private"), ("::1", "this host")):
            await fails(host, f"{address}, which is {why}", host.fetcher([address], private=False))
        for address in ("0.0.0.0", "169.254.169.254", "255.255.255.255", "ff02::1", "::ffff:169.254.169.254"):
            await fails(host, f"{address}, which is", host.fetcher([address]))
        assert host.requests == []


@on_loop
async def test_the_address_that_was_looked_at_is_connected_to():
    async with Host(OK + b"\r\nok") as host:
        asked = []

        async def resolve(name, _port):
            asked.append(name)
            return ["169.254.1.1", "127.0.0.1"]  # only the second one may be used

        assert await Fetcher((host.port,), True, resolve).fetch(host.order()) == b"ok"
        assert asked == ["a.example"]


@on_loop
async def test_the_next_address_is_tried():
    async with Host(OK + b"\r\nok") as host:
        assert await host.fetcher(["127.0.0.9", "127.0.0.1"]).fetch(host.order()) == b"ok"
        await fails(
            host, "127.0.0.7: connection refused", host.fetcher(["127.0.0.9", "127.0.0.8", "127.0.0.7", "127.0.0.1"])
        )


@on_loop
async def test_names_without_addresses():
    async with Host(OK) as host:
        await fails(host, "Name or service not known", host.fetcher(), name="nowhere.example")
        await fails(host, "has no address", host.fetcher([]))


def test_an_address_that_does_not_answer(monkeypatch):
    @on_loop
    async def story():
        async with Host(OK) as host:
            await fails(host, "127.0.0.1 does not answer")

    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(bounds, "CONNECT_S", 0.02)
    monkeypatch.setattr(asyncio, "open_connection", never)
    story(None)


@on_loop
async def test_urls_that_are_not_asked():
    async with Host(OK) as host:
        with pytest.raises(FetchError, match="not asked: port 1 "):
            await host.fetcher().fetch(Fetch(1, Kind.LIST, "http://a.example:1/", b""))
