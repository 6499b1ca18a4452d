"""Start the helper: for the broker, which keeps the other end of its channel.

    python -m tlspool_online --fd 3 --parent PID [--files-only] [--private] [--port N]... [--crl-file PATH]...
                             [--log-level LEVEL] [--sandbox MODE]

The helper ends when its channel does.  Import this without fear: it imports nothing of the helper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tlspool_common import child
from tlspool_common.fd import OwnedFd


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
    def sandbox(self) -> str:
        """Whether it must confine itself."""

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
    return [*found, "--log-level", wishes.log_level, "--sandbox", wishes.sandbox]


def spawn(channel_fd: OwnedFd, wishes: Sequence[str]) -> int:
    """Start the helper with these ``arguments``; return its process id.  The descriptor is closed in any case.

    Raises:
        OSError: it could not be started.
    """
    return child.start_helper(channel_fd, "tlspool_online", wishes)
