"""Requests to end sessions, or to change them (RFC 5176): who may say what, and what the answer is.

    datagram -> from a configured address? -> authenticators right? -> said before? ---yes, the same answer again
                    | no: dropped               | no: dropped              |
                                                                    Event-Timestamp near? - no: dropped
                                                                           |
                                              all attributes known? - no: NAK 401        -> DynamicAsked -> answer

What is dropped is counted, and nobody gets an answer: who does not know the secret learns nothing, not even that
somebody is here.  A request without an Event-Timestamp could be one of last year that somebody has kept, and ends
sessions that have nothing to do with it: it is dropped, too (RFC 5176 section 6.3).  What has been done is
remembered for as long as its time would let it in again.  XXX Not by the next helper: for one that is started anew
requests of the last five minutes count once more.
"""

from __future__ import annotations

import collections
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv6Address

from tlspool_common import limits
from tlspool_common.messages_radius import Dynamic, DynamicAsked, DynamicTold
from tlspool_common.radius_table import TABLE, Use
from tlspool_radius import bounds
from tlspool_radius.events import Address, Arm, Clock, Effect, Note, Now, Reply, Send, Timer
from tlspool_radius.packets import (
    DISCONNECT_REQUEST,
    MESSAGE_AUTHENTICATOR,
    BadPacket,
    Fault,
    Key,
    Packet,
    dynamic_answer,
    key_of,
    request_untrusted,
)
from tlspool_radius.said import number_untrusted, printable, tags_untrusted

UNSUPPORTED_ATTRIBUTE, MISSING_ATTRIBUTE, INVALID_VALUE, UNSUPPORTED_SERVICE = 401, 402, 407, 405
SESSION_UNKNOWN = 503
"""Error-Cause of RFC 5176 section 3.5."""

SESSION_TIMEOUT, IDLE_TIMEOUT, TAGS = 1, 2, 4
"""Bits of DynamicAsked.changes."""

_SERVICE_TYPE = 6
_CHANGES = {"Session-Timeout": SESSION_TIMEOUT, "Idle-Timeout": IDLE_TIMEOUT, "Filter-Id": TAGS}
_NOT_OF_SESSIONS = {*_CHANGES, "Proxy-State", "Event-Timestamp", "Acct-Session-Id"}
_KNOWN = {key_of(one): one for one in TABLE if one.use & Use.DYNAMIC}
_IDENTIFYING = {key: one for key, one in _KNOWN.items() if one.name not in _NOT_OF_SESSIONS}


_Key = tuple[str, int, bytes]


def _key(source: Address, packet: Packet) -> _Key:
    """Return what makes it the same request again: not the port, which anybody can choose who sends it once more."""
    return source[0], packet.id, packet.authenticator


@dataclass(slots=True)
class Counters:
    """Since the start; ``foreign``: from an address that is not configured, ``stale``: of another time, or of none."""

    done: int = 0
    refused: int = 0
    repeated: int = 0
    foreign: int = 0
    malformed: int = 0
    authenticator: int = 0
    stale: int = 0
    too_many: int = 0


@dataclass(slots=True)
class _Asked:
    source: Address
    packet: Packet
    secret: bytes = field(repr=False)
    due_ms: float


class _Refused(Exception):
    """The request is answered by NAK with this Error-Cause."""

    def __init__(self, error_cause: int, detail: str) -> None:
        super().__init__(detail)
        self.error_cause = error_cause


class Requests:
    """All requests that are not answered, and answers that may be wanted again.  ``secrets``: by address."""

    def __init__(self, secrets: Mapping[str, bytes], out: list[Effect]) -> None:
        self._secrets = secrets
        self.out = out
        self.counters = Counters()
        self._asked: dict[int, _Asked] = {}
        self._last = 0
        self._answers: OrderedDict[_Key, tuple[float, bytes]] = OrderedDict()
        self._notes: collections.Counter[str] = collections.Counter()

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def is_used(self) -> bool:
        """Whether anybody may send requests."""
        return bool(self._secrets)

    def came_untrusted(self, source: Address, data: bytes, now: Now) -> None:
        """Take a datagram of anybody."""
        secret = self._secrets.get(source[0])
        if not secret:
            self._drop("foreign", source, "it is not in radius_dynamic, or has no secret")
            return
        try:
            packet = request_untrusted(data, secret)
        except BadPacket as error:
            self._drop("authenticator" if error.fault is Fault.AUTHENTICATOR else "malformed", source, str(error))
            return
        key = _key(source, packet)
        if (before := self._answers.get(key)) is not None:
            self.counters.repeated += 1
            if before[1]:
                self.out.append(Reply(source, before[1]))
            return  # else it is with the broker
        try:
            if why := _staleness_untrusted(packet, now):
                self._drop("stale", source, why)
                return
            asked = _read_untrusted(packet, source)
        except BadPacket as error:
            self._answer(_Asked(source, packet, secret, 0.0), now, INVALID_VALUE, str(error))
            return
        except _Refused as refusal:
            self._answer(_Asked(source, packet, secret, 0.0), now, refusal.error_cause, str(refusal))
            return
        if len(self._asked) >= bounds.DYNAMIC:
            self._drop("too_many", source, f"{bounds.DYNAMIC} requests wait for the broker")
            return
        self._last = self._last % 0x7FFFFFFF + 1
        self._asked[self._last] = _Asked(source, packet, secret, now.ms + bounds.DYNAMIC_MS)
        self._remember(key, b"", now)
        self.out.append(Send(asked, self._last))
        self.out.append(Arm(Timer(Clock.DYNAMIC, self._last), bounds.DYNAMIC_MS))

    def told(self, exchange: int, message: DynamicTold, now: Now) -> None:
        """Take the broker's answer.  One that comes too late is nobody's."""
        asked = self._asked.pop(exchange, None)
        if asked is None:
            return
        cause = 0 if message.sessions else message.error_cause or SESSION_UNKNOWN
        self._answer(asked, now, cause, "", message.sessions)

    def timed_out(self, exchange: int) -> None:
        """The broker has not answered: whoever asked may ask again."""
        asked = self._asked.pop(exchange, None)
        if asked is not None:
            self._answers.pop(_key(asked.source, asked.packet), None)

    def sweep(self, now: Now) -> None:
        """Forget answers that nobody will ask for again."""
        self._notes.clear()
        while self._answers and next(iter(self._answers.values()))[0] <= now.ms:
            self._answers.popitem(last=False)

    def line(self) -> str:
        """Describe it in a line of key=value words."""
        return "purpose=dynamic " + " ".join(f"{name}={count}" for name, count in asdict(self.counters).items())

    def _answer(self, asked: _Asked, now: Now, cause: int, detail: str, sessions: int = 0) -> None:
        answer = dynamic_answer(asked.packet, asked.secret, done=not cause, error_cause=cause)
        self.counters.done += not cause
        self.counters.refused += bool(cause)
        self._remember(_key(asked.source, asked.packet), answer, now)
        self.out.append(Reply(asked.source, answer))
        self._note(
            "info",
            "radius.dynamic",
            server=_shown(asked.source),
            wants=_wants(asked.packet),
            sessions=sessions,
            error_cause=cause,
            detail=detail,
        )

    def _remember(self, key: _Key, answer: bytes, now: Now) -> None:
        self._answers[key] = (now.ms + bounds.DYNAMIC_KEPT_MS, answer)
        self._answers.move_to_end(key)
        while len(self._answers) > bounds.DYNAMIC_KEPT:
            self._answers.popitem(last=False)

    def _drop(self, counter: str, source: Address, detail: str) -> None:
        setattr(self.counters, counter, getattr(self.counters, counter) + 1)
        self._note("warning", "radius.dynamic_dropped", server=_shown(source), detail=detail)

    def _note(self, level: str, event: str, **fields: str | int) -> None:
        self._notes[event] += 1
        if self._notes[event] <= bounds.NOTES_A_MINUTE:
            self.out.append(Note(level, event, dict(fields)))


def _shown(source: Address) -> str:
    return f"[{source[0]}]:{source[1]}" if ":" in source[0] else f"{source[0]}:{source[1]}"


def _wants(packet: Packet) -> str:
    return "disconnect" if packet.code == DISCONNECT_REQUEST else "change"


def _staleness_untrusted(packet: Packet, now: Now) -> str:
    """Tell why a request may be an old one; "": it is not."""
    at_s = number_untrusted(packet, "Event-Timestamp")
    if not at_s:
        return "it has no Event-Timestamp, so that it could be one of any time: have the server send it"
    off_s = now.wall_ms // 1000 - at_s
    if abs(off_s) > bounds.EVENT_S:
        return f"its Event-Timestamp is {abs(off_s)} s {'old' if off_s > 0 else 'ahead'}, and {bounds.EVENT_S} may be"
    return ""


def _read_untrusted(packet: Packet, source: Address) -> DynamicAsked:
    """Make the broker's question of a request.

    Raises:
        _Refused: it is not for us.
        BadPacket: a value cannot be what it should be.
    """
    is_change = packet.code != DISCONNECT_REQUEST
    attributes: list[str] = []
    changes = 0
    acct_id = ""
    for key, raw in packet.pairs:
        known = _KNOWN.get(key)
        if key == MESSAGE_AUTHENTICATOR:
            continue
        if key == _SERVICE_TYPE:
            raise _Refused(UNSUPPORTED_SERVICE, "Service-Type: sessions are not asked about again at a server's wish")
        if known is None:
            raise _Refused(UNSUPPORTED_ATTRIBUTE, f"attribute {_number(key)} is not known here")
        if known.name in _CHANGES:
            if not is_change:
                raise _Refused(UNSUPPORTED_ATTRIBUTE, f"{known.name} has no place in a Disconnect-Request")
            changes |= _CHANGES[known.name]
        if known.name == "Acct-Session-Id":
            acct_id = _text(raw, limits.RADIUS_ACCT_ID_B)
        if key in _IDENTIFYING:
            attributes.append(f"{known.name}={_value(known.kind, raw)}")
    if not acct_id and not attributes:
        raise _Refused(MISSING_ATTRIBUTE, "it names no session: Acct-Session-Id, User-Name, or others")
    if is_change and not changes:
        raise _Refused(MISSING_ATTRIBUTE, "it changes nothing: Session-Timeout, Idle-Timeout, Filter-Id")
    if len(attributes) > limits.RADIUS_ATTRIBUTES:
        raise _Refused(INVALID_VALUE, f"it has more than {limits.RADIUS_ATTRIBUTES} attributes")
    cut: list[str] = []
    tags = tags_untrusted(packet, cut) if changes & TAGS else ()
    if cut:
        raise _Refused(INVALID_VALUE, f"it has too many tags: {cut[0]}")
    return DynamicAsked(
        dynamic=Dynamic.CHANGE if is_change else Dynamic.DISCONNECT,
        server=_shown(source)[: limits.RADIUS_SERVER_B],
        acct_id=acct_id,
        attributes=tuple(attributes),
        changes=changes,
        session_timeout_s=number_untrusted(packet, "Session-Timeout"),
        idle_timeout_s=number_untrusted(packet, "Idle-Timeout"),
        tags=tags,
    )


def _number(key: Key) -> str:
    return f"{key[0]}.{key[1]}" if isinstance(key, tuple) else str(key)


def _text(raw: bytes, most_b: int) -> str:
    """Return text as it is: what was changed by us could name another session."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadPacket(Fault.MALFORMED, "an attribute is no text") from None
    if not text or not text.isprintable() or len(raw) > most_b:
        raise BadPacket(Fault.MALFORMED, f"an attribute is empty, too long, or no text: {printable(raw, 40)}")
    return text


def _value(kind: str, raw: bytes) -> str:
    match kind:
        case "integer" if len(raw) == 4:
            return str(struct.unpack("!I", raw)[0])
        case "ipaddr" if len(raw) == 4:
            return str(IPv4Address(raw))
        case "ipv6addr" if len(raw) == 16:
            return str(IPv6Address(raw))
        case "string":
            return _text(raw, limits.RADIUS_VALUE_B)
        case _:
            raise BadPacket(Fault.MALFORMED, f"a value of {len(raw)} bytes is no {kind}")
