"""TLS on memory: handshakes in steps, and what the relay needs of a finished one.

OpenSSL never sees a socket.  A ``Handshake`` is given the bytes that came and gives back the bytes to send; one
step may take long (a signature), so it runs in a thread, one step at a time.  When it is done its SSL object goes
on as a ``Stream``, which belongs to the loop's thread alone.

The relay's inner loop calls libssl through cryptography's binding, without pyOpenSSL's wrappers: these allocate a
buffer for each call and raise an exception for "no more".  That is private API, so binding.py looks for every name
at start.  What was learnt about memory:

* Bytes that came are given to OpenSSL as a read-only BIO on our one buffer, without a copy, and read out before
  the buffer is used again.  What is left of a record OpenSSL copies.  Only small batches are copied by us.
* The BIO that OpenSSL writes to keeps its largest size.  ``slim`` replaces it in a session that was busy.
* pyOpenSSL's Connection has served when the handshake is done: a Stream keeps the SSL pointer only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import HandshakeDone, RemoteAuth, Side, StartSession, UseCredential
from tlspool_common.record import record
from tlspool_worker import alpn, inquiry, showing, verify
from tlspool_worker.contexts import fitting
from tlspool_worker.keys import use_key
from tlspool_worker.names import names_untrusted, subject_untrusted
from tlspool_worker.tls_errors import (
    CALLBACK_FAILED,
    CERTIFICATE_VERIFY_FAILED,
    INVALID_STATUS_RESPONSE,
    NO_ALERT,
    PEER_DID_NOT_RETURN_A_CERTIFICATE,
    Fault,
    explain,
    take_queue,
)

CIPHER_B = 8 * (16384 + 64)
"""Ciphertext that is read, or sent, in one go: eight full records with what TLS adds.  Measured: half of it is
slower, and twice as much leaves the cache."""

PLAIN_B = CIPHER_B + 2 * 16384
"""Room for its plaintext, for a record that was begun before, and for SSL_read to want a whole record more."""

SMALL_B = 2048
"""What comes in smaller batches is copied: that is one call instead of three."""

CIPHER = memoryview(bytearray(CIPHER_B))
PLAIN = memoryview(bytearray(PLAIN_B))
"""The buffers of the loop's thread, for all sessions."""

_CIPHER_C = ffi.from_buffer(CIPHER)
_PLAIN_C = ffi.from_buffer(PLAIN)
_POINTER = ffi.new("char **")

_HANDSHAKE, _SERVER_HELLO = 22, 2
_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3)."""

_TLS12 = 0x0303

_STATUS_OCSP = 1
"""TLSEXT_STATUSTYPE_ocsp."""

_BAD_STATUS_RECORD = bytes([21, 3, 3, 0, 2, 2, 113])
"""The alert bad_certificate_status_response of TLS 1.2, before there are keys."""


@record
class Step:
    """What came of one step: bytes to send, and then ``facts`` (done), ``fault`` (over), or neither (go on)."""

    output: bytes
    facts: HandshakeDone | None = None
    fault: Fault | None = None


# --- handshake --------------------------------------------------------------------------------------


class Handshake:
    """One handshake.  ``step`` is called by one thread at a time, not always the same."""

    __slots__ = (
        "_channel",
        "_check",
        "_connection",
        "_context",
        "_credentials",
        "_flight",
        "_input",
        "_output",
        "_start",
        "_timeout_ms",
        "may_sign",
    )

    def __init__(
        self,
        context: SSL.Context,
        start: StartSession,
        credentials: list[UseCredential],
        channel: OwnedFd | None,
        timeout_ms: int,
        check: verify.Check | None = None,
    ) -> None:
        """Prepare; ``check`` is an Inquiry for a session that asks the broker in the middle."""
        if inquiry.asks(start) and not isinstance(check, inquiry.Inquiry):
            raise AssertionError(f"session {start.session_id} asks, and has nobody to ask")
        self._context = context
        self._start = start
        self._credentials = credentials
        self._channel = channel  # held: its number is in the key references
        self._timeout_ms = timeout_ms
        self._flight: bytearray | None = None  # of the server, if there is a choice of credentials
        self._connection: SSL.Connection | None = None
        self._input = self._output = ffi.NULL
        expected = parse_untrusted(start.remote_name) if start.remote_name else None
        self._check = check or verify.Check(expected, start.domain_represents_user)
        self._check.staples = {each.chain[0]: each.staple for each in credentials if each.staple}
        self.may_sign = bool(credentials)

    @property
    def is_heavy(self) -> bool:
        """Whether the next step may wait for a signature, or has a chain to verify: it belongs in a thread."""
        if self._start.side is Side.CLIENT:
            return self._connection is not None
        return self.may_sign or self._start.remote_auth is not RemoteAuth.IGNORE

    def step(self, data: bytes) -> Step:
        """Go on with what the remote sent.  Raises nothing for faults of the remote, or of keyd."""
        lib.ERR_clear_error()
        try:
            connection = self._connection or self._open()
        except PoolError as error:
            return Step(b"", fault=Fault(error.code, 80, error.detail))
        check, client = self._check, self._start.side is Side.CLIENT
        if data:
            lib.BIO_write(self._input, data, len(data))
            if client:
                check.heard(data)
                if self._flight is not None and len(self._flight) < showing.FLIGHT_B:
                    self._flight += data
        with verify.Judging(check), alpn.Choosing(self._start.alpn):
            result = lib.SSL_do_handshake(connection._ssl)
            state = lib.SSL_get_error(connection._ssl, result)
        output = self._take_output()
        if not client:
            check.heard(output)
        if result == 1:
            return self._done(connection, output)
        if state in (lib.SSL_ERROR_WANT_READ, lib.SSL_ERROR_WANT_WRITE):
            if self.may_sign and not client:
                self.may_sign = _is_retry(output)
            return Step(output)
        fault = self._fault(output)
        if output == _BAD_STATUS_RECORD:
            output = output[:-1] + bytes([fault.alert])  # refused when the response was there (stapling.ARRIVED)
        return Step(output, fault=fault)

    def stream(self) -> Stream:
        """Return the connection that was made; this object is of no use afterwards."""
        connection = self._connection
        if connection is None:
            raise PoolError(Code.INTERNAL, "no handshake was made")
        self._connection = None
        stream = Stream(connection._ssl, self._input, self._output)
        stream.is_client = self._start.side is Side.CLIENT
        stream.shown = not stream.is_client or (bool(self._credentials) and self._check.asked)
        return stream

    def _open(self) -> SSL.Connection:
        start = self._start
        connection = SSL.Connection(self._context, None)
        usable = self._usable()
        if start.side is Side.CLIENT and len(usable) > 1:
            self._flight = bytearray()
            self._check.show = self._show
        else:
            for credential in usable:
                self._use_key(connection, credential)
        if start.side is Side.SERVER:
            connection.set_accept_state()
        else:
            if start.sni:
                connection.set_tlsext_host_name(start.sni.encode("ascii", "replace"))
            if protocols := alpn.split(start.alpn):
                connection.set_alpn_protos(protocols)
            if start.wants_staple:
                lib.SSL_set_tlsext_status_type(connection._ssl, _STATUS_OCSP)
            if self._credentials:
                lib.SSL_set_post_handshake_auth(connection._ssl, 1)  # the server may ask later, too
            connection.set_connect_state()
        self._input, self._output = connection._into_ssl, connection._from_ssl
        self._connection = connection
        return connection

    def _show(self, ssl: Any) -> None:
        """The server asks for a certificate, and has not been told which: OpenSSL gets the key, or keys, that fit."""
        flight, self._flight = bytes(self._flight or b""), None
        schemes = showing.schemes_untrusted(flight) if lib.SSL_version(ssl) <= _TLS12 else None
        chosen = showing.choose(self._usable(), schemes, showing.authorities_untrusted(ssl))
        if self._connection is None:
            raise PoolError(Code.INTERNAL, "a server asks before it was spoken to")
        self._check.asked = bool(chosen)  # for what cannot be shown
        for credential in chosen:
            self._use_key(self._connection, credential)
        lib.ERR_clear_error()

    def _usable(self) -> list[UseCredential]:
        chains = fitting(tuple((each.key_kind, each.chain) for each in self._credentials))
        return [each for each in self._credentials if (each.key_kind, each.chain) in chains]

    def _use_key(self, connection: SSL.Connection, credential: UseCredential) -> None:
        use_key(connection._ssl, credential, self._channel, self._timeout_ms)

    def _take_output(self) -> bytes:
        parts = []
        size = 16384
        buffer = ffi.new("char[]", size)
        while (count := lib.BIO_read(self._output, buffer, size)) > 0:
            parts.append(ffi.buffer(buffer, count)[:])
        return b"".join(parts)

    def _fault(self, output: bytes) -> Fault:
        queue = take_queue()
        fault = explain(queue)
        check = self._check
        reasons = {reason for library, reason, _, _ in queue if library == 20}
        if check.code is not None and reasons & {CERTIFICATE_VERIFY_FAILED, INVALID_STATUS_RESPONSE, CALLBACK_FAILED}:
            return Fault(check.code, check.alert, check.detail)
        if PEER_DID_NOT_RETURN_A_CERTIFICATE in reasons and len(output) == 7:
            return Fault(fault.code, output[6], fault.detail)  # TLS 1.2 says handshake_failure, and in plaintext
        return fault

    def _done(self, connection: SSL.Connection, output: bytes) -> Step:
        start, check = self._start, self._check
        leaf = check.leaf
        try:
            if leaf is None:
                leaf = remote_leaf(connection._ssl)
                check.names = names_untrusted(leaf) if leaf else ()
        except ValueError as error:
            if start.remote_auth is not RemoteAuth.IGNORE:
                return Step(output, fault=Fault(Code.CHAIN_INVALID, NO_ALERT, str(error)))
            check.names = ()
        verified = start.remote_auth is not RemoteAuth.IGNORE and check.passed
        optional = start.side is Side.SERVER and start.remote_auth is RemoteAuth.REQUEST and leaf is None
        if not verified and not optional and start.remote_auth is not RemoteAuth.IGNORE:
            # OpenSSL says yes and our callback has not: that must not happen, and must not pass.
            return Step(output, fault=Fault(Code.INTERNAL, NO_ALERT, "the remote's certificate was not judged"))
        sni = connection.get_servername() or b"" if start.side is Side.SERVER else start.sni.encode()
        group = getattr(connection, "get_group_name", lambda: None)()
        facts = HandshakeDone(
            session_id=start.session_id,
            tls_version=connection.get_protocol_version(),
            cipher=(connection.get_cipher_name() or "")[:64],
            group=(group or "")[:64],
            alpn=connection.get_alpn_proto_negotiated(),
            sni=sni.decode("ascii", "replace").lower(),
            remote_verified=verified,
            remote_names=check.names,
            remote_subject=check.subject or (subject_untrusted(leaf) if leaf else ""),
            remote_sha256=check.sha256 or (hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest() if leaf else b""),
        )
        self._channel = None
        return Step(output, facts=facts)


def _is_retry(output: bytes) -> bool:
    """Whether a server's first output is a HelloRetryRequest: its signature is still to come."""
    return len(output) > 43 and (output[0], output[5]) == (_HANDSHAKE, _SERVER_HELLO) and output[11:43] == _RETRY_RANDOM


def remote_leaf(ssl: Any) -> x509.Certificate | None:
    """Return what the remote showed.  Without Connection.get_peer_certificate, which warns of X509 objects.

    Raises:
        ValueError: it cannot be read.
    """
    pointer = lib.SSL_get_peer_certificate(ssl)
    try:
        return None if pointer == ffi.NULL else crypto.X509._from_raw_x509_ptr(pointer).to_cryptography()
    except x509.InvalidVersion:  # which OpenSSL does not look at, and is no ValueError
        raise ValueError("a certificate of a version that there is not") from None


# --- relay ------------------------------------------------------------------------------------------

OPEN, CLOSED, BROKEN = 0, 1, 2
"""State of a Stream's incoming half: open; the remote sent close_notify; an alert, or a record that is no good."""


class Stream:
    """A finished handshake, for the loop's thread.

    Attributes:
        waits: OpenSSL wants our certificate for the server, and does nothing until it has it (reauth.py).
        is_client: our side.
        shown: we have shown a certificate: the one that OpenSSL has, or ``own`` when it has forgotten it.
        hides_remote: the remote's certificate was not good enough to be told (reauth.py).
        records: with data, that have come (RFC 8446 section 5.1).  OpenSSL gives the data of one at a time.
    """

    __slots__ = (
        "_keeps",
        "_rbio",
        "_ssl",
        "_wbio",
        "fault",
        "hides_remote",
        "is_client",
        "own",
        "records",
        "shown",
        "state",
        "waits",
        "was_busy",
    )

    def __init__(self, ssl: Any, rbio: Any, wbio: Any) -> None:
        self._ssl = ssl
        self._rbio = rbio
        self._wbio = wbio
        self._keeps = False  # whether _rbio is a memory BIO that takes copies
        self.state = OPEN
        self.fault: Fault | None = None
        self.was_busy = False
        self.records = 0
        self.waits = self.is_client = self.shown = self.hides_remote = False
        self.own = b""

    @property
    def ssl(self) -> Any:
        """OpenSSL's object, for what is not relaying."""
        return self._ssl

    def decrypt(self, count: int) -> int:
        """Decrypt the first ``count`` bytes of CIPHER into PLAIN; return how much came out."""
        if count > SMALL_B:
            self._rbio = bio = _new_mem_buf(_CIPHER_C, count)
            self._keeps = False
        elif self._keeps:
            _bio_write(self._rbio, _CIPHER_C, count)
            got = _read(self._ssl, _PLAIN_C, PLAIN_B)
            if got > 0 and not _mem_data(self._rbio, _POINTER):
                self.records += 1
                return got
            return self._read_on(got)
        else:
            self._rbio = bio = lib.BIO_new(lib.BIO_s_mem())
            self._keeps = True
            _bio_write(bio, _CIPHER_C, count)
        _set_eof_return(bio, -1)
        _set_bio(self._ssl, bio, self._wbio)
        return self.read()

    def read(self) -> int:
        """Decrypt what OpenSSL has; ``state`` tells when that was the last."""
        return self._read_on(_read(self._ssl, _PLAIN_C, PLAIN_B))

    def _read_on(self, count: int) -> int:
        """Go on after a first read with this result, as long as there is something."""
        total = count
        while count > 0:
            self.records += 1
            if not _mem_data(self._rbio, _POINTER):
                return total
            count = _read(self._ssl, _PLAIN_C + total, PLAIN_B - total)
            if count > 0:
                total += count
        self._why(count)
        return total if total > 0 else 0

    def _why(self, result: int) -> None:
        error = lib.SSL_get_error(self._ssl, result)
        if error in (lib.SSL_ERROR_WANT_READ, lib.SSL_ERROR_WANT_WRITE):
            return
        if error == lib.SSL_ERROR_ZERO_RETURN:
            self.state = CLOSED
        elif error == lib.SSL_ERROR_WANT_X509_LOOKUP:
            self.waits = True
            self._keep_rest()
        else:
            self.state = BROKEN
            self.fault = explain(take_queue())

    def _keep_rest(self) -> None:
        """Copy what OpenSSL has not read yet: CIPHER is about to be used for others."""
        size = _mem_data(self._rbio, _POINTER)
        rest = ffi.buffer(_POINTER[0], size)[:] if size > 0 else b""
        self._rbio = lib.BIO_new(lib.BIO_s_mem())
        self._keeps = True
        _bio_write(self._rbio, rest, len(rest))
        _set_eof_return(self._rbio, -1)
        _set_bio(self._ssl, self._rbio, self._wbio)

    def encrypt(self, count: int) -> bool:
        """Encrypt the first ``count`` bytes of PLAIN, to be taken; say whether that worked."""
        if _write(self._ssl, _PLAIN_C, count) == count:
            if count > 16384:
                self.was_busy = True
            return True
        self.fault = explain(take_queue())
        self.state = BROKEN
        return False

    def take(self) -> int:
        """Move what is to be sent into CIPHER, as far as it fits; return how much, or something below 1."""
        return _bio_read(self._wbio, _CIPHER_C, CIPHER_B)

    @property
    def has_output(self) -> bool:
        """Whether there is something to take."""
        return _mem_data(self._wbio, _POINTER) > 0

    def close(self) -> None:
        """Say close_notify.  Nothing can be written afterwards."""
        if self.state != BROKEN:
            lib.ERR_clear_error()
            if lib.SSL_shutdown(self._ssl) < 0:
                lib.ERR_clear_error()

    def slim(self) -> None:
        """Give back the memory of a burst.  What is to be sent must have been taken."""
        self.was_busy = False
        self._wbio = lib.BIO_new(lib.BIO_s_mem())
        _set_bio(self._ssl, self._rbio, self._wbio)

    # --- while relay.c has it ---

    def lend(self) -> tuple[int, int, int, bool]:
        """Return the addresses of the SSL object and its two BIOs, and whether the first takes copies.

        Until ``give_back`` nothing else may be called.
        """
        return _address(self._ssl), _address(self._rbio), _address(self._wbio), self._keeps

    def give_back(self, rbio: int, wbio: int, keeps: bool) -> None:
        """Go on, with the BIOs that it has by now."""
        self._rbio, self._wbio = ffi.cast("BIO *", rbio), ffi.cast("BIO *", wbio)
        self._keeps = keeps


def _address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


# Looked up once: the relay calls these for each batch.
_read: Callable[[Any, Any, int], int] = lib.SSL_read
_write: Callable[[Any, Any, int], int] = lib.SSL_write
_bio_write: Callable[[Any, Any, int], int] = lib.BIO_write
_bio_read: Callable[[Any, Any, int], int] = lib.BIO_read
_mem_data: Callable[[Any, Any], int] = lib.BIO_get_mem_data
_new_mem_buf: Callable[[Any, int], Any] = lib.BIO_new_mem_buf
_set_eof_return: Callable[[Any, int], Any] = lib.BIO_set_mem_eof_return
_set_bio: Callable[[Any, Any, Any], Any] = lib.SSL_set_bio


def clear_errors() -> None:
    """Empty this thread's error queue.

    SSL_get_error believes whatever is in it.  The relays empty what they fill, so this is for after everything
    else that uses OpenSSL, or cryptography, in their thread.
    """
    lib.ERR_clear_error()
