"""OCSP responses in the handshake: the one for our certificate, and the one that a server sent (RFC 6066 section 8).

OpenSSL has one callback for both sides, with opposite meanings, in every context; it is called only if the client has
asked.  It is called in the thread that runs the handshake, so what this session has is found as in verify.py.

Server: ``SEND`` is called when the certificate has been chosen, so that of several credentials each has its own.
Client: ``ARRIVED`` is called when the server's flight is complete, before anything is answered; in TLS 1.2 only then
is the response there.  A 0 makes libssl send bad_certificate_status_response; Handshake puts in the alert that fits.
"""

from __future__ import annotations

from typing import Any

from OpenSSL._util import ffi, lib

from tlspool_worker import verify
from tlspool_worker.binding import der_of
from tlspool_worker.tls_errors import take_queue

_OK, _NOTHING = 0, 3
"""SSL_TLSEXT_ERR_OK and _NOACK: send the response; send none."""


def _send(ssl: Any, _argument: Any) -> int:
    try:
        check = verify.current()
        if check is None or not check.staples:
            return _NOTHING
        staple = check.staples.get(der_of(lib.SSL_get_certificate(ssl)), b"")
        return _OK if staple and give(ssl, staple) else _NOTHING
    except Exception:  # without a response the handshake is as good as it was
        return _NOTHING


def give(ssl: Any, staple: bytes) -> bool:
    """Let a TLS object send a response; False when OpenSSL does not take it for one."""
    copy = lib.OPENSSL_malloc(len(staple))
    if copy == ffi.NULL:
        return False
    ffi.memmove(copy, staple, len(staple))
    if lib.SSL_set_tlsext_status_ocsp_resp(ssl, copy, len(staple)) == 1:  # the copy is OpenSSL's
        return True
    take_queue()
    return False


def _arrived(ssl: Any, _argument: Any) -> int:
    check = verify.current()
    if check is None:
        return 0
    try:
        return int(check.server_is_done_untrusted(ssl))
    except Exception as error:  # fail closed, whatever it is
        check.cannot(error)
        return 0


SEND = ffi.callback("int (*)(SSL *, void *)", _send, error=_NOTHING)
"""For SSL_CTX_set_tlsext_status_cb of servers."""

ARRIVED = ffi.callback("int (*)(SSL *, void *)", _arrived, error=0)
"""For SSL_CTX_set_tlsext_status_cb of clients."""
