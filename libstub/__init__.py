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

docs/libstub.md has the rest.
"""

from libstub.errors import (
    HandshakeFailed,
    KeyTrouble,
    Misuse,
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
from libstub.pool import Pool
from libstub.session import TlsSession
from libstub.starttls import NO_TIMEOUT, RemoteAuth, ping, starttls_client, starttls_server
from libstub.where import DEFAULT_SOCKET, socket_path

__all__ = [
    "DEFAULT_SOCKET",
    "NO_TIMEOUT",
    "HandshakeFailed",
    "KeyTrouble",
    "Misuse",
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
    "socket_path",
    "starttls_client",
    "starttls_server",
]
