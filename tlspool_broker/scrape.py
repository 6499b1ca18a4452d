"""The port where monitoring fetches metrics: ``GET /metrics`` over HTTP/1, from this host only, and nothing else.

It tells the broker's own numbers and those of the other two daemons, which are asked over their control sockets and
have a second to answer; one that does not is there as ``tlspool_up{daemon="keyd"} 0``.

Any process of the host may ask: there is nothing in the numbers that is about somebody.  A page in a browser of the
host may not: a request has to come under the name of a loopback address, as a scraper's does (a name that somebody
has made to mean 127.0.0.1 is refused).  What a client sends is bounded in bytes and time, and so are clients.
Nobody keeps a scraper out by connecting and saying nothing, or by not reading: when there are too many clients, the
one that has been at that longest gives way to a new one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tlspool_common import control, openmetrics
from tlspool_common.errors import Code, PoolError
from tlspool_common.openmetrics import BadText, Sample, Samples
from tlspool_common.settings import Settings

HEAD_B = 8 * 1024
"""Of a request; a scraper's has some 300 bytes.  nginx takes 8 KiB, Apache 8190 bytes a line."""

CLIENTS = 16
"""At a time; there are one or two scrapers, and nobody else has any business here."""

_REQUEST_S = 5.0
"""For a client to send its request, and again to take the answer."""

_ASK_S = 1.0
"""For another daemon to tell its numbers: it takes milliseconds, and scrapers mostly wait 10 s."""

_OTHERS = ("worker", "keyd")

_REQUEST = re.compile(rb"([A-Z]{1,16}) (\S{1,1024}) HTTP/1\.[01]")
_ODD = re.compile(rb"^[ \t]|[\r\n]")
"""In a header line: it goes on with the one before, or others read two of it, one perhaps Host (RFC 9112 2.2, 5.2)."""

_TEXT = "text/plain; charset=utf-8"


class BadRequest(Exception):
    """What came is not answered with metrics, but with a status."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


def request_untrusted(head: bytes) -> None:
    """See whether a request, up to its blank line, is for the metrics.

    Raises:
        BadRequest: it is not, or is none.
    """
    lines = head.split(b"\r\n")
    match = _REQUEST.fullmatch(lines[0])
    if match is None or any(_ODD.search(line) for line in lines[1:]):
        raise BadRequest("400 Bad Request")
    hosts = [line[5:].strip() for line in lines[1:] if line[:5].lower() == b"host:"]
    if len(hosts) > 1 or (hosts and not _is_loopback(hosts[0])):
        raise BadRequest("403 Forbidden")
    if match[1] != b"GET":
        raise BadRequest("405 Method Not Allowed")
    if match[2].partition(b"?")[0] != b"/metrics":
        raise BadRequest("404 Not Found")


def _is_loopback(host: bytes) -> bool:
    """Whether the value of Host is a loopback address, or the name that always means one (RFC 6761)."""
    text = re.sub(r":[0-9]{1,5}$", "", host.decode("ascii", "replace"))
    if text.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def response(status: str, body: str, kind: str = _TEXT) -> bytes:
    """Return a whole response."""
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
    allow = "Allow: GET\r\n" if status.startswith("405") else ""
    return f"{head}{allow}X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode() + data


async def other(path: Path, daemon: str) -> Samples:
    """Return the samples of another daemon, or that it does not answer."""
    down: Samples = {"tlspool_up": [Sample("tlspool_up", {"daemon": daemon}, 0)]}
    with suppress(OSError, TimeoutError, ValueError, BadText):
        async with asyncio.timeout(_ASK_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=2 * openmetrics.TEXT_B)
            try:
                writer.write(b'{"cmd": "metrics"}\n')
                answer = json.loads(await reader.readline())
            finally:
                writer.close()
        text = answer.get("text") if isinstance(answer, dict) else None
        if isinstance(text, str):
            return openmetrics.read_untrusted(text)
    return down


class Scrapes:
    """Answers scrapers."""

    def __init__(self, settings: Settings, samples: Callable[[], Samples]) -> None:
        self._run_dir = settings.run_dir
        self._samples = samples
        self._clients = control.Clients(CLIENTS)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close; or close at once, when so many requests are being answered."""
        client = self._clients.enter(writer)
        if client is None:
            writer.transport.abort()
            return
        writer.transport.set_write_buffer_limits(0)  # what drain waits for: that nothing is left for close to wait for
        try:
            # The border of this port: whatever a client does, it is the client's loss.
            async with asyncio.timeout(_REQUEST_S):
                data = await self._answer(reader, client)
            self._clients.idle(client)
            writer.write(data)
            async with asyncio.timeout(_REQUEST_S):
                await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._clients.leave(client)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, client: control.Client) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            client.busy = True
            request_untrusted(head[:-4])
        except BadRequest as error:
            return response(error.status, "GET /metrics is all there is\n")
        except (asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            return b""  # no scraper: an answer would hardly arrive, as the rest of what it sent is not read
        return response("200 OK", await self._text(), openmetrics.CONTENT_TYPE)

    async def _text(self) -> str:
        others = await asyncio.gather(*(other(self._run_dir / f"{name}.sock", name) for name in _OTHERS))
        return openmetrics.write(openmetrics.merge([self._samples(), *others]))


def listen(settings: Settings) -> socket.socket | None:
    """Listen where the setting ``metrics_listen`` says; None: nowhere.  To be done before the sandbox is entered.

    Raises:
        PoolError: SETTING_INVALID, the port cannot be had.
    """
    if settings.metrics_listen is None:
        return None
    host, port = settings.metrics_listen
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        text = f"metrics_listen {host}:{port}: {error.strerror or error}; name another port, or end who has it"
        raise PoolError(Code.SETTING_INVALID, text) from None


async def serve(
    settings: Settings, sock: socket.socket | None, samples: Callable[[], Samples]
) -> asyncio.Server | None:
    """Answer at what ``listen`` has returned."""
    if sock is None:
        return None
    return await asyncio.start_server(Scrapes(settings, samples).converse, sock=sock, limit=HEAD_B)
