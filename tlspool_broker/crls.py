"""Certificate revocation lists that an operator brings.

Those that come over the network are another process's business.  A list counts only if an issuer has signed it,
and if it is whole: one that speaks of some certificates or reasons only, or of changes, would let others pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from tlspool_broker import certificates
from tlspool_broker.records import malformed
from tlspool_broker.trustdata import Revocations, serial_of
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError

_KNOWN = (
    x509.AuthorityKeyIdentifier,
    x509.IssuerAlternativeName,
    x509.CRLNumber,
    x509.FreshestCRL,
    x509.AuthorityInformationAccess,
    x509.IssuingDistributionPoint,
)
_PEM = b"-----BEGIN X509 CRL-----"
_LAST_S = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list; nobody has looked at its signature yet."""

    crl: x509.CertificateRevocationList
    issuer: str
    issuer_key: bytes
    revocations: Revocations

    def check_signed(self, issuers: Sequence[bytes], key: bytes) -> None:
        """Accept the list if one of these certificates' owners has signed it.

        Raises:
            PoolError: SIGNATURE_WRONG, RECORD_MALFORMED.
        """
        if not issuers:
            raise PoolError(Code.SIGNATURE_WRONG, f"no anchor is filed under {key.hex()}, the key of {self.issuer}")
        for der in issuers:
            certificate = certificates.load(der)
            if certificate.subject != self.crl.issuer:
                continue
            try:
                public_key = certificate.public_key()
                if self.crl.is_signature_valid(public_key):  # type: ignore[arg-type] # raises for other kinds
                    return
            except (ValueError, TypeError, UnsupportedAlgorithm):
                continue
        raise PoolError(Code.SIGNATURE_WRONG, f"of {self.issuer}")


def load(data: bytes) -> RevocationList:
    """Read a list, DER or PEM.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    try:
        crl = x509.load_pem_x509_crl(data) if _PEM in data else x509.load_der_x509_crl(data)
        issuer = crl.issuer.rfc4514_string()
        extensions = crl.extensions
        if len(crl) > limits.REVOKED_SERIALS:
            raise malformed(f"more than {limits.REVOKED_SERIALS} revoked serials")
        serials = frozenset(serial_of(one.serial_number) for one in crl)
        this_s, next_s = _seconds(crl.last_update_utc), _seconds(crl.next_update_utc)
    except (
        ValueError,
        TypeError,
        OverflowError,
        LookupError,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ):
        raise malformed("that is no certificate revocation list, DER or PEM") from None
    issuer_key = b""
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            issuer_key = value.key_identifier or b""
        if isinstance(value, x509.IssuingDistributionPoint) and _is_partial(value):
            raise malformed("the revocation list is of some certificates or reasons only; give the whole one")
        if isinstance(value, x509.DeltaCRLIndicator) or (extension.critical and not isinstance(value, _KNOWN)):
            raise malformed(f"the revocation list is a delta, or has an unknown critical extension {extension.oid}")
    return RevocationList(crl, issuer, issuer_key, Revocations(this_s, next_s if next_s > this_s else 0, serials))


def _is_partial(point: x509.IssuingDistributionPoint) -> bool:
    return bool(
        point.only_contains_user_certs
        or point.only_contains_ca_certs
        or point.only_contains_attribute_certs
        or point.indirect_crl
        or point.only_some_reasons
    )


def _seconds(time: datetime | None) -> int:
    return 0 if time is None else min(max(int(time.timestamp()), 0), _LAST_S)
