"""The table of settings: one row for each keyword, with who needs it; and the keywords of earlier pools.

docs/configuration.md is made from it.  A daemon keeps only what is its own (``parts``); what a daemon reads at its
start and never again has the daemon's letter in ``restart``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tlspool_common import setting_kinds as k
from tlspool_common.policies import DEFAULT
from tlspool_common.setting_kinds import Kind, choice, seconds, whole
from tlspool_common.setting_option import Option as Option
from tlspool_common.setting_option import Part as Part
from tlspool_common.setting_option import Repeated
from tlspool_common.setting_radius import RADIUS

TABLE: tuple[Option, ...] = (
    Option("run_dir", k.PATH, Path("/run/tlspool"), "BWK", "BWK", "directory of the sockets"),
    Option(
        "socket_name", k.PATH, None, "B", "B", "application socket; default `run_dir`/tlspool.sock; may be repeated"
    ),
    Option("socket_mode", k.MODE, 0o666, "B", "B", "mode of the application socket, octal with or without a leading 0"),
    Option("socket_user", k.USER, None, "B", "B", "owner of the application socket; default: the broker's user"),
    Option("socket_group", k.GROUP, None, "B", "B", "group of the application socket; default: the broker's"),
    Option("dbenv_dir", k.PATH, Path("/var/lib/tlspool/db"), "B", "B", "directory of the Berkeley DB environment"),
    Option("db_localid", k.FILE_NAME, "localid.db", "B", "B", "database of local identities"),
    Option("db_disclose", k.FILE_NAME, "disclose.db", "B", "B", "database of what is disclosed to whom"),
    Option("db_trust", k.FILE_NAME, "trust.db", "B", "B", "database of trust anchors"),
    Option("history_keep", whole(10_000, 10_000_000), 10_000, "B", "", "changes of the databases that can be undone"),
    Option(
        "pkcs11_pin_file",
        k.PATH,
        None,
        "K",
        "K",
        "file with the PIN, mode 0600; a systemd credential `pkcs11-pin` comes first",
    ),
    Option(
        "pkcs11_pin",
        k.PIN,
        None,
        "K",
        "K",
        "the PIN itself, taken to the end of the line; only in a file that nobody but its owner can read. "
        "`pkcs11_pin_file` is the better way",
        secret=True,
    ),
    Option(
        "pkcs11_sessions", whole(1, 256), 16, "K", "K", "signatures in parallel for each module; network HSMs like more"
    ),
    Option("pkcs11_timeout_s", seconds(0.1, 600), 10.0, "K", "K", "how long a token may take for one signature"),
    Option(
        "pkcs11_network",
        k.YES_OR_NO,
        False,
        "K",
        "K",
        "whether a PKCS #11 module needs the network, as those of network HSMs do; else it is closed to them",
    ),
    Option(
        "pkcs11_directory",
        k.PATHS,
        (),
        "K",
        "K",
        "directory or file that a PKCS #11 module reads and writes, besides its libraries and SoftHSM2's tokens; "
        "may be repeated",
        True,
    ),
    Option(
        "pin_services",
        k.PRINCIPALS,
        (),
        "BK",
        "",
        "users, and groups as @group, whose programs may ask people for the PIN, besides root and `keyd_user`",
    ),
    Option(
        "pin_wait_s", seconds(0, 3600), 30.0, "K", "K", "how long a session waits for a PIN that somebody is asked for"
    ),
    Option(
        "pin_tries",
        whole(1, 10),
        2,
        "K",
        "",
        "after so many wrong PINs in a row nobody is asked any more; cards lock at three",
    ),
    Option(
        "choice_services",
        k.PRINCIPALS,
        (),
        "B",
        "",
        "users, and groups as @group, whose programs may choose identities for applications of other users",
    ),
    Option(
        "sandbox",
        choice("required", "warn", "off"),
        "required",
        "BWK",
        "BWK",
        "daemons give up what they do not need ([sandbox](sandbox.md)); where the kernel cannot take it from them they "
        "refuse to start, or warn and do without that layer",
    ),
    Option("broker_user", k.USER, None, "BWK", "BWK", "user the broker runs as; default: the reader's own"),
    Option("worker_user", k.USER, None, "B", "B", "user the worker runs as; default: the reader's own"),
    Option("keyd_user", k.USER, None, "BK", "BK", "user keyd runs as; default: the reader's own"),
    Option("workers", whole(1, 64), 2, "BW", "", "warm workers kept ready for new applications"),
    Option(
        "isolation",
        choice("application", "connection", "pool"),
        "application",
        "B",
        "B",
        "who shares a worker: sessions of one calling user, nobody, or everybody",
    ),
    Option("workers_per_application", whole(1, 64), 2, "B", "", "workers for one calling user; two fill two cores"),
    Option(
        "relay",
        choice("native", "python"),
        "native",
        "W",
        "",
        "who moves the bytes of finished handshakes: a thread in C, or the worker's loop in Python",
    ),
    Option("tls_policy", k.POLICY, DEFAULT, "B", "", "what handshakes may agree on, by [name](policies.md)"),
    Option("tls_min_version", k.VERSION, "1.2", "BK", "", "lowest protocol version, whatever a policy says"),
    Option("tls_max_version", k.VERSION, "1.3", "BK", "", "highest protocol version, whatever a policy says"),
    Option("tls_groups", k.OPENSSL_LIST, "", "BW", "", "key exchange groups, instead of those of `tls_policy`"),
    Option("tls_ciphers12", k.OPENSSL_LIST, "", "BW", "", "TLS 1.2 ciphers, instead of those of `tls_policy`"),
    Option("tls_ciphersuites13", k.OPENSSL_LIST, "", "BW", "", "TLS 1.3 suites, instead of those of `tls_policy`"),
    Option("tls_sigalgs", k.OPENSSL_LIST, "", "BW", "", "signature algorithms, instead of those of `tls_policy`"),
    Option(
        "quantum_proof_encryption",
        k.YES_OR_NO,
        False,
        "B",
        "",
        "no session without a post-quantum key exchange: `tls_policy pq-required` unless there is another, and `q` is "
        "part of every validation expression",
    ),
    Option(
        "quantum_proof_handshake",
        k.YES_OR_NO,
        False,
        "B",
        "",
        "the same: certificates, and the names in them, are then encrypted by it. The server name that a client asks "
        "for is not; applications can leave it out",
    ),
    Option(
        "quantum_proof_authentication",
        k.YES_OR_NO,
        False,
        "B",
        "",
        "the same, and `Q`: the remote must prove who it is by a post-quantum signature, too",
    ),
    Option(
        "validation",
        k.EXPRESSION,
        "",
        "B",
        "",
        "[expression](validation.md) that every remote has to satisfy, besides those of databases; empty: none",
    ),
    Option(
        "validation_wait_s",
        seconds(0.1, 60),
        5.0,
        "B",
        "",
        "how long a handshake waits for what has to be asked online",
    ),
    Option("default_localid", k.IDENTITY, "", "B", "", "who a server is when neither application nor client names it"),
    Option(
        "unknown_sni",
        choice("refuse", "default"),
        "refuse",
        "B",
        "",
        "what a server does when its client asks for a name that the server does not have. `refuse`: it sends an "
        "alert. `default`: the identity that the application named answers, or, without one, `default_localid`",
    ),
    Option("crl_file", k.PATHS, (), "B", "", "certificate revocation list (PEM or DER); may be repeated", True),
    Option("online", k.YES_OR_NO, True, "B", "", "whether lists and OCSP responders are asked over the network"),
    Option("online_private", k.YES_OR_NO, False, "B", "", "whether they may be at loopback and private addresses"),
    Option("online_ports", k.PORTS, (80,), "B", "", "TCP ports they may be asked at"),
    Option(
        "handshake_timeout_s",
        seconds(0.1, 86400),
        40.0,
        "B",
        "",
        "handshakes whose request sets none (GnuTLS takes 40)",
    ),
    Option(
        "daemon_wait_s",
        seconds(0.1, 600),
        5.0,
        "B",
        "",
        "how long a handshake waits for a keyd or a worker that is started anew: a login takes a second or two",
    ),
    Option("peer_listen_s", seconds(0, 10), 0.3, "B", "", "peer role: how long the remote may begin before we do"),
    Option("callback_timeout_s", seconds(0.1, 86400), 60.0, "B", "", "wait for the application's answer to a callback"),
    Option(
        "handshake_threads",
        whole(1, 1024),
        64,
        "W",
        "",
        "handshakes of one worker that may wait for a signature at once",
    ),
    Option("max_sessions", whole(1, 1_000_000), 20_000, "B", "", "sessions in all; each takes up to 80 KiB"),
    Option("max_sessions_per_caller", whole(1, 1_000_000), 20_000, "B", "", "sessions of one calling user"),
    Option(
        "max_handshakes",
        whole(1, 1_000_000),
        4_000,
        "B",
        "",
        "handshakes at a time, in all; each takes up to 80 KiB, and 4000 are what a few cores do in some seconds",
    ),
    Option(
        "max_handshakes_per_caller",
        whole(1, 1_000_000),
        2_000,
        "B",
        "",
        "of these, those of one calling user: half, so that there is room for others",
    ),
    Option(
        "handshake_rate_per_caller",
        whole(0, 1_000_000),
        2_000,
        "B",
        "",
        "handshakes that one calling user may begin in a second, on average: more than two cores can do; 0: no limit",
    ),
    Option(
        "handshake_burst_per_caller",
        whole(1, 1_000_000),
        4_000,
        "B",
        "",
        "handshakes that it may begin at once, after a rest",
    ),
    Option(
        "request_rate_per_caller",
        whole(0, 1_000_000),
        5_000,
        "B",
        "",
        "requests of all kinds of one calling user in a second, and twice as many at once: half of what the broker "
        "can answer; 0: no limit",
    ),
    Option(
        "max_connections_per_caller",
        whole(1, 1_000_000),
        4_000,
        "B",
        "",
        "connections of one calling user to the pool; a program needs one. Half of what descriptors allow is the most",
    ),
    Option(
        "max_requests_per_connection", whole(1, 65_535), 1_000, "B", "", "open requests of one connection to the pool"
    ),
    Option("allow_facilities", k.FACILITIES, ("*",), "B", "", "facilities granted: starttls, or * for all there are"),
    Option("deny_facilities", k.FACILITIES, (), "B", "", "facilities refused; prevails"),
    Option(
        "session_end",
        choice("connection", "relay"),
        "connection",
        "B",
        "",
        "sessions without FORK end with the connection that controls them, or, as in earlier pools, go on without it",
    ),
    Option(
        "reattach",
        choice("user", "anybody"),
        "user",
        "B",
        "B",
        "who may reattach a session: its user, or who has the key",
    ),
    Option(
        "sni_rule",
        choice("application", "strict"),
        "application",
        "B",
        "B",
        "`application`: an application that is asked may let another identity answer than the client asked for; "
        "`strict`: it may not",
    ),
    Option(
        "audit_dir",
        k.PATH,
        None,
        "BK",
        "BK",
        "directory of the [audit trails](audit.md) of broker and keyd; without it there are none",
    ),
    Option(
        "audit_required",
        k.YES_OR_NO,
        False,
        "BK",
        "",
        "refuse sessions and signatures while the audit trail cannot be written; no: only the log says that it is lost",
    ),
    Option(
        "metrics_listen",
        k.LOOPBACK,
        None,
        "B",
        "B",
        "loopback address and port where the broker answers `GET /metrics`, such as 127.0.0.1:9109; default: nowhere",
    ),
    *RADIUS,
    Option("log_level", k.LOG_LEVEL, "info", "BWK", "", "least level that is logged: debug, info, warning or error"),
)

BY_NAME = {option.name: option for option in TABLE}

REPEATED = {
    row.name: row
    for row in (
        # The module that was named last serves the tokens behind it.
        Repeated("pkcs11_path", "path", "K", "K", "PKCS #11 library for the `pkcs11_token` lines that follow"),
        Repeated("pkcs11_token", "pkcs11: URI", "K", "K", "tokens to use (RFC 7512), `pkcs11:` for all"),
        # access.py, account_rules.py, quota.py and radius_rules.py
        Repeated("access", "rule", "B", "", "[access rules](#access-rules)"),
        Repeated("account", "rule", "B", "", "[account rules](#account-rules)"),
        Repeated("limit", "rule", "B", "", "[limit rules](#limit-rules) for some callers"),
        Repeated("radius", "rule", "B", "", "[RADIUS rules](#radius-rules)"),
    )
}

DERIVED = {
    "pkcs11": "K",
    "sockets": "B",
    "access": "B",
    "accounts": "B",
    "quotas": "B",
    "radius": "B",
    "signature_wait_s": "BWK",
}
"""What the parser makes of several lines, and who needs it."""

DERIVED_AT_START = {
    "pkcs11": "K",
    "sockets": "B",
    "access": "",
    "accounts": "",
    "quotas": "",
    "radius": "",
    "signature_wait_s": "",
}

SOURCES = {
    "pkcs11": "pkcs11_token",
    "sockets": "socket_name",
    "access": "access",
    "accounts": "account",
    "quotas": "limit",
    "radius": "radius",
    "signature_wait_s": "pkcs11_timeout_s",
}
"""The keyword to name when something derived has changed."""

OF_SOCKET = ("socket_mode", "socket_user", "socket_group")
"""What is said of an application socket; of several sockets, of those whose ``socket_name`` follows."""


@dataclass(frozen=True, slots=True)
class Unused:
    """A keyword of earlier pools that does nothing here; ``harmless`` values ask for nothing that is not so anyway."""

    name: str
    kind: Kind
    instead: str
    harmless: Collection[object] = ()


_SOLVED_BY_SYSTEMD = "the systemd units set user, group and directories of each daemon"
_NO_KERBEROS = "this version does not speak Kerberos"
_NO_FLYING = "this version signs no certificates on the fly"
_NO_MEMCACHE = "sessions are not resumed, so there is nothing to be shared by memcache"

UNUSED: dict[str, Unused] = {
    one.name: one
    for one in (
        Unused("daemon_pidfile", k.PATH, "systemd knows the process; `tlspool status` shows its number"),
        Unused("daemon_chroot", k.PATH, _SOLVED_BY_SYSTEMD),
        Unused("daemon_user", k.NAME, f"{_SOLVED_BY_SYSTEMD}; name them in broker_user, worker_user and keyd_user"),
        Unused("daemon_group", k.NAME, _SOLVED_BY_SYSTEMD),
        Unused("log_filter", k.LOG_FILTER, "every line has event=...; choose with journalctl --grep", {("*",)}),
        Unused("log_stderr", k.LOG_STDERR, "logs go to standard error always, which is the journal", {True}),
        Unused("tls_dhparamfile", k.PATH, "keys are exchanged in groups that need no parameters: tls_groups"),
        Unused("tls_maxpreauth", whole(0, 2**32 - 1), "there is no anonymous precursor; TLS 1.3 hides certificates"),
        Unused("tls_onthefly_signcert", k.FILE_URI, _NO_FLYING),
        Unused("tls_onthefly_signkey", k.PKCS11_URI, _NO_FLYING),
        Unused("dnssec_rootkey", k.PATH, "this version does not ask DNSSEC; predicates D and d are undecided"),
        Unused("kerberos_client_keytab", k.FILLED, _NO_KERBEROS),
        Unused("kerberos_server_keytab", k.FILLED, _NO_KERBEROS),
        Unused("kerberos_client_credcache", k.FILLED, _NO_KERBEROS),
        Unused("kerberos_server_credcache", k.FILLED, _NO_KERBEROS),
        Unused("ldap_proxy", k.LDAP_URI, "this version does not ask LDAP; predicates G and g are undecided"),
        Unused("memcache_ttl", whole(0, 2**32 - 1), _NO_MEMCACHE),
        Unused("memcache_port", whole(1, 65535), _NO_MEMCACHE),
        Unused("memcache_host", k.ADDRESS, _NO_MEMCACHE),
        Unused("privacy_attempt", k.YES_OR_NO, "`tls_policy modern` hides certificates, in every session", {False}),
    )
}
