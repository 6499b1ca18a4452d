"""The databases without a broker: for the operator's command while none runs.

The lock is the broker's own, on the directory of the environment (start.py): whoever has it is the only one who
writes.  A broker that is started meanwhile is told that another one uses the directory; a command takes
milliseconds.

Files belong to the user that the broker runs as, so it is this user that must write them: a file of root's would
keep the broker out.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tlspool_broker import start
from tlspool_broker.databases import Databases
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.settings import Settings


@contextmanager
def open(settings: Settings, report: Callable[[PoolError], None] = lambda _error: None) -> Iterator[Databases]:
    """Hold the databases that the settings name, for as long as the context lasts.

    Raises:
        PoolError: DATABASES_IN_USE, SETTING_INVALID, DATABASE.
    """
    with _lock(settings.dbenv_dir):
        databases = Databases.from_settings(settings, report)
        try:
            yield databases
        finally:
            databases.close()


def _lock(directory: Path) -> OwnedFd:
    """Make the directory ours, for as long as the result is open."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner_uid = directory.stat().st_uid
        if owner_uid != os.geteuid():
            name = _name(owner_uid)
            raise PoolError(Code.SETTING_INVALID, f"dbenv_dir {directory} belongs to user {name}; use sudo -u {name}")
        return start.hold(directory, 0o700)
    except BlockingIOError:
        raise PoolError(Code.DATABASES_IN_USE, str(directory)) from None
    except OSError as error:
        raise PoolError(Code.SETTING_INVALID, f"dbenv_dir {directory}: {error.strerror}") from None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
