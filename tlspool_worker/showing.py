"""Which of several credentials a client shows: the one that the server can use, from an authority that it names.

OpenSSL leaves less to be done in TLS 1.3 than in TLS 1.2.  In 1.3 it takes whichever of the keys it has been given
fits the server's signature schemes.  In 1.2 it looks at one key only, the last that it was given, and shows nothing
if that does not fit.  In neither does it care for the authorities that the server names.

So a client with several credentials gives it no key before the server has asked (asked.ASKED), and then those that
are left here.  The schemes of TLS 1.2 are read from the server's flight, which is in plaintext; those of 1.3 are
OpenSSL's business.  One credential is shown as it is: whether it will do the server says best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from OpenSSL._util import ffi, lib

from tlspool_common.messages import KeyKind, UseCredential
from tlspool_worker.certificate_der import BadDer, issuer_untrusted

FLIGHT_B = 128 * 1024
"""Bytes of a server's first flight that are kept.  OpenSSL takes certificates of 100 KiB; 4 KiB are usual."""

_HANDSHAKE, _CERTIFICATE_REQUEST = 22, 13

_RSA = {0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806}
_ECDSA = {0x0403, 0x0503, 0x0603}
_SCHEMES = {KeyKind.RSA: _RSA, KeyKind.EC_P256: _ECDSA, KeyKind.EC_P384: _ECDSA, KeyKind.ED25519: {0x0807}}
"""SignatureScheme numbers (RFC 8446 section 4.2.3) as TLS 1.2 means them: no curve is tied to a hash."""


def choose(
    credentials: Sequence[UseCredential], schemes: frozenset[int] | None, authorities: frozenset[bytes]
) -> list[UseCredential]:
    """Return the credentials that OpenSSL is to have the keys of, in order.

    Args:
        credentials: at least one.
        schemes: what the server can verify; None: OpenSSL will look at that itself.
        authorities: names of issuers, in DER; none means any.
    """
    named = [each for each in credentials if _is_named(each, authorities)]
    if schemes is None:
        return named or list(credentials)
    for some in (named, credentials):
        for each in some:
            if schemes & _SCHEMES[each.key_kind]:
                return [each]
    return []  # none of ours can be used


def _is_named(credential: UseCredential, authorities: frozenset[bytes]) -> bool:
    if not authorities:
        return True
    try:
        return any(issuer_untrusted(der) in authorities for der in credential.chain)
    except BadDer:
        return False


def authorities_untrusted(ssl: Any) -> frozenset[bytes]:
    """Return the names that a server has sent in its CertificateRequest."""
    stack = lib.SSL_get_client_CA_list(ssl)
    found = set()
    if stack != ffi.NULL:
        for number in range(lib.sk_X509_NAME_num(stack)):
            out = ffi.new("unsigned char **")
            size_b = lib.i2d_X509_NAME(lib.sk_X509_NAME_value(stack, number), out)
            if size_b > 0:
                found.add(bytes(ffi.buffer(out[0], size_b)))
                lib.OPENSSL_free(out[0])
    return frozenset(found)


def schemes_untrusted(flight: bytes) -> frozenset[int] | None:
    """Return the signature schemes of the CertificateRequest in a server's flight of TLS 1.2; None: it has none.

    OpenSSL has read it already; still nothing here trusts a length.
    """
    for kind, body in _messages_untrusted(flight):
        if kind == _CERTIFICATE_REQUEST and body:
            at = 1 + body[0]  # certificate types
            size_b = int.from_bytes(body[at : at + 2])
            listed = body[at + 2 : at + 2 + size_b]
            if len(listed) == size_b and size_b % 2 == 0 and size_b:
                return frozenset(int.from_bytes(listed[two : two + 2]) for two in range(0, size_b, 2))
            return None
    return None


def _messages_untrusted(flight: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the handshake messages in plaintext records, up to the first thing that is something else."""
    content, at = bytearray(), 0
    while at + 5 <= len(flight) and flight[at] == _HANDSHAKE:
        end = at + 5 + int.from_bytes(flight[at + 3 : at + 5])
        content += flight[at + 5 : end]
        at = end
    at = 0
    while at + 4 <= len(content):
        end = at + 4 + int.from_bytes(content[at + 1 : at + 4])
        if end > len(content):
            return
        yield content[at], bytes(content[at + 4 : end])
        at = end
