"""Print answers for people.  Text from daemons may hold what a remote sent: only printable characters pass."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

_CELL = 60
"""Widest cell; longer text is cut, --json has it whole."""


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


def table(rows: Sequence[Mapping[str, object]], first: Sequence[str] = ()) -> str:
    """Return rows as aligned columns: those named first, then all others as they come."""
    columns = list(dict.fromkeys([*(name for name in first if any(name in row for row in rows)), *_names(rows)]))
    lines = [columns, *([_cut(clean(row.get(name))) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


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
            print(f"tlspool: {'warning' if name == 'warnings' else 'malformed'}: {clean(text)}", file=sys.stderr)


def objects(value: object) -> list[Mapping[str, object]]:
    """Return the objects of a list in an answer, whatever it may be."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _names(rows: Iterable[Mapping[str, object]]) -> list[str]:
    return [name for row in rows for name in row]


def _cut(text: str) -> str:
    return text if len(text) <= _CELL else text[: _CELL - 3] + "..."
