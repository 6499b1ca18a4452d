"""The reader of upstream's configuration syntax.

A line is ``keyword`` + one space + value to the end of the line; ``#`` starts a comment line; blank lines
count for nothing.  The file is read to its end and checked as a whole before anything acts on it, so that
the order of lines matters only where an option may be repeated; and everything that is wrong is told at once.
The table is in setting_table.py.

What a daemon keeps of it is in setting_values.py.
"""

from __future__ import annotations

import os
import re
import stat
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from tlspool_common import setting_kinds as kinds
from tlspool_common.near import Words
from tlspool_common.policies import DEFAULT, POLICIES, TLS12, TLS13
from tlspool_common.rules import RULES
from tlspool_common.setting_errors import Problem, SettingError
from tlspool_common.setting_kinds import AppSocket, Pkcs11Module, Principal
from tlspool_common.setting_table import (
    BY_NAME,
    DERIVED,
    OF_SOCKET,
    REPEATED,
    TABLE,
    UNUSED,
    Option,
    Part,
)
from tlspool_common.setting_values import Settings, attribute_of

__all__ = ["TABLE", "AppSocket", "Option", "Part", "Pkcs11Module", "Principal", "Problem", "SettingError", "Settings"]

DEFAULT_PATH = Path("/etc/tlspool.conf")

VERSIONS = {"1.2": TLS12, "1.3": TLS13}

_LINE_B = 4096
"""Longest line.  Upstream stops at 512; cipher lists are longer than that."""

_FILE_B = 1024 * 1024

_DEFAULTS = {option.name: option.default for option in TABLE}
_ATTRIBUTES = {attribute_of(option): option.name for option in TABLE}
_QUANTUM = [option.name for option in TABLE if option.name.startswith("quantum_proof_")]
_KNOWN = frozenset({*BY_NAME, *REPEATED, *UNUSED})
_nearest = lru_cache(64)(Words([*BY_NAME, *REPEATED, *UNUSED]).nearest)

_LIKENESSES = 5
"""Problems up to which one looks for what was meant: who has more of them has to read the page anyway."""


class _Reader:
    """What has been read so far, and what was wrong with it."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = dict(_DEFAULTS)
        self.origins: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.modules: list[Pkcs11Module] = []
        self.sockets: list[AppSocket] = []
        self.rules: dict[str, dict[str, Any]] = {keyword: {} for keyword in RULES}
        self._module_path = ""
        self._of_socket: tuple[int, str, str] | None = None  # the last line about a socket since the last socket_name

    def read_untrusted(self, text: str) -> None:
        """Take all lines."""
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip() or line.startswith("#"):
                continue
            keyword, space, value = line.partition(" ")
            if line[0].isspace() or not space:
                hint = "write `keyword value` with one space, no indentation"
                self.problems.append(Problem(number, _begin(line), None, hint))
                continue
            # A PIN may end in a space; of everything else spaces around it are nobody's wish.
            value = value.rstrip("\r") if keyword == "pkcs11_pin" else value.strip()
            if len(line.encode("utf-8", "replace")) > _LINE_B:
                hint = f"a line has at most {_LINE_B} bytes"
                self.problems.append(Problem(number, _begin(keyword), _openly(keyword, value), hint))
                continue
            try:
                self._take(number, keyword, value)
            except ValueError as error:
                hint = str(error)
                if value.startswith("="):
                    hint += "; write `keyword value` without ="
                self.problems.append(Problem(number, _begin(keyword), _openly(keyword, value), hint))

    def _take(self, number: int, keyword: str, value: str) -> None:
        if keyword in BY_NAME:
            self._option(number, BY_NAME[keyword], value)
        elif keyword in RULES:
            rule = RULES[keyword](value, kinds.uid, kinds.gid)
            if self.rules[keyword].setdefault(rule.name, rule) is not rule:
                kinds.refuse(f"there is a rule {rule.name} already")
        elif keyword == "pkcs11_path":
            self._module_path = str(kinds.PATH.cast(value))
        elif keyword == "pkcs11_token":
            if not self._module_path or not value.startswith("pkcs11:"):
                kinds.refuse("must be a pkcs11: URI behind a pkcs11_path line")
            self.modules.append(Pkcs11Module(self._module_path, value))
        elif keyword in UNUSED:
            unused = UNUSED[keyword]
            if unused.kind.cast(value) not in unused.harmless:
                self.warnings.append(f"line {number}: {keyword} has no effect: {unused.instead}")
        else:
            near = _nearest(keyword) if len(self.problems) < _LIKENESSES else None
            kinds.refuse(f"no such setting; {f'is it {near}?' if near else 'see docs/configuration.md'}")
        self.origins[keyword] = number

    def _option(self, number: int, option: Option, value: str) -> None:
        name = option.name
        found = option.kind.cast(value)
        if option.repeated:
            found = (*self.values[name], *found)
        elif name in self.origins and name not in (*OF_SOCKET, "socket_name"):
            first = self.origins[name]
            self.warnings.append(f"line {number}: {name} stands in line {first}, too; the last one counts")
        self.values[name] = found
        if name == "socket_name":
            self.sockets.append(_app_socket(self.values))
            self._of_socket = None
        elif name in OF_SOCKET:
            self._of_socket = (number, name, value)

    def _wrong(self, name: str, hint: str) -> None:
        """Note what is wrong with a setting that is fine by itself."""
        if not any(problem.keyword == name for problem in self.problems):
            shown = BY_NAME[name].kind.show(self.values[name])
            self.problems.append(Problem(self.origins.get(name, 0), name, shown, hint))

    def finish(self) -> None:
        """See whether the settings go together."""
        values = self.values
        if values["socket_name"] is None:
            values["socket_name"] = values["run_dir"] / "tlspool.sock"
        if len(self.sockets) < 2:
            self.sockets = [_app_socket(values)]  # of one socket everything may be said in any order
        elif self._of_socket is not None:
            hint = "stands behind the last of several socket_name lines: write it before its own"
            self.problems.append(Problem(*self._of_socket, hint))
        if len({socket.path for socket in self.sockets}) < len(self.sockets):
            self._wrong("socket_name", "every application socket needs its own path")
        values |= {"socket_name": self.sockets[0].path, "socket_mode": self.sockets[0].mode}
        for name in ("broker_user", "worker_user", "keyd_user"):
            if values[name] is None:
                values[name] = os.getuid()
        if values["pkcs11_pin"] is not None and values["pkcs11_pin_file"] is not None:
            self._wrong("pkcs11_pin_file", "there is a pkcs11_pin, too: take one of them away")
        if values["pkcs11_pin"] is not None:
            self.warnings.append("pkcs11_pin: the PIN is better off in a file of keyd's own: pkcs11_pin_file")
        if values["audit_required"] and values["audit_dir"] is None:
            self._wrong("audit_required", "needs an audit_dir: name one")
        self._judge_radius()
        self._judge_policy()

    def _judge_radius(self) -> None:
        values = self.values
        asked = [name for name in ("radius_authn", "radius_authz", "radius_acct", "radius_dynamic") if values[name]]
        if asked and values["radius_secret_file"] is None:
            self._wrong(asked[0], "needs a radius_secret_file with the secret of each server")
        for keyword in ("radius", "account"):
            if self.rules[keyword] and not asked:
                self.warnings.append(f"{keyword}: there are rules, and no server: name it in radius_authz")
        if bool(values["radius_dynamic"]) is not (values["radius_dynamic_listen"] is not None):
            name = "radius_dynamic" if values["radius_dynamic"] else "radius_dynamic_listen"
            self._wrong(name, "radius_dynamic_listen says where requests are taken, radius_dynamic from whom: both")

    def _judge_policy(self) -> None:
        values = self.values
        if values["tls_min_version"] > values["tls_max_version"]:
            self._wrong("tls_min_version", "must not be above tls_max_version")
            return
        quantum = [name for name in _QUANTUM if values[name]]
        if quantum and "tls_policy" not in self.origins:
            values["tls_policy"] = "pq-required"
        elif quantum and not POLICIES[values["tls_policy"]].expression:
            self.warnings.append(
                f"{quantum[0]}: tls_policy {values['tls_policy']} offers more than it accepts; use pq-required"
            )
        if values["quantum_proof_handshake"]:
            self.warnings.append(
                "quantum_proof_handshake: the server name that a client asks for (SNI) is not encrypted; applications "
                "can leave it out"
            )
        policy = POLICIES[values["tls_policy"]]
        if policy.tls_min > VERSIONS[values["tls_max_version"]] or policy.tls_max < VERSIONS[values["tls_min_version"]]:
            name = "tls_max_version" if policy.tls_min > VERSIONS[values["tls_max_version"]] else "tls_min_version"
            self._wrong(name, f"leaves no version of tls_policy {policy.name}; change one of them")
        if values["tls_policy"] != DEFAULT:
            for name in ("tls_groups", "tls_ciphers12", "tls_ciphersuites13", "tls_sigalgs"):
                if name in self.origins:
                    self.warnings.append(f"{name} stands in place of what tls_policy {policy.name} has")

    def settings(self, part: Part | None) -> Settings:
        """Return what a daemon keeps."""
        values = {attribute: self.values[name] for attribute, name in _ATTRIBUTES.items()}
        asked = values["pkcs11_pin_file"] is None and values["pkcs11_pin_secret"] is None
        made = Settings(
            **values,
            pkcs11=tuple(self.modules),
            sockets=tuple(self.sockets),
            access=tuple(self.rules["access"].values()),
            accounts=tuple(self.rules["account"].values()),
            quotas=tuple(self.rules["limit"].values()),
            radius=tuple(self.rules["radius"].values()),
            signature_wait_s=values["pkcs11_timeout_s"] + (values["pin_wait_s"] if asked else 0),
            part=part,
            origins=dict(self.origins),
            warnings=tuple(self.warnings),
        )
        for name in _dropped(part):
            del vars(made)[name]
        return made


@cache
def _dropped(part: Part | None) -> frozenset[str]:
    """Return the attributes that a daemon does not keep."""
    kept = {attribute_of(option) for option in TABLE if option.needed_by(part)}
    kept |= {name for name, parts in DERIVED.items() if part is None or part.value in parts}
    return frozenset({*_ATTRIBUTES, *DERIVED} - kept)


def _begin(line: str) -> str:
    """Return what an error may show of a keyword: what follows in its place may be a PIN."""
    return _WORD.match(line.lstrip())[0]  # type: ignore[index] # it matches the empty string, too


_WORD = re.compile("[A-Za-z0-9_]{0,40}")


def _openly(keyword: str, value: str) -> str | None:
    """Return a value as an error may show it; None: what nobody knows may be a mistyped keyword of a secret."""
    if keyword == "pkcs11_token":
        return value.partition("?")[0]
    secret = keyword in BY_NAME and BY_NAME[keyword].secret
    return None if secret or keyword not in _KNOWN else value


def _app_socket(values: dict[str, Any]) -> AppSocket:
    uid, gid = values["socket_user"], values["socket_group"]
    return AppSocket(
        values["socket_name"], values["socket_mode"], -1 if uid is None else uid, -1 if gid is None else gid
    )


def read_untrusted(text: str, part: Part | None = None) -> tuple[Settings | None, list[Problem], list[str]]:
    """Read a whole configuration; return it unless something is wrong, what is wrong, and what is ignored."""
    reader = _Reader()
    reader.read_untrusted(text)
    reader.finish()
    problems = sorted(reader.problems, key=lambda problem: problem.line)
    return (None if problems else reader.settings(part)), problems, reader.warnings


def parse_untrusted(text: str, part: Part | None = None) -> Settings:
    """Read a whole configuration, and keep what a daemon needs of it; without ``part`` everything.

    Raises:
        SettingError: names each setting that is wrong, its value and the remedy.
    """
    settings, problems, _ = read_untrusted(text, part)
    if settings is None:
        raise SettingError.of(problems)
    return settings


PATH_HELP = "configuration (default: TLSPOOL_CONFIG_FILE, else /etc/tlspool.conf)"
"""What ``--config`` of each daemon says of itself."""


def default_path() -> Path:
    """Return the path of the configuration: TLSPOOL_CONFIG_FILE, or /etc/tlspool.conf."""
    return Path(os.environ.get("TLSPOOL_CONFIG_FILE") or DEFAULT_PATH)


def text_of(path: Path) -> tuple[str, bool]:
    """Return the text of a configuration file, and whether it may hold a secret: only its owner can read it.

    Raises:
        SettingError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            private = not os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            data = file.read(_FILE_B + 1)
    except OSError as error:
        raise SettingError("configuration file", str(path), error.strerror or "cannot be read") from None
    if len(data) > _FILE_B:
        raise SettingError("configuration file", str(path), f"has more than {_FILE_B} bytes")
    try:
        return data.decode("utf-8"), private
    except UnicodeDecodeError:
        raise SettingError("configuration file", str(path), "is not UTF-8") from None


def check(path: Path, part: Part | None = None) -> tuple[Settings | None, list[Problem], list[str]]:
    """Read a file without acting on it; return settings unless something is wrong, all problems, and all warnings."""
    try:
        text, private = text_of(path)
    except SettingError as error:
        return None, list(error.problems), []
    settings, problems, warnings = read_untrusted(text, part)
    exposed = next((n for n, line in enumerate(text.split("\n"), 1) if line.startswith("pkcs11_pin ")), 0)
    if exposed and not private:
        hint = f"others can read {path}: put the PIN into a file of keyd's own, and name it in pkcs11_pin_file"
        problems.append(Problem(exposed, "pkcs11_pin", None, hint))
        settings = None
    return settings, problems, warnings


def load(path: Path, part: Part | None = None) -> Settings:
    """Read the configuration file, and keep what a daemon needs of it; without ``part`` everything.

    Raises:
        SettingError: the file cannot be read, or settings are wrong.
    """
    settings, problems, _ = check(path, part)
    if settings is None:
        raise SettingError.of(problems)
    return settings
