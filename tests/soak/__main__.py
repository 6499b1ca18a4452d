"""Run the soak; the package says what it is."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import libstub
from tests.fixtures import freeradius
from tests.soak.app import App, Told, server
from tests.soak.bills import Bills
from tests.soak.trouble import TARGETS, Trouble
from tests.soak.verdict import Verdict, percentile
from tests.soak.watch import Watch
from tests.soak.world import World

ROUND_S = 60.0
QUIET, SLOW, ROUGH = 0.3, 0.3, 0.4
"""Parts of a round."""

FACTOR = 2.0
"""The longest of a hundred sessions beside slow ones, in terms of those of the quiet windows."""

ENOUGH = 300
"""Sessions in the quiet and in the slow windows before their longest are compared: the third of these is p99."""

PROBES = 2
"""Threads that have one session after the other, all the time; these are the sessions of others."""

_REST_S = 0.05


class Soak:
    """One run."""

    def __init__(
        self,
        directory: Path,
        *,
        seconds: float,
        seed: int,
        keep: bool,
        apps: int,
        threads: int,
        only: Sequence[str] = (),
    ) -> None:
        self.seconds, self.seed = seconds, seed
        self.round_s = min(ROUND_S, seconds)
        self.world = World(directory, seed, apps=apps, threads=threads, long_s=self.round_s / 4)
        self.trouble = Trouble(self.world, seed, only)
        self.watch = Watch(self.world)
        self.verdict = Verdict(self.trouble.record, self.trouble.revocations, keep=keep, log=self.world.log)
        self.bills = Bills(self.trouble.record)
        self.probes: dict[str, list[float]] = {"quiet": [], "slow": [], "rough": [], "": []}
        self.unexplained: list[str] = []
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.sessions = self.size_b = 0
        self._window = ""
        self._over = threading.Event()
        self._resting = threading.Event()
        self._begun = time.monotonic()

    # --- the course of things ---------------------------------------------------------------------------

    def run(self) -> None:
        """Do all of it."""
        progress = threading.Thread(target=self._progress, daemon=True)
        progress.start()
        try:
            self.world.up()
            self._begun = time.monotonic()
            app = App(self.world.apps[0].plan)
            probes = [threading.Thread(target=self._probe, args=(app, number), daemon=True) for number in range(PROBES)]
            for thread in probes:
                thread.start()
            self.trouble.begin()
            while time.monotonic() - self._begun < self.seconds:
                self._round(app)
            self._over.set()
            self._resting.clear()
            for thread in probes:
                thread.join(60)
            app.pool.close()
            self.trouble.end()
            self._settle()
        finally:
            self._over.set()
            self.trouble.faults += self.world.down()
            progress.join(20)

    def _round(self, app: App) -> None:
        begun = time.monotonic()
        self._window = "quiet"
        self._over.wait(QUIET * self.round_s)
        self._window = "slow"
        self.trouble.slow(begun + (QUIET + SLOW) * self.round_s, app, self.world.told)
        self._window = "rough"
        self.trouble.rough(begun + self.round_s)
        self._window = ""
        self._rest()

    def _rest(self) -> None:
        """Let all sessions end, see what is left, and go on."""
        self._resting.set()
        for one in self.world.apps:
            one.say("pause")
        try:
            self.world.until(lambda: self.world.status().get("sessions") == 0, "end of all sessions", 60)
        except TimeoutError:
            rows = self.world.tell({"cmd": "sessions"})["sessions"]
            self.unexplained.append(f"sessions that do not end: {rows}"[:2000])
        self._judge()
        self.watch.count(self.sessions)
        self._resting.clear()
        for one in self.world.apps:
            one.say("resume")

    def _settle(self) -> None:
        """Let everything be told to the RADIUS server that there is to tell, and compare."""
        self.trouble.faults += self.world.end_apps()
        try:
            self.world.until(lambda: self.world.status().get("sessions") == 0, "end of all sessions", 60)
            self.world.all_told()
        except TimeoutError as error:
            self.unexplained.append(str(error))
        self._judge()
        self.bills.judge(self.world.radius.records())

    def _judge(self) -> None:
        told, rest = list(self.world.told), len(self.world.told)
        del self.world.told[:rest]
        for one in told:
            self.outcomes[one.kind, one.outcome if one.outcome == "ok" else f"{one.outcome} {one.code}"] += 1
            self.sessions += 1
            self.size_b += one.size_b
            if one.user:
                self.bills.note(one)
            if why := self.verdict.judge(one):
                self.unexplained.append(why)
                print(f"not explained: {why}"[:1000], flush=True)

    def _probe(self, app: App, number: int) -> None:
        """Have short sessions, and measure how long each takes."""
        chance = random.Random(f"{self.seed} probe {number}")
        while not self._over.is_set():
            if self._resting.is_set():
                time.sleep(_REST_S)
                continue
            window, told = self._window, Told(-2, "probe", time.monotonic(), 0.0, 0.0)
            try:
                server(app, chance, told)
            except libstub.PoolError as error:
                told.outcome, told.code, told.text = "control" if told.set_up else "setup", error.code, str(error)
            except Exception as error:
                told.outcome, told.text = "relay" if told.set_up else "remote", repr(error)
            told.ended = time.monotonic()
            if told.outcome == "ok" and window == self._window:
                self.probes[window].append(told.ended - told.begun)
            self.world.told.append(told)
            time.sleep(_REST_S)

    # --- what is said -----------------------------------------------------------------------------------

    def _progress(self) -> None:
        while not self._over.wait(10):
            spent_s = time.monotonic() - self._begun
            quiet, slow = (percentile(self.probes[window], 99) * 1000 for window in ("quiet", "slow"))
            print(
                f"{spent_s:5.0f} s {self._window or 'rest':5}: {self.sessions + len(self.world.told)} sessions, "
                f"p99 quiet {quiet:.0f} ms, slow {slow:.0f} ms; {sum(self.trouble.done.values())} disturbances, "
                f"{self.trouble.edits} edits; not explained: {len(self.unexplained)}",
                flush=True,
            )

    def violations(self) -> list[str]:
        """Return everything that must not be."""
        found = [*self.unexplained, *self.trouble.faults, *self.watch.judge(), *self.bills.faults]
        quiet, slow = self.probes["quiet"], self.probes["slow"]
        if min(len(quiet), len(slow)) >= ENOUGH and percentile(slow, 99) > FACTOR * percentile(quiet, 99):
            found.append(
                f"others' p99 is {percentile(slow, 99) * 1000:.0f} ms beside slow ones, "
                f"{percentile(quiet, 99) * 1000:.0f} ms when it is quiet"
            )
        return found

    def figures(self) -> dict[str, object]:
        """Return everything for a file."""
        windows = {window or "rest": values for window, values in self.probes.items()}
        return {
            "machine": f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}",
            "seconds": round(time.monotonic() - self._begun, 1),
            "seed": self.seed,
            "sessions": self.sessions,
            "MB": round(self.size_b / 1e6, 1),
            "outcomes": {f"{kind}: {outcome}": count for (kind, outcome), count in sorted(self.outcomes.items())},
            "disturbances": dict(sorted(self.trouble.done.items())),
            "failures explained by": dict(sorted(self.verdict.explained.items())),
            "edits": self.trouble.edits,
            "accounted for": self.bills.figures,
            "probes": {
                window: {
                    "sessions": len(values),
                    **{f"p{part}_ms": round(percentile(values, part) * 1000, 1) for part in (50, 90, 99)},
                }
                for window, values in windows.items()
            },
            "lives": self.watch.rows(),
            "locks": self.watch.locks,
            "violations": self.violations(),
        }


def table(figures: dict[str, object]) -> list[str]:
    """Return the figures for people."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"    {key:40} {one}" for key, one in value.items())]
        elif isinstance(value, list):
            lines += [f"{name}:", *(f"    {str(one)[:1000]}" for one in value[:50])]
        else:
            lines.append(f"{name}: {value}")
    return lines


def soak(directory: Path, **options: object) -> Soak:
    """Run it in a directory; return what there is to know."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    made = Soak(directory, **options)
    made.run()
    made._judge()
    return made


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Soak a whole pool.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time_ns() % 1_000_000))
    parser.add_argument("--apps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=4, help="sessions at a time, of each application")
    parser.add_argument("--broker-restarts", choices=("lose", "keep"), default="lose")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    parser.add_argument("--keep-directory", action="store_true", help="leave logs there when something is wrong")
    parser.add_argument("--only", nargs="+", choices=tuple(TARGETS), default=(), help="do something to these only")
    args = parser.parse_args()
    if missing := freeradius.missing():
        parser.error(f"{' and '.join(missing)} must be there: apt-get install freeradius freeradius-utils")
    print(f"seed {args.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    sizes = {"apps": args.apps, "threads": args.threads, "only": args.only}
    done = soak(directory, seconds=args.minutes * 60, seed=args.seed, keep=args.broker_restarts == "keep", **sizes)
    figures = done.figures()
    print("\n".join(table(figures)))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1, default=dataclasses.asdict) + "\n")
    violations = done.violations()
    if violations and args.keep_directory:
        print(f"logs are in {directory}")
    else:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
    print("nothing is wrong" if not violations else f"{len(violations)} things are wrong")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
