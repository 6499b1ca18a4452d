"""imaplib over the pool: ``IMAP4`` with ``starttls``, and ``IMAP4_SSL``.

with IMAP4("mail.example.com") as imap:
    imap.starttls()
    imap.login(user, password)
"""

from __future__ import annotations

import imaplib
import socket
from typing import Any, Unpack

from libstub.adapters.glued import refuse_glued
from libstub.errors import PoolError
from libstub.options import ClientOptions
from libstub.session import TlsSession
from libstub.starttls import PoolOrPath, starttls_client

IMAP4_SSL_PORT = 993


class IMAP4(imaplib.IMAP4):
    """``imaplib.IMAP4`` whose ``starttls`` goes to the pool.

    Attributes:
        tls: the TlsSession, after ``starttls``.
    """

    tls: TlsSession | None = None

    def starttls(  # type: ignore[override]  # TLS is the pool's: there is no SSLContext
        self, *, remoteid: str = "", pool: PoolOrPath = None, **tls: Unpack[ClientOptions]
    ) -> tuple[str, list[Any]]:
        """Start TLS; the connection is over if that fails.

        Args:
            remoteid: who the server must prove to be; the host, if not given.
            pool: a Pool, or the path of one.
            **tls: the other options of ``libstub.starttls_client``.

        Raises:
            imaplib.IMAP4.error: the server does not want to.
            PoolError: there is no session.
        """
        if self.tls is not None:
            raise self.abort("TLS session already established")
        if "STARTTLS" not in self.capabilities:
            raise self.abort("TLS not supported by server")
        kind, data = self._simple_command("STARTTLS")
        if kind != "OK":
            raise self.error("Couldn't establish TLS session")
        try:
            refuse_glued(self.file, self.sock)  # type: ignore[arg-type]  # it is what makefile("rb") returns
            self.tls = starttls_client(self.sock, remoteid or self.host, pool=pool, **tls)
        except PoolError:
            self.state = "LOGOUT"  # there is nobody to say good-bye to
            self.shutdown()
            raise
        self.sock = self.tls.sock
        self.file = self.sock.makefile("rb")
        self._get_capabilities()  # those of before are not to be believed (RFC 9051 section 6.2.1)
        answer: tuple[str, list[Any]] = self._untagged_response(kind, data, "STARTTLS")
        return answer

    def shutdown(self) -> None:
        """Close the connection; one that was given to the pool in vain is closed already."""
        if self.sock.fileno() < 0:
            self.file.close()
        else:
            super().shutdown()


class IMAP4_SSL(IMAP4):  # noqa: N801 - as in imaplib
    """``imaplib.IMAP4_SSL`` over the pool: TLS from the first byte on.

    Args:
        host: where to connect to.
        port: of it; 993 if not given.
        timeout: as in imaplib; the handshake has a time limit of its own.
        remoteid: who the server must prove to be; the host, if not given.
        pool: a Pool, or the path of one.
        **tls: the other options of ``libstub.starttls_client``.
    """

    def __init__(
        self,
        host: str = "",
        port: int = IMAP4_SSL_PORT,
        timeout: float | None = None,
        *,
        remoteid: str = "",
        pool: PoolOrPath = None,
        **tls: Unpack[ClientOptions],
    ) -> None:
        self._remoteid, self._pool, self._tls_options = remoteid, pool, tls
        super().__init__(host, port, timeout)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        sock: socket.socket = super()._create_socket(timeout)  # type: ignore[misc]  # imaplib's own hook
        self.tls = starttls_client(sock, self._remoteid or self.host, pool=self._pool, **self._tls_options)
        return self.tls.sock
