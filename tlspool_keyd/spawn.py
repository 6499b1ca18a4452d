"""Start token processes: exec, never a bare fork, and with nothing of ours but one descriptor.

keyd is single-threaded and its descriptors are all close-on-exec; a PKCS #11 module is loaded only behind an
exec, because a forked child would inherit sessions and login (and libraries that were initialised once).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tlspool_common.fd import OwnedFd

_CHANNEL_FD = 3
_ROOT = Path(__file__).resolve().parent.parent

NOT_PASSED_ON = ("OPENSSL_CONF", "OPENSSL_MODULES", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""OPENSSL_CONF may name the worker's provider; a module's own OpenSSL must not load that.  The others are
keyd's business with its supervisor."""


def environment() -> dict[str, str]:
    """Return the environment of a token process: ours, but for what it must not see."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    search = [str(_ROOT)] + [part for part in kept.get("PYTHONPATH", "").split(os.pathsep) if part]
    return kept | {"PYTHONPATH": os.pathsep.join(search)}


def spawn(channel_fd: OwnedFd) -> int:
    """Start a token process that speaks over this descriptor; return its process id.

    Raises:
        OSError: it could not be started.
    """
    with channel_fd:
        argv = [sys.executable, "-m", "tlspool_keyd.token_process", str(_CHANNEL_FD), str(os.getpid())]
        # POSIX_SPAWN_DUP2 leaves the copy open across exec, also when both numbers are the same (glibc 2.29)
        actions = [(os.POSIX_SPAWN_DUP2, channel_fd.fileno(), _CHANNEL_FD)]
        return os.posix_spawn(sys.executable, argv, environment(), file_actions=actions)
