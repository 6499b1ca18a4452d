"""Key references: what OpenSSL is given in place of a private key.  The C twin is native/reference.c.

    -----BEGIN TLSPOOL KEY REFERENCE-----
    base64 of DER: SEQUENCE { OCTET STRING body }
    -----END TLSPOOL KEY REFERENCE-----

    body, integers big-endian:
    +---------+------+------------+------------+----------------+----------------+---------------+
    | version | kind | channel fd | timeout ms | length, first  | length, second | length, grant |
    +---------+------+------------+------------+----------------+----------------+---------------+
     U8 = 1    U8     U32          U32          U16, octets      U16, octets      U16, octets

``kind`` is messages.KeyKind.  ``first`` is the RSA modulus, the uncompressed point, or the raw Ed25519 key;
``second`` is the RSA exponent, otherwise empty.  The public half is needed because OpenSSL compares key and
certificate.  The body is wrapped in DER because OpenSSL's decoders look for that between PEM and key.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind

VERSION = 1

BEGIN = b"-----BEGIN TLSPOOL KEY REFERENCE-----\n"
END = b"-----END TLSPOOL KEY REFERENCE-----\n"

_HEAD = struct.Struct("!BBII")
_LENGTH = struct.Struct("!H")
_LINE_B = 64  # RFC 7468 section 2
_FD_MAX = (1 << 31) - 1
_MODULUS_B = range(128, 2049)  # RSA-1024 to RSA-16384; OpenSSL itself uses no larger ones (rsa.h)
_EXPONENT_B = range(1, 9)  # OpenSSL has the same 64 bits for moduli above 3072 bits
_POINT_B = {KeyKind.EC_P256: 65, KeyKind.EC_P384: 97}
_CURVES = {"secp256r1": KeyKind.EC_P256, "secp384r1": KeyKind.EC_P384}


@dataclass(frozen=True, slots=True)
class KeyReference:
    """The fields of a reference."""

    kind: KeyKind
    channel_fd: int
    timeout_ms: int
    first: bytes
    second: bytes
    grant: bytes


def _fits(kind: KeyKind, first: bytes, second: bytes) -> bool:
    """Say what native/reference.c says."""
    if kind is KeyKind.RSA:
        return len(first) in _MODULUS_B and first[0] != 0 and len(second) in _EXPONENT_B
    if kind is KeyKind.ED25519:
        return len(first) == 32 and not second
    return len(first) == _POINT_B[kind] and first[0] == 4 and not second


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@lru_cache(maxsize=256)  # a worker sees few certificates, and each of them often
def public_parts(spki_der: bytes) -> tuple[KeyKind, bytes, bytes]:
    """Take a SubjectPublicKeyInfo apart into (kind, first, second).

    Raises:
        PoolError: SCHEME_REFUSED, this kind of key cannot be used.
    """
    try:
        key = load_der_public_key(spki_der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PoolError(Code.SCHEME_REFUSED, f"the public key cannot be read: {error}") from None
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        parts = KeyKind.RSA, _unsigned(numbers.n), _unsigned(numbers.e)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        parts = KeyKind.ED25519, key.public_bytes(Encoding.Raw, PublicFormat.Raw), b""
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        parts = _CURVES[key.curve.name], key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), b""
    else:
        raise PoolError(Code.SCHEME_REFUSED, "keys are RSA, P-256, P-384 or Ed25519")
    if not _fits(*parts):
        raise PoolError(Code.SCHEME_REFUSED, "RSA keys have 1024 to 16384 bits and an exponent of at most 64 bits")
    return parts


def _element(tag: int, content: bytes) -> bytes:
    """Wrap in DER (X.690 section 8.1)."""
    size = len(content)
    length = _unsigned(size)
    return bytes([tag, size] if size < 0x80 else [tag, 0x80 | len(length), *length]) + content


def encode(kind: KeyKind, spki_der: bytes, channel_fd: int, timeout_ms: int, grant: bytes) -> bytes:
    """Return the PEM of a reference, for OpenSSL.crypto.load_privatekey.

    Args:
        kind: kind of key; must be that of ``spki_der``
        spki_der: the certificate's SubjectPublicKeyInfo
        channel_fd: the worker's channel to keyd, as it is numbered in this process; must stay open, and the
            same thing, for as long as the key made of the reference is in use
        timeout_ms: how long the provider waits for one signature
        grant: sealed permission for one signature

    Raises:
        PoolError: SCHEME_REFUSED, this kind of key cannot be used.
        ValueError: a number or the grant is out of bounds.
    """
    found, first, second = public_parts(spki_der)
    if found is not kind:
        raise PoolError(Code.SCHEME_REFUSED, f"the certificate's key is {found.name}, not {kind.name}")
    if not 0 <= channel_fd <= _FD_MAX or not 0 < timeout_ms < 1 << 32 or len(grant) > limits.GRANT_B:
        raise ValueError(f"descriptor {channel_fd}, timeout {timeout_ms} ms or grant of {len(grant)} bytes is no good")
    body = _HEAD.pack(VERSION, kind, channel_fd, timeout_ms)
    for part in (first, second, grant):
        body += _LENGTH.pack(len(part)) + part
    return armour(_element(0x30, _element(0x04, body)))


def armour(der: bytes) -> bytes:
    """Write PEM with our label (RFC 7468)."""
    text = base64.b64encode(der)
    lines = [text[at : at + _LINE_B] + b"\n" for at in range(0, len(text), _LINE_B)]
    return BEGIN + b"".join(lines) + END


def _enter_untrusted(data: bytes, tag: int) -> bytes:
    """Return the content of a DER element with this tag that reaches to the end."""
    if len(data) < 2 or data[0] != tag:
        raise ValueError("malformed DER")
    extra = data[1] & 0x7F if data[1] & 0x80 else 0
    content = data[2 + extra :]
    if _element(tag, content) != data:  # DER has one form, so this is the whole check
        raise ValueError("malformed DER")
    return content


def decode_untrusted(pem: bytes) -> KeyReference:
    """Read a reference; the provider does the same in C.

    Raises:
        ValueError: it is malformed.
    """
    head, begin, rest = pem.partition(BEGIN)
    text, end, tail = rest.partition(END)
    if head or not begin or not end or tail:
        raise ValueError("no key reference")
    der = base64.b64decode(text.replace(b"\n", b""), validate=True)
    body = _enter_untrusted(_enter_untrusted(der, 0x30), 0x04)
    if len(body) < _HEAD.size:
        raise ValueError("truncated reference")
    version, kind_number, channel_fd, timeout_ms = _HEAD.unpack_from(body)
    if version != VERSION:
        raise ValueError(f"version {version} is not known")
    kind = KeyKind(kind_number)
    parts = []
    at = _HEAD.size
    for bound_b in (_MODULUS_B[-1], _MODULUS_B[-1], limits.GRANT_B):
        part_at = at + _LENGTH.size
        if part_at > len(body):
            raise ValueError("truncated reference")
        at = part_at + _LENGTH.unpack_from(body, at)[0]
        if at > len(body) or at - part_at > bound_b:
            raise ValueError("truncated reference, or a part out of bounds")
        parts.append(body[part_at:at])
    if at != len(body):
        raise ValueError("octets left over")
    first, second, grant = parts
    if channel_fd > _FD_MAX or not _fits(kind, first, second):
        raise ValueError("a field does not fit the kind of key")
    return KeyReference(kind, channel_fd, timeout_ms, first, second, grant)
