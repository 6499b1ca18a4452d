"""A whole pool that knows no PIN: `tlspool pin`, the application socket, and what sessions get meanwhile."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import libstub
from tests.e2e.conftest import COMMANDS, EchoServer, await_log, connect, log_of
from tests.fixtures.services import Raw, await_status, pin_service
from tests.fixtures.terminal import Terminal
from tlspool_admin.client import ask
from tlspool_admin.devpool import DevPool
from tlspool_common.appwire import Cmd, Frame, Ping, Starttls
from tlspool_common.errors import Code

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WRONG = "canary-wrong-0815"


@pytest.fixture
def pool(tmp_path_factory):
    """A pool that does not know its PIN; debug logs."""
    made = DevPool(tmp_path_factory.mktemp("pins") / "p")
    made.up("ec", ["log_level debug"], knows_pin=False)
    yield made
    made.down()


@pytest.fixture
def pin(pool):
    return (pool.directory / "pin").read_text().strip()


def keyd(pool):
    return ask(pool.run_dir / "keyd.sock", {"cmd": "status"})


class Client:
    """A client of an echo server, in a thread: its session may have to wait."""

    def __init__(self, pool, port, **options):
        self.outcome = None
        self._pool = libstub.Pool(str(pool.socket))
        self._thread = threading.Thread(target=self._run, args=(port,), kwargs=options)
        self._thread.start()

    def _run(self, port, **options):
        try:
            with libstub.starttls_client(connect(port), "localhost", pool=self._pool, **options) as tls:
                tls.sock.sendall(b"hello")
                tls.sock.shutdown(socket.SHUT_WR)
                self.outcome = b"".join(iter(lambda: tls.sock.recv(100), b""))
        except libstub.PoolError as error:
            self.outcome = error

    def result(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._pool.close()
        return self.outcome


@contextlib.contextmanager
def session(pool):
    """Have a session that needs the PIN under way; yield its client."""
    server = EchoServer(pool)
    client = Client(pool, server.port)
    try:
        yield client
        client.result()
    finally:
        server.close()


@pytest.fixture
def terminal():
    """Start programs at terminals; all are ended."""
    made = []

    def start(pool, *command):
        made.append(Terminal(pool, *command))
        return made[-1]

    yield start
    for one in made:
        if one.master >= 0:
            one.close()


def assert_no_canary(pool, *secrets):
    text = "".join(log_of(pool, name) for name in ("broker", "keyd", "worker"))
    for secret in secrets:
        assert secret not in text
        assert secret.encode().hex() not in text


def test_nobody_can_be_asked(pool):
    with session(pool) as client:
        error = client.result()
    assert isinstance(error, libstub.HandshakeFailed)  # the server's pool has no PIN: an alert for the client
    await_log(pool, "keyd", "sign.refused code=505 why=PIN_MISSING")


@pytest.mark.parametrize("where", ["pin.sock", "tlspool.sock"])
def test_wrong_then_right_while_a_session_waits(pool, pin, where):
    with pin_service(pool.run_dir / where) as service, session(pool) as client:
        assert service.question().attempt == 0
        await_status(lambda: keyd(pool), lambda status: status["waiting"] >= 1)
        service.answers.put(WRONG)
        assert service.question().attempt == 1
        service.answers.put(pin)
        assert client.result() == b"hello"
    assert_no_canary(pool, pin, WRONG)


def test_the_broker_never_reads_after_it_has_handed_over(pool, pin):
    """No debug line about that connection but its hand-over, and the socket is closed in the broker."""
    with Raw(pool.socket) as program:
        program.send(Frame(9, 0, Cmd.PING, Ping().to_payload()).to_bytes())
        assert program.frame().cmd == Cmd.PING
        program.register(reqid=1)
        asked = program.frame()
        assert (asked.reqid, asked.cmd) == (1, Cmd.PINENTRY)
        await_log(pool, "broker", "event=pin.service_handed_over")
        start = len(log_of(pool, "broker"))
        connections = ask(pool.run_dir / "broker.sock", {"cmd": "status"})["connections"]
        assert connections == 0
        program.send(Frame(2, 0, Cmd.PING, Ping().to_payload()).to_bytes())
        assert program.error() == Code.COMMAND_UNKNOWN  # so speaks keyd, not the broker
        program.type(asked, pin)
        await_log(pool, "keyd", "event=pin.accepted")
    await_log(pool, "keyd", "event=pin.service_gone")
    assert "caller" not in log_of(pool, "broker")[start:]
    assert_no_canary(pool, pin)


def test_a_connection_that_carries_other_things_is_not_handed_over(pool):
    ours, theirs = socket.socketpair()
    with Raw(pool.socket) as program, ours, theirs:
        request = Starttls(flags=0x6, localid="localhost", ctlkey=os.urandom(16))
        socket.send_fds(program.sock, [Frame(1, 0, Cmd.STARTTLS, request.to_payload()).to_bytes()], [theirs.fileno()])
        program.register(reqid=2)
        assert program.error() == Code.SERVICE_SHARED


def test_keyd_is_away(pool):
    pid = pool.running()["keyd"]
    os.kill(pid, 15)
    await_log(pool, "broker", "event=keyd.lost")
    with Raw(pool.socket) as program:
        program.register()
        assert program.error() == Code.NO_KEYD


def test_the_command_at_a_terminal(pool, pin, terminal):
    program = terminal(pool, str(COMMANDS / "tlspool"), "pin")
    program.until("waiting until a PIN is needed")
    program.until("token tlspool-dev, SoftHSM project, SoftHSM v2, serial [0-9a-f]+")
    program.until("Enter PIN: ")
    program.type(WRONG)
    program.until("1 wrong so far")
    program.until("last try")
    program.type(pin)
    await_log(pool, "keyd", "event=pin.accepted")
    with session(pool) as client:
        assert client.result() == b"hello"
    assert pin.encode() not in program.drain()
    assert program.close() == 0
    await_log(pool, "keyd", "event=pin.service_gone")
    assert_no_canary(pool, pin, WRONG)


def test_the_command_ends_when_all_is_typed(pool, pin, terminal):
    program = terminal(pool, str(COMMANDS / "tlspool"), "pin", "--once", "--again")
    program.until("Enter PIN: ")
    program.type(pin)
    assert program.process.wait(20) == 0


def test_the_command_when_another_program_has_the_post(pool):
    with pin_service(pool.run_dir / "pin.sock") as service:
        service.question()
        done = subprocess.run(
            [str(COMMANDS / "tlspool"), "pin"],
            env={**os.environ, **pool.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1
        assert "[231]" in done.stderr


def test_the_example(pool, pin):
    environment = {**os.environ, **pool.environment, "PIN": pin}
    command = [sys.executable, str(EXAMPLES / "pin_service.py")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        await_log(pool, "keyd", "event=pin.accepted")
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=20)
    assert b"attempt 0 for token tlspool-dev" in output


def test_nothing_is_left_behind_in_the_broker(pool, no_leaks):
    broker = pool.running()["broker"]
    before = len(os.listdir(f"/proc/{broker}/fd"))
    for _ in range(20):
        with Raw(pool.socket) as program:
            program.register()
            program.frame()
    gc.collect()
    await_status(lambda: {"fds": len(os.listdir(f"/proc/{broker}/fd"))}, lambda status: status["fds"] <= before)
