"""Logs: one line per fact, ``event=handshake.done session=17 remote=... ms=3.1``, on standard error.

Levels: error, someone must act; warning, someone may have to; info, one line at start and end of a session;
debug, messages between processes.  Values are escaped, so that nothing a remote sent can break a line or
colour a terminal.  A field whose name ends in ``_secret``, or a value that is not text, a number or a
boolean, is refused: an object's repr is no fact.  systemd's ``<N>`` prefix is written when standard error is
the journal (sd-daemon(3)).

What remotes and applications can make happen as often as they like (``provoked`` in event_table.py) has so many lines a
second; how many more there were is said in ``log.withheld``.  A fact that is said here has other readers too: metrics
and the audit trail.  They hear all of them, whatever the level, and whether or not there is room for a line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import field

from tlspool_common.event_table import PROVOKED
from tlspool_common.ration import Ration
from tlspool_common.record import record

LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3}

_VALUE_CHARACTERS = 400
"""Longest value in a line: a detail of a border message fits, a flood does not."""

PROVOKED_LINES = 200
"""Of one event in a second.  journald takes 10 000 lines of a service in 30 s by default, and drops all beyond that,
whatever they say: with this, one event leaves room for others."""

_PLAIN = re.compile(r"[^ \"'=\\]+")
"""What needs no quotes, if it can be printed."""

Value = str | int | float | bool | None
Reader = Callable[[str, Mapping[str, Value]], None]


@record
class Note:
    """Write a line to the log: an effect, for cores have no log."""

    level: str
    event: str
    fields: dict[str, Value] = field(default_factory=dict)


def escape(value: Value) -> str:
    """Return a value as it stands in a log line: printable, quoted when it needs to be."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or value == "":
        return "-"
    text = str(value)
    shown = text[:_VALUE_CHARACTERS] + ("..." if len(text) > _VALUE_CHARACTERS else "")
    if shown.isprintable() and shown != "-" and _PLAIN.fullmatch(shown):  # a bare dash is an empty value
        return shown
    safe = "".join(
        "\\" + c if c in '"\\' else c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}"
        for c in shown
    )
    return f'"{safe}"'


def line(event: str, fields: Mapping[str, Value]) -> str:
    """Write one line.

    Raises:
        ValueError: a field is named as a secret, or holds something that is no plain value.
    """
    parts = [f"event={event}"]
    for name, value in fields.items():
        if name.endswith("_secret"):
            raise ValueError(f"{name} must not be logged")
        if not isinstance(value, (str, int, float, bool, type(None))):
            raise ValueError(f"{name}: {type(value).__name__} is no plain value")
        parts.append(f"{name}={escape(value)}")
    return " ".join(parts)


class Log:
    """Where a process writes its facts."""

    def __init__(self, role: str, level: str = "info") -> None:
        self.role = role
        self._least = LEVELS[level]
        self._journal = "JOURNAL_STREAM" in os.environ
        self._ration = Ration(PROVOKED_LINES)
        self.readers: list[Reader] = []

    def set_level(self, level: str) -> None:
        """Write facts of this level, and of more weighty ones, from now on."""
        self._least = LEVELS[level]

    def wants(self, level: str) -> bool:
        """Whether facts of a level are written: where there are many, it spares making them."""
        return LEVELS[level] <= self._least

    def note(self, level: str, event: str, **fields: Value) -> None:
        """Write one fact, if its level counts."""
        for reader in self.readers:
            reader(event, fields)
        number = LEVELS[level]
        if number > self._least:
            return
        if event in PROVOKED:
            if not self._ration.allows(event):
                return
            self.catch_up()
        self._write(level, number, line(event, fields))

    def catch_up(self) -> None:
        """Say what was withheld in seconds that are over; a daemon calls it now and then."""
        for event, count in self._ration.withheld().items():
            self.warning("log.withheld", of=event, count=count)

    def _write(self, level: str, number: int, text: str) -> None:
        head = f"<{number}>" if self._journal else f"{level.upper()} {self.role}: "
        try:
            sys.stderr.write(f"{head}{text}\n")
            sys.stderr.flush()
        except OSError:
            return  # nobody reads standard error any more; that must not end a session

    def debug(self, event: str, **fields: Value) -> None:
        """Write at level debug."""
        self.note("debug", event, **fields)

    def info(self, event: str, **fields: Value) -> None:
        """Write at level info."""
        self.note("info", event, **fields)

    def warning(self, event: str, **fields: Value) -> None:
        """Write at level warning."""
        self.note("warning", event, **fields)

    def error(self, event: str, **fields: Value) -> None:
        """Write at level error."""
        self.note("error", event, **fields)
