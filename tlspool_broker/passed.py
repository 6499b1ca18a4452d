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
    return PassedFd(fd, _kind(fd, own))


def _kind(fd: OwnedFd, own: Container[str]) -> FdKind:
    try:
        sock = socket.socket(fileno=fd.fileno())
    except OSError:  # a file, a pipe, a terminal
        return FdKind.OTHER
    try:
        # A listener has no peer, nor has a socket that is not connected yet, or was reset.
        address = sock.getpeername()
        if sock.family == socket.AF_UNIX and _text(address) in own:
            return FdKind.POOL
        return _KINDS.get(sock.type, FdKind.OTHER)
    except OSError:
        return FdKind.OTHER
    finally:
        sock.detach()


def _text(address: str | bytes) -> str:
    return os.fsdecode(address)
