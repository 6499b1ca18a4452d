"""Protocol V2 as its specification tables it: offsets, codes and numbers, copied from there and from nowhere else.

This is the judge, so it shares nothing with tlspool_common/appwire.py.  ``build`` makes the bytes of a frame from
fields; a field that is ``FREE`` gets a mask instead, and its bytes are not compared.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

FRAME_B = 388
BASE = -1167372288
POOL = "20151111api@tlspool.arpa2.net"

# name: (offset in the frame, size); a size in "bHI…" is a number of that struct format, "s<n>" is text, "x<n>" bytes
_ERROR = {"tlserrno": (8, "i"), "message": (12, "s128")}
_PING = {"producer": (8, "s136"), "facilities": (144, "I")}
_STARTTLS = {
    "flags": (8, "I"),
    "local": (12, "I"),
    "ipproto": (16, "B"),
    "streamid": (18, "H"),
    "localid": (20, "s128"),
    "remoteid": (148, "s128"),
    "ctlkey": (276, "x16"),
    "service": (292, "s16"),
    "timeout": (308, "I"),
}
_PINENTRY = {
    "flags": (8, "I"),
    "attempt": (12, "I"),
    "timeout_us": (16, "I"),
    "pin": (20, "s128"),
    "prompt": (148, "s128"),
    "token_manuf": (276, "s36"),
    "token_model": (312, "s20"),
    "token_serial": (332, "s20"),
    "token_label": (352, "s36"),
}
_LIDENTRY = {
    "flags": (8, "I"),
    "maxlevels": (12, "H"),
    "timeout": (14, "I"),
    "localid": (18, "s128"),
    "remoteid": (146, "s128"),
}
_CONTROL = {"flags": (8, "I"), "ctlkey": (12, "x16"), "name": (28, "s128")}
_PRNG = {"in1_len": (8, "h"), "in2_len": (10, "h"), "prng_len": (12, "h"), "buffer": (14, "x350")}
_INFO = {"ctlkey": (8, "x16"), "info_kind": (24, "I"), "len": (28, "H"), "buffer": (30, "x334")}

# Our own, of the local range: docs/protocol.md, "The application's AAA".
_DETAILS = {
    "ctlkey": (8, "x16"),
    "session_id": (24, "Q"),
    "tls_version": (32, "H"),
    "verified": (34, "B"),
    "resumed": (35, "B"),
    "cipher": (36, "s64"),
    "group": (100, "s32"),
    "alpn_len": (132, "B"),
    "alpn": (133, "x63"),
    "subject": (196, "s160"),
    "tags": (356, "H"),
}
_TAGS = {"key": (8, "x16"), "first": (24, "H"), "total": (26, "H"), "here": (28, "H"), "tags": (30, "x352")}
_SUBJECT = {"key": (8, "x16"), "remoteid": (24, "s128"), "localid": (152, "s128"), "service": (280, "s16")}
# A verdict comes under the command of its question, so both have the names of both.
_VERDICT = {
    "key": (8, "x16"),
    "said": (24, "B"),
    "tags_total": (26, "H"),
    "tags_here": (28, "H"),
    "session_timeout": (30, "I"),
    "idle_timeout": (34, "I"),
    "message": (38, "s128"),
    "tags": (166, "x220"),
}
_AUTHENTICATE = {"timeout": (24, "I"), "password_len": (28, "H"), "password": (30, "x128"), **_VERDICT}
_AUTHORIZE = {"timeout": (24, "I"), "kind": (28, "s64"), "instance": (92, "s128"), **_VERDICT}
_KEPT = {"kept_at": (8, "Q"), "acct_id": (16, "s65")}
_START = {"key": (8, "x16"), "at": (24, "Q"), "kind": (32, "s64"), "instance": (96, "s128"), **_KEPT}
_COUNT = {
    "at": (8, "Q"),
    "items": (16, "Q"),
    "has_items": (24, "B"),
    "kind": (26, "s64"),
    "instance": (90, "s128"),
    **_KEPT,
}

# section 3: name: (code, payload)
V2: dict[str, tuple[int, dict[str, tuple[int, str]]]] = {
    "SUCCESS": (0x00, {}),
    "ERROR": (0x01, _ERROR),
    "PING": (0x10, _PING),
    "STARTTLS": (0x24, _STARTTLS),
    "STARTTLS_LOCALID": (0x28, _STARTTLS),
    "PINENTRY": (0x29, _PINENTRY),
    "PLAINTEXT_CONNECT": (0x2A, _STARTTLS),
    "PRNG": (0x2B, _PRNG),
    "INFO": (0x2C, _INFO),
    "CONTROL_DETACH": (0x100, _CONTROL),
    "CONTROL_REATTACH": (0x101, _CONTROL),
    "LIDENTRY_REGISTER": (0x200, _LIDENTRY),
    "LIDENTRY_CALLBACK": (0x201, _LIDENTRY),
}
COMMANDS = {
    **V2,
    "LOCAL_DETAILS": (0x80000002, _DETAILS),
    "LOCAL_TAGS": (0x80000004, _TAGS),
    "LOCAL_SUBJECT": (0x80000020, _SUBJECT),
    "LOCAL_AUTHENTICATE": (0x80000021, _AUTHENTICATE),
    "LOCAL_AUTHORIZE": (0x80000022, _AUTHORIZE),
    "LOCAL_ACCOUNT_START": (0x80000023, _START),
    "LOCAL_ACCOUNT_UPDATE": (0x80000024, _COUNT),
    "LOCAL_ACCOUNT_END": (0x80000025, _COUNT),
}

# section 8, in the order of the table
_NAMES = (
    "OUT_OF_MEMORY",
    "ENTANGLED_THREADS",
    "CLIENT_DISCONNECT",
    "CLIENT_REFUSES_CALLBACK",
    "COMMAND_NEEDED",
    "SUPERFLUOUS_SOCKET",
    "CIPHER_SOCKET_NEEDED",
    "PLAIN_SOCKET_NEEDED",
    "COMMAND_UNKNOWN",
    "COMMAND_NOTIMPL",
    "COMMAND_BAD_CALLBACK_RESPONSE",
    "FACILITY_STARTTLS",
    "FACILITY_STARTGSS",
    "FACILITY_STARTSSH",
    "CTLKEY_REGISTRATION_FAILED",
    "CTLKEY_NOT_FOUND",
    "CTLKEY_NOT_YOURS",
    "CTLKEY_DETACHED",
    "CTLKEY_ATTACHED",
    "RENOGIATE_NOT_FOUND",
    "RENOGIATE_NOT_INTERRUPTABLE",
    "RENOGIATE_WOULD_BE_INSECURE",
    "CONNECTION_HANDLER_SETUP",
    "CONNECTION_DRIVER_SETUP",
    "STIRRED_NOT_SHAKEN",
    "PRNG_UNAVAILABLE",
    "LIDENTRY_NOT_VACANT",
    "PINENTRY_NOT_VACANT",
    "INFOKIND_UNKNOWN",
    "INFO_NOT_FOUND",
)
ERRORS = {name: BASE + place for place, name in enumerate(_NAMES)}

# sections 6.2 to 6.5
FLAGS = {
    "LOCALROLE_CLIENT": 0x1,
    "LOCALROLE_SERVER": 0x2,
    "LOCALROLE_PEER": 0x3,
    "REMOTEROLE_CLIENT": 0x4,
    "REMOTEROLE_SERVER": 0x8,
    "REMOTEROLE_PEER": 0xC,
    "BOTHROLES_PEER": 0xF,
    "DTLS": 0x100,
    "WITHOUT_SNI": 0x200,
    "IGNORE_CACHES": 0x400,
    "REQUEST_REMOTEID": 0x800,
    "IGNORE_REMOTEID": 0x1000,
    "DETACH": 0x2000,
    "FORK": 0x4000,
    "DOMAIN_REPRESENTS_USER": 0x8000,
    "LOCALID_CHECK": 0x10000,
    "RENEGOTIATE": 0x20000,
    "LOCALID_ONTHEFLY": 0x40000,
    "SERVER": 0x6,  # as testsrv has it
    "CLIENT": 0x9,  # as testcli has it
    "SKIP_DBENTRY": 0x80,
    "SKIP_USER": 0x81,
    "SKIP_DOMAIN_SAME": 0x82,
    "SKIP_DOMAIN_ONEUP": 0x84,
    "SKIP_DOMAIN_SUB": 0x86,
    "SKIP_NOTROOT": 0x88,
    "WANT_DBENTRY": 0x100,
    "DBENTRY": 0x1000,
    "DBINSERT": 0x2000,
    "DBAPPEND": 0x4000,
    "DBREORDER": 0x8000,
    "NEW": 0x100000,
    "ONTHEFLY": 0x200000,
}
KINDS = {
    "PEERCERT_SUBJECT": 0x52800000,
    "PEERCERT_ISSUER": 0x52800001,
    "PEERCERT_SUBJECTALTNAME": 0x52800002,
    "MYCERT_SUBJECT": 0x52800100,
    "MYCERT_ISSUER": 0x52800101,
    "MYCERT_SUBJECTALTNAME": 0x52800102,
    "CHANBIND_TLS_UNIQUE": 0x59290000,
    "CHANBIND_TLS_SERVER_END_POINT": 0x59290001,
}


@dataclass(frozen=True)
class Free:
    """A field whose bytes are not compared."""


FREE = Free()
Value = int | str | bytes | Free


def size_of(kind: str) -> int:
    """Return how many bytes a field has."""
    return int(kind[1:]) if kind[0] in "sx" else struct.calcsize(f"={kind}")


def pack(name: str, kind: str, value: int | str | bytes) -> bytes:
    """Return a field's bytes.  Bytes may be given for a text too, and then need no NUL."""
    size_b = size_of(kind)
    if isinstance(value, int):
        return struct.pack(f"={kind}", value)
    data = value.encode() if isinstance(value, str) else value
    assert len(data) <= size_b, (name, len(data))
    return data.ljust(size_b, b"\0")


def build(cmd: str | int, reqid: int, cbid: int, fields: dict[str, Value], like: bytes = b"") -> tuple[bytes, bytes]:
    """Return (bytes, mask) of a frame; in the mask 0 stands for a byte that is free.

    ``like`` is a frame whose payload is taken over, but for the given fields.
    """
    code, layout = COMMANDS[cmd] if isinstance(cmd, str) else (cmd, {})
    frame = bytearray(struct.pack("=HHI", reqid, cbid, code) + (like[8:] or bytes(FRAME_B - 8)))
    mask = bytearray(b"\xff" * FRAME_B)
    for name, value in fields.items():
        if name == "payload":
            assert isinstance(value, bytes)
            frame[8 : 8 + len(value)] = value
            continue
        offset, kind = layout[name]
        end = offset + size_of(kind)
        if isinstance(value, Free):
            mask[offset:end] = bytes(end - offset)
        else:
            frame[offset:end] = pack(name, kind, value)
    return bytes(frame), bytes(mask)


def field(cmd: str, frame: bytes, name: str) -> int | bytes:
    """Return a field of a frame: a number, or all its bytes."""
    offset, kind = COMMANDS[cmd][1][name]
    data = frame[offset : offset + size_of(kind)]
    return data if kind[0] in "sx" else struct.unpack(f"={kind}", data)[0]


def describe(frame: bytes, mask: bytes = b"\xff" * FRAME_B) -> str:
    """Return a frame as a person reads it: header, and the lines that are not zero."""
    reqid, cbid, code = struct.unpack_from("=HHI", frame)
    name = next((name for name, (number, _) in COMMANDS.items() if number == code), hex(code))
    lines = [f"{name} reqid={reqid} cbid={cbid}"]
    for at in range(0, FRAME_B, 16):
        part, bits = frame[at : at + 16], mask[at : at + 16]
        if any(part) or not all(bits):
            shown = " ".join(f"{byte:02x}" if bit else ".." for byte, bit in zip(part, bits, strict=True))
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
            lines.append(f"  {at:03d}: {shown:<47}  {text}")
    return "\n".join(lines)
