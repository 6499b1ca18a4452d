"""What is to be accounted for, on the disk: in SQLite, so that what was acknowledged is there after any crash.

    open      one row for each session or item that has begun and not ended, with what was said of it last
    records   what no server has acknowledged yet, in order
    closed    ids that have had their last record, for a while: a broker may say a record again

One transaction takes many jobs: what makes a record safe is a write to the disk and not the record's own size, so that
hundreds of them in a second cost as few writes as the disk can do.  All of it is one connection in one thread.

A START of what is open changes nothing, and so does anything about what is closed.  An update that is not newer than
what is known changes nothing either; a newer one takes the place of one that still waits.  When too many wait, STARTs
are refused, updates only change what is known, and STOPs of what is open are taken: STARTs bound their number.

The file is locked while it is open, so that there are never two helpers at it.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlspool_common.errors import Code
from tlspool_common.messages_radius import Account, AccountSettled, Status
from tlspool_radius import bounds
from tlspool_radius.events import Figures, Keep, Kept, Waiting
from tlspool_radius.packets import is_item

NAME = "spool.sqlite"
VERSION = 1
APPLICATION = 0x544C5352
"""``TLSR``, where file(1) looks for what a database is."""

NAS_REBOOT = 11
"""Acct-Terminate-Cause of what has ended while nobody looked (RFC 2866 section 5.10)."""

_MOST = 2**63 - 1
"""Of an integer in SQLite."""

_COLUMNS = (
    "status",
    "at_ms",
    "attributes",
    "classes",
    "from_remote_b",
    "to_remote_b",
    "from_remote_records",
    "to_remote_records",
    "session_s",
    "items",
    "has_items",
    "cause",
)

_SCHEMA = f"""
CREATE TABLE meta (id TEXT NOT NULL);
CREATE TABLE open (acct_id TEXT PRIMARY KEY, is_item INTEGER NOT NULL, {", ".join(_COLUMNS)}) WITHOUT ROWID;
CREATE TABLE records (number INTEGER PRIMARY KEY AUTOINCREMENT, acct_id TEXT NOT NULL, {", ".join(_COLUMNS)});
CREATE INDEX records_of ON records (acct_id, number);
CREATE TABLE closed (acct_id TEXT PRIMARY KEY, wall_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX closed_at ON closed (wall_ms);
"""


class SpoolError(Exception):
    """The spool cannot be used; the text names the file and says what to do."""


class Spool:
    """The file.  ``most``: records that may wait (setting radius_spool_records)."""

    def __init__(self, directory: Path, most: int, wait_s: float = bounds.SPOOL_WAIT_S) -> None:
        """Open it, or make it.

        Raises:
            SpoolError: it is none, or there is no room, or another process has it.
        """
        self.path = directory / NAME
        self._most = most
        self._named: set[str] = set()
        try:
            self._database = self._opened(wait_s)
        except (sqlite3.Error, OSError) as error:
            raise self.error(error) from None
        self._waiting = self._count("records")
        self._open = self._count("open")

    def error(self, error: Exception) -> SpoolError:
        """Say what is wrong with the file, and what helps."""
        name = getattr(error, "sqlite_errorname", "")
        if isinstance(error, SpoolError):
            return error
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            remedy = "move it aside, and the helper begins a new one; sqlite3 may recover records from the old one"
        elif name.startswith("SQLITE_FULL"):
            remedy = "make room on that file system"
        elif name.startswith("SQLITE_BUSY"):
            remedy = "another process has it open: there must be one helper"
        else:
            remedy = "the directory must belong to the broker's user, and be writable"
        detail = error.strerror if isinstance(error, OSError) else str(error)
        return SpoolError(f"radius_spool_dir: {self.path}: {detail or error}; {remedy}")

    def _opened(self, wait_s: float) -> sqlite3.Connection:
        if not self.path.exists():
            # Made by us, as SQLite gives its other files the mode of this one.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        database = sqlite3.connect(self.path, timeout=wait_s, isolation_level=None)
        try:
            self._prepare(database)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        # Before the first access: then the index of the log is in our memory, and nobody else can open it.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._judge(database)
        (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise SpoolError(f"radius_spool_dir: {self.path}: its journal is {mode}; use another file system")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA temp_store = MEMORY")  # no other directory can be written to
        database.execute("BEGIN IMMEDIATE")
        if self._judge(database):
            for statement in filter(str.strip, _SCHEMA.split(";")):
                database.execute(statement)
            database.execute("INSERT INTO meta VALUES (?)", (secrets.token_hex(6),))
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
        (self.id,) = database.execute("SELECT id FROM meta").fetchone()

    def _judge(self, database: sqlite3.Connection) -> bool:
        """Tell whether the file is a new one.

        Raises:
            SpoolError: it is something else; nothing in it was changed.
        """
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if (application, version) == (0, 0) and not database.execute("SELECT 1 FROM sqlite_schema").fetchone():
            return True
        if application != APPLICATION:
            raise SpoolError(f"radius_spool_dir: {self.path} is the database of another program; move it aside")
        if version != VERSION:
            raise SpoolError(
                f"radius_spool_dir: {self.path} has version {version}, this helper knows {VERSION}; let the other "
                "version of the pool send what is in it, or move it aside"
            )
        return False

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def _count(self, table: str) -> int:
        (found,) = self._database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - our own names
        return int(found)

    # --- jobs -----------------------------------------------------------------------------------------------

    def do(self, keeps: Iterable[Keep], removed: Iterable[str] = ()) -> list[Kept]:
        """Do all of it in one transaction; it is on the disk when this returns.

        Raises:
            sqlite3.Error: nothing of it is done.
        """
        before = self._waiting, self._open
        named = set(self._named)
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for record_id in removed:
                spool_id, _, number = record_id.partition("-")
                if spool_id == self.id:
                    gone = self._database.execute("DELETE FROM records WHERE number = ?", (int(number),)).rowcount
                    self._waiting -= gone
            kept = [self._keep(keep) for keep in keeps]
            self._database.execute("COMMIT")
        except BaseException:
            self._waiting, self._open = before
            self._named = named
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        return kept

    def _keep(self, keep: Keep) -> Kept:
        if isinstance(keep.message, AccountSettled):
            self._settle()
            return Kept(keep.exchange, is_record=False)
        message = keep.message
        self._named.add(message.acct_id)
        if self._database.execute("SELECT 1 FROM closed WHERE acct_id = ?", (message.acct_id,)).fetchone():
            return Kept(keep.exchange, is_record=True)
        if message.status is Status.START:
            return self._start(keep.exchange, message)
        if message.status is Status.INTERIM:
            return self._update(keep.exchange, message)
        if self._waiting >= self._most and self._known(message.acct_id) is None:
            return self._full(keep.exchange)
        self._stop(message)
        self._database.execute("INSERT OR REPLACE INTO closed VALUES (?, ?)", (message.acct_id, keep.wall_ms))
        return Kept(keep.exchange, is_record=True)

    def _full(self, exchange: int) -> Kept:
        detail = f"{self._waiting} records wait in {self.path}"
        return Kept(exchange, True, Code.ACCOUNT_SPOOL_FULL, detail)

    def _start(self, exchange: int, message: Account) -> Kept:
        if self._known(message.acct_id) is not None:
            return Kept(exchange, is_record=True)
        if self._waiting >= self._most:
            return self._full(exchange)
        self._remember(message)
        self._record(message)
        return Kept(exchange, is_record=True)

    def _known(self, acct_id: str) -> int | None:
        """Return when something was said last of what is open."""
        row = self._database.execute("SELECT at_ms FROM open WHERE acct_id = ?", (acct_id,)).fetchone()
        return None if row is None else int(row[0])

    def _update(self, exchange: int, message: Account) -> Kept:
        known_ms = self._known(message.acct_id)
        if known_ms is not None:
            if message.at_ms < known_ms or (message.at_ms == known_ms and self._is_updated(message.acct_id)):
                return Kept(exchange, is_record=True)
            self._remember(message)
        superseded = self._database.execute(
            "DELETE FROM records WHERE number = (SELECT max(number) FROM records WHERE acct_id = ?) AND status = ?",
            (message.acct_id, Status.INTERIM),
        ).rowcount
        self._waiting -= superseded
        if self._waiting >= self._most:
            return self._full(exchange)
        self._record(message)
        return Kept(exchange, is_record=True)

    def _is_updated(self, acct_id: str) -> bool:
        row = self._database.execute("SELECT status FROM open WHERE acct_id = ?", (acct_id,)).fetchone()
        return row is not None and row[0] == Status.INTERIM

    def _stop(self, message: Account) -> None:
        self._open -= self._database.execute("DELETE FROM open WHERE acct_id = ?", (message.acct_id,)).rowcount
        self._named.discard(message.acct_id)
        self._record(message)

    def _settle(self) -> None:
        rows = self._database.execute(f"SELECT acct_id, {', '.join(_COLUMNS)} FROM open WHERE NOT is_item").fetchall()  # noqa: S608
        for acct_id, *columns in rows:
            if acct_id not in self._named:
                last = _message(acct_id, columns)
                # When it ended nobody knows: it is known to have lived until then, and that is what it is billed for.
                # It is not closed: should it be found after all, it begins once more, and its own end counts.
                self._stop(replace(last, status=Status.STOP, cause=NAS_REBOOT))

    def _remember(self, message: Account) -> None:
        marks = ", ".join("?" * (len(_COLUMNS) + 2))
        exists = self._known(message.acct_id) is not None
        values = (message.acct_id, is_item(message.attributes), *_columns(message))
        self._database.execute(f"INSERT OR REPLACE INTO open VALUES ({marks})", values)  # noqa: S608 - question marks
        self._open += not exists

    def _record(self, message: Account) -> None:
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        self._database.execute(
            f"INSERT INTO records (acct_id, {', '.join(_COLUMNS)}) VALUES ({marks})",  # noqa: S608 - our own names
            (message.acct_id, *_columns(message)),
        )
        self._waiting += 1

    def tidy(self, wall_ms: int) -> None:
        """Forget ids that were closed long ago."""
        oldest_ms = wall_ms - bounds.CLOSED_S * 1000
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("DELETE FROM closed WHERE wall_ms < ?", (oldest_ms,))
        extra = self._count("closed") - bounds.CLOSED
        if extra > 0:
            self._database.execute(
                "DELETE FROM closed WHERE acct_id IN (SELECT acct_id FROM closed ORDER BY wall_ms LIMIT ?)", (extra,)
            )
        self._database.execute("COMMIT")

    # --- what is in it ----------------------------------------------------------------------------------------

    def load(self, after: int, count: int) -> tuple[Waiting, ...]:
        """Return records behind a number, in their order."""
        rows = self._database.execute(
            f"SELECT number, acct_id, {', '.join(_COLUMNS)} FROM records WHERE number > ? ORDER BY number LIMIT ?",  # noqa: S608
            (min(after, _MOST), count),
        )
        return tuple(
            Waiting(number, f"{self.id}-{number}", _message(acct_id, columns)) for number, acct_id, *columns in rows
        )

    def figures(self) -> Figures:
        """Return how full it is."""
        row = self._database.execute("SELECT at_ms FROM records ORDER BY number LIMIT 1").fetchone()
        return Figures(self._waiting, int(row[0]) if row else 0, self._open)


def _columns(message: Account) -> Sequence[Any]:
    return (
        int(message.status),
        min(message.at_ms, _MOST),
        json.dumps(message.attributes, ensure_ascii=False),
        json.dumps([base64.b64encode(one).decode() for one in message.classes]),
        min(message.from_remote_b, _MOST),
        min(message.to_remote_b, _MOST),
        min(message.from_remote_records, _MOST),
        min(message.to_remote_records, _MOST),
        message.session_s,
        min(message.items, _MOST),
        int(message.has_items),
        message.cause,
    )


def _message(acct_id: str, columns: Sequence[Any]) -> Account:
    row = dict(zip(_COLUMNS, columns, strict=True))
    return Account(
        **row
        | {
            "acct_id": acct_id,
            "status": Status(row["status"]),
            "attributes": tuple(json.loads(row["attributes"])),
            "classes": tuple(base64.b64decode(one) for one in json.loads(row["classes"])),
            "has_items": bool(row["has_items"]),
        }
    )
