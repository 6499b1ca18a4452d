"""Accepting connections for TLS: what ``start_server``, ``create_server`` and ``libstub.listen`` have in common.

asyncio's own servers make a transport of each connection, and transports read; some loops read before a protocol
could stop them.  What is read does not reach the pool, so connections are accepted as sockets here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from libstub.errors import PoolError, PoolUnavailable

SETUPS = 900
"""Connections whose handshake is under way: as many requests as an AsyncPool has under way (pool.py)."""

PAUSE_S = 0.5
"""Before accepting again when that has failed: descriptors have run out, as a rule."""

OnError = Callable[[PoolError, Any], None]
"""Called with why there is no session, and the address of the remote."""

Serve = Callable[[socket.socket, Any], Coroutine[Any, Any, None]]

_log = logging.getLogger("libstub")


def log_error(error: PoolError, remote: Any) -> None:
    """Write a line about a handshake that failed."""
    level = logging.WARNING if isinstance(error, PoolUnavailable) else logging.INFO
    _log.log(level, "no session with %s: %s", remote, str(error))


async def accept_for_ever(sock: socket.socket, places: asyncio.Semaphore, serve: Serve) -> None:
    """Accept while there is a place, and serve each connection in a task of its own, which gives the place back."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()  # a loop holds its tasks only weakly
    while True:
        await places.acquire()
        try:
            accepted, remote = await loop.sock_accept(sock)
        except OSError as error:
            places.release()
            if error.errno != errno.ECONNABORTED:
                _log.warning("accepting pauses: %s", error.strerror)
                await asyncio.sleep(PAUSE_S)
            continue
        task = loop.create_task(serve(accepted, remote))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def listening(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Return sockets that listen at all addresses of a host; '' is everywhere.

    Raises:
        OSError: an address cannot be had.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sock = socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # a host without IPv6
                    continue
                raise
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(backlog)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


class TlsServer(asyncio.AbstractServer):
    """A server that accepts for TLS; it looks like asyncio.Server.

    Attributes:
        sockets: what it listens at; none when it is closed.
    """

    def __init__(self, sockets: Sequence[socket.socket], serve: Serve, setups: int) -> None:
        self.sockets: tuple[socket.socket, ...] = tuple(sockets)
        for sock in self.sockets:
            sock.setblocking(False)
        self._serve = serve
        self._places = asyncio.Semaphore(setups)
        self._accepting: list[asyncio.Task[None]] = []
        self._serving: set[asyncio.Task[None]] = set()
        self._forever: asyncio.Future[None] | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop in which this is called."""
        return asyncio.get_running_loop()

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return bool(self._accepting)

    async def start_serving(self) -> None:
        """Accept from now on; it is done already by what makes servers."""
        if not self._accepting:
            loop = asyncio.get_running_loop()
            self._accepting = [
                loop.create_task(accept_for_ever(sock, self._places, self._one)) for sock in self.sockets
            ]

    async def _one(self, sock: socket.socket, remote: Any) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            await self._serve(sock, remote)
        finally:
            self._places.release()

    async def serve_forever(self) -> None:
        """Wait until this is cancelled, and close."""
        await self.start_serving()
        self._forever = asyncio.get_running_loop().create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()
            await self.wait_closed()

    def close(self) -> None:
        """Stop listening.  Handshakes under way go on, and so do sessions."""
        for task, sock in zip(self._accepting, self.sockets, strict=False):
            task.cancel()
            # The loop would forget it in its next step.  By then the number may be that of a socket made after this,
            # whose reader the loop would take for this one's, and not watch.
            if not task.get_loop().is_closed():
                task.get_loop().remove_reader(sock)
        self._accepting = []
        for sock in self.sockets:
            sock.close()
        self.sockets = ()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    async def wait_closed(self) -> None:
        """Wait until the handshakes that were under way have ended."""
        while self._serving:
            await asyncio.wait(set(self._serving))
