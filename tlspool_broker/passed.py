"""What a descriptor that an application passed is good for; found out without reading, writing or waiting."""

from __future__ import annotations

import os
import socket
from collections.abc import Container

from tlspool_broker.events import FdKind, PassedFd
from tlspool_common.fd import OwnedFd
from tlspool_common.settings import Settings

_KINDS = {socket.SOCK_STREAM: FdKind.STREAM, socket.SOCK_SEQPACKET: FdKind.SEQPACKET}


def addresses_of(settings: Settings) -> frozenset[str]:
    """Return the addresses that a socket of the pool's own has at its other end."""
    run_dir = settings.run_dir
    control = (str(run_dir / f"{name}.sock") for name in ("broker", "keyd", "pin", "worker"))
    applications = (str(one.path) for one in settings.sockets)
    return frozenset({*applications, str(settings.private_socket), *control})


def looked_at(fd: OwnedFd, own: Container[str]) -> PassedFd:
    """Find out what a descriptor is; ``own`` are the addresses the pool listens at."""
    try:
        sock = socket.socket(fileno=fd.fileno())
    except OSError:  # a file, a pipe, a terminal
        return PassedFd(fd, FdKind.OTHER)
    try:
        # A listener has no peer, nor has a socket that is not connected yet, or was reset.
        address = sock.getpeername()
        if sock.family == socket.AF_UNIX:
            of_pool = _text(address) in own
            return PassedFd(fd, FdKind.POOL if of_pool else _KINDS.get(sock.type, FdKind.OTHER))
        return PassedFd(fd, _KINDS.get(sock.type, FdKind.OTHER), _host(sock.family, address))
    except OSError:
        return PassedFd(fd, FdKind.OTHER)
    finally:
        sock.detach()


def _text(address: str | bytes) -> str:
    return os.fsdecode(address)


def _host(family: int, address: object) -> str:
    """Return a network address without port and scope; one of IPv4 is written as such (RFC 4291 section 2.5.5.2)."""
    if family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
        return ""
    host = str(address[0]).partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host
