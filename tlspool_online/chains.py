"""Chains of certificates as far as revocation needs them: whose they are, and where their issuers say to ask.

Pure.  Every certificate but the last one is a ``Link``: the last one is an anchor, or there is nobody to ask about it.
That each is signed by the next is checked here, because otherwise a list of somebody else could be taken for the
issuer's.  Nothing else about the chain is judged: the worker has done that.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID

from tlspool_common import limits
from tlspool_common.record import record
from tlspool_online import bounds
from tlspool_online.lists import serial_der
from tlspool_online.unreadable import UNREADABLE, UNVERIFIED


class BadChain(ValueError):
    """These are no certificates; the text says which is not."""


@record
class Link:
    """A certificate and who has issued it.  ``fault`` says why nothing can be known of it.

    ``elsewhere`` is set when it names a place for lists that is not asked: another protocol, another signer.
    """

    certificate: x509.Certificate
    issuer: x509.Certificate
    issuer_id: bytes
    serial: bytes
    is_authority: bool
    list_urls: tuple[str, ...]
    responder_urls: tuple[str, ...]
    points: frozenset[x509.GeneralName]
    elsewhere: bool
    fault: str


class Chains:
    """The chains of late, so that a remote that comes again is not parsed and verified again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, ...], tuple[Link, ...]] = OrderedDict()

    def links_untrusted(self, chain: tuple[bytes, ...]) -> tuple[Link, ...]:
        """Return the links of a chain, leaf first.

        Raises:
            BadChain: a certificate cannot be read.
        """
        found = self._kept.get(chain)
        if found is None:
            found = self._kept[chain] = links_untrusted(chain)
            if len(self._kept) > bounds.CHAINS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(chain)
        return found


def links_untrusted(chain: Sequence[bytes]) -> tuple[Link, ...]:
    """Take a chain apart.

    Raises:
        BadChain: a certificate cannot be read.
    """
    certificates = []
    for number, der in enumerate(chain):
        try:
            certificates.append(x509.load_der_x509_certificate(der))
        except UNREADABLE:
            raise BadChain(f"certificate {number} cannot be read") from None
    found = []
    for number, (certificate, issuer) in enumerate(itertools.pairwise(certificates)):
        try:
            found.append(_link_untrusted(certificate, issuer))
        except UNREADABLE:
            raise BadChain(f"certificate {number} or {number + 1} cannot be read") from None
    return tuple(found)


def _link_untrusted(certificate: x509.Certificate, issuer: x509.Certificate) -> Link:
    fault = ""
    try:
        certificate.verify_directly_issued_by(issuer)
    except UNVERIFIED:
        fault = "it is not issued by the next certificate"
    if certificate.serial_number <= 0:  # RFC 5280 section 4.1.2.2
        fault = "its serial number is not positive"
    list_urls: list[str] = []
    responder_urls: list[str] = []
    points: list[x509.GeneralName] = []
    is_authority = elsewhere = False
    for extension in certificate.extensions:
        value = extension.value  # of an abstract class, of which isinstance takes long
        if type(value) is x509.BasicConstraints:
            is_authority = value.ca
        elif type(value) is x509.CRLDistributionPoints:
            for point in value:
                names = point.full_name or []
                if point.crl_issuer is not None:
                    elsewhere = True  # an indirect list
                    continue
                points += names
                urls = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
                urls = [url for url in urls if url.lower().startswith("http://")]
                # A point for some reasons is asked, too: it may say that the certificate is revoked.
                list_urls += urls
                elsewhere = elsewhere or not urls
        elif type(value) is x509.AuthorityInformationAccess:
            responder_urls += [
                access.access_location.value
                for access in value
                if access.access_method == AuthorityInformationAccessOID.OCSP
                and isinstance(access.access_location, x509.UniformResourceIdentifier)
            ]
    return Link(
        certificate,
        issuer,
        identity_of(issuer),
        serial_der(certificate.serial_number),
        is_authority,
        tuple(list_urls[: limits.URLS]),
        tuple(responder_urls[: limits.URLS]),
        frozenset(points),
        elsewhere,
        fault,
    )


@lru_cache(maxsize=64)  # the issuers are always the same few
def identity_of(issuer: x509.Certificate) -> bytes:
    """Return what two certificates of one authority have in common: its name and its key."""
    key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(issuer.subject.public_bytes() + key).digest()
