"""Certificates of a file put in order: leaf first, each issuer behind, roots apart; and whom a leaf names."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from tlspool_common.errors import Code, PoolError

_EXTENSION_ERRORS = (
    ValueError, TypeError, OverflowError, LookupError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip


def _silence() -> AbstractContextManager[object]:
    """Read old roots without a warning for each oddity that a later version of the library will refuse."""
    return warnings.catch_warnings(action="ignore", category=CryptographyDeprecationWarning)


def load_untrusted(der: bytes) -> x509.Certificate:
    """Read a certificate, as far as anything here will look at it.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    try:
        with _silence():
            found = x509.load_der_x509_certificate(der)
            _ = found.subject.rfc4514_string(), found.issuer, found.not_valid_before_utc, found.not_valid_after_utc
    except (ValueError, TypeError, OverflowError, x509.InvalidVersion) as error:
        raise PoolError(Code.RECORD_MALFORMED, f"no DER certificate: {error}") from None
    return found


def subject(certificate: x509.Certificate) -> str:
    """Return who it is about, in one line."""
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"


def issued_by(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    """Whether one certificate was issued with the key of another: names and signature."""
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_root(certificate: x509.Certificate) -> bool:
    """Whether it says of itself that it is its own issuer."""
    return certificate.issuer == certificate.subject


def may_issue(certificate: x509.Certificate) -> bool:
    """Whether it is of an authority (RFC 5280 section 4.2.1.9); roots before version 3 say nothing and may."""
    try:
        with _silence():
            return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return certificate.version is x509.Version.v1 and is_root(certificate)
    except _EXTENSION_ERRORS:
        return False


def expired(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether it is past its end."""
    return now > certificate.not_valid_after_utc


def chain_of(ders: Sequence[bytes]) -> list[bytes]:
    """Return the one chain that these certificates are: leaf first, without the root unless that is the leaf.

    Raises:
        PoolError: RECORD_MALFORMED, there is more than one leaf, or a certificate that belongs to none.
    """
    left = [load_untrusted(der) for der in dict.fromkeys(ders)]
    leaves = [one for one in left if not any(other is not one and issued_by(other, one) for other in left)]
    if len(leaves) != 1:
        names = "; ".join(subject(one) for one in leaves[:4])
        raise PoolError(Code.RECORD_MALFORMED, f"{len(leaves)} certificates issued none of the others: {names}")
    chain = leaves
    left.remove(chain[0])
    while left and (upper := next((one for one in left if issued_by(chain[-1], one)), None)) is not None:
        left.remove(upper)
        chain.append(upper)
    if left:
        raise PoolError(Code.RECORD_MALFORMED, f"{subject(left[0])} is in the file, and no issuer in its chain")
    if len(chain) > 1 and is_root(chain[-1]):
        del chain[-1]
    return [one.public_bytes(Encoding.DER) for one in chain]


def identities(certificate: x509.Certificate) -> list[str]:
    """Return the identities that a certificate proves, without wildcards: user@domain first, then domains."""
    names = _alternative_names(certificate)
    users = names.get_values_for_type(x509.RFC822Name) if names is not None else []
    return [name for name in dict.fromkeys([*users, *dns_names(certificate)]) if "*" not in name]


def dns_names(certificate: x509.Certificate) -> list[str]:
    """Return the domains that a certificate names, wildcards too."""
    names = _alternative_names(certificate)
    return list(names.get_values_for_type(x509.DNSName)) if names is not None else []


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        with _silence():
            return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_EXTENSION_ERRORS):
        return None


class Fit(NamedTuple):
    """What of a bundle may become anchors, and why the rest may not: subject and reason."""

    ders: list[bytes]
    unfit: list[tuple[str, str]]


def fit_anchors(ders: Sequence[bytes], now: datetime, *, want_expired: bool, want_not_root: bool) -> Fit:
    """Sort the certificates of a bundle."""
    fit: dict[bytes, None] = {}
    unfit: list[tuple[str, str]] = []
    for number, der in enumerate(ders, 1):
        try:
            certificate = load_untrusted(der)
        except PoolError as error:
            unfit.append((f"certificate {number}", error.detail))
            continue
        if der in fit:
            why = "twice in the bundle"
        elif not want_expired and expired(certificate, now):
            why = f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        elif not want_not_root and not is_root(certificate):
            why = "no root; the flag notroot takes it"
        elif is_root(certificate) and not may_issue(certificate):
            why = "no authority (basicConstraints)"
        else:
            fit[der] = None
            continue
        unfit.append((subject(certificate), why))
    return Fit(list(fit), unfit)
