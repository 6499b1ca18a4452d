"""What a daemon keeps of a configuration.

It has one object of Settings, which all its parts hold and ask at the time of use.  A new file is read into another
one; only when all of it is right does the first ``adopt`` it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tlspool_common.access import AccessRule
from tlspool_common.account_rules import AccountRule
from tlspool_common.quota import LimitRule
from tlspool_common.radius_rules import RadiusRule
from tlspool_common.setting_kinds import AppSocket, Pkcs11Module, Principal
from tlspool_common.setting_table import BY_NAME, DERIVED_AT_START, OF_SOCKET, SOURCES, TABLE, Option, Part


@dataclass(frozen=True, eq=False, kw_only=True)
class Settings:
    """A configuration, or one daemon's part of it; attributes bear the names of TABLE.

    What belongs to others only is not there: to ask for it is a bug, and raises AttributeError.

    Attributes:
        signature_wait_s: how long keyd may take for a signature; longer where somebody may have to be asked for a PIN.
        origins: the line of each keyword that the file has, the last one of several.
    """

    run_dir: Path
    socket_name: Path
    socket_mode: int
    socket_user: int | None
    socket_group: int | None
    dbenv_dir: Path
    db_localid: str
    db_disclose: str
    db_trust: str
    history_keep: int
    pkcs11_pin_file: Path | None
    pkcs11_pin_secret: str | None = field(repr=False)
    pkcs11_sessions: int
    pkcs11_timeout_s: float
    pkcs11_network: bool
    pkcs11_directory: tuple[Path, ...]
    pin_services: tuple[Principal, ...]
    pin_wait_s: float
    pin_tries: int
    choice_services: tuple[Principal, ...]
    sandbox: str
    broker_user: int
    worker_user: int
    keyd_user: int
    workers: int
    isolation: str
    workers_per_application: int
    relay: str
    tls_policy: str
    tls_min_version: str
    tls_max_version: str
    tls_groups: str
    tls_ciphers12: str
    tls_ciphersuites13: str
    tls_sigalgs: str
    quantum_proof_encryption: bool
    quantum_proof_handshake: bool
    quantum_proof_authentication: bool
    validation: str
    validation_wait_s: float
    default_localid: str
    unknown_sni: str
    crl_file: tuple[Path, ...]
    online: bool
    online_private: bool
    online_ports: tuple[int, ...]
    handshake_timeout_s: float
    daemon_wait_s: float
    peer_listen_s: float
    callback_timeout_s: float
    handshake_threads: int
    max_sessions: int
    max_sessions_per_caller: int
    max_handshakes: int
    max_handshakes_per_caller: int
    handshake_rate_per_caller: int
    handshake_burst_per_caller: int
    request_rate_per_caller: int
    max_connections_per_caller: int
    max_requests_per_connection: int
    allow_facilities: tuple[str, ...]
    deny_facilities: tuple[str, ...]
    session_end: str
    reattach: str
    sni_rule: str
    audit_dir: Path | None
    audit_required: bool
    metrics_listen: tuple[str, int] | None
    radius_authn: tuple[tuple[str, int], ...]
    radius_authz: tuple[tuple[str, int], ...]
    radius_acct: tuple[tuple[str, int], ...]
    radius_secret_file: Path | None
    radius_timeout_s: float
    radius_tries: int
    radius_dead_s: float
    radius_wait_s: float
    radius_unsigned: str
    radius_interim_s: float
    radius_spool_dir: Path
    radius_spool_records: int
    radius_dynamic: tuple[str, ...]
    radius_dynamic_listen: tuple[str, int] | None
    log_level: str
    pkcs11: tuple[Pkcs11Module, ...]
    sockets: tuple[AppSocket, ...]
    access: tuple[AccessRule, ...]
    accounts: tuple[AccountRule, ...]
    quotas: tuple[LimitRule, ...]
    radius: tuple[RadiusRule, ...]
    signature_wait_s: float
    part: Part | None
    origins: dict[str, int]
    warnings: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self._values() == other._values()

    __hash__ = None  # type: ignore[assignment] # it changes: adopt

    def _values(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("part", "origins", "warnings")}

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            raise AttributeError(f"{name} is no setting of {self.part.program if self.part else 'the pool'}")

    @property
    def given(self) -> frozenset[str]:
        """Names of the settings that the file has."""
        return frozenset(self.origins)

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
    def pin_socket(self) -> Path:
        """Where keyd listens for programs that ask people for the PIN."""
        return self.run_dir / "pin.sock"

    @property
    def private_socket(self) -> Path:
        """Where the broker listens for the other two daemons."""
        return self.run_dir / "private" / "broker.sock"

    # --- another file -----------------------------------------------------------------------------------

    def changes(self, newer: Settings) -> tuple[list[str], list[str]]:
        """Return the keywords that another file changes at once, and those that it changes after a restart only."""
        at_once, at_start = self._differing(newer)
        return [*dict.fromkeys(map(_keyword, at_once))], [*dict.fromkeys(map(_keyword, at_start))]

    def adopt(self, newer: Settings) -> None:
        """Take over what another file changes at once; all that hold this object see it from now on."""
        at_once, _ = self._differing(newer)
        values = {name: vars(newer)[name] for name in at_once}
        vars(self).update(values, origins=newer.origins, warnings=newer.warnings)

    def _differing(self, newer: Settings) -> tuple[list[str], list[str]]:
        at_once: list[str] = []
        at_start: list[str] = []
        mine = self._values()
        for name, value in newer._values().items():
            if mine[name] != value:
                (at_start if _waits(name, self.part) else at_once).append(name)
        return at_once, at_start

    # --- what an operator sees --------------------------------------------------------------------------

    def rows(self) -> list[dict[str, object]]:
        """Return every setting in force with where it comes from; secrets are not shown."""
        rows = [
            self._row(option.name, shown, restart=restart)
            for option, attribute, restart in _own_rows(self.part)
            for shown in option.shown(vars(self)[attribute])
        ]
        if "sockets" in vars(self):
            for socket in self.sockets:
                rows.append(self._row("socket_mode", f"{socket.mode:04o}", restart=True))
                for name, number in (("socket_user", socket.uid), ("socket_group", socket.gid)):
                    if number != -1:
                        rows.append(self._row(name, str(number), restart=True))
                rows.append(self._row("socket_name", str(socket.path), restart=True))
        for module in vars(self).get("pkcs11", ()):
            rows.append(self._row("pkcs11_path", module.path, restart=True))
            # Behind the question mark there may be a PIN (RFC 7512 section 2.4).
            rows.append(self._row("pkcs11_token", module.token_uri.partition("?")[0], restart=True))
        for attribute in ("access", "accounts", "quotas", "radius"):
            for rule in vars(self).get(attribute, ()):
                rows.append(self._row(SOURCES[attribute], f"{rule.name} {rule}", restart=False))
        return rows

    def _row(self, name: str, value: str, *, restart: bool) -> dict[str, object]:
        return {"name": name, "value": value, "line": self.origins.get(name, 0), "restart": restart}


def attribute_of(option: Option) -> str:
    """Return the name of the attribute that has an option's value."""
    return f"{option.name}_secret" if option.secret else option.name


@cache
def _own_rows(part: Part | None) -> list[tuple[Option, str, bool]]:
    """Return what has rows of its own: options, their attributes, and whether a daemon takes them only at its start."""
    return [
        (option, attribute_of(option), option.at_start(part))
        for option in TABLE
        if option.needed_by(part) and option.name not in OF_SOCKET and option.name != "socket_name"
    ]


def _keyword(attribute: str) -> str:
    return SOURCES.get(attribute, attribute.removesuffix("_secret"))


def _waits(attribute: str, part: Part | None) -> bool:
    """Whether a daemon takes a new value of it only when it starts."""
    if attribute in DERIVED_AT_START:
        return part is not None and part.value in DERIVED_AT_START[attribute]
    return BY_NAME[_keyword(attribute)].at_start(part)
