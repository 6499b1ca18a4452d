"""Where the broker writes down what applications account for, so that it is known after the broker was killed.

One small file for each item, in a directory beside the spool of records (`radius_spool_dir`), as it must last as long
as that: it is written whole or not at all.

XXX No fsync, which would hold up everybody: a machine that loses its power may forget the items of the last seconds.
Their start is in the helper's spool, which does wait for the disk; their end is then said by nobody.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tlspool_common.errors import Code, PoolError

DIRECTORY = "items"
_NEW = ".new"


class Shelf(Protocol):
    """Keeps bytes by name."""

    def load(self) -> dict[str, bytes]:
        """Return everything."""

    def put(self, name: str, content: bytes) -> None:
        """Keep something, in place of what has the name; raises PoolError ACCOUNT_UNKEPT."""

    def drop(self, name: str) -> None:
        """Keep it no longer."""


class InMemory:
    """A shelf that lasts no longer than the process, for where nothing is to come after it."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def load(self) -> dict[str, bytes]:
        """Return everything."""
        return dict(self.kept)

    def put(self, name: str, content: bytes) -> None:
        """Keep something."""
        self.kept[name] = content

    def drop(self, name: str) -> None:
        """Keep it no longer."""
        self.kept.pop(name, None)


class InDirectory:
    """A shelf that lasts as long as a directory; ours in it is made when something is to be kept for the first time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / DIRECTORY

    def load(self) -> dict[str, bytes]:
        """Return everything; what was being written when an earlier broker was killed is thrown away.

        Raises:
            PoolError: ACCOUNT_UNKEPT, the directory cannot be read.
        """
        found: dict[str, bytes] = {}
        try:
            for path in sorted(self._directory.iterdir()):
                if path.suffix == _NEW:
                    path.unlink()
                else:
                    found[path.name] = path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise PoolError(Code.ACCOUNT_UNKEPT, f"{self._directory}: {error.strerror}") from None
        return found

    def put(self, name: str, content: bytes) -> None:
        """Keep something, in place of what has the name.

        Raises:
            PoolError: ACCOUNT_UNKEPT, it cannot be written.
        """
        fresh = self._directory / (name + _NEW)
        try:
            with suppress(FileExistsError):
                self._directory.mkdir(mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
                file.write(content)
            fresh.replace(self._directory / name)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink()
            raise PoolError(Code.ACCOUNT_UNKEPT, f"{self._directory}: {error.strerror}") from None

    def drop(self, name: str) -> None:
        """Keep it no longer; one that cannot be removed is there again after a restart, and is ended again."""
        with suppress(OSError):
            (self._directory / name).unlink()
