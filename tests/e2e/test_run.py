"""`tlspool run`: programs behind TLS, from a listener, from super-servers, and towards a server."""

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import COMMANDS, connect
from tests.fixtures.ports import free_port
from tests.fixtures.servers import Server
from tests.fixtures.servers_mail import DOMAIN, Postfix
from tlspool_admin.client import ask

WAIT_S = 20
TLSPOOL = str(COMMANDS / "tlspool")


class Service:
    """`tlspool run --listen`."""

    def __init__(self, pool, *words):
        self.process = subprocess.Popen(
            [TLSPOOL, "run", "--listen", "127.0.0.1:0", *words],
            env={**os.environ, **pool.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        line = self.process.stdout.readline()
        assert b"ready on" in line, line
        self.port = int(re.search(rb":(\d+)$", line.strip()).group(1))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, output.decode()


@pytest.fixture
def serve(pool):
    made = []

    def make(*words):
        made.append(Service(pool, *words))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def context(pool):
    return ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))


def run_client(pool, port, said, *words, remoteid="localhost", timeout=WAIT_S):
    return subprocess.run(
        [TLSPOOL, "run", "--connect", f"127.0.0.1:{port}", "--remoteid", remoteid, *words],
        env={**os.environ, **pool.environment}, input=said, capture_output=True, timeout=timeout,
    )  # fmt: skip


def sessions(pool):
    return {row["session"] for row in ask(pool.run_dir / "broker.sock", {"cmd": "sessions"})["sessions"]}


def variables(text):
    return dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)


def test_the_program_knows_who_the_remote_is(pool, serve):
    service = serve("--localid", "testsrv@tlspool.arpa2.lab", "--", "env")
    done = run_client(pool, service.port, b"", remoteid="testsrv@tlspool.arpa2.lab")
    assert done.returncode == 0, done.stderr
    found = variables(done.stdout)
    assert found["TLSPOOL_REMOTEID"] == "testcli@tlspool.arpa2.lab"
    assert found["TLSPOOL_LOCALID"] == "testsrv@tlspool.arpa2.lab"
    assert found["TLSPOOL_VERIFIED"] == "1"
    assert found["TLSPOOL_VERSION"] == "TLSv1.3"
    assert found["REMOTE_HOST"] == "127.0.0.1"
    _, output = service.stop()
    assert "remoteid=testcli@tlspool.arpa2.lab" in output
    assert "event=run.ended" in output


def test_data_both_ways_to_the_last_byte(pool, serve):
    service = serve("--localid", "localhost", "--client-auth", "ignore", "--", "cat")
    data = os.urandom(3_000_000)
    done = run_client(pool, service.port, data)
    assert done.stdout == data


def test_a_program_on_both_ends(pool, serve):
    """The client's program has the session as its input and output, too."""
    service = serve("--localid", "localhost", "--client-auth", "ignore", "--", "sh", "-c", "read x; echo $((x * 7))")
    script = 'echo 6; read y; echo "$y $TLSPOOL_REMOTEID $REMOTE_PORT" >&2; exit 3'
    done = run_client(pool, service.port, None, "--", "sh", "-c", script)
    assert done.stderr.decode() == f"42 localhost {service.port}\n"
    assert done.returncode == 3


def test_a_remote_that_is_somebody_else(pool, serve):
    service = serve("--localid", "localhost", "--client-auth", "ignore", "--", "echo", "secret")
    done = run_client(pool, service.port, b"", "--", "sh", "-c", "cat >&2", remoteid="playground.arpa2.lab")
    assert done.returncode == 1
    assert b"secret" not in done.stdout + done.stderr
    assert b"event=run.failed" in done.stderr
    status, output = service.stop()
    assert status == 0
    assert "run.started" not in output


def test_ordinary_clients(serve, context):
    service = serve("--localid", "localhost", "--client-auth", "ignore", "--alpn", "x", "--", "env")
    context.set_alpn_protocols(["x"])
    with context.wrap_socket(connect(service.port), server_hostname="localhost") as tls:
        found = variables(b"".join(iter(lambda: tls.recv(4096), b"")))
    assert found["TLSPOOL_ALPN"] == "x"
    assert found["TLSPOOL_REMOTEID"] == ""


def test_a_clean_end(serve, context):
    service = serve("--localid", "localhost", "--client-auth", "ignore", "--", "cat")
    with context.wrap_socket(connect(service.port), server_hostname="localhost") as tls:
        tls.sendall(b"x")
        assert tls.recv(1) == b"x"
        status, output = service.stop()
    assert status == 0
    assert "Traceback" not in output
    assert "event=run.ended" in output


def test_mail_by_a_script(pool, authority, tmp_path):
    """A protocol in front, and a script that has never heard of TLS."""
    with Postfix(authority.issue("localhost")) as postfix:
        talk = [
            "220", "EHLO x.example", "250 ", f"MAIL FROM:<a@{DOMAIN}>", "250", f"RCPT TO:<b@{DOMAIN}>", "250", "DATA",
            "354", "Subject: by a script\r\n\r\nbody\r\n.", "250", "QUIT", "221",
        ]  # fmt: skip
        script = tmp_path / "script.py"
        script.write_text(
            "import sys\n"
            f"for at, word in enumerate({talk!r}):\n"
            "    if at % 2:\n"
            "        print(word, end='\\r\\n', flush=True)\n"
            "    else:\n"
            "        line = sys.stdin.readline()\n"
            "        while not line.startswith(word):\n"
            "            assert line.startswith('250-'), line\n"
            "            line = sys.stdin.readline()\n"
        )
        done = run_client(pool, postfix.tls, None, "--protocol", "smtp", "--", sys.executable, str(script))
        assert done.returncode == 0, done.stderr
        assert any("Subject: by a script" in text for text in postfix.await_mail())


# --- super-servers ------------------------------------------------------------------------------------


SCRIPT = 'echo "to standard error" >&2; read x; echo "$x from $REMOTE_HOST, $TLSPOOL_VERSION"'


class Xinetd(Server):
    """xinetd with one service."""

    def __init__(self, pool, *words):
        super().__init__()
        self.port = free_port()
        self._environment = pool.environment
        self._words = words

    def start(self):
        variables = " ".join(f"{name}={value}" for name, value in self._environment.items())
        program = self.write("program", f"#!/bin/sh\nexec {TLSPOOL} run \"$@\" -- sh -c '{SCRIPT}'\n", mode=0o755)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        path = self.write(
            "xinetd.conf",
            "service x\n{\n type = UNLISTED\n socket_type = stream\n protocol = tcp\n wait = no\n"
            f" bind = 127.0.0.1\n port = {self.port}\n user = {user}\n server = {program}\n"
            f" server_args = {' '.join(self._words)}\n env = {variables}\n}}\n",
        )
        self.launch(
            ["xinetd", "-dontfork", "-f", str(path), "-pidfile", str(self.directory / "pid"),
             "-filelog", str(self.directory / "log")],
            self.port,
        )  # fmt: skip


class SocketActivate(Server):
    """What systemd does for a socket with Accept=yes, without systemd."""

    def __init__(self, pool, *words):
        super().__init__()
        self.port = free_port()
        self._pool = pool
        self._words = words

    def start(self):
        self.launch(
            ["systemd-socket-activate", "-l", f"127.0.0.1:{self.port}", "--inetd", "-a",
             *(word for name in self._pool.environment for word in ("-E", name)),
             TLSPOOL, "run", *self._words, "--", "sh", "-c", SCRIPT],
            self.port, env={**os.environ, **self._pool.environment},
        )  # fmt: skip


@pytest.mark.parametrize("kind", [Xinetd, SocketActivate])
def test_super_servers(pool, context, kind):
    if kind is SocketActivate and shutil.which("systemd-socket-activate") is None:
        pytest.skip("systemd-socket-activate is missing: it is in the package systemd")
    already = sessions(pool)
    words = ["--accept-on-stdin", "--localid", "localhost", "--client-auth", "ignore"]
    with kind(pool, *words) as server:
        for number in range(2):
            with context.wrap_socket(connect(server.port), server_hostname="localhost") as tls:
                tls.sendall(b"hello %d\n" % number)
                text = b"".join(iter(lambda tls=tls: tls.recv(4096), b""))
            # With xinetd the connection is standard error as well, so the program's goes over TLS.
            said = b"to standard error\n" if kind is Xinetd else b""
            assert text == said + b"hello %d from 127.0.0.1, TLSv1.3\n" % number
        # A handshake that fails leaves nothing in plaintext on the connection.
        with connect(server.port) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            try:
                answer = b"".join(iter(lambda: sock.recv(4096), b""))
            except ConnectionResetError:
                answer = b""
        assert b"tlspool" not in answer
        assert b"event" not in answer
        assert b"Traceback" not in answer
    # The sessions end with their programs, though nothing but these held them.
    deadline = time.monotonic() + WAIT_S
    while sessions(pool) - already:
        assert time.monotonic() < deadline, sessions(pool) - already


def test_standard_input_that_is_no_connection(pool):
    done = subprocess.run(
        [TLSPOOL, "run", "--accept-on-stdin", "--localid", "localhost", "--", "cat"],
        env={**os.environ, **pool.environment}, stdin=subprocess.DEVNULL, capture_output=True, timeout=WAIT_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"standard input is no connection" in done.stderr
