"""What a child is started with, and that it does not outlive us unseen."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tlspool_common import child


def python(*words, **options):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=30, **options)


def test_what_is_not_passed_on(monkeypatch):
    for name in child.NOT_PASSED_ON:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SOFTHSM2_CONF", "/conf")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = child.environment()
    assert not set(child.NOT_PASSED_ON) & set(found)
    assert found["SOFTHSM2_CONF"] == "/conf"
    root = str(Path(child.__file__).resolve().parent.parent)
    assert found["PYTHONPATH"] == f"{root}:/elsewhere"


def test_a_child_takes_no_modules_from_where_it_was_started(tmp_path):
    (tmp_path / "tlspool_online").mkdir()
    (tmp_path / "tlspool_online" / "__init__.py").write_text("")
    (tmp_path / "tlspool_online" / "__main__.py").write_text("print('not ours')")
    done = python("-m", "tlspool_online", "--help", cwd=tmp_path, env=child.environment())
    assert done.stdout.startswith("usage: ") and "not ours" not in done.stdout


def test_one_that_cannot_be_watched_does_not_stay(monkeypatch):
    def refuse(pid):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(child.os, "pidfd_open", refuse)
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        with pytest.raises(OSError, match="Too many"):
            child.watch(process.pid)
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


def test_a_child_ends_with_its_parent():
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import os, sys; "
        "from tlspool_common.child import die_with_parent; die_with_parent(os.getppid()); "
        "print(os.getpid(), flush=True); sys.stdin.read()'], stdin=subprocess.PIPE)\n"
        "sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child_fd = os.pidfd_open(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert select.select([child_fd], [], [], 10)[0]
    os.close(child_fd)


def test_a_child_whose_parent_has_ended_already():
    done = python("-c", "from tlspool_common.child import die_with_parent; die_with_parent(1); print('still here')")
    if os.getpid() != 1:
        assert done.stdout == ""


def test_the_environment_of_a_helper(monkeypatch):
    monkeypatch.setenv("OPENSSL_CONF", "/provider.cnf")
    monkeypatch.setenv("NOTIFY_SOCKET", "/x")
    monkeypatch.delenv("RES_OPTIONS", raising=False)
    found = child.helper_environment()
    assert not set(child.NOT_PASSED_ON) & set(found)
    assert found["RES_OPTIONS"] == child.RESOLVER
    monkeypatch.setenv("RES_OPTIONS", "timeout:1")
    assert child.helper_environment()["RES_OPTIONS"] == "timeout:1"
