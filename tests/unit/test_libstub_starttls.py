"""What a program calls: every argument reaches the pool, sockets are given away, and what cannot be is named."""

import math
import os
import socket
import subprocess
import sys

import pytest

import libstub
from libstub.starttls import find_pool, patience_of
from tests.fixtures.fake_pool import error
from tlspool_common.appwire import Cmd, Flag, Options


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    theirs.settimeout(15)
    yield ours, theirs
    ours.close()
    theirs.close()


def request_of(fake):
    return next(asked.starttls for asked in fake.seen if asked.frame.cmd == Cmd.STARTTLS)


def test_a_client(fake, pool, ends):
    ours, theirs = ends
    ours.settimeout(12)
    with libstub.starttls_client(
        ours,
        "www.example.com",
        localid="me@example.com",
        pool=pool,
        service="https",
        timeout_s=2.5,
        alpn=["h2", "http/1.1"],
        without_sni=True,
        domain_represents_user=True,
        fork=True,
        detach=True,
    ) as session:
        assert ours.fileno() == -1
        assert session.sock.gettimeout() == 12
        assert (session.localid, session.remoteid) == ("me@example.com", "www.example.com")
        assert (session.version, session.group) == ("TLSv1.3", "X25519MLKEM768")
        assert (session.cipher, session.alpn, session.verified) == ("TLS_AES_256_GCM_SHA384", "h2", True)
        assert (session.subject, session.session_id) == ("CN=x", 17)
        session.sock.sendall(b"ping")
        assert theirs.recv(100) == b"ping"
        session.sock.shutdown(socket.SHUT_WR)
        assert theirs.recv(100) == b""
        theirs.sendall(b"pong")
        assert session.sock.recv(100) == b"pong"
        theirs.shutdown(socket.SHUT_WR)
        assert session.sock.recv(100) == b""
    assert session.sock.fileno() == -1
    request = request_of(fake)
    assert request.flags == (
        Flag.LOCALROLE_CLIENT
        | Flag.REMOTEROLE_SERVER
        | Flag.WITHOUT_SNI
        | Flag.DOMAIN_REPRESENTS_USER
        | Flag.FORK
        | Flag.DETACH
    )
    assert (request.localid, request.remoteid) == ("me@example.com", "www.example.com")
    assert (request.service, request.timeout_ms, request.ipproto) == ("https", 2500, 6)
    assert Options.from_payload_untrusted(fake.seen[0].frame.payload) == Options(request.ctlkey, b"\x02h2\x08http/1.1")


@pytest.mark.parametrize(
    ("word", "flag"), [("require", 0), ("request", Flag.REQUEST_REMOTEID), ("ignore", Flag.IGNORE_REMOTEID)]
)
def test_a_server(fake, pool, ends, word, flag):
    with libstub.starttls_server(ends[0], "www.example.com", remoteid="j@example.com", remote_auth=word, pool=pool):
        pass
    request = request_of(fake)
    assert request.flags == Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT | flag
    assert (request.localid, request.remoteid) == ("www.example.com", "j@example.com")
    assert fake.commands()[0] == Cmd.STARTTLS


def test_control_keys_differ(fake, pool):
    for _ in range(20):
        ours, theirs = socket.socketpair()
        libstub.starttls_client(ours, "x.example", pool=pool).close()
        theirs.close()
    assert len({asked.starttls.ctlkey for asked in fake.seen if asked.frame.cmd == Cmd.STARTTLS}) == 20


@pytest.mark.parametrize(
    ("timeout_s", "timeout_ms", "patience_s"),
    [(None, 0, None), (libstub.NO_TIMEOUT, 0xFFFFFFFF, None), (0.0001, 1, 5.0001), (40, 40000, 45)],
)
def test_timeouts(fake, pool, ends, timeout_s, timeout_ms, patience_s):
    libstub.starttls_client(ends[0], "x.example", pool=pool, timeout_s=timeout_s).close()
    assert request_of(fake).timeout_ms == timeout_ms
    assert patience_of(timeout_s) == patience_s


def test_relaying_to_a_socket_of_the_program(pool, ends):
    ours, theirs = ends
    plain, program = socket.socketpair()
    with libstub.starttls_client(ours, "x.example", pool=pool, plain=plain) as session, program:
        assert plain.fileno() == -1
        program.sendall(b"straight")
        assert theirs.recv(100) == b"straight"
        with pytest.raises(libstub.Misuse, match="given as plain"):
            session.sock.recv(1)


def test_tcp_does_not_wait_for_more(fake, pool):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        with libstub.starttls_client(ours, "x.example", pool=pool), theirs:
            given = next(asked for asked in fake.seen if asked.frame.cmd == Cmd.STARTTLS).fds[0]
            assert given.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_error_closes_the_socket_and_says_what_to_do(fake, pool, ends):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: (
        asked.drop(),
        peer.send(error(asked.frame, "[402] the remote's certificate does not lead to a trusted anchor")),
    )
    ours, theirs = ends
    plain, program = socket.socketpair()
    with pytest.raises(libstub.RemoteUnverified) as caught:
        libstub.starttls_client(ours, "x.example", pool=pool, plain=plain)
    assert caught.value.code == 402
    assert "tlspool trust set" in str(caught.value)
    assert theirs.recv(1) == b""
    assert program.recv(1) == b""
    program.close()
    assert ours.fileno() == plain.fileno() == -1


def test_details_that_are_not_known_are_empty(fake, pool, ends):
    fake.on[Cmd.LOCAL_DETAILS] = lambda peer, asked: peer.send(error(asked.frame, "[115] unknown"))
    with libstub.starttls_client(ends[0], "x.example", pool=pool) as session:
        assert (session.version, session.cipher, session.group, session.alpn) == ("", "", "", "")
        assert (session.verified, session.subject, session.session_id) == (False, "", 0)
        assert repr(session).startswith("<TlsSession testcli@tlspool.arpa2.lab with x.example")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"remoteid": "x" * 128}, "remoteid has 128 bytes"),
        ({"remoteid": "a\0b"}, "without NUL"),
        ({"localid": "ö" * 64}, "localid has 128 bytes"),
        ({"service": "x" * 16}, "service has 16 bytes"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"timeout_s": math.nan}, "timeout_s"),
        ({"timeout_s": 5e6}, "timeout_s"),
        ({"alpn": [""]}, "1 to 255 bytes"),
        ({"alpn": ["ü"]}, "ascii"),
        ({"alpn": ["x" * 200, "y" * 200]}, "alpn has 402 bytes"),
        ({"remote_auth": "perhaps"}, "'perhaps'"),
        ({"plain": 5}, "plain must be a connected socket.socket, not int"),
        ({"pool": "/" + "x" * 200}, "cannot be the path"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named_and_the_socket_is_closed(no_leaks, ends, options, text):
    ours, theirs = ends
    with pytest.raises(libstub.Misuse, match=text) as caught:
        libstub.starttls_client(ours, **{"remoteid": "x.example", "pool": "/nowhere", **options})
    assert caught.value.code == 0
    assert theirs.recv(1) == b""


def test_what_is_no_socket_is_named(no_leaks):
    with pytest.raises(libstub.Misuse, match="sock must be a connected"):
        libstub.starttls_client(5, "x.example", pool="/nowhere")
    closed = socket.socket()
    closed.close()
    with pytest.raises(libstub.Misuse, match="sock is closed already"):
        libstub.starttls_server(closed, "x.example", pool="/nowhere")


def test_no_pool_closes_the_socket(no_leaks, ends, tmp_path):
    ours, theirs = ends
    plain, program = socket.socketpair()
    with pytest.raises(libstub.PoolUnavailable, match="there is no pool at"):
        libstub.starttls_client(ours, "x.example", pool=tmp_path / "nothing", plain=plain)
    assert theirs.recv(1) == b""
    assert program.recv(1) == b""
    program.close()


def test_one_default_pool_for_each_path(tmp_path, monkeypatch):
    monkeypatch.setenv("TLSPOOL_SOCKET", str(tmp_path / "s"))
    assert find_pool() is find_pool(str(tmp_path / "s")) is find_pool(tmp_path / "s")
    assert find_pool(tmp_path / "t") is not find_pool()
    assert find_pool(find_pool()) is find_pool()


def test_a_whole_program(fake):
    """The default pool is found by the environment, and the end of the program is quiet with warnings as errors."""
    code = (
        "import libstub, socket\n"
        "assert libstub.ping()\n"
        "ours, theirs = socket.socketpair()\n"
        "with theirs, libstub.starttls_client(ours, 'x.example') as tls:\n"
        "    tls.sock.sendall(b'x'); assert theirs.recv(1) == b'x'\n"
        "loaded = {name for name in __import__('sys').modules}\n"
        "assert not loaded & {'ssl', 'OpenSSL', 'cryptography', 'asyncio', 'tlspool_broker'}, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        env={**os.environ, "TLSPOOL_SOCKET": fake.path},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
