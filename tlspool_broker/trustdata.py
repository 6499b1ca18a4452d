"""What trust records say that are no anchors: pins and revocations, byte for byte.

    pin          nothing                                               for ever
    (0x801,      | expiry U32 |                                        until then
     0x802)      | expiry U32 | before U32 |                           and may be replaced so long before that
                 | expiry U32 | before U32 | remote identity | 00 |    the same, for one remote; PIN_NAMED is set
                 key: SHA-256 of the certificate

    revocation   | this update U32 | next update U32 | DER INTEGER | DER INTEGER | ...
    (0x401)      key: key identifier of the issuer; a next update that is not after this update means none

Times are seconds since 1970; a pin's expiry of 0, which earlier pools did not know, is never.  A pin without a
remote is for whoever shows the certificate.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from tlspool_broker import records
from tlspool_broker.records import TrustRecord, malformed
from tlspool_common import limits
from tlspool_common.errors import PoolError
from tlspool_common.identity import parse_untrusted

SHA256_B = hashlib.sha256().digest_size
_PAIR = struct.Struct("!II")
_ONE = struct.Struct("!I")
_SERIAL_B = 64
"""A serial number: RFC 5280 allows 20 octets; some issuers do not care."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A certificate pinned for a remote; ``until_s`` 0: for ever, else replaceable in the last ``before_s``.

    ``remote`` is '' in pins of earlier pools, which are for any remote.  ``for_sides`` is that of Anchor.
    """

    sha256: bytes
    until_s: int = 0
    before_s: int = 0
    remote: str = ""
    for_sides: int = 3

    def is_over(self, now_s: int) -> bool:
        """Whether it does not hold any more."""
        return self.until_s != 0 and now_s > self.until_s

    def is_replaceable(self, now_s: int) -> bool:
        """Whether another certificate may take its place."""
        return self.until_s != 0 and now_s > self.until_s - self.before_s

    def encode(self) -> bytes:
        """Write the record."""
        flags = records.X509 | records.TRUST_PINNED | self.for_sides << 8
        if self.remote:
            data = _PAIR.pack(self.until_s, self.before_s) + self.remote.encode() + b"\0"
            return TrustRecord(flags | records.TRUST_PIN_NAMED, "1", data).encode()
        data = _PAIR.pack(self.until_s, self.before_s) if self.before_s else _ONE.pack(self.until_s)
        return TrustRecord(flags, "1", data if self.until_s else b"").encode()


@dataclass(frozen=True, slots=True)
class Revocations:
    """What an issuer has revoked, and when that was said; ``next_update_s`` 0: no more is to come.

    Serials are the content octets of DER INTEGERs.
    """

    this_update_s: int
    next_update_s: int
    serials: frozenset[bytes]

    def encode(self, flags: int) -> bytes:
        """Write the record.

        Raises:
            PoolError: RECORD_MALFORMED, a serial is longer than what is read.
        """
        body = b"".join(_integer(serial) for serial in sorted(self.serials, key=lambda one: (len(one), one)))
        return TrustRecord(flags, "1", _PAIR.pack(self.this_update_s, self.next_update_s) + body).encode()


def pin_of(key: bytes, record: TrustRecord) -> Pin:
    """Read a pin.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    if len(key) != SHA256_B:
        raise malformed(f"a pin is filed under the SHA-256 of a certificate, not {len(key)} bytes")
    data = record.data
    sides = (record.flags & records.ROLE_MASK) >> 8
    if len(data) in (0, _ONE.size, _PAIR.size):
        until_s, before_s = _PAIR.unpack(data.ljust(_PAIR.size, b"\0"))
        return Pin(key, until_s, before_s, "", sides)
    if len(data) < _PAIR.size + 2 or data.find(b"\0", _PAIR.size) != len(data) - 1:
        raise malformed("the data of a pin is none, one or two U32, or these and a remote identity with NUL")
    until_s, before_s = _PAIR.unpack_from(data)
    try:
        remote = str(parse_untrusted(data[_PAIR.size : -1].decode()))
    except (UnicodeDecodeError, PoolError):
        raise malformed("the remote of a pin is no identity") from None
    return Pin(key, until_s, before_s, remote, sides)


def revocations_of(record: TrustRecord) -> Revocations:
    """Read a revocation record.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    if len(record.data) < _PAIR.size:
        raise malformed("a revocation record begins with two U32: this update and next update")
    this_s, next_s = _PAIR.unpack_from(record.data)
    return Revocations(this_s, next_s if next_s > this_s else 0, frozenset(_integers_untrusted(record.data)))


def merged(found: Iterable[Revocations]) -> Revocations:
    """Return what several records of one issuer say together: the newest of them dates it, each of them revokes."""
    several = list(found)
    newest = max(several, key=lambda one: one.this_update_s)
    serials = frozenset().union(*(one.serials for one in several))
    return Revocations(newest.this_update_s, newest.next_update_s, serials)


def serial_of(number: int) -> bytes:
    """Return the content octets of a DER INTEGER."""
    return number.to_bytes((number + (number < 0)).bit_length() // 8 + 1, "big", signed=True)  # -128 is one octet


def _integer(content: bytes) -> bytes:
    if len(content) > _SERIAL_B:
        raise malformed(f"a serial has more than {_SERIAL_B} octets: {content[:8].hex()}...")
    return bytes([0x02, len(content)]) + content


def _integers_untrusted(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = _PAIR.size
    while at < len(data):
        head = data[at : at + 2]
        end = at + 2 + head[-1]
        if len(head) < 2 or head[0] != 0x02 or not 1 <= head[1] <= _SERIAL_B or end > len(data):
            raise malformed(f"no DER INTEGER at offset {at} of a revocation record")
        if len(found) == limits.REVOKED_SERIALS:
            raise malformed(f"more than {limits.REVOKED_SERIALS} serials in a revocation record")
        found.append(data[at + 2 : end])
        at = end
    return found
