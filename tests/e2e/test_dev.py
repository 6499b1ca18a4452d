"""`tlspool dev`: up in a few seconds, safe to repeat, several side by side, nothing left behind."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

import libstub
from tests.e2e.conftest import COMMANDS, tlspool
from tlspool_admin.devpool import DAEMONS, DevPool


def dev(*words, check=True):
    return subprocess.run(
        [str(COMMANDS / "tlspool"), "dev", *words], capture_output=True, text=True, timeout=120, check=check
    )


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_up_twice_env_and_down(tmp_path):
    directory = tmp_path / "p"
    first = dev("up", "--dir", str(directory))
    pids = DevPool(directory).running()
    assert set(pids) == set(DAEMONS)
    second = dev("up", "--dir", str(directory))
    assert "already" in second.stdout
    assert DevPool(directory).running() == pids
    exports = dict(
        line.removeprefix("export ").split("=", 1) for line in dev("env", "--dir", str(directory)).stdout.splitlines()
    )
    assert exports == {
        "TLSPOOL_SOCKET": str(directory / "run/tlspool.sock"),
        "TLSPOOL_CONFIG_FILE": str(directory / "tlspool.conf"),
    }
    assert libstub.ping(exports["TLSPOOL_SOCKET"])
    assert "up" in first.stdout
    children = [child for pid in pids.values() for child in children_of(pid)]
    dev("down", "--dir", str(directory))
    assert not directory.exists()
    assert all(gone(pid) for pid in [*pids.values(), *children])
    assert "no pool" in dev("down", "--dir", str(directory)).stdout


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_directory_that_others_write_is_left_alone(tmp_path, mode):
    """They would say which PKCS #11 module our daemons load, and which processes we end."""
    directory = tmp_path / "p"
    directory.mkdir()
    directory.chmod(mode)
    for state in (False, True):
        if state:
            (directory / "pool.json").write_text("{}")
        for word in ("up", *(["down"] if state else [])):
            done = dev(word, "--dir", str(directory), check=False)
            assert done.returncode == 1 and "can be written by others; chmod go-w" in done.stderr
    assert [path.name for path in directory.iterdir()] == ["pool.json"]


def test_a_directory_of_somebody_else_is_left_alone(tmp_path):
    directory, uid = Path("/usr/share/doc"), 0
    if os.geteuid() == 0:
        directory, uid = tmp_path / "p", 65534
        directory.mkdir(mode=0o700)
        os.chown(directory, uid, uid)
    before = sorted(directory.iterdir())
    done = dev("up", "--dir", str(directory), check=False)
    assert done.returncode == 1 and f"belongs to user {uid}; name a directory of your own" in done.stderr
    assert sorted(directory.iterdir()) == before


def test_what_died_is_started_again_with_the_same_keys(tmp_path):
    pool = DevPool(tmp_path / "p")
    pool.up()
    try:
        certificate = (pool.directory / "certs/localhost.pem").read_text()
        pid = pool.running()["broker"]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert pool.up()
        assert (pool.directory / "certs/localhost.pem").read_text() == certificate
        assert libstub.ping(str(pool.socket))
    finally:
        pool.down()


def test_two_pools_side_by_side(pool, other_pool):
    assert pool.socket != other_pool.socket
    assert libstub.ping(str(pool.socket))
    assert libstub.ping(str(other_pool.socket))


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    done = dev("up", "--dir", str(tmp_path), check=False)
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_a_setting_that_is_wrong_is_named_and_nothing_stays(tmp_path):
    pool = DevPool(tmp_path / "p")
    try:
        done = dev("up", "--dir", str(pool.directory), "--set", "workers many", check=False)
        assert done.returncode == 1
        assert "workers 'many': must be a whole number" in done.stderr
    finally:
        pool.down()
    assert not pool.directory.exists()


def test_the_operator_sees_what_goes_on(pool, echo_server):
    for words in (["status"], ["sessions"], ["workers"], ["keys"], ["localid", "list"], ["trust", "list"]):
        done = tlspool(pool, *words)
        assert done.stdout.strip(), words
    assert "localhost" in tlspool(pool, "localid", "list").stdout
    assert "testcli@tlspool.arpa2.lab" in tlspool(pool, "disclose", "get", "@.arpa2.lab").stdout


@pytest.mark.parametrize("name", DAEMONS)
def test_daemons_check_their_configuration(pool, name, tmp_path):
    command = [str(COMMANDS / f"tlspool-{name}"), "--check", "--config"]
    environment = {**os.environ, "SOFTHSM2_CONF": str(pool.directory / "softhsm2.conf")}
    assert (
        subprocess.run([*command, str(pool.config)], env=environment, capture_output=True, timeout=30).returncode == 0
    )
    (tmp_path / "bad").write_text("colour red\n")
    bad = subprocess.run([*command, str(tmp_path / "bad")], capture_output=True, text=True, timeout=30)
    assert bad.returncode != 0
    assert "colour" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_only_keyd_can_touch_keys(pool):
    """What a process has mapped and opened tells what it can do."""
    pids = pool.running()

    def maps(pid):
        return Path(f"/proc/{pid}/maps").read_text()

    def family(pid):
        return [pid, *children_of(pid)]

    assert any("softhsm" in maps(pid) for pid in family(pids["keyd"]))
    for name in ("broker", "worker"):
        for pid in family(pids[name]):
            assert "softhsm" not in maps(pid), name
    for pid in family(pids["worker"]):
        assert "libdb-" not in maps(pid)
        assert not any("/db/" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    assert "SSL_new" not in maps(pids["broker"])
