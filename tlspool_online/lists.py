"""Certificate revocation lists (RFC 5280 sections 5 and 6.3): read, check who has signed them, look into them.

Pure functions.  The library checks structure and signature; the entries are walked over here, because a list can
have some hundred thousand of them and making an object of each takes minutes instead of a second.

Refused: delta lists, indirect lists, everything critical that is not known, in the list or in an entry, and lists
without an end.  A list that covers only some reasons can say that a certificate is revoked, not that it is good.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from tlspool_common.messages import Finding
from tlspool_common.record import record
from tlspool_online import bounds
from tlspool_online.unreadable import UNREADABLE
from tlspool_worker.ocsp import seconds

_INTEGER, _BOOLEAN, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x02, 0x01, 0x04, 0x06, 0x0A, 0x30
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18

_REASON = bytes.fromhex("551d15")  # 2.5.29.21
_ENTRY_EXTENSIONS = {
    _REASON,
    bytes.fromhex("551d17"),  # 2.5.29.23 hold instruction
    bytes.fromhex("551d18"),  # 2.5.29.24 invalidity date
}

_REASONS = {
    1: "key compromise",
    2: "CA compromise",
    3: "affiliation changed",
    4: "superseded",
    5: "cessation of operation",
    6: "on hold",
    9: "privilege withdrawn",
    10: "attribute authority compromise",
}

_SIGNING_HASHES = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")

_PEM = b"-----BEGIN X509 CRL-----"
_PEM_END = b"-----END X509 CRL-----"

Told = tuple[Finding, str, int]
"""What is found, a sentence about it, and until when (seconds since 1970) that counts."""


class BadList(ValueError):
    """This list does not count; the text says why."""


@record
class Scope:
    """What a list is about (RFC 5280 section 5.2.5); ``points`` None: everything of its issuer."""

    points: frozenset[x509.GeneralName] | None = None
    users_only: bool = False
    authorities_only: bool = False
    some_reasons: bool = False


class RevocationList:
    """A list that was read, by whoever it is; ``revoked`` has serial numbers as they stand in DER."""

    __slots__ = ("_crl", "_signers", "issuer", "next_update_s", "revoked", "scope", "size_b", "this_update_s")

    def __init__(self, crl: x509.CertificateRevocationList, size_b: int, scope: Scope, until_s: int) -> None:
        self._crl: x509.CertificateRevocationList | None = crl
        self._signers: dict[bytes, str] = {}
        self.issuer = crl.issuer
        self.this_update_s = seconds(crl.last_update_utc)
        self.next_update_s = until_s
        self.revoked = _revoked_untrusted(crl.tbs_certlist_bytes)
        self.scope = scope
        self.size_b = size_b

    def refusal(self, issuer: x509.Certificate, issuer_id: bytes) -> str:
        """Say why this is no list of an issuer; '' when it is.  An issuer is verified once."""
        found = self._signers.get(issuer_id)
        if found is None:
            if self._crl is None or len(self._signers) >= bounds.LISTS_OF_FILE:
                return "it was verified for another issuer"
            found = self._signers[issuer_id] = _signature_fault(self._crl, issuer)
        return found

    def forget_source(self) -> None:
        """Give up the bytes: nobody else's signature will be looked for."""
        self._crl = None


def read_untrusted(der: bytes) -> RevocationList:
    """Read a list.  Who has signed it is not looked at yet.

    Raises:
        BadList: it cannot be read, or is of a kind that does not count here.
    """
    if len(der) > bounds.LIST_B:
        raise BadList(f"{len(der)} bytes; at most {bounds.LIST_B} are read")
    try:
        crl = x509.load_der_x509_crl(der)
        if crl.next_update_utc is None:
            raise BadList("it does not say until when it counts")
        return RevocationList(crl, len(der), _scope_untrusted(crl), seconds(crl.next_update_utc))
    except BadList:
        raise
    except UNREADABLE as error:
        raise BadList(f"it cannot be read: {type(error).__name__}") from None


def read_file_untrusted(data: bytes) -> tuple[RevocationList, ...]:
    """Read the lists in a file: one in DER, or any number in PEM.

    Raises:
        BadList: one of them cannot be used; none is, then.
    """
    if _PEM not in data:
        return (read_untrusted(data),)
    found = []
    for number, block in enumerate(data.split(_PEM)[1:], 1):
        if number > bounds.LISTS_OF_FILE:
            raise BadList(f"more than {bounds.LISTS_OF_FILE} lists in one file")
        if _PEM_END not in block:
            raise BadList(f"list {number} has no end")
        try:
            pem = _PEM + block.partition(_PEM_END)[0] + _PEM_END
            crl = x509.load_pem_x509_crl(pem)
            found.append(read_untrusted(crl.public_bytes(Encoding.DER)))
        except BadList as error:
            raise BadList(f"list {number}: {error}") from None
        except UNREADABLE:
            raise BadList(f"list {number} is no PEM") from None
    return tuple(found)


def _scope_untrusted(crl: x509.CertificateRevocationList) -> Scope:
    scope = Scope()
    for extension in crl.extensions:
        value = extension.value
        if extension.oid == ExtensionOID.DELTA_CRL_INDICATOR:
            raise BadList("it is a delta list")
        if isinstance(value, x509.IssuingDistributionPoint):
            if value.indirect_crl:
                raise BadList("it is an indirect list")
            if value.only_contains_attribute_certs:
                raise BadList("it is about attribute certificates")
            points = None if value.full_name is None else frozenset(value.full_name)
            if value.relative_name is not None:
                points = frozenset()
            scope = Scope(
                points,
                value.only_contains_user_certs,
                value.only_contains_ca_certs,
                bool(value.only_some_reasons),
            )
        elif extension.critical and extension.oid != ExtensionOID.AUTHORITY_KEY_IDENTIFIER:
            raise BadList(f"it has the critical extension {extension.oid.dotted_string}")
    return scope


def _signature_fault(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> str:
    try:
        for extension in issuer.extensions:
            if isinstance(extension.value, x509.KeyUsage) and not extension.value.crl_sign:
                return "its signer may not sign lists"
        algorithm = crl.signature_hash_algorithm
        if algorithm is not None and algorithm.name not in _SIGNING_HASHES:
            return f"it is signed with {algorithm.name}"
        key = issuer.public_key()
        if isinstance(key, dsa.DSAPublicKey) or crl.signature_algorithm_oid == SignatureAlgorithmOID.RSASSA_PSS:
            return "it is signed with DSA or RSASSA-PSS, which are not accepted"
        if not isinstance(
            key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
        ):
            return "it is signed with a key of an unknown kind"
        if crl.issuer != issuer.subject:
            return "it is of another issuer"
        return "" if crl.is_signature_valid(key) else "its signature does not verify"
    except UNREADABLE as error:
        return f"its signature cannot be checked: {type(error).__name__}"


# --- what it says -----------------------------------------------------------------------------------


def judge(
    found: RevocationList, serial: bytes, is_authority: bool, points: Collection[x509.GeneralName], now_s: float
) -> Told:
    """Say what a list of the right issuer tells of a certificate, whose distribution points are ``points``.

    NONE: it is not about this certificate, or does not tell all.
    """
    dates = f"list of {_minute(found.this_update_s)}, until {_minute(found.next_update_s)}"
    if found.this_update_s > now_s + bounds.SKEW_S:
        return Finding.BAD, f"{dates}: it is of the future", 0
    if found.next_update_s < now_s - bounds.SKEW_S:
        return Finding.BAD, f"{dates}: it is out of date", 0
    scope = found.scope
    if scope.points is not None and scope.points.isdisjoint(points):
        return Finding.NONE, f"{dates}: it is for other distribution points", 0
    if (scope.users_only and is_authority) or (scope.authorities_only and not is_authority):
        return Finding.NONE, f"{dates}: it is not about certificates of this kind", 0
    entry = found.revoked.get(serial)
    if entry is not None:
        day, reason = divmod(entry, 16)
        why = f", {_REASONS[reason]}" if reason in _REASONS else ""
        return Finding.REVOKED, f"revoked since {_day(day)}{why}; {dates}", found.next_update_s
    if scope.some_reasons:
        return Finding.NONE, f"{dates}: it is about some reasons only", 0
    return Finding.GOOD, f"not revoked; {dates}", found.next_update_s


def serial_der(number: int) -> bytes:
    """Return a serial number as it stands in DER."""
    return number.to_bytes((number + (number < 0)).bit_length() // 8 + 1, "big", signed=True)  # -128 is one octet


def _minute(when_s: int) -> str:
    return datetime.datetime.fromtimestamp(when_s, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def _day(day: int) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=day)).isoformat()


# --- entries ----------------------------------------------------------------------------------------


def _head_untrusted(data: bytes, at: int) -> tuple[int, int, int]:
    """Return (tag, where the contents begin, where they end) of the element at ``at``."""
    tag, length = data[at], data[at + 1]
    at += 2
    if length & 0x80:
        octets = length & 0x7F
        if not 1 <= octets <= 4:
            raise BadList("a length that cannot be read")
        length = int.from_bytes(data[at : at + octets])
        at += octets
    if at + length > len(data):
        raise BadList("a length that does not fit")
    return tag, at, at + length


def _revoked_untrusted(tbs: bytes) -> Mapping[bytes, int]:
    """Return the serial numbers of a TBSCertList, each with 16 * days since 1970 + reason.

    Raises:
        BadList, IndexError: it cannot be read, or an entry has a critical extension that is not known.
    """
    _, at, end = _head_untrusted(tbs, 0)
    tag, _, after = _head_untrusted(tbs, at)
    if tag == _INTEGER:  # version
        at = after
    for _ in range(3):  # algorithm, issuer, this update
        _, _, at = _head_untrusted(tbs, at)
    if at < end:
        tag, _, after = _head_untrusted(tbs, at)
        if tag in (_UTC_TIME, _GENERALIZED_TIME):  # next update
            at = after
    if at >= end:
        return {}
    tag, at, end = _head_untrusted(tbs, at)
    if tag != _SEQUENCE:  # extensions: there are no entries
        return {}
    found: dict[bytes, int] = {}
    known: dict[bytes, int] = {}
    while at < end:
        tag, at, entry_end = _head_untrusted(tbs, at)
        size_b = tbs[at + 1]
        if tag != _SEQUENCE or tbs[at] != _INTEGER or size_b & 0x80:
            raise BadList("an entry that cannot be read")
        serial_end = at + 2 + size_b
        date_end = serial_end + 2 + tbs[serial_end + 1]
        if date_end > entry_end:
            raise BadList("an entry that cannot be read")
        # The day and the extensions repeat from entry to entry: what they mean is worked out once.
        meaning = tbs[serial_end : serial_end + 10] + tbs[date_end:entry_end]
        entry = known.get(meaning)
        if entry is None:
            entry = known[meaning] = _entry_untrusted(tbs[serial_end:date_end], tbs[date_end:entry_end])
        found[tbs[at + 2 : serial_end]] = entry
        at = entry_end
    return found


def _entry_untrusted(date: bytes, extensions: bytes) -> int:
    """Return 16 * days since 1970 + reason (0: none is given)."""
    text = date[2:].decode("ascii")
    if date[0] == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text  # RFC 5280 section 4.1.2.5.1
    day = (datetime.date(int(text[:4]), int(text[4:6]), int(text[6:8])) - datetime.date(1970, 1, 1)).days
    reason = 0
    if extensions:
        _, at, end = _head_untrusted(extensions, 0)
        while at < end:
            _, inside, at = _head_untrusted(extensions, at)
            _, oid_at, oid_end = _head_untrusted(extensions, inside)
            oid = extensions[oid_at:oid_end]
            tag, value_at, value_end = _head_untrusted(extensions, oid_end)
            if tag == _BOOLEAN:
                if extensions[value_at:value_end] != b"\0" and oid not in _ENTRY_EXTENSIONS:
                    raise BadList("an entry with a critical extension that is not known")
                tag, value_at, value_end = _head_untrusted(extensions, value_end)
            if oid == _REASON:
                _, reason_at, reason_end = _head_untrusted(extensions, value_at)
                reason = int.from_bytes(extensions[reason_at:reason_end])
    return max(0, day) * 16 + (reason if 0 <= reason < 16 else 0)
