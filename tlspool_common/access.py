"""Access rules as the configuration has them: which program may use which identity, role and service.

    access NAME allow|deny [CRITERION=VALUE[,VALUE...]] ...

    socket    path of the application socket it came through
    user      name or number of the user that connected
    group     name or number of a group of that user's process
    unit      systemd unit of the process, of the host's manager; ``x@.service`` is every instance of that template
    exe       path of its program
    role      client, server
    localid   identity or selector; ``-`` is a client without identity
    service   service name of the request

A rule applies if each of its criteria does, with one of its values.  The first rule that applies decides.  With
no rules everything is allowed; with some, what none applies to is refused.

Users and groups are by word of the kernel.  Unit and program are what /proc tells of a process that is certain to
be the one that connected (Linux 6.5); where that is not so, rules that allow do not apply, and rules that deny do.
What users run by their own managers is all of the unit ``user@UID.service``, as they give names as they like.
The programs of other users are seen only by a broker with CAP_SYS_PTRACE.  And a process can connect, then execute
another program: a rule with ``exe`` should name a user or a unit too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tlspool_common.errors import PoolError
from tlspool_common.identity import parse_selector_untrusted
from tlspool_common.messages import Side

NOBODY = "-"
"""As ``localid``: a client that shows no identity."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.(?:service|scope|socket|mount|swap)")
_SERVICE_B = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule about who calls; criteria that are empty apply to everything."""

    name: str
    text: str = field(compare=False)
    sockets: frozenset[str] = frozenset()
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()
    exes: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule(Rule):
    """A rule about who may do what."""

    allow: bool
    sides: frozenset[Side] = frozenset()
    localids: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"{value!r} must be an absolute path")
    return value


def _unit(value: str) -> str:
    if not _UNIT.fullmatch(value):
        raise ValueError(f"{value!r} must be a systemd unit, such as postfix.service")
    return value


def _side(value: str) -> Side:
    if value not in ("client", "server"):
        raise ValueError(f"{value!r} must be client or server")
    return Side[value.upper()]


def _localid(value: str) -> str:
    return value if value == NOBODY else selector(value)


def selector(value: str) -> str:
    """Return an identity or a selector in normal form.

    Raises:
        ValueError: it is none.
    """
    try:
        return str(parse_selector_untrusted(value))
    except PoolError as error:
        raise ValueError(error.detail) from None


def _service(value: str) -> str:
    if len(value.encode()) > _SERVICE_B:
        raise ValueError(f"{value!r} is longer than a service name, which has {_SERVICE_B} bytes")
    return value


def caller_casts(uid: Callable[[str], int], gid: Callable[[str], int]) -> dict[str, tuple[str, Callable[[str], Any]]]:
    """Return the criteria of who calls: the attribute of each, and how a value is read."""
    return {
        "socket": ("sockets", _path),
        "user": ("uids", uid),
        "group": ("gids", gid),
        "unit": ("units", _unit),
        "exe": ("exes", _path),
    }


def session_casts() -> dict[str, tuple[str, Callable[[str], Any]]]:
    """Return the criteria of what is called for: the attribute of each, and how a value is read."""
    return {"role": ("sides", _side), "localid": ("localids", _localid), "service": ("services", _service)}


def read_criteria(words: Iterable[str], casts: Mapping[str, tuple[str, Callable[[str], Any]]]) -> dict[str, Any]:
    """Read words CRITERION=VALUE[,VALUE...]; return a set of values for each attribute that is named.

    Raises:
        ValueError: what is wrong with them.
    """
    found: dict[str, Any] = {}
    for word in words:
        criterion, equals, values = word.partition("=")
        if criterion not in casts or not equals:
            raise ValueError(f"{word!r} is no criterion: write {', '.join(casts)} = values with commas between them")
        attribute, cast = casts[criterion]
        if attribute in found:
            raise ValueError(f"{criterion} stands there twice: write its values with commas between them")
        if not all(values.split(",")):
            raise ValueError(f"{word!r} has an empty value")
        found[attribute] = frozenset(cast(value) for value in values.split(","))
    return found


def read_verdict(text: str, casts: Mapping[str, tuple[str, Callable[[str], Any]]]) -> dict[str, Any]:
    """Read NAME allow|deny and criteria; return a value for each attribute.

    Raises:
        ValueError: what is wrong with it.
    """
    first, *words = text.split() or [""]
    name = rule_name(first)
    if not words or words[0] not in ("allow", "deny"):
        raise ValueError("must have allow or deny behind the name")
    return {"name": name, "allow": words[0] == "allow", "text": " ".join(words), **read_criteria(words[1:], casts)}


def rule_name(text: str) -> str:
    """Return the name of a rule.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(text):
        raise ValueError("must begin with a name of letters, digits, - . and _")
    return text


def parse_rule(text: str, uid: Callable[[str], int], gid: Callable[[str], int]) -> AccessRule:
    """Read what is behind ``access``; ``uid`` and ``gid`` look up names of users and groups.

    Raises:
        ValueError: what is wrong with it.
    """
    casts = {**caller_casts(uid, gid), **session_casts()}
    return AccessRule(**read_verdict(text, casts))
