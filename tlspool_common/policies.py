"""Named crypto policies, as data: what a handshake may agree on.

A policy is chosen by name, for the whole host, a service or an identity (tlspool_broker/crypto.py).  All of them
have forward secrecy and authenticated encryption; none goes below TLS 1.2.  Every list is written out, so that another
library behaves the same.  Lists are in OpenSSL's syntax; ``?`` before a name lets a library do without that knows it
not, ``*`` is a group that a client sends a share of, ``/`` ends those of equal rank.
docs/policies.md has a table that is made from this one.
"""

from __future__ import annotations

from dataclasses import dataclass

TLS12, TLS13 = 0x0303, 0x0304

DEFAULT = "intermediate"


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptoPolicy:
    """What a handshake may agree on; a list that is empty is the library's own, and there is none here.

    Attributes:
        tls_min: lowest version, ``tls_max`` the highest, as ProtocolVersion (RFC 8446 section 4.1.2).
        groups: key exchange, most preferred first.
        sigalgs: signatures of either side, and in certificates.
        expression: validation expression that a session under this policy must satisfy, too; '' for none.
        doc: one sentence for an operator.
    """

    name: str
    tls_min: int
    tls_max: int
    groups: str
    sigalgs: str
    ciphers_tls12: str
    ciphersuites_tls13: str
    expression: str
    doc: str


_SUITES = "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
    ":ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
)
_CIPHERS_CHACHA20 = f"{_CIPHERS}:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"

_POST_QUANTUM_SIGALGS = "?mldsa65:?mldsa87:?mldsa44"
_ECDSA_SIGALGS = "ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:ecdsa_secp521r1_sha512"
_RSA_SIGALGS = (
    "rsa_pss_pss_sha256:rsa_pss_pss_sha384:rsa_pss_pss_sha512"
    ":rsa_pss_rsae_sha256:rsa_pss_rsae_sha384:rsa_pss_rsae_sha512"
    ":rsa_pkcs1_sha256:rsa_pkcs1_sha384:rsa_pkcs1_sha512"
)
_SIGALGS = f"{_POST_QUANTUM_SIGALGS}:{_ECDSA_SIGALGS}:ed25519:{_RSA_SIGALGS}"
"""No SHA-1, no SHA-224, no DSA, no Ed448, no SM2.  PKCS #1 is last: in TLS 1.3 it is for certificates only."""

_ALL = (
    CryptoPolicy(
        name="intermediate",
        tls_min=TLS12,
        tls_max=TLS13,
        groups="?*X25519MLKEM768:?SecP256r1MLKEM768:?SecP384r1MLKEM1024/*X25519:secp256r1/secp384r1:secp521r1",
        sigalgs=_SIGALGS,
        ciphers_tls12=_CIPHERS_CHACHA20,
        ciphersuites_tls13=_SUITES,
        expression="",
        doc="TLS 1.2 and 1.3, post-quantum key exchange where the remote has it: for remotes of the last ten years.",
    ),
    CryptoPolicy(
        name="modern",
        tls_min=TLS13,
        tls_max=TLS13,
        groups="?*X25519MLKEM768/*X25519:secp256r1:secp384r1",
        sigalgs=_SIGALGS,
        ciphers_tls12=_CIPHERS_CHACHA20,
        ciphersuites_tls13=_SUITES,
        expression="",
        doc="TLS 1.3 only, post-quantum key exchange where the remote has it: certificates are hidden from onlookers.",
    ),
    CryptoPolicy(
        name="pq-required",
        tls_min=TLS13,
        tls_max=TLS13,
        groups="*X25519MLKEM768:SecP256r1MLKEM768:SecP384r1MLKEM1024",
        sigalgs=_SIGALGS,
        ciphers_tls12=_CIPHERS_CHACHA20,
        ciphersuites_tls13=_SUITES,
        expression="q",
        doc="TLS 1.3 with a hybrid ML-KEM key exchange, or no session: what is recorded today stays secret.",
    ),
    CryptoPolicy(
        name="fips-like",
        tls_min=TLS12,
        tls_max=TLS13,
        groups="?*SecP256r1MLKEM768:?SecP384r1MLKEM1024/*secp256r1:secp384r1:secp521r1",
        sigalgs=f"{_POST_QUANTUM_SIGALGS}:{_ECDSA_SIGALGS}:{_RSA_SIGALGS}",
        ciphers_tls12=_CIPHERS,
        ciphersuites_tls13="TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256",
        expression="",
        doc="Algorithms that FIPS 140-3 modules approve: NIST's curves, ML-KEM, AES-GCM.  It certifies nothing.",
    ),
)

POLICIES: dict[str, CryptoPolicy] = {policy.name: policy for policy in _ALL}
"""All there are, by name."""
