"""Judge an OCSP response: is a certificate revoked (RFC 6960)?

Pure functions, for a worker (a response stapled to a handshake) and for the helper that asks responders.  Only what
is signed by somebody the issuer has put in charge, is about this certificate, and is in date, counts as good or as
revoked.  Who may sign is in RFC 6960 section 4.2.2.2: the issuer itself, or a responder with a certificate that the
issuer has issued directly, for signing such responses.

Not checked: whether the delegated responder's own certificate is revoked.  Its issuer can say with id-pkix-ocsp-nocheck
that nobody need, and issues such certificates for weeks; nobody else's answer would be more believable.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from tlspool_common import limits
from tlspool_common.messages import Finding
from tlspool_worker.certificate_der import BadDer, elements_untrusted, issuer_untrusted

SKEW_S = 300
"""How far clocks may be apart.  OpenSSL's tool and nginx take the same five minutes for OCSP."""

NO_NEXT_UPDATE_S = 3600
"""How long a response counts that does not say until when: it means that there is always a newer one."""

_MAY_CARRY = 10
"""Certificates in a response that are looked at.  One is usual, a cross-signed responder brings a few."""

_SINGLES = 64
"""Answers in a response that are looked at.  One was asked for; a responder may put in more."""

_HASHES = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
"""Hashes of a CertID.  Nobody gains by a collision here, so that SHA-1, which nearly all use, will do."""

_SIGNING_HASHES = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")

_WITHOUT_HASH = (
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    mldsa.MLDSA44PublicKey,
    mldsa.MLDSA65PublicKey,
    mldsa.MLDSA87PublicKey,
)

_KNOWN_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.OCSP_NO_CHECK,
}

_WORST_FIRST = (ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN, ocsp.OCSPCertStatus.GOOD)

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Told = tuple[Finding, str, int]
"""What is found, a sentence about it, and until when (seconds since 1970) it may be used; 0: not again."""


class _Unusable(ValueError):
    """The response does not count."""


def check_untrusted(response_der: bytes, leaf: x509.Certificate, issuer: x509.Certificate, now_s: float) -> Told:
    """Return what a response says of ``leaf``, which ``issuer`` has issued; raises nothing.

    GOOD, REVOKED and UNKNOWN are signed and in date.  NONE is a responder that does not answer now, which nobody
    has signed; everything else that does not tell is BAD.
    """
    try:
        return _check_untrusted(response_der, leaf, issuer, now_s)
    except _Unusable as error:
        return Finding.BAD, str(error), 0
    except (
        ValueError,
        TypeError,
        OverflowError,
        LookupError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        x509.InvalidVersion,
    ) as error:
        return Finding.BAD, f"the OCSP response cannot be read: {type(error).__name__}", 0


def _check_untrusted(response_der: bytes, leaf: x509.Certificate, issuer: x509.Certificate, now_s: float) -> Told:
    if len(response_der) > limits.OCSP_B:
        raise _Unusable(f"an OCSP response of {len(response_der)} bytes; at most {limits.OCSP_B} are read")
    response = ocsp.load_der_ocsp_response(response_der)
    status = response.response_status
    if status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return Finding.NONE, f"the OCSP responder answers {status.name.lower().replace('_', ' ')}", 0
    single = _about_untrusted(response, leaf, issuer)
    _check_signature_untrusted(response, issuer, now_s)
    _check_critical_untrusted(response)
    until_s = _check_dates_untrusted(single, now_s)
    match single.certificate_status:
        case ocsp.OCSPCertStatus.GOOD:
            return Finding.GOOD, f"OCSP: good, {_dates(single)}", until_s
        case ocsp.OCSPCertStatus.REVOKED:
            reason = single.revocation_reason
            since = single.revocation_time_utc
            return (
                Finding.REVOKED,
                f"OCSP: revoked since {_day(since)}{f' ({reason.value})' if reason else ''}, {_dates(single)}",
                until_s,
            )
        case _:
            return Finding.UNKNOWN, f"OCSP: the responder does not know the certificate, {_dates(single)}", until_s


def _day(when: datetime.datetime | None) -> str:
    return "a date unknown" if when is None else when.strftime("%Y-%m-%d %H:%M")


def _dates(single: ocsp.OCSPSingleResponse) -> str:
    until = single.next_update_utc
    return f"as of {_day(single.this_update_utc)}" + (f", until {_day(until)}" if until else "")


# --- whom it is about -------------------------------------------------------------------------------


def _about_untrusted(
    response: ocsp.OCSPResponse, leaf: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse:
    """Return the answer about a certificate; of several the worst."""
    name, key = _issuer_name(leaf), key_bits(issuer)
    found: list[ocsp.OCSPSingleResponse] = []
    for number, single in enumerate(response.responses):
        if number == _SINGLES:
            raise _Unusable(f"the OCSP response has more than {_SINGLES} answers")
        make = _HASHES.get(single.hash_algorithm.name)
        if (
            make is not None
            and single.serial_number == leaf.serial_number
            and hmac.compare_digest(single.issuer_name_hash, make(name).digest())
            and hmac.compare_digest(single.issuer_key_hash, make(key).digest())
        ):
            found.append(single)
    if not found:
        raise _Unusable("the OCSP response is about another certificate")
    return min(found, key=lambda single: _WORST_FIRST.index(single.certificate_status))


@lru_cache(maxsize=64)
def _issuer_name(leaf: x509.Certificate) -> bytes:
    return issuer_untrusted(leaf.public_bytes(Encoding.DER))


@lru_cache(maxsize=64)  # the issuers are always the same few
def key_bits(certificate: x509.Certificate) -> bytes:
    """Return what issuerKeyHash and a responder's KeyHash are made of: the BIT STRING of the key, without tag,
    length and unused bits (RFC 6960 section 4.1.1).

    Raises:
        ValueError: the key cannot be read.
    """
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for outer in elements_untrusted(spki):
        for element in elements_untrusted(outer.body):
            if element.tag == 0x03 and element.body:
                return element.body[1:]
    raise BadDer("a key without its bits")


# --- who says so ------------------------------------------------------------------------------------


def _check_signature_untrusted(response: ocsp.OCSPResponse, issuer: x509.Certificate, now_s: float) -> None:
    if _is_responder(response, issuer):
        _verify_untrusted(response, issuer)
        return
    why = "the OCSP response is signed by somebody else than the issuer, and has no certificate for it"
    for number, candidate in enumerate(response.certificates):
        if number == _MAY_CARRY:
            break
        if not _is_responder(response, candidate):
            continue
        refusal = _delegation_fault_untrusted(candidate, issuer, now_s)
        if not refusal:
            _verify_untrusted(response, candidate)
            return
        why = f"the OCSP responder {candidate.subject.rfc4514_string()[:100]}: {refusal}"
    raise _Unusable(why)


def _is_responder(response: ocsp.OCSPResponse, candidate: x509.Certificate) -> bool:
    """Whether the response names this certificate's subject, or key, as its signer."""
    if response.responder_name is not None:
        return response.responder_name == candidate.subject
    return response.responder_key_hash == hashlib.sha1(key_bits(candidate), usedforsecurity=False).digest()


def _delegation_fault_untrusted(candidate: x509.Certificate, issuer: x509.Certificate, now_s: float) -> str:
    """Say why a certificate may not sign responses for ``issuer``; '' when it may."""
    try:
        candidate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return "its certificate is not issued by the issuer itself"
    algorithm = candidate.signature_hash_algorithm
    if algorithm is not None and algorithm.name not in _SIGNING_HASHES:
        return f"its certificate is signed with {algorithm.name}"
    try:
        usages = candidate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "its certificate is not for signing OCSP responses"
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        return "its certificate is not for signing OCSP responses"
    for extension in candidate.extensions:
        if isinstance(extension.value, x509.KeyUsage) and not extension.value.digital_signature:
            return "its certificate is not for signatures"
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            return f"its certificate has the critical extension {extension.oid.dotted_string}"
    if now_s + SKEW_S < seconds(candidate.not_valid_before_utc):
        return "its certificate is not valid yet"
    if now_s - SKEW_S > seconds(candidate.not_valid_after_utc):
        return "its certificate has expired"
    return ""


def _verify_untrusted(response: ocsp.OCSPResponse, signer: x509.Certificate) -> None:
    """Check the signature.

    Raises:
        _Unusable: it is not good, or of a kind that is not accepted.
    """
    key: Any = signer.public_key()
    content, signature = response.tbs_response_bytes, response.signature
    try:
        if isinstance(key, _WITHOUT_HASH):
            key.verify(signature, content)
            return
        if isinstance(key, dsa.DSAPublicKey) or response.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
            raise _Unusable("the OCSP response is signed with DSA or RSASSA-PSS, which are not accepted")
        algorithm = response.signature_hash_algorithm
        if algorithm is None or algorithm.name not in _SIGNING_HASHES:
            raise _Unusable(f"the OCSP response is signed with {algorithm.name if algorithm else 'no hash'}")
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, content, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(algorithm))
        else:
            raise _Unusable("the OCSP response is signed with a key of an unknown kind")
    except InvalidSignature:
        raise _Unusable("the signature of the OCSP response does not verify") from None


def _check_critical_untrusted(response: ocsp.OCSPResponse) -> None:
    """What is critical and not known makes a response void (RFC 6960 section 4.4)."""
    for extension in [*response.extensions, *_single_extensions_untrusted(response)]:
        if extension.critical and extension.oid != x509.OCSPNonce.oid:
            raise _Unusable(f"the OCSP response has the critical extension {extension.oid.dotted_string}")


def _single_extensions_untrusted(response: ocsp.OCSPResponse) -> list[x509.Extension[x509.ExtensionType]]:
    if sum(1 for _ in response.responses) != 1:
        return []  # the library has no way to them; XXX not checked where a responder answers more than was asked
    return list(response.single_extensions)


# --- when -------------------------------------------------------------------------------------------


def seconds(when: datetime.datetime) -> int:
    """Return a date as seconds since 1970; 0 before that."""
    return max(0, int((when - _EPOCH).total_seconds()))


def _check_dates_untrusted(single: ocsp.OCSPSingleResponse, now_s: float) -> int:
    """Return until when the answer counts."""
    since = seconds(single.this_update_utc)
    until = single.next_update_utc
    until_s = since + NO_NEXT_UPDATE_S if until is None else seconds(until)
    if since > now_s + SKEW_S:
        raise _Unusable(f"the OCSP response is of the future: {_day(single.this_update_utc)}")
    if until_s < since or until_s < now_s - SKEW_S:
        raise _Unusable(f"the OCSP response is out of date: {_dates(single)}")
    return until_s
