"""What a program can ask RADIUS by way of the pool, and have it account for: frames, answers, and no I/O.

    authenticate   LOCAL_AUTHENTICATE                        is this the password of that identity?
    authorize      LOCAL_AUTHORIZE                           may that identity have this?
    account        LOCAL_ACCOUNT_START, UPDATE, END          bill that identity for this

Whom it is about is a TlsSession of the same pool, or an identity, which the pool is told first (LOCAL_SUBJECT).
"""

from __future__ import annotations

import secrets
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from libstub.errors import AccessRejected, Misuse, PoolError, ProtocolError
from tlspool_common.aaawire import (
    KEY_B,
    TAGS_AT_MOST,
    AccountCount,
    AccountKept,
    AccountStart,
    Authenticate,
    Authorize,
    Said,
    Subject,
    Tags,
    Verdict,
)
from tlspool_common.appwire import BadPayload, Cmd
from tlspool_common.errors import Code

if TYPE_CHECKING:
    from libstub.session import TlsSession

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Command:
    """A frame to send, and the command of its reply."""

    cmd: Cmd
    payload: bytes = field(repr=False)
    reply: Cmd


Talk = Generator[Command, bytes, T]
"""Yields what to send, is sent the payload of each reply, or thrown its error; and returns what came of it."""


@dataclass(frozen=True, slots=True)
class Access:
    """A RADIUS server accepts.  In place of an identity it stands for the same one, and what is billed has its Class.

    Attributes:
        message: what it says for people; often ''.
        tags: what it calls the identity (Filter-Id, TLSPool-Tag).
        session_timeout_s: how long that holds, 0 for ever: the program is to mind it.
        idle_timeout_s: how long a use of it may be idle, 0 for ever; likewise.
        key: what the pool knows the answer by, over this connection.
    """

    message: str = ""
    tags: tuple[str, ...] = ()
    session_timeout_s: int = 0
    idle_timeout_s: int = 0
    key: bytes = field(default=b"", repr=False, compare=False)


def authenticate(
    whom: str | TlsSession | Access, password: str | bytes, localid: str, service: str, timeout_s: float | None
) -> Talk[Access]:
    """Ask for a password."""
    secret = password.encode() if isinstance(password, str) else password
    key = yield from _subject(whom, localid, service)
    asked = Authenticate(key, secret, _ms(timeout_s))
    return (yield from _verdict(key, Cmd.LOCAL_AUTHENTICATE, _fitting(asked)))


def authorize(
    whom: str | TlsSession | Access, kind: str, instance: str, localid: str, service: str, timeout_s: float | None
) -> Talk[Access]:
    """Ask for a permission."""
    key = yield from _subject(whom, localid, service)
    asked = Authorize(key, kind, instance, _ms(timeout_s))
    return (yield from _verdict(key, Cmd.LOCAL_AUTHORIZE, _fitting(asked)))


def start(
    whom: str | TlsSession | Access,
    kind: str,
    instance: str,
    localid: str,
    service: str,
    at_s: float | None,
    *,
    resume: bool,
) -> Talk[str]:
    """Begin to account for something; return its Acct-Session-Id, or '' if it had begun before."""
    key = yield from _subject(whom, localid, service)
    asked = _fitting(AccountStart(key, kind, instance, _at_ms(at_s)))
    try:
        return (yield from _kept(Cmd.LOCAL_ACCOUNT_START, asked)).acct_id
    except PoolError as error:
        if resume and error.code == Code.ACCOUNT_EXISTS:
            return ""
        raise


def count(cmd: Cmd, kind: str, instance: str, items: int | None, at_s: float | None) -> Talk[AccountKept]:
    """Say how many there are, or were in the end."""
    if items is not None and not 0 <= items < 1 << 64:
        raise Misuse(f"a count of items has 64 bits: {items} does not fit")
    return (yield from _kept(cmd, _fitting(AccountCount(kind, instance, items, _at_ms(at_s)))))


def more_tags(key: bytes, tags: tuple[str, ...], total: int) -> Talk[tuple[str, ...]]:
    """Ask for the tags that are missing."""
    while len(tags) < total:
        if total > TAGS_AT_MOST:
            raise ProtocolError(f"the pool has {total} tags where at most {TAGS_AT_MOST} make sense")
        payload = yield Command(Cmd.LOCAL_TAGS, Tags(key, len(tags)).to_payload(), Cmd.LOCAL_TAGS)
        try:
            told = Tags.from_payload_untrusted(payload)
        except BadPayload as error:
            raise _malformed(error) from None
        if told.key != key or told.first != len(tags):
            raise ProtocolError("the pool told other tags than it was asked for")
        if not told.tags:
            break
        tags, total = (*tags, *told.tags), told.total
    return tags


def _subject(whom: str | TlsSession | Access, localid: str, service: str) -> Talk[bytes]:
    if not isinstance(whom, str):
        if localid or service:
            raise Misuse("a session, or an answer, has its localid and its service: give them with an identity only")
        return whom.key if isinstance(whom, Access) else whom.ctlkey
    key = secrets.token_bytes(KEY_B)
    yield Command(Cmd.LOCAL_SUBJECT, _fitting(Subject(key, whom, localid, service)), Cmd.SUCCESS)
    return key


def _verdict(key: bytes, cmd: Cmd, payload: bytes) -> Talk[Access]:
    answer = yield Command(cmd, payload, cmd)
    try:
        verdict = Verdict.from_payload_untrusted(answer)
    except BadPayload as error:
        raise _malformed(error) from None
    if verdict.key != key:
        raise ProtocolError("the pool answered another question")
    if verdict.said != Said.ACCEPTED:
        raise AccessRejected(verdict.message or "the RADIUS server refuses", int(Code.RADIUS_REJECTED))
    tags = yield from more_tags(key, verdict.tags, verdict.tags_total)
    return Access(verdict.message, tags, verdict.session_timeout_s, verdict.idle_timeout_s, key)


def _kept(cmd: Cmd, payload: bytes) -> Talk[AccountKept]:
    answer = yield Command(cmd, payload, cmd)
    try:
        return AccountKept.from_payload_untrusted(answer)
    except BadPayload as error:
        raise _malformed(error) from None


def _malformed(error: BadPayload) -> ProtocolError:
    return ProtocolError(f"the pool sent a malformed frame: {error}")


def _fitting(asked: Subject | Authenticate | Authorize | AccountStart | AccountCount) -> bytes:
    """Write a payload.

    Raises:
        Misuse: something does not fit.
    """
    try:
        return asked.to_payload()
    except BadPayload as error:
        raise Misuse(str(error)) from None


def _ms(timeout_s: float | None) -> int:
    if timeout_s is None:
        return 0
    if not 0.001 <= timeout_s <= 3600:
        raise Misuse(f"a timeout has between 1 ms and an hour: {timeout_s} s has not")
    return int(timeout_s * 1000)


def _at_ms(at_s: float | None) -> int:
    if at_s is None:
        return 0
    if not 0.001 <= at_s < 1 << 40:
        raise Misuse(f"a time is in seconds since 1970, as time.time() has it: {at_s} is not")
    return int(at_s * 1000)
