"""What keyd's metrics read at the moment somebody asks."""

from __future__ import annotations

from tlspool_common.metrics import Reading, by_state
from tlspool_keyd.core import KeydCore


def readings(core: KeydCore) -> list[Reading]:
    """Return the numbers of keyd."""
    seats = core.seats
    opened = sum(seat.current is not None for seat in seats.seats)
    return [
        ("tlspool_broker_connected", {}, core.has_broker),
        ("tlspool_key_requests_waiting", {}, seats.waiting),
        ("tlspool_grants_spent", {}, core.grants_spent),
        *by_state("tlspool_key_modules", "modules", {"open": opened, "closed": len(seats.seats) - opened}),
        *(("tlspool_token_starts", {"token": str(seat.token_uri)}, seat.starts) for seat in seats.seats),
        ("tlspool_key_workers", {}, core.workers),
    ]
