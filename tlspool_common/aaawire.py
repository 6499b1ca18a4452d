"""The application's AAA on the application socket: layouts of the commands that RADIUS stands behind.

docs/protocol.md tells what they say.  Frames and commands are in appwire.py.

A question, or a start of accounting, has a ``key``: the control key of a session that this connection controls, whose
remote is meant; or 16 bytes that a Subject named before, on the same connection.  An item that is accounted for is
known by its user, its kind and its instance from then on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import field
from enum import IntEnum
from typing import ClassVar

from tlspool_common import limits
from tlspool_common.appwire import CTLKEY_B, BadPayload, text_field, text_untrusted
from tlspool_common.record import record

KEY_B = CTLKEY_B
IDENTITY_B = 128
KIND_B, INSTANCE_B = 64, 128
PASSWORD_B = limits.RADIUS_PASSWORD_B
MESSAGE_B = 128

TAGS_AT_MOST = 256
"""Of one identity: a pool has some dozen; this is where whoever reads them stops to ask for more."""

AT_MOST_MS = (1 << 53) - 1
"""The latest time of an event: in the year 287396, and exact in languages whose only numbers are doubles."""


class Said(IntEnum):
    """What a server has said of whom it was asked about."""

    ACCEPTED = 1
    REJECTED = 2


_SAID = frozenset(Said)


def _key(key: bytes) -> bytes:
    if len(key) != KEY_B:
        raise BadPayload(f"key has {len(key)} bytes, not {KEY_B}")
    return key


def _printable(name: str, text: str) -> str:
    if not text.isprintable():
        raise BadPayload(f"{name} has characters that cannot be printed")
    return text


def _what(kind: str, instance: str) -> tuple[str, str]:
    """Check what is accounted for, either way."""
    if not kind:
        raise BadPayload("kind is empty: say what is accounted for")
    return _printable("kind", kind), _printable("instance", instance)


def _texts(texts: Sequence[str], size_b: int) -> tuple[int, bytes]:
    """Return how many texts fit, and these, each with a NUL behind it."""
    data = b""
    for count, text in enumerate(texts):
        more = text.encode() + b"\0"
        if len(data) + len(more) > size_b:
            return count, data
        data += more
    return len(texts), data


def _texts_untrusted(count: int, data: bytes) -> tuple[str, ...]:
    *whole, rest = data.split(b"\0", count)
    found = tuple([text_untrusted("tags", each + b"\0") if each else "" for each in whole])
    if len(found) < count:
        text_untrusted("tags", rest)  # it has no NUL
    return found


@record
class Subject:
    """LOCAL_SUBJECT: who is meant by the next command with this key, on this connection.  Answered by SUCCESS.

    ``remoteid`` is whom it is about; ``localid`` and ``service``, which may be empty, what is used of ours.
    """

    key: bytes = field(repr=False)
    remoteid: str
    localid: str = ""
    service: str = ""

    FORM: ClassVar[struct.Struct] = struct.Struct("=16s128s128s16s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        return self.FORM.pack(
            _key(self.key),
            text_field("remoteid", self.remoteid, IDENTITY_B),
            text_field("localid", self.localid, IDENTITY_B),
            text_field("service", self.service, 16),
        )

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Subject:
        """Read the payload; raises BadPayload."""
        key, remoteid, localid, service = cls.FORM.unpack_from(payload)
        return cls(
            key,
            text_untrusted("remoteid", remoteid),
            text_untrusted("localid", localid),
            text_untrusted("service", service),
        )


@record
class Authenticate:
    """LOCAL_AUTHENTICATE: is this the password of the remote?  ``timeout_ms`` 0: as long as the pool waits at most."""

    key: bytes = field(repr=False)
    password_secret: bytes = field(repr=False)
    timeout_ms: int = 0

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sIH128s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        password = self.password_secret
        if not 1 <= len(password) <= PASSWORD_B:
            raise BadPayload(f"a password has 1 to {PASSWORD_B} bytes")
        return self.FORM.pack(_key(self.key), self.timeout_ms, len(password), password)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Authenticate:
        """Read the payload; raises BadPayload, which does not show the password."""
        key, timeout_ms, size, password = cls.FORM.unpack_from(payload)
        if not 1 <= size <= PASSWORD_B:
            raise BadPayload(f"password announces {size} bytes where 1 to {PASSWORD_B} fit")
        return cls(key, password[:size], timeout_ms)


@record
class Authorize:
    """LOCAL_AUTHORIZE: may the remote, which has proved who it is, have this?  Both texts may be empty."""

    key: bytes = field(repr=False)
    kind: str = ""
    instance: str = ""
    timeout_ms: int = 0

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sI64s128s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        return self.FORM.pack(
            _key(self.key),
            self.timeout_ms,
            text_field("kind", _printable("kind", self.kind), KIND_B),
            text_field("instance", _printable("instance", self.instance), INSTANCE_B),
        )

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Authorize:
        """Read the payload; raises BadPayload."""
        key, timeout_ms, kind, instance = cls.FORM.unpack_from(payload)
        return cls(
            key,
            _printable("kind", text_untrusted("kind", kind)),
            _printable("instance", text_untrusted("instance", instance)),
            timeout_ms,
        )


@record
class Verdict:
    """The reply to both questions.

    ``message`` is what the server says for people, cut to fit.  ``tags`` are the first of ``tags_total``: if there are
    more, LOCAL_TAGS with the key of the question tells them.  Times are 0 where the server sets none.
    """

    key: bytes = field(repr=False)
    said: int
    message: str = ""
    tags: tuple[str, ...] = ()
    tags_total: int = 0
    session_timeout_s: int = 0
    idle_timeout_s: int = 0

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sBxHHII128s220s")
    TAGS_B: ClassVar[int] = 220

    @classmethod
    def of(cls, key: bytes, said: Said, message: str, tags: Sequence[str], session_s: int, idle_s: int) -> Verdict:
        """Make a verdict with as much of message and tags as fits."""
        cut = message.replace("\0", " ").encode()[: MESSAGE_B - 1].decode("utf-8", "ignore")
        count, _ = _texts(tags, cls.TAGS_B)
        return cls(key, said, cut, tuple(tags[:count]), len(tags), session_s, idle_s)

    def to_payload(self) -> bytes:
        """Write the payload."""
        count, data = _texts(self.tags, self.TAGS_B)
        if count < len(self.tags):
            raise BadPayload(f"of {len(self.tags)} tags {count} fit")
        return self.FORM.pack(
            _key(self.key),
            self.said,
            self.tags_total,
            count,
            self.session_timeout_s,
            self.idle_timeout_s,
            text_field("message", self.message, MESSAGE_B),
            data,
        )

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Verdict:
        """Read the payload; raises BadPayload."""
        key, said, total, count, session_s, idle_s, message, tags = cls.FORM.unpack_from(payload)
        if said not in _SAID:
            raise BadPayload(f"verdict {said} is none")
        if count > total:
            raise BadPayload(f"there are {count} tags of {total}")
        return cls(
            key, said, text_untrusted("message", message), _texts_untrusted(count, tags), total, session_s, idle_s
        )


@record
class Tags:
    """LOCAL_TAGS: tags of a session's remote, or of a verdict, from the one with number ``first`` on.

    Answered by the same; in the request only ``key`` and ``first`` count.
    """

    key: bytes = field(repr=False)
    first: int = 0
    total: int = 0
    tags: tuple[str, ...] = ()

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sHHH352s")
    TAGS_B: ClassVar[int] = 352

    @classmethod
    def of(cls, key: bytes, first: int, tags: Sequence[str]) -> Tags:
        """Make a reply with as many as fit."""
        count, _ = _texts(tags[first:], cls.TAGS_B)
        return cls(key, first, len(tags), tuple(tags[first : first + count]))

    def to_payload(self) -> bytes:
        """Write the payload."""
        count, data = _texts(self.tags, self.TAGS_B)
        if count < len(self.tags):
            raise BadPayload(f"of {len(self.tags)} tags {count} fit")
        return self.FORM.pack(_key(self.key), self.first, self.total, count, data)

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> Tags:
        """Read the payload; raises BadPayload."""
        key, first, total, count, data = cls.FORM.unpack_from(payload)
        if first + count > total and count:
            raise BadPayload(f"there are {count} tags behind {first} of {total}")
        return cls(key, first, total, _texts_untrusted(count, data))


@record
class AccountStart:
    """LOCAL_ACCOUNT_START: something begins that the remote is to be billed for.  Answered by AccountKept.

    ``at_ms``: when, in milliseconds since 1970; 0 is now.
    """

    key: bytes = field(repr=False)
    kind: str
    instance: str = ""
    at_ms: int = 0

    FORM: ClassVar[struct.Struct] = struct.Struct("=16sQ64s128s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        kind, instance = _what(self.kind, self.instance)
        return self.FORM.pack(
            _key(self.key), self.at_ms, text_field("kind", kind, KIND_B), text_field("instance", instance, INSTANCE_B)
        )

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> AccountStart:
        """Read the payload; raises BadPayload."""
        key, at_ms, kind, instance = cls.FORM.unpack_from(payload)
        return cls(key, *_what(text_untrusted("kind", kind), text_untrusted("instance", instance)), _time(at_ms))


@record
class AccountCount:
    """LOCAL_ACCOUNT_UPDATE and LOCAL_ACCOUNT_END: so many items by now.  Answered by AccountKept.

    ``items`` None: how many is not said, and the last word counts.
    """

    kind: str
    instance: str = ""
    items: int | None = None
    at_ms: int = 0

    FORM: ClassVar[struct.Struct] = struct.Struct("=QQBx64s128s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        kind, instance = _what(self.kind, self.instance)
        return self.FORM.pack(
            self.at_ms,
            self.items or 0,
            self.items is not None,
            text_field("kind", kind, KIND_B),
            text_field("instance", instance, INSTANCE_B),
        )

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> AccountCount:
        """Read the payload; raises BadPayload."""
        at_ms, items, has_items, kind, instance = cls.FORM.unpack_from(payload)
        what = _what(text_untrusted("kind", kind), text_untrusted("instance", instance))
        return cls(*what, items if has_items else None, _time(at_ms))


def _time(at_ms: int) -> int:
    if at_ms > AT_MOST_MS:
        raise BadPayload("at is no time in milliseconds since 1970")
    return at_ms


@record
class AccountKept:
    """The reply: what was said is on the disk, and reaches the server whatever happens.

    ``acct_id``: Acct-Session-Id of the item.  ``at_ms``: the time that counts.
    """

    at_ms: int
    acct_id: str

    FORM: ClassVar[struct.Struct] = struct.Struct("=Q65s")

    def to_payload(self) -> bytes:
        """Write the payload."""
        return self.FORM.pack(self.at_ms, text_field("acct_id", self.acct_id, limits.RADIUS_ACCT_ID_B + 1))

    @classmethod
    def from_payload_untrusted(cls, payload: bytes) -> AccountKept:
        """Read the payload; raises BadPayload."""
        at_ms, acct_id = cls.FORM.unpack_from(payload)
        return cls(at_ms, text_untrusted("acct_id", acct_id))
