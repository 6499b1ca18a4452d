"""What the audit trail costs: the record alone, and handshakes of two pools that are alike but for it, taking turns.

``python -m bench.audit``.  Both ends of each session are in the pool, so a session is two records of the broker's at
its start and two at its end, and two of keyd's.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import libstub
from tlspool_admin.client import ask
from tlspool_admin.devpool import DevPool
from tlspool_common import openmetrics
from tlspool_common.trail import Trail

FIELDS: dict[str, str | int | float | bool | None] = {
    "session": 4711, "caller": "postfix.service[815]", "unit": "postfix.service", "uid": 104, "service": "smtp",
    "side": "server", "localid": "mail.example", "generation": 41, "remoteid": "jane@example.com", "verified": True,
    "version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "group": "X25519MLKEM768", "ms": 3.1,
}  # fmt: skip


def record_us(directory: Path, count: int = 20_000) -> float:
    """Return how many microseconds of processor time a record takes, until it is in the kernel."""
    trail = Trail(directory, "broker", lambda: 1_772_442_751.0)
    begun = time.process_time()
    for _ in range(count):
        trail.append("session.start", FIELDS)
    spent = time.process_time() - begun
    trail.close()
    return spent / count * 1e6


class Echo:
    """A server of a pool; answers one byte to each session."""

    def __init__(self, pool: DevPool) -> None:
        self.pool = pool
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with libstub.Pool(str(self.pool.socket)) as pool:
            while True:
                sock, _ = self.listener.accept()
                with libstub.starttls_server(sock, pool=pool, localid="localhost", remote_auth="require") as session:
                    session.sock.sendall(b"x")

    def cpu_s(self) -> float:
        """Return the processor time that broker and keyd have taken so far."""
        texts = [
            str(ask(self.pool.run_dir / f"{name}.sock", {"cmd": "metrics"})["text"]) for name in ("broker", "keyd")
        ]
        return sum(openmetrics.read_untrusted(text)["tlspool_cpu_seconds"][0].value for text in texts)

    def session(self, client: libstub.Pool) -> None:
        """Have one session."""
        sock = socket.create_connection(("127.0.0.1", self.port))
        with libstub.starttls_client(sock, "localhost", localid="tlspool.arpa2.lab", pool=client) as session:
            assert session.sock.recv(1) == b"x"


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--sessions", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        print(f"a record: {record_us(place / 'alone'):.0f} us")
        pools = {
            "without": DevPool(place / "a"),
            "with": DevPool(place / "b"),
        }
        try:
            pools["without"].up()
            pools["with"].up(extra=[f"audit_dir {place / 'trail'}", "audit_required yes"])
            echoes = {kind: Echo(pool) for kind, pool in pools.items()}
            clients = {kind: libstub.Pool(str(pool.socket)) for kind, pool in pools.items()}
            spent: dict[str, list[float]] = {"without": [], "with": []}
            worked: dict[str, list[float]] = {"without": [], "with": []}
            for turn in range(args.rounds + 1):
                for kind in sorted(spent, reverse=bool(turn % 2)):
                    begun, worked_s = time.perf_counter(), echoes[kind].cpu_s()
                    for _ in range(args.sessions):
                        echoes[kind].session(clients[kind])
                    if turn:  # the first round warms up
                        spent[kind].append((time.perf_counter() - begun) / args.sessions * 1000)
                        worked[kind].append((echoes[kind].cpu_s() - worked_s) / args.sessions * 1000)
            for what, values in (("a session", spent), ("of it processor time of broker and keyd", worked)):
                ratios = [one / other for one, other in zip(values["with"], values["without"], strict=True)]
                for kind, one in values.items():
                    print(f"{what}, {kind}: {statistics.median(one):.2f} ms")
                print(f"  ratio: {statistics.median(ratios):.3f} (rounds from {min(ratios):.3f} to {max(ratios):.3f})")
        finally:
            for pool in pools.values():
                pool.down()


if __name__ == "__main__":
    main()
