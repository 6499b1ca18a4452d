"""The peer role: two equals, and a peer among ordinary clients and servers."""

import contextlib
import socket
import ssl
import subprocess
import threading
from collections import Counter

import pytest

import libstub
from tests.e2e.conftest import Authority, await_log, connect, log_of, make_pool, trust
from tests.fixtures.ports import free_port
from tlspool_admin.client import ask

ONE = "testcli@tlspool.arpa2.lab"
OTHER = "testsrv@tlspool.arpa2.lab"


def equals(tmp_path_factory, *settings):
    """A pool in which both demo identities may be shown to each other."""
    made = make_pool(tmp_path_factory, "peers", "ec", *settings)
    for selector in ("@.arpa2.lab", "."):
        ask(made.run_dir / "broker.sock", {"cmd": "disclose.set", "selector": selector, "ids": [ONE, OTHER]})
    return made


@pytest.fixture(scope="module")
def polite(tmp_path_factory):
    """Peers that listen first, as they do."""
    made = equals(tmp_path_factory)
    yield made
    made.down()


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Peers that listen until an ordinary client has spoken, however busy this machine is."""
    made = equals(tmp_path_factory, "peer_listen_s 10")
    yield made
    made.down()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """Peers that speak at once, so that they cross."""
    made = equals(tmp_path_factory, "peer_listen_s 0", "isolation connection", "workers 4")
    yield made
    made.down()


def meet(one, other):
    """Run two functions on the two ends of a connection; return what each returns or raises."""
    found = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends = connect(listener.getsockname()[1]), listener.accept()[0]

    def run(number, what):
        try:
            found[number] = what(ends[number])
        except (libstub.PoolError, OSError) as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate((one, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found[0], found[1]


def peer(pool, localid, remoteid, **options):
    return lambda sock: libstub.starttls_peer(sock, localid, remoteid, pool=pool, **options)


def talk(one, other):
    for session in (one, other):
        if isinstance(session, Exception):
            raise session
    one.sock.sendall(b"to and fro")
    assert other.sock.recv(100) == b"to and fro"
    other.sock.sendall(b"and back")
    assert one.sock.recv(100) == b"and back"
    assert one.channel_binding() == other.channel_binding()
    assert {one.role, other.role} == {"client", "server"}
    one.close()
    other.close()


@pytest.fixture
def pools():
    with contextlib.ExitStack() as stack:
        yield lambda pool: stack.enter_context(libstub.Pool(str(pool.socket)))


@pytest.mark.parametrize("manner", ["polite", "hasty"])
def test_two_peers(request, pools, manner, table):
    """Ten times, so that either becomes the client."""
    pool = request.getfixturevalue(manner)
    mine, theirs = pools(pool), pools(pool)
    roles = Counter()
    for _ in range(10):
        one, other = meet(peer(mine, ONE, OTHER), peer(theirs, OTHER, ONE))
        if not isinstance(one, Exception) and not isinstance(other, Exception):
            assert (one.remoteid, other.remoteid) == (OTHER, ONE)
            roles[one.role] += 1
        talk(one, other)
    assert roles.total() == 10
    table.append((f"peer ({manner})", "peer", f"client {roles['client']} times of 10"))


def test_peers_that_cross_are_seen(hasty, pools):
    """Both have said ClientHello: one of them takes it back, and says to the broker that it is the server."""
    position = len(log_of(hasty, "worker"))
    mine, theirs = pools(hasty), pools(hasty)
    for _ in range(5):
        talk(*meet(peer(mine, ONE, OTHER), peer(theirs, OTHER, ONE)))
    said = log_of(hasty, "worker")[position:]
    assert said.count("message.sent name=ClientHelloSeen") == 5


@pytest.mark.parametrize("manner", ["polite", "hasty"])
def test_a_peer_and_an_ordinary_server(request, pools, manner):
    pool = request.getfixturevalue(manner)
    mine, theirs = pools(pool), pools(pool)
    one, other = meet(peer(mine, ONE, OTHER), lambda sock: libstub.starttls_server(sock, OTHER, pool=theirs))
    assert getattr(one, "role", one) == "client"
    talk(one, other)


def test_a_peer_and_an_ordinary_client(patient, pools):
    mine, theirs = pools(patient), pools(patient)
    one, other = meet(
        peer(mine, OTHER, ONE), lambda sock: libstub.starttls_client(sock, OTHER, localid=ONE, pool=theirs)
    )
    assert getattr(one, "role", one) == "server"
    talk(one, other)


# --- openssl ----------------------------------------------------------------------------------------


def test_openssl_s_client_meets_a_server(patient, pools, table):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = ["-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-quiet", "-servername", "tlspool.arpa2.lab"]
        with subprocess.Popen(
            ["openssl", "s_client", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as client:
            sock, _ = listener.accept()
            session = peer(pools(patient), OTHER, ONE, remote_auth="request")(sock)
            assert (session.role, session.remoteid) == ("server", "")
            session.sock.sendall(b"hello\n")
            assert client.stdout.readline() == b"hello\n"
            session.close()
            client.stdin.close()
            client.terminate()
    table.append(("peer", "openssl s_client", "server"))


def test_openssl_s_server_meets_a_client(polite, pools, start, table):
    port = free_port()
    authority = Authority(polite.directory)
    trust(polite, authority)
    certificate, key = authority.issue("other@tlspool.arpa2.lab")
    words = ["-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-key", str(key), "-quiet"]
    program = start(["openssl", "s_server", *words], port)
    session = peer(pools(polite), ONE, "other@tlspool.arpa2.lab")(connect(port))
    assert (session.role, session.remoteid) == ("client", "other@tlspool.arpa2.lab")
    session.sock.sendall(b"from the peer\n")
    program.process.stdin.write(b"from openssl\n")
    program.process.stdin.flush()
    assert session.sock.recv(100) == b"from openssl\n"
    session.close()
    table.append(("peer", "openssl s_server", "client"))


# --- bad input --------------------------------------------------------------------------------------


def test_a_mirror(hasty, pools):
    """Somebody sends a peer its own bytes back."""

    def mirror(sock):
        with sock:
            sock.settimeout(20)
            while data := sock.recv(65536):
                sock.sendall(data)
                if data[:1] == b"\x15":
                    return data
        return b""

    error, alert = meet(peer(pools(hasty), ONE, OTHER), mirror)
    assert isinstance(error, libstub.HandshakeFailed)
    assert error.code == 305
    assert alert == b"\x15\x03\x03\0\x02\x02\x2f"
    await_log(hasty, "broker", "event=session.failed code=305 .*our own ClientHello back")


def test_a_client_that_crosses_a_peer_fails_cleanly(hasty, pools):
    """An ordinary client does not know what to do with a ClientHello; both ends hear of it."""

    def client(sock):
        context = ssl.create_default_context(cafile=str(hasty.directory / "ca.pem"))
        context.check_hostname = False
        sock.settimeout(20)
        first = sock.recv(5)  # the peer has spoken
        assert first[0] == 22
        return context.wrap_socket(sock)

    error, other = meet(peer(pools(hasty), OTHER, ONE), client)
    assert isinstance(error, libstub.HandshakeFailed)
    assert isinstance(other, OSError)


@pytest.mark.parametrize(
    ("data", "code"), [(b"SSH-2.0-OpenSSH_9.2\r\n", 301), (b"\x16\x03\x01\0\x05\x02\0\0\1\0", 305), (b"", 303)]
)
def test_remotes_that_are_nobody(polite, pools, data, code):
    def speak(sock):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(20)
        with sock:
            return sock.recv(100)

    error, _ = meet(peer(pools(polite), ONE, OTHER), speak)
    assert isinstance(error, libstub.HandshakeFailed)
    assert error.code == code


def test_a_remote_that_says_nothing(polite, pools):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = connect(listener.getsockname()[1])
        silent, _ = listener.accept()
        with silent:
            with pytest.raises(libstub.Timeout):
                peer(pools(polite), ONE, OTHER, timeout_s=1)(sock)
            assert silent.recv(3) == b"\x16\x03\x01"  # it was spoken to


def test_whom_a_peer_expects(polite, pools):
    one, other = meet(peer(pools(polite), ONE, OTHER), peer(pools(polite), OTHER, "tlspool.arpa2.lab"))
    assert isinstance(other, libstub.RemoteUnverified)
    assert other.code == 406
    if not isinstance(one, Exception):  # it was the client, and done before the server had judged
        assert one.sock.recv(1) == b""
        one.close()


def test_an_identity_that_may_not_be_shown(pool):
    with libstub.Pool(str(pool.socket)) as own:
        one, other = socket.socketpair()
        with other, pytest.raises(libstub.Refused) as caught:
            libstub.starttls_peer(one, OTHER, ONE, pool=own)
        assert caught.value.code == 202
