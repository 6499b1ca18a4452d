"""Servers of the standard library over the pool: a mix-in for socketserver, and an HTTPS server.

    class Server(TlsPoolMixIn, socketserver.ThreadingTCPServer):
        localid = "www.example.com"

The handshake is done where the request is handled: with ThreadingMixIn in a thread of its own, so a slow client
delays nobody; with ForkingMixIn in the child.  In a server without either, clients are served one after the other,
and the handshake is part of that.
"""

from __future__ import annotations

import http.server
import logging
import socket
import socketserver
from typing import Any, cast

from libstub.errors import PoolError
from libstub.options import ServerOptions
from libstub.plain import PlainSocket
from libstub.starttls import PoolOrPath, starttls_server

_log = logging.getLogger("libstub")


class TlsPoolMixIn(socketserver.BaseServer):
    """Mix this in before a TCPServer: handlers get plaintext, and ``self.request.tls`` is the TlsSession.

    Attributes:
        localid: who we are; the pool must have a certificate for it.
        tls_options: the other options of ``libstub.starttls_server``.
        pool: a Pool, or the path of one.
    """

    localid: str
    tls_options: ServerOptions = ServerOptions(remote_auth="ignore")
    pool: PoolOrPath = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the handshake, and let the handler have the plaintext."""
        try:
            options = self.tls_options
            if isinstance(self, socketserver.ForkingMixIn):
                # The child ends when it has answered, and its connection to the pool with it.
                options = {"fork": True, **options}
            session = starttls_server(request, self.localid, pool=self.pool, **options)
        except PoolError as error:
            self.handle_tls_error(error, client_address)
            return
        with cast("PlainSocket", session.take_sock()) as plain:
            plain.tls = session
            super().finish_request(plain, client_address)

    def handle_tls_error(self, error: PoolError, client_address: Any) -> None:
        """Act upon a handshake that failed; here it is a line in the log 'libstub'."""
        _log.info("no session with %s: %s", client_address, str(error))

    def shutdown_request(self, request: Any) -> None:
        """Close what was accepted; it was given to the pool, so it is closed already as a rule."""
        if not isinstance(request, socket.socket) or request.fileno() >= 0:
            super().shutdown_request(request)


class HTTPSServer(TlsPoolMixIn, http.server.ThreadingHTTPServer):
    """An HTTPS server for the handlers of http.server, with a thread for each connection.

    Args:
        server_address: (host, port).
        handler: a BaseHTTPRequestHandler.
        localid: who we are; the pool must have a certificate for it.
        pool: a Pool, or the path of one.
        tls_options: the other options of ``libstub.starttls_server``; by default clients are not asked who they are.
    """

    def __init__(
        self,
        server_address: tuple[str, int],
        handler: type[http.server.BaseHTTPRequestHandler],
        localid: str,
        pool: PoolOrPath = None,
        tls_options: ServerOptions | None = None,
    ) -> None:
        self.localid = localid
        self.pool = pool
        self.tls_options = {"remote_auth": "ignore", "alpn": ["http/1.1"], **(tls_options or {})}
        super().__init__(server_address, handler)
