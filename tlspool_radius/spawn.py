"""Start the helper: for the broker, which keeps the other end of its channel.

    python -m tlspool_radius --fd 3 --parent PID [--authn HOST:PORT]... [--authz HOST:PORT]... [--acct HOST:PORT]...
                             [--secret-file PATH] [--timeout-s S] [--tries N] [--dead-s S] [--accept-unsigned]
                             [--spool-dir PATH] [--spool-records N] [--dynamic ADDRESS]... [--listen ADDRESS:PORT]
                             [--log-level LEVEL] [--sandbox MODE]

The helper ends when its channel does.  Import this without fear: it imports nothing of the helper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tlspool_common import child
from tlspool_common.fd import OwnedFd

Address = tuple[str, int]


class Wishes(Protocol):
    """The settings that count here, radius_*, and two others."""

    @property
    def radius_authn(self) -> tuple[Address, ...]:
        """Servers that authenticate."""

    @property
    def radius_authz(self) -> tuple[Address, ...]:
        """Servers that authorise."""

    @property
    def radius_acct(self) -> tuple[Address, ...]:
        """Servers that account."""

    @property
    def radius_secret_file(self) -> Path | None:
        """Where their secrets are."""

    @property
    def radius_timeout_s(self) -> float:
        """How long one of them may take."""

    @property
    def radius_tries(self) -> int:
        """How often one of them is asked."""

    @property
    def radius_dead_s(self) -> float:
        """How long one that did not answer is left alone."""

    @property
    def radius_unsigned(self) -> str:
        """Whether answers without a Message-Authenticator count."""

    @property
    def radius_spool_dir(self) -> Path:
        """Where records wait."""

    @property
    def radius_spool_records(self) -> int:
        """How many may."""

    @property
    def radius_dynamic(self) -> tuple[str, ...]:
        """Who may send requests."""

    @property
    def radius_dynamic_listen(self) -> Address | None:
        """Where they come in."""

    @property
    def sandbox(self) -> str:
        """Whether it must confine itself."""

    @property
    def log_level(self) -> str:
        """Least level that is logged."""


def arguments(wishes: Wishes) -> list[str]:
    """Return the helper's arguments for these settings."""
    found: list[str] = []
    for option, servers in (
        ("--authn", wishes.radius_authn),
        ("--authz", wishes.radius_authz),
        ("--acct", wishes.radius_acct),
    ):
        for server in servers:
            found += [option, shown(server)]
    if wishes.radius_secret_file is not None:
        found += ["--secret-file", str(wishes.radius_secret_file)]
    found += ["--timeout-s", f"{wishes.radius_timeout_s:g}", "--tries", str(wishes.radius_tries)]
    found += ["--dead-s", f"{wishes.radius_dead_s:g}"]
    found += ["--accept-unsigned"] if wishes.radius_unsigned == "accept" else []
    if wishes.radius_acct:
        found += ["--spool-dir", str(wishes.radius_spool_dir), "--spool-records", str(wishes.radius_spool_records)]
    for address in wishes.radius_dynamic:
        found += ["--dynamic", address]
    if wishes.radius_dynamic_listen is not None:
        found += ["--listen", shown(wishes.radius_dynamic_listen)]
    return [*found, "--log-level", wishes.log_level, "--sandbox", wishes.sandbox]


def shown(address: Address) -> str:
    """Write an address and a port."""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def spawn(channel_fd: OwnedFd, wishes: Sequence[str]) -> int:
    """Start the helper with these ``arguments``; return its process id.  The descriptor is closed in any case.

    Raises:
        OSError: it could not be started.
    """
    return child.start_helper(channel_fd, "tlspool_radius", wishes)
