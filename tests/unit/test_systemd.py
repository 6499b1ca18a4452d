"""Readiness and passed sockets."""

import os
import socket
import subprocess
import sys

from tlspool_common import systemd


def test_notify(tmp_path, monkeypatch):
    systemd.notify("READY=1")  # nobody listens: nothing happens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        systemd.notify("READY=1")
        assert sock.recv(100) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0tlspool-test-notify-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@tlspool-test-notify-{os.getpid()}")
        systemd.notify("STATUS=x")
        assert sock.recv(100) == b"STATUS=x"


def test_notify_with_descriptors(tmp_path, monkeypatch, no_leaks):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, socket.socket() as kept:
        sock.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        systemd.notify("FDSTORE=1\nFDNAME=x", [kept.fileno()])
        text, (copy,), _, _ = socket.recv_fds(sock, 100, 4)
        assert text == b"FDSTORE=1\nFDNAME=x"
        assert os.fstat(copy).st_ino == os.fstat(kept.fileno()).st_ino
        os.close(copy)


CHILD = """
import os
from tlspool_common import systemd
os.environ["LISTEN_PID"] = str(os.getpid())
found = systemd.listen_fds()
print({name: (fd.fileno(), os.get_inheritable(fd.fileno())) for name, fd in found.items()}, "LISTEN_FDS" in os.environ)
print(systemd.listen_fds())
"""


def test_listen_fds(tmp_path):
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(tmp_path / "a"))
        two.bind(str(tmp_path / "b"))
        script = f"exec 3<&{one.fileno()} 4<&{two.fileno()}; exec \"$0\" -c '{CHILD}'"
        done = subprocess.run(
            ["/bin/bash", "-c", script, sys.executable],
            pass_fds=(one.fileno(), two.fileno()),
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "app", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
    assert done.stdout == "{'app': (3, False), '4': (4, False)} False\n{}\n", done.stderr


def test_listen_fds_of_one_name(tmp_path):
    """As those of a socket unit with several ListenStream= lines."""
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        script = f"exec 3<&{one.fileno()} 4<&{two.fileno()}; exec \"$0\" -c '{CHILD}'"
        done = subprocess.run(
            ["/bin/bash", "-c", script, sys.executable],
            pass_fds=(one.fileno(), two.fileno()),
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "app:app", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
    assert done.stdout == "{'app': (3, False), 'app#4': (4, False)} False\n{}\n", done.stderr


def test_not_meant_for_this_process(monkeypatch):
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert systemd.listen_fds() == {}
