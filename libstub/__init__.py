"""TLS for programs that hold no keys: hand a connected socket to the TLS pool, get plaintext and identities.

A client:

    import socket
    import libstub

    sock = socket.create_connection(("www.example.com", 443))
    with libstub.starttls_client(sock, "www.example.com") as tls:
        print(tls.remoteid, tls.version, tls.group)
        tls.sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")

A server:

    sock, _ = listener.accept()
    with libstub.starttls_server(sock, "www.example.com", remote_auth="ignore") as tls:
        data = tls.sock.recv(4096)

The program never sees a key, a PIN, a certificate or a cipher setting; all that is decided in the pool.  The
socket that went in is gone (closed, whatever happens); ``tls.sock`` has the plaintext.  Whatever was said before
TLS starts (SMTP's STARTTLS, for instance) must be read to the last byte, but no further.

Identities are what was proved: ``tls.remoteid`` is '' if the remote was not asked.  A client is always told who
the server is, or fails.  A server asks for a certificate unless ``remote_auth="ignore"``.

What goes wrong is a PoolError.  Its subclasses tell what can be done about it, ``code`` is stable
(docs/errors.md), and the text is for people:

    try:
        tls = libstub.starttls_client(sock, "www.example.com")
    except libstub.RemoteUnverified as error:     # it is not who it should be: do not go on
        ...
    except libstub.PoolUnavailable as error:      # try again later
        ...
    except libstub.PoolError as error:            # everything else
        sys.exit(str(error))

Many threads may do all this at once, over one connection to the pool.  Sessions end with that connection: with
the program, unless ``fork=True``.  A child after fork has the sockets of its parent's sessions, and makes a
connection of its own when it needs one.

Which pool: the argument ``pool`` (a Pool, or a path), else TLSPOOL_SOCKET, else the configuration file, else
/run/tlspool/tlspool.sock.  ``ping()`` tells whether there is one.

``libstub.aio`` is all this for asyncio, ``libstub.listen`` a listening socket for servers that accept by themselves,
and ``libstub.adapters`` has the standard library's HTTP, SMTP, IMAP, POP3 and FTP over the pool.

A Pool also asks RADIUS servers for a program, and has them told what to bill: ``Pool.authenticate``,
``Pool.authorize``, ``Pool.account``.

docs/libstub.md has the rest.
"""

import importlib
from typing import TYPE_CHECKING

from libstub.aaa import Access
from libstub.accounts import Account
from libstub.errors import (
    AccessRejected,
    HandshakeFailed,
    KeyTrouble,
    Misuse,
    NotAvailable,
    NotInControl,
    PoolError,
    PoolInternal,
    PoolMisconfigured,
    PoolUnavailable,
    ProtocolError,
    Refused,
    RemoteUnverified,
    Timeout,
)
from libstub.events import Pong
from libstub.holding import OnLocalid
from libstub.peer import starttls_peer
from libstub.pool import Pool
from libstub.session import TlsSession
from libstub.starttls import NO_TIMEOUT, RemoteAuth, ping, reattach, starttls_client, starttls_server
from libstub.where import DEFAULT_SOCKET, socket_path

if TYPE_CHECKING:
    from libstub import adapters as adapters
    from libstub import aio as aio
    from libstub.listener import TlsListener as TlsListener
    from libstub.listener import listen as listen
    from libstub.services import DisclosedEntry as DisclosedEntry
    from libstub.services import LocalidChoice as LocalidChoice
    from libstub.services import LocalidQuestion as LocalidQuestion
    from libstub.services import LocalidService as LocalidService
    from libstub.services import PinQuestion as PinQuestion
    from libstub.services import PinService as PinService

__all__ = [
    "DEFAULT_SOCKET",
    "NO_TIMEOUT",
    "Access",
    "AccessRejected",
    "Account",
    "HandshakeFailed",
    "KeyTrouble",
    "Misuse",
    "NotAvailable",
    "NotInControl",
    "OnLocalid",
    "Pong",
    "Pool",
    "PoolError",
    "PoolInternal",
    "PoolMisconfigured",
    "PoolUnavailable",
    "ProtocolError",
    "Refused",
    "RemoteAuth",
    "RemoteUnverified",
    "Timeout",
    "TlsSession",
    "ping",
    "reattach",
    "socket_path",
    "starttls_client",
    "starttls_peer",
    "starttls_server",
]

# They import asyncio or protocols of the standard library, which takes longer than all the rest, and most programs
# need none of them.
_LATER = {
    "adapters": "",
    "aio": "",
    "TlsListener": "listener",
    "listen": "listener",
    "DisclosedEntry": "services",
    "LocalidChoice": "services",
    "LocalidQuestion": "services",
    "LocalidService": "services",
    "PinQuestion": "services",
    "PinService": "services",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import on first use what is not needed by all."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_LATER[name] or name}")
        return getattr(module, name) if _LATER[name] else module
