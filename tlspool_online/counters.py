"""What the helper has done, counted: one line in the log, at most once a minute."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Since the start."""

    questions: int = 0
    staples: int = 0
    at_once: int = 0
    """Questions that were answered from what was known already."""
    late: int = 0
    """Questions whose time was up."""
    turned_away: int = 0
    """Questions and downloads that were too many."""
    downloads: int = 0
    failures: int = 0
    downloaded_b: int = 0
    revoked: int = 0
    """Answers that say revoked."""

    def row(self) -> dict[str, int]:
        """Return all of them by name."""
        return asdict(self)
