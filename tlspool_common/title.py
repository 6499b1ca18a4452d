"""The process title, ``tlspool-broker: 12 sessions``: for people, so it is brought up to date now and then only.

Everybody on the host can read it.  So nothing is in it that a remote has chosen, and nothing that is secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import setproctitle

_REST_S = 1.0
"""Between two looks: people do not read faster, and a look may go through all sessions."""


class Title:
    """Writes a text behind the name of the process, at most once in a while."""

    def __init__(self, name: str, text: Callable[[], str]) -> None:
        self._name = name
        self._text = text
        self._shown = ""
        self._stale = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def changed(self) -> None:
        """The text may have changed."""
        if self._timer is not None:
            self._stale = True
            return
        text = self._text()
        if text != self._shown:
            self._shown = text
            setproctitle.setproctitle(f"{self._name}: {text}")
        self._timer = self._loop.call_later(_REST_S, self._rested)

    def close(self) -> None:
        """Write no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _rested(self) -> None:
        self._timer = None
        if self._stale:
            self._stale = False
            self.changed()


def count(number: int, what: str) -> str:
    """Return ``1 session`` or ``12 sessions``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
