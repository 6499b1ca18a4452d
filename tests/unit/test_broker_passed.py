"""What a descriptor is good for: each kind that programs pass."""

import os
import pty
import socket

import pytest

from tlspool_broker import passed
from tlspool_broker.events import FdKind
from tlspool_common.fd import OwnedFd
from tlspool_common.settings import parse_untrusted

OWN = frozenset({"/run/tlspool/tlspool.sock"})


def kind(fd, own=OWN):
    with OwnedFd(os.dup(fd)) as owned:
        found = passed.looked_at(owned, own)
        assert found.fd is owned
        os.fstat(owned.fileno())  # it is still open
        return found.kind


def address(fd):
    with OwnedFd(os.dup(fd)) as owned:
        return passed.looked_at(owned, OWN).address


@pytest.mark.parametrize(
    ("family", "form", "expected"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, FdKind.STREAM),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, FdKind.SEQPACKET),
        (socket.AF_UNIX, socket.SOCK_DGRAM, FdKind.OTHER),
    ],
)
def test_socket_pairs(no_leaks, family, form, expected):
    one, other = socket.socketpair(family, form)
    with one, other:
        one.setblocking(False)
        assert kind(one.fileno()) is expected
        assert not os.get_blocking(one.fileno())  # how it blocks is not touched
        other.setblocking(True)
        assert kind(other.fileno()) is expected
        assert os.get_blocking(other.fileno())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp(no_leaks, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener, socket.socket(family) as one:
        assert kind(listener.fileno()) is FdKind.OTHER
        assert kind(one.fileno()) is FdKind.OTHER
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        assert kind(one.fileno()) is FdKind.STREAM
        assert address(one.fileno()) == address(other.fileno()) == host
        other.close()
        assert kind(one.fileno()) is FdKind.STREAM  # the remote has ended; that is not for us to find out


def test_ipv4_at_a_socket_of_ipv6_is_written_as_such(no_leaks):
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as one,
    ):
        other, (host, *_) = listener.accept()
        assert host == "::ffff:127.0.0.1"
        assert address(other.fileno()) == address(one.fileno()) == "127.0.0.1"
        other.close()


def test_a_pair_has_no_address(no_leaks):
    one, other = socket.socketpair()
    with one, other:
        assert address(one.fileno()) == ""


def test_what_is_no_socket(no_leaks, tmp_path):
    read_fd, write_fd = os.pipe()
    main_fd, terminal_fd = pty.openpty()
    with (tmp_path / "f").open("wb") as file:
        for fd in (read_fd, write_fd, main_fd, terminal_fd, file.fileno(), os.open("/", os.O_RDONLY)):
            assert kind(fd) is FdKind.OTHER
    os.close(fd)
    for fd in (read_fd, write_fd, main_fd, terminal_fd):
        os.close(fd)


def test_datagrams(no_leaks):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", 9))
        assert kind(sock.fileno()) is FdKind.OTHER


@pytest.mark.parametrize("form", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_sockets_of_the_pool(no_leaks, tmp_path, form, monkeypatch):
    """By the address of the other end, however the application has called it."""
    path = str(tmp_path / "pool.sock")
    with socket.socket(socket.AF_UNIX, form) as listener, socket.socket(socket.AF_UNIX, form) as sock:
        listener.bind(path)
        listener.listen()
        monkeypatch.chdir(tmp_path)
        sock.connect("pool.sock")
        assert kind(sock.fileno(), frozenset({path})) is FdKind.POOL
        assert kind(sock.fileno()) is not FdKind.POOL


def test_abstract_addresses(no_leaks):
    name = f"\0tlspool-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(name)
        listener.listen()
        sock.connect(name)
        assert kind(sock.fileno()) is FdKind.STREAM


def test_where_the_pool_listens():
    own = passed.addresses_of(parse_untrusted("run_dir /x\nsocket_name /y/z.sock\nsocket_name /y/b.sock\n"))
    ours = {f"/x/{name}.sock" for name in ("broker", "keyd", "pin", "worker", "private/broker")}
    assert own == {"/y/z.sock", "/y/b.sock"} | ours
