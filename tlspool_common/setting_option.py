"""What a row of the table of settings says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from tlspool_common.setting_kinds import Kind


class Part(Enum):
    """Who reads a configuration; the value is the letter in the table."""

    BROKER = "B"
    WORKER = "W"
    KEYD = "K"

    @property
    def program(self) -> str:
        """Name of the program."""
        return f"tlspool-{self.name.lower()}"


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table.

    Attributes:
        parts: letters of the daemons that need it.
        restart: letters of those among them that take a new value only when they start.
        repeated: each line adds to the ones before it.
        secret: its value is shown to nobody.
    """

    name: str
    kind: Kind
    default: Any
    parts: str
    restart: str
    doc: str
    repeated: bool = False
    secret: bool = False

    def needed_by(self, part: Part | None) -> bool:
        """Whether a daemon keeps it; None keeps everything."""
        return part is None or part.value in self.parts

    def at_start(self, part: Part | None) -> bool:
        """Whether a daemon takes a new value only when it starts."""
        return part is not None and part.value in self.restart

    def shown(self, value: Any) -> list[str]:
        """Return a value as lines of the file have it; [''] for none."""
        if self.secret and value:
            return ["(secret)"]
        if self.repeated and value:
            return [self.kind.show((one,)) for one in value]
        return ["" if value is None else self.kind.show(value)]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A keyword each of whose lines is a thing of its own: ``what`` says what a value is, the rest is as in Option."""

    name: str
    what: str
    parts: str
    restart: str
    doc: str
