"""What is wrong with a configuration: one problem a setting, and all of them in one error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tlspool_common.errors import Code, PoolError

_PROBLEMS = 20
"""Problems that one text names; somebody who has more than that has the wrong file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a setting; ``line`` 0: with none in particular, ``value`` None: it may be a secret."""

    line: int
    keyword: str
    value: str | None
    hint: str

    def row(self) -> dict[str, object]:
        """Return it for programs."""
        return {"line": self.line, "keyword": self.keyword, "value": _short(self.value), "hint": self.hint}

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        value = "" if self.value is None else f" {_short(self.value)!r}"
        return f"{place}{self.keyword}{value}: {self.hint}"


def _short(value: str | None) -> str | None:
    return value if value is None or len(value) <= 60 else f"{value[:60]}..."


class SettingError(PoolError):
    """Settings are wrong; says which, their values, and what they should be."""

    def __init__(self, name: str, value: str | None, hint: str, line: int = 0) -> None:
        self.problems: tuple[Problem, ...] = (Problem(line, name, value, hint),)
        super().__init__(Code.SETTING_INVALID, str(self.problems[0]))

    @classmethod
    def of(cls, problems: Iterable[Problem], code: Code = Code.SETTING_INVALID) -> SettingError:
        """Make one of at least one problem."""
        first, *others = problems
        made = cls(first.keyword, first.value, first.hint, first.line)
        made.code = code
        made.problems = (first, *others)
        texts = [str(problem) for problem in made.problems[:_PROBLEMS]]
        if len(made.problems) > len(texts):
            texts.append(f"and {len(made.problems) - len(texts)} more")
        made.detail = " | ".join(texts)
        return made

    def rows(self) -> list[dict[str, object]]:
        """Return each problem by itself, for programs."""
        return [problem.row() for problem in self.problems]
