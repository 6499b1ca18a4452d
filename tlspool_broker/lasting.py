"""What outlives the broker on its side: the secret that seals what workers keep for it, and the numbers of sessions.

Both are files of the private directory, which nobody else can read.  A session's number is never given twice, so
numbers are reserved in blocks before the first of a block is used; those that were reserved and not used are lost.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tlspool_common.errors import Code, PoolError

BLOCK = 1000
"""Numbers reserved at a time: one small file is written for so many sessions, and so many are lost by a restart."""

_SECRET_B = 32
_SECRET, _NUMBERS = "session-secret", "session-numbers"
_MOST = 1 << 62
"""A number beyond it was not written by us; at a million sessions a second we get there in 146 000 years."""

Reserve = Callable[[], int]
"""Reserve BLOCK numbers, and return the first of them."""


class Lasting:
    """The secret and the numbers.  Does no I/O but by ``reserve``."""

    def __init__(self, secret: bytes, reserve: Reserve) -> None:
        self._secret = secret
        self._reserve = reserve
        self._next = reserve()
        self._end = self._next + BLOCK
        self.first = self._next

    def key(self, purpose: str) -> bytes:
        """Return a key of its own for a purpose."""
        return hmac.digest(self._secret, purpose.encode(), hashlib.sha256)

    def number(self) -> int:
        """Return a number that no session has had."""
        if self._next == self._end:
            self._next = self._reserve()
            self._end = self._next + BLOCK
        self._next += 1
        return self._next - 1


def in_memory(random_bytes: Callable[[int], bytes]) -> Lasting:
    """Return what lasts no longer than the process, for where nothing is to come after it."""
    blocks = iter(range(1, _MOST, BLOCK))
    return Lasting(random_bytes(_SECRET_B), lambda: next(blocks))


def in_directory(directory: Path) -> Lasting:
    """Return what lasts as long as a directory does, which is ours alone.

    Raises:
        PoolError: SETTING_INVALID, its files cannot be read, written or understood.
    """
    try:
        secret = _secret(directory / _SECRET)
        return Lasting(secret, lambda: _reserve(directory / _NUMBERS))
    except OSError as error:
        raise PoolError(Code.SETTING_INVALID, f"{directory}: {error.strerror}") from None


def _secret(path: Path) -> bytes:
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = b""
    if len(found) == _SECRET_B:
        return found
    # What was sealed with one that is lost cannot be opened any more: those workers are let go.
    made = secrets.token_bytes(_SECRET_B)
    _replace(path, made)
    return made


def _reserve(path: Path) -> int:
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        text = "1"
    except UnicodeDecodeError:
        text = ""
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) < _MOST:
        raise PoolError(
            Code.SETTING_INVALID,
            f"{path} does not hold a number; write into it one that is higher than any session's in the log",
        )
    first = int(text)
    _replace(path, str(first + BLOCK).encode())
    return first


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.  No fsync: when the machine goes down, so do the sessions."""
    fresh = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(content)
    fresh.replace(path)
