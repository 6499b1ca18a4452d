"""UDP sockets: one for each port that the core has for a server, and the one where requests come in.

A socket is connected to its server, so that the kernel drops what comes from others and tells when nobody listens
there.  A server that is named by name is looked up in a thread when its socket is opened; what is to be sent waits for
that, and is not sent any more when it takes long: the core repeats it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from tlspool_radius import bounds
from tlspool_radius.events import Address, Event, Heard, Requested, Transmit, Unreachable

_WAITING = 256
"""Datagrams that wait for a name: the first ones are dropped then."""

Key = tuple[int, int]


@dataclass(slots=True, eq=False)
class _Port:
    sock: socket.socket | None = None
    waiting: list[bytes] = field(default_factory=list)
    others: list[Address] = field(default_factory=list)
    last: bytes = field(default=b"", repr=False)


class Sockets:
    """All sockets for servers.  ``tell`` takes events, on the loop, and never within a call."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell = tell
        self._ports: dict[Key, _Port] = {}
        self._names = ThreadPoolExecutor(bounds.NAMES_AT_ONCE, "names")
        self._looking: set[asyncio.Task[None]] = set()

    def transmit(self, order: Transmit) -> None:
        """Send a datagram; a socket that is not there is opened."""
        key = (order.server, order.port)
        port = self._ports.get(key)
        if port is None:
            port = self._ports[key] = _Port()
            if _is_address(order.address[0]):
                self._connect(key, port, [order.address])
            else:
                task = self._loop.create_task(self._look_up(key, port, order.address))
                self._looking.add(task)
                task.add_done_callback(self._looked_up)
        if port.sock is None:
            port.waiting = [*port.waiting, order.data][-_WAITING:]
        else:
            self._send(key, port.sock, order.data)

    def close_port(self, server: int, number: int) -> None:
        """Close a socket."""
        port = self._ports.pop((server, number), None)
        if port is not None and port.sock is not None:
            self._loop.remove_reader(port.sock)
            port.sock.close()

    def close(self) -> None:
        """Close all."""
        for server, number in list(self._ports):
            self.close_port(server, number)
        self._names.shutdown(wait=False, cancel_futures=True)

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        self._looking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a name", "exception": error})

    async def _look_up(self, key: Key, port: _Port, address: Address) -> None:
        try:
            found = await self._loop.run_in_executor(self._names, _addresses, *address)
        except (OSError, UnicodeError) as error:  # UnicodeError: what looks like a name and cannot be one
            if self._ports.get(key) is port:
                del self._ports[key]
                detail = error.strerror if isinstance(error, OSError) else "it is none"
                self._tell(Unreachable(*key, f"its name cannot be looked up: {detail}"))
            return
        if self._ports.get(key) is port:
            self._connect(key, port, found)
            waiting, port.waiting = port.waiting, []
            if (sock := port.sock) is not None:
                for data in waiting:
                    self._send(key, sock, data)

    def _connect(self, key: Key, port: _Port, addresses: list[Address]) -> None:
        """Open a socket; of several addresses the first that there is a route to, and the next when nobody is there."""
        detail = "there is no address"
        for number, address in enumerate(addresses, 1):
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            try:
                sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            except OSError as error:
                detail = error.strerror or str(error)
                continue
            try:
                sock.connect(address)
            except OSError as error:
                detail = error.strerror or str(error)
                sock.close()
                continue
            port.sock, port.others = sock, addresses[number:]
            self._loop.add_reader(sock, self._readable, key, sock)
            return
        del self._ports[key]
        self._later(Unreachable(*key, detail))

    def _go_on(self, key: Key) -> bool:
        """Nobody is at an address: go on to the next one of that name, if there is one."""
        port = self._ports.get(key)
        if port is None or port.sock is None or not port.others:
            return False
        old = port.sock
        self._loop.remove_reader(old)
        old.close()
        self._connect(key, port, port.others)
        if port.sock is not old:
            self._send(key, port.sock, port.last)  # what else was sent is repeated in its time
        return True

    def _later(self, event: Event) -> None:
        self._loop.call_soon(self._tell, event)

    def _send(self, key: Key, sock: socket.socket, data: bytes) -> None:
        if self._ports[key].others:
            self._ports[key].last = data
        try:
            sock.send(data)
        except BlockingIOError:
            return  # as if it were lost on the way: it is repeated
        except OSError as error:
            # It is of an earlier datagram, or there is no route; asyncio's reader would be told no more of it.
            if not self._go_on(key):
                self._later(Unreachable(*key, _words(error)))

    def _readable(self, key: Key, sock: socket.socket) -> None:
        for _ in range(bounds.DATAGRAMS_AT_ONCE):
            if key not in self._ports or self._ports[key].sock is not sock:
                return
            try:
                data = sock.recv(bounds.RECEIVED_B)
            except BlockingIOError:
                return
            except OSError as error:
                if not self._go_on(key):
                    self._tell(Unreachable(*key, _words(error)))
                return
            self._ports[key].others = []
            self._tell(Heard(*key, data))


class Listener:
    """The socket where servers send requests to."""

    def __init__(self, sock: socket.socket, tell: Callable[[Event], None]) -> None:
        self._sock = sock
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def reply(self, source: Address, data: bytes) -> None:
        """Send an answer."""
        with suppress(OSError):  # whoever asked asks once more
            self._sock.sendto(data, source)

    def close(self) -> None:
        """Close it."""
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        for _ in range(bounds.DATAGRAMS_AT_ONCE):
            try:
                data, source = self._sock.recvfrom(bounds.RECEIVED_B)
            except OSError:
                return
            self._tell(Requested((source[0], source[1]), data))


def listening(address: Address) -> socket.socket:
    """Open the socket for requests.

    Raises:
        OSError: the address is not ours, or in use.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _words(error: OSError) -> str:
    return "nobody listens there" if isinstance(error, ConnectionRefusedError) else error.strerror or str(error)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
    return list(dict.fromkeys((str(address[0]), port) for *_, address in found))
