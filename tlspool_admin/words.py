"""Words that a shell may complete: what the pool has now.  Nothing is said when it cannot be asked at once."""

from __future__ import annotations

import argparse

from tlspool_admin.client import ask
from tlspool_admin.options import control_socket
from tlspool_admin.table import objects
from tlspool_common.errors import PoolError

_TIMEOUT_S = 1.0
"""Somebody waits at a prompt."""

_ASKED = {
    # kind: (request, list in the answer, field of its objects)
    "identities": ("localid.list", "identities", "id"),
    "selectors": ("disclose.list", "selectors", "selector"),
    "anchors": ("trust.list", "keys", "key"),
    "sessions": ("sessions", "sessions", "session"),
    "generations": ("history", "history", "generation"),
}


def words_of(args: argparse.Namespace, kind: str) -> list[str]:
    """Return the words of a kind, one a line fit: printable, without blanks."""
    if kind == "settings":
        from tlspool_common import settings  # slow to import

        return sorted(option.name for option in settings.TABLE)
    request, name, field = _ASKED[kind]
    try:
        answer = ask(control_socket(args, "broker"), {"cmd": request}, _TIMEOUT_S)
    except (PoolError, OSError):
        return []
    found = [str(one.get(field, "")) for one in objects(answer.get(name))]
    return [word for word in dict.fromkeys(found) if word.isprintable() and word and " " not in word]
