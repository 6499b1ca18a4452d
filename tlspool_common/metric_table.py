"""What the daemons count and measure: one row for each metric.  docs/metrics.md is made from it.

A row either has *sources*, which say what in which fact (event_table.py) adds to it, or it is *read* when somebody
asks, by the daemon that has it.  There is no other way to a number: what is counted is what was said.

Labels have few values, known beforehand.  They are words of ours: no identity, address or text of a remote, and
nothing else that somebody outside chooses, gets into one.  A value that is none of the known ones is ``other``.
``token`` is the one label whose values are the operator's: lines of the configuration.

Other subjects to come bring rows of their own, between those of sessions and keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from tlspool_common.error_codes import Code
from tlspool_common.event_table import PROVOKED
from tlspool_common.messages import EndReason
from tlspool_common.record import record


class Kind(Enum):
    """Types of OpenMetrics that we have."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@record
class Source:
    """What of a fact adds to a metric.

    ``labels`` has for each label the field of the fact that is its value, or ``=word`` for a word that always is.
    ``field`` is the field that is added, or measured (one that ends in ``ms`` in seconds); '' adds 1.
    """

    event: str
    labels: Mapping[str, str]
    field: str = ""


@record
class Metric:
    """One row; ``name`` is that of the family, to which counters add ``_total`` and infos ``_info``."""

    name: str
    kind: Kind
    daemons: str
    doc: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    sources: tuple[Source, ...] = ()


DAEMONS = {"B": "broker", "W": "worker", "K": "keyd"}

GROUPS = (
    "X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024", "X25519", "X448", "secp256r1", "secp384r1",
    "secp521r1",
    "ffdhe2048", "ffdhe3072", "ffdhe4096",
)  # fmt: skip
SCHEMES = (
    "rsa_pkcs1_sha256", "rsa_pkcs1_sha384", "rsa_pkcs1_sha512", "ecdsa_secp256r1_sha256", "ecdsa_secp384r1_sha384",
    "ecdsa_secp521r1_sha512", "rsa_pss_rsae_sha256", "rsa_pss_rsae_sha384", "rsa_pss_rsae_sha512", "ed25519",
)  # fmt: skip
RULES = tuple(code.name.lower() for code in Code if code is not Code.OK)
STATES = (
    "expect_choice", "expect_localid", "expect_keyd", "expect_worker", "expect_client_hello", "expect_handshake",
    "expect_advice", "expect_alert", "expect_radius", "expect_plaintext", "relaying", "expect_end",
)  # fmt: skip
EXITS = {
    0: "ok", 1: "uncaught", 10: "channel_broken", 11: "bug", 12: "start", 13: "provider", 78: "configuration",
}  # fmt: skip
"""Of tlspool_worker/exits.py; a test holds them against each other."""

DOMAINS: dict[str, tuple[str, ...]] = {
    "daemon": tuple(DAEMONS.values()),
    "side": ("server", "client"),
    "outcome": ("done", "refused", "failed"),
    "version": ("TLSv1.2", "TLSv1.3", "none"),
    "group": (*GROUPS, "none"),
    "rule": RULES,
    "result": ("ok", *RULES, "withheld"),
    "state": STATES,
    "reason": tuple(reason.name.lower() for reason in EndReason),
    "direction": ("from_remote", "to_remote"),
    "scheme": (*SCHEMES, "none"),
    "meaning": (*EXITS.values(), "signal"),
    "workers": ("spare", "owned", "retired"),
    "modules": ("open", "closed"),
    "said": ("asked", "typed", "accepted", "wrong", "declined", "stopped"),
    "database": (
        "localid.set", "localid.del", "disclose.set", "disclose.del", "trust.set", "trust.del", "trust.pin",
        "trust.unpin",
        "trust.revoke", "trust.unrevoke", "policy.set", "policy.del", "batch", "rollback",
    ),
    "trail": ("off", "written", "lost"),
    "answer": ("answered", "unanswered", "not_asked"),
    "helper": ("online", "radius"),
    "purpose": ("authenticate", "authorize"),
    "access": ("accepted", "rejected", "unanswered", "unasked", "not_asked"),
    "aaa": ("accepted", "rejected", "unanswered"),
    "account": ("started", "ended"),
    "status": ("start", "stop", "interim"),
    "kept": ("kept", "refused"),
    "reload": ("done", "refused"),
    "event": (*sorted(PROVOKED),),
}  # fmt: skip
"""The values of each label; what is none of them is ``other``."""

FREE = ("token", "version_of_pool")
"""Labels whose values are the operator's, or ours."""

_HANDSHAKE_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 40.0)
_SESSION_S = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)
_RADIUS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
_KEY_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Bounds of buckets: a handshake has its timeout at 40 s by default, a signature at 10 s (pkcs11_timeout_s), a RADIUS
server at 2 s, and all of them together at 8 s."""

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_TLS = {"side": "side", "version": "version", "group": "group"}


def _of(labels: Mapping[str, str], *events: str, field: str = "") -> tuple[Source, ...]:
    return tuple(Source(event, labels, field) for event in events)


TABLE: tuple[Metric, ...] = (
    # --- each daemon --------------------------------------------------------------------------------------
    Metric("tlspool_up", _G, "BWK", "whether the daemon answers; the broker says it of the other two", ("daemon",)),
    Metric("tlspool_build", Kind.INFO, "BWK", "which version runs", ("daemon", "version_of_pool")),
    Metric("tlspool_uptime_seconds", _G, "BWK", "since the daemon was started", ("daemon",), "seconds"),
    Metric("tlspool_cpu_seconds", _C, "BWK", "processor time of the daemon's own process", ("daemon",), "seconds"),
    Metric("tlspool_memory_bytes", _G, "BWK", "memory of the daemon's own process", ("daemon",), "bytes"),
    Metric("tlspool_descriptors", _G, "BWK", "open descriptors of the daemon's own process", ("daemon",)),
    Metric("tlspool_descriptors_limit", _G, "BWK", "how many it may have", ("daemon",)),
    Metric("tlspool_reloads", _C, "BWK", "times that the configuration was read again, by what came of it; of one "
           "that is wrong each problem counts", ("daemon", "reload"),
           sources=(*_of({"reload": "=done"}, "reload.done"), *_of({"reload": "=refused"}, "reload.refused"))),
    Metric("tlspool_internal_errors", _C, "BWK", "bugs that were met; each is a line at level error", ("daemon",),
           sources=_of({}, "broker.internal", "border.internal", "internal", "worker.bug", "worker.descriptors")),
    Metric("tlspool_border_errors", _C, "BWK", "channels that were closed because a process broke the table of "
           "messages",
           ("daemon",), sources=_of({}, "border.broken", "worker.broken", "token.broken", "worker.condemned")),
    Metric("tlspool_log_lines_withheld", _C, "BWK", "lines that were not written, because there were too many of "
           "that event in a second", ("daemon", "event"), sources=_of({"event": "of"}, "log.withheld",
           field="count")),
    Metric("tlspool_audit_trail", _G, "BK", "1 for the state of the audit trail", ("daemon", "trail")),
    Metric("tlspool_audit_records", _C, "BK", "records written to the audit trail", ("daemon",)),
    Metric("tlspool_audit_records_lost", _C, "BK", "facts that are missing from it, because it could not be written",
           ("daemon",)),
    # --- handshakes and sessions ----------------------------------------------------------------------------
    Metric("tlspool_handshakes", _C, "B", "requests that became a session record, by what came of them: `done` "
           "relays, `refused` is policy's or the request's doing, `failed` is all else. Version and group are `none` "
           "where the handshake did not get so far", ("outcome", *_TLS),
           sources=(*_of({"outcome": "=done", **_TLS}, "session.start"),
                    *_of({"outcome": "=refused", **_TLS}, "session.refused"),
                    *_of({"outcome": "=failed", **_TLS}, "session.failed"))),
    Metric("tlspool_handshake_seconds", _H, "B", "from STARTTLS until the session relays, which includes what the "
           "application takes to give its plaintext end", ("side",), "seconds", _HANDSHAKE_S,
           _of({"side": "side"}, "session.start", field="ms")),
    Metric("tlspool_refusals", _C, "B", "sessions that did not come about, by the [error](errors.md) that says why",
           ("rule",), sources=_of({"rule": "rule"}, "session.refused", "session.failed")),
    Metric("tlspool_commands_refused", _C, "B", "commands of applications that were refused, by the error; a "
           "STARTTLS that did not get as far as a session record is one", ("rule",),
           sources=(*_of({"rule": "rule"}, "command.refused"), *_of({"rule": "=other"}, "command.refusals",
           field="more"))),
    Metric("tlspool_sessions", _G, "B", "sessions that are not over, by their state", ("state",)),
    Metric("tlspool_sessions_started", _C, "B", "sessions that began to relay", ("side",),
           sources=_of({"side": "side"}, "session.start")),
    Metric("tlspool_sessions_ended", _C, "B", "sessions that relayed and are over, by the reason", ("reason",),
           sources=_of({"reason": "reason"}, "session.end")),
    Metric("tlspool_sessions_killed", _C, "B", "sessions that an operator has ended", sources=_of({},
           "session.kill")),
    Metric("tlspool_session_seconds", _H, "B", "how long sessions relayed, counted at their end", (), "seconds",
           _SESSION_S,
           _of({}, "session.end", field="ms")),
    Metric("tlspool_session_bytes", _C, "B", "plaintext that was relayed, counted at the end of a session: the "
           "worker that has a session is not asked before", ("direction",), "bytes",
           sources=(*_of({"direction": "=from_remote"}, "session.end", field="from_remote_b"),
                    *_of({"direction": "=to_remote"}, "session.end", field="to_remote_b"))),
    Metric("tlspool_connections", _G, "B", "connections of applications"),
    Metric("tlspool_connections_refused", _C, "B", "connections of a user that had too many",
           sources=_of({}, "caller.refused")),
    Metric("tlspool_peers_refused", _C, "B", "connections to the private socket of nobody that may be there",
           sources=_of({}, "peer.refused")),
    # --- databases ------------------------------------------------------------------------------------------
    Metric("tlspool_database_generation", _G, "B", "number of the state of the databases"),
    Metric("tlspool_database_trust_generation", _G, "B", "the generation that last changed an anchor"),
    Metric("tlspool_database_changes", _C, "B", "changes by operators, by the operation", ("database",),
           sources=_of({"database": "cmd"}, "database.changed")),
    Metric("tlspool_database_first_uses", _C, "B", "remotes that were pinned because they were seen for the first "
           "time",
           sources=_of({}, "pin.stored")),
    Metric("tlspool_database_history", _G, "B", "changes that can be undone"),
    # --- RADIUS ---------------------------------------------------------------------------------------------
    Metric("tlspool_radius_questions", _C, "B", "questions to RADIUS servers, by what came of them: `unanswered` where "
           "none has answered in time, `unasked` where it could not be asked, `not_asked` where nobody was there to "
           "ask, or too many did", ("purpose", "access"),
           sources=_of({"purpose": "purpose", "access": "access"}, "radius.answered")),
    Metric("tlspool_radius_seconds", _H, "B", "from the question until a server has answered, or none has",
           ("purpose",), "seconds", _RADIUS_S, _of({"purpose": "purpose"}, "radius.answered", field="ms")),
    Metric("tlspool_radius_connected", _G, "B", "whether the broker has the helper that speaks RADIUS; 0 too where no "
           "server is configured"),
    Metric("tlspool_radius_open", _G, "B", "questions to RADIUS servers that have no answer yet"),
    Metric("tlspool_radius_records", _G, "B", "accounting records that the helper has not on its disk yet"),
    Metric("tlspool_radius_records_told", _C, "B", "accounting records that the helper has on its disk (`kept`), or "
           "could not keep (`refused`), by what they say", ("status", "kept")),
    Metric("tlspool_radius_sessions", _G, "B", "sessions that RADIUS servers have let in, or are accounted for"),
    Metric("tlspool_radius_records_unkept", _C, "B", "accounting records that it could not keep, and nobody waited for",
           sources=_of({}, "radius.unkept")),
    # --- the helpers ----------------------------------------------------------------------------------------
    Metric("tlspool_helper_questions", _C, "B", "questions about revocation to the helper that asks the network, by "
           "what came of them", ("answer",)),
    Metric("tlspool_helper_open", _G, "B", "questions to the helper that have no answer yet"),
    Metric("tlspool_helper_lost", _C, "B", "times that a helper has ended without being told to", ("helper",),
           sources=_of({"helper": "helper"}, "helper.lost")),
    # --- the AAA of applications ------------------------------------------------------------------------------
    Metric("tlspool_application_questions", _C, "B", "questions of applications to RADIUS servers, by what came of "
           "them", ("aaa",),
           sources=tuple(Source(f"aaa.{said}", {"aaa": f"={said}"}) for said in DOMAINS["aaa"])),
    Metric("tlspool_application_accounts", _C, "B", "what applications account for: how much began, and was over",
           ("account",),
           sources=tuple(Source(f"account.{said}", {"account": f"={said}"}) for said in DOMAINS["account"])),
    Metric("tlspool_application_items", _G, "B", "what applications account for now"),
    # --- other daemons and workers ----------------------------------------------------------------------------
    Metric("tlspool_keyd_connected", _G, "B", "whether the broker has keyd"),
    Metric("tlspool_master_connected", _G, "B", "whether the broker has a worker master"),
    Metric("tlspool_workers", _G, "B", "workers that the broker knows: spare ones, those of an application, and "
           "those that get no more sessions", ("workers",)),
    Metric("tlspool_broker_connected", _G, "WK", "whether the daemon has the broker", ("daemon",)),
    Metric("tlspool_worker_processes", _G, "W", "worker processes that run"),
    Metric("tlspool_worker_memory_bytes", _G, "W", "memory of all of them; what they share counts for each", (),
           "bytes"),
    Metric("tlspool_worker_forks", _C, "W", "workers that were forked"),
    Metric("tlspool_worker_fork_failures", _C, "W", "forks that the kernel refused", sources=_of({},
           "worker.fork_failed")),
    Metric("tlspool_worker_deaths", _C, "W", "workers that ended, by what their status means; `ok` is in order",
           ("meaning",), sources=_of({"meaning": "status"}, "worker.gone")),
    # --- keys -----------------------------------------------------------------------------------------------
    Metric("tlspool_key_operations", _C, "K", "signatures that workers asked for: `ok`, or the error; of refusals "
           "beyond what is logged only the number is known (`withheld`). `token` is the line `pkcs11_token` of the "
           "configuration, `none` where no token was asked", ("scheme", "result", "token"),
           sources=(*_of({"scheme": "scheme", "result": "=ok", "token": "token"}, "sign.done"),
                    *_of({"scheme": "scheme", "result": "why", "token": "token"}, "sign.refused"),
                    *_of({"scheme": "=none", "result": "=withheld", "token": "=none"}, "sign.refusals_withheld",
                         field="count"))),
    Metric("tlspool_key_queue_seconds", _H, "K", "what a signature waited in keyd for room in a token process, or "
           "for a PIN",
           ("token",), "seconds", _KEY_S, _of({"token": "token"}, "sign.done", field="queue_ms")),
    Metric("tlspool_key_token_seconds", _H, "K", "from there until the token process has answered", ("token",),
           "seconds",
           _KEY_S, _of({"token": "token"}, "sign.done", field="token_ms")),
    Metric("tlspool_key_requests_waiting", _G, "K", "requests for keys that have no answer yet"),
    Metric("tlspool_grants_spent", _G, "K", "grants that are remembered because they were used and have not expired"),
    Metric("tlspool_key_modules", _G, "K", "PKCS #11 modules of the configuration, by whether they can be used",
           ("modules",)),
    Metric("tlspool_token_starts", _C, "K", "token processes that were started", ("token",)),
    Metric("tlspool_token_deaths", _C, "K", "token processes that ended by themselves", sources=_of({},
           "token.died")),
    Metric("tlspool_token_hangs", _C, "K", "token processes that were killed because their module did not answer",
           sources=_of({}, "token.slow")),
    Metric("tlspool_pins", _C, "K", "PINs that people were asked for, by what came of it", ("said",),
           sources=tuple(Source(f"pin.{said}", {"said": f"={said}"}) for said in DOMAINS["said"])),
    Metric("tlspool_key_workers", _G, "K", "workers that may ask for signatures"),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in TABLE}
