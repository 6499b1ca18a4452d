"""One finding, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
ORDER = (ERROR, WARNING, NOTE, OK)

_EXIT = {ERROR: 1, WARNING: 3, NOTE: 0, OK: 0}


class Finding(NamedTuple):
    """What was found: its level, the check that found it, about what, what it is, and what to do."""

    level: str
    check: str
    subject: str
    text: str
    remedy: str = ""

    def row(self) -> dict[str, object]:
        """Return it as programs read it."""
        return self._asdict()


def worst(findings: Iterable[Finding]) -> str:
    """Return the worst level."""
    levels = {one.level for one in findings}
    return next((level for level in ORDER if level in levels), OK)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return the exit status: 0 in order, 1 something is wrong, 3 something may go wrong."""
    return _EXIT[worst(findings)]


def counts(findings: Iterable[Finding]) -> Mapping[str, int]:
    """Return how many there are of each level."""
    listed = list(findings)
    return {level: sum(one.level == level for one in listed) for level in ORDER}
