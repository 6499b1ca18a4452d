"""The configuration is read again by a pool at work: all of it or nothing, and no session is disturbed."""

import json
import os
import signal
import socket
import ssl
import threading

import pytest

import libstub
from tests.e2e.conftest import await_log, connect, echoes, log_of, make_pool, until
from tlspool_admin.client import Refused, ask

DAEMONS = ("broker", "worker", "keyd")


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A pool whose configuration the tests change."""
    made = make_pool(tmp_path_factory, "live")
    yield made
    made.down()


@pytest.fixture
def pool(live):
    """It has the configuration that it was started with, before and after."""
    text = live.config.read_text()
    yield live
    live.config.write_text(text)
    for name in DAEMONS:
        tell(live, name, "reload")


def tell(pool, name, cmd):
    return ask(pool.run_dir / f"{name}.sock", {"cmd": cmd})


def add(pool, *lines):
    with pool.config.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def settings_of(pool, name):
    return {row["name"]: row["value"] for row in tell(pool, name, "config")["settings"]}


def client(port, *, most=ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = most
    sock = context.wrap_socket(connect(port), server_hostname="localhost")
    sock.settimeout(20)
    return sock


def workers_of(pool):
    return {row["pid"]: row for row in tell(pool, "worker", "status")["workers"]}


def busy_workers(pool):
    return {row["pid"] for row in tell(pool, "broker", "workers")["workers"] if row["sessions"]}


def test_new_sessions_go_by_new_settings_and_old_ones_go_on(pool, echo_server):
    server = echo_server(pool)
    with client(server.port, most=ssl.TLSVersion.TLSv1_2) as old:
        add(pool, "tls_policy modern", "max_sessions 2")
        assert tell(pool, "broker", "reload")["applied"] == ["tls_policy", "max_sessions"]
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            client(server.port, most=ssl.TLSVersion.TLSv1_2)
        with client(server.port) as new:
            assert echoes(new)
            assert echoes(old)


def test_of_a_wrong_file_no_daemon_takes_anything(pool, echo_server):
    server = echo_server(pool)
    before = {name: settings_of(pool, name) for name in DAEMONS}
    add(pool, "max_sessions 1", "relay python", "pin_tries 3", "relay rust", "dbenv_dir relative", "nonsense 1")
    for name in DAEMONS:
        with pytest.raises(Refused) as caught:
            tell(pool, name, "reload")
        assert caught.value.code == 706
        for said in ("relay 'rust'", "dbenv_dir 'relative'", "nonsense: no such setting"):
            assert said in str(caught.value)
        assert settings_of(pool, name) == before[name]
        assert log_of(pool, name).count("event=reload.refused code=706") >= 3
    with client(server.port) as one, client(server.port) as other:
        assert echoes(one)
        assert echoes(other)


def test_every_problem_is_in_the_answer_for_programs(pool):
    add(pool, "workers 0", "relay rust")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(pool.run_dir / "keyd.sock"))
        sock.sendall(b'{"cmd": "reload"}\n')
        answer = json.loads(sock.makefile().readline())
    assert [(one["keyword"], one["value"]) for one in answer["problems"]] == [("workers", "0"), ("relay", "rust")]


def test_a_list_that_openssl_does_not_take_is_refused_by_who_can_tell(pool):
    add(pool, "tls_groups nonsense")
    with pytest.raises(Refused, match="tls_groups 'nonsense': OpenSSL does not take this list"):
        tell(pool, "worker", "reload")


def test_what_needs_a_restart_is_named_and_keeps_its_value(pool):
    before = settings_of(pool, "broker")["dbenv_dir"]
    text = pool.config.read_text()
    pool.config.write_text(text.replace(f"dbenv_dir {before}", "dbenv_dir /nowhere").replace("0600", "0660"))
    answer = tell(pool, "broker", "reload")
    assert (answer["applied"], set(answer["restart"])) == ([], {"dbenv_dir", "socket_mode", "socket_name"})
    assert settings_of(pool, "broker")["dbenv_dir"] == before
    await_log(pool, "broker", r"event=reload\.needs_restart settings=\"?[a-z_ ]*dbenv_dir")


def test_sighup_does_the_same(pool):
    starts = {name: len(log_of(pool, name)) for name in DAEMONS}
    add(pool, "pin_tries 3", "max_sessions 77", "handshake_threads 32")
    for name, pid in pool.running().items():
        os.kill(pid, signal.SIGHUP)
        await_log(pool, name, r"event=reload\.done", starts[name])
    assert settings_of(pool, "broker")["max_sessions"] == "77"
    assert settings_of(pool, "keyd")["pin_tries"] == "3"
    assert settings_of(pool, "worker")["handshake_threads"] == "32"
    add(pool, "nonsense 1")
    for name, pid in pool.running().items():
        os.kill(pid, signal.SIGHUP)
        await_log(pool, name, r"event=reload\.refused .*nonsense", starts[name])
    assert settings_of(pool, "broker")["max_sessions"] == "77"
    assert set(pool.running()) == set(DAEMONS)


def test_workers_are_replaced_when_their_settings_change_and_finish_what_they_have(pool, echo_server):
    server = echo_server(pool)
    with client(server.port) as old:
        assert echoes(old)
        [busy] = until(lambda: len(found := busy_workers(pool)) == 1 and found)
        before = set(workers_of(pool))
        add(pool, "relay python")
        assert tell(pool, "worker", "reload")["applied"] == ["relay"]
        until(lambda: not (before - {busy}) & set(workers_of(pool)))  # the idle ones are gone
        assert echoes(old)
        with client(server.port) as new:
            assert echoes(new)
            assert echoes(old)
        assert busy in workers_of(pool)
    until(lambda: busy not in workers_of(pool))
    assert "event=master.lost" not in log_of(pool, "broker")
    assert "event=broker.lost" not in log_of(pool, "worker")


def test_settings_of_others_do_not_replace_workers(pool):
    count = int(settings_of(pool, "worker")["workers"])
    # Workers of other tests may still be ending, and those of the last reload starting: at rest there are COUNT.
    before = set(until(lambda: rows if len(rows := workers_of(pool)) == count else {}))
    add(pool, "max_sessions 50", "pin_tries 3")
    assert tell(pool, "worker", "reload")["applied"] == []
    after = workers_of(pool)
    assert before <= set(after)
    assert not any(row["retired"] for row in after.values())


def test_access_rules_change_for_programs_that_are_connected(pool):
    with libstub.Pool(str(pool.socket)) as connected, socket.create_server(("127.0.0.1", 0)) as listener:

        def start():
            listener.settimeout(20)
            ours = connect(listener.getsockname()[1])
            theirs = listener.accept()[0]
            ours.close()
            libstub.starttls_server(theirs, localid="localhost", pool=connected, remote_auth="ignore")

        add(pool, "access nobody deny")
        tell(pool, "broker", "reload")
        with pytest.raises(libstub.PoolError) as caught:
            start()
        assert caught.value.code == 210
        assert [row["rule"] for row in tell(pool, "broker", "status")["access"]] == ["nobody", "-"]
        pool.config.write_text(pool.config.read_text().replace("access nobody deny", ""))
        tell(pool, "broker", "reload")
        with pytest.raises(libstub.PoolError) as caught:
            start()  # it gets as far as a remote that has gone
        assert caught.value.code != 210


def test_no_session_fails_while_the_configuration_is_read_again_and_again(pool, echo_server):
    """Sessions one after the other from two threads, and reloads of all daemons, with workers replaced, meanwhile."""
    server = echo_server(pool)
    done = threading.Event()
    failures, made = [], []

    def sessions():
        while not done.is_set():
            try:
                with client(server.port) as sock:
                    made.append(echoes(sock))
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=sessions) for _ in range(2)]
    for thread in threads:
        thread.start()
    text = pool.config.read_text()
    for number in range(10):
        pool.config.write_text(
            text + ["relay python\n", "relay native\ntls_policy modern\n", "relay rust\n"][number % 3]
        )
        for name in DAEMONS:
            try:
                tell(pool, name, "reload")
            except Refused as error:
                assert number % 3 == 2, error
        count = len(made)
        until(lambda count=count: len(made) > count + 2 or failures)
    done.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert server.errors == []
    assert len(made) > 20


def test_a_daemon_tells_its_own_settings_only(pool):
    found = {name: settings_of(pool, name) for name in DAEMONS}
    assert "dbenv_dir" in found["broker"]
    assert "pkcs11_pin_file" in found["keyd"]
    for name, foreign in (("worker", "dbenv_dir"), ("keyd", "dbenv_dir"), ("broker", "pkcs11_pin_file")):
        assert foreign not in found[name]
    pin = (pool.directory / "pin").read_text().strip()
    assert pin not in json.dumps([tell(pool, name, "config") for name in DAEMONS])


def test_a_pin_in_the_configuration_works_when_nobody_else_can_read_it(tmp_path_factory, tmp_path, echo_server):
    made = make_pool(tmp_path_factory, "pinned")
    try:
        pin = (made.directory / "pin").read_text().strip()
        made._stop()
        text = made.config.read_text()
        lines = [line for line in text.splitlines() if not line.startswith("pkcs11_pin_file")]
        made.config.write_text("\n".join([*lines, f"pkcs11_pin {pin}", ""]))
        made.config.chmod(0o644)
        with pytest.raises(Exception, match="did not start"):
            made._start("keyd")
        assert "put the PIN into a file of keyd's own" in log_of(made, "keyd")
        made.config.chmod(0o600)
        for name in DAEMONS:
            made._start(name)
        made._await_connected()
        with client(echo_server(made).port) as sock:
            assert echoes(sock)
        for name in DAEMONS:
            assert pin not in log_of(made, name)
            assert pin not in json.dumps(tell(made, name, "config"))
        assert tell(made, "keyd", "status")["pin"] == "configuration"
    finally:
        made.down()
