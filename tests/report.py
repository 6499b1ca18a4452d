"""Tables that tests add rows to, printed behind the results of a run, whichever process has run the tests.

A plugin of tests/conftest.py.  ``row("title", "cell", ...)``; the columns of a table are as wide as they need to be.
"""

from __future__ import annotations

import pytest

_TABLES: dict[str, list[tuple[str, ...]]] = {}


def row(title: str, *cells: str) -> None:
    """Add a row to a table."""
    _TABLES.setdefault(title, []).append(cells)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process that runs tests for another: send the rows there."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tables"] = {title: [list(cells) for cells in rows] for title, rows in _TABLES.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Take the rows of a process that has ended."""
    for title, rows in getattr(node, "workeroutput", {}).get("tables", {}).items():
        _TABLES.setdefault(title, []).extend(tuple(cells) for cells in rows)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what there is."""
    for title, rows in sorted(_TABLES.items()):
        terminalreporter.section(title)
        widths = [max(map(len, column)) for column in zip(*_even(rows), strict=True)]
        for cells in rows:
            padded = (f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
            terminalreporter.write_line("  " + "  ".join(padded).rstrip())


def _even(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    most = max(map(len, rows))
    return [(*cells, *[""] * (most - len(cells))) for cells in rows]
