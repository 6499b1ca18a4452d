"""Sessions that outlive the program that made them, and are taken over by another one."""

import os
import re
import socket
import subprocess
import sys
import threading

import pytest

import libstub
from tests.e2e.conftest import await_log, connect, echoes, log_of, make_pool
from tlspool_admin.client import ask

SERVER = "testsrv@tlspool.arpa2.lab"
CLIENT = "testcli@tlspool.arpa2.lab"

MAKER = """
import socket, sys, libstub
port, plain_fd, options = int(sys.argv[1]), int(sys.argv[2]), dict.fromkeys(sys.argv[3:], True)
session = libstub.starttls_client(
    socket.create_connection(("127.0.0.1", port)), "testsrv@tlspool.arpa2.lab",
    plain=socket.socket(fileno=plain_fd), **options,
)
print(session.ctlkey.hex(), session.session_id)
"""

TAKER = """
import sys, libstub
session = libstub.reattach(bytes.fromhex(sys.stdin.readline().strip()))
print(session.localid, session.remoteid, session.version, session.session_id, flush=True)
sys.stdin.readline()
if "detach" in sys.argv:
    session.detach()
"""


@pytest.fixture
def client(pool):
    with libstub.Pool(str(pool.socket)) as made:
        yield made


def run(pool, code, *words, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *words],
        env={**os.environ, **pool.environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def made_by_another(pool, port, *options):
    """Let a program make a session and exit; return (our end of the plaintext, key, session)."""
    ours, theirs = socket.socketpair()
    ours.settimeout(15)
    start = len(log_of(pool, "broker"))
    with theirs, run(pool, MAKER, str(port), str(theirs.fileno()), *options, pass_fds=[theirs.fileno()]) as program:
        output, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    await_log(pool, "broker", r"event=caller\.gone", start)
    key, session_id = output.split()
    return ours, key, int(session_id)


def row_of(pool, session_id):
    rows = ask(pool.run_dir / "broker.sock", {"cmd": "sessions"})["sessions"]
    return next((row for row in rows if row["session"] == session_id), None)


def test_a_forked_session_outlives_its_program_and_is_taken_over_by_another(pool, echo_server):
    server = echo_server(pool, localid=SERVER, remote_auth="require")
    plain, key, session_id = made_by_another(pool, server.port, "fork")
    with plain:
        assert row_of(pool, session_id)["detached"]
        assert echoes(plain, os.urandom(200_000))
        with run(pool, TAKER) as program:
            program.stdin.write(f"{key}\n")
            program.stdin.flush()
            assert program.stdout.readline().split() == [CLIENT, SERVER, "TLSv1.3", str(session_id)]
            assert not row_of(pool, session_id)["detached"]
            assert echoes(plain, b"while it is controlled")
            program.communicate("\n", timeout=30)
        assert program.returncode == 0
        assert echoes(plain, b"it survives that program, too")
        # and a third one, here
        with libstub.Pool(str(pool.socket)) as mine:
            taken = mine.reattach(bytes.fromhex(key))
            assert (taken.localid, taken.remoteid) == (CLIENT, SERVER)
        assert echoes(plain, b"still there")
    for name in ("broker", "worker", "keyd"):
        assert key not in log_of(pool, name)


@pytest.mark.parametrize("ending", ["detach", "exit"])
def test_a_detached_session_ends_with_who_takes_it(pool, echo_server, ending):
    server = echo_server(pool, localid=SERVER, remote_auth="require")
    plain, key, _ = made_by_another(pool, server.port, "detach")
    with plain:
        assert echoes(plain, b"nobody controls it")
        with run(pool, TAKER, ending) as program:
            program.stdin.write(f"{key}\n")
            program.stdin.flush()
            assert program.stdout.readline()
            program.communicate("\n", timeout=30)
        if ending == "detach":
            assert echoes(plain, b"given back")
        else:
            assert plain.recv(1) == b""


def test_an_ordinary_session_ends_with_its_program(pool, echo_server):
    server = echo_server(pool, localid=SERVER, remote_auth="require")
    plain, key, _ = made_by_another(pool, server.port)
    with plain:
        assert plain.recv(1) == b""
        with libstub.Pool(str(pool.socket)) as mine, pytest.raises(libstub.NotInControl) as caught:
            mine.reattach(bytes.fromhex(key))
        assert caught.value.code == 115


def test_every_refusal_has_its_code(client, pool, echo_server):
    server = echo_server(pool, localid=SERVER, remote_auth="require")
    with (
        libstub.starttls_client(connect(server.port), SERVER, pool=client) as session,
        libstub.Pool(str(pool.socket)) as other,
    ):

        def code_of(call, *args):
            with pytest.raises(libstub.NotInControl) as caught:
                call(*args)
            assert caught.value.code == int(re.match(r"\[(\d+)\]", caught.value.text).group(1))
            return caught.value.code

        assert code_of(other.reattach, session.ctlkey) == 121
        assert code_of(session.reattach) == 121
        session.detach()
        assert code_of(session.detach) == 120
        taken = other.reattach(session.ctlkey)
        assert (taken.session_id, taken.version) == (session.session_id, session.version)
        assert code_of(session.detach) == 122
        taken.detach()
        session.reattach()
        assert code_of(client.reattach, os.urandom(16)) == 115
        assert echoes(session.sock, b"undisturbed")


def test_sessions_go_on_where_that_is_wanted(tmp_path_factory, echo_server):
    pool = make_pool(tmp_path_factory, "lax", "ec", "session_end relay")
    try:
        server = echo_server(pool, localid=SERVER, remote_auth="require")
        plain, key, session_id = made_by_another(pool, server.port)
        with plain:
            assert echoes(plain, b"as in earlier pools")
            assert row_of(pool, session_id)["detached"]
            with libstub.Pool(str(pool.socket)) as mine, pytest.raises(libstub.NotInControl):
                mine.reattach(bytes.fromhex(key))
        server.close()
    finally:
        pool.down()


def test_a_session_too_short_to_be_asked_about_has_details(client, pool):
    """The remote closes at once; version and cipher of the session are known nevertheless."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        for _ in range(20):
            sock, _ = listener.accept()
            libstub.starttls_server(sock, SERVER, pool=str(pool.socket), remote_auth="ignore").close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    versions = set()
    for _ in range(20):
        session = libstub.starttls_client(connect(port), SERVER, pool=client)
        session.close()
        versions.add((session.version, session.group))
    thread.join(20)
    listener.close()
    assert versions == {("TLSv1.3", "X25519MLKEM768")}
