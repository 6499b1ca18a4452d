"""Whole pools with real neighbours.  Each fixture starts its part on loopback and stops it by its pid."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import libstub
from tests import report
from tests.fixtures import certs, slowtoken
from tests.fixtures.fake_keyd import FakeKeyd
from tests.fixtures.keyd_world import PIN, KeydWorld
from tests.fixtures.lone_broker import LoneBroker
from tests.fixtures.lone_worker import LoneWorker
from tests.fixtures.stopping import stop
from tlspool_admin.devca import general_names
from tlspool_admin.devpool import DevPool

NEEDED = (
    "openssl", "gnutls-cli", "gnutls-serv", "curl", "nginx", "softhsm2-util", "p11tool", "postfix", "dovecot", "slapd",
    "ldapsearch", "psql", "vsftpd", "prosody", "stunnel4", "tinyproxy", "microsocks", "xinetd", "freeradius",
    "radclient",
)  # fmt: skip
COMMANDS = Path(sys.executable).parent


@pytest.fixture(scope="session", autouse=True)
def neighbours():
    """Fail, and name what is missing, where a test would fail for want of a program."""
    missing = [name for name in NEEDED if not shutil.which(name) and not Path("/usr/sbin", name).exists()]
    assert not missing, f"these programs are missing: {', '.join(missing)}; run scripts/need test"


@pytest.fixture(scope="session")
def table():
    """Append (subject, other, outcome) to have it printed behind the results."""
    return Sessions()


class Sessions:
    def append(self, cells: tuple[str, str, str]) -> None:
        report.row("sessions with other TLS software", *cells)


def make_pool(tmp_path_factory, name: str, key_type: str = "ec", *extra: str) -> DevPool:
    pool = DevPool(tmp_path_factory.mktemp(name) / "p")
    pool.up(key_type, ["log_level debug", *extra])
    return pool


@pytest.fixture(scope="session", params=["ec", "rsa", "ec384", "ed25519"])
def each_pool(request, tmp_path_factory) -> Iterator[tuple[str, DevPool]]:
    """One pool for each kind of key."""
    pool = make_pool(tmp_path_factory, request.param, request.param)
    yield request.param, pool
    pool.down()


@pytest.fixture(scope="session")
def pool(tmp_path_factory) -> Iterator[DevPool]:
    """A pool with P-256 keys."""
    made = make_pool(tmp_path_factory, "shared")
    yield made
    made.down()


@pytest.fixture(scope="session")
def other_pool(tmp_path_factory) -> Iterator[DevPool]:
    """A second pool, which trusts the same CA as far as a test says so."""
    made = make_pool(tmp_path_factory, "other")
    yield made
    made.down()


@pytest.fixture
def own_pool(tmp_path_factory) -> Iterator[DevPool]:
    """A pool that a test may break."""
    made = make_pool(tmp_path_factory, "own")
    yield made
    made.down()


def log_of(pool: DevPool, name: str) -> str:
    return (pool.directory / "log" / f"{name}.log").read_text(errors="replace")


def await_log(pool: DevPool, name: str, pattern: str, start: int = 0, seconds: float = 10) -> str:
    """Wait for a line in a daemon's log, from a position on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        text = log_of(pool, name)[start:]
        if found := re.search(pattern, text):
            return found.group(0)
        time.sleep(0.02)
    raise AssertionError(f"no {pattern!r} in {name}.log:\n{text[-3000:]}")


class EchoServer:
    """A TCP server whose connections go through the pool; echoes what it reads until EOF."""

    def __init__(self, pool: DevPool, **options):
        self.options = {"localid": "localhost", "remote_auth": "ignore", **options}
        self.pool = libstub.Pool(str(pool.socket))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.sessions: list[libstub.TlsSession] = []
        self.errors: list[libstub.PoolError] = []
        self.settled = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._main = threading.Thread(target=self._accept, daemon=True)
        self._main.start()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock):
        try:
            session = libstub.starttls_server(sock, pool=self.pool, **self.options)
        except libstub.PoolError as error:
            with self.settled:
                self.errors.append(error)
                self.settled.notify_all()
            return
        with self.settled:
            self.sessions.append(session)
            self.settled.notify_all()
        with session, contextlib.suppress(OSError):
            while data := session.sock.recv(65536):
                session.sock.sendall(data)
            session.sock.shutdown(socket.SHUT_WR)

    def await_session(self, number: int = 1, seconds: float = 20):
        with self.settled:
            assert self.settled.wait_for(lambda: len(self.sessions) >= number, seconds), self.errors
            return self.sessions[number - 1]

    def await_error(self, number: int = 1, seconds: float = 20):
        with self.settled:
            assert self.settled.wait_for(lambda: len(self.errors) >= number, seconds), self.sessions
            return self.errors[number - 1]

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._main.join(5)
        self.pool.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def echo_server():
    """Make echo servers; all are closed at the end."""
    made = []

    def make(pool, **options):
        made.append(EchoServer(pool, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


class Program:
    """A server program under test; its output is kept."""

    def __init__(self, command, ready, log: Path, **options):
        self.log = log
        self.file = log.open("wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self.file, stderr=subprocess.STDOUT, **options
        )
        deadline = time.monotonic() + 15
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{command[0]} did not start: {log.read_text(errors='replace')}")
            time.sleep(0.02)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def await_output(self, pattern: str, seconds: float = 20) -> str:
        """Wait until the program has said something, and return all that it has said."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, text := self.output()):
            assert time.monotonic() < deadline, f"{pattern} is not in: {text}"
            time.sleep(0.02)
        return text

    def stop(self):
        self.process.stdin.close()
        stop(self.process, 5)
        self.file.close()


def listens(port: int) -> bool:
    """Whether a loopback port is listening, without connecting to it (proc(5), net/tcp)."""
    wanted = f":{port:04X}"
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(path).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


@pytest.fixture
def start(tmp_path):
    """Start server programs; all are stopped at the end."""
    made = []

    def run(command, port, **options):
        made.append(Program(command, lambda: listens(port), tmp_path / f"program-{len(made)}.log", **options))
        return made[-1]

    yield run
    for program in made:
        program.stop()


class Authority:
    """A CA with software keys, for remotes that are no pool."""

    def __init__(self, directory: Path, name: str = "Test root"):
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        self.path = directory / "test-ca.pem"
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, identity, *, start_days=-1, end_days=10, usage=("server", "client"), self_signed=False, key=None):
        """Return (certificate path, key path)."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity)])
        purposes = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=start_days))
            .not_valid_after(now + datetime.timedelta(days=end_days))
            .add_extension(x509.SubjectAlternativeName(general_names(identity)), critical=False)
            .add_extension(x509.ExtendedKeyUsage([purposes[word] for word in usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key((key if self_signed else self.key).public_key()),
                critical=False,
            )
            .sign(key if self_signed else self.key, hashes.SHA256())
        )
        stem = self.directory / f"{identity}-{certificate.serial_number:x}"
        certificate_path, key_path = stem.with_suffix(".crt"), stem.with_suffix(".key")
        certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate_path, key_path


def tlspool(pool: DevPool, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the operator's command against a pool."""
    return subprocess.run(
        [str(COMMANDS / "tlspool"), *words],
        env={**os.environ, **pool.environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=check,
    )


def trust(pool: DevPool, authority: Authority) -> None:
    """Let a pool believe an authority."""
    tlspool(pool, "trust", "set", "x509,client,server", "1", str(authority.path))


@pytest.fixture(scope="session")
def authority(tmp_path_factory, pool) -> Authority:
    """A CA that the shared pool trusts."""
    made = Authority(tmp_path_factory.mktemp("ca"))
    trust(pool, made)
    return made


@pytest.fixture(scope="session")
def stranger(tmp_path_factory) -> Authority:
    """A CA that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"), "Stranger")


def connect(port: int, **options) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20, **options)


def until(condition, seconds: float = 20):
    """Wait until something is so; return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def echoes(sock: socket.socket, data: bytes = b"x" * 1000) -> bool:
    """Whether what is said comes back."""
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        part = sock.recv(65536)
        assert part, "the session has ended"
        got += part
    return got == data


def readable(fd, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


@pytest.fixture
def http_behind_tunnel():
    """Put a plain HTTP server behind `tlspool tunnel server`; return the TLS port."""
    import http.server

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"hello\n")

        def log_message(self, *_):
            pass

    made = []

    def make(pool, *words):
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        command = [str(COMMANDS / "tlspool"), "tunnel", "server", "--listen", "127.0.0.1:0"]
        command += ["--connect", f"127.0.0.1:{web.server_port}", "--localid", "localhost", "--client-auth", "ignore"]
        process = subprocess.Popen(
            [*command, *words], env={**os.environ, **pool.environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        made.append((web, thread, process))
        line = b""
        while b"ready on" not in line:
            line = process.stdout.readline()
            assert line, "the tunnel ended"
        return int(re.search(rb"ready on 127\.0\.0\.1:(\d+)", line).group(1))

    yield make
    for web, thread, process in made:
        web.shutdown()
        thread.join()
        web.server_close()
        process.terminate()
        process.communicate(timeout=20)


# --- a worker without a pool ------------------------------------------------------------------------------------


@pytest.fixture
def own(no_leaks):
    """A broker without its neighbours, which the test plays."""
    with LoneBroker() as broker:
        yield broker


@pytest.fixture
def tcp():
    """A connected TCP socket and its remote end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    with one, other:
        other.settimeout(20)
        yield one, other


@pytest.fixture(scope="module")
def lone_keyd():
    """Software keys for each kind, in the key daemon's place."""
    with FakeKeyd({kind: certs.leaf("local.example", kind).private for kind in certs.KINDS}) as made:
        yield made


@pytest.fixture(scope="module")
def lone_worker(lone_keyd, tmp_path_factory):
    """One worker for the tests of a module: none of them may hurt it."""
    with LoneWorker(lone_keyd, tmp_path_factory.mktemp("worker") / "log") as made:
        yield made


@pytest.fixture
def worker(lone_worker):
    """The worker of the module; a test that breaks it fails."""
    yield lone_worker
    assert lone_worker.process.poll() is None, lone_worker.log.read_text()
    assert "bug" not in lone_worker.log.read_text(), lone_worker.log.read_text()
    assert "late import" not in lone_worker.log.read_text(), lone_worker.log.read_text()


@pytest.fixture
def files(tmp_path):
    """Write key and chain where the ssl module can read them."""

    def write(*chain):
        path = tmp_path / f"{chain[0].certificate.serial_number:x}.pem"
        secret = chain[0].private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(secret + b"".join(one.pem for one in chain))
        return str(path)

    return write


@pytest.fixture
def make_keyd(tmp_path):
    """Start key daemons without a pool, which a test may break; all are stopped at the end."""
    made = []

    def start(tokens=None, **options):
        directory = tmp_path / str(len(made))
        directory.mkdir()
        world = KeydWorld(directory, tokens or {"t1": "ec"}, **options)
        made.append(world)
        return world.__enter__()

    yield start
    for world in made:
        world.close()
        assert PIN not in world.log


@pytest.fixture(scope="module")
def slow_module(tmp_path_factory):
    return str(slowtoken.build(tmp_path_factory.mktemp("slow")))
