"""Processes that a daemon of ours starts for itself: exec, never a bare fork, and with one descriptor, a channel.

A child gets its standard streams besides, and nothing else that is open: our descriptors are close-on-exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tlspool_common.fd import OwnedFd

CHANNEL_FD = 3
_ROOT = Path(__file__).resolve().parent.parent

_PR_SET_PDEATHSIG = 1

NOT_PASSED_ON = (
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
)
"""OPENSSL_CONF may name the worker's provider; another OpenSSL, such as a PKCS #11 module's, must not load that.  The
others are a daemon's business with its supervisor."""

RESOLVER = "timeout:2 attempts:2"
"""For glibc (resolv.conf(5), RES_OPTIONS): name servers that do not answer are given up in seconds, not in thirty."""


def environment() -> dict[str, str]:
    """Return the environment of a child: ours, but for what it must not see."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    search = [str(_ROOT)] + [part for part in kept.get("PYTHONPATH", "").split(os.pathsep) if part]
    # PYTHONSAFEPATH: `python -m` would look for our modules in the working directory first, whosever that is.
    return kept | {"PYTHONPATH": os.pathsep.join(search), "PYTHONSAFEPATH": "1"}


def helper_environment() -> dict[str, str]:
    """Return the environment of a helper of the broker, which may look up names; an operator's RES_OPTIONS counts."""
    return {"RES_OPTIONS": RESOLVER} | environment()


def start(channel_fd: OwnedFd, module: str, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Start ``python -m module words`` with a channel at CHANNEL_FD; return its process id.

    The descriptor is closed in any case.

    Raises:
        OSError: it could not be started.
    """
    with channel_fd:
        # POSIX_SPAWN_DUP2 leaves the copy open across exec, also when both numbers are the same (glibc 2.29)
        actions = [(os.POSIX_SPAWN_DUP2, channel_fd.fileno(), CHANNEL_FD)]
        return os.posix_spawn(sys.executable, [sys.executable, "-m", module, *words], environ, file_actions=actions)


def start_helper(channel_fd: OwnedFd, module: str, wishes: Sequence[str]) -> int:
    """Start a helper of this process, with its channel and these arguments; as ``start``.

    Raises:
        OSError: it could not be started.
    """
    words = ["--fd", str(CHANNEL_FD), "--parent", str(os.getpid()), *wishes]
    return start(channel_fd, module, words, helper_environment())


def watch(pid: int) -> OwnedFd:
    """Return a descriptor of a child, which can be read when it has ended.

    Raises:
        OSError: there is none left.  Without one nobody would hear of its end: it is killed, and nothing is left of it.
    """
    try:
        return OwnedFd(os.pidfd_open(pid))
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent ends, even while a module or a name server hangs; for the child, first of all."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)  # it ended before the call
