"""The audit trail of one daemon as files, which are only ever appended to.

    DIR/broker-000001.jsonl  broker-000002.jsonl ...        a new file for each day (UTC), and when one is full

``append`` puts a line into the kernel before it returns; what must not happen unrecorded happens after that.  Whether
the line is on the disk, ``flush`` sees to, at intervals and in a thread: it takes as long as the disk likes.

When a line cannot be written (disk full, no permission, the file was removed) the trail is *lost*: ``append`` says
no, counts what was missed, and tries again at most once a second, so that it recovers without a restart.  The
first record then is ``audit.recovered``.  Everything that is found at the end of the newest file and is no whole
record stays there, and is accounted for in that record, too (audit.py).

One process writes a trail: it holds a lock of the newest file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from tlspool_common import audit
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Value

FILE_B = 64 * 1024 * 1024
"""Of one file: some 100 000 records, which an editor still opens."""

RETRY_S = 1.0
"""Between attempts to get at a trail that is lost."""

_SCAN_B = 1024 * 1024
"""Of the end of a file, to find the last record: more than any crash leaves behind."""

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_MODE = 0o640

Clock = Callable[[], float]


class _Unfit(OSError):
    """The trail cannot be written, and no system call says so."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EIO, text)


def files(directory: Path, daemon: str) -> list[Path]:
    """Return the files of a daemon's trail, oldest first.

    Raises:
        OSError: the directory cannot be read.
    """
    name = re.compile(rf"{re.escape(daemon)}-(\d{{6,12}})\.jsonl", re.ASCII)
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


class Trail:
    """The newest end of a trail.  Nothing here raises OSError: a trail is lost, or it is not."""

    def __init__(
        self,
        directory: Path,
        daemon: str,
        unix_time_s: Clock,
        file_b: int = FILE_B,
        retry_s: float = RETRY_S,
    ) -> None:
        self._directory = directory
        self._daemon = daemon
        self._unix_time_s = unix_time_s
        self._file_b = file_b
        self._retry_s = retry_s
        self._head: audit.Head | None = None
        self._fd: OwnedFd | None = None
        self._former: list[OwnedFd] = []  # files that are over, and not on the disk yet
        self._path: Path | None = None
        self._size_b = 0
        self._day = ""
        self._dirty = False
        self._next_try_s = 0.0
        self.lost = ""
        self.missed = 0
        self.missed_in_all = 0
        self.written = 0
        self._try()

    @property
    def head(self) -> audit.Head | None:
        """The newest record; None: it was never found out."""
        return self._head

    @property
    def path(self) -> Path | None:
        """The newest file."""
        return self._path

    def append(self, event: str, fields: Mapping[str, Value]) -> bool:
        """Write a record; False: the trail is lost, and this fact is missing from it.

        Raises:
            ValueError: a field is named as a secret, or holds something that is no plain value.
        """
        if self.ready():
            try:
                now = audit.stamp(self._unix_time_s())
                if self._size_b >= self._file_b or now[:10] != self._day:
                    self._next_file("size" if self._size_b >= self._file_b else "day")
                self._write(now, event, fields)
            except OSError as error:
                self._lose(error)
            else:
                return True
        self.missed += 1
        self.missed_in_all += 1
        return False

    def ready(self) -> bool:
        """Whether the trail can be written, as far as one knows; one that is lost is tried now and then."""
        if self._fd is None and time.monotonic() >= self._next_try_s:
            self._try()
        return self._fd is not None

    def look(self) -> None:
        """See whether the newest file is still where it was: somebody may have moved or removed it."""
        if self._fd is None or self._path is None:
            return
        try:
            there, ours = self._path.lstat(), os.fstat(self._fd.fileno())
            if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
                raise _Unfit(f"{self._path} was replaced")
            if there.st_size != self._size_b:
                raise _Unfit(f"{self._path} was changed")
        except OSError as error:
            self._lose(error)

    def flush(self) -> Callable[[], None] | None:
        """Return what puts everything so far onto the disk, to be called once, in a thread; None: it is there already.

        Calling it raises OSError: the disk refuses; say so with ``fail``.
        """
        if not self._dirty:
            return None
        copies, self._former = self._former, []
        try:
            if self._fd is not None:
                copies.append(OwnedFd(os.dup(self._fd.fileno())))
        except OSError:
            self._former = copies  # no descriptor is left; there will be
            return None
        self._dirty = False

        def sync() -> None:
            with ExitStack() as stack:
                for copy in copies:
                    stack.enter_context(copy)
                for copy in copies:
                    os.fsync(copy.fileno())

        return sync

    def fail(self, error: OSError) -> None:
        """The disk refused what the kernel had taken."""
        self._lose(error)

    def close(self) -> None:
        """Put everything onto the disk and let go of the file."""
        if (sync := self.flush()) is not None:
            try:
                sync()
            except OSError as error:
                self._lose(error)
        self._let_go()
        for fd in self._former:
            fd.close()
        self._former = []

    # --- writing --------------------------------------------------------------------------------------

    def _write(self, now: str, event: str, fields: Mapping[str, Value]) -> None:
        if self._fd is None or self._head is None:
            raise _Unfit("no file is open")
        fd = self._fd.fileno()
        if not os.fstat(fd).st_nlink:
            raise _Unfit(f"{self._path} was removed")
        data, head = audit.line(self._head, now, self._daemon, event, fields)
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._head = head
        self._size_b += len(data)
        self._dirty = True
        self.written += 1

    def _lose(self, error: OSError) -> None:
        self.lost = error.strerror or str(error)
        if error.filename:
            self.lost = f"{error.filename}: {self.lost}"
        self._next_try_s = time.monotonic() + self._retry_s
        self._let_go()

    def _let_go(self) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd.fileno(), fcntl.LOCK_UN)  # also of its copy, which may be in a thread for long
            self._fd.close()
            self._fd = None

    # --- opening --------------------------------------------------------------------------------------

    def _try(self) -> None:
        """Get at the end of the trail."""
        was = self.lost
        try:
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            found = self._open()
            if found or was or self.missed:
                why = was or "the daemon was killed while it wrote"
                now = audit.stamp(self._unix_time_s())
                self._write(now, audit.RECOVERED, {"why": why, "missed": self.missed, **found})
        except OSError as error:
            self._lose(error)
        else:
            self.lost, self.missed = "", 0

    def _open(self) -> dict[str, Value]:
        """Open the newest file at its end, or begin one; return what is to be said of what was there."""
        existing = files(self._directory, self._daemon)
        newest = _number(existing[-1]) if existing else 0
        ours = _number(self._path) if self._path is not None else 0
        if not existing or newest < ours:
            self._begin(ours + 1)
            return {}
        fd, record, lost = self._end_of(existing[-1])
        if record is not None:
            last = record.head
        else:  # its first record could not be written
            last = next((one.head for path in reversed(existing[:-1]) if (one := self._peek(path))), audit.EMPTY)
        if self._head is not None and last != self._head:
            # Ours was changed, or moved away with another in its place.  Whoever verifies is to find that.
            fd.close()
            self._begin(newest + 1)
            return {"found": str(last)}
        self._take(fd, existing[-1], os.fstat(fd.fileno()).st_size, last)
        self._day = (record.time if record is not None else audit.stamp(self._unix_time_s()))[:10]
        if not lost.count_b:
            return {}
        return self._end_line(fd, lost)

    def _end_line(self, fd: OwnedFd, lost: audit.Lost) -> dict[str, Value]:
        """Let what was found behind the last record be no record for ever; return what is to be said of it."""
        end = b"" if lost.ends_line else b"\n"
        try:
            audit.record_untrusted(lost.end + end)
        except audit.BadRecord:
            pass
        else:  # all of a record but its end was written: what it speaks of did not happen
            lost.add(b"?")
            end = b"?\n"
        if os.write(fd.fileno(), end) != len(end):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size_b += len(end)
        return lost.fields()

    def _end_of(self, path: Path) -> tuple[OwnedFd, audit.Record | None, audit.Lost]:
        """Open a file and lock it; return its last record and what is behind that."""
        fd = OwnedFd(os.open(path, _FLAGS & ~os.O_WRONLY | os.O_RDWR))
        try:
            self._hold(fd, path)
            return fd, *_last(fd, path)
        except OSError:
            fd.close()
            raise

    def _peek(self, path: Path) -> audit.Record | None:
        fd, last, _ = self._end_of(path)
        fd.close()
        return last

    def _begin(self, number: int) -> None:
        """Begin a file."""
        path = self._directory / f"{self._daemon}-{number:06d}.jsonl"
        fd = OwnedFd(os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE))
        try:
            self._hold(fd, path)
            os.fchmod(fd.fileno(), _MODE)  # the process's mask is for its secrets
        except OSError:
            fd.close()
            raise
        self._take(fd, path, 0, self._head or audit.EMPTY)
        self._day = audit.stamp(self._unix_time_s())[:10]

    def _next_file(self, reason: str) -> None:
        """Begin the next file; its first record has the hash of the last one of this file."""
        if self._path is None or self._fd is None:
            raise _Unfit("no file is open")
        # XXX The file before is put onto the disk a moment later, in a thread.  A loss of power in that moment may take
        # its end and not the new file, which then looks as if somebody had cut it.
        self._begin(_number(self._path) + 1)
        self._write(audit.stamp(self._unix_time_s()), "audit.file", {"reason": reason})

    def _take(self, fd: OwnedFd, path: Path, size_b: int, head: audit.Head) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd.fileno(), fcntl.LOCK_UN)
            self._former.append(self._fd)
        self._fd, self._path, self._size_b, self._head = fd, path, size_b, head

    @staticmethod
    def _hold(fd: OwnedFd, path: Path) -> None:
        found = os.fstat(fd.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise _Unfit(f"{path} is no file")
        if found.st_uid != os.geteuid():  # the other daemon writes to this directory, too, and must not write our trail
            raise _Unfit(f"{path} belongs to user {found.st_uid}; see who made it, and move it away")
        try:
            fcntl.flock(fd.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _Unfit(f"another process writes {path}") from None


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _last(fd: OwnedFd, path: Path) -> tuple[audit.Record | None, audit.Lost]:
    """Return the last record of a file, and the bytes behind it.

    Raises:
        OSError: there is none as far as one looks, but there are bytes before that.
    """
    size_b = os.fstat(fd.fileno()).st_size
    start = max(0, size_b - _SCAN_B)
    data = os.pread(fd.fileno(), _SCAN_B, start)
    lost = audit.Lost()
    end = len(data)
    while (stop := data.rfind(b"\n", 0, end)) >= 0:
        begin = data.rfind(b"\n", 0, stop) + 1
        try:
            record = audit.record_untrusted(data[begin : stop + 1])
        except audit.BadRecord:
            end = stop
            continue
        lost.add(data[stop + 1 :])
        return record, lost
    if start:
        raise _Unfit(f"{path} has no record in its last {_SCAN_B} bytes; move it away, and verify what is left")
    lost.add(data)
    return None, lost
