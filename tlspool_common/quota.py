"""Limit rules as the configuration has them: how much of the pool which program may use.

    limit NAME [CRITERION=VALUE[,VALUE...]] ... QUANTITY=NUMBER ...

    sessions      sessions at a time
    handshakes    of these, those that are being set up
    connections   connections to the application sockets
    rate          handshakes that are begun: 50/s, or 600/m
    burst         how many of them may be begun at once, after a rest
    requests      requests of all kinds: 500/s; twice as many at once

The criteria are those of access rules that say who calls: socket, user, group, unit, exe.  The first rule that applies
to a caller decides; for what it does not name the settings for one caller count.  Callers that a rule applies to are
counted apart from other programs of their user, and each user by itself.  With ``rate`` and without ``burst`` as many
may be begun at once as in two seconds.  0 is none at all; of rates it means that there is no limit.

A rule with ``unit`` or ``exe`` does not apply to a process of which that is not certain.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tlspool_common.access import Rule, caller_casts, read_criteria, rule_name

MOST = 1_000_000
"""Of everything that can be limited: more than a host has descriptors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule(Rule):
    """A rule; criteria that are empty apply to everybody, quantities that are None are left to the settings."""

    sessions: int | None = None
    handshakes: int | None = None
    connections: int | None = None
    rate: float | None = None
    burst: int | None = None
    requests: float | None = None


def _number(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", value) or int(value) > MOST:
        raise ValueError(f"{value!r} must be a whole number from 0 to {MOST}")
    return int(value)


def _rate(value: str) -> float:
    number, slash, unit = value.partition("/")
    if not slash or unit not in ("s", "m"):
        raise ValueError(f"{value!r} must be a number for each second or minute, such as 50/s or 600/m")
    return _number(number) / (1 if unit == "s" else 60)


_QUANTITIES: dict[str, Callable[[str], Any]] = {
    "sessions": _number,
    "handshakes": _number,
    "connections": _number,
    "rate": _rate,
    "burst": _number,
    "requests": _rate,
}


def parse_limit(text: str, uid: Callable[[str], int], gid: Callable[[str], int]) -> LimitRule:
    """Read what is behind ``limit``; ``uid`` and ``gid`` look up names of users and groups.

    Raises:
        ValueError: what is wrong with it.
    """
    casts = caller_casts(uid, gid)
    first, *words = text.split() or [""]
    name = rule_name(first)
    quantities: dict[str, Any] = {}
    criteria: list[str] = []
    for word in words:
        quantity, equals, value = word.partition("=")
        if quantity not in _QUANTITIES:
            if quantity not in casts:
                raise ValueError(f"{word!r} is neither who ({', '.join(casts)}) nor what ({', '.join(_QUANTITIES)})")
            criteria.append(word)
            continue
        if not equals:
            raise ValueError(f"{word!r} needs a value: {quantity}=NUMBER")
        if quantity in quantities:
            raise ValueError(f"{quantity} stands there twice")
        quantities[quantity] = _QUANTITIES[quantity](value)
    if not quantities:
        raise ValueError(f"limits nothing: name one of {', '.join(_QUANTITIES)}")
    if quantities.get("burst") == 0:
        raise ValueError("burst must be at least 1; handshakes=0 allows none")
    return LimitRule(name=name, text=" ".join(words), **read_criteria(criteria, casts), **quantities)
