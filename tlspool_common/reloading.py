"""Read the configuration again while a daemon runs: all of a new file is in force, or nothing of it.

A wrong file changes nothing; each of its problems is logged, and the operator who asked reads them all.  What a
daemon takes only at its start keeps its old value, and is named.  The same happens on SIGHUP and at the command
``reload`` of a control socket.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tlspool_common import settings as config
from tlspool_common import systemd
from tlspool_common.control import Answer
from tlspool_common.errors import Code
from tlspool_common.log import Log
from tlspool_common.settings import SettingError, Settings


class Reloading:
    """The configuration file of a running daemon.

    ``read`` reads its part and raises SettingError; ``adopt`` puts what was read in force.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        log: Log,
        adopt: Callable[[Settings], None] | None = None,
        read: Callable[[Path], Settings] | None = None,
    ) -> None:
        self._path = path
        self._settings = settings
        self._log = log
        self._adopt = adopt or settings.adopt
        self._read = read or (lambda path: config.load(path, settings.part))

    def reload(self) -> Answer:
        """Put a new file in force; return what it has changed.

        Raises:
            SettingError: RELOAD_REFUSED, with all that is wrong; what was in force stays so.
        """
        with systemd.reloading():
            return self._reload()

    def _reload(self) -> Answer:
        try:
            newer = self._read(self._path)
        except SettingError as error:
            for problem in error.problems:
                self._log.error("reload.refused", code=int(Code.RELOAD_REFUSED), detail=str(problem))
            raise SettingError.of(error.problems, Code.RELOAD_REFUSED) from None
        applied, waiting = self._settings.changes(newer)
        self._adopt(newer)
        self._log.set_level(self._settings.log_level)
        for warning in newer.warnings:
            self._log.warning("setting.ignored", detail=warning)
        if waiting:
            self._log.warning("reload.needs_restart", settings=" ".join(waiting))
        self._log.info("reload.done", applied=" ".join(applied), restart=" ".join(waiting))
        return {
            "file": str(self._path),
            "applied": applied,
            "restart": waiting,
            "warnings": list(newer.warnings),
        }

    def on_signal(self) -> None:
        """Do it for SIGHUP: a refusal is in the log already."""
        try:
            self.reload()
        except SettingError:
            return

    def describe(self) -> Answer:
        """Return the settings in force, and where each comes from."""
        return {"file": str(self._path), "settings": self._settings.rows(), "warnings": list(self._settings.warnings)}
