"""How far a long command is: one line that is written over, on a terminal only."""

from __future__ import annotations

import os
import sys
from types import TracebackType


class Progress:
    """Shows ``doing: 120 of 3000`` on standard error while in effect, and leaves nothing behind."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def at(self, done: int, total: int) -> None:
        """Say how far it is."""
        if self._shown and total:
            print(f"\r\x1b[K{self._doing}: {done} of {total}", end="", file=sys.stderr, flush=True)

    def say(self, what: str) -> None:
        """Say what is being done."""
        if self._shown:
            print(f"\r\x1b[K{self._doing} {what}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
