"""Application protocols (RFC 7301): which one a server takes, by its own order.

OpenSSL calls ``SELECT`` in the thread that runs the handshake; what this session speaks is in a thread-local, so
that contexts do not depend on it.
"""

from __future__ import annotations

import threading
from typing import Any

from OpenSSL._util import ffi, lib

_FATAL = 2
"""SSL_TLSEXT_ERR_ALERT_FATAL: libssl ends the handshake with no_application_protocol."""


class _Current(threading.local):
    ours: bytes = b""


_choosing = _Current()


class Choosing:
    """Lets SELECT, in this thread, choose from ``ours``, a ProtocolNameList body, within a ``with``.

    Empty: speak of none.
    """

    __slots__ = ("_ours",)

    def __init__(self, ours: bytes) -> None:
        self._ours = ours

    def __enter__(self) -> None:
        _choosing.ours = self._ours

    def __exit__(self, *_: object) -> None:
        _choosing.ours = b""


def split(body: bytes) -> list[bytes]:
    """Return the names of a ProtocolNameList body; a name that is empty or cut off is left out."""
    found, at = [], 0
    while at < len(body):
        end = at + 1 + body[at]
        if body[at] and end <= len(body):
            found.append(body[at + 1 : end])
        at = end
    return found


def select(ours: bytes, offered: bytes) -> bytes | None:
    """Return the first of our protocols that is offered too; b'' when we have none, None when nothing is shared."""
    mine = split(ours)
    if not mine:
        return b""
    theirs = set(split(offered))
    return next((name for name in mine if name in theirs), None)


def _select(ssl: Any, out: Any, out_length: Any, offered: Any, offered_length: int, argument: Any) -> int:
    try:
        body = ffi.buffer(offered, offered_length)[:]
        name = select(_choosing.ours, body)
        if name is None:
            return _FATAL
        if not name:
            return int(lib.SSL_TLSEXT_ERR_NOACK)
        # The answer must outlive this call: it is a piece of the client's own list.  The length octet before a
        # name keeps this from finding the name inside a longer one.
        out[0] = offered + body.index(bytes([len(name)]) + name) + 1
        out_length[0] = len(name)
        return int(lib.SSL_TLSEXT_ERR_OK)
    except Exception:  # fail closed, whatever it is
        return _FATAL


SELECT = ffi.callback(
    "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)",
    _select,
    error=_FATAL,
)
"""For SSL_CTX_set_alpn_select_cb."""
