"""The sandbox of each process: one function each, read from top to bottom as the list of all that it may still do.

Landlock binds a permission to the file that is there, not to its name, and most programs change a file by putting
another one in its place.  So what may be read again later (configuration, PIN, revocation lists, /etc/passwd) is
granted by its directory; users and modes of files say who reads what in there.
"""

from __future__ import annotations

import os
import resource
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tlspool_common import sandbox_calls as calls
from tlspool_common.sandbox import Profile, granted
from tlspool_common.sandbox_landlock import LIST, READ, RUN, SOCKETS, WRITE, Access, Grant
from tlspool_common.settings import Settings

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("tlspool_common", "tlspool_broker", "tlspool_worker", "tlspool_keyd", "tlspool_online", "tlspool_radius")
_DNS = 53

SECRETS_DIR = Path("/var/lib/tlspool/secrets")
"""Where secrets of RADIUS servers are at home: the package makes it, of the broker's user, mode 0700."""

_RESOLVERS = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
"""Where /etc/resolv.conf leads to on hosts that make it anew with each network."""

_OF_MODULES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
    "/etc/softhsm",
    "/etc/softhsm2.conf",
    "/etc/opensc",
)
"""What the dynamic linker, the C library and the PKCS #11 modules of the distribution read in /etc."""

_DEVICES = Grant(
    Path("/dev/null"), Access.READ_FILE | Access.WRITE_FILE, "what libraries want to have nothing to do with"
)
_RANDOM = Grant(Path("/dev/urandom"), Access.READ_FILE, "libraries that do not know getrandom(2)")
_ETC = Grant(
    Path("/etc"), READ, "configuration; users, groups, hosts, time zone, which are put in place anew when they change"
)
_PROC = Grant(Path("/proc"), READ, "load and state of processes; of others only what everybody may see")


def libraries() -> list[Grant]:
    """Return what Python and shared libraries are read from."""
    why = "Python, its modules, shared libraries: what is imported or loaded late"
    places = {Path("/usr"), Path("/lib"), Path("/lib64"), Path(sys.prefix), Path(sys.base_prefix)}
    # Not all of sys.path: the first of it may be the directory that we were started in.
    places |= {Path(name) for name in sys.path if name.endswith(("/site-packages", "/dist-packages"))}
    found = [Grant(place, READ, why) for place in sorted(places) if place != Path("/")]
    found += [Grant(_ROOT / name, READ, "our own modules") for name in _PACKAGES]
    return [*found, Grant(_ROOT, LIST, "where they are"), _DEVICES, _RANDOM]


def interpreter() -> list[Grant]:
    """Return what must be executable to start a process of ours."""
    why = "to start a process of ours; no other program can be executed"
    return [Grant(path, RUN, why) for path in (Path(sys.executable), _loader(Path(sys.executable))) if path]


def _loader(program: Path) -> Path | None:
    """Return the dynamic linker that an ELF file of 64 bits names (elf(5), PT_INTERP)."""
    with program.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return None
        (offset,), (size_b, count) = struct.unpack_from("=Q", head, 32), struct.unpack_from("=HH", head, 54)
        file.seek(offset)
        table = file.read(size_b * count)
        for start in range(0, len(table), size_b):
            kind, _, place, _, _, length_b = struct.unpack_from("=IIQQQQ", table, start)
            if kind == 3:
                file.seek(place)
                return Path(os.fsdecode(file.read(length_b).rstrip(b"\0")))
    return None


def _configuration(path: Path) -> list[Grant]:
    return [_ETC, Grant(_place(path.absolute()), READ, "the configuration is read again on SIGHUP")]


def _audit(settings: Settings) -> list[Grant]:
    return (
        [Grant(settings.audit_dir, WRITE, "the audit trail, which goes on in another file")]
        if settings.audit_dir
        else []
    )


def _place(path: Path) -> Path:
    """Return what is granted for a file that others may put in place anew: its directory, but never all there is."""
    return path if path.parent == Path("/") else path.parent


def _supervised() -> bool:
    """Whether the supervisor listens at an abstract socket, which must then be in reach (sd_notify(3))."""
    return os.environ.get("NOTIFY_SOCKET", "").startswith("@")


# --- worker ---------------------------------------------------------------------------------------------------------


def worker() -> Profile:
    """A worker: nothing.  All its descriptors come over its channel."""
    limits = {resource.RLIMIT_FSIZE: 0, resource.RLIMIT_MEMLOCK: 0, resource.RLIMIT_MSGQUEUE: 0}
    if any(map(_is_file, (1, 2))):  # where the log is a file, writing it is writing a file
        del limits[resource.RLIMIT_FSIZE]
    return Profile("worker", tuple(calls.worker(os.getpid())), limits=limits, capabilities=False)


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def master(settings: Settings, path: Path) -> Profile:
    """The worker master: forks, reaps, speaks with the broker; reads no byte that a worker or a stranger wrote.

    Workers that an earlier master has forked are no children of this one, and it has to end them all the same.
    """
    return Profile(
        "master",
        tuple(calls.service(forks=True)),
        (
            *libraries(),
            *_configuration(path),
            _PROC,
            Grant(settings.run_dir, SOCKETS, "worker.sock, which is removed at the end"),
        ),
        abstract=_supervised(),
        signals=True,
        capabilities=False,
    )


# --- keyd -----------------------------------------------------------------------------------------------------------


def keyd(settings: Settings, path: Path) -> Profile:
    """The key daemon; its token processes inherit this, so what they need is in it."""
    modules = [one for module in settings.pkcs11 for one in _module(module.path)]
    pin = [Grant(_place(settings.pkcs11_pin_file), READ, "the PIN is read again")] if settings.pkcs11_pin_file else []
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials.startswith("/"):
        pin.append(Grant(Path(credentials), READ, "systemd's credentials: the PIN is read again"))
    return Profile(
        "keyd",
        tuple(calls.service(network=settings.pkcs11_network, executes=True, modules=True)),
        (
            *libraries(),
            *interpreter(),
            *_configuration(path),
            _PROC,
            *pin,
            Grant(settings.run_dir, SOCKETS, "keyd.sock and pin.sock, which are removed at the end"),
            *_audit(settings),
            *modules,
            *_tokens(settings.pkcs11_directory),
        ),
        connect=None if settings.pkcs11_network else (),
        abstract=_supervised(),
    )


def token_words(settings: Settings) -> list[str]:
    """Return the arguments of a token process that ``token`` is made from."""
    return [settings.sandbox, "network" if settings.pkcs11_network else "local", *map(str, settings.pkcs11_directory)]


def token(words: Sequence[str], module: str) -> Profile:
    """A token process: its module and the tokens; no network, unless the setting says that the module needs it."""
    network = words[:1] == ["network"]
    return Profile(
        "token",
        tuple(calls.leaf(os.getpid(), network=network, modules=True)),
        (
            *libraries(),
            *(Grant(Path(name), READ, "for the C library and modules of the distribution") for name in _OF_MODULES),
            *_module(module),
            *_tokens(map(Path, words[1:])),
        ),
        connect=None if network else (),
    )


def _module(path: str) -> list[Grant]:
    return [Grant(Path(path).resolve().parent, READ, "the PKCS #11 module, and what it loads late")]


def _tokens(more: Iterable[Path]) -> list[Grant]:
    """Return where modules write: SoftHSM2's tokens, and what the configuration names."""
    named = os.environ.get("SOFTHSM2_CONF", "")
    found = [Grant(Path(named), READ, "SoftHSM2's configuration (SOFTHSM2_CONF)")] if named.startswith("/") else []
    if directory := token_directory(Path(named or "/etc/softhsm/softhsm2.conf")):
        found.append(Grant(directory, WRITE, "SoftHSM2's tokens: it locks and writes files to log in"))
    return found + [Grant(path, WRITE, "setting pkcs11_directory") for path in more]


def token_directory(configuration: Path) -> Path | None:
    """Return SoftHSM2's directory of tokens (softhsm2.conf(5), directories.tokendir)."""
    try:
        lines = configuration.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition("#")[0].partition("=")
        if name.strip() == "directories.tokendir" and value.strip().startswith("/"):
            return Path(value.strip())
    return None


# --- broker ---------------------------------------------------------------------------------------------------------


def broker(settings: Settings, path: Path) -> Profile:
    """The broker; its helpers inherit this, so what they need of network and files is in it."""
    network = _has_network(settings)
    places = {settings.run_dir, settings.private_socket.parent, *(one.path.parent for one in settings.sockets)}
    return Profile(
        "broker",
        tuple(calls.service(network=network, executes=True, owners=True)),
        (
            *libraries(),
            *interpreter(),
            *_configuration(path),
            _PROC,
            *(Grant(place, SOCKETS, "sockets, which are removed at the end") for place in sorted(places)),
            Grant(settings.private_socket.parent, WRITE, "what the next broker goes on with (lasting.py)"),
            Grant(settings.dbenv_dir, WRITE, "the databases and their history"),
            *_audit(settings),
            *_network(settings.crl_file, network),
            *_of_radius(settings),
        ),
        connect=ports(settings.online, settings.online_ports) or ((_DNS,) if uses_radius(settings) else ()),
        abstract=_supervised(),
    )


def online(crl_files: Iterable[Path], ask: bool, allowed: tuple[int, ...]) -> Profile:
    """The helper that asks the network: TCP to the allowed ports, and name servers."""
    return Profile(
        "online",
        tuple(calls.leaf(os.getpid(), network=ask)),
        _files_online(crl_files, ask),
        connect=ports(ask, allowed),
        capabilities=False,
    )


def _files_online(crl_files: Iterable[Path], ask: bool) -> tuple[Grant, ...]:
    return (*libraries(), _ETC, *_network(crl_files, ask))


def online_reads(settings: Settings, path: Path) -> bool:
    """Whether that helper may be started, and its sandbox would let it read a file that its user can read."""
    if not settings.online and not settings.crl_file:
        return False
    return granted(_files_online(settings.crl_file, settings.online), path, Access.READ_FILE)


def uses_radius(settings: Settings) -> bool:
    """Whether the helper that speaks RADIUS may be started."""
    return bool(settings.radius_authn or settings.radius_authz or settings.radius_acct or settings.radius_dynamic)


def _has_network(settings: Settings) -> bool:
    """Whether the broker has a network at all, for its helpers."""
    return settings.online or uses_radius(settings)


def _of_radius(settings: Settings) -> list[Grant]:
    """Return what the broker has for that helper only.

    It has it before a server is named, too, so that the first one takes a reload and no restart; but not without a
    network, as then that server takes a restart anyway.
    """
    if not _has_network(settings):
        return []
    file = settings.radius_secret_file
    place = _place(file) if file else SECRETS_DIR
    return [
        Grant(place, READ, "shared secrets, which the helper reads when it starts"),
        *_spool(settings.radius_spool_dir),
    ]


def radius(spool_dir: Path | None) -> Profile:
    """The helper that speaks RADIUS: UDP, name servers, and the spool.

    Secrets are read before it is entered.  XXX Where their file is in /etc they can be read again, by both helpers;
    ``tlspool check`` and the broker warn of that (online_reads).
    """
    return Profile(
        "radius",
        tuple(calls.leaf(os.getpid(), network=True, writes=spool_dir is not None)),
        (*libraries(), _ETC, *_resolvers(True), *_spool(spool_dir)),
        connect=(_DNS,),
        capabilities=False,
    )


def _spool(directory: Path | None) -> list[Grant]:
    return [Grant(directory, WRITE, "accounting records that wait for their server")] if directory else []


def ports(ask: bool, allowed: Iterable[int]) -> tuple[int, ...]:
    """Return the TCP ports that the helper connects to."""
    return tuple(sorted({*allowed, _DNS})) if ask else ()


def _network(crl_files: Iterable[Path], ask: bool) -> list[Grant]:
    files = [Grant(_place(path), READ, "revocation lists are read again when they change") for path in crl_files]
    return files + _resolvers(ask)


def _resolvers(ask: bool) -> list[Grant]:
    return [Grant(Path(name), READ, "name servers") for name in _RESOLVERS if ask]
