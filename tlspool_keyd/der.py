"""The little DER that keyd writes: public keys as in certificates, DigestInfo, and ECDSA signatures.

Writing only; nothing here reads bytes from outside.  Written out rather than taken from a library so that a
token process loads no second crypto library beside the module's own.
"""

from __future__ import annotations

from typing import Final

_RSA = bytes.fromhex("300d06092a864886f70d0101010500")  # rsaEncryption, NULL (RFC 3279 section 2.3.1)
_ED25519 = bytes.fromhex("300506032b6570")  # id-Ed25519 (RFC 8410 section 3)
_EC = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey (RFC 5480 section 2.1.1)

P256: Final = bytes.fromhex("06082a8648ce3d030107")
P384: Final = bytes.fromhex("06052b81040022")

DIGEST_INFO: Final = {  # RFC 8017 section 9.2, note 1
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


def element(tag: int, body: bytes) -> bytes:
    """Write one element with a definite, minimal length."""
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + body


def integer(value: int) -> bytes:
    """Write a non-negative INTEGER."""
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def rsa_spki(modulus: bytes, exponent: bytes) -> bytes:
    """Write an RSA SubjectPublicKeyInfo from big-endian numbers."""
    key = element(0x30, integer(int.from_bytes(modulus, "big")) + integer(int.from_bytes(exponent, "big")))
    return element(0x30, _RSA + element(0x03, b"\0" + key))


def ec_spki(curve: bytes, point: bytes) -> bytes:
    """Write an EC SubjectPublicKeyInfo from the curve's OID in DER and an uncompressed point."""
    return element(0x30, element(0x30, _EC + curve) + element(0x03, b"\0" + point))


def ed25519_spki(point: bytes) -> bytes:
    """Write an Ed25519 SubjectPublicKeyInfo from its 32 bytes."""
    return element(0x30, _ED25519 + element(0x03, b"\0" + point))


def ecdsa_signature(pair: bytes) -> bytes:
    """Turn ``r || s`` of PKCS #11 into Ecdsa-Sig-Value (RFC 3279 section 2.2.3), as TLS has it.

    Raises:
        ValueError: not two numbers of equal size.
    """
    half, odd = divmod(len(pair), 2)
    if odd or not half:
        raise ValueError(f"{len(pair)} bytes are no r || s")
    return element(0x30, integer(int.from_bytes(pair[:half], "big")) + integer(int.from_bytes(pair[half:], "big")))
