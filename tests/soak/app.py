"""An application of the soak: ``python -m tests.soak.app`` has sessions, until its standard input ends.

The first line of its input says what it needs to know (Plan).  After that a line is ``pause``: no new sessions, and
those that are there come to their end; or ``resume``.  For each session that is over it prints a line (Told).

Every byte that comes back is compared.  A wrong one is told as such, and nothing explains it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libstub
from tests.soak.people import People

PATIENCE_S = 45.0
"""For anything to come from a remote: more than the handshake's timeout, and than anything is stopped for."""

CHUNK_B = 32 * 1024

CLOSED, OPEN = "soak-closed", "soak-open"
"""Services that a RADIUS server is asked about: refused, and let in, when it does not answer."""

CUSTOMERS, STRANGERS = "home.example", "left.example"
"""Domains whose users it lets in, and refuses."""


@dataclass
class Plan:
    """What an application is told."""

    socket: str
    ca: str
    remote_ca: str
    certificate: str
    key: str
    revoked_certificate: str
    revoked_key: str
    openssl_port: int
    gnutls_port: int
    identities: list[str]
    slow_identity: str
    issuer: str
    seed: int
    number: int
    threads: int
    long_s: float


@dataclass
class Told:
    """What came of a session; times are of CLOCK_MONOTONIC, ``set_up`` 0: it did not come to that."""

    app: int
    kind: str
    begun: float
    set_up: float
    ended: float
    outcome: str = "ok"  # or setup, relay, control, remote, wrong
    code: int = 0
    text: str = ""
    session: int = 0
    size_b: int = 0
    user: str = ""  # who the remote is, where a RADIUS server is asked about that and accounts for it
    greeting_b: int = 0  # to the remote, beside ``size_b``, which goes in both directions


class Wrong(Exception):
    """Something came that is not what was sent."""


class Broken(Exception):
    """A session ended too soon, or would not do what it should; the first argument says where."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
        theirs, _ = listener.accept()
    theirs.settimeout(PATIENCE_S)
    return ours, theirs


def echo(sock: socket.socket, pace: Callable[[], None] = lambda: None) -> None:
    """Send back what comes, until it ends."""
    while data := sock.recv(CHUNK_B):
        sock.sendall(data)
        pace()


def exchange(sock: socket.socket, data: bytes) -> None:
    """Send, and compare what comes back.

    Raises:
        Wrong, Broken: another byte, or the end.
    """
    for at in range(0, len(data), CHUNK_B):
        chunk = data[at : at + CHUNK_B]
        sock.sendall(chunk)
        expect(sock, chunk, f"from byte {at} of {len(data)}")


def expect(sock: socket.socket, wanted: bytes, where: str = "") -> None:
    """Receive, and compare.

    Raises:
        Wrong, Broken: another byte, or the end.
    """
    got = b""
    while len(got) < len(wanted):
        more = sock.recv(len(wanted) - len(got))
        if not more:
            raise Broken("relay", f"the end after {len(got)} of {len(wanted)} bytes {where}")
        got += more
    if got != wanted:
        first = next(place for place, (one, other) in enumerate(zip(got, wanted, strict=True)) if one != other)
        raise Wrong(f"byte {first} is not what was sent, {where}")


class Aside:
    """Something that another thread does; its exception is raised where it is waited for."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._error = error

    def finish(self) -> None:
        """Wait for it.

        Raises:
            Exception: what it raised, or that it is not over.
        """
        self._thread.join(2 * PATIENCE_S)
        if self._thread.is_alive():
            raise Broken("remote", "it does not end")
        if self._error is not None:
            raise self._error


class App:
    """The process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pool = libstub.Pool(plan.socket)
        self._running = threading.Event()
        self._running.set()
        self._over = threading.Event()
        self._printing = threading.Lock()
        self.as_client = ssl.create_default_context(cafile=plan.ca)
        self.old_client = ssl.create_default_context(cafile=plan.ca)
        self.old_client.maximum_version = ssl.TLSVersion.TLSv1_2
        self.as_server = _server(plan.certificate, plan.key)
        self.as_revoked = _server(plan.revoked_certificate, plan.revoked_key)
        self._people = People(Path(plan.issuer), plan.number)

    @property
    def paused(self) -> bool:
        """Whether sessions should come to their end."""
        return self._over.is_set() or not self._running.is_set()

    def main(self) -> None:
        """Have sessions until the input ends."""
        threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(self.plan.threads)
        ]
        for thread in threads:
            thread.start()
        for line in sys.stdin:
            (self._running.set if line.strip() == "resume" else self._running.clear)()
        self._over.set()
        self._running.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        self.pool.close()

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self.plan.seed} {self.plan.number} {number}")
        kinds = list(KINDS)
        weights = [KINDS[kind][1] for kind in kinds]
        while not self._over.is_set():
            self._running.wait()
            kind = chance.choices(kinds, weights)[0]
            told = Told(self.plan.number, kind, time.monotonic(), 0.0, 0.0)
            begun = time.monotonic()
            try:
                KINDS[kind][0](self, chance, told)
            except Wrong as error:
                told.outcome, told.text = "wrong", str(error)
            except libstub.PoolError as error:
                told.outcome, told.code, told.text = "control" if told.set_up else "setup", error.code, str(error)
            except Broken as error:
                told.outcome, told.text = error.args[0], str(error.args[1])
            except (OSError, ssl.SSLError) as error:
                told.outcome, told.text = "relay" if told.set_up else "remote", repr(error)
            except Exception as error:  # a bug of the soak's
                told.outcome, told.text = "wrong", f"a bug: {error!r}"
            told.ended = time.monotonic()
            with self._printing:
                print(json.dumps(dataclasses.asdict(told)), flush=True)
            if told.outcome != "ok" and told.ended - begun < 0.1:
                time.sleep(0.1)  # while there is no pool

    @contextlib.contextmanager
    def served(self, told: Told, ours: socket.socket, localid: str, **options: object) -> Iterator[libstub.TlsSession]:
        """Be a server through the pool."""
        options = {"remote_auth": "ignore", "service": "soak", **options}
        with libstub.starttls_server(ours, localid, pool=self.pool, **options) as one:
            told.set_up, told.session = time.monotonic(), one.session_id
            one.sock.settimeout(PATIENCE_S)
            yield one

    def identity(self, chance: random.Random) -> str:
        """Return one of ours."""
        return chance.choice(self.plan.identities)

    def somebody(self, domain: str) -> tuple[str, ssl.SSLContext]:
        """Return an identity that nobody has had before, and a client that proves it."""
        context = ssl.create_default_context(cafile=self.plan.ca)
        return self._people.issue(domain, context), context


def _server(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


# --- kinds of sessions --------------------------------------------------------------------------------------


def _being_server(app: App, chance: random.Random, told: Told, localid: str, talk: Callable[[ssl.SSLSocket], None],
                  *, old: bool = False, client: ssl.SSLContext | None = None, greeting: bytes = b"",
                  **options: object) -> None:  # fmt: skip
    """Be an echo server for a client of Python's ssl, which says what it likes."""
    ours, theirs = pair()

    def remote() -> None:
        context = client or (app.old_client if old else app.as_client)
        with theirs, context.wrap_socket(theirs, server_hostname=localid) as tls:
            talk(tls)

    aside = Aside(remote)
    try:
        with app.served(told, ours, localid, **options) as one:
            one.sock.sendall(greeting)
            echo(one.sock)
    finally:
        if not told.set_up:
            with contextlib.suppress(Exception):
                aside.finish()
    aside.finish()


def server(app: App, chance: random.Random, told: Told) -> None:
    """Short sessions of our server, of all sizes."""
    data = chance.randbytes(chance.choice([1, 100, 5_000, 100_000]))
    told.size_b = len(data)
    _being_server(app, chance, told, app.identity(chance), lambda tls: exchange(tls, data), old=chance.random() < 0.3)


def bulk(app: App, chance: random.Random, told: Told) -> None:
    """Some megabytes."""
    data = chance.randbytes(2_000_000)
    told.size_b = len(data)
    _being_server(app, chance, told, app.identity(chance), lambda tls: exchange(tls, data))


def long(app: App, chance: random.Random, told: Told) -> None:
    """Sessions that stay, and say something now and then."""
    _being_server(app, chance, told, app.identity(chance), _saying_little(app, chance, told))


def _saying_little(app: App, chance: random.Random, told: Told) -> Callable[[ssl.SSLSocket], None]:
    end_s = time.monotonic() + chance.uniform(0.3, 1) * app.plan.long_s

    def talk(tls: ssl.SSLSocket) -> None:
        while True:
            data = chance.randbytes(chance.randrange(1, 300))
            told.size_b += len(data)
            exchange(tls, data)
            if time.monotonic() >= end_s or app.paused:
                return
            time.sleep(0.2)

    return talk


def localid(app: App, chance: random.Random, told: Told) -> None:
    """The application is asked who it is."""
    data = chance.randbytes(1000)
    told.size_b = len(data)
    seen = []

    def decide(proposed: str) -> str:
        seen.append(proposed)
        return proposed

    name = app.identity(chance)
    _being_server(app, chance, told, name, lambda tls: exchange(tls, data), on_localid=decide)
    if seen != [name]:
        raise Wrong(f"asked about {seen} instead of {name}")


def slow_token(app: App, chance: random.Random, told: Told) -> None:
    """Sessions whose key is in the token that is slow now and then."""
    data = chance.randbytes(100)
    told.size_b = len(data)
    _being_server(app, chance, told, app.plan.slow_identity, lambda tls: exchange(tls, data))


def detached(app: App, chance: random.Random, told: Told) -> None:
    """A session is let go, and taken back by another connection."""
    data = chance.randbytes(2000)
    told.size_b = 2 * len(data)
    name = app.identity(chance)
    ours, theirs = pair()

    def remote() -> None:
        with theirs, app.as_client.wrap_socket(theirs, server_hostname=name) as tls:
            exchange(tls, data)
            exchange(tls, data)

    aside = Aside(remote)
    with libstub.Pool(app.plan.socket) as other, app.served(told, ours, name) as one:
        one.detach()
        got = b""
        while len(got) < len(data) and (more := one.sock.recv(CHUNK_B)):
            one.sock.sendall(more)
            got += more
        again = other.reattach(one.ctlkey)
        if (again.localid, again.session_id) != (name, one.session_id):
            raise Wrong(f"reattached {again!r} instead of {one!r}")
        echo(one.sock)
    aside.finish()


def questions(app: App, chance: random.Random, told: Told) -> None:
    """What is asked about a session, beside what its remote knows."""
    name = app.identity(chance)
    ours, theirs = pair()
    known: list[bytes | None] = []
    data = chance.randbytes(500)

    def remote() -> None:
        with theirs, app.old_client.wrap_socket(theirs, server_hostname=name) as tls:
            known.append(tls.get_channel_binding("tls-unique"))
            exchange(tls, data)

    aside = Aside(remote)
    with app.served(told, ours, name) as one:
        binding = one.channel_binding("tls-unique")
        subject = one.distinguished_name("subject", local=True)
        first, again = (one.export_keying_material("EXPERIMENTAL-soak", None, 32) for _ in range(2))
        echo(one.sock)
    aside.finish()
    if binding != known[0] or first != again or name.encode() not in subject:
        raise Wrong(f"{binding!r} {known} {first == again} {subject!r}")


def billed(app: App, chance: random.Random, told: Told) -> None:
    """Somebody whom a RADIUS server has to know, and who pays for each byte."""
    data = chance.randbytes(chance.choice([1, 5_000, 300_000]))
    told.size_b = len(data)
    _billed(app, chance, told, CLOSED, lambda tls: exchange(tls, data))


def billed_long(app: App, chance: random.Random, told: Told) -> None:
    """The same, who stays."""
    _billed(app, chance, told, CLOSED, _saying_little(app, chance, told))


def billed_open(app: App, chance: random.Random, told: Told) -> None:
    """The same, of a service that goes on when no server answers."""
    data = chance.randbytes(chance.choice([1, 5_000, 300_000]))
    told.size_b = len(data)
    _billed(app, chance, told, OPEN, lambda tls: exchange(tls, data))


def barred(app: App, chance: random.Random, told: Told) -> None:
    """Somebody whom the server refuses."""
    _billed(app, chance, told, CLOSED, lambda tls: exchange(tls, b"let me in"), domain=STRANGERS)


def _billed(app: App, chance: random.Random, told: Told, service: str, talk: Callable[[ssl.SSLSocket], None],
            domain: str = CUSTOMERS) -> None:  # fmt: skip
    told.user, client = app.somebody(domain)
    greeting = chance.randbytes(chance.randrange(1, 2000))
    told.greeting_b = len(greeting)

    def greeted(tls: ssl.SSLSocket) -> None:
        expect(tls, greeting, "of the greeting")
        talk(tls)

    options = {"client": client, "greeting": greeting, "remote_auth": "require", "service": service}
    _being_server(app, chance, told, app.identity(chance), greeted, **options)


def client(app: App, chance: random.Random, told: Told) -> None:
    """Our client, and a server of Python's ssl."""
    _being_client(app, chance, told, app.as_server, "www.example.com")


def revoked(app: App, chance: random.Random, told: Told) -> None:
    """The same, whose certificate an operator revokes now and then."""
    _being_client(app, chance, told, app.as_revoked, "revoked.example.com")


def _being_client(app: App, chance: random.Random, told: Told, context: ssl.SSLContext, name: str) -> None:
    ours, theirs = pair()
    data = chance.randbytes(chance.choice([10, 20_000]))
    told.size_b = len(data)

    def remote() -> None:
        gone = contextlib.suppress(ConnectionResetError, BrokenPipeError)
        with theirs, context.wrap_socket(theirs, server_side=True) as tls, gone:
            echo(tls)

    aside = Aside(remote)
    try:
        with libstub.starttls_client(ours, name, pool=app.pool, service="soak") as one:
            told.set_up, told.session = time.monotonic(), one.session_id
            one.sock.settimeout(PATIENCE_S)
            if one.remoteid != name:
                raise Wrong(f"{one.remoteid} instead of {name}")
            exchange(one.sock, data)
    finally:
        with contextlib.suppress(Exception):
            aside.finish()


def openssl_server(app: App, chance: random.Random, told: Told) -> None:
    """Our client, and ``openssl s_server -rev``, which says each line backwards."""
    sock = socket.create_connection(("127.0.0.1", app.plan.openssl_port), timeout=PATIENCE_S)
    with libstub.starttls_client(sock, "www.example.com", pool=app.pool, service="soak") as one:
        told.set_up, told.session = time.monotonic(), one.session_id
        one.sock.settimeout(PATIENCE_S)
        for _ in range(3):
            line = chance.randbytes(40).hex()
            one.sock.sendall(line.encode() + b"\n")
            expect(one.sock, line[::-1].encode() + b"\n")


def gnutls_server(app: App, chance: random.Random, told: Told) -> None:
    """Our client, and ``gnutls-serv --echo``."""
    sock = socket.create_connection(("127.0.0.1", app.plan.gnutls_port), timeout=PATIENCE_S)
    with libstub.starttls_client(sock, "www.example.com", pool=app.pool, service="soak") as one:
        told.set_up, told.session = time.monotonic(), one.session_id
        one.sock.settimeout(PATIENCE_S)
        line = chance.randbytes(40).hex().encode() + b"\n"
        one.sock.sendall(line)
        expect(one.sock, line)


def openssl_client(app: App, chance: random.Random, told: Told) -> None:
    """Our server, and ``openssl s_client``."""
    name = app.identity(chance)
    command = ["openssl", "s_client", "-quiet", "-servername", name, "-CAfile", app.plan.ca]
    _program(app, chance, told, name, [*command, "-verify_return_error", "-connect"], "127.0.0.1:{}")


def gnutls_client(app: App, chance: random.Random, told: Told) -> None:
    """Our server, and ``gnutls-cli``."""
    name = app.identity(chance)
    command = ["gnutls-cli", "--logfile=/dev/null", f"--x509cafile={app.plan.ca}", f"--sni-hostname={name}"]
    _program(app, chance, told, name, [*command, f"--verify-hostname={name}", "127.0.0.1", "-p"], "{}")


def _program(app: App, chance: random.Random, told: Told, name: str, command: list[str], place: str) -> None:
    line = chance.randbytes(40).hex().encode() + b"\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        process = subprocess.Popen(
            [*command, place.format(listener.getsockname()[1])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if process.stdin is None or process.stdout is None:
            raise Broken("remote", "no pipes")
        try:
            ours, _ = listener.accept()
            with app.served(told, ours, name) as one:
                process.stdin.write(line)
                process.stdin.flush()
                got = b""
                while not got.endswith(b"\n") and (more := one.sock.recv(CHUNK_B)):
                    got += more
                if not got:
                    raise Broken("relay", "the end before anything")
                if got != line:
                    raise Wrong(f"{got!r} instead of {line!r}")
                one.sock.sendall(got)
                back = process.stdout.readline()
                if not back:
                    raise Broken("relay", "the program had no answer")
                if back != line:
                    raise Wrong(f"{back!r} instead of {line!r}")
        finally:
            process.kill()
            process.communicate()


KINDS: dict[str, tuple[Callable[[App, random.Random, Told], None], float]] = {
    "server": (server, 10),
    "client": (client, 6),
    "bulk": (bulk, 1),
    "long": (long, 2),
    "localid": (localid, 2),
    "detached": (detached, 2),
    "questions": (questions, 2),
    "revoked": (revoked, 2),
    "billed": (billed, 4),
    "billed long": (billed_long, 1),
    "billed open": (billed_open, 3),
    "barred": (barred, 1),
    "slow token": (slow_token, 1),
    "openssl server": (openssl_server, 2),
    "gnutls server": (gnutls_server, 2),
    "openssl client": (openssl_client, 1),
    "gnutls client": (gnutls_client, 1),
}
"""What sessions there are, and how often."""


if __name__ == "__main__":
    App(Plan(**json.loads(sys.stdin.readline()))).main()
