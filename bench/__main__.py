"""``python -m bench``: measure all terminators in turn, several rounds, and print medians and ratios.

The machine's speed drifts, so a figure means something only beside the same figure of a peer from the same
round: peers take turns within a round, and the ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import policy, radius
from bench.peers import Peer, World, pss_kib, today

HERE = Path(__file__).resolve().parent


def build(directory: Path, name: str, *libraries: str) -> str:
    """Compile a helper program."""
    out = directory / name
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(out), str(HERE / f"{name}.c"), *libraries, "-lpthread"],
        check=True,
    )
    return str(out)


@contextmanager
def backend(directory: Path) -> Iterator[int]:
    """Run the plaintext backend; yield its port."""
    with subprocess.Popen([build(directory, "backend")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.communicate()


class Bench:
    """The measurements of one run."""

    def __init__(self, load: str, seconds: float, megabytes: int, trips: int, sessions: int) -> None:
        self._load = load
        self.sessions = sessions
        self.kinds = {
            "handshakes/s, 1 client": ("handshakes", str(seconds), "1"),
            "handshakes/s, 16 clients": ("handshakes", str(seconds), "16"),
            "bulk to backend, MB/s": ("up", str(megabytes)),
            "bulk from backend, MB/s": ("down", str(megabytes)),
            "100-byte round trips/s": ("echo", str(trips), "100"),
        }
        self.figures: dict[str, dict[str, list[tuple[float, float, float]]]] = {kind: {} for kind in self.kinds}

    def measure(self, peer: Peer, kind: str) -> None:
        """Take one figure."""
        done = subprocess.run(
            [self._load, str(peer.port), *self.kinds[kind]], capture_output=True, text=True, timeout=120
        )
        if done.returncode:
            print(f"  {peer.name}: {kind} failed: {done.stderr.strip()}", file=sys.stderr)
            return
        rate, p50, p99 = (float(word) for word in done.stdout.split())
        self.figures[kind].setdefault(peer.name, []).append((rate, p50, p99))

    def memory(self, peer: Peer) -> tuple[float, float]:
        """Return (idle MiB, KiB for each idle session), proportional set size of all its processes."""
        before = pss_kib(peer.pids)
        with subprocess.Popen(
            [self._load, str(peer.port), "idle", str(self.sessions)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as load:
            assert load.stdout is not None
            opened = load.stdout.readline() == b"open\n"
            after = pss_kib(peer.pids)
            load.communicate(timeout=30)
        return before / 1024, (after - before) / self.sessions if opened else float("nan")


def table(bench: Bench, names: list[str]) -> None:
    """Print medians, p50/p99, and our figure as a ratio to each peer's of the same round."""
    ours = "tlspool"
    for kind, by_name in bench.figures.items():
        print(f"\n{kind}")
        print(f"  {'':<16}{'median':>10}{'p50 us':>10}{'p99 us':>10}{'ours / theirs':>16}")
        for name in names:
            rows = by_name.get(name)
            if not rows:
                print(f"  {name:<16}{'failed':>10}")
                continue
            rate, p50, p99 = (statistics.median(row[i] for row in rows) for i in range(3))
            timed = f"{p50:>10.0f}{p99:>10.0f}" if p50 else f"{'':>20}"
            pairs = [mine[0] / theirs[0] for mine, theirs in zip(by_name.get(ours, []), rows, strict=False)]
            ratio = f"{statistics.median(pairs):.2f}" if name != ours and pairs else ""
            print(f"  {name:<16}{rate:>10.0f}{timed}{ratio:>16}")


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Compare our tunnel with other TLS terminators.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a handshake measurement")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--trips", type=int, default=20000)
    parser.add_argument("--sessions", type=int, default=1000, help="idle sessions for the memory figures")
    parser.add_argument("--only", help="comma-separated names of peers")
    parser.add_argument("--json", type=Path, help="write all figures to a file too")
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))

    with tempfile.TemporaryDirectory(prefix="tlspool-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        load = build(directory, "load", "-lssl", "-lcrypto")
        with backend(directory) as port:
            world = World(directory, port)
            peers: list[Peer] = []
            try:
                _measure(args, load, world, peers)
            finally:
                for peer in peers:
                    peer.stop()
                world.close()
            if not args.only:
                policy.report(directory, load, port, args.rounds, args.seconds)
                radius.report(directory, load, port, args.rounds, args.seconds)
    return 0


def _measure(args: argparse.Namespace, load: str, world: World, peers: list[Peer]) -> None:
    wanted = set(args.only.split(",")) if args.only else None
    for start in world.starters():
        if wanted is None or start.__name__ in wanted:
            print(f"starting {start.__name__}", file=sys.stderr)
            peers.append(start())
    names = [peer.name for peer in peers]
    bench = Bench(load, args.seconds, args.megabytes, args.trips, args.sessions)
    memory = {peer.name: bench.memory(peer) for peer in peers}
    for number in range(args.rounds):
        for kind in bench.kinds:
            for peer in peers:
                print(f"round {number + 1}/{args.rounds}  {kind}  {peer.name}".ljust(76), end="\r", file=sys.stderr)
                bench.measure(peer, kind)
    print(" " * 76, end="\r", file=sys.stderr)
    print(f"{today()}, {os.cpu_count()} cores, {platform.platform()}; client, backend and peers share the cores")
    print("TLS 1.3, ECDSA P-256, no resumption; client: the system's libssl")
    table(bench, names)
    print(f"\nmemory (proportional set size), and for each of {args.sessions} idle sessions")
    for name, (idle_mib, session_kib) in memory.items():
        print(f"  {name:<16}{idle_mib:>10.1f} MiB{session_kib:>10.1f} KiB")
    if args.json:
        args.json.write_text(json.dumps({"figures": bench.figures, "memory": memory}, indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
