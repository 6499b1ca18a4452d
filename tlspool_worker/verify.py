"""Judge what the remote shows, inside the handshake.

OpenSSL builds and checks the chain (signatures, dates, purpose, constraints) against the anchors of one trust
generation, and calls ``VERIFY`` for each certificate and for each fault.  The name is matched there too, when
the leaf has passed: so the alert that says "not you" goes out in place of our Finished, and a client
certificate is never shown to a server with another name.

* A callback that OpenSSL calls catches everything and fails closed (CVE-2026-27448 was the contrary).
* OpenSSL tells a callback nothing of ours; but it calls it in the thread that runs the handshake, so the
  ``Check`` of that handshake is in a thread-local (``Judging``).
* A handshake counts as verified only if the leaf itself has passed here; OpenSSL's success alone is not enough.
* After the handshake a client may be asked again who it is (reauth.py).  Its answer comes in whichever thread reads,
  so that ``Check`` is found by its TLS object (``expecting``).  There OpenSSL is always told to go on: a session that
  works does not end for a certificate that does not verify, its remote only counts as nobody (RFC 8446 section
  4.4.2.4 allows that).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509
from OpenSSL import crypto
from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, remote_matches
from tlspool_worker.names import names_untrusted

_V_ERR_INVALID_EXTENSION = 41
_V_ERR_HOSTNAME_MISMATCH = 62

# X509_V_ERR number (openssl/x509_vfy.h) -> (what it means here, the alert that libssl sends for it, ssl/statem_lib.c)
TABLE: dict[int, tuple[Code, int]] = {
    2: (Code.CHAIN_UNTRUSTED, 48),  # unable to get issuer certificate
    4: (Code.CHAIN_INVALID, 42),  # unable to decrypt certificate's signature
    6: (Code.CHAIN_INVALID, 42),  # unable to decode issuer public key
    7: (Code.CHAIN_INVALID, 51),  # certificate signature failure
    9: (Code.NOT_YET_VALID, 42),
    10: (Code.EXPIRED, 45),
    13: (Code.CHAIN_INVALID, 42),  # format error in notBefore
    14: (Code.CHAIN_INVALID, 42),  # format error in notAfter
    17: (Code.INTERNAL, 80),  # out of memory
    18: (Code.SELF_SIGNED, 48),
    19: (Code.CHAIN_UNTRUSTED, 48),  # self-signed certificate in chain
    20: (Code.CHAIN_UNTRUSTED, 48),  # unable to get local issuer certificate
    21: (Code.CHAIN_UNTRUSTED, 48),  # unable to verify the first certificate
    22: (Code.CHAIN_INVALID, 48),  # chain too long
    25: (Code.CHAIN_INVALID, 48),  # path length constraint exceeded
    26: (Code.WRONG_PURPOSE, 43),
    27: (Code.CHAIN_UNTRUSTED, 42),  # certificate not trusted
    28: (Code.CHAIN_UNTRUSTED, 42),  # certificate rejected
    62: (Code.NAME_MISMATCH, 42),  # hostname mismatch
    63: (Code.NAME_MISMATCH, 42),  # email address mismatch
    64: (Code.NAME_MISMATCH, 42),  # IP address mismatch
    66: (Code.KEY_WEAK, 42),  # leaf key too weak
    67: (Code.KEY_WEAK, 42),  # CA key too weak
    68: (Code.KEY_WEAK, 42),  # CA signature digest too weak
    79: (Code.CHAIN_INVALID, 48),  # invalid CA certificate
}
OTHER = (Code.CHAIN_INVALID, 46)  # a fault of the chain, with certificate_unknown


class Check:
    """What one handshake asks of the remote's credential, and what came of it."""

    __slots__ = (
        "alert",
        "asked",
        "code",
        "detail",
        "domain_represents_user",
        "expected",
        "leaf",
        "names",
        "passed",
        "sha256",
        "show",
        "staples",
        "subject",
    )

    def __init__(self, expected: Donai | None, domain_represents_user: bool) -> None:
        self.expected = expected
        self.domain_represents_user = domain_represents_user
        self.code: Code | None = None
        self.alert = 255
        self.detail = ""
        self.leaf: x509.Certificate | None = None
        self.names: tuple[str, ...] = ()
        self.subject, self.sha256 = "", b""  # of the leaf, if that was described (inquiry.py)
        self.passed = False
        self.asked = False  # a client: whether the server asked for our certificate
        self.show: Callable[[Any], None] | None = None  # a client with several credentials: chooses
        self.staples: Mapping[bytes, bytes] = {}  # a server: OCSP responses, by its certificates

    def fault(self, number: int, depth: int) -> None:
        """Keep the first fault that OpenSSL finds."""
        if self.code is None:
            self.code, self.alert = TABLE.get(number, OTHER)
            self.detail = words(number, depth)

    def leaf_passed_untrusted(self, leaf: x509.Certificate) -> bool:
        """The chain is in order; say whether its leaf names whom we expect."""
        self.leaf = leaf
        self.names = names_untrusted(leaf)
        if self.expected is not None and not remote_matches(self.expected, self.names, self.domain_represents_user):
            self.code, self.alert = TABLE[_V_ERR_HOSTNAME_MISMATCH]
            shown = ", ".join(self.names[:8])[:300] or "nobody"
            self.detail = f"{self.expected} is expected, the certificate names {shown}"
            return False
        self.passed = self.code is None
        return self.passed

    def seen_untrusted(self, ok: int, store_context: Any) -> int:
        """Take a call of VERIFY: what it is to return."""
        depth = lib.X509_STORE_CTX_get_error_depth(store_context)
        if not ok:
            self.fault(lib.X509_STORE_CTX_get_error(store_context), depth)
            return 0
        if depth:
            return 1
        if self.leaf_passed_untrusted(_current_certificate(store_context)):
            return 1
        lib.X509_STORE_CTX_set_error(store_context, _V_ERR_HOSTNAME_MISMATCH)
        return 0

    def cannot(self, error: Exception) -> None:
        """Fail closed: nobody knows what happened here."""
        self.passed = False
        if self.code is None:
            self.code, self.alert = OTHER
            self.detail = f"the certificate cannot be judged: {type(error).__name__}"

    def server_asks(self, ssl: Any) -> bool:
        """The server wants our certificate; say whether to go on.  Called by OpenSSL: raises nothing."""
        self.asked = True
        try:
            if self.show is not None:
                self.show(ssl)
        except PoolError as error:
            self.passed = False
            self.code, self.alert, self.detail = error.code, 80, error.detail
        except Exception as error:  # fail closed, whatever it is
            self.passed = False
            self.code, self.alert, self.detail = Code.INTERNAL, 80, f"{type(error).__name__}: {error}"
        return self.code is None

    def heard(self, data: bytes) -> None:
        """Take note of what the server says; nothing here depends on it."""

    def server_is_done_untrusted(self, _ssl: Any) -> bool:
        """The server's flight is complete; say whether to go on."""
        return True


def words(number: int, depth: int) -> str:
    """Say what an X509_V_ERR is about."""
    text = ffi.string(lib.X509_verify_cert_error_string(number)).decode("ascii", "replace")
    whose = "the leaf" if depth == 0 else f"certificate {depth + 1} of the chain"
    return f"{whose}: {text}"


class _Current(threading.local):
    check: Check | None = None


_judging = _Current()


class Judging:
    """Lets VERIFY, in this thread, report to ``check``, within a ``with``."""

    __slots__ = ("_check",)

    def __init__(self, check: Check) -> None:
        self._check = check

    def __enter__(self) -> None:
        _judging.check = self._check

    def __exit__(self, *_: object) -> None:
        _judging.check = None


def current() -> Check | None:
    """Return the Check of the handshake step that runs in this thread."""
    return _judging.check


_expecting: dict[int, Check] = {}


def expecting(ssl: Any, check: Check | None) -> None:
    """Let VERIFY report to ``check`` what the remote of a finished handshake shows; None: expect no more."""
    key = _address(ssl)
    if check is None:
        _expecting.pop(key, None)
    else:
        _expecting[key] = check


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def _verify(ok: int, store_context: Any) -> int:
    check = _judging.check
    if check is not None:
        return _judge(check, ok, store_context)
    if not _expecting:
        return 0
    ssl = lib.X509_STORE_CTX_get_ex_data(store_context, lib.SSL_get_ex_data_X509_STORE_CTX_idx())
    check = _expecting.get(_address(ssl))
    if check is None:
        return 0
    _judge(check, ok, store_context)
    return 1


def _judge(check: Check, ok: int, store_context: Any) -> int:
    try:
        return check.seen_untrusted(ok, store_context)
    except Exception as error:  # fail closed, whatever it is
        check.cannot(error)
        lib.X509_STORE_CTX_set_error(store_context, _V_ERR_INVALID_EXTENSION)
        return 0


VERIFY = ffi.callback("int (*)(int, X509_STORE_CTX *)", _verify, error=0)
"""For SSL_CTX_set_verify.  Alive as long as the module is; an exception inside cffi itself answers 0."""


def _current_certificate(store_context: Any) -> x509.Certificate:
    pointer = lib.X509_STORE_CTX_get_current_cert(store_context)
    if pointer == ffi.NULL:
        raise ValueError("OpenSSL has no current certificate")
    lib.X509_up_ref(pointer)
    return crypto.X509._from_raw_x509_ptr(pointer).to_cryptography()
