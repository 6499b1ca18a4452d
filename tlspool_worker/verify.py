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
from typing import Any

from cryptography import x509
from OpenSSL import crypto
from OpenSSL._util import ffi, lib

from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.identity import Donai, remote_matches

_V_ERR_UNSPECIFIED = 1
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
    66: (Code.CHAIN_INVALID, 42),  # leaf key too weak
    67: (Code.CHAIN_INVALID, 42),  # CA key too weak
    68: (Code.CHAIN_INVALID, 42),  # CA signature digest too weak
    79: (Code.CHAIN_INVALID, 48),  # invalid CA certificate
}
_OTHER = (Code.CHAIN_INVALID, 46)  # a fault of the chain, with certificate_unknown


class Check:
    """What one handshake asks of the remote's credential, and what came of it."""

    __slots__ = ("alert", "asked", "code", "detail", "domain_represents_user", "expected", "leaf", "names", "passed")

    def __init__(self, expected: Donai | None, domain_represents_user: bool) -> None:
        self.expected = expected
        self.domain_represents_user = domain_represents_user
        self.code: Code | None = None
        self.alert = 255
        self.detail = ""
        self.leaf: x509.Certificate | None = None
        self.names: tuple[str, ...] = ()
        self.passed = False
        self.asked = False  # a client: whether the server asked for our certificate

    def fault(self, number: int, depth: int) -> None:
        """Keep the first fault that OpenSSL finds."""
        if self.code is None:
            self.code, self.alert = TABLE.get(number, _OTHER)
            text = ffi.string(lib.X509_verify_cert_error_string(number)).decode("ascii", "replace")
            whose = "the leaf" if depth == 0 else f"certificate {depth + 1} of the chain"
            self.detail = f"{whose}: {text}"

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
        depth = lib.X509_STORE_CTX_get_error_depth(store_context)
        if not ok:
            check.fault(lib.X509_STORE_CTX_get_error(store_context), depth)
            return 0
        if depth:
            return 1
        if check.leaf_passed_untrusted(_current_certificate(store_context)):
            return 1
        lib.X509_STORE_CTX_set_error(store_context, _V_ERR_HOSTNAME_MISMATCH)
        return 0
    except Exception as error:  # fail closed, whatever it is
        if check.code is None:
            check.code, check.alert = _OTHER
            check.detail = f"the certificate cannot be judged: {type(error).__name__}"
        lib.X509_STORE_CTX_set_error(store_context, _V_ERR_UNSPECIFIED)
        return 0


VERIFY = ffi.callback("int (*)(int, X509_STORE_CTX *)", _verify, error=0)
"""For SSL_CTX_set_verify.  Alive as long as the module is; an exception inside cffi itself answers 0."""


def _current_certificate(store_context: Any) -> x509.Certificate:
    pointer = lib.X509_STORE_CTX_get_current_cert(store_context)
    if pointer == ffi.NULL:
        raise ValueError("OpenSSL has no current certificate")
    lib.X509_up_ref(pointer)
    return crypto.X509._from_raw_x509_ptr(pointer).to_cryptography()


def names_untrusted(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names of a certificate as ``dns:``, ``email:`` and ``ip:`` text, at most IDENTITY_NAMES.

    A common name counts for nothing (RFC 9525 section 2).  What is too long or not printable is left out.

    Raises:
        ValueError: the extensions cannot be read.
    """
    try:
        general = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(f"extensions: {type(error).__name__}") from None
    found = []
    for name in general:
        match name:
            case x509.DNSName():
                text = f"dns:{name.value}"
            case x509.RFC822Name():
                text = f"email:{name.value}"
            case x509.IPAddress():
                text = f"ip:{name.value}"
            case _:
                continue
        if text.isprintable() and len(text.encode()) <= limits.IDENTITY_NAME_B:
            found.append(text)
            if len(found) == limits.IDENTITY_NAMES:
                break
    return tuple(found)


def subject_untrusted(certificate: x509.Certificate) -> str:
    """Return the subject as RFC 4514 text, cut to SUBJECT_B bytes; '' when it cannot be read."""
    try:
        text = certificate.subject.rfc4514_string()
    except ValueError:
        return ""
    return text.encode("utf-8", "replace")[: limits.SUBJECT_B].decode("utf-8", "ignore")
