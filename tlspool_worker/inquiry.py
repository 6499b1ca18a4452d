"""A handshake in whose middle the broker is asked: verification that refuses nothing by itself.

OpenSSL calls verify.VERIFY for each fault and for each certificate that is in order.  Here a fault is noted, and the
walk goes on, so that the chain is always looked at to its end; then the broker gets a description of all of it
(shown.py) and decides, while the thread of this handshake waits (handshakes.py).

What OpenSSL does after a fault that was let pass (crypto/x509/x509_vfy.c; tests/unit/test_inquiry.py has a real chain
for each):

* The order is: building the chain, purpose and constraints, strength, dates and signatures, names.  Each certificate
  that has its issuer in the chain has its signature checked, whether or not the chain ends at an anchor.
* The last certificate of a chain without an anchor is taken at its word: it might as well be forged.  For a leaf
  that is its own issuer shown.py checks that signature.
* The last call for the leaf comes before name constraints are looked at.  So where a certificate has any, the chain
  is verified a second time, on the side, before the broker is asked.
* A fault that is new after the verdict ends the handshake.  It cannot come, but for a bug.

Which fault is told: the first, but "self-signed" only if nothing else is wrong, as that is what may be put up with.

When it is asked: with the leaf.  In TLS 1.2 the stapled OCSP response comes later than that, so if one was asked for,
it is when the server's flight is complete (stapling.ARRIVED).  Our certificate, if any, has not been sent even then.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import crypto
from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code
from tlspool_common.messages import RemoteAuth, RemoteShown, Side, StartSession, Verdict
from tlspool_worker import verify
from tlspool_worker.binding import der_of
from tlspool_worker.shown import Chain, Wire, certificate_untrusted, describe_untrusted, is_self_signed_untrusted
from tlspool_worker.trust import Generation

_SELF_SIGNED, _BAD_SIGNATURE = 18, 7

_FAULTS = 32
"""Faults of a chain that are kept."""

_TLS12 = 0x0303

_HANDSHAKE, _SERVER_HELLO = 22, 2

_HELLO_B = 5 + 4 + 2 + 32 + 1 + 32 + 2
"""A ServerHello up to its cipher suite, in its record (RFC 5246 section 7.4.1.3)."""

_CONSTRAINED = (
    bytes.fromhex("0603551d1e"),  # nameConstraints
    bytes.fromhex("06082b06010505070107"),  # RFC 3779: addresses
    bytes.fromhex("06082b06010505070108"),  # and systems
)
"""OIDs of what OpenSSL looks at after the leaf.  Found in any place: a chain is verified once too often at worst."""

# Code of a verdict -> X509_V_ERR number, which makes libssl send the alert beside it
REFUSALS: dict[Code, tuple[int, int]] = {
    Code.REVOKED: (23, 44),  # certificate_revoked
    Code.EXPIRED: (10, 45),  # certificate_expired
    Code.NOT_YET_VALID: (9, 42),  # bad_certificate
    Code.CHAIN_UNTRUSTED: (20, 48),  # unknown_ca
    Code.SELF_SIGNED: (18, 48),  # unknown_ca
    Code.NAME_MISMATCH: (62, 42),  # bad_certificate
    Code.WRONG_PURPOSE: (26, 43),  # unsupported_certificate
    Code.KEY_WEAK: (66, 42),  # bad_certificate
    Code.PIN_UNMATCHED: (28, 42),  # bad_certificate: "certificate rejected"
    Code.NOT_POST_QUANTUM: (50, 40),  # handshake_failure: nothing acceptable could be agreed upon
    Code.INTERNAL: (17, 80),  # internal_error
}
_OTHER_REFUSAL = (43, 46)
"""certificate_unknown: it is not acceptable, for a reason for which there is no alert.  43 is "no explicit policy"."""


Ask = Callable[[RemoteShown], Verdict | None]


class Inquiry(verify.Check):
    """A Check that asks."""

    __slots__ = (
        "_anchors",
        "_ask",
        "_chain",
        "_decided",
        "_faults",
        "_hello",
        "_start",
        "_told_fault",
    )

    def __init__(self, start: StartSession, trust: Generation, ask: Ask) -> None:
        """Prepare.

        Args:
            start: what is asked of the session.
            trust: the anchors, as in the session's context.
            ask: gets the broker's verdict, and may take long; None: there will be none.
        """
        super().__init__(None, start.domain_represents_user)
        self._start = start
        self._anchors = trust
        self._ask = ask
        self._chain: Chain | None = None
        self._faults: list[tuple[int, int]] = []
        self._hello = bytearray()
        self._decided = False
        self._told_fault = False

    def heard(self, data: bytes) -> None:
        """Keep the beginning of what the server says: before the keys are there OpenSSL does not tell the cipher."""
        if len(self._hello) < _HELLO_B:
            self._hello += data[: _HELLO_B - len(self._hello)]

    # --- while OpenSSL verifies -----------------------------------------------------------------------

    def seen_untrusted(self, ok: int, store_context: Any) -> int:
        """Take a call of VERIFY."""
        depth = lib.X509_STORE_CTX_get_error_depth(store_context)
        if not ok:
            return self._faulty(lib.X509_STORE_CTX_get_error(store_context), depth)
        if depth:
            return 1
        ssl = lib.X509_STORE_CTX_get_ex_data(store_context, lib.SSL_get_ex_data_X509_STORE_CTX_idx())
        built = _certificates(lib.X509_STORE_CTX_get1_chain(store_context))
        ders = tuple(der_of(one._x509) for one in built)
        self.leaf = certificate_untrusted(ders[0])
        self._constraints_untrusted(built, ders)
        self._chain = self._ended(ders)
        if self._waits_for_staple(ssl) or self._decide_untrusted(ssl):
            lib.ERR_clear_error()
            return 1
        lib.X509_STORE_CTX_set_error(store_context, self._number())
        return 0

    def _ended(self, ders: tuple[bytes, ...]) -> Chain:
        """Find the end of a chain.  If the leaf is an anchor OpenSSL keeps what else was sent behind it."""
        side = self._start.side
        if self._anchors.has(side, ders[-1]):
            return Chain(ders=ders, anchored=True)
        if self._anchors.has(side, ders[0]):
            return Chain(ders=ders[:1], anchored=True)
        return Chain(ders=ders, anchored=False)

    def _faulty(self, number: int, depth: int) -> int:
        if not self._decided:
            if len(self._faults) < _FAULTS:
                self._faults.append((number, depth))
            return 1
        if self._told_fault or not self.passed:
            return 1 if self.passed else 0
        self.passed = False
        self.fault(number, depth)
        return 0

    def _constraints_untrusted(self, built: list[crypto.X509], ders: tuple[bytes, ...]) -> None:
        """Find out what OpenSSL would say after the last call for the leaf, if there can be anything."""
        if self._faults:
            return
        if not any(oid in der for der in ders for oid in _CONSTRAINED):
            return
        context = ffi.gc(lib.X509_STORE_CTX_new(), lib.X509_STORE_CTX_free)
        others = ffi.gc(lib.sk_X509_new_null(), lib.sk_X509_free)
        for one in built[1:]:
            lib.sk_X509_push(others, one._x509)
        store = self._anchors.store(self._start.side)
        if lib.X509_STORE_CTX_init(context, store._store, built[0]._x509, others) != 1:
            raise ValueError("OpenSSL cannot verify a chain twice")
        if lib.X509_verify_cert(context) != 1:
            number = lib.X509_STORE_CTX_get_error(context)
            self._faults.append((number, lib.X509_STORE_CTX_get_error_depth(context)))
        lib.ERR_clear_error()

    def _telling_untrusted(self) -> tuple[int, str]:
        """Return the code and the words of the fault that says most."""
        found = [fault for fault in self._faults if fault[0] != _SELF_SIGNED]
        if not found and self._faults:
            found = self._faults
            if self.leaf is not None and not is_self_signed_untrusted(self.leaf):
                found = [(_BAD_SIGNATURE, 0)]
        if not found:
            return 0, ""
        number, depth = found[0]
        code, _ = verify.TABLE.get(number, verify.OTHER)
        return int(code), verify.words(number, depth)

    # --- the broker's word ----------------------------------------------------------------------------

    def _waits_for_staple(self, ssl: Any) -> bool:
        start = self._start
        return start.side is Side.CLIENT and start.wants_staple and lib.SSL_version(ssl) <= _TLS12

    def server_is_done_untrusted(self, ssl: Any) -> bool:
        """The server's flight is complete; say whether to go on.  In TLS 1.3 all is decided by then."""
        if self._decided or self._chain is None:
            return self.passed
        return self._decide_untrusted(ssl)

    def _decide_untrusted(self, ssl: Any) -> bool:
        """Ask the broker; say whether it accepts."""
        self._decided = True
        start, chain = self._start, self._chain
        if chain is None:
            raise AssertionError("nothing was shown")
        fault, detail = self._telling_untrusted()
        chain = replace(chain, fault=fault, detail=detail)
        staple = self.staple_untrusted(ssl)
        now_s = datetime.datetime.now(datetime.UTC).timestamp()
        try:
            shown = describe_untrusted(chain, self._wire(ssl), staple, now_s, start.tells_chain)
        except (ValueError, UnsupportedAlgorithm) as error:
            self._refuse(Code.CHAIN_INVALID, f"the certificate cannot be judged: {error}")
            return False
        self.names, self.subject, self.sha256 = shown.names, shown.subject, shown.leaf_sha256
        self._told_fault = bool(shown.fault)
        verdict = self._ask(shown)
        if verdict is None:
            self._refuse(Code.VALIDATION_UNDECIDED, "the broker has not said whether the remote is acceptable")
        elif verdict.code:
            try:
                code = Code(verdict.code)
            except ValueError:
                code = Code.INTERNAL
            self._refuse(code, verdict.detail)
        else:
            self.passed = True
        return self.passed

    def staple_untrusted(self, ssl: Any) -> bytes:
        """Return the OCSP response that came with the handshake; b'' when none did, or OpenSSL could not parse it."""
        if self._start.side is Side.SERVER or not self._start.wants_staple:
            return b""
        pointer = ffi.new("unsigned char **")
        size_b = lib.SSL_get_tlsext_status_ocsp_resp(ssl, pointer)
        return bytes(ffi.buffer(pointer[0], size_b)) if size_b > 0 else b""

    def _refuse(self, code: Code, detail: str) -> None:
        self.passed = False
        self.code, self.detail = code, detail
        _, self.alert = REFUSALS.get(code, _OTHER_REFUSAL)

    def _number(self) -> int:
        """Return the X509_V_ERR that makes libssl send the alert of what was refused."""
        number, _ = REFUSALS.get(self.code or Code.INTERNAL, _OTHER_REFUSAL)
        return number

    def _wire(self, ssl: Any) -> Wire:
        group = lib.SSL_get0_group_name(ssl)
        return Wire(
            session_id=self._start.session_id,
            tls_version=lib.SSL_version(ssl),
            cipher=self._cipher(ssl),
            group=ffi.string(group).decode("ascii", "replace") if group != ffi.NULL else "",
        )

    def _cipher(self, ssl: Any) -> str:
        cipher = lib.SSL_get_current_cipher(ssl)
        if cipher == ffi.NULL:
            hello = bytes(self._hello).ljust(_HELLO_B, b"\0")
            at = 44 + hello[43]
            if (hello[0], hello[5]) != (_HANDSHAKE, _SERVER_HELLO) or at + 2 > len(self._hello):
                return ""
            cipher = lib.SSL_CIPHER_find(ssl, hello[at : at + 2])
        return "" if cipher == ffi.NULL else ffi.string(lib.SSL_CIPHER_get_name(cipher)).decode("ascii", "replace")


def _certificates(stack: Any) -> list[crypto.X509]:
    """Take over a stack of certificates, of which each is ours."""
    if stack == ffi.NULL:
        raise ValueError("OpenSSL has no chain")
    try:
        pointers = [lib.sk_X509_value(stack, number) for number in range(lib.sk_X509_num(stack))]
        return [crypto.X509._from_raw_x509_ptr(pointer) for pointer in pointers]
    finally:
        lib.sk_X509_free(stack)


def asks(start: StartSession) -> bool:
    """Whether a session is one for an Inquiry: there is no certificate to describe if none is looked at."""
    return start.asks and start.remote_auth is not RemoteAuth.IGNORE
