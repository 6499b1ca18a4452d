"""smtplib over the pool: ``SMTP`` with ``starttls``, and ``SMTP_SSL``.

with SMTP("mail.example.com", 587) as smtp:
    smtp.starttls()
    smtp.send_message(message)
"""

from __future__ import annotations

import smtplib
import socket
from typing import Any, Unpack

from libstub.adapters.glued import refuse_glued
from libstub.errors import PoolError
from libstub.options import ClientOptions
from libstub.session import TlsSession
from libstub.starttls import PoolOrPath, starttls_client


class SMTP(smtplib.SMTP):
    """``smtplib.SMTP`` whose ``starttls`` goes to the pool.

    Attributes:
        tls: the TlsSession, after ``starttls``.
    """

    tls: TlsSession | None = None
    _connected_to = ""

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        self._connected_to = host
        sock: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]  # smtplib's own hook
        return sock

    def starttls(  # type: ignore[override]  # TLS is the pool's: there is no SSLContext
        self, *, remoteid: str = "", pool: PoolOrPath = None, **tls: Unpack[ClientOptions]
    ) -> tuple[int, bytes]:
        """Start TLS; the connection is closed if that fails.

        Args:
            remoteid: who the server must prove to be; the host, if not given.
            pool: a Pool, or the path of one.
            **tls: the other options of ``libstub.starttls_client``.

        Raises:
            smtplib.SMTPException: the server does not want to.
            PoolError: there is no session.
        """
        self.ehlo_or_helo_if_needed()
        if not self.has_extn("starttls"):
            raise smtplib.SMTPNotSupportedError("STARTTLS extension not supported by server.")
        code, text = self.docmd("STARTTLS")
        if code != 220:
            raise smtplib.SMTPResponseException(code, text)
        sock = self.sock
        assert sock is not None  # noqa: S101 - it has just answered
        try:
            refuse_glued(self.file, sock)
            self.tls = starttls_client(sock, remoteid or self._connected_to, pool=pool, **tls)
        except PoolError:
            self.close()
            raise
        self.sock, self.file = self.tls.sock, None
        # What the server said before TLS is not to be believed (RFC 3207 section 4.2).
        self.helo_resp = self.ehlo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False
        return code, text


class SMTP_SSL(SMTP):  # noqa: N801 - as in smtplib
    """``smtplib.SMTP_SSL`` over the pool: TLS from the first byte on.

    Args:
        host: where to connect to.
        port: of it; 465 if not given.
        local_hostname: as in smtplib.
        timeout: as in smtplib; the handshake has a time limit of its own.
        remoteid: who the server must prove to be; the host, if not given.
        pool: a Pool, or the path of one.
        **tls: the other options of ``libstub.starttls_client``.
    """

    default_port = smtplib.SMTP_SSL_PORT

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        local_hostname: str | None = None,
        timeout: float | None = None,
        *,
        remoteid: str = "",
        pool: PoolOrPath = None,
        **tls: Unpack[ClientOptions],
    ) -> None:
        self._remoteid, self._pool, self._tls_options = remoteid, pool, tls
        limit: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        super().__init__(host, port, local_hostname, **limit)

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        sock = super()._get_socket(host, port, timeout)
        self.tls = starttls_client(sock, self._remoteid or host, pool=self._pool, **self._tls_options)
        return self.tls.sock
