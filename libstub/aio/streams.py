"""``open_connection``, ``start_server`` and ``upgrade``: asyncio's streams, with TLS of the pool under them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Unpack, cast

from libstub.aio.pool import AsyncPoolOrPath
from libstub.aio.server import SETUPS, OnError, TlsServer, listening, log_error
from libstub.aio.starttls import request_of, secure
from libstub.aio.transport import Held, over_session, secure_taken, take_socket
from libstub.errors import HandshakeFailed, PoolError
from libstub.options import ClientOptions, EitherOptions, ServerOptions
from libstub.session import TlsSession

LIMIT_B = 2**16
"""As in asyncio: the longest line that a StreamReader takes; it stops reading at twice that."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


async def open_connection(
    host: str = "",
    port: int = 0,
    remoteid: str = "",
    *,
    sock: socket.socket | None = None,
    limit: int = LIMIT_B,
    pool: AsyncPoolOrPath = None,
    **options: Unpack[ClientOptions],
) -> Streams:
    """Connect with TLS, as ``asyncio.open_connection`` does without.

    ``writer.get_extra_info("tlspool")`` is the TlsSession.

    Args:
        host: where to connect to.
        port: of it.
        remoteid: who the remote must prove to be; the host, if not given.
        sock: connected already, in place of host and port; it is given away.
        limit: as in asyncio.
        pool: an AsyncPool, or the path of one.
        **options: those of ``libstub.starttls_client``.

    Raises:
        OSError: there is no connection to the host.
        PoolError: one of its subclasses: there is a connection, but no session.
    """
    if sock is None:
        transport, _ = await asyncio.get_running_loop().create_connection(Held, host, port)
        sock = await take_socket(transport)
    either: EitherOptions = {**options, "remoteid": remoteid or host}
    return await _streams(await secure(sock, server=False, pool=pool, options=either), limit)


async def start_server(
    handler: Handler,
    host: str = "",
    port: int = 0,
    *,
    localid: str = "",
    sock: socket.socket | None = None,
    limit: int = LIMIT_B,
    backlog: int = 100,
    setups: int = SETUPS,
    on_error: OnError | None = None,
    pool: AsyncPoolOrPath = None,
    **options: Unpack[ServerOptions],
) -> TlsServer:
    """Start a server whose handler gets streams with TLS under them, as ``asyncio.start_server`` does without.

    Args:
        handler: called with (reader, writer) for each session; may be a coroutine function.
        host: where to listen; '' for everywhere.
        port: of it; 0 for a free one.
        localid: who we are; the pool must have a certificate for it.  '' leaves it to ``on_localid``.
        sock: a listening socket in place of host and port.
        limit: as in asyncio.
        backlog: connections that the kernel keeps for us.
        setups: handshakes under way, at most; the kernel keeps the rest.
        on_error: told of handshakes that fail; otherwise each is a line in the log 'libstub'.
        pool: an AsyncPool, or the path of one.
        **options: those of ``libstub.starttls_server``.

    Raises:
        OSError: the address cannot be had.
        Misuse: an option cannot be.
    """

    def protocol() -> asyncio.Protocol:
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit, loop), handler, loop)

    return await create_server(
        protocol,
        host,
        port,
        localid=localid,
        sock=sock,
        backlog=backlog,
        setups=setups,
        on_error=on_error,
        pool=pool,
        **options,
    )


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str = "",
    port: int = 0,
    *,
    localid: str = "",
    sock: socket.socket | None = None,
    backlog: int = 100,
    setups: int = SETUPS,
    on_error: OnError | None = None,
    pool: AsyncPoolOrPath = None,
    **options: Unpack[ServerOptions],
) -> TlsServer:
    """Start a server for protocols, as ``loop.create_server`` does; arguments as in ``start_server``.

    A protocol is made when there is a session, and its ``connection_made`` gets a TlsTransport.

    Raises:
        OSError: the address cannot be had.
        Misuse: an option cannot be.
    """
    either = cast("EitherOptions", {**options, "localid": localid})
    request_of(True, either)  # what cannot be is said now, and not to each client
    tell = on_error or log_error

    async def serve(accepted: socket.socket, remote: Any) -> None:
        try:
            session = await secure(accepted, server=True, pool=pool, options=either)
        except PoolError as error:
            tell(error, remote)
            return
        try:
            await over_session(session, protocol_factory())
        finally:
            session.close()  # if no transport has taken its socket

    server = TlsServer([sock] if sock is not None else await listening(host, port, backlog), serve, setups)
    await server.start_serving()
    return server


async def upgrade(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    server: bool = False,
    answer: bytes = b"",
    limit: int = LIMIT_B,
    pool: AsyncPoolOrPath = None,
    **options: Unpack[EitherOptions],
) -> Streams:
    """Start TLS in mid-stream, and return new streams; the old ones are over, whatever happens.

    A client calls this when it has read the last byte of the server's consent.  A server calls it when it has read
    the last byte of the request, and leaves its consent to ``answer``:

        reader, writer = await libstub.aio.upgrade(reader, writer, remoteid="mail.example.com")
        reader, writer = await libstub.aio.upgrade(
            reader, writer, server=True, localid="mail.example.com", answer=b"220 go ahead\\r\\n"
        )

    Bytes that were read and not used came in plaintext, from whoever is in the middle: then there is no session.
    What has not been read goes to the pool, and nothing is lost.

    Args:
        reader: from ``asyncio.open_connection`` or ``asyncio.start_server``.
        writer: the same.  What was written goes out first.
        server: we are the TLS server, and ``localid`` says who we are; else ``remoteid`` says who the remote must be.
        answer: what to say in plaintext when reading has stopped.
        limit: as in asyncio.
        pool: an AsyncPool, or the path of one.
        **options: those of ``libstub.starttls_client`` and ``libstub.starttls_server``.

    Raises:
        PoolError: one of its subclasses.
    """
    protocol = writer.transport.get_protocol()
    try:
        sock = await take_socket(writer.transport)
    finally:
        protocol.connection_lost(None)  # so the reader ends with what it has
    try:
        glued = await reader.read()
    except BaseException:
        sock.close()
        raise
    if glued:
        sock.close()
        raise HandshakeFailed(
            f"{len(glued)} bytes came in plaintext before TLS had started, to pass for what comes over it: refused"
        )
    session = await secure_taken(sock, answer, server=server, pool=pool, options=options)
    return await _streams(session, limit)


async def _streams(session: TlsSession, limit: int) -> Streams:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = await over_session(session, protocol)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
