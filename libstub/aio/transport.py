"""TLS under asyncio's transports and protocols.

Theory of operation.  A transport of asyncio cannot give its socket back, so it is taken from under it:

    1  reading stops, so whatever the remote says from now on stays in the kernel, for the pool to read
    2  what is still to be sent goes out
    3  the descriptor is duplicated, and the transport aborted, which closes its own copy only
    4  the pool secures the copy
    5  a new transport is made over the plaintext socket

From step 1 on the protocol hears nothing of the old transport.  Bytes that it read before step 1 and has not used
were sent in plaintext by whoever sits in the middle, to be taken for what came over TLS (CVE-2011-0411): that
protocol alone knows of them.  ``streams.upgrade`` looks; others must.

A server whose answer makes the remote start its handshake must not read any more when it gives that answer, or
the ClientHello may be read as if it were one of those bytes.  So the answer is given in here, after step 3.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from typing import Any, Unpack, cast

from libstub.aio.pool import AsyncPoolOrPath
from libstub.aio.starttls import secure
from libstub.errors import HandshakeFailed, Misuse
from libstub.options import EitherOptions
from libstub.plain import Addresses, addresses_of
from libstub.session import TlsSession


class Held(asyncio.Protocol):
    """A protocol that reads nothing: for a connection that is made for its socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stop before anything is read: asyncio reads from the next step of the loop on."""
        cast("asyncio.Transport", transport).pause_reading()


class _Interim(asyncio.Protocol):
    """Stands in for a protocol while its transport is taken away; the flow of writing is still its own."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol
        self.settled = asyncio.Event()
        self.error: Exception | None = None
        self.glued_b = 0

    def data_received(self, data: bytes) -> None:
        self.glued_b += len(data)  # no loop does that when reading has stopped

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()
        self.settled.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.error = error
        self.settled.set()


class TlsTransport(asyncio.Transport):
    """A transport over the plaintext of a session.

    ``get_extra_info`` knows 'tlspool', the TlsSession; 'peername' and 'sockname' are those of the connection
    underneath, 'socket' is the plaintext socket.
    """

    def __init__(self, inner: asyncio.Transport, session: TlsSession, addresses: Addresses) -> None:
        super().__init__({"tlspool": session, "peername": addresses.remote, "sockname": addresses.local})
        self._inner = inner

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known; 'tlspool' is the session."""
        mine = super().get_extra_info(name)
        return self._inner.get_extra_info(name, default) if mine is None else mine

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set a new protocol."""
        self._inner.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._inner.get_protocol()

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self._inner.is_closing()

    def close(self) -> None:
        """Close when what was written has gone out; the pool still delivers it."""
        self._inner.close()

    def abort(self) -> None:
        """Close at once."""
        self._inner.abort()

    def is_reading(self) -> bool:
        """Return whether the protocol gets data."""
        return self._inner.is_reading()

    def pause_reading(self) -> None:
        """Give the protocol no data until ``resume_reading``."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Give the protocol data again."""
        self._inner.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is to pause writing."""
        self._inner.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how much is still to be written."""
        return self._inner.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the limits (low, high)."""
        return self._inner.get_write_buffer_limits()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write."""
        self._inner.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Write all of it."""
        self._inner.writelines(list_of_data)

    def can_write_eof(self) -> bool:
        """Return True: half-closing goes through to the remote."""
        return self._inner.can_write_eof()

    def write_eof(self) -> None:
        """Tell the remote that nothing more comes."""
        self._inner.write_eof()

    def __repr__(self) -> str:
        return f"<TlsTransport {self.get_extra_info('tlspool')!r} over {self._inner!r}>"


async def take_socket(base: asyncio.BaseTransport) -> socket.socket:
    """Take the socket from under a transport, which is over then; steps 1 to 3 above.

    Raises:
        Misuse: it has no socket, or has TLS of the ssl module on it.
        HandshakeFailed: the connection is over, or ends meanwhile.
    """
    transport = cast("asyncio.Transport", base)  # other loops have transports that are no subclass of it
    under = transport.get_extra_info("socket")
    if transport.get_extra_info("sslcontext") is not None or under is None:
        raise Misuse(f"TLS can start on a plain transport with a socket, not on {transport!r}")
    if transport.is_closing():
        raise HandshakeFailed("the connection was over before TLS could start")
    transport.pause_reading()
    interim = _Interim(transport.get_protocol())
    transport.set_protocol(interim)
    try:
        transport.set_write_buffer_limits(0)
        if transport.get_write_buffer_size():
            await interim.settled.wait()
        if transport.is_closing():
            reason = f": {interim.error}" if interim.error else ""
            raise HandshakeFailed(f"the connection ended before TLS could start{reason}")
        if interim.glued_b:
            raise HandshakeFailed(f"{interim.glued_b} bytes came in plaintext before TLS had started: refused")
        taken = socket.socket(fileno=os.dup(under.fileno()))
        taken.setblocking(False)
    finally:
        transport.abort()
    return taken


class _Threshold(asyncio.Protocol):
    """Puts a TlsTransport between a transport that is new, and the protocol that is to have it.

    ``made``: it is told that the connection is made.  Otherwise reading waits for ``resume_reading``.
    """

    transport: TlsTransport

    def __init__(
        self, session: TlsSession, addresses: Addresses, protocol: asyncio.BaseProtocol, *, made: bool
    ) -> None:
        self._session = session
        self._addresses = addresses
        self._protocol = protocol
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Step out of the way before there is any data."""
        inner = cast("asyncio.Transport", transport)
        self.transport = TlsTransport(inner, self._session, self._addresses)
        inner.set_protocol(self._protocol)
        if self._made:
            self._protocol.connection_made(self.transport)
        else:
            inner.pause_reading()


async def over_session(session: TlsSession, protocol: asyncio.BaseProtocol, *, made: bool = True) -> TlsTransport:
    """Return a transport over the plaintext of a session, which it ends when it is closed.

    ``made``: tell the protocol that the connection is made.
    """
    sock = session.take_sock()
    threshold = _Threshold(session, addresses_of(sock), protocol, made=made)
    try:
        await asyncio.get_running_loop().create_connection(lambda: threshold, sock=sock)
    except BaseException:
        sock.close()
        raise
    if not made:
        threshold.transport.resume_reading()
    return threshold.transport


async def start_tls(
    transport: asyncio.BaseTransport,
    protocol: asyncio.BaseProtocol,
    *,
    server: bool = False,
    answer: bytes = b"",
    pool: AsyncPoolOrPath = None,
    **options: Unpack[EitherOptions],
) -> TlsTransport:
    """Start TLS in mid-stream under a protocol; the counterpart of ``loop.start_tls``.

    The old transport is over.  The protocol is not told, and gets its data from the new one, which it has to use
    for writing.  If this fails the connection is over, and ``protocol.connection_lost`` is called.

    A protocol that buffers must call ``transport.pause_reading()``, make sure that it has no unused bytes, and then
    call this; otherwise plaintext that was slipped in would pass for something that came over TLS.

    Args:
        transport: a connection in plaintext.
        protocol: who is to have the plaintext of the session.
        server: we are the TLS server, and ``localid`` says who we are; else ``remoteid`` says who the remote must be.
        answer: what to say in plaintext when reading has stopped: the "go ahead" of a server.
        pool: an AsyncPool, or the path of one.
        **options: those of ``libstub.starttls_client`` and ``libstub.starttls_server``.

    Raises:
        PoolError: one of its subclasses.
    """
    try:
        sock = await take_socket(transport)
        session = await secure_taken(sock, answer, server=server, pool=pool, options=options)
        return await over_session(session, protocol, made=False)
    except BaseException as error:
        protocol.connection_lost(error if isinstance(error, Exception) else None)
        raise


async def secure_taken(
    sock: socket.socket, answer: bytes, *, server: bool, pool: AsyncPoolOrPath, options: EitherOptions
) -> TlsSession:
    """Say something in plaintext, and secure the socket; step 4.

    Raises:
        PoolError: one of its subclasses.
    """
    if answer:
        try:
            await asyncio.get_running_loop().sock_sendall(sock, answer)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise HandshakeFailed(f"the connection ended before TLS could start: {error.strerror}") from error
            raise
    return await secure(sock, server=server, pool=pool, options=options)
