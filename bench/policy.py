"""What policy costs: the engine alone, look-ups in the databases, and handshakes that are judged.

``python -m bench.policy`` measures this only; ``python -m bench`` measures it too.  A judged handshake means something
beside one that is not judged, of the same round: two pools take turns, alike but for their policy.  One has anchors
with the expression ``1`` and nothing else.  In the other our identity, what is disclosed and the anchor have
expressions, a revocation list is stored, and certificates are pinned.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from bench.peers import IDENTITY, Peer, free_port
from bench.verified import Figure, cpu_s, issue, measure, start
from tlspool_admin.client import ask
from tlspool_admin.devca import DevCa
from tlspool_admin.devpool import DevPool
from tlspool_broker import credentials, records
from tlspool_broker.databases import Databases
from tlspool_broker.edit import Edit
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_broker.validation import expression, facts, judgement
from tlspool_broker.validation.facts import Context
from tlspool_broker.validation.judgement import Source
from tlspool_common.codec import decode_untrusted, encode
from tlspool_common.identity import parse_selector_untrusted, parse_untrusted
from tlspool_common.messages import BY_MESSAGE, Finding, RemoteAuth, RemoteShown, Side
from tlspool_worker.shown import Chain, Wire, describe_untrusted

SOURCES = (("localid", "TIR&&l&"), ("disclose", "TI&"), ("anchor", "Tl&"))
"""The full policy: expressions by where they come from."""

CLIENT = "tlspool.arpa2.lab"
REMOTES = 600
"""More than are remembered anywhere."""

IDENTITIES, SELECTORS, ANCHORS, PINS, REVOKED = 1000, 1000, 140, 500, 5000
"""In the databases that are looked up in; anchors as many as a system's bundle has."""


def rate(work: Callable[[], object], seconds: float) -> float:
    """Return how often a second a function can be called."""
    count, batch, begun = 0, 1, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        for _ in range(batch):
            work()
        count += batch
        batch = min(batch * 2, 1000)
    return count / spent


# --- engine -----------------------------------------------------------------------------------------------


class _Stored:
    """A pin, and a list that is in date."""

    def __init__(self, now_s: int) -> None:
        self._revocations = Revocations(now_s - 3600, now_s + 3600, frozenset([b"\x05"]))

    def pins(self, remote: str) -> list[Pin]:
        """As the databases have it."""
        return [Pin(bytes(32), 0, 0, remote)]

    def revocations(self, _issuer_key: bytes) -> Revocations:
        """As the databases have it."""
        return self._revocations


def shown() -> RemoteShown:
    """Return what a server in good order shows."""
    return RemoteShown(
        session_id=1, tls_version=0x0304, cipher="TLS_AES_256_GCM_SHA384", group="X25519MLKEM768", fault=0, detail="",
        anchor_sha256=bytes(32), self_signed=False, names=("dns:www.example.com",), subject="CN=www.example.com",
        leaf_sha256=bytes(32), spki_sha256=bytes(32), not_after_s=1 << 32,
        strengths=("ec 256 sha256", "ec 384 sha384", "ec 384 sha384"), usages=("1.3.6.1.5.5.7.3.1",),
        extensions=("2.5.29.17",), links=("aabb 1234", "ccdd 5678"), crl_urls=(), ocsp_urls=(), must_staple=False,
        stapled=Finding.NONE, stapled_detail="", chain=(),
    )  # fmt: skip


def engine(seconds: float) -> dict[str, float]:
    """Measure expressions, and judgements with everything that belongs to them."""
    now_s = int(datetime.datetime.now(datetime.UTC).timestamp())
    context = Context(
        side=Side.CLIENT,
        remote_auth=RemoteAuth.REQUIRE,
        now_s=now_s,
        expected=parse_untrusted("www.example.com"),
        stored=_Stored(now_s),
    )
    remote, sources = shown(), [Source(where, text) for where, text in SOURCES]
    parsed, values = expression.parse(SOURCES[0][1]), dict.fromkeys("TIRl", True)
    if not judgement.judge(sources, facts.from_shown(remote, context), {}).outcome:
        raise RuntimeError("the remote should be accepted")
    return {
        "evaluations of an expression": rate(lambda: parsed.value(values), seconds),
        "judgements by three expressions": rate(
            lambda: judgement.judge(sources, facts.from_shown(remote, context), {}), seconds
        ),
        "judgements by the baseline": rate(lambda: judgement.judge((), facts.from_shown(remote, context), {}), seconds),
    }


def descriptions(directory: Path, seconds: float) -> dict[str, float]:
    """Measure what it takes to tell the broker of a remote: of one that is new, and of one that has been there."""
    ca = DevCa(directory)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    root = ca.certificate.public_bytes(Encoding.DER)
    names = [f"host{number}.example.com" for number in range(REMOTES)]
    chains = [(ca.issue(name, spki).public_bytes(Encoding.DER), root) for name in names]
    code = BY_MESSAGE[RemoteShown].code

    def tell(chain: tuple[bytes, bytes]) -> None:
        described = describe_untrusted(Chain(ders=chain, anchored=True), Wire(), tells_chain=True)
        decode_untrusted(RemoteShown, encode(code, 0, described))

    every, same = cycle(chains), chains[0]
    return {
        "descriptions there and back, new remotes": rate(lambda: tell(next(every)), seconds),
        "descriptions there and back, the same one": rate(lambda: tell(same), seconds),
    }


# --- databases --------------------------------------------------------------------------------------------


def _fill(databases: Databases, ca: DevCa, spki: bytes) -> None:
    certificate = ca.issue("host.example.com", spki).public_bytes(Encoding.DER)
    both, judged = ["x509", "client", "server"], ["valexp", "client"]
    anchor, anchor_flags = ca.certificate.public_bytes(Encoding.DER), records.trust_flags(both)

    def work(edit: Edit) -> None:
        for number in range(IDENTITIES):
            donai = parse_untrusted(f"host{number}.example.com")
            for words, entry in ((both, (f"pkcs11:object=host{number}", [certificate])), (judged, ("TI&", []))):
                flags = records.local_flags(words)
                new = credentials.local_values(flags, [entry])
                edit.localid_file(donai, new, flags & records.TYPE_MASK, flags & records.ROLE_MASK)
        for number in range(SELECTORS):
            selector = parse_selector_untrusted(f"remote{number}.example.net")
            edit.disclose_set(selector, [parse_untrusted(f"host{number % IDENTITIES}.example.com")], "TI&")
        for number in range(ANCHORS):
            key = number.to_bytes(20, "big")
            edit.trust_file(credentials.trust_values(anchor_flags, "1", [anchor], key), 0)
        for number in range(PINS):
            edit.pin(Pin(number.to_bytes(32, "big"), 0, 0, f"remote{number}.example.net"))
        serials = frozenset((number + 128).to_bytes(4, "big") for number in range(REVOKED))
        edit.revoke(bytes(20), Revocations(1, 2, serials))

    databases.change(work)


def lookups(directory: Path, seconds: float) -> dict[str, float]:
    """Measure what a session asks, when it has to be read and when it is remembered."""
    home = directory / "lookups"
    home.mkdir()
    databases = Databases(home)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    _fill(databases, DevCa(directory), key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    ours = cycle([parse_untrusted(f"host{number}.example.com") for number in range(IDENTITIES)])
    theirs = cycle([parse_untrusted(f"remote{number}.example.net") for number in range(SELECTORS)])

    def forgetting(work: Callable[[], object]) -> Callable[[], object]:
        def both() -> object:
            databases.forget()
            return work()

        return both

    questions: dict[str, Callable[[], object]] = {
        "credentials": lambda: databases.credentials(next(ours), Side.SERVER),
        "disclosure": lambda: databases.disclosure(next(theirs)),
        f"anchors, {ANCHORS} of them": databases.anchors,
        f"pins, {PINS} of them": lambda: databases.pins(str(next(theirs))),
    }
    try:
        found = {}
        for name, work in questions.items():
            found[f"{name}, read"] = rate(forgetting(work), seconds)
            for _ in range(max(IDENTITIES, SELECTORS)):
                work()
            found[f"{name}, remembered"] = rate(work, seconds)
        return found
    finally:
        databases.close()


# --- handshakes -------------------------------------------------------------------------------------------


class Pair:
    """Two pools with tunnels in either role, one CA for all remotes, and one remote of each kind."""

    def __init__(self, directory: Path, load: str, backend_port: int) -> None:
        self.directory = directory
        self._load = load
        self._backend_port = backend_port
        self._ca = DevCa(directory)
        self._pem = {
            name: issue(self._ca, name, directory / f"{name}.both.pem") for name in ("john@example.com", IDENTITY)
        }
        self.pools: list[DevPool] = []
        self._peers: list[Peer] = []
        self._tunnels: dict[str, list[int]] = {}
        self.ports: dict[str, dict[str, int]] = {}

    def start(self) -> None:
        """Start everything."""
        remote = self._terminator()
        for name in ("1", "full"):
            pool = DevPool(self.directory / f"policy-{name}")
            self.pools.append(pool)
            pool.up("ec", ["log_level warning"])
            self._write(pool, name == "full")
            server, client = free_port(), free_port()
            words = ["--localid", IDENTITY, "--client-auth", "require"]
            self._tunnels[name] = [
                self._tunnel(pool, "server", server, self._backend_port, *words),
                self._tunnel(pool, "client", client, remote, "--remoteid", IDENTITY),
            ]
            self.ports[name] = {"server": server, "client": client}

    def _terminator(self) -> int:
        """Start stunnel, as the server that our clients meet."""
        port, path = free_port(), self.directory / "terminator.conf"
        lines = ["foreground = yes", "pid =", "debug = 3", "sslVersionMin = TLSv1.2", "[bench]"]
        lines += [f"accept = 127.0.0.1:{port}", f"connect = 127.0.0.1:{self._backend_port}"]
        lines += [f"cert = {self._pem[IDENTITY]}", "options = NO_TICKET", "sessionCacheSize = 1", ""]
        path.write_text("\n".join(lines))
        self._run(["stunnel", str(path)], port, {})
        return port

    def _tunnel(self, pool: DevPool, side: str, port: int, to: int, *words: str) -> int:
        command = [str(Path(sys.executable).parent / "tlspool"), "tunnel", side, "--listen", f"127.0.0.1:{port}"]
        return self._run([*command, "--connect", f"127.0.0.1:{to}", *words], port, pool.environment)

    def _run(self, command: list[str], port: int, environment: dict[str, str]) -> int:
        peer = start(command, port, environment)
        self._peers.append(peer)
        return peer.processes[0].pid

    def _write(self, pool: DevPool, full: bool) -> None:
        def tell(command: str, **fields: object) -> None:
            ask(pool.run_dir / "broker.sock", {"cmd": command, "author": "bench", **fields})

        text = dict(SOURCES)
        root = base64.b64encode(self._ca.certificate.public_bytes(Encoding.DER)).decode()
        tell("trust.set", flags="x509,client,server", valexp=text["anchor"] if full else "1", data=root)
        if not full:
            return
        for identity, side in ((IDENTITY, "server"), (CLIENT, "client")):
            tell("localid.set", id=identity, flags=f"valexp,{side}", records=[{"uri": text["localid"]}])
        tell("disclose.set", selector=".", ids=[CLIENT], expression=text["disclose"])
        tell("trust.revoke", crl=base64.b64encode(self._list()).decode(), data=root)
        pins = [{"cmd": "trust.pin", "remote": f"r{n}.example.net", "sha256": f"{n:064x}"} for n in range(PINS)]
        tell("batch", operations=pins)

    def _list(self) -> bytes:
        key = load_pem_private_key((self.directory / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the CA of a development pool has a P-256 key")
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._ca.certificate.subject)
        builder = builder.last_update(now - datetime.timedelta(hours=1)).next_update(now + datetime.timedelta(days=1))
        for number in range(REVOKED):
            entry = x509.RevokedCertificateBuilder().serial_number(number + 1).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    def measure(self, name: str, side: str, seconds: float, clients: int) -> Figure:
        """Take one figure."""
        more = {"LOAD_PLAIN": "1"} if side == "client" else {"LOAD_PEM": str(self._pem["john@example.com"])}
        command = [self._load, str(self.ports[name][side]), "handshakes", str(seconds), str(clients)]
        pool = self.pools[list(self.ports).index(name)]
        return measure(
            f"policy {name}, our {side}",
            command,
            more,
            seconds,
            lambda: cpu_s([*pool.running().values(), *self._tunnels[name]]),
        )

    def close(self) -> None:
        """Stop everything."""
        for peer in self._peers:
            peer.stop()
        for pool in self.pools:
            pool.down()


def handshakes(pair: Pair, rounds: int, seconds: float) -> None:
    """Measure in turns, and print medians and the ratio of each round."""
    kinds = [(side, clients) for side in ("server", "client") for clients in (1, 16)]
    figures: dict[tuple[str, int], list[tuple[Figure, Figure]]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for side, clients in kinds:
            print(f"round {number + 1}/{rounds}  policy, our {side}".ljust(76), end="\r", file=sys.stderr)
            order = ("1", "full") if number % 2 else ("full", "1")
            both = {name: pair.measure(name, side, seconds, clients) for name in order}
            figures[side, clients].append((both["1"], both["full"]))
    print(" " * 76, end="\r", file=sys.stderr)
    print(f"\n{'handshakes with a verified remote':<32}{'policy 1':>12}{'full':>10}{'full costs':>14}   (rounds)")
    for (side, clients), rows in figures.items():
        what = f"our {side}, {clients} at a time"
        _line(f"{what}, 1/s", [(plain.per_s, full.per_s, plain.per_s / full.per_s) for plain, full in rows])
        _line(
            f"{'':<{len(what)}}  us", [(plain.cpu_us, full.cpu_us, full.cpu_us / plain.cpu_us) for plain, full in rows]
        )
    print("  us: processor time of all processes of pool and tunnel for one handshake")


def _line(what: str, rows: list[tuple[float, float, float]]) -> None:
    plain, full, _ = (statistics.median(row[place] for row in rows) for place in range(3))
    costs = sorted((row[2] - 1) * 100 for row in rows)
    spread = f"({costs[0]:+.0f} to {costs[-1]:+.0f})"
    print(f"  {what:<30}{plain:>12.0f}{full:>10.0f}{statistics.median(costs):>+12.1f} %   {spread}")


def table(title: str, rows: Iterable[tuple[str, float]]) -> None:
    """Print rates."""
    print(f"\n{title}")
    for name, figure in rows:
        print(f"  {name:<44}{figure:>12.0f}")


def report(directory: Path, load: str, backend_port: int, rounds: int, seconds: float) -> None:
    """Measure all of it, and print it."""
    brief = min(seconds, 1.0)
    table("policy engine, a second", [*engine(brief).items(), *descriptions(directory, brief).items()])
    table("database look-ups, a second", lookups(directory, brief).items())
    pair = Pair(directory, load, backend_port)
    try:
        pair.start()
        handshakes(pair, rounds, seconds)
    finally:
        pair.close()


def main() -> int:
    """Run as a command."""
    from bench.__main__ import backend, build

    parser = argparse.ArgumentParser(description="Measure what policy costs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a measurement")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tlspool-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with backend(directory) as port:
            report(directory, build(directory, "load", "-lssl", "-lcrypto"), port, args.rounds, args.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
