"""Addresses as people write them, and the sockets that listen at them."""

import contextlib
import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_admin import endpoints
from tlspool_admin.endpoints import Endpoint, close_listener, listen, resolve, shown

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize(
    ("text", "endpoint", "back"),
    [
        ("127.0.0.1:443", Endpoint(socket.AF_INET, ("127.0.0.1", 443)), "127.0.0.1:443"),
        ("[::1]:443", Endpoint(socket.AF_INET6, ("::1", 443, 0, 0)), "[::1]:443"),
        ("::1:443", Endpoint(socket.AF_INET6, ("::1", 443, 0, 0)), "[::1]:443"),
        ("/run/x.sock", Endpoint(socket.AF_UNIX, "/run/x.sock"), "/run/x.sock"),
        ("./x:1", Endpoint(socket.AF_UNIX, "./x:1"), "./x:1"),
    ],
)
def test_one_address(text, endpoint, back):
    assert resolve(text) == [endpoint]
    assert str(endpoint) == back


def test_localhost_is_looked_up():
    assert Endpoint(socket.AF_INET, ("127.0.0.1", 80)) in resolve("localhost:80")


def test_all_interfaces_only_to_listen():
    assert Endpoint(socket.AF_INET, ("0.0.0.0", 80)) in resolve(":80", listen=True)
    with pytest.raises(ValueError, match="neither HOST:PORT"):
        resolve(":80")


@pytest.mark.parametrize("text", ["", "x", "x:", "x:y", "x:65536", "x:-1", "x:١", ":", "h:" + "9" * 30])
def test_no_address(text):
    with pytest.raises(ValueError, match="neither HOST:PORT nor"):
        resolve(text)


@pytest.mark.parametrize("text", ["/" + "x" * 107, "name.invalid:80", "a..b:80", "\udce4:80", "x" * 300 + ":80"])
def test_addresses_that_do_not_exist(text):
    with pytest.raises(ValueError, match="'"):
        resolve(text)


@given(st.text(max_size=20).map(lambda text: "\0" + text))
def test_any_text_is_an_address_or_refused(text):
    with contextlib.suppress(ValueError):
        resolve(text)


def test_peers_without_a_name():
    assert shown("") == "local"


def test_listening_over_tcp():
    (sock,) = listen("127.0.0.1:0")
    with socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        accepted.close()
    port = sock.getsockname()[1]
    with pytest.raises(OSError, match="in use") as caught:
        listen(f"127.0.0.1:{port}")
    assert caught.value.filename == f"127.0.0.1:{port}"
    close_listener(sock)
    (sock,) = listen(f"127.0.0.1:{port}")  # though the connection above is in TIME_WAIT
    close_listener(sock)


def test_all_addresses_of_a_name_share_a_free_port(monkeypatch):
    both = [Endpoint(socket.AF_INET, ("127.0.0.1", 0)), Endpoint(socket.AF_INET, ("127.0.0.2", 0))]
    monkeypatch.setattr(endpoints, "resolve", lambda *_, **__: both)
    first, second = listen("both:0")
    assert first.getsockname()[1] == second.getsockname()[1]
    close_listener(first)
    close_listener(second)


def test_an_address_this_host_does_not_have(monkeypatch):
    some = [Endpoint(socket.AF_INET, ("192.0.2.1", 0)), Endpoint(socket.AF_INET, ("127.0.0.1", 0))]
    monkeypatch.setattr(endpoints, "resolve", lambda *_, **__: some)
    (sock,) = listen("some:0")
    assert sock.getsockname()[0] == "127.0.0.1"
    close_listener(sock)
    monkeypatch.setattr(endpoints, "resolve", lambda *_, **__: some[:1])
    with pytest.raises(OSError) as caught:
        listen("none:0")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_unix_sockets_that_nobody_uses_are_replaced(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (sock,) = listen(str(path))
    with pytest.raises(OSError, match="in use"):
        listen(str(path))
    close_listener(sock)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen(str(path))
    assert path.read_text() == "precious"


def test_a_successor_that_is_quick_keeps_its_socket(tmp_path):
    """It listens as soon as nobody else does."""
    path = str(tmp_path / "s")
    made = []

    class Overtaken(socket.socket):
        def close(self):
            super().close()
            made.extend(listen(path))

    (sock,) = listen(path)
    close_listener(Overtaken(sock.family, sock.type, 0, sock.detach()))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    close_listener(*made)
