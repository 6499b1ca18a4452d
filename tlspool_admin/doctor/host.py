"""Checks of files and of this host: configuration, sockets, the PIN's file, the provider, the clock."""

from __future__ import annotations

import os
import stat
import subprocess  # asks our own worker whether the provider loads
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from tlspool_admin.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from tlspool_common import child

_PROBE_S = 30.0
"""Importing cryptography on a loaded machine takes seconds."""

_SKEW = timedelta(minutes=5)

_PROBE = "from tlspool_worker import provider; provider.ensure(); provider.self_test()"


class Problem(Protocol):
    """A problem of the configuration, as ``tlspool_common.settings`` tells it."""

    @property
    def keyword(self) -> str:
        """The setting."""

    @property
    def line(self) -> int:
        """Where it is."""


def configuration(path: Path, problems: Iterable[Problem], warnings: Iterable[str]) -> list[Finding]:
    """Tell what is wrong with the configuration."""
    found = [Finding(ERROR, "configuration", str(path), str(one), "correct it; `tlspool check` reads it again")
             for one in problems]  # fmt: skip
    found += [
        Finding(WARNING, "configuration", str(path), text, "take the line out, or correct it") for text in warnings
    ]
    return found or [Finding(OK, "configuration", str(path), "is right")]


def control_socket(path: Path, unit: str) -> list[Finding]:
    """Check a control socket: who may open it rules the pool."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return [Finding(ERROR, "sockets", str(path), "does not exist", f"start the daemon: systemctl start {unit}")]
    except OSError as error:
        return [Finding(ERROR, "sockets", str(path), f"cannot be looked at: {error.strerror}", "run this as root")]
    if not stat.S_ISSOCK(found.st_mode):
        return [Finding(ERROR, "sockets", str(path), "is no socket", "remove it, and start the daemon again")]
    mode = stat.S_IMODE(found.st_mode)
    if mode & stat.S_IWOTH:
        return [
            Finding(ERROR, "sockets", str(path), f"mode {mode:04o}: everybody may rule the pool", f"chmod 0660 {path}")
        ]
    return [Finding(OK, "sockets", str(path), f"mode {mode:04o}")]


def application_socket(path: Path) -> list[Finding]:
    """Check a socket that applications connect to."""
    try:
        found = path.stat()
    except OSError as error:
        remedy = "start tlspool-broker; its log says why it did not listen"
        return [Finding(ERROR, "sockets", str(path), f"cannot be reached: {error.strerror}", remedy)]
    if not stat.S_ISSOCK(found.st_mode):
        return [Finding(ERROR, "sockets", str(path), "is no socket", "remove it, and start tlspool-broker again")]
    return [Finding(OK, "sockets", str(path), f"mode {stat.S_IMODE(found.st_mode):04o}")]


def private_directory(path: Path) -> list[Finding]:
    """Check the directory of the sockets between the daemons."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        remedy = "start tlspool-broker: it makes it"
        return [Finding(WARNING, "sockets", str(path), f"cannot be looked at: {error.strerror}", remedy)]
    if mode & stat.S_IRWXO:
        return [
            Finding(ERROR, "sockets", str(path), f"mode {mode:04o}: open to all users of this host", f"chmod o= {path}")
        ]
    return [Finding(OK, "sockets", str(path), f"mode {mode:04o}")]


def pin_file(path: Path | None) -> list[Finding]:
    """Check the file with the PIN, as far as this user can see it."""
    if path is None:
        return [Finding(NOTE, "pin", "", "no pkcs11_pin_file is set: somebody has to type it (`tlspool pin`)")]
    try:
        found = path.stat()
    except FileNotFoundError:
        remedy = "write the PIN into it, mode 0600, for the user of tlspool-keyd"
        return [Finding(ERROR, "pin", str(path), "does not exist", remedy)]
    except OSError as error:
        return [Finding(NOTE, "pin", str(path), f"cannot be looked at by this user: {error.strerror}")]
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return [Finding(ERROR, "pin", str(path), f"mode {mode:04o}: others can read the PIN", f"chmod 0600 {path}")]
    if not found.st_size:
        return [Finding(ERROR, "pin", str(path), "is empty", "write the PIN into it")]
    return [Finding(OK, "pin", str(path), f"mode {mode:04o}")]


def modules(paths: Iterable[str]) -> list[Finding]:
    """Check the PKCS #11 libraries."""
    found = []
    for path in dict.fromkeys(paths):
        if not Path(path).is_file():
            remedy = "install the package that has it, or correct pkcs11_path"
            found.append(Finding(ERROR, "token", path, "there is no such PKCS #11 library", remedy))
        elif not os.access(path, os.R_OK):
            found.append(Finding(ERROR, "token", path, "cannot be read", f"chmod a+r {path}"))
    return found


def provider() -> list[Finding]:
    """Have another process load our OpenSSL provider, as a worker does."""
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(
            command,
            env=child.environment(),  # it finds our packages where we are, and not in the working directory
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return [Finding(WARNING, "provider", "", f"did not load within {_PROBE_S:g} s", "try again on an idle host")]
    if done.returncode == 0:
        return [Finding(OK, "provider", "", "loads, and signs by reference")]
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    remedy = "build it: pip install tlspool anew, with gcc and libssl-dev there"
    return [Finding(ERROR, "provider", "", last.partition("PoolError: ")[2] or last, remedy)]


def clock(now: datetime, newest: datetime | None, *, synchronised: bool | None) -> list[Finding]:
    """Check the clock against the newest time that something was written at, and ask the kernel about it."""
    if newest is not None and now < newest - _SKEW:
        text = f"it is {now:%Y-%m-%d %H:%M} UTC, and something was written at {newest:%Y-%m-%d %H:%M} UTC"
        return [Finding(ERROR, "clock", "", text, "set the clock: no certificate can be judged by this one")]
    if synchronised is False:
        text = "the kernel does not know that its clock is right"
        return [Finding(NOTE, "clock", "", text, "run an NTP client; in a container this may be the host's affair")]
    return [Finding(OK, "clock", "", f"{now:%Y-%m-%d %H:%M} UTC")]


def written_at(paths: Iterable[Path]) -> datetime | None:
    """Return when the newest of some files was written."""
    times = []
    for path in paths:
        try:
            times.append(datetime.fromtimestamp(path.stat().st_mtime, UTC))
        except (OSError, OverflowError, ValueError):
            continue
    return max(times, default=None)


def kernel_clock_synchronised() -> bool | None:
    """Ask the kernel (adjtimex(2)) whether its clock is disciplined; None: it does not say."""
    import ctypes  # for this one question

    size_b = 208  # sizeof(struct timex) on 64-bit Linux, and more than on others
    buffer = ctypes.create_string_buffer(size_b)  # modes 0: change nothing
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    time_error = 5
    return None if state < 0 else state != time_error
