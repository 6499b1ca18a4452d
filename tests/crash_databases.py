"""Kill a writer of the databases, again and again, and look whether it has kept its word.

    python -m tests.crash_databases --kills 200               a process that writes to Databases
    python -m tests.crash_databases --kills 200 --broker      a broker, which is asked over its control socket

The writer says what it has done when it is durable; it gets SIGKILL at a random moment.  Each change writes a serial
number to three databases at once.  After each kill the databases are opened again, and then

* every change that was acknowledged is there, and at most one more for each who was writing,
* in each change all three records are there, or none,
* the generation is one more for each change, the history has a record of each, and undoing all of them in the mind
  leaves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tlspool_broker.databases import Databases
from tlspool_broker.entries import CONTENT, Name

WRITERS = 3
"""Connections to a broker that write at the same time."""

KILLS_OF_ONE = 10
"""Kills that one set of databases lives through: all its changes fit in the history."""

LONGEST_S = 0.4
"""A kill comes this long after the first acknowledgement, at most."""


def operations(name: str) -> list[dict[str, object]]:
    """One change: an identity with an expression, a selector that discloses it, and a policy for it."""
    return [
        {"cmd": "localid.set", "id": f"{name}.example", "flags": "valexp,client", "records": [{"uri": "T"}]},
        {"cmd": "disclose.set", "selector": f"{name}.org", "ids": [f"{name}.example"]},
        {"cmd": "policy.set", "key": f"localid:{name}.example", "policy": "modern"},
    ]


def write_for_ever(home: Path, first: int) -> None:
    """Be the process that is killed."""
    from tlspool_broker import admin

    databases = Databases(home)
    for number in range(first, first + 1_000_000):
        admin.handle(databases, {"cmd": "batch", "operations": operations(f"n{number}"), "reason": str(number)})
        os.write(1, b"n%d\n" % number)


def check(home: Path, acknowledged: set[str], writers: int) -> int:
    """Look at the databases after a kill; return how many changes there are."""
    databases = Databases(home)
    try:
        rows = databases._environment.read(
            lambda view: {name: {key.decode(): values for key, values in view.items(name)} for name in CONTENT}
        )
        names = {key.removesuffix(".example") for key in rows[Name.LOCALID]}
        lost = acknowledged - names
        assert not lost, f"acknowledged, and not there: {sorted(lost)}"
        assert names == {key.removesuffix(".org") for key in rows[Name.DISCLOSE]}, "half a change"
        assert names == {key.removeprefix("localid:").removesuffix(".example") for key in rows[Name.POLICY]}, "half"
        for name in names:
            assert rows[Name.DISCLOSE][f"{name}.org"] == [f"{name}.example".encode()]
        assert len(names - acknowledged) <= writers, f"more than was asked for: {sorted(names - acknowledged)}"
        assert databases.generation == len(names) + 1
        history = databases.history(2, databases.generation)
        assert sorted(change.by.reason for change in history) == sorted(names_of(names)), "history"
        state: dict[tuple[Name, bytes], tuple[bytes, ...]] = {}
        for change in history:
            for place, (before, after) in change.changes.items():
                assert state.get(place, ()) == before
                state[place] = after
        assert state == {(name, key.encode()): tuple(values) for name, of in rows.items() for key, values in of.items()}
        acknowledged |= names
        return len(names)
    finally:
        databases.close()


def names_of(names: set[str]) -> set[str]:
    return {name.lstrip("n") if name.startswith("n") else name for name in names}


def kill_writers(home: Path, kills: int, chance: random.Random) -> int:
    """Kill a process that uses Databases itself."""
    acknowledged: set[str] = set()
    first = 1
    for _ in range(kills):
        command = [sys.executable, "-m", "tests.crash_databases", "--write", str(home), "--first", str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            acknowledged.add(process.stdout.readline().decode().strip())
            delay_s = chance.uniform(0, LONGEST_S)
            killer = threading.Timer(delay_s, process.kill)
            killer.start()
            acknowledged |= {line.decode().strip() for line in process.stdout}
            killer.join()
        check(home, acknowledged, 1)
        first = max(int(name[1:]) for name in acknowledged) + 1
    return len(acknowledged)


def kill_brokers(directory: Path, kills: int, chance: random.Random) -> int:
    """Kill a broker that several tools have write."""
    from tests.fixtures.lone_broker import LoneBroker

    acknowledged: set[str] = set()
    told = threading.Lock()
    for turn in range(kills):
        broker = LoneBroker(directory=directory)
        broker.start()
        first = threading.Event()

        def tool(writer: int, turn: int = turn, control: Path = broker.control, first: threading.Event = first) -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(control))
                answers = sock.makefile("rb")
                for number in range(1_000_000):
                    name = f"w{writer}x{turn}x{number}"
                    request = {"cmd": "batch", "operations": operations(name), "reason": name}
                    try:
                        sock.sendall(json.dumps(request).encode() + b"\n")
                        line = answers.readline()
                    except OSError:
                        return
                    if not line.endswith(b"\n"):
                        return
                    assert json.loads(line)["ok"], line
                    with told:
                        acknowledged.add(name)
                    first.set()

        tools = [threading.Thread(target=tool, args=(writer,)) for writer in range(WRITERS)]
        for thread in tools:
            thread.start()
        assert first.wait(30)
        time.sleep(chance.uniform(0, LONGEST_S))
        assert broker.process is not None
        broker.process.kill()
        broker.process.wait()
        for thread in tools:
            thread.join()
        check(directory / "db", acknowledged, WRITERS)
    return len(acknowledged)


def main(argv: list[str] | None = None) -> int:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description="kill writers of the databases")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--broker", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.write is not None:
        write_for_ever(args.write, args.first)
        return 0
    start_s, chance, changes = time.monotonic(), random.Random(args.seed), 0
    for done in range(0, args.kills, KILLS_OF_ONE):
        directory = Path(tempfile.mkdtemp(prefix="tlsp-crash-", dir="/tmp"))
        try:
            run = kill_brokers if args.broker else kill_writers
            changes += run(directory, min(KILLS_OF_ONE, args.kills - done), chance)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    took_s = time.monotonic() - start_s
    print(f"{args.kills} kills, {changes} changes, none lost, none halved; {took_s:.0f} s, seed {args.seed}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
