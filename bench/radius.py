"""What RADIUS costs: handshakes that are asked about beside such that are not, and records that have waited.

``python -m bench.radius`` measures this only; ``python -m bench`` measures it too.  The server is a FreeRADIUS on
loopback with the policy of examples/radius, as the tests have it: it shares the cores with everybody else, so what is
told is the cost of asking *and* of answering.  Three pools take turns, alike but for RADIUS: ``none`` asks nobody,
``authz`` has one question for each session, ``all`` two questions and accounting.  A figure means something beside that
of ``none`` in the same round.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from bench.peers import IDENTITY, Peer, free_port
from bench.verified import Figure, cpu_s, issue, measure, start
from tests.fixtures.freeradius import FreeRadius
from tests.fixtures.radius_process import Helper, Status, account
from tlspool_admin.client import ask
from tlspool_admin.devca import DevCa
from tlspool_admin.devpool import DevPool
from tlspool_admin.progress import Progress

REMOTE = "john@home.example"
WANTED_PER_S = 200
"""Sessions a second with authorisation on."""

RECORDS = 10_000
AT_ONCE = 512
"""Records that the helper is given before it has acknowledged them: as many as a broker gives it."""

KINDS = {"none": (), "authz": ("authz",), "all": ("authn", "authz", "acct")}


class Pools:
    """Three pools with a tunnel each, one server, one CA for the remotes."""

    def __init__(self, directory: Path, load: str, backend_port: int) -> None:
        self._directory = directory
        self._load = load
        self._backend_port = backend_port
        self._ca = DevCa(directory)
        self._pem = issue(self._ca, REMOTE, directory / f"{REMOTE}.radius.pem")
        self.server = FreeRadius(f"{REMOTE}\n\tClass = bench\n", f"{IDENTITY}/*/home.example\n")
        # Nobody reads the log of questions, and writing it is no part of what is measured.
        self.server.edit("site.conf", "\t\ttlspool_asked\n", "")
        self._pools: dict[str, DevPool] = {}
        self._peers: dict[str, Peer] = {}

    def start(self) -> None:
        """Start everything."""
        self.server.start()
        secrets = self._directory / "radius-secrets"
        secrets.touch(0o600)
        secrets.write_text(f"127.0.0.1 {self.server.secret}\n")
        root = base64.b64encode(self._ca.certificate.public_bytes(Encoding.DER)).decode()
        for name, purposes in KINDS.items():
            lines = ["log_level warning", f"radius_secret_file {secrets}", "radius_wait_s 20", "radius_timeout_s 5"]
            lines += [f"radius_spool_dir {self._directory}/radius-{name}/spool"]
            for purpose in purposes:
                lines.append(f"radius_{purpose} {self.server.acct if purpose == 'acct' else self.server.auth}")
            pool = self._pools[name] = DevPool(self._directory / f"radius-{name}" / "p")
            pool.up("ec", lines)
            ask(pool.run_dir / "broker.sock", {"cmd": "trust.set", "flags": "x509,server", "valexp": "1", "data": root})
            port = free_port()
            command = [str(Path(sys.executable).parent / "python"), "-m", "tlspool_admin", "tunnel", "server"]
            command += ["--listen", f"127.0.0.1:{port}", "--connect", f"127.0.0.1:{self._backend_port}"]
            command += ["--localid", IDENTITY, "--client-auth", "require"]
            self._peers[name] = start(command, port, pool.environment)

    def measure(self, name: str, seconds: float, clients: int) -> Figure:
        """Take one figure."""
        command = [self._load, str(self._peers[name].port), "handshakes", str(seconds), str(clients)]

        def spent_s() -> float:
            """Return the processor time of pool, helper and tunnel; the server's is not ours."""
            return cpu_s([*self._pools[name].running().values(), *self._peers[name].pids])

        return measure(f"RADIUS {name}", command, {"LOAD_PEM": str(self._pem)}, seconds, spent_s)

    def settle(self) -> int:
        """Wait until all records have left; return how many the server has."""
        with Progress("records sent") as progress:
            while waiting := ask(self._pools["all"].run_dir / "broker.sock", {"cmd": "radius"}).get("waiting"):
                progress.say(f"{waiting} to go")
                time.sleep(0.1)
        return len(self.server.records())

    def close(self) -> None:
        """Stop everything."""
        for peer in self._peers.values():
            peer.stop()
        for pool in self._pools.values():
            pool.down()
        self.server.close()


def handshakes(pools: Pools, rounds: int, seconds: float) -> None:
    """Measure in turns, and print medians and the ratio of each round."""
    figures: dict[int, list[dict[str, Figure]]] = {1: [], 16: []}
    for number in range(rounds):
        for clients, rows in figures.items():
            print(f"round {number + 1}/{rounds}  RADIUS, {clients} at a time".ljust(76), end="\r", file=sys.stderr)
            order = list(KINDS)[:: 1 if number % 2 else -1]
            rows.append({name: pools.measure(name, seconds, clients) for name in order})
    print(" " * 76, end="\r", file=sys.stderr)
    print(f"\n{'handshakes with RADIUS':<32}{'none':>10}{'authz':>10}{'all':>10}{'authz/none':>14}{'all/none':>12}")
    for clients, rows in figures.items():
        what = f"{clients} at a time"
        _line(f"{what}, 1/s", [{name: figure.per_s for name, figure in row.items()} for row in rows])
        _line(f"{'':<{len(what)}}  us", [{name: figure.cpu_us for name, figure in row.items()} for row in rows])
    print("  us: processor time of all processes of pool, helper and tunnel for one handshake")
    for name, words in (("authz", "authorisation"), ("all", "authentication, authorisation and accounting")):
        most = statistics.median(row[name].per_s for row in figures[16])
        verdict = "yes" if most >= WANTED_PER_S else "NO"
        print(f"  {WANTED_PER_S} sessions a second with {words}: {verdict}, {most:.0f}")
    print(f"  the server has {pools.settle()} records of them, and none waits")


def _line(what: str, rows: list[dict[str, float]]) -> None:
    medians = "".join(f"{statistics.median(row[name] for row in rows):>10.0f}" for name in KINDS)
    ratios = [statistics.median(row[name] / row["none"] for row in rows) for name in ("authz", "all")]
    print(f"  {what:<30}{medians}{ratios[0]:>14.2f}{ratios[1]:>12.2f}")


def records(directory: Path, count: int = RECORDS) -> None:
    """Have so many records wait for a server that is away, then let it come, and print how fast both went."""
    server = FreeRadius()
    (directory / "spool").mkdir()
    secrets = f"127.0.0.1 {server.secret}\n".encode()
    try:
        acct = ("127.0.0.1", server.acct_port)
        with Helper(directory, directory / "helper.log", secrets, acct=(acct,), log_level="warning") as helper:
            begun = time.perf_counter()
            with Progress("records kept") as progress:
                _keep(helper, count, progress)
            kept_s = time.perf_counter() - begun
            waiting = helper.look().waiting
            server.start()
            begun = time.perf_counter()
            told = helper.look(retry=True)
            with Progress("records sent") as progress:
                while told.waiting:
                    progress.at(count - told.waiting, count)
                    time.sleep(0.2)
                    told = helper.look()
            sent_s = time.perf_counter() - begun
        found = server.records()
        ids = {one["TLSPool-Record-Id"][0] for one in found}
        print(f"\naccounting: {count} records, {waiting} of which waited for a server that was away")
        print(f"  kept on the disk    {count / kept_s:>10.0f} a second")
        print(f"  sent, acknowledged  {count / sent_s:>10.0f} a second")
        print(f"  the server has      {len(found):>10}, of which {len(ids)} are different")
    finally:
        server.close()


def _keep(helper: Helper, count: int, progress: Progress) -> None:
    open_: list[int] = []
    for number in range(count):
        status = Status.STOP if number % 2 else Status.START
        open_.append(helper.send(account(status, f"bench-{number // 2}", session_s=number % 2)))
        if len(open_) >= AT_ONCE:
            _expect(helper, open_.pop(0))
            progress.at(number, count)
    for exchange in open_:
        _expect(helper, exchange)


def _expect(helper: Helper, exchange: int) -> None:
    told = helper.answer(exchange)
    if told.code:
        raise RuntimeError(f"a record is not kept: {told}")


def report(directory: Path, load: str, backend_port: int, rounds: int, seconds: float) -> None:
    """Measure all of it, and print it."""
    pools = Pools(directory, load, backend_port)
    try:
        pools.start()
        handshakes(pools, rounds, seconds)
    finally:
        pools.close()
    place = directory / "radius-records"
    place.mkdir()
    records(place)


def main() -> int:
    """Run as a command."""
    from bench.__main__ import backend, build

    parser = argparse.ArgumentParser(description="Measure what RADIUS costs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a measurement")
    parser.add_argument("--records", action="store_true", help="only the records that wait")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tlspool-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        if args.records:
            records(directory)
            return 0
        with backend(directory) as port:
            report(directory, build(directory, "load", "-lssl", "-lcrypto"), port, args.rounds, args.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
