"""A Berkeley DB environment: opened, opened again after a recovery, and transactions run until they are through.

* Reads are snapshots (DB_MULTIVERSION, DB_TXN_SNAPSHOT): they take no locks and see one committed state.
* A write returns when it is safe from the end of this process, or, if it is to be durable, from that of the
  machine as well.  ``sync`` makes all writes so far durable, and may run in another thread: waiting for a disk
  is what must not hold up readers.
* The environment is opened with DB_REGISTER | DB_RECOVER: recovery runs exactly when a process that had it
  open has died.  When that happens to the living, Berkeley DB says DB_RUNRECOVERY; we reopen and go on.

Nothing here knows what the records mean.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from berkeleydb import db

from tlspool_broker.entries import CONTENT, Name
from tlspool_common.errors import Code, PoolError

_ATTEMPTS = 5
"""Tries of a transaction that met a deadlock or a recovery; either is gone by the second."""

_CACHE_B = 64 * 1024 * 1024
"""Page cache, old versions of pages included: a change must fit that brings in, or undoes, a bundle of 5000 anchors.
Memory is taken as pages are.  2000 identities with chains have 6 MB; the default of Berkeley DB is 256 KB.
"""

_CHECKPOINT_KB = 1024
"""Log written between two checkpoints: keeps a recovery within milliseconds."""

_ENVIRONMENT = db.DB_CREATE | db.DB_INIT_MPOOL | db.DB_INIT_LOCK | db.DB_INIT_LOG | db.DB_INIT_TXN | db.DB_THREAD
_DATABASE = db.DB_CREATE | db.DB_AUTO_COMMIT | db.DB_MULTIVERSION | db.DB_THREAD

T = TypeVar("T")


class View:
    """One transaction's view of the databases."""

    def __init__(self, handles: dict[Name, Any], txn: Any) -> None:
        self._handles = handles
        self._txn = txn
        self.changes: dict[tuple[Name, bytes], tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {}
        """Of what operators write: by database and key the records before and after, where these differ."""

    def values(self, name: Name, key: bytes) -> list[bytes]:
        """Return the records of a key in their order."""
        cursor = self._handles[name].cursor(self._txn)
        try:
            found = []
            record = cursor.set(key)
            while record is not None:
                found.append(record[1])
                record = cursor.next_dup()
            return found
        finally:
            cursor.close()

    def has(self, name: Name, key: bytes) -> bool:
        """Tell whether a key has records."""
        return bool(self._handles[name].has_key(key, txn=self._txn))

    def items(self, name: Name) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield every key with its records."""
        cursor = self._handles[name].cursor(self._txn)
        try:
            record = cursor.first()
            while record is not None:
                key, values = record[0], []
                while record is not None and record[0] == key:
                    values.append(record[1])
                    record = cursor.next()
                yield key, values
        finally:
            cursor.close()

    def replace(self, name: Name, key: bytes, values: Sequence[bytes]) -> None:
        """Let a key have these records and no others."""
        old = self.values(name, key)
        if old == list(values):
            return
        if old:
            self._handles[name].delete(key, txn=self._txn)
        for value in values:
            self._handles[name].put(key, value, txn=self._txn)  # behind the duplicates that are there
        if name not in CONTENT:
            return
        first, _ = self.changes.get((name, key), (tuple(old), ()))
        if first == tuple(values):
            self.changes.pop((name, key), None)  # it is as it was before the transaction
        else:
            self.changes[name, key] = first, tuple(values)


class Environment:
    """Opens, reopens, and runs transactions until they are through."""

    def __init__(self, directory: Path, files: dict[Name, str]) -> None:
        self._directory = directory
        self._files = files
        self._handles: dict[Name, Any] = {}
        self._env: Any = None
        self._using = threading.Lock()  # held where the environment must not be closed, or is
        self.opened = 0
        """How often it was opened: what was read before the last time may have been changed by others."""

    def open(self) -> None:
        """Open what is not open.

        Raises:
            PoolError: DATABASE, SETTING_INVALID.
        """
        if self._env is not None:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._adopt()
        except OSError as error:
            raise PoolError(Code.SETTING_INVALID, f"dbenv_dir {self._directory}: {error.strerror}") from None
        self.opened += 1
        self._env = env = db.DBEnv()
        try:
            env.set_lk_detect(db.DB_LOCK_DEFAULT)
            env.set_cachesize(0, _CACHE_B, 1)
            env.log_set_config(db.DB_LOG_AUTO_REMOVE, 1)
            env.open(str(self._directory), _ENVIRONMENT | db.DB_REGISTER | db.DB_RECOVER, 0o600)
            for name, file in self._files.items():
                handle = db.DB(env)
                self._handles[name] = handle
                handle.set_flags(db.DB_DUP)
                handle.open(file, dbtype=db.DB_HASH, flags=_DATABASE, mode=0o600)
        except db.DBError as error:
            self.close()
            raise self._refusal(error) from None

    def _adopt(self) -> None:
        """Let files brought from another environment in.

        Pages name positions in the log they were written with.  Where there is no log at all these mean
        nothing, but would make Berkeley DB refuse the files, or later writes to them.
        """
        if any(self._directory.glob("log.*")):
            return
        brought = [file for file in self._files.values() if (self._directory / file).is_file()]
        if not brought:
            return
        env = db.DBEnv()
        try:
            env.open(str(self._directory), db.DB_CREATE | db.DB_INIT_MPOOL | db.DB_PRIVATE, 0o600)
            for file in brought:
                env.lsn_reset(file)
        except db.DBError as error:
            raise self._refusal(error) from None
        finally:
            env.close()

    def close(self) -> None:
        """Close everything; what a recovery has broken cannot be closed, only let go."""
        with self._using:
            for handle in self._handles.values():
                with suppress(db.DBError):
                    handle.close()
            self._handles.clear()
            if self._env is not None:
                with suppress(db.DBError):
                    self._env.close()
                self._env = None

    def read(self, work: Callable[[View], T]) -> T:
        """Run ``work`` on a snapshot."""
        return self._run(work, db.DB_TXN_SNAPSHOT)

    def write(self, work: Callable[[View], T], durable: bool = True) -> T:
        """Run ``work`` in a transaction of its own; all of it happens, or nothing.

        Not ``durable``: the log is the kernel's at return, which keeps it if this process is killed.
        """
        result = self._run(work, 0, db.DB_TXN_WRITE_NOSYNC)
        if durable:
            self.sync()
        return result

    def sync(self) -> None:
        """Make what has been written durable; may be called in any thread.

        Raises:
            PoolError: DATABASE.
        """
        with self._using:
            if self._env is None:
                return  # closing has done it
            try:
                self._env.log_flush()
            except db.DBError as error:
                raise self._refusal(error) from None
            with suppress(db.DBError):  # the change is safe; only a later recovery would take longer
                self._env.txn_checkpoint(_CHECKPOINT_KB, 0)

    def _run(self, work: Callable[[View], T], flags: int, commit_flags: int = 0) -> T:
        last: db.DBError
        for _ in range(_ATTEMPTS):
            try:
                self.open()
                txn = self._env.txn_begin(flags=flags)
                try:
                    result = work(View(self._handles, txn))
                except BaseException:
                    with suppress(db.DBError):
                        txn.abort()
                    raise
                txn.commit(commit_flags)
                return result
            except db.DBRunRecoveryError as error:
                last = error
                self.close()
            except (db.DBLockDeadlockError, db.DBLockNotGrantedError) as error:
                last = error
            except MemoryError as error:  # how the binding says ENOMEM
                raise self._refusal(error, "; make several smaller changes") from None
            except db.DBError as error:
                raise self._refusal(error) from None
        raise self._refusal(last)

    def _refusal(self, error: Exception, hint: str = "") -> PoolError:
        text = str(error.args[-1]) if error.args else type(error).__name__
        if "BDB2509" in text:
            hint = "; the files belong to other log files than those beside them: restore these, or move them away"
        return PoolError(Code.DATABASE, f"{self._directory}: {text}{hint}")
