"""What is told of a session's TLS: keying material, channel bindings, and parts of both certificates.

Everything is asked of OpenSSL when it is wanted: a session keeps nothing for it, as most are never asked.  A
``Stream`` is ours for as long as a function here runs (relay.Relay.hold).

The remote's certificate is what it showed, verified or not: an application that ignores who the remote is may
still bind to its channel.  Only after a re-authentication that failed it is not told any more (reauth.py).
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Fact
from tlspool_worker.binding import der_of
from tlspool_worker.certificate_der import BadDer, general_names_untrusted, issuer_untrusted, subject_untrusted
from tlspool_worker.tls import Stream, clear_errors

_TLS13 = 0x0304

_LABEL13_B = 249
"""A label in TLS 1.3: HkdfLabel has room for 255 octets, "tls13 " among them (RFC 8446 section 7.1)."""

_FINISHED_B = 64
"""Longest Finished; that of TLS 1.2 has 12 octets."""

_EXPORTER = b"EXPORTER-Channel-Binding", b"", 32
"""tls-exporter: label, context and size (RFC 9266 section 2)."""

_WEAK = {"md5": "sha256", "sha1": "sha256"}
"""RFC 5929 section 4.1: certificates signed with these are hashed with SHA-256."""


def export(stream: Stream, label: bytes, context: bytes | None, size_b: int) -> bytes:
    """Return exported keying material.

    Raises:
        PoolError: EXPORT_UNAVAILABLE.
    """
    if lib.SSL_version(stream.ssl) >= _TLS13 and len(label) > _LABEL13_B:
        raise PoolError(Code.EXPORT_UNAVAILABLE, f"a label of {len(label)} bytes in TLS 1.3")
    out = ffi.new("unsigned char[]", size_b)
    given = ffi.NULL if context is None else context
    done = lib.SSL_export_keying_material(
        stream.ssl, out, size_b, label, len(label), given, len(context or b""), context is not None
    )
    clear_errors()
    if done != 1:
        raise PoolError(Code.EXPORT_UNAVAILABLE, "OpenSSL exports nothing for it")
    return bytes(ffi.buffer(out, size_b))


def tell(stream: Stream, fact: Fact, name: bytes) -> bytes:
    """Return a fact; for a name to look for, that name.

    Raises:
        PoolError: INFO_NOT_FOUND.
    """
    match fact:
        case Fact.TLS_UNIQUE:
            return _tls_unique(stream)
        case Fact.TLS_EXPORTER:
            return _tls_exporter(stream)
        case Fact.TLS_SERVER_END_POINT:
            return _server_end_point(remote_certificate(stream) if stream.is_client else local_certificate(stream))
    is_local = fact in (Fact.LOCAL_SUBJECT, Fact.LOCAL_ISSUER, Fact.LOCAL_NAME)
    certificate = local_certificate(stream) if is_local else remote_certificate(stream)
    if not certificate:
        raise PoolError(Code.INFO_NOT_FOUND, "there is no certificate")
    try:
        if fact in (Fact.LOCAL_NAME, Fact.REMOTE_NAME):
            if name not in general_names_untrusted(certificate):
                raise PoolError(Code.INFO_NOT_FOUND, "the certificate does not have this name")
            return name
        take = subject_untrusted if fact in (Fact.LOCAL_SUBJECT, Fact.REMOTE_SUBJECT) else issuer_untrusted
        return take(certificate)
    except BadDer as error:
        raise PoolError(Code.INFO_NOT_FOUND, str(error)) from None


def local_certificate(stream: Stream) -> bytes:
    """Return the certificate that we showed, in DER; b'' when we did not show one."""
    if stream.own or not stream.shown:
        return stream.own
    return der_of(lib.SSL_get_certificate(stream.ssl))


def remote_certificate(stream: Stream) -> bytes:
    """Return the certificate that the remote showed, in DER; b'' when there is none, or none that counts."""
    if stream.hides_remote:
        return b""
    pointer = lib.SSL_get_peer_certificate(stream.ssl)
    return der_of(ffi.gc(pointer, lib.X509_free)) if pointer != ffi.NULL else b""


def _tls_unique(stream: Stream) -> bytes:
    """RFC 5929 section 3.1: the first Finished.  That is the client's, as there is no resumption here."""
    if lib.SSL_version(stream.ssl) >= _TLS13 or lib.SSL_session_reused(stream.ssl):
        raise PoolError(Code.INFO_NOT_FOUND, "tls-unique is for full handshakes of TLS 1.2")
    take = lib.SSL_get_finished if stream.is_client else lib.SSL_get_peer_finished
    out = ffi.new("char[]", _FINISHED_B)
    size_b = take(stream.ssl, out, _FINISHED_B)
    if not 0 < size_b <= _FINISHED_B:
        raise PoolError(Code.INFO_NOT_FOUND, "OpenSSL has no Finished message")
    return bytes(ffi.buffer(out, size_b))


def _tls_exporter(stream: Stream) -> bytes:
    """RFC 9266: before TLS 1.3 only with an extended master secret (section 4.2)."""
    if lib.SSL_version(stream.ssl) < _TLS13 and lib.SSL_get_extms_support(stream.ssl) != 1:
        raise PoolError(Code.INFO_NOT_FOUND, "tls-exporter needs TLS 1.3, or an extended master secret")
    try:
        return export(stream, *_EXPORTER)
    except PoolError as error:
        raise PoolError(Code.INFO_NOT_FOUND, error.detail) from None


def _server_end_point(certificate: bytes) -> bytes:
    """RFC 5929 section 4.1: the server's certificate under the hash of its own signature.

    A signature without a hash of its own (Ed25519, ML-DSA) makes this binding undefined.
    """
    if not certificate:
        raise PoolError(Code.INFO_NOT_FOUND, "there is no certificate of a server")
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError, x509.InvalidVersion):
        algorithm = None
    name = algorithm.name.replace("-", "_") if algorithm is not None else ""  # hashlib has sha3_256, not sha3-256
    name = _WEAK.get(name, name)
    if name not in hashlib.algorithms_guaranteed:
        raise PoolError(Code.INFO_NOT_FOUND, "the certificate's signature has no hash of its own")
    return hashlib.new(name, certificate).digest()
