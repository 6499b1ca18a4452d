"""Signature schemes that keyd knows, by their numbers on the wire (RFC 8446 section 4.2.3).

What is not in this table cannot be asked for: SHA-1, SHA-224, MD5, DSA, and RSASSA-PSS keys have no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Scheme(IntEnum):
    """SignatureScheme.  In TLS 1.2 an ECDSA number names only the hash, in TLS 1.3 the curve as well."""

    RSA_PKCS1_SHA256 = 0x0401
    ECDSA_SECP256R1_SHA256 = 0x0403
    RSA_PKCS1_SHA384 = 0x0501
    ECDSA_SECP384R1_SHA384 = 0x0503
    RSA_PKCS1_SHA512 = 0x0601
    ECDSA_SECP521R1_SHA512 = 0x0603
    RSA_PSS_RSAE_SHA256 = 0x0804
    RSA_PSS_RSAE_SHA384 = 0x0805
    RSA_PSS_RSAE_SHA512 = 0x0806
    ED25519 = 0x0807


class Form(Enum):
    """How a signature is made of a hash (or, with EdDSA, of the content itself)."""

    PKCS1 = "rsa-pkcs1"
    PSS = "rsa-pss"
    ECDSA = "ecdsa"
    EDDSA = "eddsa"


@dataclass(frozen=True, slots=True)
class Row:
    """One scheme: its form, its hash as hashlib names it (empty: none), and whether TLS 1.3 has it for our keys."""

    scheme: Scheme
    form: Form
    hash_name: str
    in_tls13: bool


_S = Scheme
TABLE: tuple[Row, ...] = (
    # RFC 8446 section 4.2.3: PKCS #1 v1.5 is for certificates only, "not defined for use in signed TLS
    # handshake messages" of TLS 1.3
    Row(_S.RSA_PKCS1_SHA256, Form.PKCS1, "sha256", False),
    Row(_S.RSA_PKCS1_SHA384, Form.PKCS1, "sha384", False),
    Row(_S.RSA_PKCS1_SHA512, Form.PKCS1, "sha512", False),
    Row(_S.RSA_PSS_RSAE_SHA256, Form.PSS, "sha256", True),
    Row(_S.RSA_PSS_RSAE_SHA384, Form.PSS, "sha384", True),
    Row(_S.RSA_PSS_RSAE_SHA512, Form.PSS, "sha512", True),
    Row(_S.ECDSA_SECP256R1_SHA256, Form.ECDSA, "sha256", True),
    Row(_S.ECDSA_SECP384R1_SHA384, Form.ECDSA, "sha384", True),
    # TLS 1.2 peers may want SHA-512 of a P-256 or P-384 key; in TLS 1.3 the number means a P-521 key
    Row(_S.ECDSA_SECP521R1_SHA512, Form.ECDSA, "sha512", False),
    Row(_S.ED25519, Form.EDDSA, "", True),
)

BY_NUMBER: dict[int, Row] = {int(row.scheme): row for row in TABLE}
