"""Names of users, for people and for RADIUS servers; nothing is decided by them.

They are those of /etc/passwd.  Who is only known to a directory service is told by number: asking one may take seconds,
and the broker waits for nobody.
"""

from __future__ import annotations

from pathlib import Path

_PASSWD = Path("/etc/passwd")


class UserNames:
    """The names, read again when the file changes."""

    def __init__(self, path: Path = _PASSWD) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[int, str] = {}

    def __call__(self, uid: int) -> str:
        """Return the name of a user, or the number."""
        try:
            found = self._path.stat()
            seen = found.st_mtime_ns, found.st_size, found.st_ino
            if seen != self._seen:
                self._names = dict(_names_in(self._path.read_bytes()))
                self._seen = seen
        except OSError:
            pass  # what was read last is as good as anything
        return self._names.get(uid, str(uid))


def _names_in(content: bytes) -> list[tuple[int, str]]:
    """Return numbers and names (passwd(5)); of two names for a number the first comes last, and so counts."""
    found = []
    for line in content.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split(":")[1:2]
        if name.isprintable() and number and number[0].isascii() and number[0].isdigit() and len(number[0]) < 11:
            found.append((int(number[0]), name))
    return found[::-1]
