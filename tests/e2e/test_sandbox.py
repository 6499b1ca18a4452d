"""A pool in its sandbox: what is in force, what a kernel lacks, and configurations that it has no room for."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import await_log, log_of, make_pool, until
from tests.fixtures.native import ROOT
from tlspool_admin.client import Refused, ask
from tlspool_common import sandbox_landlock

LAYERS = f"landlock-{sandbox_landlock.version()},seccomp"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    made = make_pool(tmp_path_factory, "sandbox", "ec", "validation r")  # which has the helper started
    yield made
    made.down()


def tell(pool, name, cmd):
    return ask(pool.run_dir / f"{name}.sock", {"cmd": cmd})


def family(pid):
    """Return the process ids of a daemon and all below it."""
    children = [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]
    return [pid, *(one for child in children for one in family(child))]


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def title_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def test_the_kernel_says_that_every_process_is_confined(pool):
    await_log(pool, "broker", "event=online.connected|event=helper|OnlineHello")

    def titles():
        return "\n".join(title_of(one) for pid in pool.running().values() for one in family(pid))

    parts = ("broker: [0-9]", "looker", "online", "keyd: [0-9]", "token", "worker: master", "worker: worker [0-9]")
    # A process that was just forked goes by its parent's name for a moment.
    until(lambda: all(re.search(part, titles()) for part in parts))
    for name, pid in pool.running().items():
        for one in family(pid):
            status = status_of(one)
            assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2"), title_of(one)
        assert tell(pool, name, "status")["sandbox"] == LAYERS
    for name, line in (("broker", "broker.ready"), ("keyd", "keyd.started"), ("worker", "master.started")):
        assert re.search(rf"event={re.escape(line)} .*sandbox={LAYERS}", log_of(pool, name))


def test_a_configuration_that_an_editor_has_put_in_place(pool):
    """It is another file, under the same name."""
    text = pool.config.read_text()
    other = pool.config.with_suffix(".new")
    other.write_text(text + "max_sessions 77\nworkers 1\npin_tries 3\n")
    other.rename(pool.config)
    assert [tell(pool, name, "reload")["applied"] for name in ("broker", "worker", "keyd")] == [
        ["workers", "max_sessions"],
        ["workers"],
        ["pin_tries"],
    ]
    pool.config.write_text(text)
    for name in ("broker", "worker", "keyd"):
        tell(pool, name, "reload")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("crl_file {}/lists.pem", "crl_file"),
        ("online_ports 80 8080", "online_ports"),
        ("radius_authz 127.0.0.1\nradius_secret_file {0}/radius", "radius_secret_file"),
        ("radius_acct 127.0.0.1\nradius_secret_file {1}/radius\nradius_spool_dir {0}/spool", "radius_acct"),
    ],
)
def test_what_the_sandbox_has_no_room_for(pool, tmp_path, line, named):
    text = pool.config.read_text()
    pool.config.write_text(text + line.format(tmp_path, pool.directory) + "\n")
    with pytest.raises(Refused) as refused:
        tell(pool, "broker", "reload")
    pool.config.write_text(text)
    assert refused.value.code == 706
    assert named in str(refused.value)
    assert "restart the broker" in str(refused.value)
    assert tell(pool, "broker", "reload")["applied"] == []


def test_lists_within_reach(pool):
    """Beside the configuration, which can be read anyway."""
    text = pool.config.read_text()
    pool.config.write_text(text + f"crl_file {pool.directory}/lists.pem\n")
    assert tell(pool, "broker", "reload")["applied"] == ["crl_file"]
    pool.config.write_text(text)
    assert tell(pool, "broker", "reload")["applied"] == ["crl_file"]


def test_secrets_that_the_other_helper_could_read(tmp_path):
    """They lie beside revocation lists: the broker says so when it starts, and when it is told so by a reload."""
    (tmp_path / "run" / "private").mkdir(parents=True)
    (tmp_path / "secrets").touch(0o600)
    (tmp_path / "secrets").write_text("127.0.0.1 a secret of the tests\n")
    config, log = tmp_path / "conf", tmp_path / "log"
    config.write_text(
        f"run_dir {tmp_path}/run\ndbenv_dir {tmp_path}/db\ncrl_file {tmp_path}/lists.pem\n"
        f"radius_authn 127.0.0.1:9\nradius_secret_file {tmp_path}/secrets\n"
    )
    words = [sys.executable, "-m", "tlspool_broker", "--config", str(config)]
    with (
        log.open("wb") as file,
        subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=file) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while "event=broker.ready" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            warned = f"event=radius.secrets_in_reach path={tmp_path}/secrets"
            assert log.read_text().count(warned) == 1
            ask(tmp_path / "run" / "broker.sock", {"cmd": "reload"})
            assert log.read_text().count(warned) == 2
        finally:
            process.terminate()


LACKING = {
    "landlock": "from tlspool_common import sandbox_landlock; sandbox_landlock.version = lambda: 0",
    "seccomp": "from tlspool_common import sandbox_seccomp; sandbox_seccomp.LIBRARY = 'libno-such-thing.so.0'",
}


def start(tmp_path, name, layer, mode):
    """Start a daemon on a machine that lacks a layer."""
    (tmp_path / "run" / "private").mkdir(parents=True)
    config = tmp_path / "conf"
    config.write_text(f"run_dir {tmp_path}/run\ndbenv_dir {tmp_path}/db\nsandbox {mode}\nworkers 1\n")
    code = (
        f"import runpy, sys; {LACKING[layer]}\n"
        f"sys.argv = ['tlspool-{name}', '--config', {str(config)!r}]\n"
        f"runpy.run_module('tlspool_{name}', run_name='__main__', alter_sys=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("layer", LACKING)
@pytest.mark.parametrize(("name", "status"), [("broker", 1), ("keyd", 78), ("worker", 78)])
def test_a_layer_is_required(tmp_path, name, status, layer):
    with start(tmp_path, name, layer, "required") as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == status
    assert "a layer of the sandbox cannot be had on this machine: " + layer in said


@pytest.mark.parametrize("layer", LACKING)
@pytest.mark.parametrize("name", ["broker", "keyd", "worker"])
def test_a_layer_is_missed(tmp_path, name, layer):
    said = ""
    with start(tmp_path, name, layer, "warn") as process:
        while not re.search(r"event=(broker\.ready|keyd\.started|master\.started)", said):
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[1]
    assert process.returncode in (0, -signal.SIGTERM), said + rest  # it may not listen to signals yet
    other = {"landlock": "seccomp", "seccomp": LAYERS.partition(",")[0]}[layer]
    assert f"event=sandbox.missing role={'master' if name == 'worker' else name} code=707 layer={layer}" in said
    assert f"sandbox={other}" in said
