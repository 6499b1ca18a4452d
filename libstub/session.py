"""What a program holds of a session: the plaintext socket, and what is known about both ends."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import TYPE_CHECKING

from libstub.errors import Misuse
from libstub.events import Established

if TYPE_CHECKING:
    from libstub.pool import Pool

_VERSIONS = {0x0300: "SSLv3", 0x0301: "TLSv1", 0x0302: "TLSv1.1", 0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


class TlsSession:
    """A TLS session that the pool carries.  ``with`` closes the plaintext socket, which ends it.

    Half-closing goes through: ``sock.shutdown(SHUT_WR)`` tells the remote that nothing more comes, and reading
    goes on; an empty read tells the same of the remote.

    The session also ends with the connection of its pool, unless ``fork`` was asked for; so it keeps its pool.

    Attributes:
        localid: who we are, as proved to the remote; '' if we did not have to.
        remoteid: who the remote proved to be; '' if it was not asked, or had nothing to show.
        version: 'TLSv1.3' or 'TLSv1.2'; '' when not known, as the next three.  A session that is over before the
            pool could be asked about it leaves them empty.
        cipher: the cipher suite, for example 'TLS_AES_256_GCM_SHA384'.
        group: the group of the key exchange, for example 'X25519MLKEM768'.
        alpn: the protocol that was agreed on with ALPN; '' for none.
        verified: whether ``remoteid`` was verified, by a certificate that the pool trusts.
        subject: the subject of the remote's certificate, for people to read; not an identity.
        session_id: the pool's number for the session, as in its log; 0 when not known.
    """

    __slots__ = (
        "_plain",
        "alpn",
        "cipher",
        "group",
        "localid",
        "pool",
        "remoteid",
        "session_id",
        "subject",
        "verified",
        "version",
    )

    def __init__(self, pool: Pool, established: Established, plain: socket.socket | None) -> None:
        self.pool = pool
        self._plain = plain
        self.localid = established.localid
        self.remoteid = established.remoteid
        details = established.details
        number = details.tls_version if details else 0
        self.version = _VERSIONS.get(number, f"{number:#06x}" if number else "")
        self.cipher = details.cipher if details else ""
        self.group = details.group if details else ""
        self.alpn = details.alpn.decode("ascii", "backslashreplace") if details else ""
        self.verified = bool(details and details.verified)
        self.subject = details.subject if details else ""
        self.session_id = details.session_id if details else 0

    @property
    def sock(self) -> socket.socket:
        """The plaintext socket.

        Raises:
            Misuse: the plaintext goes to the socket that was given as ``plain``.
        """
        if self._plain is None:
            raise Misuse("the plaintext of this session goes to the socket that was given as plain")
        return self._plain

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
