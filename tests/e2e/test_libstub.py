"""libstub with a whole pool: what a program relies on."""

import concurrent.futures
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import libstub
from tests.e2e.conftest import await_log, connect, log_of

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVER = "testsrv@tlspool.arpa2.lab"
CLIENT = "testcli@tlspool.arpa2.lab"


@pytest.fixture
def client(pool):
    with libstub.Pool(str(pool.socket)) as made:
        yield made


def test_the_example_programs(pool):
    """They stand for the three lines that a program needs."""
    environment = {**os.environ, **pool.environment}
    words = ["--listen", "127.0.0.1:0", "--localid", SERVER, "--once", "--alpn", "echo"]
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "echo_server.py"), *words], env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        port = re.search(r":(\d+)$", server.stdout.readline().strip()).group(1)
        words = ["--connect", f"127.0.0.1:{port}", "--remoteid", SERVER, "--alpn", "echo", "--text", "to and fro"]
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "echo_client.py"), *words],
            env=environment, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        said, _ = server.communicate(timeout=30)
    assert (done.returncode, done.stderr, server.returncode) == (0, "", 0)
    assert f"we are {CLIENT}, the server is {SERVER}" in done.stdout
    assert "it said: to and fro" in done.stdout
    assert f"we are {SERVER}, the client is {CLIENT}" in said
    for text in (said, done.stdout):
        assert re.search(r"TLSv1\.3 X25519MLKEM768 TLS_\w+, ALPN echo", text), text


def test_half_close_and_the_last_byte(client, pool, echo_server):
    server = echo_server(pool, localid=SERVER, remote_auth="require")
    data = os.urandom(3_000_000)
    with libstub.starttls_client(connect(server.port), SERVER, pool=client) as session:
        writer = threading.Thread(target=lambda: (session.sock.sendall(data), session.sock.shutdown(socket.SHUT_WR)))
        writer.start()
        got = bytearray()
        while part := session.sock.recv(65536):
            got += part
        writer.join()
    assert got == data


def test_many_threads_share_one_connection(client, pool, echo_server):
    server = echo_server(pool, localid=SERVER, remote_auth="ignore")

    def one(number):
        with libstub.starttls_client(connect(server.port), SERVER, pool=client) as session:
            session.sock.sendall(b"%d" % number)
            return int(session.sock.recv(100))

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        assert list(threads.map(one, range(100))) == list(range(100))


def test_alpn(client, pool, echo_server):
    server = echo_server(pool, localid=SERVER, remote_auth="ignore", alpn=["b", "a"])
    with libstub.starttls_client(connect(server.port), SERVER, pool=client, alpn=["a", "b"]) as session:
        assert session.alpn in ("a", "b")
        assert server.await_session().alpn == session.alpn


@pytest.mark.parametrize("fork", [False, True])
def test_the_end_of_the_connection_to_the_pool(pool, echo_server, fork):
    server = echo_server(pool, localid=SERVER, remote_auth="ignore")
    mine = libstub.Pool(str(pool.socket))
    with libstub.starttls_client(connect(server.port), SERVER, pool=mine, fork=fork) as session:
        session.sock.settimeout(15)
        session.sock.sendall(b"x")
        assert session.sock.recv(1) == b"x"
        start = len(log_of(pool, "broker"))
        mine.close()
        await_log(pool, "broker", r"event=caller\.gone", start)
        if fork:
            session.sock.sendall(b"y")
            assert session.sock.recv(1) == b"y"
        else:
            with contextlib.suppress(ConnectionResetError):
                assert session.sock.recv(1) == b""


def test_a_forked_child_speaks_for_itself(client, pool):
    """In a process of its own, without threads, as a program that forks should be."""
    code = (
        "import libstub, os\n"
        "assert libstub.ping()\n"
        "child = os.fork()\n"
        "assert libstub.ping()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
    )
    environment = {**os.environ, **pool.environment}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


def test_errors_say_what_to_do(client, pool):
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(libstub.Refused) as caught:
        libstub.starttls_server(ours, "nobody.example", pool=client)
    assert caught.value.code == 201
    assert "tlspool localid set" in str(caught.value)
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(libstub.Misuse) as caught:
        libstub.starttls_client(ours, "a@@b..c@", pool=client)
    assert caught.value.code == 113


def test_a_timeout_is_the_pools(client):
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(libstub.Timeout) as caught:
        libstub.starttls_client(ours, SERVER, pool=client, timeout_s=0.3)
    assert caught.value.code == 307
