"""Kinds of information that INFO of protocol V2 asks for."""

from __future__ import annotations

from enum import IntEnum


class InfoKind(IntEnum):
    """Numbers of the protocol: RFC 5280 and RFC 5929 in hexadecimal; bit 0x100 is ours instead of the remote's."""

    PEERCERT_SUBJECT = 0x52800000
    PEERCERT_ISSUER = 0x52800001
    PEERCERT_SUBJECTALTNAME = 0x52800002
    MYCERT_SUBJECT = 0x52800100
    MYCERT_ISSUER = 0x52800101
    MYCERT_SUBJECTALTNAME = 0x52800102
    CHANBIND_TLS_UNIQUE = 0x59290000
    CHANBIND_TLS_SERVER_END_POINT = 0x59290001
    CHANBIND_TLS_EXPORTER = 0x92660000
    """RFC 9266: ours, in the local range that begins at 0x80000000."""
