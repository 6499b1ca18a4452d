"""Print answers for people.  Text from daemons may hold what a remote sent: only printable characters pass.

On a terminal headings are bold, words may have a colour, and cells are cut to the width that there is; what goes
into a pipe or a file is plain and whole.  NO_COLOR (https://no-color.org) and TERM=dumb are heeded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

_CELL = 60
"""Widest cell on a terminal; longer text is cut, a pipe or --json has it whole."""

_SGR = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "dim": "2"}


def has_colours(stream: TextIO) -> bool:
    """Whether a stream goes to somebody who sees colours, and wants them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Return a text in a colour where the stream (standard output) has any."""
    return f"\x1b[{_SGR[colour]}m{text}\x1b[0m" if has_colours(stream or sys.stdout) else text


def clean(value: object) -> str:
    """Return one printable line for a value of an answer."""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif value is None:
        text = ""
    elif isinstance(value, float):
        text = f"{value:.3f}".rstrip("0").rstrip(".")
    elif isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        text = ", ".join(clean(item) for item in value)
    elif isinstance(value, (dict, list)):
        text = json.dumps(value)
    else:
        text = str(value)
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def words(value: object) -> str:
    """Return a list of flags as it is written on a command line."""
    return clean(value).replace(", ", ",")


def table(rows: Sequence[Mapping[str, object]], first: Sequence[str] = (), cell: int | None = None) -> str:
    """Return rows as aligned columns: those named first, then all others as they come.

    Cells are cut at ``cell`` characters; unless it is given, on a terminal only.
    """
    if cell is None:
        cell = _CELL if sys.stdout.isatty() else 0
    columns = list(dict.fromkeys([*(name for name in first if any(name in row for row in rows)), *_names(rows)]))
    heading = [clean(name) for name in columns]
    lines = [heading, *([_cut(clean(row.get(name)), cell) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([paint(aligned[0], "bold"), *aligned[1:]])


def show(answer: Mapping[str, object], indent: str = "") -> str:
    """Return an answer of any shape: plain values as ``name: value``, lists of objects as tables."""
    lines = []
    for name, value in answer.items():
        if name == "ok":
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{clean(name)}:", show(value, indent + "  ")] if value else []
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            lines.append(f"{indent}{clean(name)}:")
            lines += [f"{indent}  {line}" for line in table(value).splitlines()]
        else:
            lines.append(f"{indent}{clean(name)}: {clean(value)}")
    return "\n".join(lines)


def print_json(answer: Mapping[str, object]) -> None:
    """Print an answer as it came."""
    print(json.dumps(answer, indent=2))


def print_warnings(answer: Mapping[str, object]) -> None:
    """Print what the operator should know, on standard error."""
    for name in ("warnings", "malformed"):
        value = answer.get(name)
        for text in value if isinstance(value, list) else []:
            warn(str(text), "warning" if name == "warnings" else "malformed")


def warn(text: str, kind: str = "warning") -> None:
    """Print one line on standard error."""
    print(f"tlspool: {paint(kind, 'yellow', sys.stderr)}: {clean(text)}", file=sys.stderr)


def objects(value: object) -> list[Mapping[str, object]]:
    """Return the objects of a list in an answer, whatever it may be."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """Return the texts of a list in an answer, whatever it may be."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _names(rows: Iterable[Mapping[str, object]]) -> list[str]:
    return [name for row in rows for name in row]


def _cut(text: str, cell: int) -> str:
    return text if not cell or len(text) <= cell else text[: cell - 3] + "..."
