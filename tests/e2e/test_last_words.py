"""A program that writes, closes and ends at once: the remote still gets all of it."""

import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import connect, make_pool
from tests.e2e.test_daemons_die import context_for

PROGRAM = """
import socket, sys, libstub
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
tls = libstub.starttls_server(sock, localid="localhost", remote_auth="ignore")
tls.sock.sendall(bytes(range(250)) * 20000)
tls.sock.close()
"""


@pytest.fixture(scope="module", params=["native", "python"])
def relay_pool(request, tmp_path_factory):
    made = make_pool(tmp_path_factory, request.param, "ec", f"relay {request.param}")
    yield made
    made.down()


def test_last_words_arrive(relay_pool):
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **relay_pool.environment},
            stdout=subprocess.PIPE,
            cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
        ) as program:
            port = int(program.stdout.readline())
            with context_for(relay_pool).wrap_socket(connect(port), server_hostname="localhost") as tls:
                got = tls.recv(1)
                # Most of it fits nowhere but in the pool's hands when the program ends: sendall waits for room.
                while len(got) < 4_000_000:
                    got += tls.recv(16384)
                assert program.wait(20) == 0
                while part := tls.recv(16384):
                    got += part
        assert got == bytes(range(250)) * 20000
