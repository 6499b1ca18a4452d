"""RADIUS packets (RFC 2865, 2866, 5176): what we send, made with pyrad, and what we read, byte by byte.

pyrad makes packets, hides passwords, and computes authenticators.  Not its own are here:

* Values.  Its octets take b"0x41" for hexadecimal and "65" for a number: a Class that begins like that, and has to be
  sent back as it came, would come back as something else.  So values are made here, and given to it as bytes.
* Lengths.  It takes attributes that end behind the packet, and packets of 8192 bytes; a Message-Authenticator of any
  size; and raises whatever its parts raise.  So what comes from the network is walked through here first.
* The Message-Authenticator of an answer to accounting has no request's authenticator in it, as FreeRADIUS does it;
  other servers do it as for other answers.  Both are right here: the Response Authenticator holds the two together.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from pyrad import packet as pyrad

from tlspool_common.messages_radius import Account, AskAccess, Status
from tlspool_common.radius_rules import check_value
from tlspool_common.radius_table import BY_NAME, VENDOR, Attribute, Use
from tlspool_radius import bounds

HEAD_B = 20

ACCESS_REQUEST, ACCESS_ACCEPT, ACCESS_REJECT, ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE = 1, 2, 3, 4, 5
ACCESS_CHALLENGE = 11
DISCONNECT_REQUEST, DISCONNECT_ACK, DISCONNECT_NAK = 40, 41, 42
COA_REQUEST, COA_ACK, COA_NAK = 43, 44, 45

VENDOR_SPECIFIC = 26
MESSAGE_AUTHENTICATOR = 80
_PROXY_STATE = 33
_ZEROS = bytes(16)
_WORD = 2**32

ANSWERS = {
    ACCESS_REQUEST: (ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE),
    ACCOUNTING_REQUEST: (ACCOUNTING_RESPONSE,),
}


class Fault(Enum):
    """What is wrong with a packet: which counter it is for."""

    MALFORMED = "malformed"
    AUTHENTICATOR = "authenticator"
    UNSIGNED = "unsigned"


class BadPacket(Exception):
    """A packet from the network that does not count."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


class BadAttribute(Exception):
    """An attribute cannot be sent, or all together do not fit; the text names it."""


Key = int | tuple[int, int]
"""The number of an attribute; with the vendor's before it, of a vendor's."""


# --- out --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """A packet that was made, and what answers are held against."""

    datagram: bytes = field(repr=False)
    packet: pyrad.Packet = field(repr=False)

    @property
    def id(self) -> int:
        """Its identifier."""
        return self.datagram[1]


def key_of(attribute: Attribute) -> Key:
    """Return what an attribute is numbered by."""
    return (attribute.vendor, attribute.number) if attribute.vendor else attribute.number


_KEYS = {name: key_of(attribute) for name, attribute in BY_NAME.items()}
_VENDOR_B = struct.pack("!I", VENDOR)


@lru_cache(4096)
def encoded(text: str) -> tuple[Key, bytes]:
    """Return the number and the bytes of ``Name=value``; many are the same in many packets.

    Raises:
        BadAttribute: there is no such attribute, it is none that is sent, or cannot have this value.
    """
    name, equals, value = text.partition("=")
    attribute = BY_NAME.get(name)
    if not equals or attribute is None or not attribute.use & (Use.REQUEST | Use.ACCOUNT):
        raise BadAttribute(f"{name[:40]!r} is no attribute that is sent")
    if not value:
        raise BadAttribute(f"{name} is empty")
    try:
        check_value(name, value)
        raw = _raw(attribute, value)
    except ValueError as error:
        raise BadAttribute(str(error)[:200]) from None
    return key_of(attribute), raw


def _raw(attribute: Attribute, value: str) -> bytes:
    match attribute.kind:
        case "integer":
            number = dict(attribute.values).get(value)
            return struct.pack("!I", int(value) if number is None else number)
        case "ipaddr":
            return IPv4Address(value).packed
        case "ipv6addr":
            return IPv6Address(value).packed
        case _:
            return value.encode()


def _fill(packet: pyrad.Packet, attributes: Iterable[tuple[Key, bytes]]) -> None:
    """Give a packet attributes that it has not yet; those of one number stand together, in their order."""
    found: dict[Key, list[bytes]] = {}
    for key, raw in attributes:
        found.setdefault(key, []).append(raw)
    for key, values in found.items():
        packet[key] = values


def question(message: AskAccess, secret: bytes, number: int, authenticator: bytes) -> Request:
    """Make an Access-Request; its authenticator must be random (RFC 2865 section 3).

    Raises:
        BadAttribute: one cannot be sent, or all together are too long.
    """
    packet = pyrad.AuthPacket(ACCESS_REQUEST, number, secret, authenticator)
    packet.add_message_authenticator()  # puts it first: what is before it helps a forger (CVE-2024-3596)
    attributes = [encoded(text) for text in message.attributes]
    if message.password:
        attributes.insert(0, (BY_NAME["User-Password"].number, packet.PwCrypt(message.password)))
    if message.state:
        attributes.append((BY_NAME["State"].number, message.state))
    _fill(packet, attributes)
    return _made(packet)


def _made(packet: pyrad.Packet) -> Request:
    try:
        datagram = packet.RequestPacket()
    except ValueError as error:
        raise BadAttribute(str(error)) from None
    if len(datagram) > bounds.PACKET_B:
        raise BadAttribute(f"the attributes make a packet of {len(datagram)} bytes where {bounds.PACKET_B} are allowed")
    return Request(datagram, packet)


_STATUS = {Status.START: 1, Status.STOP: 2, Status.INTERIM: 3}


def record(message: Account, secret: bytes, number: int, record_id: str, delay_s: int) -> Request:
    """Make an Accounting-Request.  Attributes that cannot be sent, or do not fit, are left out, the last ones first.

    A record that cannot be sent as it is would never be acknowledged, and keep those behind it from being sent.
    """
    given: list[tuple[Key, bytes]] = []
    for text in message.attributes:
        try:
            given.append(encoded(text))
        except BadAttribute:
            continue
    while True:
        packet = pyrad.AcctPacket(ACCOUNTING_REQUEST, number, secret)
        _fill(packet, [*given, *_figures(message, record_id, delay_s)])
        try:
            return _made(packet)
        except BadAttribute:
            if not given:
                raise
            given.pop()


def check_record(message: Account) -> None:
    """Tell whether a record can be sent as it is, and the last one of its session after it.

    Raises:
        BadAttribute: it cannot.
    """
    size_b = HEAD_B + bounds.STOP_B
    for key, raw in [*map(encoded, message.attributes), *_figures(message, "0" * 40, 0)]:
        size_b += 2 + len(raw) + (6 if isinstance(key, tuple) else 0)
    if size_b > bounds.PACKET_B:
        raise BadAttribute(f"the attributes make a packet of {size_b} bytes where {bounds.PACKET_B} are allowed")


def is_item(attributes: Iterable[str]) -> bool:
    """Whether a record is about an item of an application, and not about a session."""
    return any(text.startswith("TLSPool-Kind=") for text in attributes)


def _figures(message: Account, record_id: str, delay_s: int) -> Iterator[tuple[Key, bytes]]:
    """Yield what the fields of a record say."""

    def number(name: str, value: int) -> tuple[Key, bytes]:
        return key_of(BY_NAME[name]), struct.pack("!I", value % _WORD)

    yield number("Acct-Status-Type", _STATUS[message.status])
    yield key_of(BY_NAME["Acct-Session-Id"]), message.acct_id.encode()
    yield number("Event-Timestamp", message.at_ms // 1000)
    yield number("Acct-Delay-Time", min(max(0, delay_s), _WORD - 1))
    for one in message.classes:
        yield key_of(BY_NAME["Class"]), one
    if message.status is not Status.START:
        yield number("Acct-Session-Time", message.session_s)
        if not is_item(message.attributes):
            for way, octets, records in (
                ("Input", message.from_remote_b, message.from_remote_records),
                ("Output", message.to_remote_b, message.to_remote_records),
            ):
                yield number(f"Acct-{way}-Octets", octets)
                yield number(f"Acct-{way}-Gigawords", octets // _WORD)
                yield number(f"Acct-{way}-Packets", records)
    if message.has_items:
        yield number("TLSPool-Items", message.items)
        yield number("TLSPool-Items-Gigawords", message.items // _WORD)
    if message.status is Status.STOP and message.cause:
        yield number("Acct-Terminate-Cause", message.cause)
    yield key_of(BY_NAME["TLSPool-Record-Id"]), record_id.encode()


# --- in ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Packet:
    """A packet from the network, whose lengths are right.  ``pairs`` in their order; a vendor's as one of VENDOR."""

    code: int
    id: int
    authenticator: bytes
    raw: bytes = field(repr=False)
    pairs: list[tuple[Key, bytes]] = field(repr=False)
    signature_at: int = 0

    def values(self, name: str) -> list[bytes]:
        """Return all values of an attribute."""
        key = _KEYS[name]
        return [raw for one, raw in self.pairs if one == key]


def split_untrusted(data: bytes) -> Packet:
    """Take a packet apart.

    Raises:
        BadPacket: MALFORMED: a length in it is wrong.
    """
    if len(data) > bounds.PACKET_B:
        raise BadPacket(Fault.MALFORMED, f"it has more than {bounds.PACKET_B} bytes")
    if len(data) < HEAD_B:
        raise BadPacket(Fault.MALFORMED, f"it has {len(data)} bytes, and {HEAD_B} at least are right")
    size_b = int.from_bytes(data[2:4])
    if not HEAD_B <= size_b <= len(data):
        raise BadPacket(Fault.MALFORMED, f"it says that it has {size_b} bytes, and has {len(data)}")
    raw = data[:size_b]  # what is behind that is padding (RFC 2865 section 3)
    found = Packet(raw[0], raw[1], raw[4:HEAD_B], raw, [])
    at = HEAD_B
    while at < size_b:
        length_b = raw[at + 1] if at + 1 < size_b else 0
        if length_b < 2 or at + length_b > size_b:
            raise BadPacket(Fault.MALFORMED, f"an attribute at {at} has a wrong length")
        number, value = raw[at], raw[at + 2 : at + length_b]
        if number == MESSAGE_AUTHENTICATOR:
            if found.signature_at or len(value) != 16:
                raise BadPacket(Fault.MALFORMED, "its Message-Authenticator has a wrong length, or is not the only one")
            found.signature_at = at + 2
        if number == VENDOR_SPECIFIC and value[:4] == _VENDOR_B:
            found.pairs += _of_vendor(value[4:])
        else:
            found.pairs.append((number, value))
        at += length_b
    return found


def _of_vendor(value: bytes) -> Iterator[tuple[Key, bytes]]:
    """Yield our own attributes in a Vendor-Specific one (RFC 2865 section 5.26)."""
    at = 0
    while at < len(value):
        length_b = value[at + 1] if at + 1 < len(value) else 0
        if length_b < 2 or at + length_b > len(value):
            raise BadPacket(Fault.MALFORMED, "a vendor's attribute has a wrong length")
        yield (VENDOR, value[at]), value[at + 2 : at + length_b]
        at += length_b


def _signature(found: Packet, secret: bytes, authenticator: bytes) -> bytes:
    """Return what the Message-Authenticator should be (RFC 3579 section 3.2)."""
    at = found.signature_at
    text = found.raw[:4] + authenticator + found.raw[HEAD_B:at] + _ZEROS + found.raw[at + 16 :]
    return hmac.digest(secret, text, "md5")


def _is_signed(found: Packet, secret: bytes, authenticators: Iterable[bytes]) -> bool:
    given = found.raw[found.signature_at : found.signature_at + 16]
    return any(hmac.compare_digest(given, _signature(found, secret, one)) for one in authenticators)


def answer_untrusted(request: Request, data: bytes, *, needs_signature: bool) -> Packet:
    """Return the answer to a request that these bytes are.

    Raises:
        BadPacket: they are none: who sent them does not know the secret, or they are an answer to something else.
    """
    found = split_untrusted(data)
    ours = request.packet
    if found.id != ours.id or found.code not in ANSWERS[ours.code]:
        raise BadPacket(Fault.MALFORMED, f"code {found.code} with identifier {found.id} is no answer to the question")
    wanted = hashlib.md5(found.raw[:4] + ours.authenticator + found.raw[HEAD_B:] + ours.secret).digest()  # noqa: S324
    if not hmac.compare_digest(wanted, found.authenticator):
        raise BadPacket(Fault.AUTHENTICATOR, "its authenticator is wrong: is the secret the same at both ends?")
    if not found.signature_at:
        if needs_signature:
            raise BadPacket(Fault.UNSIGNED, "it has no Message-Authenticator")
    else:
        vectors = [ours.authenticator] + ([_ZEROS] if ours.code == ACCOUNTING_REQUEST else [])
        if not _is_signed(found, ours.secret, vectors):
            raise BadPacket(Fault.AUTHENTICATOR, "its Message-Authenticator is wrong")
    if ours.code == ACCESS_REQUEST and any(key == _PROXY_STATE for key, _ in found.pairs):
        # We send none; an attribute that came from nowhere is how answers are forged (CVE-2024-3596).
        raise BadPacket(Fault.MALFORMED, "it has a Proxy-State that was not sent")
    return found


def request_untrusted(data: bytes, secret: bytes) -> Packet:
    """Return the request of RFC 5176 that these bytes are.

    Raises:
        BadPacket: they are none, or who sent them does not know the secret.
    """
    found = split_untrusted(data)
    if found.code not in (DISCONNECT_REQUEST, COA_REQUEST):
        raise BadPacket(Fault.MALFORMED, f"code {found.code} is no request that is taken here")
    wanted = hashlib.md5(found.raw[:4] + _ZEROS + found.raw[HEAD_B:] + secret).digest()  # noqa: S324
    if not hmac.compare_digest(wanted, found.authenticator):
        raise BadPacket(Fault.AUTHENTICATOR, "its authenticator is wrong: is the secret the same at both ends?")
    if found.signature_at and not _is_signed(found, secret, [_ZEROS]):
        raise BadPacket(Fault.AUTHENTICATOR, "its Message-Authenticator is wrong")
    return found


def dynamic_answer(request: Packet, secret: bytes, *, done: bool, error_cause: int = 0) -> bytes:
    """Make the answer to a request of RFC 5176: Proxy-State as it came, signed if the request is."""
    code = request.code + (1 if done else 2)
    packet = pyrad.CoAPacket(code, request.id, secret, request.authenticator)
    if request.signature_at:
        packet.add_message_authenticator()
    if error_cause and not done:
        _fill(packet, [(BY_NAME["Error-Cause"].number, struct.pack("!I", error_cause))])
    _fill(packet, [(key, raw) for key, raw in request.pairs if key == _PROXY_STATE])
    answer: bytes = packet.ReplyPacket()
    return answer
