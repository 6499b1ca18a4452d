"""Ask a client again who it is, and answer a server that asks again: authentication after the handshake.

TLS 1.3 has a CertificateRequest for it (RFC 8446 section 4.6.2), which a client has to have allowed in its
ClientHello.  OpenSSL has all of it behind calls that the relay makes anyway, so both sides need care:

Server.  ``ask`` lets OpenSSL write the request; application data flows on in both directions.  The answer comes
with some later SSL_read, whenever the client likes, in whichever thread relays: verify.VERIFY finds the ``Check``
by the TLS object, and ``PROGRESS`` sees when the answer is complete, and tells (``answered``).  Then ``judge`` reads
what came of it.  Trust is that of the day: the TLS object gets a context of the newest generation of anchors,
which has no chains, so our certificate is kept aside before.

Client.  SSL_read stops in asked.ASKED with SSL_ERROR_WANT_X509_LOOKUP (``Stream.waits``): a grant for one more
signature has to come from the broker, and the signature may take long.  An ``Answering`` does it in a thread while
nobody else touches the TLS object.  Without a grant it says that we have no certificate, by a context without one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import RemoteTold, UseCredential
from tlspool_worker import facts, verify
from tlspool_worker.asked import answering
from tlspool_worker.keys import use_key
from tlspool_worker.names import subject_untrusted
from tlspool_worker.tls import Stream, remote_leaf
from tlspool_worker.tls_errors import NO_ALERT, Fault, explain, take_queue

_LOOP = 0x2001
"""SSL_CB_ACCEPT_LOOP (openssl/ssl.h): a server's state machine has made a step."""

_COMPLETE = b"SSLv3/TLS read finished"
"""The state in which an answer is complete: its signature and its Finished are right, or OpenSSL would not be there."""

# SSL_R number (openssl/sslerr.h) -> what it means here
_REFUSALS = {
    121: Code.REAUTH_BUSY,  # still in init
    285: Code.REAUTH_BUSY,  # request pending
    286: Code.REAUTH_BUSY,  # request sent
    266: Code.REAUTH_INSECURE,  # wrong ssl version
    279: Code.REAUTH_INSECURE,  # extension not received
    284: Code.REAUTH_INSECURE,  # not server
}


# --- server -----------------------------------------------------------------------------------------

_asking: dict[int, Callable[[], None]] = {}


def _address(ssl: Any) -> int:
    return int(ffi.cast("uintptr_t", ssl))


def _progress(ssl: Any, where: int, _result: int) -> None:
    if where == _LOOP and ffi.string(lib.SSL_state_string_long(ssl)) == _COMPLETE:
        answered = _asking.get(_address(ssl))
        if answered is not None:
            answered()


PROGRESS = ffi.callback("void (*)(SSL *, int, int)", _progress)
"""For SSL_set_info_callback.  Alive as long as the module is."""


def ask(stream: Stream, context: SSL.Context, check: verify.Check, answered: Callable[[], None]) -> None:
    """Let a server's TLS ask the client who it is.

    Args:
        context: a server's context with the anchors that count now, and no chains.
        check: what is asked of the certificate; VERIFY fills it.
        answered: called from within OpenSSL, maybe in another thread, when the answer is complete.

    Raises:
        PoolError: REAUTH_BUSY, REAUTH_INSECURE; nothing was asked, and nothing has changed.
    """
    ssl = stream.ssl
    if lib.SSL_get_shutdown(ssl):
        raise PoolError(Code.REAUTH_BUSY, "one side has said that it sends no more")
    lib.ERR_clear_error()
    lib.SSL_set_verify(ssl, SSL.VERIFY_PEER, verify.VERIFY)
    if lib.SSL_verify_client_post_handshake(ssl) != 1:
        queue = take_queue()
        code = next((_REFUSALS[reason] for _, reason, _, _ in queue if reason in _REFUSALS), Code.REAUTH_INSECURE)
        raise PoolError(code, explain(queue).detail)
    stream.own = facts.local_certificate(stream)
    lib.SSL_set_SSL_CTX(ssl, context._context)
    lib.SSL_set_info_callback(ssl, PROGRESS)
    _asking[_address(ssl)] = answered
    verify.expecting(ssl, check)
    if lib.SSL_do_handshake(ssl) != 1:
        forget(ssl)
        raise PoolError(Code.REAUTH_BUSY, explain(take_queue()).detail)


def forget(ssl: Any) -> None:
    """Expect no answer any more: it has come, or the session is over and its address will be used again."""
    _asking.pop(_address(ssl), None)
    verify.expecting(ssl, None)


def judge(stream: Stream, check: verify.Check, session_id: int, question: int) -> RemoteTold:
    """Return what the client has answered; from here on the session's remote is that, or nobody."""
    lib.SSL_set_info_callback(stream.ssl, ffi.NULL)
    forget(stream.ssl)
    try:
        leaf = remote_leaf(stream.ssl)
        shown = leaf is not None
    except ValueError:  # it is nobody's, but it is one
        leaf, shown = None, True
    passed = leaf is not None and check.passed
    stream.hides_remote = shown and not passed
    code = Code.OK if passed or not shown else check.code or Code.INTERNAL
    return RemoteTold(
        session_id=session_id,
        question=question,
        asked=True,
        code=int(code),
        detail=check.detail.encode("utf-8", "replace")[:400].decode("utf-8", "ignore"),
        remote_verified=passed,
        remote_names=check.names if passed else (),
        remote_subject=subject_untrusted(leaf) if leaf is not None and passed else "",
        remote_sha256=hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest() if leaf is not None else b"",
    )


def not_asked(session_id: int, question: int, error: PoolError) -> RemoteTold:
    """Return that the client could not be asked."""
    return RemoteTold(
        session_id=session_id,
        question=question,
        asked=False,
        code=int(error.code),
        detail=error.detail[:400],
        remote_verified=False,
        remote_names=(),
        remote_subject="",
        remote_sha256=b"",
    )


# --- client -----------------------------------------------------------------------------------------


class Answering:
    """The answer of a client whose Stream ``waits``.  ``step`` may wait for a signature: it belongs in a thread."""

    __slots__ = ("_channel", "_credentials", "_nobody", "_stream", "_timeout_ms", "fault")

    def __init__(
        self,
        stream: Stream,
        nobody: SSL.Context,
        credentials: tuple[UseCredential, ...],
        channel: OwnedFd | None,
        timeout_ms: int,
    ) -> None:
        """Prepare; without ``credentials`` the answer is that we have none, by ``nobody``, a context without chains."""
        self._stream = stream
        self._nobody = nobody
        self._credentials = credentials
        self._channel = channel
        self._timeout_ms = timeout_ms
        self.fault: Fault | None = None

    def step(self, _data: bytes = b"") -> None:
        """Answer; what is to be sent is in the Stream afterwards, and what went wrong in ``fault``."""
        lib.ERR_clear_error()
        stream = self._stream
        before = facts.local_certificate(stream)
        try:
            for credential in self._credentials:
                use_key(stream.ssl, credential, self._channel, self._timeout_ms)
            shows = bool(self._credentials)
        except PoolError as error:
            self.fault, shows = Fault(error.code, NO_ALERT, error.detail), False
        if not shows:
            lib.SSL_set_SSL_CTX(stream.ssl, self._nobody._context)
        with answering():
            result = lib.SSL_do_handshake(stream.ssl)
        if result != 1:
            self.fault = self.fault or explain(take_queue())
        stream.shown, stream.own = stream.shown or shows, b"" if shows else before
        if not shows:
            lib.SSL_set_SSL_CTX(stream.ssl, ffi.NULL)  # back to the one that it began with, and its chains
        lib.ERR_clear_error()
        stream.waits = False
