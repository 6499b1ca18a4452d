"""ftplib over the pool: ``FTP_TLS``, with TLS for commands and for data.

    with FTP_TLS("ftp.example.com") as ftp:
        ftp.login(user, password)      # starts TLS first
        ftp.prot_p()                   # data too
        ftp.retrlines("LIST")

There is no ``ccc``: a session of the pool cannot be turned back into plaintext.
"""

from __future__ import annotations

import ftplib
import io
import socket
from typing import Any, Unpack, cast

from libstub.adapters.glued import refuse_glued
from libstub.errors import PoolError
from libstub.options import ClientOptions
from libstub.session import TlsSession
from libstub.starttls import PoolOrPath, starttls_client


class FTP_TLS(ftplib.FTP):  # noqa: N801 - as in ftplib
    """``ftplib.FTP_TLS`` over the pool.

    Args:
        host: where to connect to; '' to call ``connect`` later.
        user: '' to call ``login`` later.
        passwd: of the user.
        timeout: as in ftplib; handshakes have a time limit of their own.
        remoteid: who the server must prove to be; the host, if not given.
        pool: a Pool, or the path of one.
        **tls: the other options of ``libstub.starttls_client``.

    Attributes:
        tls: the TlsSession of the commands.
    """

    def __init__(
        self,
        host: str = "",
        user: str = "",
        passwd: str = "",
        timeout: float | None = None,
        *,
        encoding: str = "utf-8",
        remoteid: str = "",
        pool: PoolOrPath = None,
        **tls: Unpack[ClientOptions],
    ) -> None:
        self._remoteid, self._pool, self._tls_options = remoteid, pool, tls
        self._prot_p = False
        self.tls: TlsSession | None = None
        limit: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        super().__init__(host, user, passwd, encoding=encoding, **limit)

    def _secure(self, sock: socket.socket) -> TlsSession:
        return starttls_client(sock, self._remoteid or self.host, pool=self._pool, **self._tls_options)

    def getline(self) -> str:
        """Return a line of the server, as ftplib does, but with nothing kept that ``auth`` could not see."""
        line = self._lines().readline(self.maxline + 1)
        if len(line) > self.maxline:
            raise ftplib.Error(f"got more than {self.maxline} bytes")  # noqa: S321 - an exception
        if not line:
            raise EOFError
        return line.rstrip(b"\r\n").decode(self.encoding)

    def _lines(self) -> io.BufferedReader:
        """Return what is under the text file that ftplib makes, and which reads ahead."""
        return cast("io.BufferedReader", cast("io.TextIOWrapper", self.file).buffer)

    def login(self, user: str = "", passwd: str = "", acct: str = "", secure: bool = True) -> str:
        """Log in, with TLS unless ``secure`` is False."""
        if secure and self.tls is None:
            self.auth()
        return super().login(user, passwd, acct)

    def auth(self) -> str:
        """Start TLS for the commands; the connection is closed if that fails.

        Raises:
            ftplib.Error: the server does not want to.
            PoolError: there is no session.
        """
        if self.tls is not None:
            raise ValueError("Already using TLS")
        answer = self.voidcmd("AUTH TLS")
        sock = cast("socket.socket", self.sock)
        try:
            refuse_glued(self._lines(), sock)
            self.tls = self._secure(sock)
        except PoolError:
            self.close()
            raise
        self.sock = self.tls.sock
        self.file = self.sock.makefile("r", encoding=self.encoding)
        return answer

    def prot_p(self) -> str:
        """Use TLS for data (RFC 4217 section 9: PBSZ comes first, and is 0)."""
        self.voidcmd("PBSZ 0")
        answer = self.voidcmd("PROT P")
        self._prot_p = True
        return answer

    def prot_c(self) -> str:
        """Use plaintext for data."""
        answer = self.voidcmd("PROT C")
        self._prot_p = False
        return answer

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """Start a transfer, and return its socket with the size, if known.

        Raises:
            ftplib.Error: the server does not want to.
            PoolError: there is no session for the data.
        """
        sock, size = super().ntransfercmd(cmd, rest)
        return (self._secure(sock).take_sock() if self._prot_p else sock), size

    def abort(self) -> str:
        """Abort a transfer; there is no urgent data over TLS."""
        cast("socket.socket", self.sock).sendall(b"ABOR\r\n")
        answer = self.getmultiline()
        if answer[:3] not in {"426", "225", "226"}:
            raise ftplib.error_proto(answer)  # noqa: S321 - an exception
        return answer

    def close(self) -> None:
        """Close the connection."""
        self.tls = None
        self._prot_p = False
        super().close()
