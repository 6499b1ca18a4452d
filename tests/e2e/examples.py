"""Run the programs of examples/ against a pool, as their users would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WAIT_S = 30


class Running:
    """A server program; its output is kept, and it is stopped by its pid."""

    def __init__(self, pool, directory: Path, command: list[str], **environment: str):
        self.path = directory / f"{Path(command[0]).stem}.out"
        with self.path.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **pool.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return self.path.read_text(errors="replace")

    def await_output(self, pattern: str, seconds: float = WAIT_S) -> re.Match[str]:
        """Wait until the program has printed something."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.output())):
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)
        return found

    @property
    def port(self) -> int:
        return int(self.await_output(r"listening on \S+:(\d+)\n").group(1))

    def stop(self) -> str:
        """Stop it, if it runs, and return what it printed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        return self.output()


def example(name: str, *words: object) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, words)]


def run(pool, name: str, *words: object, fails: bool = False) -> str:
    """Run a client program to its end, and return what it printed."""
    done = subprocess.run(
        example(name, *words),
        env={**os.environ, **pool.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + (done.stderr if fails else "")


def curl(pool, url: str, *words: str) -> str:
    """Fetch a page as a program that knows nothing of the pool."""
    done = subprocess.run(
        ["curl", "-sS", "--cacert", str(pool.directory / "ca.pem"), *words, url],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
