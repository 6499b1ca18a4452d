"""Authentication after the handshake, with real remotes on either side."""

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading

import pytest

import libstub
from tests.e2e.conftest import await_log, connect, log_of, make_pool
from tests.e2e.test_questions import CLIENT, SERVER, both_ends
from tests.fixtures.ports import free_port
from tlspool_admin.client import ask as ask_broker
from tlspool_common.appwire import Cmd, Frame, Starttls, frame_untrusted

IGNORE = {"remote_auth": "ignore"}


@pytest.fixture(params=["native", "python"])
def each_relay(request, tmp_path_factory):
    """A pool whose workers relay in this manner."""
    made = make_pool(tmp_path_factory, request.param, "ec", f"relay {request.param}")
    yield made
    made.down()


def test_a_client_that_becomes_somebody(each_relay, table):
    """A server that did not ask in the handshake asks when it needs to know, and data flows all the time."""
    pool = each_relay
    with both_ends(pool, pool, server=IGNORE) as (client, server):
        assert (server.remoteid, server.verified, server.subject) == ("", False, "")
        assert server.reauthenticate(CLIENT) == CLIENT
        assert (server.remoteid, server.verified) == (CLIENT, True)
        assert CLIENT in server.subject
        assert server.distinguished_name() == client.distinguished_name(local=True)
        assert server.distinguished_name(local=True) == client.distinguished_name()
        before = client.channel_binding("tls-server-end-point")
        data = os.urandom(2_000_000)
        got = bytearray()

        def read():
            while len(got) < len(data):
                got.extend(server.sock.recv(65536))

        threads = [threading.Thread(target=read), threading.Thread(target=client.sock.sendall, args=(data,))]
        for thread in threads:
            thread.start()
        assert server.reauthenticate() == CLIENT
        for thread in threads:
            thread.join(60)
        assert got == data
        server.sock.sendall(b"back")
        assert client.sock.recv(10) == b"back"
        assert client.channel_binding("tls-server-end-point") == before
        assert server.channel_binding("tls-server-end-point") == before
    await_log(pool, "broker", r"event=session.reauthenticated .*remoteid=testcli@tlspool.arpa2.lab verified=yes")
    await_log(pool, "broker", r"event=session.asked .*answered=yes")
    table.append(("asks its client again", "another session of the pool", CLIENT))


def test_a_client_that_is_not_who_was_expected_stays(each_relay):
    with both_ends(each_relay, each_relay) as (client, server):
        assert server.remoteid == CLIENT
        with pytest.raises(libstub.RemoteUnverified) as caught:
            server.reauthenticate("somebody@else.example")
        assert caught.value.code == 406
        assert (server.remoteid, server.verified) == ("", False)
        with pytest.raises(libstub.NotAvailable):
            server.distinguished_name()
        server.sock.sendall(b"the session goes on")
        assert client.sock.recv(100) == b"the session goes on"
        assert server.reauthenticate() == CLIENT
        assert server.distinguished_name()


def test_rations(pool):
    """A server that asks without end gets so many answers, and then none; the session stays."""
    with both_ends(pool, pool, server=IGNORE) as (client, server):
        told = [server.reauthenticate(remote_auth="request") for _ in range(6)]
        assert told == [CLIENT] * 4 + [""] * 2
        with pytest.raises(libstub.RemoteUnverified) as caught:
            server.reauthenticate()
        assert caught.value.code == 401
        client.sock.sendall(b"still there")
        assert server.sock.recv(100) == b"still there"


# --- openssl ----------------------------------------------------------------------------------------


def openssl_client(port, *words):
    return subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-quiet", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_openssl_s_client_is_asked(pool, authority, echo_server, table):
    certificate, key = authority.issue("somebody@tlspool.arpa2.lab")
    server = echo_server(pool)
    words = ["-tls1_3", "-enable_pha", "-cert", str(certificate), "-key", str(key)]
    with openssl_client(server.port, *words) as client:
        session = server.await_session()
        assert session.remoteid == ""
        assert session.reauthenticate() == "somebody@tlspool.arpa2.lab"
        client.stdin.write(b"echo\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"echo\n"
        assert session.reauthenticate("somebody@tlspool.arpa2.lab") == "somebody@tlspool.arpa2.lab"
        client.stdin.close()
        client.terminate()
    table.append(("asks its client again", "openssl s_client -enable_pha", "somebody@tlspool.arpa2.lab"))


@pytest.mark.parametrize("words", [["-tls1_3"], ["-tls1_2"]])
def test_openssl_s_client_that_cannot_be_asked(pool, echo_server, words):
    server = echo_server(pool)
    with openssl_client(server.port, *words) as client:
        session = server.await_session()
        with pytest.raises(libstub.NotAvailable) as caught:
            session.reauthenticate()
        assert caught.value.code == 129
        client.stdin.write(b"goes on\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"goes on\n"
        client.stdin.close()
        client.terminate()


def test_openssl_s_client_without_a_certificate(pool, echo_server):
    server = echo_server(pool)
    with openssl_client(server.port, "-tls1_3", "-enable_pha") as client:
        session = server.await_session()
        with pytest.raises(libstub.RemoteUnverified) as caught:
            session.reauthenticate()
        assert caught.value.code == 401
        assert session.reauthenticate(remote_auth="request") == ""
        client.stdin.write(b"goes on\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"goes on\n"
        client.stdin.close()
        client.terminate()


def test_openssl_s_server_asks(pool, authority, start, table):
    """The signature goes through keyd, under a grant made for it."""
    certificate, key = authority.issue("asking@tlspool.arpa2.lab")
    port = free_port()
    words = ["-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-key", str(key), "-tls1_3"]
    words += ["-CAfile", str(pool.directory / "ca.pem")]
    program = start(["openssl", "s_server", *words], port)
    position = len(log_of(pool, "keyd"))
    with (
        libstub.Pool(str(pool.socket)) as own,
        libstub.starttls_client(connect(port), "asking@tlspool.arpa2.lab", localid=CLIENT, pool=own) as session,
    ):
        assert not re.search("event=sign", log_of(pool, "keyd")[position:])
        program.process.stdin.write(b"c\n")
        program.process.stdin.flush()
        await_log(pool, "keyd", r"event=\S*sign\S* .*", position)
        session.sock.sendall(b"afterwards\n")
        program.process.stdin.write(b"and back\n")
        program.process.stdin.flush()
        assert session.sock.recv(100) == b"and back\n"
        assert session.distinguished_name(local=True)
        for pattern in ("SSL_do_handshake -> 1", f"CN = {CLIENT}", "afterwards"):
            program.await_output(pattern)
        session.sock.sendall(b"Q\n")
    program.stop()
    table.append(("is asked again by its server", "openssl s_server", CLIENT))


# --- bad input, and parts that go away ---------------------------------------------------------------


def mute_client(pool, port):
    """A client that allows to be asked, and never reads what comes."""
    context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
    context.post_handshake_auth = True
    return context.wrap_socket(connect(port), server_hostname="localhost")


def test_a_client_that_does_not_answer(pool, echo_server):
    server = echo_server(pool)
    with mute_client(pool, server.port) as client:
        session = server.await_session()
        with pytest.raises(libstub.Timeout) as caught:
            session.reauthenticate(timeout_s=0.5)
        assert caught.value.code == 307
        with pytest.raises(libstub.NotAvailable) as caught:
            session.reauthenticate(timeout_s=0.5)
        assert caught.value.code == 128
        position = len(log_of(pool, "broker"))
        client.sendall(b"data before the answer")
        assert client.recv(100) == b"data before the answer"  # and now it has read the question, too
        await_log(pool, "broker", "event=session.reauthenticated .*code=0", position)
        told = []
        thread = threading.Thread(target=lambda: told.append(session.reauthenticate(remote_auth="request")))
        position = len(log_of(pool, "worker"))
        thread.start()
        await_log(pool, "worker", "message.received name=AskRemote", position)
        session.sock.sendall(b"read this")  # behind the request
        assert client.recv(100) == b"read this"
        thread.join(20)
        assert told == [""]


@pytest.mark.parametrize("who", ["the client", "the server"])
def test_a_session_that_ends_while_it_is_asked(pool, echo_server, who):
    server = echo_server(pool)
    with mute_client(pool, server.port) as client:
        session = server.await_session()
        errors = []

        def ask():
            try:
                session.reauthenticate()
            except libstub.PoolError as error:
                errors.append(error)

        position = len(log_of(pool, "worker"))
        thread = threading.Thread(target=ask)
        thread.start()
        await_log(pool, "worker", "message.received name=AskRemote", position)
        if who == "the client":
            client.close()
        else:
            session.sock.shutdown(socket.SHUT_RDWR)
            client.close()
        thread.join(20)
        assert [type(error) for error in errors] == [libstub.NotInControl]


def test_a_worker_that_dies_while_it_is_asked(tmp_path_factory, echo_server):
    pool = make_pool(tmp_path_factory, "killed")
    try:
        server = echo_server(pool)
        with mute_client(pool, server.port):
            session = server.await_session()
            errors = []

            def ask():
                try:
                    session.reauthenticate()
                except libstub.PoolError as error:
                    errors.append(error.code)

            thread = threading.Thread(target=ask)
            thread.start()
            await_log(pool, "worker", "message.received name=AskRemote")
            workers = ask_broker(pool.run_dir / "broker.sock", {"cmd": "workers"})["workers"]
            [pid] = [one["pid"] for one in workers if one["sessions"]]
            os.kill(pid, signal.SIGKILL)
            thread.join(20)
            assert errors == [603]
    finally:
        pool.down()


def test_a_session_that_one_side_has_closed(pool):
    with both_ends(pool, pool, server=IGNORE) as (client, server):
        server.sock.shutdown(socket.SHUT_WR)
        assert client.sock.recv(1) == b""
        with pytest.raises(libstub.NotAvailable) as caught:
            server.reauthenticate()
        assert caught.value.code == 128
        client.sock.sendall(b"the other half is open")
        assert server.sock.recv(100) == b"the other half is open"


def test_a_client_cannot_ask(pool):
    with both_ends(pool, pool) as (client, server):
        with pytest.raises(libstub.NotAvailable) as caught:
            client.reauthenticate()
        assert caught.value.code == 129
        server.sock.sendall(b"goes on")
        assert client.sock.recv(100) == b"goes on"


def test_what_makes_no_sense(pool):
    with both_ends(pool, pool) as (_, server):
        for arguments, code in (({"remoteid": "@"}, 113), ({"remote_auth": "ignore"}, 101)):
            with pytest.raises(libstub.Misuse) as caught:
                server.reauthenticate(**arguments)
            assert caught.value.code == code
        server.detach()
        with pytest.raises(libstub.NotInControl) as caught:
            server.reauthenticate()
        assert caught.value.code == 127


def test_a_superfluous_socket(pool):
    one, other = socket.socketpair()
    with contextlib.closing(one), contextlib.closing(other), socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(pool.socket))
        frame = Frame(7, 0, Cmd.STARTTLS, Starttls(flags=0x20006, localid=SERVER).to_payload())
        socket.send_fds(raw, [frame.to_bytes()], [one.fileno()])
        reply = frame_untrusted(raw.recv(388, socket.MSG_WAITALL))
    assert reply.cmd == Cmd.ERROR
    assert int.from_bytes(reply.payload[:4], "little", signed=True) == -1167372288 + 5
