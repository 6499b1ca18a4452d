"""Start the helper: for the broker, which keeps the other end of its channel.

    python -m tlspool_online --fd 3 --parent PID [--files-only] [--private] [--port N]... [--crl-file PATH]...
                             [--log-level LEVEL]

By an exec and never a bare fork: the helper gets one descriptor of the broker's, its standard streams, and nothing
else that is open.  It ends when its channel does.  Import this without fear: it imports nothing of the helper.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tlspool_common.fd import OwnedFd

CHANNEL_FD = 3
_ROOT = Path(__file__).resolve().parent.parent

NOT_PASSED_ON = ("OPENSSL_CONF", "OPENSSL_MODULES", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""OPENSSL_CONF may name the worker's provider; the others are the broker's business with its supervisor."""

RESOLVER = "timeout:2 attempts:2"
"""For glibc (resolv.conf(5), RES_OPTIONS): name servers that do not answer are given up in seconds, not in thirty."""


class Wishes(Protocol):
    """The settings that count here."""

    @property
    def crl_file(self) -> tuple[Path, ...]:
        """Files with revocation lists."""

    @property
    def online(self) -> bool:
        """Whether the network is asked at all."""

    @property
    def online_private(self) -> bool:
        """Whether this host, and private networks, are asked."""

    @property
    def online_ports(self) -> tuple[int, ...]:
        """TCP ports that are connected to."""

    @property
    def log_level(self) -> str:
        """Least level that is logged."""


def arguments(wishes: Wishes) -> list[str]:
    """Return the helper's arguments for these settings."""
    found = [] if wishes.online else ["--files-only"]
    found += ["--private"] if wishes.online_private else []
    for port in wishes.online_ports:
        found += ["--port", str(port)]
    for path in wishes.crl_file:
        found += ["--crl-file", str(path)]
    return [*found, "--log-level", wishes.log_level]


def environment() -> dict[str, str]:
    """Return the helper's environment: ours, but for what it must not see."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    search = [str(_ROOT)] + [part for part in kept.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {"RES_OPTIONS": RESOLVER} | kept | {"PYTHONPATH": os.pathsep.join(search)}


def spawn(channel_fd: OwnedFd, wishes: Sequence[str]) -> int:
    """Start the helper with these ``arguments``; return its process id.  The descriptor is closed in any case.

    Raises:
        OSError: it could not be started.
    """
    with channel_fd:
        argv = [sys.executable, "-m", "tlspool_online", "--fd", str(CHANNEL_FD), "--parent", str(os.getpid())]
        # POSIX_SPAWN_DUP2 leaves the copy open across exec, also when both numbers are the same (glibc 2.29)
        actions = [(os.POSIX_SPAWN_DUP2, channel_fd.fileno(), CHANNEL_FD)]
        return os.posix_spawn(sys.executable, [*argv, *wishes], environment(), file_actions=actions)
