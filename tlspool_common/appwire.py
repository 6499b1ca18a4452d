"""Protocol V2 of the application socket: layouts, constants, and a codec with no socket in it.

Every message is one frame of 388 bytes in host order (docs/protocol.md):

    0       2      4     8                                388
    +-------+------+-----+---------------------------------+
    | reqid | cbid | cmd | payload by command, zero-padded |
    +-------+------+-----+---------------------------------+

Frames of the local range (bit 0x80000000) carry what V2 has no field for.  Programs that do not know them
never meet them: the pool sends one only as the reply to one.
"""

from __future__ import annotations

import re
import struct
from dataclasses import field
from enum import IntEnum, IntFlag
from typing import ClassVar

from tlspool_common.record import record

FRAME_B = 388
PAYLOAD_B = 380
IDENTITY = "20151111api@tlspool.arpa2.net"
CTLKEY_B = 16
TIMEOUT_DEFAULT_MS = 0
TIMEOUT_INFINITE_MS = 0xFFFFFFFF
IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP = 6, 17, 132

_HEADER = struct.Struct("=HHI")
_FRAME = struct.Struct(f"=HHI{PAYLOAD_B}s")
"""Packing fills up with zeros."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Cmd(IntEnum):
    """Command codes of V2, and ours of the local range."""

    SUCCESS = 0x00
    ERROR = 0x01
    PING = 0x10
    STARTTLS = 0x24
    STARTTLS_LOCALID = 0x28
    PINENTRY = 0x29
    PLAINTEXT_CONNECT = 0x2A
    PRNG = 0x2B
    INFO = 0x2C
    CONTROL_DETACH = 0x100
    CONTROL_REATTACH = 0x101
    LIDENTRY_REGISTER = 0x200
    LIDENTRY_CALLBACK = 0x201
    LOCAL_OPTIONS = 0x80000001
    LOCAL_DETAILS = 0x80000002
    LOCAL_IDENTITIES = 0x80000003
    LOCAL_TAGS = 0x80000004
    LOCAL_ASKER = 0x80000010
    LOCAL_SUBJECT = 0x80000020
    LOCAL_AUTHENTICATE = 0x80000021
    LOCAL_AUTHORIZE = 0x80000022
    LOCAL_ACCOUNT_START = 0x80000023
    LOCAL_ACCOUNT_UPDATE = 0x80000024
    LOCAL_ACCOUNT_END = 0x80000025


class Flag(IntFlag):
    """Flags of pioc_starttls.  ``number & Flag.X`` is a number: enum's own way takes a microsecond longer each time."""

    __rand__ = int.__rand__  # type: ignore[assignment]

    LOCALROLE_CLIENT = 0x1
    LOCALROLE_SERVER = 0x2
    REMOTEROLE_CLIENT = 0x4
    REMOTEROLE_SERVER = 0x8
    DTLS = 0x100
    WITHOUT_SNI = 0x200
    IGNORE_CACHES = 0x400
    REQUEST_REMOTEID = 0x800
    IGNORE_REMOTEID = 0x1000
    DETACH = 0x2000
    FORK = 0x4000
    DOMAIN_REPRESENTS_USER = 0x8000
    LOCALID_CHECK = 0x10000
    RENEGOTIATE = 0x20000
    LOCALID_ONTHEFLY = 0x40000


class Facility(IntFlag):
    """Facilities of PING."""

    __rand__ = int.__rand__  # type: ignore[assignment]  # as Flag's

    STARTTLS = 0x1
    STARTGSS = 0x2
    STARTSSH = 0x4


FACILITIES_CURRENT = Facility.STARTTLS


class BadPayload(Exception):
    """A field of a frame is malformed, or a value does not fit its field; the text names the field."""


def text_untrusted(name: str, data: bytes) -> str:
    """Read a NUL-terminated text field.

    Raises:
        BadPayload: there is no NUL in the field, or it is not UTF-8, or it has control characters.
    """
    end = data.find(b"\0")
    if end < 0:
        raise BadPayload(f"{name} has no NUL within its {len(data)} bytes")
    try:
        text = data[:end].decode("utf-8")
    except UnicodeDecodeError:
        raise BadPayload(f"{name} is not UTF-8") from None
    if not text.isprintable() and _CONTROL.search(text):
        raise BadPayload(f"{name} contains control characters")
    return text


def text_field(name: str, value: str, size_b: int) -> bytes:
    """Write a NUL-terminated text field.

    Raises:
        BadPayload: the text does not fit, or contains NUL.
    """
    data = value.encode("utf-8")
    if len(data) >= size_b or b"\0" in data:
        raise BadPayload(f"{name} has {len(data)} bytes where at most {size_b - 1} without NUL fit")
    return data.ljust(size_b, b"\0")


@record
class Frame:
    """A frame whose payload is not interpreted yet, and not shown: a PIN or a password may be in it."""

    reqid: int
    cbid: int
    cmd: int
    payload: bytes = field(default=b"", repr=False)

    def to_bytes(self) -> bytes:
        """Return the 388 bytes."""
        if len(self.payload) > PAYLOAD_B:
            raise BadPayload(f"payload has {len(self.payload)} bytes where {PAYLOAD_B} fit")
        return _FRAME.pack(self.reqid, self.cbid, self.cmd, self.payload)


def frame_untrusted(data: bytes) -> Frame:
    """Split 388 bytes; any 388 bytes are a frame."""
    if len(data) != FRAME_B:
        raise BadPayload(f"a frame has {FRAME_B} bytes, not {len(data)}")
    reqid, cbid, cmd = _HEADER.unpack_from(data)
    return Frame(reqid, cbid, cmd, bytes(data[_HEADER.size :]))


@record
class Ping:
    """pioc_ping."""

    producer: str = IDENTITY
    facilities: int = 0

    FORM: ClassVar[struct.Struct] = struct.Struct("=136sI")

    def to_payload(self) -> bytes:
        """Write the payload."""
        return self.FORM.pack(text_field("YYYYMMDD_producer", self.producer, 136), self.facilities)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Ping:
        """Read the payload; raises BadPayload."""
        producer, facilities = cls.FORM.unpack_from(payload)
        return cls(text_untrusted("YYYYMMDD_producer", producer), facilities)


@record
class ErrorReply:
    """pioc_error."""

    tlserrno: int
    message: str = ""

    FORM: ClassVar[struct.Struct] = struct.Struct("=i128s")

    def to_payload(self) -> bytes:
        """Write the payload; the message is cut to 127 bytes on a character's edge."""
        text = self.message.replace("\0", " ").encode("utf-8")[:127].decode("utf-8", "ignore")
        return self.FORM.pack(self.tlserrno, text_field("message", text, 128))

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> ErrorReply:
        """Read the payload.  The text is for people only and may be anything: nothing is refused."""
        tlserrno, message = cls.FORM.unpack_from(payload)
        text = message.split(b"\0", 1)[0].decode("utf-8", "replace")
        return cls(tlserrno, text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text))


@record
class Starttls:
    """pioc_starttls: of STARTTLS, STARTTLS_LOCALID and PLAINTEXT_CONNECT."""

    flags: int = 0
    local: int = 0
    ipproto: int = IPPROTO_TCP
    streamid: int = 0
    localid: str = ""
    remoteid: str = ""
    ctlkey: bytes = field(default=bytes(CTLKEY_B), repr=False)
    service: str = ""
    timeout_ms: int = TIMEOUT_DEFAULT_MS

    FORM: ClassVar[struct.Struct] = struct.Struct("=IIBxH128s128s16s16sI")

    def to_payload(self) -> bytes:
        """Write the payload."""
        if len(self.ctlkey) != CTLKEY_B:
            raise BadPayload(f"ctlkey has {len(self.ctlkey)} bytes, not {CTLKEY_B}")
        return self.FORM.pack(
            self.flags,
            self.local,
            self.ipproto,
            self.streamid,
            text_field("localid", self.localid, 128),
            text_field("remoteid", self.remoteid, 128),
            self.ctlkey,
            text_field("service", self.service, 16),
            self.timeout_ms,
        )

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Starttls:
        """Read the payload; raises BadPayload."""
        flags, local, ipproto, streamid, localid, remoteid, ctlkey, service, timeout_ms = cls.FORM.unpack_from(payload)
        return cls(
            flags,
            local,
            ipproto,
            streamid,
            text_untrusted("localid", localid),
            text_untrusted("remoteid", remoteid),
            ctlkey,
            text_untrusted("service", service),
            timeout_ms,
        )

    def with_identities(self, localid: str, remoteid: str) -> Starttls:
        """Return the same with both identities replaced."""
        return Starttls(
            self.flags,
            self.local,
            self.ipproto,
            self.streamid,
            localid,
            remoteid,
            self.ctlkey,
            self.service,
            self.timeout_ms,
        )


@record
class Options:
    """LOCAL_OPTIONS: said before a STARTTLS with the same control key, on the same connection.

    Answered by SUCCESS.  ``alpn`` is a ProtocolNameList body (RFC 7301 section 3.1), in order of preference.
    """

    ctlkey: bytes = field(repr=False)
    alpn: bytes = b""

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sH320s")
    ALPN_B: ClassVar[int] = 320

    def to_payload(self) -> bytes:
        """Write the payload."""
        if len(self.ctlkey) != CTLKEY_B or len(self.alpn) > self.ALPN_B:
            raise BadPayload(f"alpn has {len(self.alpn)} bytes where {self.ALPN_B} fit")
        return self.FORM.pack(self.ctlkey, len(self.alpn), self.alpn)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Options:
        """Read the payload; raises BadPayload."""
        ctlkey, size, alpn = cls.FORM.unpack_from(payload)
        if size > cls.ALPN_B:
            raise BadPayload(f"alpn announces {size} bytes where {cls.ALPN_B} fit")
        alpn_split_untrusted(alpn[:size])
        return cls(ctlkey, alpn[:size])


class Verified(IntEnum):
    """How the remote identity was established."""

    NOT = 0
    X509 = 1


@record
class Details:
    """LOCAL_DETAILS: asked with the control key of a session this connection controls; answered by the same.

    In the request only ``ctlkey`` counts.  ``tags``: how many there are for LOCAL_TAGS (aaawire.py) to tell.
    """

    ctlkey: bytes = field(repr=False)
    session_id: int = 0
    tls_version: int = 0
    verified: int = Verified.NOT
    resumed: bool = False
    cipher: str = ""
    group: str = ""
    alpn: bytes = b""
    subject: str = ""
    tags: int = 0

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sQHBB64s32sB63s160sH")

    def to_payload(self) -> bytes:
        """Write the payload; the subject is shortened to fit."""
        if len(self.ctlkey) != CTLKEY_B or len(self.alpn) > 63:
            raise BadPayload("ctlkey or alpn does not fit")
        subject = self.subject.encode("utf-8")[:159].decode("utf-8", "ignore")
        return self.FORM.pack(
            self.ctlkey,
            self.session_id,
            self.tls_version,
            self.verified,
            self.resumed,
            text_field("cipher", self.cipher, 64),
            text_field("group", self.group, 32),
            len(self.alpn),
            self.alpn,
            text_field("subject", subject, 160),
            self.tags,
        )

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Details:
        """Read the payload; raises BadPayload."""
        key, session_id, version, verified, resumed, cipher, group, alpn_b, alpn, subject, tags = cls.FORM.unpack_from(
            payload
        )
        if alpn_b > 63:
            raise BadPayload(f"alpn announces {alpn_b} bytes where 63 fit")
        return cls(
            key,
            session_id,
            version,
            verified,
            bool(resumed),
            text_untrusted("cipher", cipher),
            text_untrusted("group", group),
            alpn[:alpn_b],
            text_untrusted("subject", subject),
            tags,
        )


@record
class Control:
    """pioc_control: of CONTROL_DETACH and CONTROL_REATTACH.  ``flags`` and ``name`` have no use yet."""

    ctlkey: bytes = field(repr=False)
    flags: int = 0
    name: str = ""

    FORM: ClassVar[struct.Struct] = struct.Struct("=I16s128s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        if len(self.ctlkey) != CTLKEY_B:
            raise BadPayload(f"ctlkey has {len(self.ctlkey)} bytes, not {CTLKEY_B}")
        return self.FORM.pack(self.flags, self.ctlkey, text_field("name", self.name, 128))

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Control:
        """Read the payload; raises BadPayload."""
        flags, ctlkey, name = cls.FORM.unpack_from(payload)
        return cls(ctlkey, flags, text_untrusted("name", name))


@record
class Prng:
    """pioc_prng: a request holds control key, label and context in one buffer, a reply the output.

    The three lengths are those of the request in both.  ``context_b`` -1 says that there is no context, which
    TLS 1.2 tells apart from an empty one (RFC 5705 section 4).
    """

    label_b: int
    context_b: int
    output_b: int
    buffer: bytes = field(repr=False)

    FORM: ClassVar[struct.Struct] = struct.Struct("=hhh350s")
    BUFFER_B: ClassVar[int] = 350

    @classmethod
    def ask(cls, ctlkey: bytes, label: bytes, context: bytes | None, output_b: int) -> Prng:
        """Make a request."""
        return cls(len(label), -1 if context is None else len(context), output_b, ctlkey + label + (context or b""))

    def asked(self) -> tuple[bytes, bytes, bytes | None]:
        """Return control key, label and context of a request; raises BadPayload when the lengths do not fit."""
        end = CTLKEY_B + self.label_b + max(self.context_b, 0)
        if self.label_b < 1 or self.context_b < -1 or end > self.BUFFER_B or not 0 <= self.output_b <= self.BUFFER_B:
            raise BadPayload("the lengths of label, context and output do not fit")
        data = self.buffer.ljust(self.BUFFER_B, b"\0")
        label_end = CTLKEY_B + self.label_b
        return data[:CTLKEY_B], data[CTLKEY_B:label_end], None if self.context_b < 0 else data[label_end:end]

    def to_payload(self) -> bytes:
        """Write the payload."""
        if len(self.buffer) > self.BUFFER_B:
            raise BadPayload(f"buffer has {len(self.buffer)} bytes where {self.BUFFER_B} fit")
        return self.FORM.pack(self.label_b, self.context_b, self.output_b, self.buffer)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Prng:
        """Read the payload: any bytes are one; ``asked`` judges the lengths of a request."""
        return cls(*cls.FORM.unpack_from(payload))


@record
class Info:
    """pioc_info: ``data`` None asks for the value; else it is the value, or one to be compared."""

    ctlkey: bytes = field(repr=False)
    kind: int
    data: bytes | None = None

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sIH334s")
    DATA_B: ClassVar[int] = 334
    QUERY: ClassVar[int] = 0xFFFF

    def to_payload(self) -> bytes:
        """Write the payload."""
        data = self.data or b""
        if len(self.ctlkey) != CTLKEY_B or len(data) > self.DATA_B:
            raise BadPayload(f"info has {len(data)} bytes where {self.DATA_B} fit, or the control key is no key")
        return self.FORM.pack(self.ctlkey, self.kind, self.QUERY if self.data is None else len(data), data)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Info:
        """Read the payload; raises BadPayload."""
        ctlkey, kind, size, data = cls.FORM.unpack_from(payload)
        if size > cls.DATA_B and size != cls.QUERY:
            raise BadPayload(f"info announces {size} bytes where {cls.DATA_B} fit")
        return cls(ctlkey, kind, None if size == cls.QUERY else data[:size])


def alpn_join(names: tuple[bytes, ...]) -> bytes:
    """Make a ProtocolNameList body; raises BadPayload for an empty or overlong name."""
    if any(not 1 <= len(name) <= 255 for name in names):
        raise BadPayload("an ALPN protocol name has 1 to 255 bytes")
    return b"".join(bytes([len(name)]) + name for name in names)


def alpn_split_untrusted(body: bytes) -> tuple[bytes, ...]:
    """Take a ProtocolNameList body apart; raises BadPayload."""
    names = []
    at = 0
    while at < len(body):
        end = at + 1 + body[at]
        if body[at] == 0 or end > len(body):
            raise BadPayload("alpn is no list of length-prefixed names")
        names.append(body[at + 1 : end])
        at = end
    return tuple(names)
