"""The process title, ``tlspool-broker: 12 sessions``: for people, so it is brought up to date now and then only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import setproctitle

_REST_S = 1.0


class Title:
    """Writes the number of sessions, at most once in a while."""

    def __init__(self, sessions: Callable[[], int]) -> None:
        self._sessions = sessions
        self._shown = -1
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def changed(self) -> None:
        """The number may have changed."""
        if self._timer is not None:
            return
        count = self._sessions()
        if count != self._shown:
            self._shown = count
            setproctitle.setproctitle(f"tlspool-broker: {count} session{'' if count == 1 else 's'}")
            self._timer = self._loop.call_later(_REST_S, self._rested)

    def close(self) -> None:
        """Write no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _rested(self) -> None:
        self._timer = None
        self.changed()
