"""Filters by themselves: what they let through, refuse, deny to be there, and kill."""

import signal
import subprocess
import sys

import pytest

from tlspool_common import sandbox_seccomp as seccomp
from tlspool_common.sandbox_seccomp import Compare, Condition, Rule, Verdict

HEAD = """
import ctypes, mmap, os, socket, sys
from tlspool_common import sandbox_calls as c, sandbox_seccomp as s
from tlspool_common.sandbox_seccomp import Rule, Verdict, equal, masked
base = c.allow(f"{c.MEMORY} {c.THREADS} {c.SIGNALS} {c.BYTES} fstat newfstatat mmap")
def tries(do, *words):
    try: do(*words); print('done', flush=True)
    except OSError as error: print(os.strerror(error.errno), flush=True)
"""


def inside(code: str) -> tuple[list[str], int]:
    done = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=30)
    assert done.returncode in (0, -signal.SIGSYS), done.stderr
    return done.stdout.splitlines(), done.returncode


def test_what_is_not_named_is_refused():
    code = "s.restrict(base)\ntries(os.stat, '/')\ntries(socket.socket)\ntries(os.nice, 0)\n"
    assert inside(code) == (["done", "Operation not permitted", "Operation not permitted"], 0)


def test_conditions():
    code = (
        "s.restrict([*base, *c.allow('socketpair', equal(0, 1), masked(1, 0xF, 1)), *c.allow('socketpair', equal(0, 1),"
        " masked(1, 0xF, 5))])\n"
        "tries(socket.socketpair, socket.AF_UNIX, socket.SOCK_STREAM)\n"
        "tries(socket.socketpair, socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "tries(socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "tries(socket.socketpair, socket.AF_TIPC, socket.SOCK_STREAM)\n"
    )
    no = "Operation not permitted"
    assert inside(code) == (["done", "done", no, no], 0)


def test_the_upper_half_of_an_argument_counts():
    """The kernel takes 32 bits of it; a filter that did the same could be told one thing, and the kernel another."""
    code = (
        "libc = ctypes.CDLL(None, use_errno=True); number = s._library().seccomp_syscall_resolve_name(b'socket')\n"
        "s.restrict([*base, *c.allow('socket', equal(0, 1))])\n"
        "for family in (1, 1 << 32 | 1, 2, 1 << 32 | 2):\n"
        "    words = [ctypes.c_long(one) for one in (number, family, 1, 0)]\n"
        "    print(libc.syscall(*words) >= 0)\n"
    )
    assert inside(code) == (["True", "False", "False", "False"], 0)


def test_absent_and_killed():
    code = (
        "s.restrict([*base, Rule('getpgid', Verdict.ABSENT), Rule('uname', Verdict.KILL)])\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.getpgid(0), os.strerror(ctypes.get_errno()), flush=True)\n"
        "os.uname()\n"
        "print('alive')\n"
    )
    lines, status = inside(code)
    assert status == -signal.SIGSYS
    assert lines == ["-1 Function not implemented"]


def test_calls_that_are_newer_than_the_library_are_not_there():
    """Then the C library does without them, as on the kernel of its time."""
    code = (
        "s.restrict(base)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.syscall(ctypes.c_long(599)); print(os.strerror(ctypes.get_errno()))\n"
        "libc.syscall(ctypes.c_long(700)); print(os.strerror(ctypes.get_errno()))\n"
    )
    assert inside(code) == (["Function not implemented", "Operation not permitted"], 0)


def test_all_threads_are_under_it():
    code = (
        "import threading\n"
        "begin, end = threading.Event(), threading.Event()\n"
        "def other():\n"
        "    end.wait(); tries(socket.socket)\n"
        "thread = threading.Thread(target=other); thread.start()\n"
        "s.restrict(base); end.set(); thread.join()\n"
    )
    assert inside(code) == (["Operation not permitted"], 0)


def test_names_that_are_not_known_grant_nothing():
    code = "s.restrict([*base, *c.allow('no_such_call')])\ntries(socket.socket)\n"
    assert inside(code) == (["Operation not permitted"], 0)


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(seccomp, "LIBRARY", "libno-such-thing.so.0")
    assert seccomp.available().endswith("apt-get install libseccomp2")
    with pytest.raises(seccomp.Unavailable, match=r"libno-such-thing"):
        seccomp.restrict([])


def test_this_machine_has_them():
    assert seccomp.available() == ""


def test_words():
    assert seccomp.equal(1, 2) == Condition(1, Compare.EQUAL, 2)
    assert seccomp.masked(2, 4) == Condition(2, Compare.MASKED, 0, 4)
    assert Rule("read").verdict is Verdict.ALLOW
