"""Start the helper that speaks RADIUS: for the broker, which keeps the other end of its channel.

The helper ends when its channel does.  Import this without fear: it imports nothing of the helper.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from tlspool_common import child
from tlspool_common.fd import OwnedFd
from tlspool_common.settings import Settings


def arguments(settings: Settings) -> list[str]:
    """Return the helper's arguments for these settings; secrets are in a file that it reads itself."""
    found: list[str] = []
    for name in ("authn", "authz", "acct"):
        for host, port in getattr(settings, f"radius_{name}"):
            found += [f"--{name}", f"{host}:{port}"]
    return [*found, "--log-level", settings.log_level, "--sandbox", settings.sandbox]


def spawn(channel_fd: OwnedFd, words: Sequence[str]) -> int:
    """Start the helper with these ``arguments``; return its process id.  The descriptor is closed in any case.

    Raises:
        OSError: it could not be started.
    """
    full = ["--fd", str(child.CHANNEL_FD), "--parent", str(os.getpid()), *words]
    return child.start(channel_fd, "tlspool_radius", full, child.environment())
