"""Run fuzz targets for long, guided by coverage.

    python -m tests.fuzz.long --target NAME|all [--runs 10000000] [--seconds N] [--seed N] [--jobs N] [--report PAGE]

Python targets (targets.py) run under Atheris, those in C (native.py) under libFuzzer with the sanitizers; both speak
libFuzzer's language, and this reads it.  What covers something new is kept under ``.fuzz/NAME`` and begun with the next
time.  What breaks an invariant, takes longer than TIMEOUT_S or more than MEMORY_MB is written to
``tests/fuzz/corpus/NAME/``, where test_fuzz_targets.py replays it; the exit code is 1 then.

With ``--report`` the table of that page is brought up to date: runs and seconds of all reports so far together; with
``--up-to-report`` a target is given only what the table says it still lacks.  Interrupted (SIGINT, SIGTERM), what runs
ends soon, is counted like any other, and nothing more is begun.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz import native, planted
from tests.fuzz.target import CORPUS, Target, seeds_of
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
GROWN = ROOT / ".fuzz"
TIMEOUT_S = 10
"""For one input; the slowest takes some milliseconds, and sanitizers and other processes their share."""

MEMORY_MB = 2048
"""For the whole process: instrumented modules take some 150."""

ASAN = "quarantine_size_mb=8:malloc_context_size=5"
"""An input frees a few hundred kilobytes: what is kept of all before it costs a third of the rate."""

_REPORT_EVERY_S = 10.0
_STATUS = re.compile(r"#(\d+)\s+\w+\s+(?:cov: (\d+) )?(?:ft: \d+ )?(?:corp: (\d+)/)?.*?exec/s: (\d+)")
_FINDING = re.compile(r"Test unit written to (\S+)")
_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_BEGIN, _END = "<!-- Made by tests/fuzz/long.py; do not edit. -->", "<!-- End of what is made. -->"
_HEAD = (
    "| target | inputs | seconds | inputs/s | kept | covered | findings | last run |\n|---|--:|--:|--:|--:|--:|--:|---|"
)


@dataclass
class Result:
    """What became of a run."""

    name: str
    runs: int = 0
    seconds: float = 0.0
    covered: int = 0
    kept: int = 0
    findings: list[str] = field(default_factory=list)
    is_broken: bool = False

    def row(self, old: tuple[int, int, int]) -> str:
        """Return a row of the table, with what it had added: inputs, seconds, findings."""
        runs, seconds = self.runs + old[0], round(self.seconds) + old[1]
        rate = round(self.runs / max(self.seconds, 0.001))
        return (
            f"| {self.name} | {runs:,} | {seconds:,} | {rate:,} | {self.kept:,} | {self.covered:,} "
            f"| {len(self.findings) + old[2]} | {datetime.now(UTC):%Y-%m-%d} |"
        )


def dictionary(tokens: tuple[bytes, ...]) -> str:
    """Write tokens as libFuzzer reads them."""
    return "".join('"' + "".join(f"\\x{octet:02x}" for octet in token) + '"\n' for token in tokens)


class Run:
    """One target, in a process of its own."""

    def __init__(self, target: Target | native.Native, options: argparse.Namespace, had: int = 0) -> None:
        self.target = target
        self.options = options
        self.runs = options.runs - had
        self.result = Result(target.name)
        self.begun_s = time.monotonic()
        self.said_s = 0.0
        self.tail: list[str] = []
        self.found = Path(options.found) / target.name

    def go(self) -> Result:
        """Run it to its end."""
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            grown = Path(self.options.grown) / self.target.name
            grown.mkdir(parents=True, exist_ok=True)
            self.found.mkdir(parents=True, exist_ok=True)
            for seed in seeds_of(self.target) if isinstance(self.target, Target) else self.target.seeds():
                (grown / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
            tokens = Path(scratch) / "tokens"
            tokens.write_text(dictionary(self.target.tokens))
            if isinstance(self.target, Target):
                command = [sys.executable, "-m", "tests.fuzz.guided", self.target.check.__module__, self.target.name]
            else:
                command = [str(self.target.build(Path(scratch)))]
            command += self._options(tokens)
            self.begun_s = time.monotonic()
            with subprocess.Popen(
                [*command, str(grown)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=ROOT,
                env={**os.environ, "ASAN_OPTIONS": ASAN},
                start_new_session=True,  # a terminal's SIGINT is ours alone, for Python would take it for a finding
            ) as process:
                _RUNNING.append(process)
                try:
                    for line in process.stdout:
                        self._heard(line.rstrip())
                except BaseException:
                    process.kill()
                    raise
                finally:
                    _RUNNING.remove(process)
            self.result.seconds = time.monotonic() - self.begun_s
            if process.returncode and not self.result.findings and not _OVER.is_set():
                self.result.is_broken = True
                print(f"{self.target.name} did not run:", *self.tail[-25:], sep="\n  ", file=sys.stderr, flush=True)
            self.result.kept = sum(1 for _ in grown.iterdir())
        if not any(self.found.iterdir()):
            self.found.rmdir()
        self._say(f"{self.result.runs / max(self.result.seconds, 0.001):,.0f}/s, done")
        return self.result

    def _options(self, tokens: Path) -> list[str]:
        options = self.options
        found = [
            f"-runs={self.runs}",
            f"-max_len={self.target.most_b}",
            f"-timeout={TIMEOUT_S}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-artifact_prefix={self.found}/",
            "-print_final_stats=1",
        ]
        found += [f"-dict={tokens}"] if self.target.tokens else []
        found += [f"-seed={options.seed}"] if options.seed else []
        return found + ([f"-max_total_time={options.seconds}"] if options.seconds else [])

    def _heard(self, line: str) -> None:
        self.tail = [*self.tail[-60:], line]
        result = self.result
        if status := _STATUS.match(line):
            if "INITED" in line:
                self.begun_s = time.monotonic()  # what comes before, instrumenting above all, tries nothing
            result.runs = int(status[1])
            result.covered = int(status[2] or result.covered)
            result.kept = int(status[3] or result.kept)
            if time.monotonic() - self.said_s > _REPORT_EVERY_S:
                self._say(f"{int(status[4]):,}/s")
        elif done := _DONE.match(line):
            result.runs = int(done[1])
        elif (found := _FINDING.search(line)) and found[1] not in result.findings:
            result.findings.append(found[1])
            with _PRINTING:
                print(f"{self.target.name}: FINDING {found[1]}", *self.tail[-30:], sep="\n  ", flush=True)

    def _say(self, rate: str) -> None:
        self.said_s = time.monotonic()
        result = self.result
        with _PRINTING:
            print(
                f"{result.name}: {result.runs:,} of {self.runs:,} inputs, {rate}; kept {result.kept:,}, "
                f"covered {result.covered:,}; {len(result.findings)} findings; {self.said_s - self.begun_s:.0f} s",
                flush=True,
            )


def interrupt(_number: int, _frame: object) -> None:
    """End what runs, and begin nothing more."""
    _OVER.set()
    for process in list(_RUNNING):
        process.send_signal(signal.SIGUSR1)  # libFuzzer's sign to tell its figures and to end


_OVER = threading.Event()
_RUNNING: list[subprocess.Popen[str]] = []
_PRINTING = threading.Lock()
_REPORTING = threading.Lock()


def had(rows: Mapping[str, str], name: str) -> tuple[int, int, int]:
    """Return what a table says of a target: inputs, seconds, findings."""
    if name not in rows:
        return 0, 0, 0
    cells = [cell.strip().replace(",", "") for cell in rows[name].split("|")]
    return int(cells[2]), int(cells[3]), int(cells[7])


def rows_of(page: Path) -> tuple[str, dict[str, str], str]:
    """Return what stands before the table of a page, its rows by target, and what stands behind it."""
    before, _, rest = page.read_text().partition(_BEGIN)
    table, _, after = rest.partition(_END)
    return before, {cells[1].strip(): line for line in table.splitlines() if len(cells := line.split("|")) > 8}, after


def report(page: Path, result: Result) -> None:
    """Bring the table of a page up to date."""
    with _REPORTING:
        before, rows, after = rows_of(page)
        rows[result.name] = result.row(had(rows, result.name))
        lines = [rows[target.name] for target in (*TARGETS, *native.TARGETS) if target.name in rows]
        page.write_text("\n".join([before + _BEGIN, _HEAD, *lines, _END]) + after)


def parser(every: Mapping[str, Target | native.Native]) -> argparse.ArgumentParser:
    """Return the parser of options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--target", action="append", required=True, choices=["all", *every], metavar="NAME")
    made.add_argument("--runs", type=int, default=10_000_000, help="inputs for each target")
    made.add_argument("--seconds", type=int, default=0, help="at most so long for each target")
    made.add_argument("--seed", type=int, default=0, help="of chance; the default is another one each time")
    made.add_argument("--jobs", type=int, default=1, help="targets at once")
    made.add_argument("--grown", default=GROWN, help="where what covers something new is kept")
    made.add_argument("--found", default=CORPUS, help="where findings are put")
    made.add_argument("--report", type=Path, help="a page whose table is brought up to date")
    made.add_argument("--up-to-report", action="store_true", help="only what that table says is lacking")
    return made


def main() -> int:
    """Run what was asked for."""
    every = {target.name: target for target in (*TARGETS, *native.TARGETS)}
    options = parser({**every, "planted": planted.TARGETS[0]}).parse_args()
    if not importlib.util.find_spec("atheris"):
        print("atheris is missing: pip install -e '.[dev]'", file=sys.stderr)
        return 2
    names = list(every) if "all" in options.target else options.target

    def one(name: str) -> Result:
        before = had(rows_of(options.report)[1], name)[0] if options.report and options.up_to_report else 0
        if before >= options.runs or _OVER.is_set():
            return Result(name)
        result = Run(every.get(name, planted.TARGETS[0]), options, before).go()
        if options.report and not result.is_broken:
            report(options.report, result)
        return result

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(one, names))
    found = sum(len(result.findings) for result in results)
    print(f"{sum(result.runs for result in results):,} inputs, {len(results)} targets, {found} findings")
    return 1 if found or any(result.is_broken for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
