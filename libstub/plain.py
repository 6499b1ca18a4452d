"""The plaintext end of a session, which answers for the connection underneath when it is asked for addresses.

The pool relays to one end of a UNIX socket pair, whose other end is in here.  That has no address, but servers
log the remote's, clients such as ftplib connect to it again, and both look at their socket for it.  Everything
else is left as the kernel has it: the family is AF_UNIX, and options of TCP do not apply.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from libstub.session import TlsSession


class Addresses(NamedTuple):
    """Both ends of a connection; None where there is no telling."""

    local: Any
    remote: Any


def addresses_of(sock: socket.socket) -> Addresses:
    """Return the addresses of a socket; a connection that is over has no remote any more."""
    local = remote = None
    with suppress(OSError):
        local = sock.getsockname()
    with suppress(OSError):
        remote = sock.getpeername()
    return Addresses(local, remote)


class PlainSocket(socket.socket):
    """A plaintext socket with the addresses of the encrypted one.

    Attributes:
        tls: the session, where nothing else holds it: on sockets that ``libstub.listen`` and the servers in
            ``libstub.adapters`` hand out; None on the ``sock`` of a TlsSession.
    """

    tls: TlsSession | None = None
    _addresses: Addresses | None = None

    @classmethod
    def of(cls, sock: socket.socket, addresses: Addresses) -> PlainSocket:
        """Return a new object for a socket; the old one is closed without closing the connection."""
        timeout_s = sock.gettimeout()
        made = cls(sock.family, sock.type, sock.proto, sock.detach())
        made.settimeout(timeout_s)
        made._addresses = addresses
        return made

    def getpeername(self) -> Any:
        """Return the address of the remote."""
        return super().getpeername() if self._addresses is None else self._addresses.remote

    def getsockname(self) -> Any:
        """Return our address towards the remote."""
        return super().getsockname() if self._addresses is None else self._addresses.local
