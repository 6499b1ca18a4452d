"""Border messages between the broker and the helper that speaks RADIUS.

A part of the border table (messages.py).  The broker decides whom to ask about what; the helper (tlspool_radius) knows
servers and secrets, and keeps what is to be accounted for.  docs/radius.md has the story.

An attribute travels as ``Name=value``; names are those of radius_table.py, values are text, numbers or words of it.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum
from typing import Annotated

from tlspool_common import limits
from tlspool_common.codec import U8, U16, U32, U64, Bits, Items
from tlspool_common.message import Message
from tlspool_common.record import named_record

Attributes = Annotated[tuple[str, ...], Items(limits.RADIUS_ATTRIBUTES, limits.RADIUS_ATTRIBUTE_B)]
Classes = Annotated[tuple[bytes, ...], Items(limits.RADIUS_CLASSES, limits.RADIUS_VALUE_B)]
Tags = Annotated[tuple[str, ...], Items(limits.RADIUS_TAGS, limits.RADIUS_VALUE_B)]
AcctId = Annotated[str, limits.RADIUS_ACCT_ID_B]
Detail = Annotated[str, limits.PROSE_B]


class Purpose(IntEnum):
    """Which servers are asked."""

    AUTHENTICATE = 1
    AUTHORIZE = 2


class Access(IntEnum):
    """What a server has said."""

    ACCEPTED = 1
    REJECTED = 2
    UNANSWERED = 3  # nobody has, in time, with the right authenticators
    UNASKED = 4  # the question cannot be asked: an attribute does not fit, or there is no such server


class Status(IntEnum):
    """What an accounting record says (RFC 2866 section 5.1)."""

    START = 1
    STOP = 2
    INTERIM = 3


class Dynamic(IntEnum):
    """What a request of RFC 5176 asks for."""

    DISCONNECT = 1
    CHANGE = 2


@named_record
class RadiusHello(Message):
    """The helper that speaks RADIUS introduces itself: its spool is open, records of earlier ones are on their way."""

    protocol: U16
    pid: U32


@named_record
class AskAccess(Message):
    """May this remote be let in?  Answered by AccessTold, within ``deadline_ms``.

    ``password`` is empty, or what an application was shown; a question without one is about who has proved it by TLS.
    ``state`` is that of the answer that asked for another question (Termination-Action, RFC 2865 section 5.29).
    """

    purpose: Annotated[Purpose, Bits(8)]
    attributes: Attributes
    state: Annotated[bytes, limits.RADIUS_VALUE_B]
    deadline_ms: U32
    password: Annotated[bytes, limits.RADIUS_PASSWORD_B] = field(repr=False)


@named_record
class AccessTold(Message):
    """What was said.  Texts are printable; times are 0 where the server sets none.

    ``message``: Reply-Message attributes, joined by spaces.  ``server``: ADDRESS:PORT that answered, or was asked last.
    ``terminate``: 0 the session ends with its timeout, 1 it is asked about again (Termination-Action).
    """

    access: Annotated[Access, Bits(8)]
    detail: Detail
    message: Annotated[str, limits.RADIUS_MESSAGE_B]
    user_name: Annotated[str, limits.RADIUS_VALUE_B]
    classes: Classes
    tags: Tags
    state: Annotated[bytes, limits.RADIUS_VALUE_B]
    session_timeout_s: U32
    idle_timeout_s: U32
    interim_s: U32
    terminate: U8
    server: Annotated[str, limits.RADIUS_SERVER_B]
    elapsed_ms: U32


@named_record
class Account(Message):
    """Keep this record, and send it when its turn comes.  Answered by Accounted once it is on the disk.

    A START of an ``acct_id`` that is known already changes nothing: a broker that is started anew says it of all
    sessions that it has found.  INTERIM and STOP of one that is not open are taken with what they say.
    ``at_ms``: the event, since 1970.  ``attributes`` are all but those that have fields.
    """

    status: Annotated[Status, Bits(8)]
    acct_id: AcctId
    at_ms: U64
    attributes: Attributes
    classes: Classes
    from_remote_b: U64
    to_remote_b: U64
    from_remote_records: U64
    to_remote_records: U64
    session_s: U32
    items: U64
    has_items: bool
    cause: U8


@named_record
class Accounted(Message):
    """``code`` 0: the record will be sent, whatever happens; else why it is not kept."""

    code: U16
    detail: Detail


@named_record
class AccountSettled(Message):
    """Every session that relays has been named, by an Account START, since this helper began.

    What is open besides them, and is a session, has ended while nobody looked: a STOP is sent with its last figures.
    """

    at_ms: U64


@named_record
class AskRadius(Message):
    """How are the servers, and what waits?  Answered by RadiusTold.

    ``after`` and ``count``: that many waiting records behind that number are listed.  ``retry``: forget that servers
    were dead, and send what waits now.
    """

    after: U64
    count: U16
    retry: bool


@named_record
class RadiusTold(Message):
    """Servers and waiting records, one line of key=value words each (log.py); numbers since the helper's start."""

    waiting: U64
    oldest_s: U32
    open: U64
    sent: U64
    refused: U64
    servers: Annotated[tuple[str, ...], Items(limits.RADIUS_SERVERS, limits.RADIUS_LINE_B)]
    records: Annotated[tuple[str, ...], Items(limits.RADIUS_LISTED, limits.RADIUS_LINE_B)]


@named_record
class DynamicAsked(Message):
    """A server wants sessions ended or changed.  Answered by DynamicTold.

    A session is meant that has all of what is not empty: Acct-Session-Id, User-Name, and ``attributes``.
    ``changes``: a bit set of which of the three is to be changed: 1 session timeout, 2 idle timeout, 4 tags.
    """

    dynamic: Annotated[Dynamic, Bits(8)]
    server: Annotated[str, limits.RADIUS_SERVER_B]
    acct_id: AcctId
    attributes: Attributes
    changes: U8
    session_timeout_s: U32
    idle_timeout_s: U32
    tags: Tags


@named_record
class DynamicTold(Message):
    """How many sessions it was done to; if none, why: Error-Cause of RFC 5176 section 3.5, as 503: none found."""

    sessions: U16
    error_cause: U16
