"""Keep keys, PIN and grants out of core files, debuggers and swap."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14


def _may_lock_all() -> bool:
    """Whether locked memory is without limit.

    With a limit, MCL_FUTURE would make a later mmap fail (mlockall(2)), and with it a thread or a module.
    """
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    status = Path("/proc/self/status").read_text()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)


def lock_down() -> bool:
    """No core file, no ptrace or /proc access by the same user, no swap; return whether memory is locked.

    Before anything secret is read.  exec resets the dumpable flag (prctl(2)), so each process does it itself.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # ONFAULT: pages that are never touched, such as the rest of thread stacks, cost nothing (Linux 4.4)
    return _may_lock_all() and libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
