"""poplib over the pool: ``POP3`` with ``stls``, and ``POP3_SSL``.

pop = POP3("mail.example.com")
pop.stls()
pop.user(user)
"""

from __future__ import annotations

import poplib
import socket
from typing import Any, Unpack

from libstub.adapters.glued import refuse_glued
from libstub.errors import PoolError
from libstub.options import ClientOptions
from libstub.session import TlsSession
from libstub.starttls import PoolOrPath, starttls_client


class POP3(poplib.POP3):
    """``poplib.POP3`` whose ``stls`` goes to the pool.

    Attributes:
        tls: the TlsSession, after ``stls``.
    """

    tls: TlsSession | None = None

    def stls(  # type: ignore[override]  # TLS is the pool's: there is no SSLContext
        self, *, remoteid: str = "", pool: PoolOrPath = None, **tls: Unpack[ClientOptions]
    ) -> bytes:
        """Start TLS; the connection is closed if that fails.

        Args:
            remoteid: who the server must prove to be; the host, if not given.
            pool: a Pool, or the path of one.
            **tls: the other options of ``libstub.starttls_client``.

        Raises:
            poplib.error_proto: the server does not want to.
            PoolError: there is no session.
        """
        if self.tls is not None:
            raise poplib.error_proto("-ERR TLS session already established")
        if "STLS" not in self.capa():
            raise poplib.error_proto("-ERR STLS not supported by server")
        answer: bytes = self._shortcmd("STLS")  # type: ignore[attr-defined]  # poplib's own
        try:
            refuse_glued(self.file, self.sock)  # type: ignore[arg-type]  # it is what makefile("rb") returns
            self.tls = starttls_client(self.sock, remoteid or self.host, pool=pool, **tls)
        except PoolError:
            self.close()
            raise
        self.sock = self.tls.sock
        self.file = self.sock.makefile("rb")
        return answer

    def close(self) -> None:
        """Close the connection; one that was given to the pool in vain is closed already."""
        if self.sock is not None and self.sock.fileno() < 0:
            self.sock = None  # type: ignore[assignment]  # as poplib does
        super().close()


class POP3_SSL(POP3):  # noqa: N801 - as in poplib
    """``poplib.POP3_SSL`` over the pool: TLS from the first byte on.

    Args:
        host: where to connect to.
        port: of it; 995 if not given.
        timeout: as in poplib; the handshake has a time limit of its own.
        remoteid: who the server must prove to be; the host, if not given.
        pool: a Pool, or the path of one.
        **tls: the other options of ``libstub.starttls_client``.
    """

    def __init__(
        self,
        host: str,
        port: int = poplib.POP3_SSL_PORT,
        timeout: float | None = None,
        *,
        remoteid: str = "",
        pool: PoolOrPath = None,
        **tls: Unpack[ClientOptions],
    ) -> None:
        self._remoteid, self._pool, self._tls_options = remoteid, pool, tls
        limit: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        super().__init__(host, port, **limit)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        sock: socket.socket = super()._create_socket(timeout)  # type: ignore[misc]  # poplib's own hook
        self.tls = starttls_client(sock, self._remoteid or self.host, pool=self._pool, **self._tls_options)
        return self.tls.sock
