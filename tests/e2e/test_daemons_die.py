"""A daemon that dies costs what it was doing, with a clear error, and nothing else."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from tests.e2e.conftest import await_log, connect, log_of
from tlspool_admin.client import ask


def context_for(pool):
    return ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))


def echo_once(pool, server):
    with context_for(pool).wrap_socket(connect(server.port), server_hostname="localhost") as tls:
        tls.sendall(b"hello")
        assert tls.recv(100) == b"hello"


def status_until(pool, test, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = ask(pool.run_dir / "broker.sock", {"cmd": "status"})
        if test(status):
            return status
        time.sleep(0.02)
    raise AssertionError(status)


def test_a_dead_worker(own_pool, echo_server):
    server = echo_server(own_pool)
    echo_once(own_pool, server)
    busy = connect(server.port)  # its handshake has not begun
    busy.sendall(b"\x16\x03\x01")
    status_until(own_pool, lambda status: status["states"].get("expect_client_hello"))
    workers = ask(own_pool.run_dir / "worker.sock", {"cmd": "status"})["workers"]
    for worker in workers:
        os.kill(worker["pid"], signal.SIGKILL)
    assert server.await_error().code == 603
    busy.close()
    assert await_log(own_pool, "worker", r"event=worker\.gone[^\n]*137")
    status_until(own_pool, lambda status: status["workers"])
    echo_once(own_pool, server)


def test_a_dead_keyd(own_pool, echo_server):
    server = echo_server(own_pool)
    with context_for(own_pool).wrap_socket(connect(server.port), server_hostname="localhost") as alive:
        os.kill(own_pool.running()["keyd"], signal.SIGKILL)
        status_until(own_pool, lambda status: not status["keyd"])
        with pytest.raises((ssl.SSLError, OSError)):
            echo_once(own_pool, server)
        assert server.await_error().code in (601, 516)
        alive.sendall(b"the relay needs no key")
        assert alive.recv(100) == b"the relay needs no key"
        own_pool.up()  # starts what does not run
    echo_once(own_pool, server)


def test_a_token_removed_and_inserted_again(own_pool, echo_server):
    server = echo_server(own_pool)
    echo_once(own_pool, server)
    pids = own_pool.running()
    tokens = own_pool.directory / "tokens"
    away = own_pool.directory / "away"
    shutil.move(tokens, away)
    tokens.mkdir()
    with pytest.raises((ssl.SSLError, OSError)):
        echo_once(own_pool, server)
    assert server.await_error().code in (508, 501)
    tokens.rmdir()
    shutil.move(away, tokens)
    deadline = time.monotonic() + 20
    while True:
        try:
            echo_once(own_pool, server)
            break
        except (ssl.SSLError, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert own_pool.running() == pids


def test_a_missing_key(own_pool, echo_server):
    from tests.e2e.conftest import tlspool

    certificate = own_pool.directory / "certs" / "localhost.pem"
    tlspool(
        own_pool,
        "localid",
        "set",
        "localhost",
        "x509,server",
        "pkcs11:token=tlspool-dev;object=nothing",
        str(certificate),
    )
    server = echo_server(own_pool)
    with pytest.raises((ssl.SSLError, OSError)):
        echo_once(own_pool, server)
    assert server.await_error().code == 501


def test_a_key_of_another_certificate(own_pool, echo_server):
    from tests.e2e.conftest import tlspool

    certificate = own_pool.directory / "certs" / "localhost.pem"
    uri = "pkcs11:token=tlspool-dev;object=playground.arpa2.lab;type=private"
    command = ("localid", "set", "localhost", "x509,server", uri, str(certificate))
    with pytest.raises(subprocess.CalledProcessError) as refused:
        tlspool(own_pool, *command)
    assert "[134]" in refused.value.stderr
    pid = own_pool.running()["keyd"]
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    status_until(own_pool, lambda status: not status["keyd"])
    tlspool(own_pool, *command)  # now nobody can tell
    own_pool._start("keyd")  # not up(), which writes the databases again
    status_until(own_pool, lambda status: status["keyd"])
    server = echo_server(own_pool)
    with pytest.raises((ssl.SSLError, OSError)):
        echo_once(own_pool, server)
    assert server.await_error().code == 503


def test_a_wrong_pin_is_tried_once(tmp_path, echo_server):
    from tlspool_admin.devpool import DevPool

    pool = DevPool(tmp_path / "p")
    try:
        pool.up()
        pid = pool.running()["keyd"]
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        status_until(pool, lambda status: not status["keyd"])
        right = (pool.directory / "pin").read_text()
        wrong = tmp_path / "wrong"
        wrong.touch(mode=0o600)
        wrong.write_text("00000000" if right.strip() != "00000000" else "11111111")
        config = pool.config.read_text()
        log_start = len(log_of(pool, "keyd"))
        pool._configure = lambda *_: pool.config.write_text(config.replace(str(pool.directory / "pin"), str(wrong)))
        pool.up()
        server = echo_server(pool)
        for number in (1, 2, 3):
            with pytest.raises((ssl.SSLError, OSError)):
                echo_once(pool, server)
            assert server.await_error(number).code == 506
        log = log_of(pool, "keyd")[log_start:]
        assert log.count("CKR_PIN_INCORRECT") == 1, log
        for secret in (right.strip(), wrong.read_text()):
            for name in ("broker", "keyd", "worker"):
                assert secret not in log_of(pool, name)
    finally:
        pool.down()


def test_an_application_that_goes_away_takes_its_sessions_along(own_pool, echo_server):
    server = echo_server(own_pool)
    tls = context_for(own_pool).wrap_socket(connect(server.port), server_hostname="localhost")
    server.await_session()
    server.pool.close()
    assert tls.recv(100) == b""
    tls.close()
    status_until(own_pool, lambda status: status["sessions"] == 0)


def test_a_slow_application_delays_nobody(own_pool, echo_server):
    """An application that takes its time over the plaintext descriptor holds up its own session only."""
    import array

    from tlspool_common import appwire

    server = echo_server(own_pool)
    listener = socket.create_server(("127.0.0.1", 0))
    outcome = []

    def remote():
        with context_for(own_pool).wrap_socket(
            socket.create_connection(listener.getsockname()), server_hostname="localhost"
        ) as tls:
            tls.sendall(b"early data is kept")
            outcome.append(tls.recv(100))

    thread = threading.Thread(target=remote)
    thread.start()
    crypt, _ = listener.accept()
    with socket.socket(socket.AF_UNIX) as app:
        app.connect(str(own_pool.socket))
        app.settimeout(20)
        request = appwire.Starttls(
            flags=0x6 | appwire.Flag.IGNORE_REMOTEID, localid="localhost", ctlkey=os.urandom(16), service="generic"
        )
        frame = appwire.Frame(1, 0, appwire.Cmd.STARTTLS, request.to_payload()).to_bytes()
        app.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [crypt.fileno()]))])
        crypt.close()
        callback = appwire.frame_untrusted(app.recv(388, socket.MSG_WAITALL))
        assert callback.cmd == appwire.Cmd.PLAINTEXT_CONNECT
        for _ in range(5):
            echo_once(own_pool, server)
        ours, theirs = socket.socketpair()
        answer = appwire.Frame(1, callback.cbid, callback.cmd, callback.payload).to_bytes()
        app.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
        final = appwire.frame_untrusted(app.recv(388, socket.MSG_WAITALL))
        theirs.close()
        assert (final.cmd, final.cbid) == (appwire.Cmd.STARTTLS, 0)
        assert ours.recv(100) == b"early data is kept"
        ours.sendall(b"answer")
        thread.join(10)
        ours.close()
    assert outcome == [b"answer"]
    listener.close()
