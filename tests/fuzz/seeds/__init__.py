"""Certificates, lists and responses that targets begin with, made once so that findings can be played again.

python -m tests.fuzz.seeds        writes them anew: as of now, by new keys
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def der(name: str) -> bytes:
    """Return the contents of a file."""
    return (HERE / f"{name}.der").read_bytes()


def ders(begin: str) -> tuple[bytes, ...]:
    """Return the contents of all files whose names begin so."""
    return tuple(path.read_bytes() for path in sorted(HERE.glob(f"{begin}*.der")))


@cache
def now_s() -> int:
    """Return the time at which they were made."""
    return int((HERE / "made-at").read_text())
