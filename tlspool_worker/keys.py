"""Give OpenSSL the key of a certificate: a reference to one that keyd has, with a grant for one signature."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto
from OpenSSL._util import lib

from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import UseCredential
from tlspool_worker import keyref
from tlspool_worker.tls_errors import explain, take_queue


def use_key(ssl: Any, credential: UseCredential, channel: OwnedFd | None, timeout_ms: int) -> None:
    """Let a TLS object sign with the key of a certificate that it has.

    Raises:
        PoolError: KEYD_UNREACHABLE, PROVIDER_ABSENT, KEY_MISMATCH.
    """
    if channel is None:
        raise PoolError(Code.KEYD_UNREACHABLE, "the broker has given no channel to it")
    spki = _spki(credential.chain[0])
    reference = keyref.encode(credential.key_kind, spki, channel.fileno(), timeout_ms, credential.grant)
    try:
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, reference)
    except crypto.Error as error:
        raise PoolError(Code.PROVIDER_ABSENT, f"a key reference does not load: {error}") from None
    # Not Connection.use_privatekey: it warns of PKey, and Debian's version lacks it.
    if lib.SSL_use_PrivateKey(ssl, key._pkey) != 1:
        raise PoolError(Code.KEY_MISMATCH, explain(take_queue()).detail)


@lru_cache(maxsize=64)  # the local certificates of one application
def _spki(leaf: bytes) -> bytes:
    key = x509.load_der_x509_certificate(leaf).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
