"""`tlspool tunnel` on both sides: many connections, clean shutdown, and never in the data path."""

import concurrent.futures
import hashlib
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from tests.e2e.conftest import COMMANDS, connect
from tlspool_admin.client import ask


class Tunnel:
    def __init__(self, pool, side, *words):
        self.process = subprocess.Popen(
            [str(COMMANDS / "tlspool"), "tunnel", side, "--listen", "127.0.0.1:0", *words],
            env={**os.environ, **pool.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        line = b""
        while b"ready on" not in line:
            line = self.process.stdout.readline()
            assert line, "the tunnel ended"
        self.port = int(re.search(rb":(\d+)", line[line.index(b"ready on") :]).group(1))

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output.decode()


@pytest.fixture
def tunnel():
    made = []

    def make(pool, side, *words):
        made.append(Tunnel(pool, side, *words))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def backend():
    """A plain TCP server: answers each connection with the digest of all it sent, after EOF."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def serve(sock):
        digest = hashlib.sha256()
        with sock:
            while data := sock.recv(1 << 18):
                digest.update(data)
            sock.sendall(digest.hexdigest().encode())

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def through(port, data):
    with connect(port) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(4096):
            answer += part
    return answer.decode()


def pair(pool, tunnel, backend, *server_words):
    server = tunnel(
        pool, "server", "--connect", f"127.0.0.1:{backend}", "--localid", "testsrv@tlspool.arpa2.lab", *server_words
    )
    client = tunnel(pool, "client", "--connect", f"127.0.0.1:{server.port}", "--remoteid", "testsrv@tlspool.arpa2.lab")
    return server, client


def test_data_survives_both_tunnels_to_the_last_byte(pool, tunnel, backend):
    _, client = pair(pool, tunnel, backend, "--client-auth", "require")
    for size in (0, 1, 16384, 16385, 5_000_000):
        data = os.urandom(size)
        assert through(client.port, data) == hashlib.sha256(data).hexdigest()


def test_many_at_once(pool, tunnel, backend):
    _, client = pair(pool, tunnel, backend)
    data = [os.urandom(20_000) for _ in range(60)]
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda d: through(client.port, d), data))
    assert answers == [hashlib.sha256(d).hexdigest() for d in data]


def test_the_tunnel_process_is_not_in_the_data_path(pool, tunnel, backend):
    server, client = pair(pool, tunnel, backend)
    sock = connect(client.port)
    sock.sendall(b"x" * 100)
    relaying = []
    deadline = time.monotonic() + 15
    while len(relaying) < 2:
        assert time.monotonic() < deadline, relaying
        sessions = ask(pool.run_dir / "broker.sock", {"cmd": "sessions"})["sessions"]
        relaying = [row for row in sessions if row["state"] == "relaying" and "tlspool[" in row["caller"]]
    # Stopped processes move no data; what still flows, flows without them.
    for one in (server, client):
        one.process.send_signal(signal.SIGSTOP)
    try:
        sock.sendall(b"x" * 1_000_000)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(15)
        answer = b""
        while part := sock.recv(4096):
            answer += part
        assert answer.decode() == hashlib.sha256(b"x" * 1_000_100).hexdigest()
    finally:
        for one in (server, client):
            one.process.send_signal(signal.SIGCONT)
        sock.close()


def test_clean_shutdown(pool, tunnel, backend):
    server, _ = pair(pool, tunnel, backend)
    status, output = server.stop()
    assert status == 0
    assert "Traceback" not in output


def test_a_backend_that_is_not_there(pool, tunnel):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = tunnel(
            pool,
            "server",
            "--connect",
            f"127.0.0.1:{nobody.getsockname()[1]}",
            "--localid",
            "localhost",
            "--client-auth",
            "ignore",
        )
        with connect(server.port) as sock:
            sock.settimeout(15)
            assert sock.recv(100) == b""
    status, output = server.stop()
    assert status == 0
    assert "refused" in output.lower()


@pytest.mark.parametrize(
    "words",
    [
        ["server", "--listen", "127.0.0.1:x", "--connect", "127.0.0.1:1", "--localid", "localhost"],
        ["server", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1"],
        ["client", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1"],
        ["server", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1", "--localid", "a@@b..c@"],
    ],
)
def test_wrong_usage_is_named(pool, words):
    done = subprocess.run(
        [str(COMMANDS / "tlspool"), "tunnel", *words], env={**os.environ, **pool.environment},
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
