"""From what an operator gives to records, and from records to what a handshake can use.

Both directions refuse the same things, as a database may have been written by other tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tlspool_broker import certificates, records
from tlspool_broker.records import LocalRecord, TrustRecord
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind


@dataclass(frozen=True, slots=True)
class Credential:
    """What one side of a handshake can show, and the key that goes with it."""

    uri: str
    chain: tuple[bytes, ...]
    key_kind: KeyKind
    spki_sha256: bytes


@dataclass(frozen=True, slots=True)
class Anchor:
    """A certificate that ends chains; ``for_sides`` is a bit set: 1 local clients, 2 local servers."""

    for_sides: int
    der: bytes


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
        _check_new_expression(uri)
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
    _check_new_expression(valexp)
    certificate = certificates.load(der)
    not_root = flags & records.TRUST_NOT_ROOT
    if not not_root and not certificates.is_self_issued(certificate):
        raise records.malformed("the certificate is no root; add the flag notroot if chains are to end at it")
    value = TrustRecord(records.X509 | flags & records.ROLE_MASK | not_root, valexp, der).encode()
    return certificates.key_identifier(certificate), value


def _check_new_expression(expression: str) -> None:
    records.check_valexp(expression)
    if expression not in {"0", "1"}:
        raise PoolError(Code.NOT_SUPPORTED_YET, f"validation expression {expression!r}; 0 and 1 are")


def check_expression(identity: str, expression: str) -> None:
    """Refuse an identity that its expression, or our ignorance of it, keeps from being used.

    Raises:
        PoolError: LOCALID_UNKNOWN, NOT_SUPPORTED_YET.
    """
    if expression == "0":
        raise PoolError(Code.LOCALID_UNKNOWN, f"the validation expression of {identity} is 0, never")
    if expression != "1":
        raise PoolError(Code.NOT_SUPPORTED_YET, f"the validation expression {expression!r} of {identity}")


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


def anchor_sides(record: TrustRecord) -> int:
    """Return the sides a record is an anchor for; 0 when it is none.

    Raises:
        PoolError: RECORD_MALFORMED; NOT_SUPPORTED_YET, the expression is neither 0 nor 1.
    """
    if not record.is_anchor or record.valexp == "0":
        return 0
    if record.valexp != "1":
        raise PoolError(Code.NOT_SUPPORTED_YET, f"the validation expression {record.valexp!r}; the anchor is not used")
    if not certificates.is_self_issued(certificates.load(record.data)) and not record.may_be_no_root:
        raise records.malformed("the certificate is no root, and not marked notroot")
    return (record.flags & records.ROLE_MASK) >> 8
