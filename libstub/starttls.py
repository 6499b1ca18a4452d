"""``starttls_client``, ``starttls_server`` and ``ping``: what a program calls."""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from libstub.errors import Misuse
from libstub.events import Pong
from libstub.holding import OnLocalid
from libstub.plain import Addresses, addresses_of
from libstub.pool import PING_S, Pool
from libstub.session import TlsSession
from libstub.where import socket_path
from tlspool_common.appwire import (
    CTLKEY_B,
    TIMEOUT_DEFAULT_MS,
    TIMEOUT_INFINITE_MS,
    BadPayload,
    Flag,
    Options,
    Starttls,
    alpn_join,
)
from tlspool_common.fd import OwnedFd

NO_TIMEOUT = math.inf
"""As ``timeout_s``: the handshake may take for ever."""

_GRACE_S = 5.0
"""How much longer than the handshake's timeout we wait for the pool, whose own message says more than ours."""

RemoteAuth = Literal["require", "request", "ignore"]
"""What the remote must prove.

``require``: it must show a certificate that verifies.  ``request``: it may show none, but none that does not
verify.  ``ignore``: it is not asked, and the remote identity stays empty.
"""

PoolOrPath = Pool | str | os.PathLike[str] | None
"""A Pool, the path of one, or None for the one that the environment or the configuration names."""

_AUTH = {"require": Flag(0), "request": Flag.REQUEST_REMOTEID, "ignore": Flag.IGNORE_REMOTEID}
_CLIENT = Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER
_SERVER = Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT

_default_pools: dict[str, Pool] = {}


def find_pool(pool: PoolOrPath = None) -> Pool:
    """Return a Pool; for a path the one that the whole program shares.

    Raises:
        Misuse: this cannot be the path of a socket.
    """
    if isinstance(pool, Pool):
        return pool
    path = socket_path(pool)
    found = _default_pools.get(path)
    return found if found is not None else _default_pools.setdefault(path, Pool(path))


def ping(pool: PoolOrPath = None, timeout_s: float = PING_S) -> Pong:
    """Ask whether there is a pool, and what it can do.

    Raises:
        PoolUnavailable, Refused, Misuse: there is no connection to it.
        Timeout: it did not answer within about ``timeout_s``.
    """
    return find_pool(pool).ping(timeout_s)


def reattach(ctlkey: bytes, pool: PoolOrPath = None) -> TlsSession:
    """Take control of a session that no connection controls: one with ``fork`` or ``detach``, of the same user.

    The session that is returned has no plaintext socket: that is where it was, perhaps in another program.  From now
    on it ends with this program, unless it was made with ``fork``.

    Args:
        ctlkey: ``TlsSession.ctlkey`` of the program that made the session.
        pool: a Pool or the path of one.

    Raises:
        NotInControl: there is no such session, or another connection or user has it.
        PoolError: another of its subclasses.
    """
    return find_pool(pool).reattach(ctlkey)


def starttls_client(
    sock: socket.socket,
    remoteid: str,
    *,
    localid: str = "",
    pool: PoolOrPath = None,
    service: str = "",
    timeout_s: float | None = None,
    alpn: Sequence[str] = (),
    remote_auth: RemoteAuth = "require",
    without_sni: bool = False,
    domain_represents_user: bool = False,
    plain: socket.socket | None = None,
    fork: bool = False,
    detach: bool = False,
    on_localid: OnLocalid | None = None,
) -> TlsSession:
    """Secure a connected socket as TLS client.

    The socket is given to the pool: this closes ``sock``, and ``plain`` if there is one, on success and on
    failure alike.  The plaintext socket has the timeout that ``sock`` had.

    Args:
        sock: connected, and with nothing of the remote's in a buffer of the program.
        remoteid: who the remote must prove to be: a domain, or user@domain.
        localid: who we are, if the remote asks; '' lets the pool choose among what it may disclose.
        pool: a Pool or the path of one.
        service: IANA service name of the protocol inside, for policy and logs.
        timeout_s: for the whole handshake; None is the pool's default, NO_TIMEOUT waits for ever.
        alpn: protocols to offer, most preferred first.
        remote_auth: 'require', 'request' or 'ignore'.
        without_sni: do not tell the name of the server in clear.
        domain_represents_user: user@domain is content with a remote that proves to be the domain.
        plain: a connected socket that the pool is to relay to, in place of a new socket for this program.
        fork: the session goes on when the connection to the pool ends.
        detach: the session starts without a connection that controls it.
        on_localid: says who we are; it gets each identity that may be shown to the remote, in the order of policy,
            and returns it, or another one, or None for none of this, or a connected socket for the plaintext, which
            accepts it.  It is called in this thread.

    Raises:
        PoolError: one of its subclasses; libstub.errors draws them.
    """
    flags = _CLIENT | (Flag.WITHOUT_SNI if without_sni else 0)
    flags |= Flag.DOMAIN_REPRESENTS_USER if domain_represents_user else 0
    ids = (localid, remoteid)
    return secure(sock, flags, ids, pool, service, timeout_s, alpn, remote_auth, plain, fork, detach, on_localid)


def starttls_server(
    sock: socket.socket,
    localid: str = "",
    *,
    remoteid: str = "",
    pool: PoolOrPath = None,
    service: str = "",
    timeout_s: float | None = None,
    alpn: Sequence[str] = (),
    remote_auth: RemoteAuth = "require",
    domain_represents_user: bool = False,
    plain: socket.socket | None = None,
    fork: bool = False,
    detach: bool = False,
    on_localid: OnLocalid | None = None,
) -> TlsSession:
    """Secure an accepted socket as TLS server.

    Arguments and errors are those of ``starttls_client``, with these differences.

    Args:
        localid: who we are; the pool must have a certificate for it.  '' leaves it to ``on_localid``.
        remoteid: whom the client must prove to be; '' takes anybody who verifies.
        alpn: protocols to accept, most preferred first.
        on_localid: as for a client; it gets ``localid``, or if that is '', the name that the client asked for (SNI),
            '' if it asked for none.  So one socket serves many names, and the program says which.

    Raises:
        PoolError: one of its subclasses; libstub.errors draws them.
    """
    flags = _SERVER | (Flag.DOMAIN_REPRESENTS_USER if domain_represents_user else 0)
    ids = (localid, remoteid)
    return secure(sock, flags, ids, pool, service, timeout_s, alpn, remote_auth, plain, fork, detach, on_localid)


def secure(
    sock: socket.socket,
    flags: int,
    ids: tuple[str, str],
    pool: PoolOrPath,
    service: str,
    timeout_s: float | None,
    alpn: Sequence[str],
    remote_auth: RemoteAuth,
    plain: socket.socket | None,
    fork: bool,
    detach: bool,
    on_localid: OnLocalid | None,
) -> TlsSession:
    """Do what ``starttls_client`` and the others say, with the flags that make the difference."""
    crypt, sock_timeout_s, addresses = give_away("sock", sock)
    plain_fd = None
    try:
        plain_fd = give_away("plain", plain).fd if plain is not None else None
        flags |= (Flag.FORK if fork else 0) | (Flag.DETACH if detach else 0)
        flags |= Flag.LOCALID_CHECK if on_localid is not None else 0
        request, names = make_request(flags, *ids, service, timeout_s, alpn, remote_auth)
        chosen = find_pool(pool)
    except BaseException:
        crypt.close()
        if plain_fd is not None:
            plain_fd.close()
        raise
    session = chosen.starttls(
        request, crypt, alpn=names, plain=plain_fd, patience_s=patience_of(timeout_s), on_localid=on_localid
    )
    if session.has_sock:
        session.tell_addresses(addresses)
        session.sock.settimeout(sock_timeout_s)
    return session


def make_request(
    flags: int,
    localid: str,
    remoteid: str,
    service: str = "",
    timeout_s: float | None = None,
    alpn: Sequence[str] = (),
    remote_auth: RemoteAuth = "require",
) -> tuple[Starttls, bytes]:
    """Return a STARTTLS with a fresh control key, and the ALPN names as the core wants them.

    Raises:
        Misuse: a value cannot be; the text names it.
    """
    if remote_auth not in _AUTH:
        raise Misuse(f"remote_auth is 'require', 'request' or 'ignore', not {remote_auth!r}")
    try:
        request = Starttls(
            flags=int(flags | _AUTH[remote_auth]),
            localid=localid,
            remoteid=remoteid,
            ctlkey=secrets.token_bytes(CTLKEY_B),
            service=service,
            timeout_ms=_timeout_ms(timeout_s),
        )
        request.to_payload()
        names = alpn_join(tuple(name.encode("ascii") for name in alpn))
        Options(request.ctlkey, names).to_payload()
    except (BadPayload, UnicodeEncodeError) as error:
        raise Misuse(f"{error}") from None
    return request, names


def patience_of(timeout_s: float | None) -> float | None:
    """Return how long to wait for each message of the pool; None leaves it to the pool, which must be alive."""
    return None if timeout_s is None or math.isinf(timeout_s) else timeout_s + _GRACE_S


def _timeout_ms(timeout_s: float | None) -> int:
    if timeout_s is None:
        return TIMEOUT_DEFAULT_MS
    if timeout_s == NO_TIMEOUT:
        return TIMEOUT_INFINITE_MS
    if not 0 < timeout_s < TIMEOUT_INFINITE_MS / 1000:
        raise Misuse(f"timeout_s is None, NO_TIMEOUT, or a number of seconds above 0, not {timeout_s!r}")
    return max(1, int(timeout_s * 1000))


class Given(NamedTuple):
    """What was in a socket object."""

    fd: OwnedFd
    timeout_s: float | None
    addresses: Addresses


def give_away(name: str, sock: socket.socket) -> Given:
    """Take the descriptor out of a socket object, which is closed from then on.

    Raises:
        Misuse: it is no socket object, or it is closed.
    """
    if not isinstance(sock, socket.socket):
        raise Misuse(f"{name} must be a connected socket.socket, not {type(sock).__name__}")
    if sock.fileno() < 0:
        raise Misuse(f"{name} is closed already")
    if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
        with suppress(OSError):  # the pool sends as much at a time as there is, and does not touch options
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    timeout_s, addresses = sock.gettimeout(), addresses_of(sock)
    return Given(OwnedFd(sock.detach()), timeout_s, addresses)
