"""Middleware for applications behind ``libstub.listen``: the scheme is https, and this is who the client is.

A server that does not know of TLS tells its application that requests came by http, which breaks redirections and
cookies.  These are for servers that get nothing but sessions of the pool, for they believe that all is TLS.

    application = https_wsgi(application)       environ["tlspool.remoteid"], environ["HTTPS"]
    application = https_asgi(application)       scope["scheme"]
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Any], Iterable[bytes]]
Asgi = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]

_SCHEMES = {"http": "https", "ws": "wss"}


def https_wsgi(application: Wsgi) -> Wsgi:
    """Wrap a WSGI application.

    Where the server lets it see the socket, as gunicorn does, ``environ`` has 'tlspool.remoteid' and
    'tlspool.session' too.
    """

    def wrapped(environ: Environ, start_response: Any) -> Iterable[bytes]:
        environ["wsgi.url_scheme"] = "https"
        environ["HTTPS"] = "on"
        session = getattr(environ.get("gunicorn.socket"), "tls", None)
        if session is not None:
            environ["tlspool.session"] = session
            environ["tlspool.remoteid"] = session.remoteid
        return application(environ, start_response)

    return wrapped


def https_asgi(application: Asgi) -> Asgi:
    """Wrap an ASGI application."""

    async def wrapped(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope.get("scheme") in _SCHEMES:
            scope = {**scope, "scheme": _SCHEMES[scope["scheme"]]}
        await application(scope, receive, send)

    return wrapped
