"""Pools for the cases, one for each configuration that a case asks for; and the table of what is covered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.table import SECTIONS
from tests.conformance.wires import Identities
from tlspool_admin.devpool import DevPool

POOLS: dict[str, list[str]] = {
    "": [],
    "denied": ["deny_facilities starttls"],
    "hasty": ["callback_timeout_s 1"],
}
"""Lines of configuration, by the name that cases use."""

OUTCOMES: dict[str, Counter[str]] = defaultdict(Counter)


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[DevPool, Identities]]]:
    """Return a pool by its name; each is started when it is wanted first."""
    made: dict[str, tuple[DevPool, Identities]] = {}

    def get(name: str) -> tuple[DevPool, Identities]:
        if name not in made:
            pool = DevPool(tmp_path_factory.mktemp("c") / "p")
            made[name] = pool, Identities(pool)
            pool.up("ec", ["log_level debug", *POOLS[name]])
        return made[name]

    yield get
    for pool, _ in made.values():
        pool.down()


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
