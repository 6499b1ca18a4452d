"""What the broker needs to know of certificates that an operator gives it.

Local certificates only: those of the databases and of the control socket.  What a remote sends over the
network is parsed by a worker and never comes here.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import PublicKeyAlgorithmOID

from tlspool_broker.records import malformed
from tlspool_common import limits
from tlspool_common.identity import Donai, remote_matches
from tlspool_common.messages import KeyKind

_EXTENSION_ERRORS = (
    ValueError, TypeError, OverflowError, LookupError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
)  # fmt: skip
_UNREADABLE = (ValueError, TypeError, OverflowError, x509.InvalidVersion)
_CURVES = {"secp256r1": KeyKind.EC_P256, "secp384r1": KeyKind.EC_P384}


def load(der: bytes, name: str = "the certificate") -> x509.Certificate:
    """Read one DER certificate with nothing behind it.

    Raises:
        PoolError: RECORD_MALFORMED, beginning with ``name``.
    """
    if len(der) > limits.CERTIFICATE_B:
        raise malformed(f"{name} has more than {limits.CERTIFICATE_B} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # The library reads these when asked; from here on they are known to be readable.
        _ = certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except _UNREADABLE:
        raise malformed(f"{name} is no DER certificate") from None
    return certificate


def key_of(certificate: x509.Certificate, name: str = "the certificate") -> tuple[KeyKind, bytes]:
    """Return the kind of a certificate's key, and the SHA-256 of its SubjectPublicKeyInfo.

    Raises:
        PoolError: RECORD_MALFORMED, the key is of a kind that the pool cannot sign with.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise malformed(f"{name} has a public key that cannot be read") from None
    kind: KeyKind | None = None
    if isinstance(key, rsa.RSAPublicKey):
        # A key restricted to PSS (RFC 4055) is not the kind of key that SignHandshake's schemes are for.
        if certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5:
            kind = KeyKind.RSA
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind = _CURVES.get(key.curve.name)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        kind = KeyKind.ED25519
    if kind is None:
        raise malformed(f"{name} has a key that is none of RSA, P-256, P-384, Ed25519")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return kind, hashlib.sha256(spki).digest()


def check_chain(chain: Sequence[bytes]) -> None:
    """Accept a chain: leaf first, each certificate signed by the one behind it.

    Raises:
        PoolError: RECORD_MALFORMED, naming the certificate.
    """
    if not 1 <= len(chain) <= limits.CHAIN_CERTIFICATES:
        raise malformed(f"a chain has 1 to {limits.CHAIN_CERTIFICATES} certificates, not {len(chain)}")
    certificates = [load(der, f"certificate {number}") for number, der in enumerate(chain, 1)]
    key_of(certificates[0], "certificate 1")
    for number, (lower, upper) in enumerate(itertools.pairwise(certificates), 1):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise malformed(
                f"certificate {number} was not issued by certificate {number + 1}; give the leaf first"
            ) from None


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Tell whether issuer and subject are the same (RFC 5280 section 3.2)."""
    return certificate.issuer == certificate.subject


def key_identifier(certificate: x509.Certificate) -> bytes:
    """Return the key of an anchor in trust.db: its SubjectKeyIdentifier, else RFC 5280 4.2.1.2 method (1).

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        pass
    except _EXTENSION_ERRORS:
        raise malformed("the certificate's extensions cannot be read") from None
    try:
        key = certificate.public_key()
        return x509.SubjectKeyIdentifier.from_public_key(key).digest
    except (ValueError, UnsupportedAlgorithm):
        raise malformed("the certificate has a public key that cannot be read") from None


def doubts(certificate: x509.Certificate, identity: Donai | None, now: datetime | None = None) -> list[str]:
    """Return what an operator may want to know of a certificate that was accepted."""
    now = now or datetime.now(UTC)
    found = []
    if now > certificate.not_valid_after_utc:
        found.append(f"the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if now < certificate.not_valid_before_utc:
        found.append(f"the certificate is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}")
    if identity is not None and not remote_matches(identity, _names(certificate), domain_represents_user=True):
        found.append(f"the certificate does not name {identity}; remotes that look for it will refuse")
    return found


def summary(certificate: x509.Certificate) -> dict[str, object]:
    """Return what people want to see of a certificate."""
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "sha256": hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest(),
    }


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_EXTENSION_ERRORS):
        return []
    return [
        *(f"dns:{name}" for name in names.get_values_for_type(x509.DNSName)),
        *(f"email:{name}" for name in names.get_values_for_type(x509.RFC822Name)),
        *(f"ip:{address}" for address in names.get_values_for_type(x509.IPAddress)),
    ]
