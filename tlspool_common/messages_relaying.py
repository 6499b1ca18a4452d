"""Border messages about sessions that relay: what the broker asks a worker, and what the worker says of itself.

A part of the border table (messages.py).  A question has a ``question`` number of the broker's; its answer repeats
it.  A worker does not answer about a session that is over: SessionEnded says enough.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum
from typing import Annotated

from tlspool_common import limits
from tlspool_common.codec import U8, U16, U32, U64, Bits, Items
from tlspool_common.message import Message
from tlspool_common.record import named_record


class Fact(IntEnum):
    """What can be asked of the TLS of a session.  The remote's certificate is the one that it showed."""

    REMOTE_SUBJECT = 1  # DER Name (RFC 5280 section 4.1.2.6), as it stands in the certificate
    REMOTE_ISSUER = 2
    REMOTE_NAME = 3  # whether a DER GeneralName is, byte for byte, in its subjectAltName
    LOCAL_SUBJECT = 4
    LOCAL_ISSUER = 5
    LOCAL_NAME = 6
    TLS_UNIQUE = 7  # RFC 5929 section 3
    TLS_SERVER_END_POINT = 8  # RFC 5929 section 4
    TLS_EXPORTER = 9  # RFC 9266


class EndReason(IntEnum):
    """Why a session that was relaying has ended."""

    CLEAN = 1  # both directions closed in order
    TRUNCATED = 2  # remote closed TCP without close_notify (RFC 8446 section 6.1)
    REMOTE_RESET = 3  # remote reset the connection
    REMOTE_ALERT = 4  # remote sent a fatal alert, or a record that does not decrypt
    PLAIN_LOST = 5  # the plaintext descriptor failed
    ORDERED = 6  # the broker asked for it
    WORKER_LOST = 7  # said by the broker itself, of a worker that died


FactField = Annotated[Fact, Bits(8)]
Value = Annotated[bytes, limits.TOLD_B]


@named_record
class AskExport(Message):
    """Export keying material (RFC 5705, RFC 8446 section 7.5) with a label that the broker allows."""

    session_id: U64
    question: U32
    label: Value
    has_context: bool
    context: Value
    size_b: U16


@named_record
class AskFact(Message):
    """Tell a fact; ``name`` is the GeneralName to look for, and empty for other facts."""

    session_id: U64
    question: U32
    fact: FactField
    name: Value


@named_record
class Told(Message):
    """Answer AskExport or AskFact: ``code`` is 0, or why there is no ``value``."""

    session_id: U64
    question: U32
    code: U16
    value: Value = field(repr=False)


@named_record
class AskRemote(Message):
    """Server: ask the client once more who it is (RFC 8446 section 4.6.2), and verify what it shows.

    What it shows is judged by the anchors of ``trust_generation`` and ``remote_name`` as in StartSession.
    """

    session_id: U64
    question: U32
    trust_generation: U64
    sigalgs: Annotated[str, limits.POLICY_TEXT_B]
    remote_name: Annotated[str, limits.IDENTITY_B]
    domain_represents_user: bool


@named_record
class RemoteTold(Message):
    """Answer AskRemote.  ``asked`` false: it could not be asked, ``code`` says why, and nothing has changed.

    Otherwise the client has answered, and is from now on whom these facts name: nobody, when ``code`` is not 0
    or there is no certificate.
    """

    session_id: U64
    question: U32
    asked: bool
    code: U16
    detail: Annotated[str, limits.PROSE_B]
    remote_verified: bool
    remote_names: Annotated[tuple[str, ...], Items(limits.IDENTITY_NAMES, limits.IDENTITY_NAME_B)]
    remote_subject: Annotated[str, limits.SUBJECT_B]
    remote_sha256: Annotated[bytes, 32]


@named_record
class AskedByRemote(Message):
    """Client: the server wants to know who we are, after the handshake.

    The broker answers as in a handshake: with UseCredential for each credential that may be used, and Proceed.
    """

    session_id: U64


@named_record
class AskTraffic(Message):
    """How much has a session that relays moved so far?  Answered by Traffic."""

    session_id: U64


@named_record
class Traffic(Message):
    """How much it has; a record is one of TLS with data (RFC 8446 section 5.1).  ``idle_ms``: since the last byte."""

    session_id: U64
    from_remote_b: U64
    to_remote_b: U64
    from_remote_records: U64
    to_remote_records: U64
    idle_ms: U32


@named_record
class EndSession(Message):
    """Stop: in a handshake with this alert (255: none), in the relay with close_notify."""

    session_id: U64
    alert: U8


@named_record
class SessionEnded(Message):
    """A relaying session is over, or an EndSession was carried out.

    ``idle_ms``: how long before that the last byte went either way.
    """

    session_id: U64
    reason: Annotated[EndReason, Bits(8)]
    from_remote_b: U64
    to_remote_b: U64
    detail: Annotated[str, limits.PROSE_B]
    from_remote_records: U64 = 0
    to_remote_records: U64 = 0
    idle_ms: U32 = 0
