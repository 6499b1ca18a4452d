"""A server asks a client for its certificate: OpenSSL calls ``ASKED``, of all contexts of clients.

In a handshake the certificate and its key are there already, and only the fact is noted; of several credentials one
is chosen now (showing.py).  Afterwards, while the
session relays, they are not: OpenSSL is told to wait, and reauth.Answering goes on with it in a thread.  OpenSSL
calls in the thread that makes it work, so thread-locals tell the cases apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import Any

from OpenSSL._util import ffi

from tlspool_worker import verify


class _Answers(local):
    now = False


_answers = _Answers()


@contextmanager
def answering() -> Iterator[None]:
    """Let ASKED, in this thread, take what is there."""
    _answers.now = True
    try:
        yield
    finally:
        _answers.now = False


def _asked(ssl: Any, _argument: Any) -> int:
    check = verify.current()
    if check is not None:
        return int(check.server_asks(ssl))
    return 1 if _answers.now else -1


ASKED = ffi.callback("int (*)(SSL *, void *)", _asked, error=0)
"""For SSL_CTX_set_cert_cb.  Alive as long as the module is; 0 fails the handshake."""
