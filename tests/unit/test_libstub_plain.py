"""Plaintext sockets with the addresses of the connection underneath; and what an import of libstub costs."""

import socket
import subprocess
import sys

import pytest

import libstub
from libstub.plain import Addresses, PlainSocket, addresses_of


def test_addresses():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        accepted, address = listener.accept()
        with accepted:
            assert addresses_of(accepted) == (listener.getsockname(), address) == (sock.getpeername(), address)
        assert addresses_of(listener) == (listener.getsockname(), None)
    assert addresses_of(listener) == (None, None)


def test_a_socket_that_answers_for_another():
    ours, theirs = socket.socketpair()
    ours.settimeout(3)
    number = ours.fileno()
    with theirs, PlainSocket.of(ours, Addresses(("192.0.2.1", 25), ("192.0.2.2", 1025))) as plain:
        assert (ours.fileno(), plain.fileno(), plain.gettimeout()) == (-1, number, 3)
        assert (plain.getsockname(), plain.getpeername()) == (("192.0.2.1", 25), ("192.0.2.2", 1025))
        assert plain.family == socket.AF_UNIX
        assert plain.tls is None
        plain.sendall(b"x")
        assert theirs.recv(1) == b"x"


def test_a_socket_of_its_own():
    with socket.create_server(("127.0.0.1", 0)) as listener, PlainSocket() as plain:
        plain.connect(listener.getsockname())
        assert plain.getpeername() == listener.getsockname()
        assert plain.getsockname()[0] == "127.0.0.1"


def test_most_programs_do_not_pay_for_the_rest():
    code = "import sys, libstub; print([name for name in ('asyncio', 'ssl', 'http', 'smtplib') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    code += "; libstub.aio.upgrade, libstub.adapters, libstub.listen; print('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\nTrue\n"
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = libstub.nothing_like_this
