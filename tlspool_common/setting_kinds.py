"""Kinds of values that a configuration may have: how each is read, and how it is shown again.

What is shown is read as the same value.  A ``cast`` raises ValueError, whose text says what the value should be.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tlspool_common.errors import PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.policies import POLICIES
from tlspool_common.valexp import fault_untrusted


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value; ``what`` is its name in the reference page."""

    what: str
    cast: Callable[[str], Any]
    show: Callable[[Any], str] = str


def refuse(hint: str) -> NoReturn:
    """Say what a value should be."""
    raise ValueError(hint)


def whole(low: int, high: int) -> Kind:
    """Return the kind of whole numbers in a range."""

    def cast(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            refuse(f"must be a whole number from {low} to {high}")
        return int(text)

    return Kind("number", cast)


def seconds(low: float, high: float) -> Kind:
    """Return the kind of seconds in a range."""

    def cast(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?", text) or not low <= float(text) <= high:
            refuse(f"must be a number of seconds from {low:g} to {high:g}")
        return float(text)

    return Kind("seconds", cast, lambda value: f"{value:.6f}".rstrip("0").rstrip("."))


def choice(*words: str) -> Kind:
    """Return the kind of a few words."""

    def cast(text: str) -> str:
        return text if text in words else refuse(f"must be one of {', '.join(words)}")

    return Kind(" or ".join(words), cast)


def _yes_or_no(text: str) -> bool:
    if text.lower() in ("yes", "true", "yep", "aye", "1"):
        return True
    return False if text.lower() in ("no", "false", "0") else refuse("must be yes or no")


def _path(text: str) -> Path:
    if not text.startswith("/") or not text.isprintable():
        refuse("must be an absolute path")
    return Path(text)


def _paths(text: str) -> tuple[Path, ...]:
    return (_path(text),)


def _file_name(text: str) -> str:
    return text if text and text.isprintable() else refuse("must be a file name, relative to dbenv_dir or absolute")


def _mode(text: str) -> int:
    return int(text, 8) if re.fullmatch(r"0?[0-7]{3}", text) else refuse("must be an octal mode such as 0666")


def uid(text: str) -> int:
    """Return the number of a user of this host."""
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    import pwd  # not needed where settings name no user

    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        refuse("names no user of this host")


def gid(text: str) -> int:
    """Return the number of a group of this host."""
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    import grp  # not needed where settings name no group

    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        refuse("names no group of this host")


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, or all members of a group."""

    number: int
    is_group: bool

    def __str__(self) -> str:
        return f"@{self.number}" if self.is_group else str(self.number)

    def covers(self, uid: int, gids: Iterable[int]) -> bool:
        """Whether a process with these ids is meant."""
        return self.number in gids if self.is_group else self.number == uid


@dataclass(frozen=True, slots=True)
class Pkcs11Module:
    """A PKCS #11 library and the tokens to use behind it (RFC 7512 URI; ``pkcs11:`` means all)."""

    path: str
    token_uri: str


@dataclass(frozen=True, slots=True)
class AppSocket:
    """A socket for applications; ``uid`` and ``gid`` -1 leave owner and group as they are."""

    path: Path
    mode: int
    uid: int
    gid: int


def _principals(text: str) -> tuple[Principal, ...]:
    return tuple(
        Principal(gid(word[1:]), is_group=True) if word.startswith("@") else Principal(uid(word), is_group=False)
        for word in _word_list(text)
    )


def _openssl_list(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_:+!@=.,/*?\- ]{0,1024}", text):
        refuse("must be a list in OpenSSL's syntax, at most 1024 characters")
    return text


def _word_list(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[ ,]+", text) if word)


def _ports(text: str) -> tuple[int, ...]:
    port = whole(1, 65535)
    return tuple(dict.fromkeys(port.cast(word) for word in _word_list(text)))


FACILITY_WORDS = ("starttls", "startgss", "startssh", "*")


def _facilities(text: str) -> tuple[str, ...]:
    found = _word_list(text)
    for word in found:
        if word not in FACILITY_WORDS:
            refuse(f"{word!r} is no facility: there are {', '.join(FACILITY_WORDS)}")
    return found


_LEVELS = {
    **dict.fromkeys(("emerg", "emergency", "alert", "crit", "critical", "err", "error"), "error"),
    **dict.fromkeys(("warn", "warning"), "warning"),
    **dict.fromkeys(("note", "notice", "info"), "info"),
    **dict.fromkeys(("debug", "*"), "debug"),
}


def _log_level(text: str) -> str:
    """Read a level; those of syslog that we have not become the next one that we have."""
    return _LEVELS.get(text.lower()) or refuse("must be one of debug, info, warning, error")


def _expression(text: str) -> str:
    if text and (fault := fault_untrusted(text)):
        refuse(f"must be a validation expression: {fault}")
    return text


def _identity(text: str) -> str:
    try:
        return str(parse_untrusted(text)) if text else ""
    except PoolError as error:
        refuse(f"must be an identity, user@domain or domain: {error.detail}")


def _policy(text: str) -> str:
    return text if text in POLICIES else refuse(f"must be one of {', '.join(POLICIES)}")


def _pin(text: str) -> str:
    return text if text.isprintable() and text else refuse("must be the PIN, of characters that can be printed")


# Of earlier pools only; their form is checked.


def _name(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?", text) else refuse("must be a name")


def _prefixed(what: str, *prefixes: str) -> Callable[[str], str]:
    def cast(text: str) -> str:
        if not text.startswith(prefixes) or not text.isprintable():
            refuse(f"must be {what}")
        return text

    return cast


def _address(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_\[\]%-]{1,255}", text):
        refuse("must be a host name or an address, with :port if need be")
    return text


LOG_FILTERS = (
    "*", "tls", "pkcs11", "db", "files", "crypto", "cert", "user", "copycat", "unixsock", "daemon", "kerberos",
    "authn", "authz", "creds", "session",
)  # fmt: skip


def _log_filter(text: str) -> tuple[str, ...]:
    found = tuple(word.lower() for word in _word_list(text))
    for word in found or ("",):
        if word not in LOG_FILTERS:
            refuse(f"{word!r} is none of {', '.join(LOG_FILTERS)}")
    return found


def _loopback(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    try:
        host = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        host = None
    if host is None or not host.is_loopback or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        refuse("must be an address of the loopback interface and a port, such as 127.0.0.1:9109 or [::1]:9109")
    return str(host), int(port)


def _shown_endpoint(value: tuple[str, int]) -> str:
    return f"[{value[0]}]:{value[1]}" if ":" in value[0] else f"{value[0]}:{value[1]}"


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        refuse(f"must be IP addresses: {text[:80]!r} is none")


def _host(text: str) -> str:
    """Read an address, or a name: that is looked up by who uses it."""
    if re.fullmatch(r"[0-9.]+|.*:.*|\[.*", text):
        return _ip(text)
    if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.)*[A-Za-z0-9_-]{1,63}\.?", text):
        refuse(f"must be a host name or an address, with :port if need be: {text[:80]!r} is neither")
    return text.lower()


def _servers(default_port: int) -> Callable[[str], tuple[tuple[str, int], ...]]:
    def cast(text: str) -> tuple[tuple[str, int], ...]:
        found = tuple(_server(word, default_port) for word in text.split())
        return found or refuse("must be a host name or an address, with :port if need be")

    return cast


def _server(text: str, default_port: int) -> tuple[str, int]:
    """Read HOST or HOST:PORT; an IPv6 address with a port has brackets."""
    address, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in address and not address.endswith("]")):
        return _host(text), default_port
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        refuse(f"{text[:80]!r} must have a port from 1 to 65535 behind the colon")
    return _host(address), int(port)


def _shown_servers(value: tuple[tuple[str, int], ...]) -> str:
    return " ".join(map(_shown_endpoint, value))


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(_ip(word) for word in text.split()) or refuse("must be an IP address")


def _endpoint(text: str) -> tuple[str, int]:
    host, port = _server(text, 0)
    return (_ip(host), port) if port else refuse("must be an address and a port, such as 127.0.0.1:3799")


def _filled(text: str) -> str:
    return text if text and text.isprintable() else refuse("must not be empty")


def _log_stderr(text: str) -> bool:
    return text == "*" or _yes_or_no(text)


def _shown_yes(value: bool) -> str:
    return "yes" if value else "no"


def _joined(value: Iterable[object]) -> str:
    return " ".join(str(one) for one in value)


YES_OR_NO = Kind("yes or no", _yes_or_no, _shown_yes)
PATH = Kind("path", _path)
PATHS = Kind("path, repeatable", _paths, _joined)
FILE_NAME = Kind("file name", _file_name)
MODE = Kind("octal mode", _mode, lambda value: f"{value:04o}")
USER = Kind("user", uid)
GROUP = Kind("group", gid)
LOOPBACK = Kind("loopback address:port", _loopback, _shown_endpoint)
SERVERS_AUTH = Kind("addresses", _servers(1812), _shown_servers)
SERVERS_ACCT = Kind("addresses", _servers(1813), _shown_servers)
ADDRESSES = Kind("addresses", _addresses, _joined)
ENDPOINT = Kind("address:port", _endpoint, _shown_endpoint)
PRINCIPALS = Kind("users and @groups", _principals, _joined)
OPENSSL_LIST = Kind("OpenSSL list", _openssl_list)
PORTS = Kind("ports", _ports, _joined)
FACILITIES = Kind("facilities", _facilities, _joined)
LOG_LEVEL = Kind("level", _log_level)
EXPRESSION = Kind("validation expression", _expression)
IDENTITY = Kind("identity", _identity)
POLICY = Kind("policy", _policy)
PIN = Kind("PIN", _pin)
VERSION = choice("1.2", "1.3")

NAME = Kind("name", _name)
FILE_URI = Kind("file: URI or path", _prefixed("a file: URI or an absolute path", "file:", "/"))
PKCS11_URI = Kind("pkcs11: URI", _prefixed("a pkcs11: URI", "pkcs11:"))
LDAP_URI = Kind("LDAP URI", _prefixed("an ldap: URI", "ldap:", "ldaps:", "ldapi:"))
ADDRESS = Kind("address", _address)
LOG_FILTER = Kind("words", _log_filter, _joined)
LOG_STDERR = Kind("yes or no", _log_stderr, _shown_yes)
FILLED = Kind("text", _filled)
