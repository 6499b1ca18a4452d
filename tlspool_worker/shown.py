"""Describe what a remote has shown, in the terms of the border (RemoteShown).

The broker looks into no certificate of a remote; it decides by this description.  So everything in it is bounded,
printable, and taken from what OpenSSL has checked or says of itself that nobody has: ``fault`` is about the chain as
OpenSSL has built it, and ``self_signed`` about a signature that is checked here, as OpenSSL takes such a certificate
at its word.

Pure: neither TLS nor a session is needed, so that an operator's command can describe a certificate just as well
(rehearsal.py).  The functions raise nothing but ValueError, for a certificate that cannot be read.

Remotes come again.  What follows from the certificates alone is remembered (``_Credential``, ``_Leaf``); what OpenSSL
made of them this time, the staple, and all else that depends on the moment or the session, is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from tlspool_common import limits
from tlspool_common.messages import Finding, RemoteShown, prose
from tlspool_common.record import record
from tlspool_worker.certificate_der import names_and_key_untrusted
from tlspool_worker.names import names_untrusted, subject_untrusted
from tlspool_worker.ocsp import check_untrusted, seconds

CHAIN_B = limits.FRAME_B * 5 // 8
"""Certificates that go along with a description, all together: the rest of a frame is for the description."""

REMEMBERED, REMEMBERED_B = 256, 16 * 1024
"""Chains, and leaves, whose description is remembered, and the size up to which one is.

With both at most there are 4 MiB: a leaf that is the first of a chain is the same bytes.
"""

_NO_HASH = {
    "1.3.101.112",  # Ed25519
    "1.3.101.113",  # Ed448
    "2.16.840.1.101.3.4.3.17",  # ML-DSA-44
    "2.16.840.1.101.3.4.3.18",  # ML-DSA-65
    "2.16.840.1.101.3.4.3.19",  # ML-DSA-87
}
"""Signatures whose hash is no choice of anybody."""

_KINDS: tuple[tuple[type, str], ...] = (
    (ed25519.Ed25519PublicKey, "ed25519 256"),
    (ed448.Ed448PublicKey, "ed448 456"),
    (mldsa.MLDSA44PublicKey, "ml-dsa-44 0"),
    (mldsa.MLDSA65PublicKey, "ml-dsa-65 0"),
    (mldsa.MLDSA87PublicKey, "ml-dsa-87 0"),
)


Values = Mapping[type[x509.ExtensionType], x509.ExtensionType]
"""The extensions of a certificate by their kind: to look for one after the other takes longer than all the rest."""


@record
class Chain:
    """A chain as OpenSSL has built it, and what it made of it.

    Attributes:
        ders: the certificates, leaf first; the anchor is the last one, if there is one.
        anchored: the last certificate is an anchor.
        fault: 0, or the code of what is wrong.
        detail: says it in words.
    """

    ders: tuple[bytes, ...]
    anchored: bool
    fault: int = 0
    detail: str = ""


@record
class Wire:
    """What is known of the handshake at this moment."""

    session_id: int = 0
    tls_version: int = 0
    cipher: str = ""
    group: str = ""


@record
class _Leaf:
    """The fields of a description that follow from the first certificate."""

    self_signed: bool
    names: tuple[str, ...]
    subject: str
    leaf_sha256: bytes
    spki_sha256: bytes
    not_after_s: int
    usages: tuple[str, ...]
    extensions: tuple[str, ...]
    crl_urls: tuple[str, ...]
    ocsp_urls: tuple[str, ...]
    must_staple: bool


@record
class _Credential:
    """The fields of a description that follow from the certificates, and from which of them is the anchor."""

    leaf: _Leaf
    anchor_sha256: bytes
    strengths: tuple[str, ...]
    links: tuple[str, ...]


def describe_untrusted(
    chain: Chain, wire: Wire, staple: bytes = b"", now_s: float = 0.0, tells_chain: bool = False
) -> RemoteShown:
    """Return the description of a chain.

    Args:
        chain: what was verified.
        wire: for the fields that are not about certificates.
        staple: the OCSP response that came with the handshake; b'' if none did.
        now_s: the time, in seconds since 1970, by which ``staple`` is judged.
        tells_chain: put the certificates in; left out when they are too many or too large.

    Raises:
        ValueError: a certificate cannot be read.
    """
    try:
        return _describe_untrusted(chain, wire, staple, now_s, tells_chain)
    except (
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        x509.InvalidVersion,
        UnsupportedAlgorithm,
        TypeError,
        OverflowError,
        LookupError,  # the library has no name for a TLS feature, say
    ) as error:
        raise ValueError(f"a certificate cannot be read: {type(error).__name__}") from None


def _describe_untrusted(chain: Chain, wire: Wire, staple: bytes, now_s: float, tells_chain: bool) -> RemoteShown:
    ders = chain.ders
    look = _credential_untrusted if sum(map(len, ders)) > REMEMBERED_B else _remembered_untrusted
    found = look(ders, chain.anchored)
    leaf = found.leaf
    finding, about_staple = Finding.NONE, ""
    if staple and len(ders) > 1:
        about, issuer = certificate_untrusted(ders[0]), certificate_untrusted(ders[1])
        finding, about_staple, _ = check_untrusted(staple, about, issuer, now_s)
    elif staple:
        finding, about_staple = Finding.BAD, "an OCSP response came, but the issuer is not there to judge it by"
    return RemoteShown(
        session_id=wire.session_id,
        tls_version=wire.tls_version,
        cipher=wire.cipher[:64],
        group=wire.group[:64],
        fault=chain.fault,
        detail=prose(chain.detail),
        anchor_sha256=found.anchor_sha256,
        self_signed=leaf.self_signed,
        names=leaf.names,
        subject=leaf.subject,
        leaf_sha256=leaf.leaf_sha256,
        spki_sha256=leaf.spki_sha256,
        not_after_s=leaf.not_after_s,
        strengths=found.strengths,
        usages=leaf.usages,
        extensions=leaf.extensions,
        links=found.links,
        crl_urls=leaf.crl_urls,
        ocsp_urls=leaf.ocsp_urls,
        must_staple=leaf.must_staple,
        stapled=finding,
        stapled_detail=prose(about_staple),
        chain=_fitting(ders) if tells_chain else (),
    )


def _credential_untrusted(ders: tuple[bytes, ...], anchored: bool) -> _Credential:
    look = _leaf_untrusted if len(ders[0]) > REMEMBERED_B else _remembered_leaf_untrusted
    linked = ders[:-1] if anchored else ders
    return _Credential(
        leaf=look(ders[0]),
        anchor_sha256=hashlib.sha256(ders[-1]).digest() if anchored else b"",
        strengths=tuple(_strength_untrusted(der) for der in ders[: limits.CHAIN_CERTIFICATES]),
        links=tuple(_link_untrusted(der) for der in linked[: limits.CHAIN_CERTIFICATES]),
    )


def _leaf_untrusted(der: bytes) -> _Leaf:
    leaf = certificate_untrusted(der)
    issuer, subject, key = names_and_key_untrusted(der)
    usages, extensions = _extensions_untrusted(leaf)
    values: Values = {type(extension.value): extension.value for extension in leaf.extensions}
    return _Leaf(
        # Names of different length are different names: to take both apart takes longer than all else.
        self_signed=len(issuer) == len(subject) and is_self_signed_untrusted(leaf),
        names=names_untrusted(leaf),
        subject=subject_untrusted(leaf),
        leaf_sha256=hashlib.sha256(der).digest(),
        spki_sha256=hashlib.sha256(key).digest(),
        not_after_s=seconds(leaf.not_valid_after_utc),
        usages=usages,
        extensions=extensions,
        crl_urls=_crl_urls_untrusted(values),
        ocsp_urls=_ocsp_urls_untrusted(values),
        must_staple=_must_staple_untrusted(values),
    )


_remembered_untrusted = lru_cache(maxsize=REMEMBERED)(_credential_untrusted)
_remembered_leaf_untrusted = lru_cache(maxsize=REMEMBERED)(_leaf_untrusted)


# --- one certificate --------------------------------------------------------------------------------


def is_self_signed_untrusted(certificate: x509.Certificate) -> bool:
    """Whether a certificate is its own issuer, with a good signature; ValueError: unreadable."""
    if certificate.issuer != certificate.subject:
        return False
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


@lru_cache(maxsize=128)  # the issuers are always the same few, and so are many leaves
def certificate_untrusted(der: bytes) -> x509.Certificate:
    """Read a certificate; ValueError, or InvalidVersion: it is none."""
    return x509.load_der_x509_certificate(der)


@lru_cache(maxsize=128)
def _strength_untrusted(der: bytes) -> str:
    certificate = certificate_untrusted(der)
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        key = None
    if isinstance(key, rsa.RSAPublicKey):
        kind = f"rsa {key.key_size}"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind = f"ec {key.curve.key_size}"
    elif isinstance(key, dsa.DSAPublicKey):
        kind = f"dsa {key.key_size}"
    else:
        kind = next((text for known, text in _KINDS if isinstance(key, known)), "unknown 0")
    return f"{kind} {_hash_name(certificate)}"


def _hash_name(certificate: x509.Certificate) -> str:
    if certificate.signature_algorithm_oid.dotted_string in _NO_HASH:
        return "-"
    try:
        algorithm = certificate.signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return "unknown"
    return algorithm.name if algorithm is not None else "unknown"


def _mark(oid: x509.ObjectIdentifier, critical: bool) -> str:
    return oid.dotted_string + ("!" if critical else "")


def _extensions_untrusted(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return extended key usages, and all extensions, as marked OIDs; what is too long or too many is left out."""
    usages: list[str] = []
    extensions: list[str] = []
    for extension in certificate.extensions:
        extensions.append(_mark(extension.oid, extension.critical))
        if type(extension.value) is x509.ExtendedKeyUsage:
            usages += [_mark(oid, extension.critical) for oid in extension.value]
    return _oids(usages), _oids(extensions)


def _oids(found: Sequence[str]) -> tuple[str, ...]:
    return tuple(oid for oid in found if len(oid) <= limits.OID_B)[: limits.USAGES]


@lru_cache(maxsize=128)
def _link_untrusted(der: bytes) -> str:
    certificate = certificate_untrusted(der)
    serial = f"{certificate.serial_number:x}"
    if len(serial) % 2:
        serial = f"0{serial}"
    identifier = "-"
    try:
        value = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        pass
    else:
        identifier = (value.key_identifier or b"").hex() or "-"
    line = f"{identifier} {serial}"
    if len(line) > limits.CERTIFICATE_LINE_B:
        raise ValueError("a certificate with a key identifier or serial number that is too long")
    return line


def _must_staple_untrusted(values: Values) -> bool:
    """RFC 7633: the TLS feature status_request."""
    features = values.get(x509.TLSFeature)
    return isinstance(features, x509.TLSFeature) and x509.TLSFeatureType.status_request in features


def _crl_urls_untrusted(values: Values) -> tuple[str, ...]:
    """Where complete lists of the issuer itself are: others (RFC 5280 section 4.2.1.13) are left out."""
    points = values.get(x509.CRLDistributionPoints)
    if not isinstance(points, x509.CRLDistributionPoints):
        return ()
    whole = [point for point in points if not point.reasons and not point.crl_issuer]
    return _urls(name for point in whole for name in point.full_name or ())


def _ocsp_urls_untrusted(values: Values) -> tuple[str, ...]:
    access = values.get(x509.AuthorityInformationAccess)
    if not isinstance(access, x509.AuthorityInformationAccess):
        return ()
    return _urls(one.access_location for one in access if one.access_method == AuthorityInformationAccessOID.OCSP)


def _urls(names: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    found = []
    for name in names:
        if not isinstance(name, x509.UniformResourceIdentifier):
            continue
        url = name.value
        if url[:7].lower() == "http://" and len(url) <= limits.URL_B and url.isascii() and url.isprintable():
            found.append(url)
    return tuple(found[: limits.URLS])


def _fitting(ders: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the certificates, or none: half a chain would be of no use."""
    if len(ders) > limits.CHAIN_CERTIFICATES or sum(map(len, ders)) > CHAIN_B:
        return ()
    return () if max(map(len, ders)) > limits.CERTIFICATE_B else ders
