"""`tlspool run --listen` against a pool that speaks V2 only: programs, bounds, failures, and how it ends."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time

import pytest

from tests.fixtures.fake_pool import answer, error
from tlspool_admin import endpoints, inetd
from tlspool_admin.__main__ import main, parser
from tlspool_admin.commands import run as command
from tlspool_admin.inetd import Inetd, Service
from tlspool_common.appwire import Cmd, Flag

WAIT_S = 15
CAT = ("cat",)
ENV = ("env",)


class Running:
    """A service in a thread."""

    def __init__(self, words, log):
        args = parser().parse_args(["run", *words])
        preamble = command._checked(args)
        listeners = endpoints.listen(args.listen)
        self.address = listeners[0].getsockname()
        service = Service(command._ask(args), args.command, preamble, args.children, args.protocol_timeout)
        self.inetd = Inetd(service, listeners, log)
        self._thread = threading.Thread(target=self.inetd.run, daemon=True)
        self._thread.start()

    def connect(self):
        sock = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        sock.settimeout(WAIT_S)
        sock.connect(self.address)
        return sock

    def converse(self, text=b"hello"):
        with self.connect() as sock:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def join(self):
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def stop(self):
        self.inetd.stop()
        self.join()


@pytest.fixture
def run(fake, noted, monkeypatch):
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    made = []

    def start(cmd, *words, listen="127.0.0.1:0"):
        made.append(Running(["--listen", listen, "--localid", "localhost", *words, "--", *cmd], noted))
        return made[-1]

    yield start
    for one in made:
        one.stop()


def test_a_program_for_each_connection(run, fake, noted):
    running = run(CAT)
    for number in range(5):
        assert running.converse(b"%d" % number) == b"%d" % number
    assert fake.connections == 1
    ended = noted.wait("run.ended", 5)
    assert all("status=0" in text for text in ended)
    assert len(noted.of("run.started")) == 5


def test_what_a_program_knows(run, fake, monkeypatch):
    monkeypatch.setenv("TLSPOOL_ALPN", "stale")
    monkeypatch.setenv("REMOTE_HOST", "stale")
    running = run(ENV, "--client-auth", "request", "--alpn", "x")
    with running.connect() as sock:
        port = sock.getsockname()[1]
        text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert found["TLSPOOL_LOCALID"] == "localhost"
    assert found["TLSPOOL_REMOTEID"] == ""
    assert found["TLSPOOL_VERIFIED"] == "1"
    assert found["TLSPOOL_SUBJECT"] == "CN=x"
    assert found["TLSPOOL_VERSION"] == "TLSv1.3"
    assert found["TLSPOOL_CIPHER"] == "TLS_AES_256_GCM_SHA384"
    assert found["TLSPOOL_GROUP"] == "X25519MLKEM768"
    assert found["TLSPOOL_ALPN"] == "x"
    assert found["TLSPOOL_SESSION"] == "17"
    assert (found["REMOTE_HOST"], found["REMOTE_PORT"]) == ("127.0.0.1", str(port))
    request = next(one.starttls for one in fake.seen if one.frame.cmd == Cmd.STARTTLS)
    assert request.flags == Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT | Flag.REQUEST_REMOTEID
    assert running.converse(b"") != b""


def test_a_program_has_the_session_and_nothing_else(run):
    script = (
        "import os; print(sorted(os.listdir('/proc/self/fd'))); print(os.get_blocking(0), os.fstat(0) == os.fstat(1))"
    )
    text = run((sys.executable, "-c", script)).converse().decode()
    assert text == "['0', '1', '2', '3']\nTrue True\n"  # 3 is the directory itself


def test_a_front_end_and_a_protocol(run, noted):
    running = run(ENV, "--accept-proxy", "--protocol", "postgres")
    with running.connect() as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 50412 443\r\n" + bytes.fromhex("0000000804d2162f"))
        text = b"".join(iter(lambda: sock.recv(65536), b""))
    assert text.startswith(b"S")
    assert b"\nREMOTE_HOST=192.0.2.7\n" in text
    assert "remote=192.0.2.7:50412" in noted.wait("run.started")[0]


def test_unix_sockets(run, tmp_path):
    running = run(ENV, listen=str(tmp_path / "l"))
    assert b"REMOTE_HOST" not in running.converse()


# --- failures ---------------------------------------------------------------------------------------


def test_no_program_for_a_handshake_that_fails(run, fake, noted):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: (asked.drop(), peer.send(error(asked.frame, "[402] no anchor")))
    with run(CAT).connect() as sock:
        assert sock.recv(1) == b""
    assert "INFO event=run.failed" in noted.wait("run.failed")[0]
    assert "code=402" in noted.of("run.failed")[0]
    assert not noted.of("run.started")


def test_no_program_for_who_says_nonsense(run, noted):
    with run(CAT, "--protocol", "ldap").connect() as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    assert "no message of LDAP" in noted.wait("run.failed")[0]


def test_who_is_silent(run, noted, monkeypatch):
    monkeypatch.setattr("tlspool_admin.loop.TICK_S", 0.02)
    with run(CAT, "--protocol", "ldap", "--protocol-timeout", "0.1").connect() as sock:
        assert sock.recv(1) == b""
    assert "took too long" in noted.wait("run.failed")[0]


def test_a_pool_that_is_gone(run, fake, noted):
    running = run(CAT)
    fake.stop()
    with running.connect() as sock:
        assert sock.recv(1) == b""
    assert "is not running" in noted.wait("run.failed")[0]
    fake.start()
    assert running.converse() == b"hello"


def test_a_pool_that_breaks_the_rules(run, fake, noted):
    def twice(peer, asked):
        asked.drop()
        peer.call_back(asked)

    fake.on[Cmd.PLAINTEXT_CONNECT] = twice
    with run(CAT).connect() as sock:
        assert sock.recv(1) == b""
    noted.wait("run.failed")
    fake.on.clear()
    fake.on[Cmd.STARTTLS] = lambda peer, asked: answer(peer, asked, Cmd.STARTTLS_LOCALID)
    with run(CAT).connect() as sock:
        assert sock.recv(1) == b""
    noted.wait("run.failed", 2)


def test_a_program_that_vanished(run, tmp_path, noted):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    running = run((str(program),))
    program.unlink()
    with running.connect() as sock:
        assert sock.recv(1) == b""
    assert "ERROR event=run.failed" in noted.wait("run.failed")[0]


# --- bounds -----------------------------------------------------------------------------------------


def test_no_more_programs_than_allowed(run, fake, noted):
    running = run(CAT, "--children", "2")
    socks = [running.connect() for _ in range(4)]
    for sock in socks:
        sock.sendall(b"x")
    for sock in socks[:2]:
        assert sock.recv(1) == b"x"
    assert len(noted.wait("run.started", 2)) == 2
    assert len(running.inetd._children) == 2
    for sock in socks[:2]:
        sock.close()
    for sock in socks[2:]:
        assert sock.recv(1) == b"x"
        sock.close()
    assert len(noted.wait("run.ended", 4)) == 4


# --- the end ----------------------------------------------------------------------------------------


def test_programs_end_with_their_sessions(run, noted):
    running = run(CAT)
    with running.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        running.stop()
        assert sock.recv(1) == b""
    assert "status=0" in noted.of("run.ended")[0]  # cat has read the end


@pytest.mark.parametrize(
    ("script", "status"),
    [("echo x; exec sleep 100", -signal.SIGTERM), ("trap '' TERM; echo x; while :; do sleep 1; done", -signal.SIGKILL)],
)
def test_programs_that_go_on_are_ended(run, noted, monkeypatch, script, status):
    monkeypatch.setattr(inetd, "GRACE_S", 0.05)
    monkeypatch.setattr(inetd, "TERM_S", 1.5)
    running = run(("sh", "-c", script))
    with running.connect() as sock:
        assert sock.recv(2) == b"x\n"
        running.stop()
    assert f"status={status}" in noted.of("run.ended")[0]


def test_stopping_again_does_not_wait(run, noted):
    running = run(("sh", "-c", "echo x; exec sleep 100"))
    with running.connect() as sock:
        assert sock.recv(2) == b"x\n"
        began_s = time.monotonic()
        running.inetd.stop()
        running.stop()
        assert time.monotonic() - began_s < inetd.GRACE_S


def test_lingering(run, noted):
    running = run(CAT, "--linger")
    with running.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        process, _ = next(iter(running.inetd._children.values()))
        running.stop()
        sock.sendall(b"y")
        assert sock.recv(1) == b"y"
    assert process.wait(WAIT_S) == 0


# --- the command ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--listen", "127.0.0.1:0", "--", "cat"], "--localid"),
        (["--listen", "127.0.0.1:0", "--localid", "a.example"], "no program to run"),
        (["--accept-on-stdin", "--localid", "a.example"], "no program to run"),
        (["--listen", "x", "--localid", "a.example", "--", "cat"], "HOST:PORT"),
        (["--listen", "127.0.0.1:0", "--localid", "a.example", "--", "no-such-program"], "'no-such-program'"),
        (["--listen", "127.0.0.1:0", "--localid", "a.example", "--protocol", "smtp", "--", "cat"], "tunnel server"),
        (["--listen", "127.0.0.1:0", "--localid", "a.example", "--children", "0", "--", "cat"], "--children"),
        (["--listen", "127.0.0.1:0", "--localid", "a.example", "--protocol-timeout", "0", "--", "cat"], "above 0"),
        (["--listen", "127.0.0.1:0", "--localid", "a.example", "--via", "http://x:1", "--", "cat"], "--via"),
        (["--connect", "127.0.0.1:1"], "--remoteid"),
        (["--connect", "127.0.0.1:1", "--remoteid", "a.example", "--accept-proxy"], "--accept-proxy"),
        (["--connect", "127.0.0.1:1", "--listen", "127.0.0.1:0"], "not allowed with"),
        (["--localid", "a.example"], "required"),
    ],
)
def test_wrong_usage(fake, monkeypatch, capsys, words, text):
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    with pytest.raises(SystemExit) as caught:
        main(["run", *words])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--listen", "127.0.0.1:0", "--localid", "a@@", "--", "cat"], "[113]"),
        (["--connect", "127.0.0.1:x", "--remoteid", "a.example"], "HOST:PORT"),
        (["--connect", "127.0.0.1:1", "--remoteid", "a.example", "--via", "ftp://x:1"], "--via is"),
        (["--connect", "/x", "--remoteid", "a.example", "--via", "http://127.0.0.1:1"], "is not HOST:PORT"),
        (["--connect", "a b:1", "--remoteid", "a.example", "--via", "http://127.0.0.1:1"], "no name of a host"),
        (["--connect", "a:1", "--remoteid", "a.example", "--via", "http://j:k@127.0.0.1:1"], "from a file"),
    ],
)
def test_values_that_cannot_be(fake, monkeypatch, capsys, words, text):
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    with contextlib.suppress(SystemExit):
        assert main(["run", *words]) == 1
    assert text in capsys.readouterr().err


def test_nobody_to_connect_to(fake, monkeypatch, capsys):
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert main(["run", "--connect", endpoints.shown(nobody.getsockname()), "--remoteid", "a.example"]) == 1
    assert "Connection refused" in capsys.readouterr().err


def test_no_pool(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLSPOOL_SOCKET", str(tmp_path / "s"))
    assert main(["run", "--listen", "127.0.0.1:0", "--localid", "a.example", "--", "cat"]) == 1
    assert "there is no pool at" in capsys.readouterr().err
    assert os.environ["TLSPOOL_SOCKET"]
