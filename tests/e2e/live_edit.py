"""Three tools edit policy all the time while sessions are set up: the whole pool, its operators and its neighbours.

    python -m tests.e2e.live_edit --seconds 60 --threads 8 --changes 100

Each tool is a process that talks to the control socket: one gives our server another certificate and, in one go with
it, another expression; one discloses another identity to servers; one trusts and distrusts an authority, by changing
expressions, and changes the host's crypto policy.  Meanwhile our server and our client have sessions with software of
another kind.  The log says by which generation each was decided; by that one alone its certificate, its identity, its
group, the expressions it was judged by, and whether it was let in must be explained, and it must have been the current
one at some moment between request and reply.
"""

from __future__ import annotations

import argparse
import base64
import bisect
import contextlib
import itertools
import json
import re
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import libstub
from tests.fixtures.pki import Leaf, Pki
from tlspool_admin.client import ask
from tlspool_admin.devpool import DevPool

SERVER, CALLERS = "localhost", ("tlspool.arpa2.lab", "playground.arpa2.lab")
NAME = "www.example.com"
CERTIFICATES = 16
"""Certificates that our server has in turn."""

GROUPS = {"intermediate": "x25519", "fips-like": "secp256r1"}
"""What the neighbours agree on with us, by crypto policy."""

_LINE = re.compile(
    r"event=session\.(start|refused|failed) .*?\bservice=n(\d+) .*?\blocalid=(\S+) generation=(\d+) "
    r"(?:.*?\bgroup=(\S+))?"
)
WAIT_S = 60
REMEMBERED = 900
"""Sessions that the broker is asked to explain: fewer than it remembers, which others of the pool may be among."""


# --- a tool -----------------------------------------------------------------------------------------------


def tool(path: str) -> None:
    """Be a tool: read what to write from standard input, and write it in turn until that ends."""
    plan = json.loads(sys.stdin.readline())
    due = time.monotonic()
    for number, request in itertools.chain.from_iterable(itertools.repeat(list(enumerate(plan["requests"])))):
        begun = time.monotonic()
        answer = ask(Path(path), request)
        print(json.dumps([number, answer["generation"], begun, time.monotonic()]), flush=True)
        due += plan["every_s"]
        if select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
            return


@dataclass
class Change:
    """A generation: when it was asked for and when that was answered, and the state that a tool wrote."""

    generation: int
    begun: float
    ended: float
    state: object


class Tool:
    """A process of ours, and what it has done."""

    def __init__(self, control: Path, writes: list[tuple[object, dict[str, object]]], every_s: float) -> None:
        self._states = [state for state, _ in writes]
        begun = time.monotonic()
        # the first of them at once, so that there is a state from the beginning
        first = ask(control, writes[0][1])
        self.changes = [Change(int(str(first["generation"])), begun, time.monotonic(), writes[0][0])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.live_edit", "--tool", str(control)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        requests = [request for _, request in writes]
        self._say(json.dumps({"requests": [*requests[1:], requests[0]], "every_s": every_s}))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _say(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        for line in self._process.stdout:
            number, generation, begun, ended = json.loads(line)
            state = self._states[(number + 1) % len(self._states)]
            self.changes.append(Change(generation, begun, ended, state))

    def end(self) -> str:
        """End it; return what went wrong there."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        error = self._process.stderr.read()
        self._process.wait(WAIT_S)
        self._thread.join(WAIT_S)
        self._process.stdout.close()
        self._process.stderr.close()
        return error

    def at(self, generation: int) -> object:
        """Return what this tool had written in a generation."""
        place = bisect.bisect_right([change.generation for change in self.changes], generation)
        return self.changes[place - 1].state


# --- sessions ---------------------------------------------------------------------------------------------


@dataclass
class Session:
    """What both ends saw of one session."""

    number: int
    kind: str
    begun: float
    ended: float = 0.0
    code: int = 0
    certificate: bytes = b""


@dataclass
class Run:
    """Everything that happened."""

    tools: dict[str, Tool]
    sessions: list[Session] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lines: dict[int, tuple[str, str, int, str]] = field(default_factory=dict)
    accounts: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    begun: float = 0.0
    seconds: float = 0.0

    @property
    def changes(self) -> list[Change]:
        """All changes, in order."""
        return sorted(
            (change for one in self.tools.values() for change in one.changes), key=lambda change: change.generation
        )


class Neighbours:
    """The other ends: clients and servers of Python's ssl."""

    def __init__(self, pool: DevPool, pki: Pki, leaf: Leaf) -> None:
        self.client = ssl.create_default_context()
        self.client.check_hostname = False
        self.client.verify_mode = ssl.CERT_NONE
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(leaf.path, leaf.key_path)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.server.load_verify_locations(pool.directory / "ca.pem")
        self.server.load_verify_locations(cadata=pki.root.public_bytes(Encoding.DER))

    def call(self, sock: socket.socket) -> bytes:
        """Be a client; return the certificate of the server."""
        with self.client.wrap_socket(sock, server_hostname=SERVER) as tls:
            tls.recv(1)
            return tls.getpeercert(binary_form=True) or b""

    def serve(self, sock: socket.socket) -> bytes:
        """Be a server; return the certificate of the client."""
        with contextlib.suppress(OSError), self.server.wrap_socket(sock, server_side=True) as tls:
            found = tls.getpeercert(binary_form=True) or b""
            tls.recv(1)
            return found
        return b""


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return socket.create_connection(listener.getsockname(), timeout=WAIT_S), listener.accept()[0]


class Driver:
    """Has sessions, in several threads, until it is told to stop."""

    def __init__(self, pool: DevPool, neighbours: Neighbours, run: Run) -> None:
        self._pool = libstub.Pool(str(pool.socket))
        self._neighbours = neighbours
        self._run = run
        self._numbers = itertools.count(1)
        self.over = threading.Event()

    def work(self, helpers: ThreadPoolExecutor) -> None:
        """Have one session after the other, two of three as server."""
        while not self.over.is_set():
            number = next(self._numbers)
            session = Session(number, "server" if number % 3 else "client", time.monotonic())
            try:
                (self._serve if session.kind == "server" else self._call)(session, helpers)
            except Exception as error:
                self._run.errors.append(f"session n{number}: {error!r}")
                continue
            self._run.sessions.append(session)

    def _serve(self, session: Session, helpers: ThreadPoolExecutor) -> None:
        ours, theirs = tcp_pair()
        other = helpers.submit(self._neighbours.call, theirs)
        with libstub.starttls_server(
            ours, SERVER, pool=self._pool, remote_auth="ignore", service=f"n{session.number}"
        ) as tls:
            session.ended = time.monotonic()
            tls.sock.sendall(b"x")
            session.certificate = other.result(WAIT_S)

    def _call(self, session: Session, helpers: ThreadPoolExecutor) -> None:
        ours, theirs = tcp_pair()
        other = helpers.submit(self._neighbours.serve, theirs)
        try:
            with libstub.starttls_client(ours, NAME, pool=self._pool, service=f"n{session.number}") as tls:
                session.ended = time.monotonic()
                tls.sock.sendall(b"x")
                session.certificate = other.result(WAIT_S)
        except libstub.RemoteUnverified as error:
            session.ended, session.code = time.monotonic(), error.code
            other.result(WAIT_S)

    def close(self) -> None:
        self._pool.close()


# --- all of it --------------------------------------------------------------------------------------------


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def writes(pool: DevPool, control: Path, pki: Pki) -> dict[str, list[tuple[object, dict[str, object]]]]:
    """Return what each tool writes in turn, with the state that there is then."""
    known = x509.load_pem_x509_certificate((pool.directory / "certs" / f"{SERVER}.pem").read_bytes())
    records = ask(control, {"cmd": "localid.get", "id": SERVER})["records"]
    uri = next(one["uri"] for one in records if "uri" in one)
    certificates = [pki.certify(SERVER, known).public_bytes(Encoding.DER) for _ in range(CERTIFICATES)]
    localid = {"cmd": "localid.set", "id": SERVER}
    anchor = {"cmd": "trust.set", "flags": "x509,client", "data": b64(pki.root_der)}
    policy = {"cmd": "policy.set", "key": "host"}

    def be(der: bytes, expression: str) -> dict[str, object]:
        credential = {**localid, "flags": "x509,client,server", "records": [{"uri": uri, "chain": [b64(der)]}]}
        judged = {**localid, "flags": "valexp,server", "records": [{"uri": expression}]}
        return {"cmd": "batch", "reason": "another certificate", "operations": [credential, judged]}

    def trust(expression: str, name: str) -> dict[str, object]:
        operations = [{**anchor, "valexp": expression}, {**policy, "policy": name}]
        return {"cmd": "batch", "operations": operations}

    return {
        "localid": [((der, text), be(der, text)) for der, text in zip(certificates, itertools.cycle("FA"))],
        "disclose": [(name, {"cmd": "disclose.set", "selector": ".", "ids": [name]}) for name in reversed(CALLERS)],
        "trust": [
            (("1", "intermediate"), trust("1", "intermediate")),
            (("1", "fips-like"), {**policy, "policy": "fips-like"}),
            (("a", "intermediate"), trust("a", "intermediate")),
            (("T", "intermediate"), {**anchor, "valexp": "T"}),
            (("0", "intermediate"), {**anchor, "valexp": "0"}),
            (("0", "fips-like"), {**policy, "policy": "fips-like"}),
        ],
    }


def run(pool: DevPool, directory: Path, *, seconds: float, threads: int, changes: float, least: int = 0) -> Run:
    """Edit and have sessions for some seconds, and until there were ``least`` of both; return what happened."""
    control = pool.run_dir / "broker.sock"
    pki = Pki(directory, "", "Live")
    every_s = 3 / changes
    tools = {name: Tool(control, todo, every_s) for name, todo in writes(pool, control, pki).items()}
    found = Run(tools)
    driver = Driver(pool, Neighbours(pool, pki, pki.leaf(NAME)), found)
    with ThreadPoolExecutor(threads) as workers, ThreadPoolExecutor(threads) as helpers:
        deadline = time.monotonic() + WAIT_S
        while any(len(one.changes) < 2 for one in tools.values()) and time.monotonic() < deadline:
            driver.over.wait(0.01)  # a process takes its time to begin
        found.begun = begun = time.monotonic()
        jobs = [workers.submit(driver.work, helpers) for _ in range(threads)]
        deadline = begun + seconds
        while time.monotonic() < deadline or (
            min(len(found.sessions), len(found.changes)) < least and time.monotonic() < begun + WAIT_S
        ):
            driver.over.wait(0.05)
        driver.over.set()
        for job in jobs:
            job.result(WAIT_S)
        found.seconds = time.monotonic() - begun
    found.errors += [f"tool {name}: {text}" for name, one in tools.items() if (text := one.end())]
    driver.close()
    for event, number, localid, generation, group in _LINE.findall(
        (pool.directory / "log" / "broker.log").read_text(errors="replace")
    ):
        found.lines[int(number)] = (event, localid, int(generation), group)
    for row in ask(control, {"cmd": "explain", "session": "list", "count": REMEMBERED})["accounts"]:
        if row["service"].startswith("n"):
            account = ask(control, {"cmd": "explain", "session": row["session"]})
            found.accounts[int(row["service"][1:])] = account
    return found


def check(found: Run) -> None:
    """Hold every session against the generation that decided it.

    Raises:
        AssertionError: an error, or a session that its generation does not explain.
    """
    assert not found.errors, found.errors[:5]
    changes = found.changes
    numbers = [change.generation for change in changes]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a generation is missing, or there twice"
    by_generation = {change.generation: change for change in changes}
    for session in found.sessions:
        assert session.number in found.lines, f"{session}: not in the log"
        event, localid, generation, group = found.lines[session.number]
        what = f"{session} {found.lines[session.number]}"
        change, following = by_generation.get(generation), by_generation.get(generation + 1)
        assert change is not None, what
        assert change.begun <= session.ended, f"{what}: of a generation that came later, {change.begun}"
        assert following is None or following.ended >= session.begun, f"{what}: of one that was over, {following}"
        account = found.accounts.get(session.number, {})
        assert account.get("generation", generation) == generation, f"{what} {account}"
        texts = {line["name"].split()[0]: line["text"] for line in account.get("trace", ()) if line["kind"] == "source"}
        trusted, policy = found.tools["trust"].at(generation)
        if session.kind == "server":
            certificate, expression = found.tools["localid"].at(generation)
            assert (event, localid) == ("start", SERVER), what
            assert session.certificate == certificate, what
            assert not account or texts["localid"] == expression, f"{what} {account}"
        elif trusted != "0":
            assert trusted == "1" or not account or texts["trust"] == trusted, f"{what} {account}"
            assert (event, session.code) == ("start", 0), what
            assert localid == found.tools["disclose"].at(generation), what
            shown = x509.load_der_x509_certificate(session.certificate).subject.rfc4514_string()
            assert localid in shown, f"{what} {shown}"
        else:
            assert (event, session.code) == ("refused", 402), what
        if event == "start":
            assert group.lower() == GROUPS[policy], what


def summary(found: Run) -> list[str]:
    """Return what was reached, in lines for people."""
    if not found.sessions:
        return [f"no session: {found.errors[:3]}"]
    ends = sorted(session.ended for session in found.sessions)
    gap = max((later - sooner for sooner, later in itertools.pairwise(ends)), default=0.0)
    waits = sorted(change.ended - change.begun for change in found.changes if change.begun >= found.begun)
    times = sorted(session.ended - session.begun for session in found.sessions)
    used = Counter(line[2] for line in found.lines.values())
    refused = sum(1 for session in found.sessions if session.code)
    return [
        f"{found.seconds:.1f} s: {len(found.sessions)} sessions ({len(found.sessions) / found.seconds:.0f}/s), "
        f"{refused} of them refused as they must be; {len(waits)} changes ({len(waits) / found.seconds:.0f}/s)",
        f"sessions by {len(used)} generations; longest gap between two ends {gap * 1000:.0f} ms; "
        f"session median {times[len(times) // 2] * 1000:.0f} ms, longest {times[-1] * 1000:.0f} ms",
        f"change median {waits[len(waits) // 2] * 1000:.1f} ms, longest {waits[-1] * 1000:.0f} ms",
    ]


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Edit policy while sessions are set up.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=8, help="sessions at a time")
    parser.add_argument("--changes", type=float, default=100, help="changes a second, of three tools together")
    parser.add_argument("--tool", metavar="SOCKET", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tool:
        tool(args.tool)
        return 0
    with tempfile.TemporaryDirectory(prefix="live-edit-", dir="/tmp") as name:
        pool = DevPool(Path(name) / "p")
        try:
            pool.up("ec", ["log_level info"])
            found = run(pool, Path(name), seconds=args.seconds, threads=args.threads, changes=args.changes)
        finally:
            pool.down()
    print("\n".join(summary(found)))
    check(found)
    print("each session was decided by exactly one generation, the current one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
