"""Alerts of TLS by name, as the standards write them: people look these up, and numbers only after that.

The registry is https://www.iana.org/assignments/tls-parameters (TLS Alerts): RFC 8446 section 6, and what it keeps
free because earlier versions had it.
"""

from __future__ import annotations

from types import MappingProxyType

NAMES = MappingProxyType(
    {
        0: "close_notify",
        10: "unexpected_message",
        20: "bad_record_mac",
        21: "decryption_failed",
        22: "record_overflow",
        30: "decompression_failure",
        40: "handshake_failure",
        41: "no_certificate",
        42: "bad_certificate",
        43: "unsupported_certificate",
        44: "certificate_revoked",
        45: "certificate_expired",
        46: "certificate_unknown",
        47: "illegal_parameter",
        48: "unknown_ca",
        49: "access_denied",
        50: "decode_error",
        51: "decrypt_error",
        60: "export_restriction",
        70: "protocol_version",
        71: "insufficient_security",
        80: "internal_error",
        86: "inappropriate_fallback",
        90: "user_canceled",
        100: "no_renegotiation",
        109: "missing_extension",
        110: "unsupported_extension",
        111: "certificate_unobtainable",
        112: "unrecognized_name",
        113: "bad_certificate_status_response",
        114: "bad_certificate_hash_value",
        115: "unknown_psk_identity",
        116: "certificate_required",
        120: "no_application_protocol",
        121: "ech_required",
    }
)


def text(alert: int) -> str:
    """Return an alert in words: ``alert 48 unknown_ca``, or ``alert 200`` if the registry has no such."""
    return f"alert {alert} {NAMES.get(alert, '')}".rstrip()
