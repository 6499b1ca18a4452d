"""Each daemon at sockets that a supervisor has opened, as systemd does: it serves there, and leaves them behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

DAEMONS = {"broker": ("broker", "app"), "worker": ("worker",), "keyd": ("keyd", "pin")}


@pytest.fixture
def listeners(tmp_path):
    """Make listening sockets at paths that no daemon would choose."""
    made = []

    def make(name):
        sock = socket.socket(socket.AF_UNIX)
        made.append(sock)
        sock.bind(str(tmp_path / name))
        sock.listen(16)
        return sock

    yield make
    for sock in made:
        sock.close()


class Supervisor:
    """Starts a daemon as systemd would, and hears what it says."""

    def __init__(self, tmp_path):
        self.config = tmp_path / "c"
        self.config.write_text(f"run_dir {tmp_path}/run\ndbenv_dir {tmp_path}/db\nworkers 1\n")
        (tmp_path / "run").mkdir()
        self.ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ears.bind(str(tmp_path / "notify"))
        self.ears.settimeout(60)
        self.process = None

    def start(self, daemon, sockets):
        low = 100  # out of the way of the numbers that they are to have
        copies = [os.dup2(sock.fileno(), low + place) for place, sock in enumerate(sockets)]
        moves = " ".join(f"{3 + place}<&{fd} {fd}<&-" for place, fd in enumerate(copies))
        script = f'exec {moves}; LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$@"'
        more = {
            "LISTEN_FDS": str(len(sockets)),
            "LISTEN_FDNAMES": ":".join(DAEMONS[daemon]),
            "NOTIFY_SOCKET": self.ears.getsockname(),
            "WATCHDOG_USEC": "200000",
        }
        command = [sys.executable, "-m", f"tlspool_{daemon}", "--config", str(self.config)]
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", script, "_", *command],
            pass_fds=copies,
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for fd in copies:
            os.close(fd)
        self.await_said("READY=1")

    def await_said(self, text):
        deadline_s = time.monotonic() + 60
        while text not in self.ears.recv(4096).decode():
            assert time.monotonic() < deadline_s

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=60)
            self.process = None

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.ears.close()


@pytest.fixture
def supervisor(tmp_path):
    made = Supervisor(tmp_path)
    yield made
    made.close()


def ask(sock, command):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(sock.getsockname())
        client.sendall(json.dumps({"cmd": command}).encode() + b"\n")
        return json.loads(client.makefile().readline())


@pytest.mark.parametrize("daemon", DAEMONS)
def test_it_serves_there_and_so_does_the_next(no_leaks, supervisor, listeners, tmp_path, daemon):
    sockets = [listeners(name) for name in DAEMONS[daemon]]
    supervisor.start(daemon, sockets)
    assert ask(sockets[0], "status")["pid"] == supervisor.process.pid
    made = {path.name for path in (tmp_path / "run").iterdir()} - {"private"}
    assert made == set()
    for _ in range(3):
        supervisor.await_said("WATCHDOG=1")
    assert ask(sockets[0], "reload")["ok"]
    supervisor.await_said("RELOADING=1\nMONOTONIC_USEC=")
    supervisor.await_said("READY=1")

    supervisor.stop()
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(sockets[0].getsockname())  # nobody serves, and yet nobody is refused
        early.sendall(b'{"cmd": "status"}\n')
        supervisor.start(daemon, sockets)
        early.settimeout(60)
        assert json.loads(early.makefile().readline())["pid"] == supervisor.process.pid
    supervisor.stop()
