"""TLS content to be signed, built piece by piece: each piece has a name, so that it can be cut or bent there."""

from __future__ import annotations

import random

from cryptography.hazmat.primitives.asymmetric import ec, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Pieces = list[tuple[str, bytes]]

P256, P384, P521, X25519, X448 = 23, 24, 25, 29, 30
CURVES = {P256: ec.SECP256R1(), P384: ec.SECP384R1(), P521: ec.SECP521R1()}
GROUPS = {"p256": P256, "p384": P384, "p521": P521, "x25519": X25519, "x448": X448}
FREE = (
    "random",
    "session_id",
    "suites",
    "suite",
    "body",
    "signature",
    "scheme",
    "other",
    "certificate",
    "point",
    "extension",
    "name",
)
"""Pieces whose bits mean nothing to the recogniser, or not on their own."""


def point(chance: random.Random, group: int) -> bytes:
    """A public key in its TLS form."""
    if group in CURVES:
        private = ec.derive_private_key(chance.getrandbits(250) + 1, CURVES[group])
        return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    kind = x25519.X25519PrivateKey if group == X25519 else x448.X448PrivateKey
    private = kind.from_private_bytes(chance.randbytes(32 if group == X25519 else 56))
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def join(pieces: Pieces) -> bytes:
    return b"".join(data for _, data in pieces)


def boundaries(pieces: Pieces) -> list[tuple[str, int]]:
    """Return (name of the piece that would come next, offset), the start left out."""
    found, at = [], 0
    for name, data in pieces:
        if at:
            found.append((name, at))
        at += len(data)
    return found


def tls13(side: str, hash_: bytes) -> bytes:
    return b" " * 64 + f"TLS 1.3, {side} CertificateVerify".encode() + b"\0" + hash_


def server_key_exchange(chance: random.Random, of: int, **other: bytes) -> Pieces:
    """Return what a TLS 1.2 server signs; ``other`` replaces pieces."""
    public = other.get("point", point(chance, of))
    pieces = [
        ("client_random", chance.randbytes(32)),
        ("server_random", chance.randbytes(32)),
        ("curve_type", b"\3"),
        ("group", of.to_bytes(2, "big")),
        ("point_length", bytes([len(public) & 0xFF])),
        ("point", public),
    ]
    return [(name, other.get(name, data)) for name, data in pieces]


# --- the transcript ---------------------------------------------------------------------------------------------


def vector(name: str, size: int, pieces: Pieces) -> Pieces:
    return [(f"{name}_length", len(join(pieces)).to_bytes(size, "big")), *pieces]


def message(kind: int, name: str, body: Pieces) -> Pieces:
    head = [("type", bytes([kind])), ("length", len(join(body)).to_bytes(3, "big"))]
    return [(f"{name}.{piece}", data) for piece, data in [*head, *body]]


def extension(number: int, body: bytes) -> Pieces:
    return [("extension", number.to_bytes(2, "big")), *vector("extension", 2, [("body", body)])]


def der(size: int, fill: bytes) -> bytes:
    """A SEQUENCE of ``size`` bytes in all: outwardly a certificate or a name."""
    return b"\x30" + bytes([size - 2]) + fill.ljust(size - 2, b"\0")[: size - 2]


def chain(*certificates: bytes) -> Pieces:
    parts = [piece for each in certificates for piece in vector("certificate", 3, [("certificate", each)])]
    return vector("chain", 3, parts)


def client_hello(chance: random.Random, extensions: Pieces | None = None, version: bytes = b"\3\3") -> Pieces:
    if extensions is None:
        extensions = extension(10, b"\0\4\0\x1d\0\x17") + extension(13, b"\0\4\4\3\x08\x07")
    return [
        ("version", version),
        ("random", chance.randbytes(32)),
        *vector("session_id", 1, [("session_id", chance.randbytes(32))]),
        *vector("suites", 2, [("suites", b"\xc0\x2b\xc0\x2f")]),
        *vector("compressions", 1, [("compressions", b"\0")]),
        *(vector("extensions", 2, extensions) if extensions else []),
    ]


def server_hello(chance: random.Random, extensions: Pieces | None = None, **other: bytes) -> Pieces:
    if extensions is None:
        extensions = extension(23, b"") + extension(11, b"\1\0")
    return [
        ("version", other.get("version", b"\3\3")),
        ("random", chance.randbytes(32)),
        *vector("session_id", 1, [("session_id", b"")]),
        ("suite", b"\xc0\x2b"),
        ("compression", other.get("compression", b"\0")),
        *(vector("extensions", 2, extensions) if extensions else []),
    ]


def key_exchange_body(public: bytes, group: int) -> Pieces:
    return [
        ("curve_type", b"\3"),
        ("group", group.to_bytes(2, "big")),
        *vector("point", 1, [("point", public)]),
        ("scheme", b"\4\3"),
        *vector("signature", 2, [("signature", bytes(range(1, 65)))]),
    ]


def certificate_request(schemes: tuple[int, ...], names: tuple[bytes, ...]) -> Pieces:
    parts = [piece for each in names for piece in vector("name", 2, [("name", each)])]
    return [
        *vector("types", 1, [("other", b"\x40\1")]),
        *vector("schemes", 2, [("schemes", b"".join(each.to_bytes(2, "big") for each in schemes))]),
        *vector("names", 2, parts),
    ]


NUMBERS = {
    "ClientHello": 1,
    "ServerHello": 2,
    "ServerCertificate": 11,
    "CertificateStatus": 22,
    "ServerKeyExchange": 12,
    "CertificateRequest": 13,
    "ServerHelloDone": 14,
    "ClientCertificate": 11,
    "ClientKeyExchange": 16,
}


def bodies(chance: random.Random, group: int = X25519, scheme: int = 0x0403, status: bool = False) -> dict[str, Pieces]:
    """Return the bodies of all messages of a small transcript, in order."""
    found = {
        "ClientHello": client_hello(chance),
        "ServerHello": server_hello(chance),
        "ServerCertificate": chain(der(40, b"\x02\1\5leaf of the server"), der(30, b"\x02\1\6issuer")),
        "CertificateStatus": [("status_type", b"\1"), *vector("status", 3, [("other", der(20, b"\x0a\1\0"))])],
        "ServerKeyExchange": key_exchange_body(point(chance, group), group),
        "CertificateRequest": certificate_request((0x0804, scheme), (der(24, b"\x31\x0f"), der(12, b""))),
        "ServerHelloDone": [],
        "ClientCertificate": chain(der(44, b"\x02\1\7leaf of the client")),
        "ClientKeyExchange": vector("point", 1, [("point", point(chance, group))]),
    }
    if not status:
        del found["CertificateStatus"]
    return found


def transcript(found: dict[str, Pieces]) -> Pieces:
    """Put headers before bodies, and all in a row."""
    return [piece for name, body in found.items() for piece in message(NUMBERS[name], name, body)]


def is_fixed(name: str) -> bool:
    """Whether a flipped bit in this piece must be noticed."""
    piece = name.rpartition(".")[2]
    return piece not in FREE and not piece.endswith("_random")
