"""Fields of requests, read with the names and places that their errors tell."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Mapping

from tlspool_broker.edit import Edit
from tlspool_common import limits
from tlspool_common.control import PEER_UID
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai

Request = Mapping[str, object]
Answer = dict[str, object]
Work = Callable[[Edit], Answer]
"""What is left of a request that was found in order: to be done within a transaction."""

_AUTHOR = 100
"""Characters of a name that nobody but the reader of the history believes."""

_NUMBER_DIGITS = 18
"""Digits of the largest number that is read."""

_WANTED = object()


def bad(what: str) -> PoolError:
    """Return the error for a field."""
    return PoolError(Code.FIELD_MALFORMED, what)


def _at(request: Request, name: str, place: int | None) -> object:
    value = request.get(name)
    args = request.get("args")
    if value is None and place is not None and isinstance(args, list) and len(args) > place:
        return args[place]
    return value


def text(request: Request, name: str, place: int | None = None, default: str | None = None) -> str:
    """Return a text that is not empty."""
    value = _at(request, name, place)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not value:
        raise bad(f"{name} must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad(f"{name} must be Unicode") from None
    return value


def boolean(request: Request, name: str) -> bool:
    """Return a truth value, false by default."""
    value = request.get(name, False)
    if not isinstance(value, bool):
        raise bad(f"{name} must be true or false")
    return value


def number(request: Request, name: str, place: int | None = None, default: object = _WANTED) -> int | None:
    """Return a whole number that is not negative, or the default (None stays None)."""
    value = _at(request, name, place)
    if value is None and default is not _WANTED:
        value = default
        if value is None:
            return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _NUMBER_DIGITS:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**_NUMBER_DIGITS:
        raise bad(f"{name} must be a whole number")
    return value


def number_of(request: Request, name: str, place: int | None = None, default: object = _WANTED) -> int:
    """Return a whole number that is not negative."""
    value = number(request, name, place, default)
    if value is None:
        raise bad(f"{name} must be a whole number")
    return value


def time_s(request: Request, name: str) -> int:
    """Return a time that fits a record; 0 by default."""
    value = number_of(request, name, default=0)
    if value > 0xFFFFFFFF:
        raise bad(f"{name} must be seconds since 1970, before 2106")
    return value


def listed(request: Request, name: str, default: object = None) -> list[object]:
    """Return a list."""
    value = request.get(name, default)
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, list):
        raise bad(f"{name} must be a list")
    return value


def texts(items: list[object], name: str) -> list[str]:
    """Return the items of a list, all of which must be texts."""
    found = [item for item in items if isinstance(item, str)]
    if len(found) != len(items):
        raise bad(f"{name} must be a list of texts")
    return found


def words(request: Request, name: str, place: int | None = None, default: object = None) -> list[str]:
    """Return a list of words, or a text with commas as one."""
    value = request.get(name)
    if isinstance(value, list):
        return texts(value, name)
    args = request.get("args")
    if value is None and default is not None and not (place and isinstance(args, list) and len(args) > place):
        return []
    return [word for word in text(request, name, place).split(",") if word]


def binary(value: object, what: str = "certificates") -> bytes:
    """Return what base64 text stands for."""
    if not isinstance(value, str):
        raise bad(f"{what} must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"{what} must be base64 text") from None


def hexadecimal(digits: str, what: str = "the key") -> bytes:
    """Return what hexadecimal text stands for."""
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if not key:
        raise bad(f"{what} must be an even number of hexadecimal digits")
    return key


def raw(key: str) -> Donai:
    """Return an identity or selector whose key is exactly this text."""
    return Donai(None, key)


def author(request: Request) -> str:
    """Return whom a user says to act for; shortened, as nothing but the log and the history hears of it."""
    return "".join(one for one in str(request.get("author") or "")[:_AUTHOR] if one.isprintable())


def asker(request: Request) -> int:
    """Return the user that asks, by word of the kernel; ourselves where no kernel is between us."""
    uid = request.get(PEER_UID)
    return uid if isinstance(uid, int) else os.getuid()


def reason(request: Request) -> str:
    """Return why something is changed."""
    args = request.get("args")
    place = 1 if request.get("cmd") == "rollback" and isinstance(args, list) and len(args) > 1 else None
    value = text(request, "reason", place, "") if request.get("reason") != "" else ""
    if len(value.encode()) > limits.REASON_B or not value.isprintable():
        raise bad(f"reason must be one line of at most {limits.REASON_B} bytes")
    return value


def warned(answer: Answer, warnings: list[str]) -> Answer:
    """Return an answer with warnings, if there are any."""
    return {**answer, "warnings": warnings} if warnings else answer
