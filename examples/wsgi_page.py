"""A WSGI application that is served with HTTPS: gunicorn --config examples/gunicorn_https.py wsgi_page:application."""

from collections.abc import Callable, Iterable

from libstub.adapters.scheme import https_wsgi


def page(environ: dict[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """Tell who asks, and how."""
    body = f"{environ['wsgi.url_scheme']} for {environ['tlspool.remoteid'] or 'somebody'} at {environ['REMOTE_ADDR']}\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body.encode()]


application = https_wsgi(page)
