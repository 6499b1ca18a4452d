"""``starttls_client``, ``starttls_server`` and ``ping`` as coroutines, for programs that use sockets in their loop."""

from __future__ import annotations

import socket
from typing import Unpack, cast

from libstub.aio.pool import AsyncPoolOrPath, find_pool
from libstub.errors import Misuse
from libstub.events import Pong
from libstub.options import ClientOptions, EitherOptions, PeerOptions, ServerOptions
from libstub.pool import PING_S
from libstub.session import TlsSession
from libstub.starttls import give_away, make_request, patience_of
from tlspool_common.appwire import Flag, Starttls

_CLIENT = Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER
_SERVER = Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT


async def ping(pool: AsyncPoolOrPath = None, timeout_s: float = PING_S) -> Pong:
    """Ask whether there is a pool, and what it can do.

    Raises:
        PoolUnavailable, Refused, Misuse: there is no connection to it.
        Timeout: it did not answer within about ``timeout_s``.
    """
    return await find_pool(pool).ping(timeout_s)


async def starttls_client(
    sock: socket.socket,
    remoteid: str,
    *,
    pool: AsyncPoolOrPath = None,
    plain: socket.socket | None = None,
    **options: Unpack[ClientOptions],
) -> TlsSession:
    """Secure a connected socket as TLS client; ``tls.sock`` does not block.

    Arguments and errors are those of ``libstub.starttls_client``; ``on_localid`` is called in the loop, which waits for
    it.  Whoever is cancelled while waiting has closed the socket, as on any failure.
    """
    either: EitherOptions = {**options, "remoteid": remoteid}
    return await secure(sock, server=False, pool=pool, plain=plain, options=either)


async def starttls_server(
    sock: socket.socket,
    localid: str = "",
    *,
    pool: AsyncPoolOrPath = None,
    plain: socket.socket | None = None,
    **options: Unpack[ServerOptions],
) -> TlsSession:
    """Secure an accepted socket as TLS server; ``tls.sock`` does not block.

    Arguments and errors are those of ``libstub.starttls_server``, and as for ``starttls_client``.
    """
    either = cast("EitherOptions", {**options, "localid": localid})
    return await secure(sock, server=True, pool=pool, plain=plain, options=either)


async def starttls_peer(
    sock: socket.socket,
    localid: str,
    remoteid: str,
    *,
    pool: AsyncPoolOrPath = None,
    plain: socket.socket | None = None,
    **options: Unpack[PeerOptions],
) -> TlsSession:
    """Secure a connected socket whose other end does the same; ``tls.sock`` does not block.

    Arguments and errors are those of ``libstub.starttls_peer``, and as for ``starttls_client``.
    """
    either = cast("EitherOptions", {**options, "localid": localid, "remoteid": remoteid})
    return await secure(sock, server=False, peer=True, pool=pool, plain=plain, options=either)


async def secure(
    sock: socket.socket,
    *,
    server: bool,
    options: EitherOptions,
    pool: AsyncPoolOrPath = None,
    plain: socket.socket | None = None,
    peer: bool = False,
) -> TlsSession:
    """Secure a socket in any role; it is given away, and so is ``plain``.

    Raises:
        PoolError: one of its subclasses.
    """
    crypt, _, addresses = give_away("sock", sock)
    plain_fd = None
    try:
        plain_fd = give_away("plain", plain).fd if plain is not None else None
        request, names = request_of(server, options, peer)
        chosen = find_pool(pool)
    except BaseException:
        crypt.close()
        if plain_fd is not None:
            plain_fd.close()
        raise
    patience_s = patience_of(options.get("timeout_s"))
    return await chosen.starttls(
        request,
        crypt,
        alpn=names,
        plain=plain_fd,
        patience_s=patience_s,
        on_localid=options.get("on_localid"),
        addresses=addresses,
    )


def request_of(server: bool, options: EitherOptions, peer: bool = False) -> tuple[Starttls, bytes]:
    """Return a STARTTLS with a fresh control key, and the ALPN names as the core wants them.

    Raises:
        Misuse: an option cannot be, or is missing.
    """
    return make_request(
        _flags(server, options) | (int(_SERVER) if peer else 0),
        options.get("localid", ""),
        options.get("remoteid", ""),
        options.get("service", ""),
        options.get("timeout_s"),
        options.get("alpn", ()),
        options.get("remote_auth", "require"),
    )


def _flags(server: bool, options: EitherOptions) -> int:
    if server and options.get("without_sni"):
        raise Misuse("without_sni is for clients: they send the name")
    if server and not options.get("localid") and not options.get("on_localid"):
        raise Misuse("a server says who it is: localid is missing")
    if not server and not options.get("remoteid"):
        raise Misuse("a client says who the remote must be: remoteid is missing; a server is made by server=True")
    flags = int(_SERVER if server else _CLIENT)
    for name, flag in (
        ("without_sni", Flag.WITHOUT_SNI),
        ("domain_represents_user", Flag.DOMAIN_REPRESENTS_USER),
        ("fork", Flag.FORK),
        ("detach", Flag.DETACH),
    ):
        if options.get(name):
            flags |= flag
    if options.get("on_localid") is not None:
        flags |= Flag.LOCALID_CHECK
    return flags
