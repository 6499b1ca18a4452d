"""What the broker needs before it can serve: directories of its own, descriptors, and systemd's socket."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

from tlspool_common import sandbox, sandbox_profiles, setting_checks_radius, settings, systemd
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log
from tlspool_common.sandbox_landlock import READ, WRITE
from tlspool_common.settings import SettingError, Settings

_MOST_FDS = 1_048_576
"""As many descriptors as we ask for; fs.nr_open of Linux.  systemd/tlspool-broker.service gives 65536."""

_REPORTS = 1000
"""Malformed records that are remembered, so that each is reported once."""


def raise_descriptor_limit() -> int:
    """Have as many descriptors as we may (each connection is one); return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FDS if hard == resource.RLIM_INFINITY else min(hard, _MOST_FDS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def private_modes(config: Settings) -> tuple[int, int]:
    """Return the modes of the private socket's directory and of the socket: the group enters if users differ."""
    uids = {config.broker_uid, config.worker_uid, config.keyd_uid}
    return (0o700, 0o600) if len(uids) == 1 else (0o710, 0o660)


def make_run_dir(directory: Path) -> None:
    """Make the directory of the sockets, if nobody has: applications must be able to get to theirs.

    Raises:
        PoolError: SETTING_INVALID.
    """
    if directory.is_dir():
        return
    try:
        directory.mkdir(parents=True)
        directory.chmod(0o755)
    except OSError as error:
        raise _unfit(directory, error) from None


def lock(directory: Path, mode: int) -> OwnedFd:
    """Make a directory that one broker may use at a time ours, for as long as the result is open.

    Raises:
        PoolError: SETTING_INVALID; another has it, or it cannot be had.
    """
    try:
        return hold(directory, mode)
    except BlockingIOError:
        raise PoolError(Code.SETTING_INVALID, f"another broker uses {directory}; stop it first") from None
    except OSError as error:
        raise _unfit(directory, error) from None


def hold(directory: Path, mode: int) -> OwnedFd:
    """Do what ``lock`` does.

    Raises:
        OSError: of these BlockingIOError, another process has it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = OwnedFd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW))
    try:
        fcntl.flock(fd.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fchmod(fd.fileno(), mode)
    except OSError:
        fd.close()
        raise
    return fd


def make_spool_dir(config: Settings) -> None:
    """Make the directory where accounting records wait: the sandbox grants only what is there when it is entered.

    One that the configuration names is made before there is a server, too, if it can be: a reload may bring one.

    Raises:
        PoolError: SETTING_INVALID; sessions are to be accounted for, and it cannot be had.
    """
    if not config.radius_acct and "radius_spool_dir" not in config.given:
        return
    try:
        config.radius_spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if config.radius_acct:
            raise _unfit(config.radius_spool_dir, error) from None


def _unfit(directory: Path, error: OSError) -> PoolError:
    return PoolError(Code.SETTING_INVALID, f"{directory}: {error.strerror}")


def reload(path: Path, config: Settings) -> Settings:
    """Read the configuration again, and see that our sandbox, which stays as it is, lets us go by it.

    ``config`` is what is in force.

    Raises:
        SettingError: names the setting, its value and the remedy.
    """
    newer = settings.load(path, settings.Part.BROKER)
    restart = "out of reach of the sandbox that the broker entered at its start; restart the broker"
    for file in newer.crl_file:
        if file not in config.crl_file and not sandbox.covers(file, READ):
            raise SettingError("crl_file", str(file), restart)
    if not sandbox.reaches(sandbox_profiles.ports(newer.online, newer.online_ports)):
        name = "online_ports" if "online_ports" in newer.given else "online"
        value = " ".join(map(str, newer.online_ports)) if name == "online_ports" else "yes"
        raise SettingError(name, value, restart)
    if sandbox_profiles.uses_radius(newer):
        _reaches_radius(newer, config.radius_spool_dir, restart)
    return newer


class Secrets:
    """The file with the secrets of RADIUS servers: which only their helper reads, when it starts."""

    def __init__(self, config: Settings) -> None:
        self._seen = _look(config.radius_secret_file)

    def changed(self, newer: Settings) -> bool:
        """Whether it is another one than at the last reload, or the start."""
        seen, self._seen = self._seen, _look(newer.radius_secret_file)
        return seen != self._seen


def warn_of_secrets(config: Settings, log: Log) -> None:
    """Say so where secrets of RADIUS servers lie within reach of the helper that has no business with them."""
    if sandbox_profiles.uses_radius(config) and (remark := setting_checks_radius.in_reach(config)) is not None:
        log.warning("radius.secrets_in_reach", path=remark.subject, detail=f"{remark.text}; {remark.remedy}")


def _look(path: Path | None) -> tuple[int, int, int] | None:
    """Return what shows that a file has changed."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size)


def _reaches_radius(newer: Settings, spool_dir: Path, restart: str) -> None:
    """See that the helper that speaks RADIUS would have what it needs.

    ``spool_dir`` is where records wait until the broker restarts, whatever the newer settings say.

    Raises:
        SettingError: it would not.
    """
    if not sandbox.reaches(sandbox_profiles.ports(True, ())):
        names = ("radius_authn", "radius_authz", "radius_acct", "radius_dynamic")
        raise SettingError(next(name for name in names if getattr(newer, name)), None, restart)
    if newer.radius_secret_file is not None and not sandbox.covers(newer.radius_secret_file, READ):
        raise SettingError("radius_secret_file", str(newer.radius_secret_file), restart)
    for directory in (newer.radius_spool_dir, spool_dir) if newer.radius_acct else ():
        if not sandbox.covers(directory, WRITE):
            raise SettingError("radius_acct", None, f"{directory} is {restart}")
    if newer.radius_acct:
        try:  # where no sandbox is in force it may not be there yet
            spool_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError("radius_acct", None, f"{spool_dir}: {error.strerror}") from None


def inherited_sockets(inherited: dict[str, OwnedFd]) -> list[socket.socket]:
    """Take the application sockets out of what systemd has passed; there are none when it was not asked to.

    Raises:
        PoolError: SETTING_INVALID, one of them is none that applications can connect to; then all are closed.
    """
    found: list[socket.socket] = []
    try:
        for name in [one for one in inherited if one.partition("#")[0] in ("app", "tlspool.sock")]:
            found.append(systemd.listening(inherited.pop(name)))
    except PoolError:
        for sock in found:
            sock.close()
        for fd in inherited.values():
            fd.close()
        raise
    return found


def once(log: Log) -> Callable[[PoolError], None]:
    """Return a function that logs each unusable record once, and not at every session that meets it."""
    seen: set[str] = set()

    def report(error: PoolError) -> None:
        if error.detail in seen:
            return
        if len(seen) >= _REPORTS:
            seen.clear()
        seen.add(error.detail)
        log.warning("record.unusable", code=int(error.code), rule=error.code.name.lower(), detail=error.detail)

    return report
