"""Entering: the order of the layers, what a machine lacks, and what is in force afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tlspool_common import sandbox, sandbox_landlock, sandbox_seccomp
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.sandbox import Profile
from tlspool_common.sandbox_landlock import READ, Grant
from tlspool_common.setting_table import BY_NAME

HEAD = """
import ctypes, json, os, resource, sys
from pathlib import Path
from tlspool_common import sandbox, sandbox_calls, sandbox_landlock, sandbox_seccomp
from tlspool_common.log import Log
from tlspool_common.sandbox import Profile
all_files = sandbox_landlock.Grant(Path("/"), sandbox_landlock.READ, "")
profile = Profile("test", tuple(sandbox_calls.service()), (all_files,))
def state():
    lines = dict(line.split(":\\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: lines[name].strip() for name in ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm")} | {
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), "core": resource.getrlimit(resource.RLIMIT_CORE),
        "in force": sandbox.in_force()}
"""


def inside(code, status=0):
    done = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=30)
    assert done.returncode == status, done.stderr
    return (json.loads(done.stdout) if done.stdout else None), done.stderr


def test_all_layers():
    found, log = inside("sandbox.enter(profile, 'required', Log('test', 'debug'))\nprint(json.dumps(state()))")
    version = sandbox_landlock.version()
    assert (found["NoNewPrivs"], found["Seccomp"], found["dumpable"], found["core"]) == ("1", "2", 0, [0, 0])
    assert found["in force"] == f"landlock-{version},seccomp"
    assert f"event=sandbox.on role=test sandbox=landlock-{version},seccomp" in log


def test_capabilities_and_limits():
    code = (
        "from dataclasses import replace\n"
        "limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: 10**9}\n"
        "profile = replace(profile, capabilities=False, limits=limits)\n"
        "files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "sandbox.enter(profile, 'required', Log('test'))\n"
        "now = [resource.getrlimit(one) for one in limits]\n"
        "print(json.dumps([state(), *now, files]))"
    )
    (found, size, files, hard), _ = inside(code)
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0
    assert size == [0, 0]
    assert files == [hard, hard]  # a limit that is lower already stays so


def test_off():
    found, log = inside("sandbox.enter(profile, 'off', Log('test'))\nprint(json.dumps(state()))")
    assert (found["NoNewPrivs"], found["Seccomp"], found["in force"]) == ("0", "0", "off")
    assert "WARNING test: event=sandbox.off role=test" in log


LACKING = {
    "landlock": "sandbox_landlock.version = lambda: 0\n",
    "seccomp": "sandbox_seccomp.LIBRARY = 'libno-such-thing.so.0'\n",
}


@pytest.mark.parametrize("layer", LACKING)
def test_a_layer_is_missing(layer):
    other = {"landlock": "seccomp", "seccomp": f"landlock-{sandbox_landlock.version()}"}[layer]
    found, log = inside(f"{LACKING[layer]}sandbox.enter(profile, 'warn', Log('test'))\nprint(json.dumps(state()))")
    assert found["in force"] == other
    assert f"WARNING test: event=sandbox.missing role=test code=707 layer={layer}" in log
    _, log = inside(f"{LACKING[layer]}sandbox.enter(profile, 'required', Log('test'))", status=1)
    assert f"[707] a layer of the sandbox cannot be had on this machine: {layer}: " in log
    _, log = inside(f"{LACKING[layer]}sandbox.check('warn'); sandbox.check('off'); sandbox.check('required')", status=1)
    assert f"[707] a layer of the sandbox cannot be had on this machine: {layer}: " in log


def test_both_are_missing():
    code = "".join(LACKING.values()) + "sandbox.enter(profile, 'warn', Log('test'))\nprint(json.dumps(state()))"
    found, log = inside(code)
    assert (found["in force"], found["NoNewPrivs"], found["dumpable"]) == ("none", "1", 0)
    assert log.count("event=sandbox.missing") == 2


def test_threads_would_stay_free():
    code = (
        "import threading\nend = threading.Event()\nthreading.Thread(target=end.wait, daemon=True).start()\n"
        "try: sandbox.enter(profile, 'required', Log('test'))\n"
        "except AssertionError as error: print(json.dumps(str(error)))\nend.set()"
    )
    assert inside(code)[0] == "Landlock would leave the other threads free"


def test_this_machine(caplog):
    assert sandbox.missing() == {}
    sandbox.check(sandbox.REQUIRED)


def test_the_error(monkeypatch):
    monkeypatch.setattr(sandbox_landlock, "version", lambda: 0)
    with pytest.raises(PoolError) as caught:
        sandbox.check(sandbox.REQUIRED)
    assert caught.value.code is Code.SANDBOX_MISSING


def test_modes_are_those_of_the_setting():
    option = BY_NAME["sandbox"]
    assert option.default == sandbox.REQUIRED
    for mode in sandbox.MODES:
        assert option.kind.cast(mode) == mode
    with pytest.raises(ValueError, match="required"):
        option.kind.cast("on")


@pytest.fixture
def entered(monkeypatch, tmp_path):
    """As if this process had entered one."""
    (tmp_path / "in").mkdir()
    grants = (Grant(tmp_path / "in", READ, "for a test"),)
    monkeypatch.setattr(sandbox._State, "profile", Profile("test", (), grants, connect=(53, 80)))
    monkeypatch.setattr(sandbox._State, "in_force", "landlock-7,seccomp")
    return tmp_path


def test_what_is_in_reach(entered, monkeypatch):
    assert sandbox.covers(entered / "in", READ)
    assert sandbox.covers(entered / "in" / "none" / "file", READ)
    assert not sandbox.covers(entered / "in", READ | sandbox_landlock.WRITE)
    assert not sandbox.covers(entered / "inner", READ)
    assert not sandbox.covers(entered / "in" / ".." / "out", READ)
    (entered / "in" / "link").symlink_to("/etc")
    assert not sandbox.covers(entered / "in" / "link" / "passwd", READ)
    assert sandbox.reaches(())
    assert sandbox.reaches((80, 53))
    assert not sandbox.reaches((80, 8080))
    monkeypatch.setattr(sandbox._State, "in_force", "seccomp")
    assert sandbox.covers(Path("/root"), READ)
    assert sandbox.reaches((8080,))


def test_what_was_not_there_is_out_of_reach(tmp_path):
    """Also if it is made later: Landlock knows nothing of it."""
    (tmp_path / "old").mkdir()
    code = (
        "from dataclasses import replace\n"
        f"places = [Path({str(tmp_path)!r}, name) for name in ('old', 'new')]\n"
        "write = sandbox_landlock.WRITE\n"
        "grants = (all_files, *(sandbox_landlock.Grant(one, write, '') for one in places))\n"
        "sandbox.enter(replace(profile, grants=grants), 'required', Log('test'))\n"
        "print('inside', flush=True)\n"
        "sys.stdin.readline()\n"
        "def writes(place):\n"
        "    try: return bool(place.joinpath('file').write_text('x'))\n"
        "    except PermissionError: return False\n"
        "print(json.dumps([[sandbox.covers(one, write), writes(one)] for one in places]))"
    )
    words = [sys.executable, "-c", HEAD + code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "inside\n"
        (tmp_path / "new").mkdir()
        said, _ = process.communicate("\n", timeout=30)
    assert json.loads(said) == [[True, True], [False, False]]


def test_nothing_is_out_of_reach_without_a_sandbox():
    assert sandbox.in_force() == "off"
    assert sandbox.covers(Path("/root"), READ)
    assert sandbox.reaches((1, 2, 3))


def test_any_port(entered, monkeypatch):
    monkeypatch.setattr(sandbox._State, "profile", Profile("test", (), connect=None))
    assert sandbox.reaches((8080,))


__all__ = ["Log", "sandbox_seccomp"]
