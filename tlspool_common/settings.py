"""Settings: one table of options, and the reader of upstream's configuration syntax.

A line is ``keyword`` + one space + value to the end of the line; ``#`` starts a comment line; blank lines
count for nothing.  The file is read to its end and checked as a whole before anything acts on it, so that
the order of lines matters only where an option may be repeated.  docs/configuration.md is generated from
TABLE.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tlspool_common.access import AccessRule, parse_rule
from tlspool_common.errors import Code, PoolError

DEFAULT_PATH = Path("/etc/tlspool.conf")

_LINE_B = 4096
"""Longest line.  Upstream stops at 512; cipher lists are longer than that."""

_FILE_B = 1024 * 1024


class SettingError(PoolError):
    """A setting is wrong; says which, its value, and what it should be."""

    def __init__(self, name: str, value: str, hint: str) -> None:
        super().__init__(Code.SETTING_INVALID, f"{name} {value!r}: {hint}")


def _refuse(hint: str) -> NoReturn:
    raise ValueError(hint)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def cast(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            _refuse(f"must be a whole number from {low} to {high}")
        return int(text)

    return cast


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def cast(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", text) or not low <= float(text) <= high:
            _refuse(f"must be a number of seconds from {low:g} to {high:g}")
        return float(text)

    return cast


def _choice(*words: str) -> Callable[[str], str]:
    def cast(text: str) -> str:
        return text if text in words else _refuse(f"must be one of {', '.join(words)}")

    return cast


def _path(text: str) -> Path:
    return Path(text) if text.startswith("/") and "\0" not in text else _refuse("must be an absolute path")


def _file_name(text: str) -> str:
    return text if text and "\0" not in text else _refuse("must be a file name, relative to dbenv_dir or absolute")


def _mode(text: str) -> int:
    return int(text, 8) if re.fullmatch(r"0?[0-7]{3}", text) else _refuse("must be an octal mode such as 0666")


def _uid(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    import pwd  # not needed where settings name no user

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        _refuse("names no user of this host")


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, or all members of a group."""

    number: int
    is_group: bool

    def covers(self, uid: int, gids: Iterable[int]) -> bool:
        """Whether a process with these ids is meant."""
        return self.number in gids if self.is_group else self.number == uid


def _principals(text: str) -> tuple[Principal, ...]:
    return tuple(
        Principal(_gid(word[1:]), is_group=True) if word.startswith("@") else Principal(_uid(word), is_group=False)
        for word in _word_list(text)
    )


def _gid(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    import grp  # not needed where settings name no group

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        _refuse("names no group of this host")


def _openssl_list(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_:+!@=.,/*?\- ]{0,1024}", text):
        _refuse("must be a list in OpenSSL's syntax, at most 1024 characters")
    return text


def _word_list(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[ ,]+", text) if word)


@dataclass(frozen=True, slots=True)
class Option:
    """One line of the table."""

    name: str
    cast: Callable[[str], Any]
    default: Any
    doc: str


@dataclass(frozen=True, slots=True)
class Pkcs11Module:
    """A PKCS #11 library and the tokens to use behind it (RFC 7512 URI; ``pkcs11:`` means all)."""

    path: str
    token_uri: str


TABLE: tuple[Option, ...] = (
    Option("run_dir", _path, Path("/run/tlspool"), "directory of the sockets"),
    Option("socket_name", _path, None, "application socket; default `run_dir`/tlspool.sock; may be repeated"),
    Option("socket_mode", _mode, 0o666, "mode of the application socket, octal"),
    Option("socket_user", _uid, None, "owner (name or number) of the application socket; default: the broker's user"),
    Option("socket_group", _gid, None, "group (name or number) of the application socket; default: the broker's"),
    Option("dbenv_dir", _path, Path("/var/lib/tlspool/db"), "directory of the Berkeley DB environment"),
    Option("db_localid", _file_name, "localid.db", "database of local identities"),
    Option("db_disclose", _file_name, "disclose.db", "database of what is disclosed to whom"),
    Option("db_trust", _file_name, "trust.db", "database of trust anchors"),
    Option(
        "pkcs11_pin_file", _path, None, "file with the PIN, mode 0600; a systemd credential `pkcs11-pin` comes first"
    ),
    Option("pkcs11_sessions", _whole(1, 256), 16, "signatures in parallel for each module; a network HSM likes more"),
    Option("pkcs11_timeout_s", _seconds(0.1, 600), 10.0, "how long a token may take for one signature"),
    Option(
        "pin_services",
        _principals,
        (),
        "users, and groups as @group, whose programs may ask people for the PIN, besides root and `keyd_user`",
    ),
    Option("pin_wait_s", _seconds(0, 3600), 30.0, "how long a session waits for a PIN that somebody is asked for"),
    Option("pin_tries", _whole(1, 10), 2, "wrong PINs in a row before nobody is asked any more; cards lock at three"),
    Option(
        "choice_services",
        _principals,
        (),
        "users, and groups as @group, whose programs may choose identities for applications of other users",
    ),
    Option("broker_user", _uid, None, "user (name or number) the broker runs as; default: the reader's own"),
    Option("worker_user", _uid, None, "user the worker runs as; default: the reader's own"),
    Option("keyd_user", _uid, None, "user keyd runs as; default: the reader's own"),
    Option("workers", _whole(1, 64), 2, "warm workers kept ready for new applications"),
    Option(
        "isolation",
        _choice("application", "connection", "pool"),
        "application",
        "who shares a worker: sessions of one calling user, nobody, or everybody",
    ),
    Option("workers_per_application", _whole(1, 64), 2, "workers for one calling user; two fill two cores"),
    Option(
        "relay",
        _choice("native", "python"),
        "native",
        "who moves the bytes of finished handshakes: a thread in C, or the worker's loop in Python",
    ),
    Option("tls_min_version", _choice("1.2", "1.3"), "1.2", "lowest protocol version"),
    Option("tls_max_version", _choice("1.2", "1.3"), "1.3", "highest protocol version"),
    Option("tls_groups", _openssl_list, "", "key exchange groups; empty: the library's (X25519MLKEM768 first)"),
    Option("tls_ciphers12", _openssl_list, "ECDHE+AESGCM:ECDHE+CHACHA20", "TLS 1.2 ciphers; forward-secret AEAD only"),
    Option("tls_ciphersuites13", _openssl_list, "", "TLS 1.3 cipher suites; empty: the library's"),
    Option("tls_sigalgs", _openssl_list, "", "signature algorithms; empty: the library's"),
    Option("handshake_timeout_s", _seconds(0.1, 86400), 40.0, "handshakes whose request sets none (GnuTLS takes 40)"),
    Option("peer_listen_s", _seconds(0, 10), 0.3, "peer role: how long the remote may begin before we do"),
    Option("callback_timeout_s", _seconds(0.1, 86400), 60.0, "wait for the application's answer to a callback"),
    Option("handshake_threads", _whole(1, 1024), 64, "handshakes of one worker that may wait for a signature at once"),
    Option("max_sessions", _whole(1, 1_000_000), 20_000, "sessions in all; each takes up to 80 KiB"),
    Option("max_sessions_per_caller", _whole(1, 1_000_000), 20_000, "sessions of one calling user"),
    Option("max_requests_per_connection", _whole(1, 65_535), 1_000, "open requests of one connection to the pool"),
    Option("allow_facilities", _word_list, ("*",), "facilities granted: starttls, or * for all there are"),
    Option("deny_facilities", _word_list, (), "facilities refused; prevails"),
    Option(
        "session_end",
        _choice("connection", "relay"),
        "connection",
        "sessions without FORK end with the connection that controls them, or, as in earlier pools, go on without it",
    ),
    Option("reattach", _choice("user", "anybody"), "user", "who may reattach a session: its user, or who has the key"),
    Option(
        "sni_rule",
        _choice("application", "strict"),
        "application",
        "whether an application that is asked may let another identity answer for the name that a client asked for",
    ),
    Option("log_level", _choice("debug", "info", "warning", "error"), "info", "least level that is logged"),
)

REPEATED = ("pkcs11_path", "pkcs11_token", "access")
"""``pkcs11_path MODULE`` once for each ``pkcs11_token URI``: the module named last serves the token.  ``access``:
tlspool_common/access.py."""

_OF_SOCKET = ("socket_mode", "socket_user", "socket_group")
"""What is said of an application socket; of several sockets, of those whose ``socket_name`` follows."""

IGNORED = frozenset(
    {
        "daemon_pidfile",
        "daemon_chroot",
        "daemon_user",
        "daemon_group",
        "log_filter",
        "log_stderr",
        "tls_dhparamfile",
        "tls_maxpreauth",
        "tls_onthefly_signcert",
        "tls_onthefly_signkey",
        "dnssec_rootkey",
        "kerberos_client_keytab",
        "kerberos_server_keytab",
        "kerberos_client_credcache",
        "kerberos_server_credcache",
        "ldap_proxy",
        "memcache_ttl",
        "memcache_port",
        "memcache_host",
        "privacy_attempt",
        "radius_authn",
        "radius_authz",
        "radius_acct",
        "quantum_proof_authentication",
        "quantum_proof_encryption",
        "quantum_proof_handshake",
        "pkcs11_pin",
    }
)
"""Upstream's keywords that this version does not use; each is named in a warning."""


@dataclass(frozen=True, slots=True)
class AppSocket:
    """A socket for applications; ``uid`` and ``gid`` -1 leave owner and group as they are."""

    path: Path
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Settings:
    """A whole configuration; attributes bear the names of TABLE."""

    run_dir: Path
    socket_name: Path
    socket_mode: int
    socket_user: int | None
    socket_group: int | None
    dbenv_dir: Path
    db_localid: str
    db_disclose: str
    db_trust: str
    pkcs11_pin_file: Path | None
    pkcs11_sessions: int
    pkcs11_timeout_s: float
    pin_services: tuple[Principal, ...]
    pin_wait_s: float
    pin_tries: int
    choice_services: tuple[Principal, ...]
    broker_user: int
    worker_user: int
    keyd_user: int
    workers: int
    isolation: str
    workers_per_application: int
    relay: str
    tls_min_version: str
    tls_max_version: str
    tls_groups: str
    tls_ciphers12: str
    tls_ciphersuites13: str
    tls_sigalgs: str
    handshake_timeout_s: float
    peer_listen_s: float
    callback_timeout_s: float
    handshake_threads: int
    max_sessions: int
    max_sessions_per_caller: int
    max_requests_per_connection: int
    allow_facilities: tuple[str, ...]
    deny_facilities: tuple[str, ...]
    session_end: str
    reattach: str
    sni_rule: str
    log_level: str
    pkcs11: tuple[Pkcs11Module, ...] = ()
    sockets: tuple[AppSocket, ...] = ()
    access: tuple[AccessRule, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def broker_uid(self) -> int:
        """User id expected of the broker (SO_PEERCRED)."""
        return self.broker_user

    @property
    def worker_uid(self) -> int:
        """User id expected of the worker master."""
        return self.worker_user

    @property
    def keyd_uid(self) -> int:
        """User id expected of the key daemon."""
        return self.keyd_user

    def serves_pins(self, uid: int, gids: Iterable[int]) -> bool:
        """Whether programs of a user, who is in these groups, may ask people for the PIN."""
        return uid in (0, self.keyd_user) or any(one.covers(uid, gids) for one in self.pin_services)

    def chooses_for_others(self, uid: int, gids: Iterable[int]) -> bool:
        """Whether programs of a user, who is in these groups, may choose identities for other users."""
        return any(one.covers(uid, gids) for one in self.choice_services)

    @property
    def signature_wait_s(self) -> float:
        """How long keyd may take for a signature: longer where somebody may have to be asked for the PIN."""
        return self.pkcs11_timeout_s + (self.pin_wait_s if self.pkcs11_pin_file is None else 0)

    @property
    def pin_socket(self) -> Path:
        """Where keyd listens for programs that ask people for the PIN."""
        return self.run_dir / "pin.sock"

    @property
    def private_socket(self) -> Path:
        """Where the broker listens for the other two daemons."""
        return self.run_dir / "private" / "broker.sock"


def _lines_untrusted(text: str) -> list[tuple[int, str, str]]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        keyword, space, value = line.partition(" ")
        if line[0].isspace() or not space:
            raise SettingError(f"line {number}", line[:60], "write `keyword value` with one space, no indentation")
        if len(line.encode("utf-8", "replace")) > _LINE_B:
            raise SettingError(keyword, value[:60] + "...", f"a line has at most {_LINE_B} bytes")
        found.append((number, keyword, value.strip()))
    return found


def parse_untrusted(text: str) -> Settings:
    """Read a whole configuration.

    Raises:
        SettingError: names the setting, its value and the remedy.
    """
    options = {option.name: option for option in TABLE}
    values = {option.name: option.default for option in TABLE}
    modules: list[Pkcs11Module] = []
    module_path = ""
    warnings = []
    sockets: list[AppSocket] = []
    unused = ("", "")  # the last line about a socket since the last socket_name
    rules: dict[str, AccessRule] = {}
    for number, keyword, value in _lines_untrusted(text):
        if keyword in options:
            try:
                values[keyword] = options[keyword].cast(value)
            except ValueError as error:
                raise SettingError(keyword, value, str(error)) from None
            if keyword == "socket_name":
                sockets.append(_app_socket(values))
                unused = ("", "")
            elif keyword in _OF_SOCKET:
                unused = (keyword, value)
        elif keyword == "access":
            rule = _access_rule(value)
            if rule.name in rules:
                raise SettingError(keyword, value, f"there is a rule {rule.name} already")
            rules[rule.name] = rule
        elif keyword == "pkcs11_path":
            if not value.startswith("/") or "\0" in value:
                raise SettingError(keyword, value, "must be an absolute path")
            module_path = value
        elif keyword == "pkcs11_token":
            if not module_path or not value.startswith("pkcs11:"):
                raise SettingError(keyword, value, "must be a pkcs11: URI behind a pkcs11_path line")
            modules.append(Pkcs11Module(module_path, value))
        elif keyword in IGNORED:
            warnings.append(f"line {number}: {keyword} has no effect in this version")
        else:
            raise SettingError(keyword, value, f"line {number}: no such setting; see docs/configuration.md")
    if values["tls_min_version"] > values["tls_max_version"]:
        raise SettingError("tls_min_version", values["tls_min_version"], "must not be above tls_max_version")
    if values["socket_name"] is None:
        values["socket_name"] = values["run_dir"] / "tlspool.sock"
    if len(sockets) < 2:
        sockets = [_app_socket(values)]  # of one socket everything may be said in any order
    elif unused[0]:
        raise SettingError(*unused, "stands behind the last of several socket_name lines: write it before its own")
    if len({socket.path for socket in sockets}) < len(sockets):
        raise SettingError("socket_name", str(values["socket_name"]), "every application socket needs its own path")
    first = sockets[0]
    values |= {"socket_name": first.path, "socket_mode": first.mode}
    for name in ("broker_user", "worker_user", "keyd_user"):
        if values[name] is None:
            values[name] = os.getuid()
    return Settings(
        **values,
        pkcs11=tuple(modules),
        sockets=tuple(sockets),
        access=tuple(rules.values()),
        warnings=tuple(warnings),
    )


def _app_socket(values: dict[str, Any]) -> AppSocket:
    uid, gid = values["socket_user"], values["socket_group"]
    return AppSocket(
        values["socket_name"], values["socket_mode"], -1 if uid is None else uid, -1 if gid is None else gid
    )


def _access_rule(text: str) -> AccessRule:
    try:
        return parse_rule(text, _uid, _gid)
    except ValueError as error:
        raise SettingError("access", text, str(error)) from None


def default_path() -> Path:
    """Return the path of the configuration: TLSPOOL_CONFIG_FILE, or /etc/tlspool.conf."""
    return Path(os.environ.get("TLSPOOL_CONFIG_FILE") or DEFAULT_PATH)


def load(path: Path) -> Settings:
    """Read the configuration file.

    Raises:
        SettingError: the file cannot be read, or a setting is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_B + 1)
    except OSError as error:
        raise SettingError("configuration file", str(path), error.strerror or "cannot be read") from None
    if len(data) > _FILE_B:
        raise SettingError("configuration file", str(path), f"has more than {_FILE_B} bytes")
    try:
        return parse_untrusted(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise SettingError("configuration file", str(path), "is not UTF-8") from None
