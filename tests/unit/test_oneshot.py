"""`tlspool run` for one connection: what it is made of.  tests/e2e/test_run.py runs it whole."""

import errno
import os
import socket
import subprocess
import sys
import threading

import pytest

from tests.fixtures.fake_pool import FakePool
from tlspool_admin import oneshot
from tlspool_admin.__main__ import main
from tlspool_admin.endpoints import Endpoint, shown
from tlspool_admin.oneshot import Unable
from tlspool_common.appwire import Cmd, Flag

WAIT_S = 15


@pytest.fixture
def fake(no_leaks, tmp_path, monkeypatch):
    made = FakePool(tmp_path / "s")
    monkeypatch.setenv("TLSPOOL_SOCKET", made.path)
    yield made
    made.stop()


def test_the_first_target_that_answers():
    with socket.socket() as refused, socket.create_server(("127.0.0.1", 0)) as listener:
        refused.bind(("127.0.0.1", 0))
        targets = [Endpoint(socket.AF_INET, one.getsockname()) for one in (refused, listener)]
        with oneshot.connected(targets, WAIT_S) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert sock.gettimeout() is None
        with pytest.raises(Unable, match=r"connect to 127\.0\.0\.1:\d+: Connection refused"):
            oneshot.connected(targets[:1], WAIT_S)


def test_the_greeting_is_read_first():
    ours, theirs = oneshot.pair(b"220 x\r\n")
    with ours, theirs:
        theirs.sendall(b"more")
        assert ours.recv(100) == b"220 x\r\nmore"


def test_standard_error_that_is_the_connection():
    """Nothing may be written to it: it would go to the remote in plaintext."""
    ours, theirs = socket.socketpair()
    program = (
        "import sys, os\n"
        "from tlspool_admin.oneshot import Report\n"
        "report = Report.beside(0)\n"
        "report.failed('x', 402, 'no anchor')\n"
        "print('beside', file=sys.stderr)\n"
        "os.write(1, b'remote' if report.is_remote else b'log')\n"
    )
    with ours, theirs:
        for error in (theirs, subprocess.PIPE):
            done = subprocess.run(
                [sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, stderr=error, timeout=WAIT_S
            )
            assert done.returncode == 0
            if error is theirs:
                assert done.stdout == b"remote"
                with pytest.raises(BlockingIOError):
                    ours.recv(100, socket.MSG_DONTWAIT)
            else:
                assert done.stdout == b"log"
                assert b"event=run.failed remote=x code=402" in done.stderr


def run_client(said, *words):
    """Run the copying client against a server that answers with what it hears, in capitals."""

    def serve(listener):
        sock, _ = listener.accept()
        with sock:
            while data := sock.recv(65536):
                sock.sendall(data.upper())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        program = "import sys; from tlspool_admin.__main__ import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", program, "run", "--connect", shown(listener.getsockname()),
             "--remoteid", "a.example", *words],
            input=said, capture_output=True, timeout=WAIT_S,
        )  # fmt: skip
        thread.join(WAIT_S)
    return done


def test_copying(fake):
    done = run_client(b"hello\n" * 50_000)
    assert done.stdout == b"HELLO\n" * 50_000
    assert done.returncode == 0
    asked = next(one.starttls for one in fake.seen if one.frame.cmd == Cmd.STARTTLS)
    assert asked.flags == Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER | Flag.FORK
    assert asked.remoteid == "a.example"


@pytest.mark.usefixtures("fake")
def test_becoming_a_program():
    done = run_client(b"", "--", "sh", "-c", 'echo x; read y; echo "$y" >&2; exit 7')
    assert (done.returncode, done.stderr) == (7, b"X\n")


def test_a_session_that_breaks_off():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        with ours:
            program = (
                "import socket, sys\nfrom tlspool_admin import oneshot\n"
                "try:\n    oneshot.pump(socket.socket(fileno=int(sys.argv[1])))\n"
                "except oneshot.Unable as error:\n    print(error)\n"
            )
            done = subprocess.run(
                [sys.executable, "-c", program, str(ours.fileno())], pass_fds=[ours.fileno()], stdin=subprocess.DEVNULL,
                capture_output=True, timeout=WAIT_S,
            )  # fmt: skip
    assert done.stdout == b"the session was broken off\n"


def test_no_pool(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLSPOOL_SOCKET", str(tmp_path / "s"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert main(["run", "--connect", shown(listener.getsockname()), "--remoteid", "a.example"]) == 1
    assert "there is no pool at" in capsys.readouterr().err


def test_the_connection_of_nobody():
    descriptor = os.open(os.devnull, os.O_RDONLY)
    saved = os.dup(0)
    try:
        os.dup2(descriptor, 0)
        with pytest.raises(Unable, match=os.strerror(errno.ENOTSOCK)):
            oneshot.standard_input()
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(descriptor)
