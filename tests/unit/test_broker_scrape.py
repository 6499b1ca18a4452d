"""The port for scrapers: one request, bounded; and two daemons that may not answer.

Invariant: of any bytes ``request_untrusted`` accepts a request for the metrics, or raises BadRequest.
"""

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.loops import on_loop
from tests.fixtures.ports import free_port
from tlspool_broker import scrape as module
from tlspool_broker.scrape import BadRequest, request_untrusted
from tlspool_common.errors import Code, PoolError
from tlspool_common.openmetrics import Sample
from tlspool_common.settings import parse_untrusted

UP = {"tlspool_up": [Sample("tlspool_up", {"daemon": "broker"}, 1)]}


@pytest.mark.parametrize(
    "head",
    [
        b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9109",
        b"GET /metrics HTTP/1.0",
        b"GET /metrics?x=1 HTTP/1.1\r\nhOST: localhost",
        b"GET /metrics HTTP/1.1\r\nHost: [::1]:9109\r\nAccept: */*",
        b"GET /metrics HTTP/1.1\r\nHost:127.9.9.9",
    ],
)
def test_requests_for_the_metrics(head):
    request_untrusted(head)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET /metrics", 400),
        (b"GET  /metrics HTTP/1.1", 400),
        (b"GET /metrics HTTP/2", 400),
        (b"get /metrics HTTP/1.1", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost", 405),
        (b"HEAD /metrics HTTP/1.1\r\nHost: localhost", 405),
        (b"GET / HTTP/1.1\r\nHost: localhost", 404),
        (b"GET /metrics/ HTTP/1.1\r\nHost: localhost", 404),
        (b"GET http://localhost/metrics HTTP/1.1\r\nHost: localhost", 404),
        (b"GET /metrics HTTP/1.1\r\nHost: rebound.example", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: rebound.example:9109", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: 192.0.2.1", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost.example", 403),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 403),
    ],
)
def test_and_all_others(head, status):
    with pytest.raises(BadRequest) as caught:
        request_untrusted(head)
    assert caught.value.status.startswith(f"{status} ")


PARTS = [b"GET ", b"/metrics", b" HTTP/1.1", b"\r\n", b"Host:", b" localhost", b"\r", b"\n", b":", b"\0", b"[::1]"]


@given(st.lists(st.sampled_from(PARTS) | st.binary(max_size=8), max_size=14).map(b"".join))
def test_any_bytes_are_answered_or_refused(head):
    try:
        request_untrusted(head)
    except BadRequest as error:
        assert error.status[:3] in ("400", "403", "404", "405")
    else:
        assert head.startswith(b"GET /metrics")


async def ask(port, data, *, end=False):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def other(path, text):
    """Be another daemon: answer with a text, or ('' never) not at all."""

    async def converse(reader, writer):
        await reader.readline()
        if text:
            writer.write(text)
        else:
            await reader.read()
        writer.close()

    return await asyncio.start_unix_server(converse, path)


REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@on_loop
async def test_the_numbers_of_three_daemons():
    keyd = 'x# TYPE tlspool_up gauge\ntlspool_up{daemon="keyd"} 1\n# EOF\n'[1:]
    patience, module._ASK_S = module._ASK_S, 0.3
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        settings = parse_untrusted(f"run_dir {name}\nmetrics_listen 127.0.0.1:{port}")
        server = await module.serve(settings, module.listen(settings), lambda: UP)
        others = []

        async def up():
            answer = await ask(port, REQUEST)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0")
            body = answer.partition(b"\r\n\r\n")[2].decode()
            assert body.endswith("# EOF\n")
            return [line[-1] for line in body.splitlines() if line.startswith("tlspool_up{")]

        try:
            assert await up() == ["1", "0", "0"]
            others.append(await other(Path(name, "keyd.sock"), json.dumps({"ok": True, "text": keyd}).encode() + b"\n"))
            others.append(await other(Path(name, "worker.sock"), b""))
            assert await up() == ["1", "0", "1"]
            for nonsense in (b"[]\n", b"{\n", b"\xff\n", b'{"text": 7}\n', b'{"text": "x"}\n', b"x" * (3 * 512 * 1024)):
                others.pop().close()
                os.unlink(f"{name}/worker.sock")
                others.append(await other(Path(name, "worker.sock"), nonsense))
                assert await up() == ["1", "0", "1"]
        finally:
            module._ASK_S = patience
            server.close()
            for one in others:
                one.close()


@on_loop
async def test_clients_are_bounded():
    port = free_port()
    settings = parse_untrusted(f"run_dir /nonexistent\nmetrics_listen 127.0.0.1:{port}")
    patience, module._REQUEST_S = module._REQUEST_S, 0.3
    server = await module.serve(settings, module.listen(settings), lambda: UP)
    try:
        assert await ask(port, b"GET /" + b"x" * 20_000) == b""
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert await ask(port, b"GET /metrics", end=True) == b""
        assert await ask(port, b"GET /metrics") == b""  # and then nothing more: cut off
    finally:
        module._REQUEST_S = patience
        server.close()


@contextlib.asynccontextmanager
async def serving(samples, run_dir="/nonexistent"):
    port = free_port()
    settings = parse_untrusted(f"run_dir {run_dir}\nmetrics_listen 127.0.0.1:{port}")
    listener = module.listen(settings)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # else the kernel takes megabytes
    server = await module.serve(settings, listener, lambda: samples)
    try:
        yield port
    finally:
        server.close()


async def connected(port, count, data=b""):
    """Be so many clients who say this, and do not read on their own."""
    loop, found = asyncio.get_running_loop(), []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, data)
        found.append(sock)
    await asyncio.sleep(0.1)
    return found


async def are_over(clients):
    """Whether each was cut off; reads what came before."""
    loop, over = asyncio.get_running_loop(), []
    for sock in clients:
        try:
            async with asyncio.timeout(0.2):
                while await loop.sock_recv(sock, 100_000):
                    pass
            over.append(True)
        except ConnectionError:
            over.append(True)
        except TimeoutError:
            over.append(False)
        finally:
            sock.close()
    return over


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@on_loop
async def test_who_says_nothing_gives_way_to_a_scraper():
    """... the oldest first; long before its time is over."""
    async with serving(UP) as port:
        idle = await connected(port, module.CLIENTS, b"GET /metrics HTTP/1.1\r\n")
        async with asyncio.timeout(module._REQUEST_S / 2):
            for _ in range(3):
                assert (await ask(port, REQUEST)).startswith(b"HTTP/1.1 200 ")
        assert await are_over(idle) == [True] + [False] * (module.CLIENTS - 1)


LONG = {"tlspool_up": [Sample("tlspool_up", {"daemon": f"{number:0>60}"}, 1) for number in range(3_000)]}
"""More than the kernel takes for somebody who does not read, and asyncio without a word."""


@on_loop
async def test_who_does_not_read_gives_way_to_a_scraper():
    async with serving(LONG) as port:
        deaf = await connected(port, module.CLIENTS, REQUEST)
        async with asyncio.timeout(module._REQUEST_S):
            answer = await ask(port, REQUEST)
        assert answer.endswith(b"# EOF\n")
        assert (await are_over(deaf))[0]


@on_loop
async def test_who_does_not_read_is_cut_off_and_leaves_nothing():
    """However little is left for it: a descriptor must not wait for it for ever."""
    patience, module._REQUEST_S = module._REQUEST_S, 0.3
    few = {"tlspool_up": LONG["tlspool_up"][:500]}  # less than asyncio would keep without a word
    before = descriptors()
    try:
        async with serving(few) as port:
            deaf = await connected(port, 4, REQUEST)
            assert descriptors() > before + 2 * len(deaf)
            await asyncio.sleep(0.8)
            assert descriptors() <= before + 1 + len(deaf)
            await are_over(deaf)
    finally:
        module._REQUEST_S = patience


@on_loop
async def test_who_is_being_answered_does_not_give_way():
    patience, module._ASK_S = module._ASK_S, 0.6
    with tempfile.TemporaryDirectory() as name:
        silent = await other(Path(name, "keyd.sock"), b"")
        try:
            async with serving(UP, name) as port:
                answers = [asyncio.create_task(ask(port, REQUEST)) for _ in range(module.CLIENTS)]
                await asyncio.sleep(0.2)
                assert await ask(port, REQUEST) == b""
                assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in await asyncio.gather(*answers))
        finally:
            module._ASK_S = patience
            silent.close()


@on_loop
async def test_a_port_that_is_taken_and_none_at_all():
    assert await module.serve(parse_untrusted(""), module.listen(parse_untrusted("")), lambda: UP) is None
    settings = parse_untrusted(f"metrics_listen 127.0.0.1:{free_port()}")
    server = await module.serve(settings, module.listen(settings), lambda: UP)
    try:
        with pytest.raises(PoolError) as caught:
            await module.serve(settings, module.listen(settings), lambda: UP)
        assert caught.value.code is Code.SETTING_INVALID
        assert "metrics_listen" in str(caught.value)
    finally:
        server.close()


@pytest.mark.parametrize("value", ["127.0.0.1:9109", "[::1]:9109", "127.1.2.3:1"])
def test_loopback_addresses(value):
    settings = parse_untrusted(f"metrics_listen {value}")
    assert settings.metrics_listen is not None


@pytest.mark.parametrize(
    "value", ["0.0.0.0:9109", "[::]:9109", "192.0.2.1:80", "localhost:80", "127.0.0.1", "127.0.0.1:0", "9109"]
)
def test_and_no_others(value):
    with pytest.raises(PoolError) as caught:
        parse_untrusted(f"metrics_listen {value}")
    assert "loopback" in str(caught.value)
