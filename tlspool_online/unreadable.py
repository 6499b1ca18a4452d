"""What the library raises at bytes it cannot make sense of: not all of it is a ValueError."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm

UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    LookupError,  # KeyError: a number in a certificate that the library has no name for
    OverflowError,
    UnsupportedAlgorithm,
    InternalError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

UNVERIFIED: tuple[type[Exception], ...] = (InvalidSignature, *UNREADABLE)
"""The same where a signature is verified."""
