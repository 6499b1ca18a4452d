"""What a configuration names on this host, and whether it is fit for it: for an operator's command, not for daemons.

Nothing is changed, and no daemon has to run.  What this user may not look at is told as a note.
"""

from __future__ import annotations

import os
import stat
import subprocess  # loads PKCS #11 modules, which may crash
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tlspool_common import setting_checks_radius
from tlspool_common.setting_remarks import Remark as Remark
from tlspool_common.setting_remarks import directory_at, stat_of
from tlspool_common.settings import Settings

SOCKET_PATH_B = 107
"""sun_path of Linux (unix(7)), without its end."""

_LOAD_S = 20.0
"""For a module to load: some of them look for hardware."""

_LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).C_GetFunctionList"


def look(settings: Settings, path: Path) -> list[Remark]:
    """Look at everything that a whole configuration names; ``path`` is its file."""
    return [
        *_file(path),
        *_users(settings),
        *_sockets(settings),
        *_databases(settings),
        *_audit(settings),
        *_pin_file(settings),
        *_modules(dict.fromkeys(module.path for module in settings.pkcs11)),
        *_lists(settings),
        *_module_directories(settings),
        *setting_checks_radius.look(settings),
    ]


def _file(path: Path) -> Iterator[Remark]:
    found = stat_of("configuration", path)
    if isinstance(found, Remark):
        yield found
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(found.st_mode)
        yield Remark(
            "error", "configuration", str(path), f"mode {mode:04o}: others can change it", f"chmod go-w {path}"
        )
    elif found.st_uid not in (0, os.getuid()):
        text = f"belongs to user {found.st_uid}, who can change it"
        yield Remark("warning", "configuration", str(path), text, f"chown root {path}")


def _users(settings: Settings) -> Iterator[Remark]:
    names = ("broker_user", "worker_user", "keyd_user")
    users = [getattr(settings, name) for name in names]
    if len(set(users)) < len(users):
        text = "two daemons run as one user, so that one which was taken over can reach the other"
        yield Remark("note", "keyd_user", " ".join(map(str, users)), text, f"set {', '.join(names)} to three users")
    elif 0 in users:
        text = "a daemon runs as root, which none needs"
        yield Remark("warning", names[users.index(0)], "0", text, "give it a user of its own")


def _sockets(settings: Settings) -> Iterator[Remark]:
    others = (settings.pin_socket, settings.private_socket)
    for keyword, path in [
        *(("socket_name", socket.path) for socket in settings.sockets),
        *(("run_dir", path) for path in others),
    ]:
        if len(os.fsencode(path)) > SOCKET_PATH_B:
            text = f"a socket's path has at most {SOCKET_PATH_B} bytes"
            yield Remark("error", keyword, str(path), text, "choose a shorter one")
    found = stat_of("run_dir", settings.run_dir)
    if not isinstance(found, Remark) and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        text = "everybody can put other sockets into the place of ours"
        yield Remark("error", "run_dir", str(settings.run_dir), text, f"chmod o-w {settings.run_dir}")


def _databases(settings: Settings) -> Iterator[Remark]:
    path = settings.dbenv_dir
    found = directory_at("dbenv_dir", path, "the broker makes it at its start")
    if isinstance(found, Remark):
        yield found
    elif found.st_uid != settings.broker_user:
        text = f"belongs to user {found.st_uid}, and the broker is {settings.broker_user}"
        yield Remark("error", "dbenv_dir", str(path), text, f"chown -R {settings.broker_user} {path}")
    elif found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"mode {stat.S_IMODE(found.st_mode):04o}: others than the broker can read or change the databases"
        yield Remark("warning", "dbenv_dir", str(path), text, f"chmod 0700 {path}")


def _audit(settings: Settings) -> Iterator[Remark]:
    path = settings.audit_dir
    if path is None:
        return
    found = directory_at("audit_dir", path, "a daemon that may makes it at its start")
    if isinstance(found, Remark):
        yield found
    elif found.st_mode & stat.S_IWOTH:
        text = "everybody can put files into it, and take some away"
        yield Remark("error", "audit_dir", str(path), text, f"chmod o-w {path}")
    elif settings.broker_user != settings.keyd_user and not found.st_mode & stat.S_IWGRP:
        text = "broker and keyd are two users, and only its owner can write there"
        yield Remark("warning", "audit_dir", str(path), text, f"give it a group of both, and chmod 3770 {path}")


def _pin_file(settings: Settings) -> Iterator[Remark]:
    path = settings.pkcs11_pin_file
    if path is None:
        return
    found = stat_of("pkcs11_pin_file", path)
    if isinstance(found, Remark):
        yield found
    elif not stat.S_ISREG(found.st_mode):
        yield Remark("error", "pkcs11_pin_file", str(path), "is no regular file", "name another")
    elif found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        yield Remark(
            "error", "pkcs11_pin_file", str(path), f"mode {mode:04o}: others can read it", f"chmod 0600 {path}"
        )
    elif found.st_uid not in (0, settings.keyd_user):
        text = f"belongs to user {found.st_uid}, and keyd is {settings.keyd_user}"
        yield Remark("error", "pkcs11_pin_file", str(path), text, f"chown {settings.keyd_user} {path}")


def _modules(paths: Iterable[str]) -> Iterator[Remark]:
    for path in paths:
        found = stat_of("pkcs11_path", Path(path))
        if isinstance(found, Remark):
            yield found
        elif found.st_mode & stat.S_IWOTH:
            yield Remark("error", "pkcs11_path", path, "everybody can change it", f"chmod o-w {path}")
        elif why := _why_not_loadable(path):
            yield Remark("error", "pkcs11_path", path, why, "name a PKCS #11 library of this machine's kind")


def _why_not_loadable(path: str) -> str:
    """Let another process load a module; return what is wrong with it, '' for nothing."""
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter; the path is an argument, and no shell is there
            [sys.executable, "-I", "-c", _LOAD, path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not load within {_LOAD_S:g} s"
    if done.returncode < 0:
        return f"crashed while it was loaded, with signal {-done.returncode}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        return f"does not load: {last.partition(': ')[2] or last}"
    return ""


def _module_directories(settings: Settings) -> Iterator[Remark]:
    """What is not there when keyd starts its modules may not open later either, and their own errors say little."""
    for path in settings.pkcs11_directory:
        found = stat_of("pkcs11_directory", path)
        if isinstance(found, Remark) and found.level == "error":
            text = f"{found.text}: modules may not open it, even when it comes later"
            yield Remark(
                "warning", found.keyword, found.subject, text, "make it, then restart keyd; or take the line out"
            )
        elif isinstance(found, Remark):
            yield found


def _lists(settings: Settings) -> Iterator[Remark]:
    for path in settings.crl_file:
        found = stat_of("crl_file", path)
        if isinstance(found, Remark):
            yield found
        elif not stat.S_ISREG(found.st_mode):
            yield Remark("error", "crl_file", str(path), "is no regular file", "name another")
        elif not found.st_mode & stat.S_IROTH and found.st_uid != settings.broker_user:
            text = "only its owner and its group can read it"
            yield Remark("warning", "crl_file", str(path), text, f"see that user {settings.broker_user} can, too")
        elif not found.st_size:
            yield Remark("error", "crl_file", str(path), "is empty", "fetch the list anew")
