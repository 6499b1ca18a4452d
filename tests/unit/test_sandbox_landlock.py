"""Landlock by itself: what a version of the interface is asked for, and what is refused once it is in force."""

import subprocess
import sys

import pytest

from tlspool_common import sandbox_landlock as landlock
from tlspool_common.sandbox_landlock import Access


def inside(code: str, *words: str) -> list[str]:
    """Run code in a process that ends in a sandbox of its own; return its output."""
    head = (
        "import os, socket, sys; from pathlib import Path\n"
        "from tlspool_common import sandbox_landlock as l\n"
        "def tries(do, *words):\n"
        "    try: do(*words); print('done')\n"
        "    except OSError as error: print(os.strerror(error.errno))\n"
        "import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", head + code, *words], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_what_versions_know():
    """The numbers of landlock(7); a bit that a kernel does not know would make it refuse everything."""
    assert landlock.handled(1) == 0x1FFF
    assert landlock.handled(2) == 0x3FFF
    assert landlock.handled(3) == landlock.handled(4) == 0x7FFF
    assert landlock.handled(5) == landlock.handled(9) == 0xFFFF
    assert landlock.unknown(1) == landlock.unknown(3) == ["tcp", "ioctl", "signal", "abstract"]
    assert landlock.unknown(4) == ["ioctl", "signal", "abstract"]
    assert landlock.unknown(5) == ["signal", "abstract"]
    assert landlock.unknown(6) == []


@pytest.mark.parametrize("number", range(1, 8))
def test_each_version_is_asked_for_what_it_knows(number):
    """On this kernel, in the words of each older one."""
    if number > landlock.version():
        number = landlock.version()
    code = (
        f"l.version = lambda: {number}\n"
        "print(l.restrict([l.Grant(Path('/usr'), l.READ, '')], (80,), (), abstract=False))\n"
        "tries(os.listdir, '/usr'); tries(os.listdir, '/tmp'); tries(os.listdir, '/')\n"
    )
    assert inside(code) == [str(number), "done", "Permission denied", "Permission denied"]


def test_reading_and_writing(tmp_path):
    for name in ("read", "write"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    code = (
        "where = Path(sys.argv[1])\n"
        "l.restrict([l.Grant(where / 'read', l.READ, ''), l.Grant(where / 'write', l.WRITE, ''),"
        " l.Grant(where / 'none', l.WRITE, '')], (), (), abstract=False)\n"
        "for name in ('read', 'write'):\n"
        "    tries((where / name / 'file').read_text)\n"
        "    tries((where / name / 'file').write_text, 'y')\n"
        "    tries((where / name / 'other').write_text, 'y')\n"
        "    tries((where / name / 'file').unlink)\n"
        "tries((where / 'none').mkdir)\n"
        "tries((where / 'write' / 'link').symlink_to, '/etc')\n"
    )
    no = "Permission denied"
    assert inside(code, str(tmp_path)) == ["done", no, no, no, "done", "done", "done", "done", no, no]


def test_a_file_by_itself(tmp_path):
    """Rights of directories are none of a file's: the kernel would refuse the rule."""
    (tmp_path / "one").write_text("x")
    (tmp_path / "other").write_text("x")
    code = (
        "where = Path(sys.argv[1])\n"
        "l.restrict([l.Grant(where / 'one', l.WRITE, '')], (), (), abstract=False)\n"
        "tries((where / 'one').read_text); tries((where / 'other').read_text)\n"
    )
    assert inside(code, str(tmp_path)) == ["done", "Permission denied"]


@pytest.mark.parametrize(("connect", "outcome"), [("()", "Permission denied"), ("(PORT,)", "done"), ("None", "done")])
def test_ports(connect, outcome):
    code = (
        "server = socket.create_server(('127.0.0.1', 0)); PORT = server.getsockname()[1]\n"
        f"l.restrict([], {connect}, (), abstract=False)\n"
        "tries(socket.socket().connect, ('127.0.0.1', PORT))\n"
        "tries(socket.socket().bind, ('127.0.0.1', 0))\n"
    )
    assert landlock.version() >= 4, "this test needs Linux 6.7"
    assert inside(code) == [outcome, "Permission denied"]


@pytest.mark.parametrize(("abstract", "outcome"), [(False, "Operation not permitted"), (True, "done")])
def test_abstract_sockets_and_signals(abstract, outcome):
    code = (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    sys.stdin.read(); os._exit(0)\n"
        "import signal\n"
        "server = socket.socket(socket.AF_UNIX); server.bind(f'\\0tlspool-test-{pid}'); server.listen()\n"
        "inner = os.fork()\n"
        "if inner == 0:\n"
        f"    l.restrict([], (), (), abstract={abstract})\n"
        "    tries(socket.socket(socket.AF_UNIX).connect, server.getsockname())\n"
        "    tries(os.kill, pid, 0)\n"
        "    sys.stdout.flush(); os._exit(0)\n"
        "os.waitpid(inner, 0); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)\n"
    )
    assert landlock.version() >= 6, "this test needs Linux 6.12"
    assert inside(code) == [outcome, "Operation not permitted"]


def test_kinds_of_access_are_single_bits():
    assert [one.value for one in Access] == [1 << place for place in range(16)]
