"""What an operator sees of keyd's seats: modules, tokens, and requests that wait or are in a token.

Only public facts: no PIN, no content, and of a grant nothing but that there was one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tlspool_common.errors import Code
from tlspool_keyd.seat import Seat
from tlspool_keyd.seats import Seats


def modules(seats: Seats, pids: Mapping[int, int]) -> list[dict[str, object]]:
    """Describe the seats; ``pids`` knows the process ids of generations."""
    rows: list[dict[str, object]] = []
    for seat in seats.seats:
        rows.append(
            {
                "module": seat.module,
                "wanted": str(seat.token_uri),
                "state": state_of(seat),
                "pids": [pids[generation] for generation in seats.generations_of(seat) if generation in pids],
                "tokens": list(seat.tokens),
                "requests": sum(not job.settled for job in seats.jobs_of(seat)),
                "starts": seat.starts,
            }
        )
    return rows


def state_of(seat: Seat) -> str:
    """Say how a seat is: ready, opening, or the name of what is wrong."""
    return "ready" if seat.current else "opening" if seat.successor else seat.failure.code.name


def tokens(seats: Seats) -> list[dict[str, object]]:
    """Describe the tokens, one row each."""
    rows: list[dict[str, object]] = []
    for seat in seats.seats:
        for line in seat.tokens:
            uri, _, state = line.rpartition(" ")
            locked = bool(seats.locks.of([line]))
            shown = "opening" if state == Code.TOKEN_LOCKED.name and not locked else state  # it was unlocked just now
            rows.append({"token": uri, "state": shown, "locked": locked, "module": seat.module})
    return rows


def locked_tokens(seats: Seats) -> int:
    """Count the tokens that are locked; where all are, or some that are not there, at least one."""
    known = sum(len(seats.locks.of(seat.tokens)) for seat in seats.seats)
    return known or int(len(seats.locks) > 0)


def queue(seats: Seats, now_ms: float) -> list[dict[str, object]]:
    """Describe what is under way for each ``pkcs11_token`` line, and how long the last requests took.

    ``waiting`` have not reached a token process, ``in_work`` have; times are of the last answers, apart for the two.
    """
    rows: list[dict[str, object]] = []
    for seat in seats.seats:
        jobs = [job for job in seats.jobs_of(seat) if not job.settled]
        in_work = sum(not job.settled for job in seat.current.pending.values()) if seat.current else 0
        waited = sorted(times[0] for times in seat.recent)
        worked = sorted(times[1] for times in seat.recent)
        rows.append(
            {
                "token": str(seat.token_uri),
                "state": state_of(seat),
                "waiting": len(jobs) - in_work,
                "in_work": in_work,
                "oldest_ms": round(max((now_ms - job.asked_ms for job in jobs), default=0.0), 1),
                "answers": seat.answers,
                "queue_p50_ms": quantile(waited, 0.5),
                "queue_p99_ms": quantile(waited, 0.99),
                "token_p50_ms": quantile(worked, 0.5),
                "token_p99_ms": quantile(worked, 0.99),
            }
        )
    return rows


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which a part of sorted values is; 0 where there are none."""
    return round(values[min(len(values) - 1, int(len(values) * part))], 2) if values else 0.0


def title(seats: Seats) -> str:
    """Say in a few words how many tokens there are, and how they are."""
    lines = [line for seat in seats.seats for line in seat.tokens]
    locked = locked_tokens(seats)
    unusable = sum(not line.endswith((" ready", f" {Code.TOKEN_LOCKED.name}")) for line in lines)
    words = [f"{len(lines)} token{'' if len(lines) == 1 else 's'}"]
    return ", ".join(words + [f"{locked} locked"] * bool(locked) + [f"{unusable} unusable"] * bool(unusable))
