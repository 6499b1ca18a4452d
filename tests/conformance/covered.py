"""What of the specification is covered: a table behind the results.  A plugin of tests/conftest.py."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from tests.conformance.table import SECTIONS

OUTCOMES: dict[str, Counter[str]] = defaultdict(Counter)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the outcome of each case for the table."""
    if report.when == "call" or report.outcome == "failed":
        for key, value in report.user_properties:
            if key == "point":
                OUTCOMES[str(value)][report.outcome] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print section, points, cases: the evidence that the specification is covered."""
    if not OUTCOMES:
        return
    terminalreporter.section("conformance with protocol V2")
    terminalreporter.write_line(
        f"  {'section':<44} {'points':>6} {'shown':>6} {'failed':>6}  elsewhere, not applicable"
    )
    for section in SECTIONS:
        ran = sum((OUTCOMES[point] for point in section.points), Counter())
        other = Counter("elsewhere" if point.elsewhere else "not applicable" for point in section.uncased())
        shown = ", ".join(f"{count} {what}" for what, count in sorted(other.items()))
        line = f"  {section.title:<44} {len(section.points):>6} {sum(ran.values()):>6} {ran['failed']:>6}  {shown}"
        terminalreporter.write_line(line)
