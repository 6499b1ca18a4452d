"""TLS of the pool in asyncio: streams, transports, and sockets.

A client, a server, and STARTTLS in mid-stream:

    reader, writer = await libstub.aio.open_connection("www.example.com", 443)

    server = await libstub.aio.start_server(handler, "", 443, localid="www.example.com", remote_auth="ignore")

    reader, writer = await libstub.aio.upgrade(reader, writer, remoteid="mail.example.com")

``writer.get_extra_info("tlspool")`` is the TlsSession: who the remote is, and how it is secured.  Addresses and
half-closing are as without TLS.  Options and errors are those of ``libstub.starttls_client`` and
``libstub.starttls_server``.

One connection to the pool serves all coroutines of an event loop, and no thread is used.  A coroutine may be
cancelled at any time: the handshake is broken off, and its sockets are closed.
"""

from libstub.aio.accounts import AsyncAccount
from libstub.aio.asking import (
    channel_binding,
    detach,
    distinguished_name,
    export_keying_material,
    has_general_name,
    reattach,
    reauthenticate,
)
from libstub.aio.pool import AsyncPool
from libstub.aio.server import TlsServer
from libstub.aio.starttls import ping, starttls_client, starttls_peer, starttls_server
from libstub.aio.streams import create_server, open_connection, start_server, upgrade
from libstub.aio.transport import TlsTransport, start_tls

__all__ = [
    "AsyncAccount",
    "AsyncPool",
    "TlsServer",
    "TlsTransport",
    "channel_binding",
    "create_server",
    "detach",
    "distinguished_name",
    "export_keying_material",
    "has_general_name",
    "open_connection",
    "ping",
    "reattach",
    "reauthenticate",
    "start_server",
    "start_tls",
    "starttls_client",
    "starttls_peer",
    "starttls_server",
    "upgrade",
]
