"""What the broker has a worker keep of RADIUS's grant to a session: a part of its record (kept.py), which is sealed.

Without it another broker could not say how the session ends, nor end it when its time is over.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from tlspool_broker.meter import Meter
from tlspool_broker.radius_grant import Admission
from tlspool_broker.session import Session
from tlspool_common import limits
from tlspool_common.codec import HEADER, U8, U32, U64, BadFrame, Items, decode_untrusted, encode
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages_radius import AcctId, Attributes, Classes, Tags
from tlspool_common.record import named_record

_MARK = 0x4B41

ACCESS_B = 10_400
"""All of it.  Class attributes, State and tags are of two packets of 4096 bytes (RFC 2865 section 3) at most, and what
rules set is less than half of one."""

_RULE_B = 64


@named_record
class KeptAccess:
    """An Admission, and what is not known otherwise of a Meter."""

    rule: Annotated[str, _RULE_B]
    acct_id: AcctId
    attributes: Attributes
    accounts: bool
    accepts_unkept: bool
    classes: Classes
    tags: Tags
    state: Annotated[bytes, limits.RADIUS_VALUE_B]
    session_timeout_s: U32
    idle_timeout_s: U32
    interim_s: U32
    terminate: U8
    servers: Annotated[tuple[str, ...], Items(2, limits.RADIUS_SERVER_B)]
    authn: bool
    authz: bool
    began_ms: U64
    timed_ms: U64
    active_ms: U64


_ADMISSION = [field.name for field in fields(Admission)]


def to_bytes(session: Session) -> bytes:
    """Return what is to be kept; b"" of a session that RADIUS has nothing to do with.

    Raises:
        BadFrame: a field is out of its bounds.
    """
    access, meter = session.access, session.meter
    if access is None or meter is None:
        return b""
    granted = {name: getattr(access, name) for name in _ADMISSION}
    kept = KeptAccess(**granted, began_ms=meter.began_ms, timed_ms=meter.timed_ms, active_ms=meter.active_ms)
    return encode(_MARK, 0, kept)


def from_bytes_untrusted(data: bytes) -> tuple[Admission, Meter] | None:
    """Read what ``to_bytes`` has made.

    Raises:
        PoolError: INTERNAL, it is something else.
    """
    if not data:
        return None
    if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != _MARK:
        raise PoolError(Code.INTERNAL, "it has no grant where one should be")
    try:
        kept = decode_untrusted(KeptAccess, data)
    except BadFrame as bad:
        raise PoolError(Code.INTERNAL, f"its grant: {bad}") from None
    access = Admission(**{name: getattr(kept, name) for name in _ADMISSION})
    return access, Meter(began_ms=kept.began_ms, timed_ms=kept.timed_ms, active_ms=kept.active_ms)
