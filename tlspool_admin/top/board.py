"""What ``tlspool top`` shows, and what its keys do.  Knows no terminal and no socket: keys in, lines and wishes out.

s c w k   sessions, callers, workers, tokens          up down      another row
< >       sort by another column      r  turn round    / text       only rows with that, or WORD=VALUE for sessions
x         end the session, or those of the caller, after "y"
space     stand still                 h  help          q            quit
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tlspool_admin.table import clean
from tlspool_admin.top.sample import Rows, Sample
from tlspool_admin.verdict import Level

TABLES = {"s": "sessions", "c": "callers", "w": "workers", "k": "tokens"}

_COLUMNS = {
    # what is shown first; the rest behind it, as far as there is room
    "sessions": ("session", "state", "age_s", "caller", "side", "localid", "remoteid", "version", "group", "worker"),
    "callers": ("caller", "uid", "sessions", "being_set_up", "requests", "established", "refused", "failed", "ended"),
    "workers": ("worker", "pid", "sessions", "cpu_percent", "rss_kib", "age_s", "retired", "title"),
    "tokens": ("token", "state", "waiting", "in_work", "oldest_ms", "answers", "queue_p99_ms", "token_p99_ms"),
}
_SORTED = {"sessions": "age_s", "callers": "sessions", "workers": "cpu_percent", "tokens": "waiting"}
_WORDS = ("caller", "uid", "local", "remote", "state", "service", "side", "worker")

_CELL, _LEAST = 40, 12
"""Widest cell, and what a narrow terminal leaves of it: names of remotes may have 255 characters."""

_HELP = __doc__.split("\n\n", 1)[1].rstrip().splitlines() if __doc__ else []


class Mode(Enum):
    """What keys mean."""

    LOOK = "look"
    FILTER = "type a filter"
    CONFIRM = "y or anything else"


@dataclass(frozen=True, slots=True)
class Kill:
    """A wish: end these sessions.  ``fields`` are those of the request."""

    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Quit:
    """A wish: no more of this."""


Wish = Kill | Quit


@dataclass(slots=True)
class Board:
    """The state of the view."""

    table: str = "sessions"
    mode: Mode = Mode.LOOK
    sort: dict[str, str] = field(default_factory=lambda: dict(_SORTED))
    turned: bool = False
    filter: str = ""
    typed: str = ""
    row: int = 0
    still: bool = False
    help: bool = False
    message: str = ""
    sample: Sample | None = None
    _asked: Kill | None = None

    @property
    def words(self) -> list[str]:
        """The words of the filter that the broker is asked by; others are looked for in what it says."""
        words = self.filter.split() if self.table == "sessions" else []
        return [word for word in words if word.partition("=")[0] in _WORDS and word.partition("=")[2]]

    # --- keys -----------------------------------------------------------------------------------------

    def key(self, key: str) -> Wish | None:
        """Take a key: a letter, or up, down, left, right, enter, escape, backspace."""
        if self.mode is Mode.FILTER:
            self._type(key)
            return None
        if self.mode is Mode.CONFIRM:
            self.mode, asked, self._asked = Mode.LOOK, self._asked, None
            self.message = "" if key == "y" else "nothing was ended"
            return asked if key == "y" else None
        self.message = ""
        if key in TABLES:
            self.table, self.row = TABLES[key], 0
        elif key in ("up", "down"):
            self.row = max(0, min(len(self.rows()) - 1, self.row + (1 if key == "down" else -1)))
        elif key in ("<", ">", "left", "right"):
            self._sort_by(1 if key in (">", "right") else -1)
        elif key == "r":
            self.turned = not self.turned
        elif key == "/":
            self.mode, self.typed = Mode.FILTER, self.filter
        elif key == " ":
            self.still = not self.still
        elif key in ("h", "?"):
            self.help = not self.help
        elif key == "escape":
            self.filter, self.help = "", False
        elif key == "x":
            self._ask()
        elif key == "q":
            return Quit()
        return None

    def _type(self, key: str) -> None:
        if key == "enter":
            self.mode, self.filter, self.row = Mode.LOOK, self.typed.strip(), 0
        elif key == "escape":
            self.mode = Mode.LOOK
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif len(key) == 1 and key.isprintable():
            self.typed = (self.typed + key)[:200]

    def _sort_by(self, step: int) -> None:
        columns = _COLUMNS[self.table]
        at = columns.index(self.sort[self.table])
        self.sort[self.table] = columns[(at + step) % len(columns)]

    def _ask(self) -> None:
        rows = self.rows()
        if not rows or self.table not in ("sessions", "callers"):
            self.message = "x ends a session, or those of a caller: choose one with up and down"
            return
        row = rows[min(self.row, len(rows) - 1)]
        if self.table == "sessions":
            self._asked = Kill({"session": row.get("session")})
            what = f"session {clean(row.get('session'))} of {clean(row.get('caller'))}"
        else:
            self._asked = Kill({"caller": row.get("caller"), "uid": row.get("uid")})
            what = f"all sessions of {clean(row.get('caller'))}, uid {clean(row.get('uid'))}"
        self.mode, self.message = Mode.CONFIRM, f"end {what}?  y ends, any other key does not"

    # --- what is shown --------------------------------------------------------------------------------

    def rows(self) -> Rows:
        """Return the rows of the table, filtered and sorted: what is largest first, unless it is turned round."""
        rows = list(self.sample.tables[self.table]) if self.sample else []
        plain = [word.lower() for word in self.filter.split() if word not in self.words]
        if plain:
            rows = [row for row in rows if all(word in _text(row) for word in plain)]
        column = self.sort[self.table]
        numbers = all(isinstance(row.get(column), int | float | None) for row in rows)
        rows.sort(key=lambda row: _order(row.get(column), numbers), reverse=numbers != self.turned)
        return rows

    def lines(self, width: int, height: int) -> list[tuple[str, str]]:
        """Return the screen: at most so many lines, each with how it looks: '', bold, reverse or a colour."""
        sample = self.sample
        if sample is None:
            return [("asking the daemons...", "")][:height]
        colour = {Level.FINE: "green", Level.DEGRADED: "yellow", Level.DOWN: "red"}[sample.level]
        lines = [(sample.headline + ("  (standing still)" if self.still else ""), colour)]
        lines += [(reason, "yellow") for reason in sample.reasons[:4]]
        lines += [(text, "") for text in _summary(sample)]
        if self.help:
            lines += [("", ""), *((text, "") for text in _HELP)]
        else:
            lines += [("", ""), *self._table(width, height - len(lines) - 2)]
        lines = lines[: max(0, height - 1)]
        lines += [("", "")] * (height - 1 - len(lines))
        lines.append((self._foot(), "dim" if self.mode is Mode.LOOK and not self.message else "bold"))
        return [(text[:width], look) for text, look in lines][:height]

    def _foot(self) -> str:
        if self.mode is Mode.FILTER:
            return f"filter: {self.typed}_"
        return self.message or "s sessions  c callers  w workers  k tokens  / filter  <> sort  x end  h help  q quit"

    def _table(self, width: int, height: int) -> list[tuple[str, str]]:
        rows = self.rows()
        self.row = max(0, min(self.row, len(rows) - 1))
        cell = max(_LEAST, min(_CELL, width // 4))
        columns = list(_COLUMNS[self.table])
        mark = self.sort[self.table]
        heading = [f"{name}{'*' if name == mark else ''}" for name in columns]
        first = max(0, self.row - max(1, height - 2) + 1)
        shown = rows[first : first + max(1, height - 1)]
        cells = [[clean(row.get(name))[:cell] for name in columns] for row in shown]
        widths = [max(len(line[place]) for line in [heading, *cells]) for place in range(len(columns))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [heading, *cells]
        ]
        told = f"{self.table}: {len(rows)}" + (f", with {self.filter}" if self.filter else "")
        looks = ["reverse" if first + place == self.row else "" for place in range(len(shown))]
        return [(told, "bold"), (text[0], "bold"), *zip(text[1:], looks, strict=True)]


def _text(row: Mapping[str, object]) -> str:
    return " ".join(clean(value) for value in row.values()).lower()


def _order(value: object, numbers: bool) -> tuple[float, str]:
    if numbers:
        return (float(value) if isinstance(value, int | float) else -1.0), ""
    return 0.0, clean(value)


def _summary(sample: Sample) -> list[str]:
    """Say in a few lines how much is done, and how fast."""
    loads = sample.answers["broker loads"]
    lines = []
    if loads.get("ok") is True:
        outcomes, lag, ended = (loads.get(name) for name in ("outcomes", "lag_ms", "ended_bytes"))
        lines.append(
            f"last {clean(loads.get('window_s'))} s: {clean(loads.get('established_per_s'))} sessions/s,"
            f" {clean(loads.get('requests_per_s'))} requests/s, {clean(loads.get('events_per_s'))} events/s;"
            f" {_named(outcomes)}"
        )
        lines.append(
            f"loop lag ms {_named(lag)}; bytes of ended sessions: {_named(ended)};"
            f" in flight {clean(loads.get('in_flight'))}"
        )
    keyd = sample.answers["keyd"]
    if keyd.get("ok") is True:
        lines.append(
            f"keyd: {clean(keyd.get('signed'))} signed, {clean(keyd.get('refused'))} refused,"
            f" {clean(keyd.get('waiting'))} waiting, {clean(keyd.get('grants_spent'))} grants in the ledger"
        )
    return lines


def _named(value: object) -> str:
    return (
        ", ".join(f"{clean(name)} {clean(one)}" for name, one in value.items()) if isinstance(value, Mapping) else "-"
    )
