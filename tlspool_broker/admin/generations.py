"""``history``, ``diff``, ``rollback``: what was changed, by whom, why; and taking it back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

from tlspool_broker import records, trustdata
from tlspool_broker.admin import shown
from tlspool_broker.admin.fields import Answer, Request, Work, number_of, warned
from tlspool_broker.databases import Databases
from tlspool_broker.edit import Edit
from tlspool_broker.entries import Name, read_entry, shown_key
from tlspool_broker.history import NOBODY, Change, Place, Values, gone_and_added
from tlspool_common.errors import PoolError

_LISTED = 20
"""Generations that are listed if nobody says how many."""

_MOST = 1000
"""Generations that are listed at a time."""

_TOLD = 100
"""Keys whose changes a rollback tells."""

_KEYS = 5
"""Keys that a line of the list names."""


def history(databases: Databases, request: Request) -> Answer:
    """List what made the last generations, newest first; or show one."""
    args = request.get("args")
    if isinstance(args, list) and args and args[0] == "show":
        return show(databases, {**request, "args": args[1:]})
    if request.get("generation") is not None:
        return show(databases, request)
    wanted = min(number_of(request, "number", 0, _LISTED), _MOST)
    last = databases.generation
    first = max(databases.oldest + 1, last - wanted + 1)
    rows = [_row(one) for one in reversed(databases.history(first, last))] if first <= last else []
    return {"history": rows, "oldest": databases.oldest}


def show(databases: Databases, request: Request) -> Answer:
    """Show what a generation changed."""
    wanted = number_of(request, "generation", 0)
    [change] = databases.history(wanted, wanted)
    return {**_row(change), "current": databases.generation, "changes": changes(change.changes)}


def diff(databases: Databases, request: Request) -> Answer:
    """Show what one generation has that another has not."""
    old = number_of(request, "a", 0)
    new = number_of(request, "b", 1, databases.generation)
    return {"a": old, "b": new, "changes": changes(databases.diff(old, new))}


def rollback(request: Request) -> Work:
    """Make everything what it was."""
    to = number_of(request, "to", 0)

    def work(edit: Edit) -> Answer:
        undone = edit.rollback(to)
        again = _trusted_again(undone)
        # Sessions wait while this is written out; diff tells all of it.
        told = changes(dict(islice(sorted(undone.items()), _TOLD)))
        more = [f"{len(undone) - _TOLD} more keys were changed: tlspool diff"] if len(undone) > _TOLD else []
        return warned({"to": to, "keys": len(undone), "changes": told}, [*again, *more])

    return work


def _trusted_again(undone: Mapping[Place, tuple[Values, Values]]) -> list[str]:
    """Say what a rollback trusts that was not trusted any more: there may have been a reason."""
    found = []
    for (name, key), (was, now) in sorted(undone.items()):
        if name is not Name.TRUST:
            continue
        (before, gone), (after, left) = _anchors_and_revoked(key, was), _anchors_and_revoked(key, now)
        if after - before:
            found.append(f"the anchor {key.hex()} is trusted as it was before")
        if gone - left:
            found.append(f"{len(gone - left)} certificates of issuer {key.hex()} are not known to be revoked any more")
    return [*found[:_TOLD], *([f"and {len(found) - _TOLD} more of that kind"] if len(found) > _TOLD else [])]


def _anchors_and_revoked(key: bytes, values: Values) -> tuple[set[bytes], set[bytes]]:
    entry = read_entry(Name.TRUST, key, values, records.decode_trust_untrusted)
    anchors = {one.encode() for one in entry.good if one.is_anchor}
    revoked: set[bytes] = set()
    for one in entry.good:
        if one.is_revocation:
            with suppress(PoolError):
                revoked |= trustdata.revocations_of(one).serials
    return anchors, revoked


def changes(found: Mapping[Place, tuple[Values, Values]]) -> list[dict[str, object]]:
    """Return what happened to each key, as lines."""
    rows: list[dict[str, object]] = []
    for (name, key), (before, after) in sorted(found.items()):
        gone, added = gone_and_added(before, after)
        row: dict[str, object] = {
            "database": name.value,
            "key": shown_key(name, key),
            "removed": [shown.described(name, key, value) for value in gone],
            "added": [shown.described(name, key, value) for value in added],
        }
        rows.append(row if gone or added else {**row, "reordered": True})
    return rows


def _row(change: Change) -> dict[str, object]:
    keys = [f"{name.value} {shown_key(name, key)}" for name, key in sorted(change.changes)]
    counts = Counter(name.value for name, _ in change.changes)
    return {
        "generation": change.generation,
        "time": shown.when(change.time_s),
        "uid": None if change.by.uid == NOBODY else change.by.uid,
        "author": change.by.author,
        "command": change.by.command,
        "reason": change.by.reason,
        "changed": [*keys[:_KEYS], *([f"and {len(keys) - _KEYS} more"] if len(keys) > _KEYS else [])],
        "keys": dict(counts),
    }
