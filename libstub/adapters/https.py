"""HTTPS clients over the pool: http.client's HTTPSConnection, and urllib's opener.

connection = HTTPSConnection("www.example.com")
page = build_opener().open("https://www.example.com/").read()
"""

from __future__ import annotations

import http.client
import urllib.request
from functools import partial
from typing import Any, Unpack

from libstub.options import ClientOptions
from libstub.session import TlsSession
from libstub.starttls import PoolOrPath, starttls_client


class HTTPSConnection(http.client.HTTPConnection):
    """``http.client.HTTPSConnection`` over the pool.

    Args:
        host: where to connect to.
        port: of it; 443 if not given.
        remoteid: who the server must prove to be; the host, if not given.
        pool: a Pool, or the path of one.
        timeout: as in http.client; the handshake has a time limit of its own.
        source_address: as in http.client.
        blocksize: as in http.client.
        **tls: the other options of ``libstub.starttls_client``.

    Attributes:
        tls: the TlsSession, when connected.
    """

    default_port = http.client.HTTPS_PORT

    def __init__(
        self,
        host: str,
        port: int | None = None,
        timeout: float | None = None,
        source_address: tuple[str, int] | None = None,
        *,
        blocksize: int = 8192,
        remoteid: str = "",
        pool: PoolOrPath = None,
        **tls: Unpack[ClientOptions],
    ) -> None:
        super().__init__(host, port, timeout, source_address, blocksize)
        self._remoteid = remoteid
        self._pool = pool
        self._tls_options: ClientOptions = {"alpn": ["http/1.1"], **tls}
        self.tls: TlsSession | None = None

    def connect(self) -> None:
        """Connect, through a proxy if there is one, and start TLS.

        Raises:
            OSError: there is no connection.
            PoolError: there is no session.
        """
        super().connect()
        through_proxy_to: str | None = getattr(self, "_tunnel_host", None)  # that is what set_tunnel sets
        remoteid = self._remoteid or through_proxy_to or self.host
        self.tls = starttls_client(self.sock, remoteid, pool=self._pool, **self._tls_options)
        self.sock = self.tls.sock


class HTTPSHandler(urllib.request.HTTPSHandler):
    """``urllib.request.HTTPSHandler`` over the pool; ``pool`` and ``tls`` as in HTTPSConnection."""

    def __init__(self, debuglevel: int = 0, *, pool: PoolOrPath = None, **tls: Unpack[ClientOptions]) -> None:
        urllib.request.AbstractHTTPHandler.__init__(self, debuglevel)
        self._connection: Any = partial(HTTPSConnection, pool=pool, **tls)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a URL of https."""
        return self.do_open(self._connection, req)


def build_opener(
    *handlers: urllib.request.BaseHandler, pool: PoolOrPath = None, **tls: Unpack[ClientOptions]
) -> urllib.request.OpenerDirector:
    """Return what ``urllib.request.build_opener`` does, with HTTPS over the pool."""
    return urllib.request.build_opener(HTTPSHandler(pool=pool, **tls), *handlers)
