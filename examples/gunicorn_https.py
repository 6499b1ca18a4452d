"""A configuration of gunicorn: each worker accepts TLS, and none holds a key.

LOCALID=localhost gunicorn --config examples/gunicorn_https.py --chdir examples wsgi_page:application
"""

import os
from typing import Any

import libstub

bind = os.environ.get("BIND", "127.0.0.1:8443")
workers = 2


def post_fork(server: Any, worker: Any) -> None:
    """Put TLS of the pool on the sockets of a worker."""
    localid = os.environ.get("LOCALID", "localhost")
    worker.sockets = [libstub.listen(each.sock, localid, remote_auth="request") for each in worker.sockets]


def post_worker_init(worker: Any) -> None:
    """Say that a worker serves; a signal that comes before that is lost on it."""
    worker.log.info("Serving as %s", os.environ.get("LOCALID", "localhost"))
