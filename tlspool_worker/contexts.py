"""OpenSSL contexts: one for each policy, shared by sessions, never changed after its first use.

A context holds what sessions have in common: versions, ciphers, groups, whose word is believed, the chains we
show.  What differs from one session to the next is set on its connection: the key reference with its grant, the
server name, ALPN, the name that the remote must prove, an OCSP response of ours.  Making a context costs about
0.4 ms; the cache keeps the ones used last.

* Chains of different kinds of key share a context, one for each slot of OpenSSL (RSA, EC, Ed25519): it picks by
  what the client can verify.  OpenSSL has one list of further certificates for all slots here, so that both
  chains' issuers are sent with either leaf; RFC 8446 section 4.4.2 lets clients find their way.
* No tickets and no session cache: a resumed session would have no verified identity (docs/design.md).
* SSL_MODE_NO_AUTO_CHAIN: else OpenSSL completes a chain of one from our trust anchors, each time anew.
* Partial writes are turned off: one SSL_write makes all the records of a batch.
"""

from __future__ import annotations

from collections import OrderedDict

from cryptography import x509
from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind, RemoteAuth, Side, StartSession
from tlspool_common.record import record
from tlspool_worker import alpn, asked, lists, stapling, verify
from tlspool_worker.tls_errors import take_queue
from tlspool_worker.trust import Generation

KEPT = 64
"""Contexts in the cache: identities times trust generations of one application; each takes some 50 KiB."""

_MODE_NO_AUTO_CHAIN = 8
"""SSL_MODE_NO_AUTO_CHAIN (openssl/ssl.h), which cryptography does not name."""

_SLOTS = {KeyKind.RSA: 0, KeyKind.EC_P256: 1, KeyKind.EC_P384: 1, KeyKind.ED25519: 2}
"""Kinds of key that OpenSSL keeps in one place: of two in the same, the later would displace the earlier."""

Chains = tuple[tuple[KeyKind, tuple[bytes, ...]], ...]


def fitting(chains: Chains) -> Chains:
    """Return one chain for each of OpenSSL's slots: the first that was given."""
    found: dict[int, tuple[KeyKind, tuple[bytes, ...]]] = {}
    for kind, chain in chains:
        found.setdefault(_SLOTS[kind], (kind, chain))
    return tuple(found.values())


@record
class _Key:
    """All that a context depends on."""

    side: Side
    remote_auth: RemoteAuth
    trust_generation: int
    tls_min: int
    tls_max: int
    groups: str
    ciphers_tls12: str
    ciphersuites_tls13: str
    sigalgs: str
    names_anchors: bool
    chains: Chains


class Contexts:
    """The cache.  For one thread: the loop's."""

    def __init__(self) -> None:
        self._made: OrderedDict[_Key, SSL.Context] = OrderedDict()

    def get(self, start: StartSession, chains: Chains, trust: Generation) -> SSL.Context:
        """Return the context for a session.

        Raises:
            PoolError: SETTING_INVALID, OpenSSL does not take a list; RECORD_MALFORMED, a local chain.
        """
        key = _Key(
            start.side,
            start.remote_auth,
            trust.number,
            start.tls_min,
            start.tls_max,
            start.groups,
            start.ciphers_tls12,
            start.ciphersuites_tls13,
            start.sigalgs,
            start.names_anchors,
            chains,
        )
        made = self._made.get(key)
        if made is None:
            self._forget(trust.number)
            made = self._made[key] = _make(key, trust)
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        else:
            self._made.move_to_end(key)
        return made

    def _forget(self, newest: int) -> None:
        """Drop the contexts of earlier trust generations: no session will ask for them again."""
        for key in [key for key in self._made if key.trust_generation != newest]:
            del self._made[key]


def _make(key: _Key, trust: Generation) -> SSL.Context:
    server = key.side is Side.SERVER
    made = SSL.Context(SSL.TLS_SERVER_METHOD if server else SSL.TLS_CLIENT_METHOD)
    made.set_min_proto_version(key.tls_min)
    made.set_max_proto_version(key.tls_max)
    made.set_options(
        SSL.OP_NO_COMPRESSION | lib.SSL_OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    lib.SSL_CTX_set_mode(made._context, lib.SSL_MODE_RELEASE_BUFFERS | _MODE_NO_AUTO_CHAIN)
    lib.SSL_CTX_clear_mode(made._context, lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
    _set_list(made, "tls_ciphers12", key.ciphers_tls12)
    _set_list(made, "tls_ciphersuites13", key.ciphersuites_tls13)
    _set_list(made, "tls_groups", key.groups)
    _set_list(made, "tls_sigalgs", key.sigalgs)
    if server:
        lib.SSL_CTX_set_alpn_select_cb(made._context, alpn.SELECT, ffi.NULL)
        lib.SSL_CTX_set_tlsext_status_cb(made._context, stapling.SEND)
    else:
        lib.SSL_CTX_set_cert_cb(made._context, asked.ASKED, ffi.NULL)
        lib.SSL_CTX_set_tlsext_status_cb(made._context, stapling.ARRIVED)
    _trust(made, key, trust)
    _show(made, key.chains)
    return made


def _set_list(made: SSL.Context, setting: str, text: str) -> None:
    if why := lists.fault(made, setting, text):
        raise PoolError(Code.SETTING_INVALID, f"{setting} {text!r}: {why}")


def _trust(made: SSL.Context, key: _Key, trust: Generation) -> None:
    server = key.side is Side.SERVER
    if key.remote_auth is RemoteAuth.IGNORE:
        # A server does not ask; a client takes whatever certificate comes, and calls it unverified.
        made.set_verify(SSL.VERIFY_NONE)
        return
    store = trust.store(key.side)
    lib.X509_STORE_up_ref(store._store)
    lib.SSL_CTX_set_cert_store(made._context, store._store)
    mode = SSL.VERIFY_PEER
    if server:
        for certificate in trust.named(key.side) if key.names_anchors else ():
            made.add_client_ca(certificate)
        if key.remote_auth is RemoteAuth.REQUIRE:
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    # Not set_verify: what its callback raises would come out in whichever session of the context fails next.
    lib.SSL_CTX_set_verify(made._context, mode, verify.VERIFY)


def _show(made: SSL.Context, chains: Chains) -> None:
    issuers: dict[bytes, None] = {}
    try:
        for _, (leaf, *others) in chains:
            made.use_certificate(x509.load_der_x509_certificate(leaf))
            issuers.update(dict.fromkeys(others))
        for der in issuers:
            made.add_extra_chain_cert(x509.load_der_x509_certificate(der))
    except (ValueError, crypto.Error, SSL.Error) as error:
        take_queue()
        raise PoolError(Code.RECORD_MALFORMED, f"a local chain: {type(error).__name__}: {error}") from None
