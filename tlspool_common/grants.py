"""Grants: permission for one signature, made by the broker, checked by keyd, carried by a worker.

    +---------------------------------+------------------+
    | Grant, in the codec of the      | HMAC-SHA256 over |
    | border messages                 | all before it    |
    +---------------------------------+------------------+
                                        32 bytes

keyd draws the secret at start and gives it to the broker only, so making a grant costs no round trip, and
a restart of keyd makes all earlier grants worthless.  A worker can read a grant; that tells it nothing that
it needs to be kept from (the URI of a key is no secret), and it can change nothing in it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Annotated

from tlspool_common import limits
from tlspool_common.codec import HEADER, U32, U64, BadFrame, decode_untrusted, encode
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import SideField
from tlspool_common.record import named_record

_MARK = 0x4752
"""Takes the place of a message code, so that a grant can be mistaken for nothing else."""

_SEAL_B = 32


@named_record
class Grant:
    """One signature by ``key_uri``, for one session on one worker in one role, until ``expires_ms``."""

    grant_id: Annotated[bytes, 16]
    worker_id: U32
    session_id: U64
    side: SideField
    expires_ms: U64  # of CLOCK_BOOTTIME: the same in all processes of a host, whatever the wall clock does
    spki_sha256: Annotated[bytes, 32]
    key_uri: Annotated[str, limits.KEY_URI_B]


def now_ms() -> int:
    """Return CLOCK_BOOTTIME in milliseconds (clock_gettime(2))."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def new_id() -> bytes:
    """Draw a grant id that never repeats."""
    return secrets.token_bytes(16)


def seal(secret: bytes, grant: Grant) -> bytes:
    """Write a grant and seal it.

    Raises:
        BadFrame: a field is out of its bounds.
    """
    _check_sizes(grant)
    body = encode(_MARK, 0, grant)
    sealed = body + hmac.digest(secret, body, hashlib.sha256)
    if len(sealed) > limits.GRANT_B:
        raise BadFrame("grant does not fit")
    return sealed


def unseal_untrusted(secret: bytes, sealed: bytes) -> Grant:
    """Check the seal, then read the grant.  Whether it may be used is another question (keyd's).

    Raises:
        PoolError: GRANT_REFUSED, whatever is wrong.
    """
    body, mac = sealed[:-_SEAL_B], sealed[-_SEAL_B:]
    if len(body) < HEADER.size or not hmac.compare_digest(mac, hmac.digest(secret, body, hashlib.sha256)):
        raise PoolError(Code.GRANT_REFUSED, "the seal is broken")
    if HEADER.unpack_from(body)[0] != _MARK:
        raise PoolError(Code.GRANT_REFUSED, "this is no grant")
    try:
        grant = decode_untrusted(Grant, body)
        _check_sizes(grant)
    except BadFrame as bad:
        raise PoolError(Code.GRANT_REFUSED, str(bad)) from None
    return grant


def _check_sizes(grant: Grant) -> None:
    if len(grant.grant_id) != 16 or len(grant.spki_sha256) != 32:
        raise BadFrame("grant_id has 16 bytes and spki_sha256 has 32")
