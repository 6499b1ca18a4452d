"""How strong keys and hashes are: bits of security, by NIST SP 800-57 part 1 revision 5, tables 2 and 3.

A line describes one certificate, ``KEY BITS HASH``, as a worker writes it (RemoteShown.strengths).  What is not in
these tables counts for nothing: a new algorithm is weak until somebody has said here how strong it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

STRONG = 128
"""``L``: RSA-3072, P-256, SHA-256.  What SP 800-57 table 4 wants for secrets beyond 2030."""

ALTERNATIVE = 112
"""``l``: RSA-2048, P-224, SHA-224.  What public authorities still issue; SP 800-57 allows it until 2030."""

_FACTORING = ((15360, 256), (7680, 192), (3072, 128), (2048, 112), (1024, 80))
"""RSA and DSA: modulus bits, security bits (table 2)."""

_CURVES = ((512, 256), (384, 192), (256, 128), (224, 112), (160, 80))
"""Elliptic curves over prime fields: bits of the order, security bits (table 2)."""

_BY_SIZE = {"rsa": _FACTORING, "rsa-pss": _FACTORING, "rsassa-pss": _FACTORING, "dsa": _FACTORING, "ec": _CURVES}

_BY_NAME = {
    "ed25519": 128,  # RFC 8032 section 8.5
    "ed448": 224,
    "ml-dsa-44": 128,  # FIPS 204 table 1: category 2, more than SHA-256's collision
    "ml-dsa-65": 192,
    "ml-dsa-87": 256,
    **{
        f"slh-dsa-{family}-{bits}{speed}": bits  # FIPS 205 table 2: categories 1, 3 and 5
        for family in ("sha2", "shake")
        for bits in (128, 192, 256)
        for speed in "sf"
    },
}

_HASHES = {
    "-": 512,  # the signature's algorithm has no hash to choose: Ed25519, ML-DSA
    "sha224": 112,
    "sha3-224": 112,
    "sha512-224": 112,
    "sha256": 128,
    "sha3-256": 128,
    "sha512-256": 128,
    "sha384": 192,
    "sha3-384": 192,
    "sha512": 256,
    "sha3-512": 256,
}
"""Collision resistance (table 3).  MD5 and SHA-1 are broken, and not in here."""

_QUANTUM_SAFE = ("ml-dsa-", "slh-dsa-")

_HYBRID_GROUPS = frozenset({"x25519mlkem768", "secp256r1mlkem768", "secp384r1mlkem1024", "x448mlkem1024"})
_PURE_GROUPS = frozenset({"mlkem512", "mlkem768", "mlkem1024"})
_QUANTUM_SAFE_GROUPS = _HYBRID_GROUPS | _PURE_GROUPS | {"curvesm2mlkem768"}
"""Key exchanges with ML-KEM (FIPS 203), as OpenSSL names them.  Drafts such as Kyber768 are not the same algorithm."""


@lru_cache(maxsize=256)  # most remotes of a host have chains of the same few kinds
def weakest(strengths: tuple[str, ...], anchored: bool) -> tuple[int, str]:
    """Return the bits of security of the weakest key or signature, and which one it is.

    ``anchored``: the last line is the anchor's; nobody relies on the signature on that certificate, only on its key.
    """
    found = (_HASHES["-"], "there is none")
    for place, line in enumerate(strengths):
        key, size, hash_name = _split_untrusted(line)
        whose = "the leaf" if place == 0 else f"certificate {place + 1} of the chain"
        bits = key_bits(key, size)
        if bits < found[0]:
            found = (bits, f"the key of {whose} is {key} {size}".rstrip())
        if anchored and place == len(strengths) - 1:
            continue
        bits = _HASHES.get(hash_name, 0)
        if bits < found[0]:
            found = (bits, f"the signature on {whose} is made with {hash_name or 'something unknown'}")
    return found


def key_bits(key: str, size: str) -> int:
    """Return the bits of security of a key; 0 when it is weak or not known."""
    if key in _BY_NAME:
        return _BY_NAME[key]
    if not (size.isascii() and size.isdigit() and len(size) < 7):
        return 0
    return next((bits for least, bits in _BY_SIZE.get(key, ()) if int(size) >= least), 0)


def group_resists_quantum(group: str) -> bool:
    """Tell whether a key exchange cannot be broken later by a quantum computer."""
    return group.lower() in _QUANTUM_SAFE_GROUPS


def first_classical(strengths: Sequence[str]) -> str:
    """Return the first key that a quantum computer could forge with, and its place; '' when there is none."""
    for place, line in enumerate(strengths):
        key, _, _ = _split_untrusted(line)
        if not key.startswith(_QUANTUM_SAFE) or key not in _BY_NAME:
            return f"the key of {'the leaf' if place == 0 else f'certificate {place + 1} of the chain'} is {key}"
    return ""


def _split_untrusted(line: str) -> tuple[str, str, str]:
    """Return key, size and hash of a line; what is missing is ''."""
    words = line.lower().replace("_", "-").split()
    key, size, hash_name = (*words[:3], "", "", "")[:3]
    return key, size, hash_name
