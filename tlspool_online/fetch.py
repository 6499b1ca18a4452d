"""Download over http: one request, at most one redirection, everything bounded.

h11 judges the bytes of HTTP; asyncio moves them.  The address a name leads to is looked at (locator.py), and it is
this address that is connected to: a name that leads elsewhere a moment later leads nowhere.  There are no cookies,
no compression and no second request on a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import h11

from tlspool_common.record import record
from tlspool_online import bounds, locator
from tlspool_online.events import Fetch, Kind
from tlspool_online.locator import BadLocator, Locator

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Return the addresses of a host, best first; raises OSError."""

_REDIRECTS = (301, 302, 303, 307, 308)
_READ_B = 65536

_OF_KIND = {
    Kind.LIST: (bounds.LIST_B, bounds.LIST_S, b"application/pkix-crl"),
    Kind.RESPONSE: (bounds.RESPONSE_B, bounds.RESPONSE_S, b"application/ocsp-response"),
}


_ASKED = {
    is_post: h11.Request(method="POST" if is_post else "GET", target="/", headers=[("Host", "-")])
    for is_post in (False, True)
}
_END = h11.EndOfMessage()
"""What is told to h11 of each request: it judges answers by the method."""


class FetchError(Exception):
    """A download came to nothing; ``status`` is HTTP's, 0 when it did not get that far."""

    def __init__(self, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


@record
class _Answer:
    status: int
    location: str
    body: bytes


class Fetcher:
    """Downloads, and the bytes of all of them that nobody has taken yet."""

    def __init__(self, ports: tuple[int, ...], private: bool, resolve: Resolve) -> None:
        self._ports = ports
        self._private = private
        self._resolve = resolve
        self.buffered_b = 0

    def release(self, size_b: int) -> None:
        """Say that a body that was fetched is not kept any more."""
        self.buffered_b -= size_b

    async def fetch(self, order: Fetch) -> bytes:
        """Download.  The bytes count as kept until they are released.

        Raises:
            FetchError: it came to nothing.
        """
        within_s = _OF_KIND[order.kind][1]
        try:
            async with asyncio.timeout(within_s):
                return await self._follow(order)
        except TimeoutError:
            raise FetchError(f"not complete within {within_s:g} s") from None
        except BadLocator as error:
            raise FetchError(f"not asked: {error}") from None
        except OSError as error:
            raise FetchError(error.strerror or str(error) or type(error).__name__) from None

    async def _follow(self, order: Fetch) -> bytes:
        # What we have put into a URL ourselves may make it longer than one in a certificate.
        place = locator.parse_untrusted(order.url, self._ports, 2 * len(order.url))
        for _ in range(1 + bounds.REDIRECTIONS):
            answer = await self._one(place, order)
            if answer.status in _REDIRECTS and answer.location:
                place = locator.redirected_untrusted(place, answer.location, self._ports)
                continue
            if answer.status != 200:
                raise FetchError(f"HTTP status {answer.status}", answer.status)
            return answer.body
        raise FetchError(f"redirected more than {bounds.REDIRECTIONS} time", 0)

    async def _one(self, place: Locator, order: Fetch) -> _Answer:
        reader, writer = await self._connect(place)
        try:
            return await self._exchange(place, order, reader, writer)
        finally:
            writer.transport.abort()  # nothing that we said is of interest to anybody any more

    async def _connect(self, place: Locator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        refused = f"{place.host} has no address"
        try:
            addresses = await self._resolve(place.host, place.port)
        except OSError as error:
            raise FetchError(f"{place.host}: {error.strerror or error}") from None
        except UnicodeError:  # what Python says of a name that cannot be in DNS
            raise FetchError(f"{place.host} is no name of a host") from None
        tried = 0
        for address in _mixed(addresses):
            if why := locator.refusal(address, self._private):
                refused = f"not asked: {place.host} is at {address}, which {why}"
                continue
            if tried == bounds.ADDRESSES:
                break
            tried += 1
            try:
                async with asyncio.timeout(bounds.CONNECT_S):
                    return await asyncio.open_connection(address, place.port)
            except TimeoutError:
                refused = f"{address} does not answer"
            except OSError as error:
                refused = f"{address}: {_reason(error)}"
        raise FetchError(refused)

    async def _exchange(
        self, place: Locator, order: Fetch, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> _Answer:
        most_b, _, accept = _OF_KIND[order.kind]
        writer.write(_request(place, order.post, accept))
        await writer.drain()
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=bounds.HEAD_B)
        parser.send(_ASKED[bool(order.post)])
        parser.send(_END)
        response: h11.Response | None = None
        body = bytearray()
        kept = False
        read_b = parts = 0
        try:
            while True:
                event = parser.next_event()
                parts += 1
                if parts > bounds.PARTS + len(body) // bounds.PART_B:
                    raise FetchError("the answer comes in too small pieces")
                if event is h11.NEED_DATA:
                    data = await reader.read(_READ_B)
                    if not data and response is None:
                        raise FetchError("the connection was closed without an answer")
                    read_b += len(data)
                    if read_b > 2 * most_b + bounds.HEAD_B:
                        raise FetchError(f"more than {2 * most_b + bounds.HEAD_B} bytes around an answer")
                    parser.receive_data(data)
                elif isinstance(event, h11.Response):
                    response = event
                    if response.status_code != 200:
                        return _Answer(response.status_code, _field(response, b"location"), b"")
                    _check_head(response, most_b)
                elif isinstance(event, h11.Data):
                    self._take(body, bytes(event.data), most_b)
                elif isinstance(event, h11.EndOfMessage) and response is not None:
                    kept = True
                    return _Answer(response.status_code, "", bytes(body))
        except h11.RemoteProtocolError as error:
            raise FetchError(f"no HTTP: {str(error)[:100]}") from None  # which may quote a whole line of the answer
        finally:
            if not kept:
                self.release(len(body))

    def _take(self, body: bytearray, data: bytes, most_b: int) -> None:
        if len(body) + len(data) > most_b:
            raise FetchError(f"more than {most_b} bytes")
        if self.buffered_b + len(data) > bounds.BUFFERED_B:
            raise FetchError(f"downloads have {bounds.BUFFERED_B} bytes together already")
        body += data
        self.buffered_b += len(data)


def _request(place: Locator, post: bytes, accept: bytes) -> bytes:
    """Write a request (RFC 9112); its target was held against a pattern."""
    head = [
        f"{'POST' if post else 'GET'} {place.target} HTTP/1.1".encode(),
        b"Host: " + place.authority.encode(),
        b"User-Agent: tlspool",
        b"Accept: " + accept,
        b"Connection: close",
    ]
    if post:
        head += [b"Content-Type: application/ocsp-request", b"Content-Length: %d" % len(post)]
    return b"\r\n".join(head) + b"\r\n\r\n" + post


def _field(response: h11.Response, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in response.headers if key == name), "")


def _check_head(response: h11.Response, most_b: int) -> None:
    if _field(response, b"content-encoding").lower() not in ("", "identity"):
        raise FetchError("the answer is compressed, which was not asked for")
    length = _field(response, b"content-length")
    if length and int(length) > most_b:  # h11 has seen to it that it is a number
        raise FetchError(f"an answer of {length[:20]} bytes; at most {most_b} are taken")


def _reason(error: OSError) -> str:
    # asyncio puts a sentence with the address in the place of the system's word.
    text = error.strerror or str(error)
    return "connection refused" if isinstance(error, ConnectionRefusedError) else text


def _mixed(addresses: list[str]) -> list[str]:
    """Order addresses so that the families take turns, beginning with the best one's."""
    sixes = [one for one in addresses if ":" in one]
    fours = [one for one in addresses if ":" not in one]
    first, second = (sixes, fours) if addresses and ":" in addresses[0] else (fours, sixes)
    mixed = []
    for place in range(max(len(first), len(second))):
        mixed += first[place : place + 1] + second[place : place + 1]
    return mixed
