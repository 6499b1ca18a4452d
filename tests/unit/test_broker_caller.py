"""Who called: by word of the kernel, and what is made of the text of /proc."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker import caller
from tlspool_broker.events import Caller


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        sock.settimeout(10)
        yield sock


def test_this_process(no_leaks, listener):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            who = caller.identify(accepted)
    assert (who.uid, who.gid, who.pid) == (os.getuid(), os.getgid(), os.getpid())
    with open("/proc/self/comm") as comm:
        assert who.command == comm.read().strip()
    assert who.socket == listener.getsockname()
    assert who.exe == os.path.realpath("/proc/self/exe")
    assert set(who.groups) == set(os.getgroups())
    # without SO_PEERPIDFD (Linux 6.5) nothing that /proc says is certain
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert who.certain == (kernel >= (6, 5))
    assert who.label.startswith(f"{who.unit or who.command}[{os.getpid()}]")


def test_a_process_that_has_ended(no_leaks, listener):
    """Its number may be another's by now: what /proc says is not certain."""
    code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({listener.getsockname()!r}); print('x')"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    accepted, _ = listener.accept()
    with accepted:
        child.communicate(timeout=10)
        who = caller.identify(accepted)
    assert (who.pid, who.certain, who.unit, who.command) == (child.pid, False, "", "")
    assert who.label == f"unknown[{child.pid}]?"


def test_a_process_that_ends_while_it_is_looked_at(no_leaks, listener, monkeypatch):
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({listener.getsockname()!r}); input()",
        ],
        stdin=subprocess.PIPE,
    )
    accepted, _ = listener.accept()
    read = caller._read

    def reading(pid, name):
        found = read(pid, name)
        if child.poll() is None:
            child.communicate(b"\n", timeout=10)
        return found

    monkeypatch.setattr(caller, "_read", reading)
    with accepted:
        who = caller.identify(accepted)
    assert not who.certain


def test_an_older_kernel(no_leaks, listener, monkeypatch):
    monkeypatch.setattr(caller, "_SO_PEERPIDFD", 9999)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            who = caller.identify(accepted)
    assert (who.pid, who.certain) == (os.getpid(), False)
    assert who.label.endswith("?")


def test_an_address_that_is_no_path(no_leaks):
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as sock:
        abstract.bind(f"\0tlspool-test-caller-{os.getpid()}")
        abstract.listen()
        sock.connect(abstract.getsockname())
        accepted, _ = abstract.accept()
        with accepted:
            assert caller.identify(accepted).socket == ""


def test_a_program_that_is_no_file_any_more(no_leaks, tmp_path):
    copy = tmp_path / "sleep"
    shutil.copy2(shutil.which("sleep"), copy)
    with subprocess.Popen([str(copy), "60"]) as child:
        assert caller._exe(child.pid) in ("", str(copy), os.path.realpath(sys.executable))
        while Path(f"/proc/{child.pid}/exe").readlink() != copy:
            assert child.poll() is None
        assert caller._exe(child.pid) == str(copy)
        copy.unlink()
        assert caller._exe(child.pid) == ""
        child.kill()
    assert caller._exe(child.pid) == ""


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        (b"0::/system.slice/postfix.service\n", "postfix.service"),
        (b"0::/system.slice/system-postfix.slice/postfix@-.service\n", "postfix@-.service"),
        # units of managers that are not the host's: anybody may call one of his own postfix.service
        (b"0::/user.slice/user-1000.slice/user@1000.service/app.slice/postfix.service\n", "user@1000.service"),
        (
            b"0::/machine.slice/systemd-nspawn@x.service/payload/system.slice/postfix.service\n",
            "systemd-nspawn@x.service",
        ),
        (b"0::/system.slice/docker-0a1b.scope/postfix.service\n", "docker-0a1b.scope"),
        (b"0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        (b"0::/system.slice/nginx.service/workers\n", "nginx.service"),
        (b"0::/system.slice/_cgroup.service\n", "cgroup.service"),
        (b"12:cpu,cpuacct:/x.service\n1:name=systemd:/system.slice/sshd.service\n", "sshd.service"),
        (b"0::/\n", ""),
        (b"0::/system.slice\n", ""),
        (b"5:devices:/x.service\n", ""),
        (b"", ""),
        (b"0::/a b.service\n", ""),
        (b"0::/\xff\xfe.service\n", ""),
        (b"0::/" + b"x" * 300 + b".service\n", ""),
        (b"nonsense", ""),
    ],
)
def test_units(text, unit):
    assert caller.unit_untrusted(text) == unit


@pytest.mark.parametrize(
    ("text", "command"),
    [(b"smtpd\n", "smtpd"), (b"a\x1b[31mb\n", "a?[31mb"), (b"\xff\xff\n", "\ufffd\ufffd"), (b"", "")],
)
def test_commands(text, command):
    assert caller.command_untrusted(text) == command


@given(st.binary(max_size=5000))
def test_any_text_of_proc_is_bounded_and_printable(text):
    for found in (caller.unit_untrusted(text), caller.command_untrusted(text)):
        assert found == "" or found.isprintable()
        assert len(found) <= 250


def test_labels():
    assert Caller(1, 1, 7, "a.service", "a").label == "a.service[7]"
    assert Caller(1, 1, 7, "", "a", certain=False).label == "a[7]?"
    assert Caller(1, 1, 0).label == "unknown[0]"
