"""What a configuration names for RADIUS, and whether it is fit for it: secrets, the spool, the dynamic listener.

Of the secrets only the names of their servers are looked at.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from tlspool_common import sandbox_profiles, systemd
from tlspool_common.setting_remarks import Remark, directory_at, stat_of
from tlspool_common.settings import Settings

_FILE = "radius_secret_file"
_SPOOL = "radius_spool_dir"
_LISTEN = "radius_dynamic_listen"
_SECRETS_B = 1024 * 1024
_CREDENTIALS = Path("/run/credentials")
"""Where systemd has a directory for each unit that has credentials, while it runs."""


def look(settings: Settings) -> Iterator[Remark]:
    """Look at all of it; nothing is said of a pool that has no server."""
    if not (settings.radius_authn or settings.radius_authz or settings.radius_acct or settings.radius_dynamic):
        return
    if settings.radius_secret_file is not None:
        yield from _secrets(settings, settings.radius_secret_file)
    if settings.radius_acct:
        yield from _spool(settings)
    else:
        text = "no session is accounted for"
        yield Remark("note", "radius_acct", "", text, "name the server that takes accounting, if there is one")
    if settings.radius_dynamic_listen is not None:
        yield from _listener(*settings.radius_dynamic_listen)
    if settings.radius_unsigned == "accept":
        text = "anybody between the pool and a server can turn a refusal into an acceptance (CVE-2024-3596)"
        remedy = "have the servers sign their answers, and set it to refuse"
        yield Remark("warning", "radius_unsigned", "accept", text, remedy)


def in_reach(settings: Settings) -> Remark | None:
    """Return what there is to say of secrets that ``tlspool-online`` could read, once it is taken over."""
    path = settings.radius_secret_file
    if path is None or not sandbox_profiles.online_reads(settings, path):
        return None
    text = f"tlspool-online, which needs no secrets, may read {path.parent}"
    remedy = (
        f"move it to a directory that no helper reads, such as {sandbox_profiles.SECRETS_DIR}, and restart the broker"
    )
    return Remark("warning", _FILE, str(path), text, remedy)


def _secrets(settings: Settings, path: Path) -> Iterator[Remark]:
    # Asked by root, whose environment says nothing of the unit's.
    is_credential = path.parent.parent == _CREDENTIALS or systemd.is_credential(path)
    found = stat_of(_FILE, path)
    if isinstance(found, Remark):
        if is_credential and found.level == "error":
            found = _without_credential(path)
        yield found
        return
    if not stat.S_ISREG(found.st_mode):
        yield Remark("error", _FILE, str(path), "is no regular file", "name another")
        return
    # An ACL, by which systemd lets the unit's user read, shows as permissions of the group.
    if found.st_mode & (stat.S_IRWXO if is_credential else stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        yield Remark("error", _FILE, str(path), f"mode {mode:04o}: others can read it", f"chmod 0600 {path}")
    if found.st_uid not in (0, settings.broker_user):
        text = f"belongs to user {found.st_uid}, and the broker is {settings.broker_user}"
        yield Remark("error", _FILE, str(path), text, f"chown {settings.broker_user} {path}")
    elif found.st_uid != settings.broker_user and not is_credential:
        text = f"belongs to root, and the helper of user {settings.broker_user} cannot read it"
        yield Remark("error", _FILE, str(path), text, f"chown {settings.broker_user} {path}")
    if (remark := in_reach(settings)) is not None:
        yield remark
    yield from _without_secret(settings, path)


def _without_credential(path: Path) -> Remark:
    if path.parent.exists():
        remedy = "have LoadCredential= or LoadCredentialEncrypted= of the unit name it, and restart the broker"
        return Remark("error", _FILE, str(path), "the unit has no such credential", remedy)
    text = "is a credential, and there only while its unit runs"
    return Remark("note", _FILE, str(path), text, "run this while it does")


def _without_secret(settings: Settings, path: Path) -> Iterator[Remark]:
    try:
        with path.open("rb") as file:
            lines = file.read(_SECRETS_B).decode(errors="replace").splitlines()
    except OSError:
        yield Remark("note", _FILE, str(path), "cannot be read by this user", "run this as root")
        return
    named = {words[0].lower() for line in lines if len(words := line.split(None, 1)) == 2 and words[0][:1] != "#"}
    for keyword in ("radius_authn", "radius_authz", "radius_acct"):
        for host, port in getattr(settings, keyword):
            if not named & _names(host, port):
                remedy = f"write a line `{host} SECRET` into {path}"
                yield Remark("error", keyword, f"{host}:{port}", "has no secret", remedy)
    for host in settings.radius_dynamic:
        if not any(_host_of(name) == host for name in named):
            remedy = f"write a line `{host} SECRET` into {path}"
            yield Remark("error", "radius_dynamic", host, "has no secret", remedy)


def _names(host: str, port: int) -> set[str]:
    """Return how a server may be named in the file."""
    host = host.lower()
    bare = host.strip("[]")
    return {host, bare, f"{host}:{port}", f"[{bare}]:{port}", f"[{bare}]"}


def _host_of(name: str) -> str:
    """Return the address in ``ADDRESS``, ``ADDRESS:PORT`` or ``[ADDRESS]:PORT``."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.rpartition(":")[0].strip("[]") or name


def _spool(settings: Settings) -> Iterator[Remark]:
    path = settings.radius_spool_dir
    found = directory_at(_SPOOL, path, "the helper makes it at its start")
    if isinstance(found, Remark):
        yield found
        return
    if found.st_uid != settings.broker_user:
        text = f"belongs to user {found.st_uid}, and the broker is {settings.broker_user}"
        yield Remark("error", _SPOOL, str(path), text, f"chown -R {settings.broker_user} {path}")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        text = f"mode {stat.S_IMODE(found.st_mode):04o}: others can read or change what is accounted for"
        yield Remark("warning", _SPOOL, str(path), text, f"chmod 0700 {path}")
    room = os.statvfs(path)
    free_mib, wanted_mib = room.f_bavail * room.f_frsize >> 20, settings.radius_spool_records >> 10
    if free_mib < wanted_mib:
        text = (
            f"{free_mib} MiB are free, and radius_spool_records {settings.radius_spool_records} may take {wanted_mib}"
        )
        yield Remark("warning", _SPOOL, str(path), text, "make room, or set radius_spool_records to less")


def _listener(host: str, port: int) -> Iterator[Remark]:
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        text = "requests are taken from every network; only the servers of radius_dynamic are listened to"
        yield Remark("note", _LISTEN, f"{host}:{port}", text, "name the address that those servers send to")
        return
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # Port 0: the port itself is the helper's, while the pool runs.
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                yield Remark("error", _LISTEN, f"{host}:{port}", "is no address of this host", "name one that is")
