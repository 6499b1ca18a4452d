"""What the broker's metrics read at the moment somebody asks: how many there are of what is there."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from tlspool_broker.core import BrokerCore
from tlspool_broker.databases import Databases
from tlspool_common.errors import PoolError
from tlspool_common.metric_table import DOMAINS
from tlspool_common.metrics import Reading, by_state


def readings(core: BrokerCore, databases: Databases) -> list[Reading]:
    """Return the numbers of the broker."""
    states = Counter(session.state.name.lower() for session in core.sessions)
    workers = Counter(
        "retired" if worker.retired else "spare" if worker.owner is None else "owned" for worker in core.workers
    )
    helper = core.online.counters
    answers = {"answered": helper.answered, "unanswered": helper.unanswered, "not_asked": helper.not_asked}
    found: list[Reading] = [
        *by_state("tlspool_sessions", "state", states),
        ("tlspool_connections", {}, len(core.connections)),
        ("tlspool_database_generation", {}, databases.generation),
        ("tlspool_database_trust_generation", {}, databases.trust_generation),
        *by_state("tlspool_helper_questions", "answer", answers),
        ("tlspool_helper_open", {}, len(core.online)),
        ("tlspool_radius_connected", {}, core.radius.helper.ready),
        ("tlspool_radius_open", {}, core.radius.open_questions),
        ("tlspool_radius_records", {}, core.radius.records),
        *(
            ("tlspool_radius_records_told", {"status": status, "kept": kept}, core.radius.kept.get((status, kept), 0))
            for status in DOMAINS["status"]
            for kept in DOMAINS["kept"]
        ),
        ("tlspool_radius_sessions", {}, len(core.accounting)),
        ("tlspool_application_items", {}, len(core.items)),
        ("tlspool_keyd_connected", {}, core.keyd.present),
        ("tlspool_master_connected", {}, core.workers.has_master),
        *by_state("tlspool_workers", "workers", workers),
    ]
    with suppress(PoolError):  # an environment that is being recovered: the others are told all the same
        found.append(("tlspool_database_history", {}, databases.generation - databases.oldest))
    return found
