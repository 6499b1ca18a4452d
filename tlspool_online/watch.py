"""Files with revocation lists: read at the start, and again when they change.

A file that is being written is read too early now and then; what it held before counts until it can be read, and its
last change is seen when it is through.
"""

from __future__ import annotations

from pathlib import Path

from tlspool_online import bounds
from tlspool_online.events import FileFailed, FileRead
from tlspool_online.lists import BadList, read_file_untrusted

Look = tuple[int, int, int]
"""What shows that a file has changed: inode, time of the last change, size."""


class Watched:
    """One file, and what it looked like when it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: Look | str | None = "never"

    def changed(self) -> bool:
        """Whether it looks other than when it was read last."""
        return self._look() != self._seen

    def _look(self) -> Look | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> FileRead | FileFailed:
        """Read it."""
        self._seen = self._look()
        try:
            with self.path.open("rb") as file:
                data = file.read(bounds.FILE_B + 1)
            if len(data) > bounds.FILE_B:
                raise BadList(f"more than {bounds.FILE_B} bytes")
            return FileRead(str(self.path), read_file_untrusted(data))
        except OSError as error:
            return FileFailed(str(self.path), error.strerror or str(error))
        except BadList as error:
            return FileFailed(str(self.path), str(error))
