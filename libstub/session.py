"""What a program holds of a session: the plaintext socket, and what is known about both ends."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TYPE_CHECKING

from libstub.asking import Asking
from libstub.errors import Misuse
from libstub.events import Established
from libstub.plain import Addresses, PlainSocket
from tlspool_common.appwire import Cmd, Control, Details, Flag

if TYPE_CHECKING:
    from libstub.aio.pool import AsyncPool
    from libstub.pool import Pool

_BOTH = Flag.LOCALROLE_CLIENT | Flag.LOCALROLE_SERVER
_ROLES = {int(Flag.LOCALROLE_CLIENT): "client", int(Flag.LOCALROLE_SERVER): "server"}
_VERSIONS = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


class TlsSession(Asking):
    """A TLS session that the pool carries.  ``with`` closes the plaintext socket, which ends it.

    Half-closing goes through: ``sock.shutdown(SHUT_WR)`` tells the remote that nothing more comes, and reading
    goes on; an empty read tells the same of the remote.

    The session also ends with the connection of its pool, unless ``fork`` was asked for; so it keeps its pool.

    Attributes:
        localid: who we are, as proved to the remote; '' if we did not have to.
        remoteid: who the remote proved to be; '' if it was not asked, or had nothing to show.
        version: 'TLSv1.3' or 'TLSv1.2'; '' when not known, as the next three: with ``detach``, or a pool
            that does not tell them.
        cipher: the cipher suite, for example 'TLS_AES_256_GCM_SHA384'.
        group: the group of the key exchange, for example 'X25519MLKEM768'.
        alpn: the protocol that was agreed on with ALPN; '' for none.
        verified: whether ``remoteid`` was verified, by a certificate that the pool trusts.
        subject: the subject of the remote's certificate, for people to read; not an identity.
        role: 'client' or 'server', what we are in TLS; '' when not known.
        tags: what a RADIUS server calls the remote (Filter-Id), when the session began; mostly none.
        session_id: the pool's number for the session, as in its log; 0 when not known.
        ctlkey: the control key.  Whoever has it, and runs as the same user, can control the session while no
            connection does (``detach``, ``libstub.reattach``): hand it to that program only, and never log it.
    """

    __slots__ = (
        "_plain",
        "alpn",
        "cipher",
        "ctlkey",
        "group",
        "localid",
        "pool",
        "remoteid",
        "role",
        "session_id",
        "subject",
        "tags",
        "verified",
        "version",
    )

    def __init__(self, pool: Pool | AsyncPool, established: Established, plain: socket.socket | None) -> None:
        self.pool = pool
        self._plain = plain
        self.ctlkey = established.ctlkey
        self.localid = established.localid
        self.role = _ROLES.get(established.flags & int(_BOTH), "")
        details = established.details
        number = details.tls_version if details else 0
        self.version = _VERSIONS.get(number, f"{number:#06x}" if number else "")
        self.cipher = details.cipher if details else ""
        self.group = details.group if details else ""
        self.alpn = details.alpn.decode("ascii", "backslashreplace") if details else ""
        self._proved(established.remoteid, details)
        self.session_id = details.session_id if details else 0
        self.tags = established.tags

    @property
    def sock(self) -> socket.socket:
        """The plaintext socket; its addresses are those of the connection underneath.

        Raises:
            Misuse: the plaintext goes to the socket that was given as ``plain``, or the socket was taken.
        """
        if self._plain is None:
            raise Misuse("the plaintext of this session is not here: it goes to a socket given as plain, or a stream")
        return self._plain

    @property
    def has_sock(self) -> bool:
        """Whether the plaintext socket is here."""
        return self._plain is not None

    def take_sock(self) -> socket.socket:
        """Take the plaintext socket out: who takes it closes it, which ends the session.

        Raises:
            Misuse: it is not here.
        """
        sock, self._plain = self.sock, None
        return sock

    def tell_addresses(self, addresses: Addresses) -> None:
        """Let the plaintext socket answer with the addresses of the connection underneath."""
        if self._plain is not None:
            self._plain = PlainSocket.of(self._plain, addresses)

    def detach(self) -> None:
        """Let no connection control the session: it does not end with this program, and may be reattached by another.

        Raises:
            NotInControl: it is detached already, has ended, or another connection controls it.
            PoolError: another of its subclasses.
        """
        self._blocking_pool().command(Cmd.CONTROL_DETACH, Control(self.ctlkey).to_payload(), Cmd.SUCCESS)

    def reattach(self, pool: Pool | None = None) -> None:
        """Control the session again, over the connection of its pool or of another Pool.

        Raises:
            NotInControl: it has ended, or a connection controls it already.
            PoolError: another of its subclasses.
        """
        chosen = pool or self._blocking_pool()
        chosen.command(Cmd.CONTROL_REATTACH, Control(self.ctlkey).to_payload(), Cmd.SUCCESS)
        self.pool = chosen

    def _blocking_pool(self) -> Pool:
        from libstub.pool import Pool  # it imports sessions itself

        pool = self.pool
        if not isinstance(pool, Pool):
            raise Misuse("this session is of an event loop: use the functions of libstub.aio")
        return pool

    def _proved(self, remoteid: str, details: Details | None) -> None:
        self.remoteid = remoteid
        self.verified = bool(details and details.verified)
        self.subject = details.subject if details else ""

    def close(self) -> None:
        """Close the plaintext socket; what was written before is still delivered."""
        if self._plain is not None:
            self._plain.close()

    def __enter__(self) -> TlsSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TlsSession {self.localid or '-'} with {self.remoteid or '-'} {self.version} {self.group}>"
