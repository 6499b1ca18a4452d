"""Remotes that are wrong in every way: each a distinct error to the caller, a line in the log, no harm to others."""

import socket
import ssl
import subprocess

import pytest

import libstub
from tests.e2e.conftest import Authority, await_log, connect, log_of, tlspool
from tests.fixtures.ports import free_port


@pytest.fixture
def client(pool):
    made = libstub.Pool(str(pool.socket))
    yield made
    made.close()


@pytest.fixture
def tls_server(start):
    """An openssl server with a given certificate."""

    def run(certificate, key, *words):
        port = free_port()
        command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-key", str(key)]
        start([*command, "-www", *words], port)
        return port

    return run


CASES = {
    "expired": (404, {"start_days": -20, "end_days": -2}),
    "not-yet-valid": (405, {"start_days": 2, "end_days": 20}),
    "wrong-role": (407, {"usage": ("client",)}),
    "self-signed": (403, {"self_signed": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_server_certificates_that_are_wrong(pool, client, authority, tls_server, name):
    code, options = CASES[name]
    port = tls_server(*authority.issue("www.example.com", **options))
    start = len(log_of(pool, "broker"))
    with pytest.raises(libstub.PoolError) as caught:
        libstub.starttls_client(connect(port), "www.example.com", pool=client)
    assert caught.value.code == code, caught.value
    assert await_log(pool, "broker", rf"code={code}\b[^\n]*", start)
    assert client.ping()


def test_wrong_name(client, authority, tls_server):
    port = tls_server(*authority.issue("www.example.com"))
    with pytest.raises(libstub.PoolError) as caught:
        libstub.starttls_client(connect(port), "mail.example.com", pool=client)
    assert caught.value.code == 406
    with libstub.starttls_client(connect(port), "www.example.com", pool=client) as session:
        assert session.remoteid == "www.example.com"


def test_untrusted(client, stranger, tls_server):
    port = tls_server(*stranger.issue("www.example.com"))
    with pytest.raises(libstub.PoolError) as caught:
        libstub.starttls_client(connect(port), "www.example.com", pool=client)
    assert caught.value.code == 402


def test_a_client_certificate_never_goes_to_a_server_that_does_not_verify(client, stranger, tls_server, start):
    """The alert ends the handshake before our client has said who it is."""
    certificate, key = stranger.issue("www.example.com")
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-key", str(key)]
    program = start([*command, "-Verify", "1", "-msg"], port)
    with pytest.raises(libstub.PoolError):
        libstub.starttls_client(connect(port), "www.example.com", pool=client)
    said = program.await_output("(?i)alert")
    received = [line for line in said.splitlines() if line.startswith("<<<")]
    assert not any("Certificate" in line for line in received), received


@pytest.mark.parametrize(
    ("name", "code", "options"),
    [
        ("expired", 404, {"start_days": -20, "end_days": -2}),
        ("not-yet-valid", 405, {"start_days": 2, "end_days": 20}),
        ("wrong-role", 407, {"usage": ("server",)}),
        ("self-signed", 403, {"self_signed": True}),
    ],
)
@pytest.mark.parametrize("version", ["tls1_3", "tls1_2"])
def test_client_certificates_that_are_wrong(pool, authority, echo_server, name, code, options, version):
    server = echo_server(pool, remote_auth="require")
    certificate, key = authority.issue("john@example.com", **options)
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", f"-{version}"]
        + ["-cert", str(certificate), "-key", str(key), "-ign_eof"],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert server.await_error().code == code
    assert "alert" in done.stderr, done.stderr


def test_a_client_without_a_certificate(pool, echo_server):
    server = echo_server(pool, remote_auth="require")
    subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", "-ign_eof"],
        input="", capture_output=True, timeout=30,
    )  # fmt: skip
    assert server.await_error().code == 401


def test_request_accepts_none_but_not_a_bad_one(pool, stranger, echo_server):
    server = echo_server(pool, remote_auth="request")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost"]
    subprocess.run(command, input="", capture_output=True, timeout=30)
    assert server.await_session().remoteid == ""
    certificate, key = stranger.issue("john@example.com")
    subprocess.run(
        [*command, "-cert", str(certificate), "-key", str(key), "-ign_eof"], input="", capture_output=True, timeout=30
    )
    assert server.await_error().code == 402


def test_a_name_that_is_not_ours(pool, echo_server):
    server = echo_server(pool, localid="localhost")
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "elsewhere.example"],
        input="", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert server.await_error().code == 203
    assert "unrecognized name" in done.stderr


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 301),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 301),
        (b"\x80\x2e\x01\x00\x02" + bytes(60), 301),
        (b"", 303),
        (b"\x16\x03\x01", 303),
        (b"\x16\x03\x01\x00\x10" + bytes(16), 305),
    ],
    ids=["http", "ssh", "sslv2", "nothing", "cut", "garbage"],
)
def test_what_is_no_tls(pool, echo_server, data, code):
    server = echo_server(pool)
    with connect(server.port) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert server.await_error().code == code


def test_plain_http_is_named_in_the_log(pool, echo_server):
    start = len(log_of(pool, "broker"))
    server = echo_server(pool)
    with connect(server.port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.await_error()
    assert "HTTP" in await_log(pool, "broker", r"code=301[^\n]*", start)


def test_old_versions_share_nothing(pool, echo_server):
    server = echo_server(pool)
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"],
        input="", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert server.await_error().code == 306
    assert "alert protocol version" in done.stderr


def test_a_silent_remote_runs_into_the_timeout_that_was_asked_for(pool, echo_server):
    server = echo_server(pool, timeout_s=0.4)
    with connect(server.port) as sock:
        assert server.await_error().code == 307
        assert sock.recv(100) == b"" or True  # whatever comes, the connection is over
        sock.settimeout(5)
        while sock.recv(100):
            pass


def test_truncation_is_told_apart_from_close_notify(pool, echo_server):
    server = echo_server(pool)
    context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
    for polite, reason in ((True, "clean"), (False, "truncated")):
        start = len(log_of(pool, "broker"))
        tls = context.wrap_socket(connect(server.port), server_hostname="localhost")
        tls.sendall(b"x")
        assert tls.recv(1) == b"x"
        if polite:
            tls.unwrap().close()
        else:
            tls.close()
        assert f"reason={reason}" in await_log(pool, "broker", r"event=session.end[^\n]*", start)


def test_one_bad_remote_disturbs_nobody(pool, echo_server, tmp_path_factory):
    server = echo_server(pool)
    context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
    good = context.wrap_socket(connect(server.port), server_hostname="localhost")
    for data in (b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\xff" * 200, b"\x15\x03\x03\x00\x02\x02\x28"):
        with connect(server.port) as bad:
            bad.sendall(data)
        good.sendall(b"still here")
        assert good.recv(100) == b"still here"
    good.close()


def test_revoked_trust_is_live(own_pool, tmp_path_factory, start):
    """Trust is configured while the pool runs: the next session sees it."""
    authority = Authority(tmp_path_factory.mktemp("live"))
    certificate, key = authority.issue("www.example.com")
    port = free_port()
    start(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key, "-www"], port)
    client = libstub.Pool(str(own_pool.socket))
    for trusted in (False, True, False):
        if trusted:
            tlspool(own_pool, "trust", "set", "x509,client", "1", str(authority.path))
            with libstub.starttls_client(connect(port), "www.example.com", pool=client) as session:
                assert session.remoteid == "www.example.com"
            tlspool(own_pool, "trust", "set", "x509,client", "0", str(authority.path))
        else:
            with pytest.raises(libstub.PoolError) as caught:
                libstub.starttls_client(connect(port), "www.example.com", pool=client)
            assert caught.value.code == 402
    client.close()
