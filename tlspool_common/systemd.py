"""What a daemon says to and hears from systemd: how it is, that it is alive, open sockets, what is to be kept.

Without systemd all of this does nothing.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tlspool_common.errors import Code, PoolError
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
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg([text.encode()], rights)
    except OSError:
        return  # neither a supervisor that does not listen, nor that no descriptor is left, is a reason to stop


def is_credential(path: Path) -> bool:
    """Whether a file is one of the credentials that systemd has for our unit (systemd.exec(5), LoadCredential=)."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return directory.startswith("/") and path.parent == Path(directory)


@contextmanager
def reloading() -> Iterator[None]:
    """Say that a configuration is being read, and when that is over; well or not, the daemon serves on.

    The time is what Type=notify-reload asks for (systemd 253); Type=notify leaves it alone.
    """
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        yield
    finally:
        notify("READY=1")


class Heart:
    """Tells systemd's watchdog that a loop turns (WatchdogSec=): it beats only when the loop itself comes by.

    A process that was forked from the one that is watched has none.
    """

    def __init__(self) -> None:
        period_us, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        meant = pid in ("", str(os.getpid())) and period_us.isdigit() and int(period_us) > 0
        # sd_watchdog_enabled(3): every half of the time
        self._period_s = int(period_us) / 2_000_000 if meant else None
        self._due_s = 0.0

    def beat(self) -> float | None:
        """Say so if it is time; return in how many seconds to come again, None: never."""
        if self._period_s is None:
            return None
        now_s = time.monotonic()
        if now_s >= self._due_s:
            notify("WATCHDOG=1")
            self._due_s = now_s + self._period_s
        return self._due_s - now_s

    def beat_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat for as long as this loop turns."""
        wait_s = self.beat()
        if wait_s is not None:
            loop.call_later(wait_s, self.beat_on, loop)


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


def listener(passed: dict[str, OwnedFd], name: str) -> socket.socket | None:
    """Take the socket with this FileDescriptorName out of those that systemd has passed; None: there is none.

    Raises:
        PoolError: SETTING_INVALID, it is none that others can connect to.
    """
    fd = passed.pop(name, None)
    return None if fd is None else listening(fd)


def listening(fd: OwnedFd) -> socket.socket:
    """Return a socket that was passed.  The descriptor is closed if it is none that others can connect to.

    Raises:
        PoolError: SETTING_INVALID.
    """
    with fd:
        try:
            sock = socket.socket(fileno=fd.fileno())
        except OSError as error:
            raise PoolError(Code.SETTING_INVALID, f"the socket from systemd: {error.strerror}") from None
        fd.detach()
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listens:
        sock.close()
        raise PoolError(Code.SETTING_INVALID, "the socket from systemd must be ListenStream= with a path")
    sock.setblocking(False)
    return sock
