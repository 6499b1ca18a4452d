"""``starttls_peer``: TLS between two equals, neither of which is client or server by nature."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from libstub.session import TlsSession
from libstub.starttls import PoolOrPath, RemoteAuth, secure
from tlspool_common.appwire import Flag

_PEER = Flag.LOCALROLE_CLIENT | Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT | Flag.REMOTEROLE_SERVER


def starttls_peer(
    sock: socket.socket,
    localid: str,
    remoteid: str,
    *,
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
) -> TlsSession:
    """Secure a connected socket whose other end does the same; the two ends find out who is TLS client and who server.

    ``TlsSession.role`` says what came out; for the program it makes no difference.  An ordinary client, which speaks
    first, is met as server, and an ordinary server, which does not, as client.

    Arguments and errors are those of ``starttls_client``, with these differences.

    Args:
        localid: who we are: policy must disclose it to ``remoteid``, and have a certificate for it in both roles.
        remoteid: who the remote must prove to be, in either role.

    Raises:
        PoolError: one of its subclasses; libstub.errors draws them.
    """
    flags = _PEER | (Flag.WITHOUT_SNI if without_sni else 0)
    flags |= Flag.DOMAIN_REPRESENTS_USER if domain_represents_user else 0
    ids = (localid, remoteid)
    return secure(sock, flags, ids, pool, service, timeout_s, alpn, remote_auth, plain, fork, detach, None)
