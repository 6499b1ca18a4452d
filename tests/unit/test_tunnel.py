"""The tunnel's loop against a pool that speaks V2 only: both sides, bounds, failures, and how it ends."""

import argparse
import contextlib
import os
import re
import resource
import socket
import time

import pytest

import libstub
from tests.fixtures.fake_pool import answer, error
from tests.fixtures.tunnels import WAIT_S, Backend, Running, client, failures, plan_of, server
from tlspool_admin import endpoints, loop, tunnel
from tlspool_admin.__main__ import main
from tlspool_admin.commands import tunnel as command
from tlspool_common.appwire import Cmd, Flag, alpn_split_untrusted
from tlspool_common.errors import PoolError


@pytest.mark.parametrize("side", [server, client])
def test_many_connections(run, fake, backend, side):
    running = side(run, backend.address)
    for number in range(20):
        assert running.converse(b"%d" % number) == b"%d" % number
    socks = [running.connect() for _ in range(20)]
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
    for number, sock in enumerate(socks):
        assert sock.recv(100) == b"%d" % number
        sock.close()
    assert fake.connections == 1
    deadline = time.monotonic() + WAIT_S
    while running.tunnel._setups:  # until the pool's last word has been read
        assert time.monotonic() < deadline


def test_what_the_pool_is_asked(run, fake, backend):
    words = ["--alpn", "h2,x", "--service", "imap", "--timeout", "3"]
    running = server(run, backend.address, "--client-auth", "request", *words)
    with running.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        asked = next(one for one in fake.seen if one.frame.cmd == Cmd.STARTTLS)
        given = next(one for one in fake.seen if one.frame.cmd == Cmd.PLAINTEXT_CONNECT)
        for passed in (asked.fds[0], given.fds[0]):
            assert passed.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert passed.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    request = asked.starttls
    assert request.flags == Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT | Flag.REQUEST_REMOTEID
    assert (request.localid, request.service, request.timeout_ms) == ("localhost", "imap", 3000)
    client(run, backend.address, "--localid", "J@Example.COM", "--linger").converse()
    request = [one.starttls for one in fake.seen if one.frame.cmd == Cmd.STARTTLS][-1]
    assert request.flags == Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER | Flag.FORK
    assert (request.localid, request.remoteid) == ("j@example.com", "www.example.com")
    assert Cmd.LOCAL_DETAILS not in fake.commands()


def test_unix_sockets_on_both_sides(run, fake, tmp_path):
    backend = Backend(str(tmp_path / "b"), socket.AF_UNIX)
    for side in (server, client):
        path = str(tmp_path / side.__name__)
        running = side(run, str(tmp_path / "b"), listen=path)
        assert running.converse() == b"hello"
        running.stop()
        assert not os.path.exists(path)
    backend.close()


def test_the_next_address_is_tried(run, fake, backend, monkeypatch, noted):
    refused = socket.socket()
    refused.bind(("127.0.0.1", 0))
    targets = [endpoints.Endpoint(socket.AF_INET, refused.getsockname()), *endpoints.resolve(backend.address)]
    monkeypatch.setattr(endpoints, "resolve", lambda text, **_: targets)
    plans = [plan_of("client", "--listen", "-", "--connect", "-", "--remoteid", "x.example")]
    plans.append(plan_of("server", "--listen", "-", "--connect", "-", "--localid", "x.example"))
    monkeypatch.undo()
    for plan in plans:
        running = Running(plan, noted)
        assert running.converse() == b"hello"
        running.stop()
    refused.close()
    assert not noted.of("tunnel.failed")


# --- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [server, client])
def test_a_backend_that_refuses(run, fake, side, noted):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = endpoints.shown(nobody.getsockname())
        running = side(run, address)
        with running.connect() as sock:
            assert sock.recv(1) == b""
            remote = endpoints.shown(sock.getsockname())
    assert re.search(
        rf'event=tunnel.failed remote={remote} code=0 cause="connect to {address}: Connection refused"',
        failures(noted, 1),
    )


def test_a_backend_that_does_not_answer(run, fake, noted, monkeypatch):
    """A full backlog drops the SYN, as a host that is away does."""
    monkeypatch.setattr(loop, "TICK_S", 0.05)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):
            running = client(run, endpoints.shown(full.getsockname()), "--connect-timeout", "0.1")
            with running.connect() as sock:
                assert sock.recv(1) == b""
    assert "timed out" in failures(noted, 1)


def test_a_handshake_that_fails(run, fake, backend, noted):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: (
        asked.drop(),
        peer.send(error(asked.frame, "[402] the remote's certificate does not lead to a trusted anchor")),
    )
    assert client(run, backend.address).converse() == b""
    text = failures(noted, 1)
    assert "code=402" in text
    assert "INFO" in text


def test_a_pool_that_restarts(run, fake, backend, noted):
    running = server(run, backend.address)
    running.converse()
    fake.stop()
    with running.connect() as sock:
        assert sock.recv(1) == b""
    assert "is not running" in failures(noted, 1)
    fake.start()
    assert running.converse() == b"hello"


def test_a_pool_that_goes_away_during_the_handshake(run, fake, backend, noted):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: None
    running = server(run, backend.address)
    with running.connect() as sock:
        fake.await_commands(Cmd.STARTTLS)
        fake.drop_connections()
        assert sock.recv(1) == b""
    assert "closed the connection" in failures(noted, 1)
    del fake.on[Cmd.STARTTLS]
    assert running.converse() == b"hello"


def test_a_pool_that_breaks_the_rules(run, fake, backend, noted):
    def twice(peer, asked):
        asked.drop()
        peer.call_back(asked)

    fake.on[Cmd.PLAINTEXT_CONNECT] = twice
    assert server(run, backend.address).converse() == b""
    fake.on[Cmd.STARTTLS] = lambda peer, asked: answer(peer, asked, Cmd.STARTTLS_LOCALID)
    assert client(run, backend.address).converse() == b""
    assert failures(noted, 2).count("code=109") >= 1


# --- bounds -----------------------------------------------------------------------------------------


def test_no_more_setups_than_allowed(run, fake, backend):
    """What is too much waits in the backlog, and is served when there is room."""
    kept = []
    fake.on[Cmd.STARTTLS] = lambda peer, asked: kept.append((peer, asked))
    running = server(run, backend.address, "--setups", "3")
    socks = [running.connect() for _ in range(8)]
    for sock in socks:
        sock.sendall(b"x")
    fake.await_change(lambda: len(fake.seen) == 3)
    assert len(running.tunnel._setups) == 3
    served = 0
    while served < 8:
        fake.await_change(lambda: len(kept) > 0)
        answer(*kept.pop(0))
        served += 1
        assert len(running.tunnel._setups) <= 3
    for sock in socks:
        assert sock.recv(1) == b"x"
        sock.close()


def test_no_descriptors_left_pauses_accepting(run, fake, backend, noted, monkeypatch):
    monkeypatch.setattr(loop, "TICK_S", 0.05)
    running = server(run, backend.address)
    assert running.converse() == b"hello"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sock = socket.socket()
    sock.settimeout(WAIT_S)
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() - 3, hard))
    try:
        sock.connect(running.address)
        sock.sendall(b"x")
        text = noted.wait("tunnel.paused")[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Too many open files" in text
    assert sock.recv(1) == b"x"
    sock.close()


@pytest.mark.parametrize(("soft", "hard", "room"), [(64, 64, 16), (64, 4096, 900), (4096, 4096, 900), (40, 41, 4)])
def test_room_for_descriptors(monkeypatch, soft, hard, room):
    said = []
    monkeypatch.setattr(command.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(command.resource, "setrlimit", lambda _, limits: said.append(limits))
    assert command.raise_limit(900, tunnel.SETUP_FDS, tunnel.OTHER_FDS) == room
    assert all(soft < new <= hard for new, _ in said) or said == [(hard, hard)]


def test_an_established_session_costs_nothing(run, fake, backend):
    running = server(run, backend.address)
    counts = []
    with contextlib.ExitStack() as socks:
        for _ in range(2):
            for _ in range(10):
                sock = socks.enter_context(running.connect())
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            deadline = time.monotonic() + WAIT_S
            while running.tunnel._setups:
                assert time.monotonic() < deadline
            counts.append(len(os.listdir("/proc/self/fd")))
    elsewhere = 4 * 10  # both of the fake, the backend's, ours
    assert counts[1] - counts[0] == elsewhere


# --- the end ----------------------------------------------------------------------------------------


def test_sessions_end_with_the_tunnel(run, fake, backend):
    running = server(run, backend.address)
    with running.connect() as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        running.stop()
        assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            running.connect()


def test_a_handshake_ends_with_the_tunnel(run, fake, backend):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: None
    running = server(run, backend.address)
    with running.connect() as sock:
        fake.await_commands(Cmd.STARTTLS)
        running.stop()
        assert sock.recv(1) == b""


def test_lingering(run, fake, backend):
    kept = []
    running = server(run, backend.address, "--linger")
    with running.connect() as early:
        early.sendall(b"x")
        assert early.recv(1) == b"x"
        fake.on[Cmd.STARTTLS] = lambda peer, asked: kept.append((peer, asked))
        with running.connect() as slow:
            fake.await_change(lambda: len(kept) == 1)
            running.tunnel.stop()
            while True:  # the listener is closed in the loop
                try:
                    running.connect().close()
                except (ConnectionRefusedError, ConnectionResetError):
                    break
            answer(*kept[0])
            running.join()
            for sock in (early, slow):
                sock.sendall(b"y")
                assert sock.recv(1) == b"y"


def test_stopping_twice_does_not_wait(run, fake, backend):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: None
    running = server(run, backend.address, "--linger")
    with running.connect():
        fake.await_commands(Cmd.STARTTLS)
        running.tunnel.stop()
        running.stop()


def test_lingering_has_an_end(run, fake, backend, monkeypatch):
    monkeypatch.setattr(loop, "LINGER_S", 0.1)
    monkeypatch.setattr(loop, "TICK_S", 0.02)
    fake.on[Cmd.STARTTLS] = lambda peer, asked: None
    running = server(run, backend.address, "--linger")
    with running.connect():
        fake.await_commands(Cmd.STARTTLS)
        running.stop()


# --- the command ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["server", "--listen", "127.0.0.1:x", "--connect", "127.0.0.1:1", "--localid", "a.example"], "HOST:PORT"),
        (["server", "--listen", "127.0.0.1:0", "--connect", "x", "--localid", "a.example"], "HOST:PORT"),
        (["server", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1", "--localid", ""], "--localid"),
        (["client", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1"], "--remoteid"),
        (["client", "--listen", "x", "--connect", "127.0.0.1:1", "--remoteid", "a", "--setups", "0"], "--setups"),
    ],
)
def test_wrong_usage(fake, monkeypatch, capsys, words, text):
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    with pytest.raises(SystemExit) as caught:
        main(["tunnel", *words])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["client", "--remoteid", "a@@b..c@"], "[113]"),
        (["client", "--remoteid", "a.example", "--timeout", "-1"], "timeout_s"),
        (["client", "--remoteid", "a.example", "--alpn", "x" * 256], "1 to 255 bytes"),
        (["client", "--remoteid", "a.example", "--config", "/nothing"], "/nothing"),
    ],
)
def test_values_that_cannot_be(fake, monkeypatch, capsys, words, text):
    monkeypatch.setenv("TLSPOOL_SOCKET", fake.path)
    assert main(["tunnel", *words, "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1"]) == 1
    assert text in capsys.readouterr().err


def test_no_pool(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TLSPOOL_SOCKET", str(tmp_path / "s"))
    words = ["tunnel", "client", "--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1", "--remoteid", "a.example"]
    assert main(words) == 1
    assert "there is no pool at" in capsys.readouterr().err


def test_the_pool_of_a_configuration(tmp_path):
    (tmp_path / "conf").write_text("socket_name /somewhere/s\n")
    words = ["client", "--listen", ":0", "--connect", "127.0.0.1:1", "--remoteid", "a.example", "--alpn", "h2"]
    plan = plan_of(*words, "--config", str(tmp_path / "conf"))
    assert plan.ask.pool_path == "/somewhere/s"
    assert alpn_split_untrusted(plan.ask.alpn) == (b"h2",)


def test_plans_raise_what_they_say():
    args = argparse.Namespace(
        side="server", localid="a@@", connect="x", alpn="", service="", timeout=None, setups=1, connect_timeout=1,
        client_auth="ignore", linger=False, config=None, protocol=None, protocol_timeout=1,
    )  # fmt: skip
    with pytest.raises(PoolError):
        command.plan_of(args)
    args.localid, args.service = "a.example", "x" * 20
    with pytest.raises(libstub.Misuse):
        command.plan_of(args)
