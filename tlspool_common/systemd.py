"""What a daemon says to and hears from systemd: readiness, sockets that are open already, and what it is to keep."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from tlspool_common.fd import OwnedFd

_FIRST_FD = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


def notify(text: str, fds: Sequence[int] = ()) -> None:
    """Tell systemd, if it listens: ``READY=1``, ``STATUS=...``, ``STOPPING=1`` (sd_notify(3)).

    With descriptors: ``FDSTORE=1`` has it keep copies of them for who is started next (sd_pid_notify_with_fds(3)).
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg([text.encode()], rights)
        except OSError:
            return  # a supervisor that does not listen is no reason to stop


def listen_fds() -> dict[str, OwnedFd]:
    """Take the sockets systemd opened, by FileDescriptorName (sd_listen_fds_with_names(3)).

    A name that several have, as those of one socket unit do, is given a number: ``app``, ``app#4``.
    The variables are removed, so that no child believes that it was meant.
    """
    count = os.environ.pop("LISTEN_FDS", "0")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, OwnedFd] = {}
    for offset in range(int(count)):
        fd = _FIRST_FD + offset
        os.set_inheritable(fd, False)
        name = names[offset] if offset < len(names) and names[offset] else str(fd)
        found[f"{name}#{fd}" if name in found else name] = OwnedFd(fd)
    return found
