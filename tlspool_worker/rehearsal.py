"""What would a worker tell the broker of this chain?  For an operator's command; no session, no network.

The rules are those of a handshake, because it is one: a TLS object of a context as workers make it is given a first
flight of TLS 1.2, in which certificates travel in the clear and are looked at before anything has been signed.  So
no key is needed for the chain, and nothing about purpose, strength and anchors is written down a second time.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind, RemoteAuth, RemoteShown, Side, StartSession, Verdict
from tlspool_worker import verify
from tlspool_worker.contexts import Chains, Contexts
from tlspool_worker.inquiry import Ask, Inquiry
from tlspool_worker.trust import Generation

_TLS12 = 0x0303
_CIPHER = "ECDHE-ECDSA-AES128-GCM-SHA256"
_FRAGMENT_B = 16384

_SERVER_HELLO = (
    bytes.fromhex("0303")
    + bytes(range(32))  # the random; anything will do
    + b"\0"  # no session
    + bytes.fromhex("c02b")  # _CIPHER
    + b"\0"  # no compression
    + bytes.fromhex("0005ff01000100")  # RFC 5746, without which OpenSSL does not go on
)


def rehearse_untrusted(
    chain: Sequence[bytes],
    anchors: Sequence[bytes],
    side: Side,
    staple: bytes = b"",
    tells_chain: bool = False,
) -> RemoteShown:
    """Return the description of a chain, as of now; its fields about the handshake are empty.

    Args:
        chain: certificates in DER, leaf first, as a remote would send them.
        anchors: in DER, those that count for chains that are shown to ``side``.
        side: ours: CLIENT for the chain of a server.
        staple: an OCSP response that would come along.
        tells_chain: put the certificates that were used in.

    Raises:
        ValueError: a certificate cannot be read, or is not even looked at by OpenSSL; says which and why.
    """
    for number, der in enumerate(chain, 1):
        try:
            x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion) as error:
            raise ValueError(f"certificate {number} of the chain cannot be read: {error}") from None
    if not chain:
        raise ValueError("there is no certificate")
    trust, context = _trusting(tuple(anchors), side)
    found: list[RemoteShown] = []

    def ask(shown: RemoteShown) -> Verdict | None:
        found.append(shown)
        return None

    check = _Rehearsal(_start(side, tells_chain), trust, ask, staple)
    try:
        connection = _prepared(side, context, check)
        with verify.Judging(check):
            _read(connection, _handshake_message(11, _certificate_list(chain)))
    except (PoolError, crypto.Error, SSL.Error) as error:
        raise ValueError(f"the chain cannot be verified: {error}") from None
    finally:
        lib.ERR_clear_error()
    if not found:
        raise ValueError(check.detail or "OpenSSL does not look at this chain")
    return replace(found[0], tls_version=0, cipher="", group="")


class _Rehearsal(Inquiry):
    """An Inquiry that has its staple from elsewhere."""

    __slots__ = ("_staple",)

    def __init__(self, start: StartSession, trust: Generation, ask: Ask, staple: bytes) -> None:
        super().__init__(start, trust, ask)
        self._staple = staple

    def staple_untrusted(self, _ssl: object) -> bytes:
        """Return the response that was given."""
        return self._staple


def _start(side: Side, tells_chain: bool) -> StartSession:
    return StartSession(
        session_id=0,
        side=side,
        remote_auth=RemoteAuth.REQUIRE,
        trust_generation=1,
        tls_min=_TLS12,
        tls_max=_TLS12,
        groups="",
        ciphers_tls12=_CIPHER,
        ciphersuites_tls13="",
        sigalgs="",
        alpn=b"",
        sni="",
        remote_name="",
        domain_represents_user=False,
        asks=True,
        tells_chain=tells_chain,
    )


@lru_cache(maxsize=2)  # one for each side: an operator's bundle is judged by the same anchors, chain after chain
def _trusting(anchors: tuple[bytes, ...], side: Side) -> tuple[Generation, SSL.Context]:
    """Return the anchors, and a context of ours that goes by them; nothing of a session stays in either."""
    trust = Generation(1)
    for der in anchors:
        trust.add(3, der)
    chains: Chains = () if side is Side.CLIENT else ((KeyKind.EC_P256, (_own()[0],)),)
    return trust, Contexts().get(_start(side, False), chains, trust)


def _prepared(side: Side, context: SSL.Context, check: Inquiry) -> SSL.Connection:
    """Return a connection that expects the remote's certificates next."""
    connection = SSL.Connection(context, None)
    if side is Side.CLIENT:
        connection.set_connect_state()
        _read(connection, b"")
        _read(connection, _handshake_message(2, _SERVER_HELLO))
        return connection
    connection.set_accept_state()
    if lib.SSL_use_PrivateKey(connection._ssl, _own()[1]._pkey) != 1:
        raise PoolError(Code.INTERNAL, "OpenSSL does not take a new key")
    with verify.Judging(check):
        _read(connection, _client_hello())
    return connection


@cache
def _client_hello() -> bytes:
    """Return what a client says first; nothing in it is looked at again."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(_TLS12)
    client = SSL.Connection(context, None)
    client.set_connect_state()
    _read(client, b"")
    return client.bio_read(65536)


def _read(connection: SSL.Connection, data: bytes) -> None:
    """Let a connection go on as far as it can."""
    if data:
        connection.bio_write(data)
    if lib.SSL_do_handshake(connection._ssl) != 1:
        lib.ERR_clear_error()  # it waits for more, or our ``ask`` has refused


def _handshake_message(kind: int, body: bytes) -> bytes:
    """Return a handshake message in plaintext records (RFC 5246 sections 6.2.1 and 7.4)."""
    message = bytes([kind]) + len(body).to_bytes(3) + body
    parts = [message[at : at + _FRAGMENT_B] for at in range(0, len(message), _FRAGMENT_B)]
    return b"".join(b"\x16\x03\x03" + len(part).to_bytes(2) + part for part in parts)


def _certificate_list(chain: Sequence[bytes]) -> bytes:
    entries = b"".join(len(der).to_bytes(3) + der for der in chain)
    return len(entries).to_bytes(3) + entries


@cache
def _own() -> tuple[bytes, crypto.PKey]:
    """Return a server's certificate and its key, which nobody goes by."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    key = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return (
        builder.sign(private, hashes.SHA256()).public_bytes(Encoding.DER),
        crypto.load_privatekey(crypto.FILETYPE_ASN1, key),
    )
