"""The thread that has the spool: it takes what waits, all at once, and tells what became of it.

Jobs come in by ``put`` from the loop, and what became of them goes back to it as events.  While a transaction is being
written the next jobs gather, so the more there are the more of them one write to the disk is for.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tlspool_common.errors import Code
from tlspool_radius import bounds
from tlspool_radius.events import (
    Event,
    Keep,
    Kept,
    ListSpool,
    Load,
    OpenSpool,
    Remove,
    SpoolFailed,
    SpoolKept,
    SpoolListed,
    SpoolLoaded,
    SpoolOpened,
)
from tlspool_radius.spool import Spool, SpoolError

Job = Keep | Remove | Load | ListSpool | OpenSpool

_LOST = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")
"""Errors after which the file is opened anew: it is not what it was."""


class Spooler:
    """A spool, by way of a thread.  ``tell`` is called there with events; it passes them on to the loop."""

    def __init__(self, directory: Path, most: int, tell: Callable[[Event], None]) -> None:
        self._directory = directory
        self._most = most
        self._tell = tell
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._spool: Spool | None = None
        self._tidied_s = 0.0
        self._unremoved: list[str] = []
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        """Begin; nothing is opened yet."""
        self._thread.start()

    def put(self, job: Job) -> None:
        """Have something done."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Finish what was put, close the file, and end."""
        self._jobs.put(None)
        self._thread.join(bounds.SPOOL_WAIT_S)

    def _run(self) -> None:
        while True:
            batch = self._batch()
            if batch is None:
                break
            self.do(batch)
        self._close()

    def _batch(self) -> list[Job] | None:
        """Wait for jobs; None: it is over.  What came before that is done first."""
        first = self._jobs.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < bounds.BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            batch.append(job)
        return batch

    def do(self, batch: list[Job]) -> None:
        """Do jobs: what changes something first, in one transaction, then what reads."""
        if any(isinstance(job, OpenSpool) for job in batch):
            self._open()
        keeps = [job for job in batch if isinstance(job, Keep)]
        removed = [job.record_id for job in batch if isinstance(job, Remove)]
        if keeps or removed:
            self._write(keeps, removed)
        for job in batch:
            if isinstance(job, (Load, ListSpool)):
                self._read(job)

    def _open(self) -> None:
        if self._spool is not None:
            return
        try:
            self._spool = Spool(self._directory, self._most)
            figures = self._spool.figures()
        except (SpoolError, sqlite3.Error) as error:
            self._close()
            self._tell(SpoolFailed(str(error)))
        else:
            self._tell(SpoolOpened(figures))

    def _close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _write(self, keeps: list[Keep], removed: list[str]) -> None:
        removed = self._unremoved + removed
        spool = self._spool
        if spool is None:
            self._tell(SpoolKept(_refused(keeps, "the spool is not open"), None))
            return
        try:
            kept = spool.do(keeps, removed)
            self._unremoved = []
            if time.monotonic() - self._tidied_s > bounds.CLOSED_S / 60 and keeps:
                spool.tidy(keeps[-1].wall_ms)
                self._tidied_s = time.monotonic()
            figures = spool.figures()
        except sqlite3.Error as error:
            self._unremoved = removed  # with the next transaction that can be written
            detail = str(spool.error(error))
            self._tell(SpoolKept(_refused(keeps, detail), None))
            self._look_at(error, detail)
        else:
            self._tell(SpoolKept(tuple(kept), figures))

    def _read(self, job: Load | ListSpool) -> None:
        if self._spool is None:
            if isinstance(job, ListSpool):
                self._tell(SpoolListed(job.exchange, (), None))
            return
        try:
            records = self._spool.load(job.after, job.count)
            figures = self._spool.figures()
        except (sqlite3.Error, ValueError) as error:
            detail = str(self._spool.error(error))
            self._close()
            self._tell(SpoolFailed(detail))
            return
        if isinstance(job, Load):
            self._tell(SpoolLoaded(records, len(records) == job.count))
        else:
            self._tell(SpoolListed(job.exchange, records, figures))

    def _look_at(self, error: sqlite3.Error, detail: str) -> None:
        if getattr(error, "sqlite_errorname", "").startswith(_LOST):
            self._close()
            self._tell(SpoolFailed(detail))


def _refused(keeps: list[Keep], detail: str) -> tuple[Kept, ...]:
    return tuple(Kept(keep.exchange, hasattr(keep.message, "status"), Code.ACCOUNT_UNKEPT, detail) for keep in keeps)
