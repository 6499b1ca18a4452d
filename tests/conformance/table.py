"""The table of cases: one file a section of the specification, with its points and the cases that cover them.

    title = "7.5 control keys"

    [points]                       what the specification says, one line each
    "7.5.1" = "DETACH of an unknown key: CTLKEY_NOT_FOUND"
    "7.5.9" = { text = "...", elsewhere = "tests/e2e/test_x.py::test_y" }
    "7.5.10" = { text = "...", not_applicable = "why" }

    [setups]                       scripts that cases of this file begin with; common ones are in setups.toml
    [[case]]
    name = "..."                   with covers, script, and if need be setup and pool

The language of scripts is in script.py.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Point:
    """One thing that the specification says."""

    text: str
    elsewhere: str = ""
    not_applicable: str = ""


@dataclass(frozen=True)
class Case:
    """One story, and the points it shows."""

    name: str
    section: str
    covers: tuple[str, ...]
    script: str
    pool: str = ""


@dataclass
class Section:
    """One section: its points, and its cases."""

    title: str
    points: dict[str, Point]
    cases: list[Case] = field(default_factory=list)

    def uncased(self) -> list[Point]:
        """Return the points that no case covers."""
        return [point for point in self.points.values() if point.elsewhere or point.not_applicable]


def _point(value: str | dict[str, str]) -> Point:
    return Point(value) if isinstance(value, str) else Point(**value)


def _sections() -> Iterator[Section]:
    common = tomllib.loads((CASES / "setups.toml").read_text())
    for path in sorted(CASES.glob("[0-9]*.toml")):
        data = tomllib.loads(path.read_text())
        setups = {**common, **data.get("setups", {})}
        section = Section(data["title"], {name: _point(value) for name, value in data["points"].items()})
        for one in data.get("case", []):
            begins = "".join(setups[name] for name in one.pop("setup", "").split())
            covers = tuple(one.pop("covers"))
            section.cases.append(Case(**{**one, "script": begins + one["script"]}, section=path.stem, covers=covers))
        yield section


SECTIONS = list(_sections())
