"""What an error of OpenSSL means to us: one table, by number.

Texts of reasons change from version to version ("sslv3 alert ..." became "ssl/tls alert ..."), their numbers
(openssl/sslerr.h) do not.  An error queue runs from the cause to what failed because of it, so the first entry
that the table knows decides.  tests/unit/test_tls_errors.py makes each kind with the OpenSSL that is installed.

The alert beside a code is the one that libssl sends with that error; OpenSSL has no cheap way to ask.
"""

from __future__ import annotations

from dataclasses import dataclass

from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code
from tlspool_worker import provider

NO_ALERT = 255

_LIB_SSL = 20
_REASON_BITS = 23  # openssl/err.h: ERR_LIB_OFFSET
_SYSTEM_FLAG = 1 << 31
_ALERT_REASONS = range(1000, 1256)  # SSL_AD_REASON_OFFSET + AlertDescription: an alert of the remote

PEER_DID_NOT_RETURN_A_CERTIFICATE = 199
CERTIFICATE_VERIFY_FAILED = 134
INVALID_STATUS_RESPONSE = 328
CALLBACK_FAILED = 234

# SSL_R number -> (code, alert sent)
TABLE: dict[int, tuple[Code, int]] = {
    CERTIFICATE_VERIFY_FAILED: (Code.CHAIN_INVALID, 46),  # verify.py knows better
    PEER_DID_NOT_RETURN_A_CERTIFICATE: (Code.CERTIFICATE_MISSING, 116),
    CALLBACK_FAILED: (Code.INTERNAL, 80),  # verify.Check knows better
    INVALID_STATUS_RESPONSE: (Code.CHAIN_INVALID, 113),  # inquiry.py knows better
    # no version in common
    166: (Code.NOTHING_SHARED, 70),  # version too high
    191: (Code.NOTHING_SHARED, 70),  # no protocols available
    258: (Code.NOTHING_SHARED, 70),  # unsupported protocol
    259: (Code.NOTHING_SHARED, 70),  # unsupported ssl version
    266: (Code.NOTHING_SHARED, 70),  # wrong ssl version
    396: (Code.NOTHING_SHARED, 70),  # version too low
    # no cipher, group, signature scheme or application protocol in common
    101: (Code.NOTHING_SHARED, 40),  # no suitable key share
    112: (Code.NOTHING_SHARED, 109),  # missing sigalgs extension
    118: (Code.NOTHING_SHARED, 40),  # no suitable signature algorithm
    181: (Code.NOTHING_SHARED, 40),  # no ciphers available
    193: (Code.NOTHING_SHARED, 40),  # no shared cipher
    209: (Code.NOTHING_SHARED, 109),  # missing supported groups extension
    235: (Code.NOTHING_SHARED, 120),  # no application protocol
    295: (Code.NOTHING_SHARED, 40),  # no suitable groups
    297: (Code.NOTHING_SHARED, 40),  # no suitable digest algorithm
    370: (Code.NOTHING_SHARED, 47),  # wrong signature type
    376: (Code.NOTHING_SHARED, 40),  # no shared signature algorithms
    378: (Code.NOTHING_SHARED, 47),  # wrong curve
    410: (Code.NOTHING_SHARED, 40),  # no shared groups
    # not TLS at all
    155: (Code.REMOTE_NOT_TLS, NO_ALERT),  # https proxy request
    156: (Code.REMOTE_NOT_TLS, NO_ALERT),  # http request
    # faults of the remote whose alert is worth knowing
    123: (Code.REMOTE_PROTOCOL, 51),  # bad signature
    146: (Code.REMOTE_PROTOCOL, 22),  # data length too long
    149: (Code.REMOTE_PROTOCOL, 51),  # digest check failed
    198: (Code.REMOTE_PROTOCOL, 22),  # packet length too long
    244: (Code.REMOTE_PROTOCOL, 10),  # unexpected message
    245: (Code.REMOTE_PROTOCOL, 10),  # unexpected record
    267: (Code.REMOTE_PROTOCOL, 70),  # wrong version number
    281: (Code.REMOTE_PROTOCOL, 20),  # decryption failed or bad record mac
    # ours
    185: (Code.SETTING_INVALID, NO_ALERT),  # no cipher match
    230: (Code.SETTING_INVALID, NO_ALERT),  # ssl library has no ciphers
    288: (Code.KEY_MISMATCH, NO_ALERT),  # private key mismatch
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in our terms."""

    code: Code
    alert: int
    detail: str
    received: bool = False  # the alert is the remote's


def _text(pointer: object) -> str:
    return ffi.string(pointer).decode("ascii", "replace") if pointer else ""


def take_queue() -> list[tuple[int, int, str, str]]:
    """Empty this thread's error queue: (library, reason, library text, reason text), cause first."""
    return [entry(number) for number in iter(lib.ERR_get_error, 0)]


def entry(number: int) -> tuple[int, int, str, str]:
    """Take apart an error of OpenSSL."""
    if number & _SYSTEM_FLAG:
        return 2, number & ~_SYSTEM_FLAG, "system library", f"errno {number & ~_SYSTEM_FLAG}"
    library, reason = number >> _REASON_BITS & 0xFF, number & (1 << _REASON_BITS) - 1
    return library, reason, _text(lib.ERR_lib_error_string(number)), _text(lib.ERR_reason_error_string(number))


def explain(queue: list[tuple[int, int, str, str]]) -> Fault:
    """Say what an error queue means."""
    detail = "; ".join(dict.fromkeys(text or f"{name or library} {reason}" for library, reason, name, text in queue))
    ours = provider.code_from_openssl(Exception([(name, "", text) for _, _, name, text in queue]))
    if ours is not None:
        return Fault(ours, 80, detail)
    for library, reason, _, text in queue:
        if library != _LIB_SSL:
            continue
        if reason in _ALERT_REASONS:
            alert = reason - _ALERT_REASONS.start
            return Fault(Code.REMOTE_ALERT, alert, f"alert {alert}: {text}", received=True)
        if reason in TABLE:
            code, alert = TABLE[reason]
            return Fault(code, alert, detail)
    return Fault(Code.REMOTE_PROTOCOL, NO_ALERT, detail or "an error without a reason")
