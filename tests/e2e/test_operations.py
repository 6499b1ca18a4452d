"""An operator looks at a pool that works, ends sessions, and locks a token; with real daemons and a real token."""

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest

import libstub
from tests.e2e.conftest import COMMANDS, await_log, connect, log_of, make_pool, tlspool, until
from tests.fixtures.terminal import Terminal
from tlspool_admin.client import ask
from tlspool_admin.devpool import TOKEN_LABEL

SERVER = "testsrv@tlspool.arpa2.lab"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    made = make_pool(tmp_path_factory, "operations")
    yield made
    made.down()


@pytest.fixture
def sessions(pool, echo_server):
    """Make sessions; a number of them, each with two halves."""
    server = echo_server(pool, localid=SERVER, remote_auth="require")
    with contextlib.ExitStack() as stack:

        def make(count=1):
            return [
                stack.enter_context(libstub.starttls_client(connect(server.port), SERVER, pool=str(pool.socket)))
                for _ in range(count)
            ]

        yield make


def answer(pool, *words, code=0):
    done = tlspool(pool, "--json", *words, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def has_ended(session):
    session.sock.settimeout(20)
    return session.sock.recv(1) == b""


def title(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()


def test_all_is_fine_and_titles_say_so(pool, sessions):
    made = sessions(3)
    told = answer(pool, "status")
    assert (told["verdict"], told["reasons"]) == ("fine", [])
    assert told["broker"]["sessions"] == 6
    running = pool.running()
    generation = told["broker"]["generation"]
    until(lambda: title(running["broker"]) == f"tlspool-broker: 6 sessions, 0 being set up, generation {generation}")
    until(lambda: title(running["keyd"]) == "tlspool-keyd: 1 token")
    assert title(running["worker"]).startswith("tlspool-worker: master, ")
    [token] = told["keyd"]["modules"][0]["pids"]
    assert title(token) == f"tlspool-keyd: token {TOKEN_LABEL}"
    busy = until(lambda: [row for row in answer(pool, "workers")["workers"] if row["sessions"]])
    assert sum(row["sessions"] for row in busy) == 6
    wanted = f"worker {busy[0]['worker']} of uid {os.getuid()}"
    until(lambda: answer(pool, "workers")["workers"] and title(busy[0]["pid"]).startswith(f"tlspool-worker: {wanted}"))
    for pid in (*running.values(), token, *(row["pid"] for row in busy)):
        assert "arpa2" not in title(pid)
    del made


def test_everything_about_a_session(pool, sessions):
    [session] = sessions()
    told = answer(pool, "sessions", "show", str(session.session_id))
    assert (told["remoteid"], told["verified"], told["version"]) == (SERVER, True, "TLSv1.3")
    assert told["who"]["pid"] == os.getpid()
    assert told["verified_how"] == "chain, dates, purpose and name"
    assert session.ctlkey.hex() not in json.dumps(told)
    text = tlspool(pool, "sessions", "show", str(session.session_id)).stdout
    assert f"remoteid: {SERVER}" in text
    assert tlspool(pool, "sessions", "show", "99999", check=False).returncode == 1
    listed = answer(
        pool, "sessions", "--remote", "@tlspool.arpa2.lab", "--state", "relaying", "--caller", str(os.getpid())
    )
    assert session.session_id in [row["session"] for row in listed["sessions"]]
    assert tlspool(pool, "sessions", "--remote", "nobody.example").stdout == "there is no such session\n"
    shown = tlspool(pool, "sessions", "-n", "1").stdout
    assert "more; go on with --after" in shown


def test_people_with_socat_can_read_it_and_programs_too(pool, sessions):
    sessions(2)
    for daemon, words in (
        ("broker", ["status", "sessions", "sessions limit=1", "callers", "workers", "loads", "grants", "help"]),
        ("keyd", ["status", "tokens", "keys", "grants", "queue"]),
        ("worker", ["status"]),
    ):
        for word in words:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(str(pool.run_dir / f"{daemon}.sock"))
                sock.sendall(word.encode() + b"\n")
                sock.shutdown(socket.SHUT_WR)
                text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
            assert json.loads(text)["ok"] is True, word
            assert text.count("\n") > 2
            assert max(map(len, text.splitlines())) < 600, word
    callers = answer(pool, "callers")["callers"]
    assert callers[0]["established"] >= 2
    assert answer(pool, "loads")["outcomes"]["established"] >= 2
    assert ask(pool.run_dir / "broker.sock", {"cmd": "grants"})["issued"] >= 2
    assert answer(pool, "keys", "grants")["signed"] >= 2


def test_sessions_of_a_caller_are_ended_when_that_is_confirmed(pool, sessions):
    made = sessions(2)
    me = str(os.getpid())
    done = tlspool(pool, "kill", "--caller", me, check=False)
    assert (done.returncode, "--yes" in done.stderr) == (1, True)
    terminal = Terminal(pool, str(COMMANDS / "tlspool"), "kill", "--caller", me)
    terminal.until(r"End \d+ sessions\? \[y/N\] ")
    terminal.type("n")
    assert terminal.process.wait(20) == 1
    terminal.close()
    made[0].sock.sendall(b"still there")
    assert made[0].sock.recv(100) == b"still there"
    start = len(log_of(pool, "broker"))
    done = tlspool(pool, "kill", "--caller", me, "--remote", "nobody.example", "--yes")
    assert done.stdout == "0 sessions: ended\n"
    done = tlspool(pool, "kill", "--caller", me, "--yes")
    assert int(done.stdout.split()[0]) >= 4
    assert all(map(has_ended, made))
    await_log(pool, "broker", rf"event=sessions\.kill which=caller={me}|event=sessions\.kill .*caller={me}", start)
    [one] = sessions()
    assert tlspool(pool, "kill", str(one.session_id)).stdout == f"session {one.session_id}: ended\n"
    assert has_ended(one)
    assert "99999" in tlspool(pool, "kill", "99999", "99998", check=False).stderr


def test_a_locked_token_signs_nothing_until_it_is_unlocked(pool, sessions, echo_server):
    sessions()
    [token] = answer(pool, "status")["keyd"]["modules"][0]["pids"]
    start = len(log_of(pool, "keyd"))
    assert f"{TOKEN_LABEL}: locked" in tlspool(pool, "keys", "lock", TOKEN_LABEL).stdout
    await_log(pool, "keyd", r"event=token\.locked", start)
    until(lambda: not Path(f"/proc/{token}").exists())  # and the login with it
    done = tlspool(pool, "status", check=False)
    assert (done.returncode, done.stdout.startswith("degraded:")) == (1, True)
    server = echo_server(pool, localid=SERVER)
    with pytest.raises(libstub.PoolError):
        libstub.starttls_client(connect(server.port), SERVER, pool=str(pool.socket))
    await_log(pool, "keyd", r"event=sign\.refused code=518 why=TOKEN_LOCKED", start)
    running = pool.running()
    until(lambda: ", 1 locked" in title(running["keyd"]))
    assert answer(pool, "keys", "grants")["refused_by"]["token_locked"] >= 1
    assert tlspool(pool, "keys", "lock", "tlspool-typo", check=False).returncode == 1
    tlspool(pool, "keys", "unlock", TOKEN_LABEL)
    until(lambda: tlspool(pool, "status", check=False).returncode == 0)
    sessions()
    assert title(running["keyd"]).startswith("tlspool-keyd: ")


def test_the_live_view(pool, sessions):
    [session] = sessions()
    terminal = Terminal(pool, str(COMMANDS / "tlspool"), "top", "--every", "1", term="xterm")
    try:
        terminal.until("fine: ")
        terminal.until(r"sessions: \d+")
        terminal.resize(12, 60)
        terminal.until(r"sessions: \d+")
        terminal.resize(40, 170)
        terminal.until(SERVER)
        terminal.press("w")
        terminal.until(r"workers: \d+")
        terminal.press("k")
        terminal.until("pkcs11:token=")
        terminal.press("c")
        terminal.until(r"callers: \d+")
        terminal.press("s/")
        terminal.until("filter: _")
        terminal.press(f"caller={os.getpid()}\n")
        terminal.until(r"sessions: \d+, with caller=")
        terminal.press("x")
        terminal.until(r"end session \d+ of ")
        terminal.press("n")
        terminal.until("nothing was ended")
        terminal.press("x")
        number = int(terminal.until(r"end session (\d+) of ").group(1))
        terminal.press("y")
        terminal.until(rf"session {number}: ended")
        terminal.press("q")
        assert terminal.process.wait(20) == 0
        shown = terminal.drain()
        assert shown.endswith(b"\x1b[?25h\x1b[?1049l")
    finally:
        terminal.close()
    rows = ask(pool.run_dir / "broker.sock", {"cmd": "sessions"})["sessions"]
    assert number not in [row["session"] for row in rows if row["state"] == "relaying"]
    del session


def test_pages_for_pipes_and_a_daemon_that_is_away(pool, sessions):
    sessions()
    done = tlspool(pool, "top", "--batch", "2", "--every", "1", "--table", "workers")
    assert done.stdout.count("fine: ") == 2
    assert "\x1b" not in done.stdout
    assert "cpu_percent" in done.stdout
    assert answer(pool, "top", "--once")["broker loads"]["ok"] is True
    control = pool.run_dir / "keyd.sock"
    control.rename(control.with_suffix(".away"))
    try:
        done = tlspool(pool, "top", "--once", check=False)
        assert done.returncode == 1
        assert "keyd: no answer at " in done.stdout
        assert "sessions: " in done.stdout
    finally:
        control.with_suffix(".away").rename(control)
