"""No core file, no look into the process."""

import subprocess
import sys

LOCKED = """
import os, resource, sys
from tlspool_keyd.lockdown import lock_down
locked = lock_down()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
kib = int(status["VmLck"].split()[0])
print(resource.getrlimit(resource.RLIMIT_CORE), locked == (kib > 0), os.stat("/proc/self/environ").st_uid)
import ctypes
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
import threading
thread = threading.Thread(target=lambda: print("a thread still starts"))
thread.start(); thread.join()
"""


def python(*words, **options):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=30, **options)


def test_lock_down():
    done = python("-c", LOCKED)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["(0, 0) True 0", "0", "a thread still starts"]


def test_with_a_limit_of_locked_memory_nothing_is_locked():
    """Locking up to a limit would make a later allocation fail."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "from tlspool_keyd import lockdown\n"
        "lockdown._CAP_IPC_LOCK = 63\n"  # as if we had no such capability
        "print(lockdown.lock_down())"
    )
    assert python("-c", code).stdout == "False\n"
