"""What there is to say of a file or a directory that a configuration names."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that is not as it should be, and what to do about it."""

    level: Level
    keyword: str
    subject: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.keyword} {self.subject}: {self.text}; {self.remedy}"


def stat_of(keyword: str, path: Path) -> os.stat_result | Remark:
    """Look at what has to be there."""
    try:
        return path.stat()
    except PermissionError:
        return Remark("note", keyword, str(path), "cannot be looked at by this user", "run this as root")
    except OSError as error:
        return Remark("error", keyword, str(path), error.strerror or str(error), "make it, or name another")


def directory_at(keyword: str, path: Path, made: str) -> os.stat_result | Remark:
    """Look at a directory that a daemon makes where there is none."""
    found = stat_of(keyword, path)
    if isinstance(found, Remark):
        return Remark("note", keyword, str(path), "is not there yet", made) if found.level == "error" else found
    if not stat.S_ISDIR(found.st_mode):
        return Remark("error", keyword, str(path), "is no directory", "name another")
    return found
