"""Addresses as people write them: HOST:PORT, [IPV6]:PORT, :PORT for all interfaces, or the path of a UNIX socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted; it takes less where somaxconn is lower."""

Address = tuple[str, int] | tuple[str, int, int, int] | str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to connect to, or to listen at."""

    family: socket.AddressFamily
    address: Address

    def __str__(self) -> str:
        return shown(self.address)


def shown(address: object) -> str:
    """Return an address of the socket module as people write it."""
    if isinstance(address, tuple):
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address) or "local"


def resolve(text: str, *, listen: bool = False) -> list[Endpoint]:
    """Return the endpoints that a text stands for, most preferred first.

    Raises:
        ValueError: it is no address, or the name is not known; says why.
    """
    if "/" in text:
        if len(os.fsencode(text)) > 107:
            raise ValueError(f"{text!r} is too long for the path of a socket: at most 107 bytes")
        return [Endpoint(socket.AF_UNIX, text)]
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (not host and not listen):
        raise ValueError(f"{text!r} is neither HOST:PORT nor the path of a socket")
    host = host.removeprefix("[").removesuffix("]")
    flags = socket.AI_PASSIVE if listen else 0
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{text!r}: {why}") from None
    endpoints = [Endpoint(family, address) for family, _, _, _, address in found]  # type: ignore[arg-type]
    return list(dict.fromkeys(endpoints))


def listen(text: str) -> list[socket.socket]:
    """Return sockets that listen at all addresses of a text, and do not wait.

    With port 0 all get the port that the kernel chose for the first.  Sockets accepted from these inherit
    TCP_NODELAY and SO_KEEPALIVE.

    Raises:
        ValueError: as ``resolve``.
        OSError: the first address that exists on this host cannot be had.
    """
    made: list[socket.socket] = []
    port = 0
    try:
        for endpoint in resolve(text, listen=True):
            try:
                made.append(_listener(endpoint, port))
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and endpoint.family != socket.AF_UNIX:
                    continue  # a host without IPv6 still has the other one
                raise OSError(error.errno, error.strerror, str(endpoint)) from None
            name = made[-1].getsockname()
            port = name[1] if isinstance(name, tuple) else 0
        if not made:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL), text)
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def _listener(endpoint: Endpoint, port: int) -> socket.socket:
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        address = endpoint.address
        if isinstance(address, str):
            _remove_stale(address)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if endpoint.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            tune(sock)
            address = (address[0], address[1] or port, *address[2:])
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket) -> None:
    """Send what there is at once, and notice a remote that vanished: the worker cannot know what is wanted."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens at."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                Path(path).unlink()


def close_listener(sock: socket.socket) -> None:
    """Close, and remove the file of a UNIX socket; before that, as afterwards it may be a successor's."""
    name = sock.getsockname()
    if isinstance(name, str) and name:
        with suppress(OSError):
            Path(name).unlink()
    sock.close()
