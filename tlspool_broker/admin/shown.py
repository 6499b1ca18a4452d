"""Records as operators see them; PINs never."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from tlspool_broker import certificates, records, trustdata
from tlspool_broker.entries import Entry, Name
from tlspool_broker.records import LocalRecord, TrustRecord
from tlspool_common.errors import PoolError


def local(record: LocalRecord) -> dict[str, object]:
    """Return a record of localid.db without its certificates."""
    kind = "expression" if record.type == records.VALEXP else "uri"
    return {
        "flags": records.local_words(record.flags),
        kind: record.shown_uri,
        "credential_b": len(record.credential),
    }


def trusted(record: TrustRecord, key: bytes, with_data: bool) -> dict[str, object]:
    """Return a record of trust.db."""
    shown: dict[str, object] = {"flags": records.trust_words(record.flags), "valexp": record.valexp}
    try:
        shown.update(_told(record, key, with_data))
    except PoolError as error:
        shown["malformed"] = error.detail
    if with_data:
        shown["data"] = base64.b64encode(record.data).decode()
    else:
        shown["data_b"] = len(record.data)
    return shown


def _told(record: TrustRecord, key: bytes, with_data: bool) -> dict[str, object]:
    if record.is_anchor:
        certificate = certificates.load(record.data)
        subject = {"subject": certificate.subject.rfc4514_string()}
        return {**subject, **(certificates.summary(certificate) if with_data else {})}
    if record.is_pin:
        return pin(trustdata.pin_of(key, record))
    if record.is_revocation:
        found = trustdata.revocations_of(record)
        listed = {"revoked": sorted(one.hex() for one in found.serials)} if with_data else {}
        return {**revocations(found), **listed}
    return {}


def pin(one: trustdata.Pin) -> dict[str, object]:
    """Return a pin."""
    return {
        "remote": one.remote,
        "sha256": one.sha256.hex(),
        "until_s": one.until_s,
        "until": when(one.until_s) if one.until_s else "",
        "before_s": one.before_s,
    }


def revocations(found: trustdata.Revocations) -> dict[str, object]:
    """Return what an issuer has revoked, without the serials."""
    return {
        "serials": len(found.serials),
        "this_update": when(found.this_update_s),
        "next_update": when(found.next_update_s) if found.next_update_s else "",
    }


def when(seconds: int) -> str:
    """Return a time as people read it, and programs as well (RFC 3339)."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def details(entry: Entry[LocalRecord] | Entry[TrustRecord] | Entry[records.Disclosed] | Entry[str]) -> list[str]:
    """Return what is malformed in an entry."""
    return [error.detail for error in entry.bad]


def described(name: Name, key: bytes, value: bytes) -> str:
    """Return a record as a line of a difference."""
    try:
        return _LINES[name](key, value)
    except PoolError as error:
        return f"malformed, {len(value)} bytes, SHA-256 {_short(value)}: {error.detail}"


def _local_line(_key: bytes, value: bytes) -> str:
    record = records.decode_local_untrusted(value)
    flags = ",".join(records.local_words(record.flags))
    if record.type == records.VALEXP:
        return f"{flags} {record.uri}"
    about = [record.shown_uri] if record.uri else []
    if record.type == records.X509:
        leaf = certificates.load(record.chain()[0])
        about.append(f"{leaf.subject.rfc4514_string()} until {leaf.not_valid_after_utc:%Y-%m-%d}")
    return " ".join([flags, *about, f"SHA-256 {_short(record.credential)}"])


def _disclose_line(_key: bytes, value: bytes) -> str:
    record = records.decode_disclosure_untrusted(value)
    return record.identity or f"expression {record.expression}"


def _trust_line(key: bytes, value: bytes) -> str:
    record = records.decode_trust_untrusted(value)
    told = _told(record, key, False)
    about = [f"{name} {told[name]}" for name in told if told[name] not in ("", 0) and name not in ("sha256", "until_s")]
    flags = ",".join(records.trust_words(record.flags))
    return " ".join([flags, record.valexp, *about, f"SHA-256 {_short(record.data)}"])


def _policy_line(_key: bytes, value: bytes) -> str:
    return records.decode_policy_untrusted(value)


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


_LINES: dict[Name, Callable[[bytes, bytes], str]] = {
    Name.LOCALID: _local_line,
    Name.DISCLOSE: _disclose_line,
    Name.TRUST: _trust_line,
    Name.POLICY: _policy_line,
}
