"""What the processes of a soak hold: descriptors, memory, children, files of the run directory, locks of the databases.

It is counted when no session is there, again and again.  What a process holds then may differ from the first times,
when caches fill and threads are started, but not more and more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.soak.world import World, ticks

MORE_FDS = 8
"""Descriptors that a process may have more than the first time: channels of workers that are just being replaced."""

MORE_KIB = 24 * 1024
"""Memory that it may have more than the second time it was counted: arenas of threads that were not there before."""

MORE_LOCKS = 4

_LOCKS = """
import json, sys
from berkeleydb import db
env = db.DBEnv()
env.open(sys.argv[1], db.DB_INIT_MPOOL | db.DB_INIT_LOCK | db.DB_INIT_LOG | db.DB_INIT_TXN)
found = env.lock_stat()
env.close()
print(json.dumps({name: found[name] for name in ("nlocks", "nlockers", "nobjects")}))
"""


@dataclass
class Count:
    """What a process held at a time."""

    at: float
    sessions: int
    fds: int
    kib: int


class Watch:
    """Counts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lives: dict[tuple[str, int, int], list[Count]] = defaultdict(list)
        self.files: list[list[str]] = []
        self.locks: list[dict[str, int]] = []
        self.faults: list[str] = []

    def count(self, sessions: int) -> None:
        """Count everything; ``sessions`` were had so far."""
        for role, pid in self._world.everything():
            with suppress(OSError):
                fds = len(os.listdir(f"/proc/{pid}/fd"))
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                kib = pages * os.sysconf("SC_PAGE_SIZE") // 1024
                self.lives[role, pid, ticks(pid)].append(Count(time.monotonic(), sessions, fds, kib))
        run_dir = self._world.pool.run_dir
        self.files.append(sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*")))
        done = subprocess.run(
            [sys.executable, "-c", _LOCKS, str(self._world.pool.directory / "db")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            self.faults.append(f"locks were not counted: {done.stderr[-300:]}")
        else:
            self.locks.append(json.loads(done.stdout))

    def judge(self) -> list[str]:
        """Return what grew."""
        found = list(self.faults)
        for (role, pid, _), counts in self.lives.items():
            if len(counts) < 3:
                continue
            first, second, last = counts[0], counts[1], counts[-1]
            if last.fds > max(first.fds, second.fds) + MORE_FDS:
                found.append(f"{role} {pid}: {first.fds}, {second.fds} descriptors became {last.fds}")
            if last.kib > max(first.kib, second.kib) + MORE_KIB:
                done = last.sessions - second.sessions
                found.append(f"{role} {pid}: {second.kib} KiB became {last.kib} in {done} sessions")
        if self.files and set(self.files[-1]) != set(self.files[0]):
            found.append(f"files of the run directory: {self.files[0]} became {self.files[-1]}")
        if len(self.locks) > 1:
            for name in ("nlocks", "nlockers"):
                if self.locks[-1][name] > max(one[name] for one in self.locks[:2]) + MORE_LOCKS:
                    found.append(f"{name} of Berkeley DB: {[one[name] for one in self.locks]}")
        return found

    def rows(self) -> list[tuple[str, int, int, int, int, int, float]]:
        """Return (role, process, sessions while it was watched, descriptors at first and last, KiB ..., MiB more)."""
        return [
            (role, pid, counts[-1].sessions - counts[0].sessions, counts[0].fds, counts[-1].fds, counts[0].kib,
             (counts[-1].kib - counts[0].kib) / 1024)
            for (role, pid, _), counts in self.lives.items()
            if len(counts) >= 3
        ]  # fmt: skip
