"""The file with shared secrets: one line for each server.

    # comment
    10.0.0.1         a secret that goes on to the end of the line
    10.0.0.1:1813    of this port only
    [2001:db8::1]:1812  ...
    radius.example   ...

A server is named as in ``radius_authn`` and the others; a line with its port comes before one without.  The file is a
regular one, of ours or root's, that only its owner can read; or a credential of the unit (systemd.exec(5),
LoadCredential=).  What is wrong with a line is told by its number: a line that cannot be read may have the secret where
it does not belong.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from tlspool_common import systemd

FILE_B = 256 * 1024
"""A file with secrets: a thousand lines of the longest."""

SECRET_B = 128
"""Longest secret that every server takes: FreeRADIUS has 128 bytes in clients' blocks of a database."""

SHORT_B = 8
"""A shorter one is warned of: RFC 2865 section 3 wants 16, and one that can be guessed is known to who listens."""

_OTHERS = 0o077
_WORLD = 0o007
"""systemd gives credentials to a service of another user by an ACL, which shows as permissions of the group."""

_BLANKS = re.compile(rb"[ \t]+")
_PORT = re.compile(r"[0-9]{1,5}")
_NO_NAME = re.compile(r"[0-9.]+|.*[:\[\]].*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")


class BadSecrets(Exception):
    """The file, or a line of it, cannot be used; the text says why, and has no secret in it."""


@dataclass(slots=True)
class Secrets:
    """Shared secrets by server; with port, and without (0)."""

    by_server: dict[tuple[str, int], bytes] = field(repr=False)
    short: tuple[str, ...] = ()

    def of(self, host: str, port: int = 0) -> bytes:
        """Return the secret of a server; b"" if there is none."""
        return self.by_server.get((host, port)) or self.by_server.get((host, 0)) or b""


def parse_untrusted(data: bytes) -> Secrets:
    """Read the lines.

    Raises:
        BadSecrets: which line is wrong, and how.
    """
    if len(data) > FILE_B:
        raise BadSecrets(f"has more than {FILE_B} bytes")
    found: dict[tuple[str, int], bytes] = {}
    short: list[str] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        text = line.strip(b" \t\r")
        if not text or text.startswith(b"#"):
            continue
        words = _BLANKS.split(text, maxsplit=1)
        if len(words) != 2:
            raise BadSecrets(f"line {number} must be SERVER SECRET")
        server, secret = _server(words[0], number), words[1]
        if len(secret) > SECRET_B:
            raise BadSecrets(f"line {number} has a secret of more than {SECRET_B} bytes")
        if b"\0" in secret:
            raise BadSecrets(f"line {number} has a NUL byte in it")
        if server in found:
            raise BadSecrets(f"line {number} has the server of an earlier line")
        found[server] = secret
        if len(secret) < SHORT_B:
            short.append(f"line {number}")
    return Secrets(found, tuple(short))


def _server(word: bytes, number: int) -> tuple[str, int]:
    """Read a server as the settings have it: address or name, with or without port."""
    try:
        text = word.decode("ascii")
    except UnicodeDecodeError:
        raise BadSecrets(f"line {number} does not begin with a server") from None
    host, port = text, 0
    before, colon, behind = text.rpartition(":")
    if colon and not text.endswith("]") and (":" not in before or before.endswith("]")):
        if not _PORT.fullmatch(behind) or not 0 < int(behind) < 65536:
            raise BadSecrets(f"line {number} has a port that is none from 1 to 65535")
        host, port = before, int(behind)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return _address(bare), port
    except ValueError:
        if _NO_NAME.fullmatch(host) or not _NAME.fullmatch(host):
            raise BadSecrets(f"line {number} does not begin with a server") from None
        return host.lower(), port


def _address(text: str) -> str:
    """Return an address in its usual form.

    Raises:
        ValueError: it is none.
    """
    if ":" in text:
        return str(ipaddress.IPv6Address(text))
    if text.strip("0123456789."):  # a name, mostly: not worth a try
        raise ValueError
    return str(ipaddress.IPv4Address(text))


def read(path: Path) -> Secrets:
    """Read the file.

    Raises:
        BadSecrets: it cannot be read, others can read it, or a line is wrong.
    """
    try:
        # O_NONBLOCK: a FIFO in its place must not stop us
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadSecrets(f"cannot be read: {error.strerror}") from None
    try:
        # What is judged is what is read, not what the path means a moment later.
        _judge(os.fstat(fd), _WORLD if systemd.is_credential(path) else _OTHERS)
        with open(fd, "rb", closefd=False) as file:
            return parse_untrusted(file.read(FILE_B + 1))
    except OSError as error:
        raise BadSecrets(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(fd)


def _judge(found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise BadSecrets("must be a regular file")
    if found.st_uid not in (os.geteuid(), 0):
        raise BadSecrets(f"belongs to user {found.st_uid}: chown it to the broker's user")
    if found.st_mode & forbidden:
        raise BadSecrets(f"can be read by others, with mode {stat.S_IMODE(found.st_mode):04o}: chmod 0600")
