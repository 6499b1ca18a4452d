"""From what an operator gives to records, and from records to what a handshake can use.

Both directions refuse the same things, as a database may have been written by other tools.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tlspool_broker import certificates, records
from tlspool_broker.records import LocalRecord, TrustRecord
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind

LocalEntries = Sequence[tuple[str, Sequence[bytes]]]
"""Credentials: PKCS #11 URI and chain with the leaf first.  For the type VALEXP: expression, and no chain."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What one side of a handshake can show, and the key that goes with it."""

    uri: str
    chain: tuple[bytes, ...]
    key_kind: KeyKind
    spki_sha256: bytes


@dataclass(frozen=True, slots=True)
class Anchor:
    """A certificate that ends chains.

    Attributes:
        for_sides: a bit set: 1 local clients, 2 local servers.
        key: what it is filed under, in general its key identifier.
        sha256: of the certificate.
        valexp: what must be true of remotes whose chain ends here; an anchor with 0 accepts nobody.
        may_be_no_root: it is not self-issued, and chains may end here all the same.
    """

    for_sides: int
    der: bytes
    key: bytes = b""
    sha256: bytes = b""
    valexp: str = "1"
    may_be_no_root: bool = False


def local_values(flags: int, entries: LocalEntries) -> list[bytes]:
    """Make records of localid.db: credentials of one type for the roles named.

    Raises:
        PoolError: RECORD_MALFORMED, NOT_SUPPORTED_YET.
    """
    new = [local_value(flags, uri, chain) for uri, chain in entries]
    if flags & records.TYPE_MASK == records.VALEXP and len(new) > 1:
        raise records.malformed("an identity has one validation expression for a role")
    return new


def local_value(flags: int, uri: str, chain: Sequence[bytes]) -> bytes:
    """Make a record of localid.db.

    Raises:
        PoolError: RECORD_MALFORMED, NOT_SUPPORTED_YET.
    """
    kind, roles = flags & records.TYPE_MASK, flags & records.ROLE_MASK
    if not roles:
        raise records.malformed("name client, server, or both")
    if flags & (records.LOCAL_NO_PKCS11 | records.LOCAL_NEEDS_CHAIN):
        raise PoolError(Code.NOT_SUPPORTED_YET, "noP11 and needschain; give a PKCS #11 URI and the whole chain")
    if kind == records.VALEXP:
        records.check_valexp(uri)
        if chain:
            raise records.malformed("a validation expression has no certificate")
        return LocalRecord(kind | roles, uri, b"").encode()
    if kind != records.X509:
        raise PoolError(Code.NOT_SUPPORTED_YET, f"writing records of type {records.local_words(kind)[0]}")
    records.check_uri(uri)
    certificates.check_chain(chain)
    # A mark on a single certificate would make earlier pools fail to load it.
    chained = records.LOCAL_CHAINED if len(chain) > 1 else 0
    return LocalRecord(kind | roles | chained, uri, b"".join(chain)).encode()


def trust_value(flags: int, valexp: str, der: bytes) -> tuple[bytes, bytes]:
    """Make a record of trust.db for an anchor; return its key identifier and the record.

    Raises:
        PoolError: RECORD_MALFORMED, NOT_SUPPORTED_YET.
    """
    if flags & records.TRUST_CLASS_MASK != records.X509:
        raise PoolError(Code.NOT_SUPPORTED_YET, f"writing {','.join(records.trust_words(flags))}; only x509 anchors")
    if not flags & records.ROLE_MASK:
        raise records.malformed("name client, server, or both")
    records.check_valexp(valexp)
    certificate = certificates.load(der)
    not_root = flags & records.TRUST_NOT_ROOT
    if not not_root and not certificates.is_self_issued(certificate):
        raise records.malformed("the certificate is no root; add the flag notroot if chains are to end at it")
    value = TrustRecord(records.X509 | flags & records.ROLE_MASK | not_root, valexp, der).encode()
    return certificates.key_identifier(certificate), value


def trust_values(flags: int, valexp: str, ders: Sequence[bytes], key: bytes | None = None) -> dict[bytes, list[bytes]]:
    """Make records of trust.db for anchors, by the keys that they are filed under.

    Raises:
        PoolError: RECORD_MALFORMED, NOT_SUPPORTED_YET.
    """
    found: dict[bytes, list[bytes]] = {}
    for der in ders:
        own, value = trust_value(flags, valexp, der)
        found.setdefault(own if key is None else key, []).append(value)
    return found


def check_expression(identity: str, expression: str) -> None:
    """Refuse an identity that its expression keeps from being used at all.

    Raises:
        PoolError: LOCALID_UNKNOWN.
    """
    if expression == "0":
        raise PoolError(Code.LOCALID_UNKNOWN, f"the validation expression of {identity} is 0, never")


def credential(record: LocalRecord) -> Credential:
    """Read an X.509 record of localid.db.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    if not record.uri.startswith("pkcs11:"):
        raise records.malformed("the PKCS #11 URI does not start with pkcs11:")
    if records.has_pin(record.uri):
        # It would travel in grants, which workers read.
        raise records.malformed("the PKCS #11 URI holds a PIN; write the record without it")
    if len(record.uri.encode()) > limits.KEY_URI_B:
        raise records.malformed(f"the PKCS #11 URI has more than {limits.KEY_URI_B} bytes")
    chain = record.chain()
    loaded = [certificates.load(der, f"certificate {number}") for number, der in enumerate(chain, 1)]
    kind, spki_sha256 = certificates.key_of(loaded[0], "certificate 1")
    return Credential(record.uri, chain, kind, spki_sha256)


def anchor_of(key: bytes, record: TrustRecord) -> Anchor | None:
    """Read an X.509 anchor; None: it is for nobody.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    sides = (record.flags & records.ROLE_MASK) >> 8
    if not sides:
        return None
    records.check_valexp(record.valexp)
    if not certificates.is_self_issued(certificates.load(record.data)) and not record.may_be_no_root:
        raise records.malformed("the certificate is no root, and not marked notroot")
    sha256 = hashlib.sha256(record.data).digest()
    return Anchor(sides, record.data, key, sha256, record.valexp, record.may_be_no_root)
