"""RADIUS rules as the configuration has them: which sessions are asked about, with what, and what is done in doubt.

    radius NAME [CRITERION=VALUE[,VALUE...]] ... [CHOICE=WORD] ... [ATTRIBUTE=TEMPLATE] ...

    authn, authz, acct   yes or no: which servers are asked; yes where there are any
    unanswered           refuse or accept: nobody answers, or an accounting record cannot be kept; refuse
    anonymous            refuse, accept, or a name: the remote has no identity to be asked about; refuse

The criteria are those of access rules: socket, user, group, unit, exe, role, localid, service.  The first rule that
applies decides; where none does, and without rules, the defaults hold.

An ATTRIBUTE is one of the table (radius_table.py), sent with every question and every accounting record of these
sessions, instead of what is sent otherwise (DEFAULTS); an empty template leaves it out.  A TEMPLATE has no spaces; in
it ``{word}`` stands for what is known of the session (WORDS).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from tlspool_common.access import Rule, caller_casts, read_criteria, rule_name, session_casts
from tlspool_common.messages import Side
from tlspool_common.radius_table import BY_NAME, Use

WORDS = {
    "remoteid": "the authenticated remote identity",
    "remote.user": "the part of it before the @",
    "remote.domain": "the part behind it, or all of it",
    "remote.address": "the remote's network address; empty if it has none",
    "localid": "our identity",
    "local.user": "the part of it before the @",
    "local.domain": "the part behind it, or all of it",
    "service": "service name of the request",
    "role": "client or server",
    "caller.uid": "user number of the application",
    "caller.user": "user of the application",
    "caller.unit": "systemd unit of the application",
    "caller.exe": "name of its program",
    "session": "number of the session",
    "host": "name of this host",
    "version": "TLS version",
    "cipher": "cipher suite",
    "group": "key exchange group",
    "certificate": "SHA-256 of the remote's certificate, hexadecimal",
    "generation": "generation of the databases",
}
"""What a template may name."""

DEFAULTS: tuple[tuple[str, str], ...] = (
    ("User-Name", "{remoteid}"),
    ("NAS-Identifier", "{local.domain}"),
    ("Called-Station-Id", "{localid}"),
    ("Calling-Station-Id", "{remote.address}"),
    ("NAS-Port-Type", "Virtual"),
    ("TLSPool-Service", "{service}"),
    ("TLSPool-Role", "{role}"),
    ("TLSPool-Caller-User", "{caller.user}"),
    ("TLSPool-Caller-Unit", "{caller.unit}"),
    ("TLSPool-TLS-Version", "{version}"),
    ("TLSPool-Certificate", "{certificate}"),
)
"""The resource that is used (our side) stands apart from who uses it (User-Name, whose realm routes the question)."""

ATTRIBUTES = 32
"""Attributes of one rule: a packet has room for some forty with values of usual length (RFC 2865 section 3)."""

TEMPLATE_B = 200

_CHOICES = ("authn", "authz", "acct", "unanswered", "anonymous")
_PIECES = re.compile(r"\{([a-z.]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RadiusRule(Rule):
    """A rule; criteria that are empty apply to everything.

    Attributes:
        accept_unanswered: a session is let in when nobody answers, or its accounting cannot be kept.
        anonymous: User-Name of a remote without identity; '' refuses it, None lets it in without asking.
        attributes: each attribute with its template, defaults among them; none is empty.
    """

    sides: frozenset[Side] = frozenset()
    localids: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    authn: bool = True
    authz: bool = True
    acct: bool = True
    accept_unanswered: bool = False
    anonymous: str | None = ""
    attributes: tuple[tuple[str, str], ...] = DEFAULTS


def fill(template: str, words: Mapping[str, str]) -> str:
    """Return a template with what is known in the place of its words."""
    return _PIECES.sub(lambda found: words[found[1]], template)


def _template(name: str, value: str) -> str:
    attribute = BY_NAME.get(name)
    if attribute is None or not attribute.use & Use.REQUEST:
        raise ValueError(f"{name} is no attribute that a rule sets: docs/radius-attributes.md lists them")
    if len(value.encode()) > TEMPLATE_B or not value.isprintable():
        raise ValueError(f"the template of {name} must be at most {TEMPLATE_B} bytes of text")
    for word in _PIECES.findall(value):
        if word not in WORDS:
            raise ValueError(f"{{{word}}} of {name} is none of {', '.join(WORDS)}")
    if re.search(r"[{}]", _PIECES.sub("", value)):
        raise ValueError(f"the template of {name} has a brace that is no part of a {{word}}")
    if value and not _PIECES.search(value):
        check_value(name, value)
    return value


def check_value(name: str, value: str) -> None:
    """Tell whether an attribute can have this value.

    Raises:
        ValueError: it cannot.
    """
    attribute = BY_NAME[name]
    if attribute.kind == "integer":
        if value not in dict(attribute.values) and not (re.fullmatch(r"[0-9]{1,10}", value) and int(value) < 2**32):
            words = ", ".join(word for word, _ in attribute.values)
            raise ValueError(f"{name} must be a number{f', or one of {words}' if words else ''}: {value!r} is not")
    elif attribute.kind in ("ipaddr", "ipv6addr"):
        try:
            (IPv4Address if attribute.kind == "ipaddr" else IPv6Address)(value)
        except ValueError:
            raise ValueError(f"{name} must be an address: {value!r} is not") from None
    elif len(value.encode()) > attribute.size_b:
        raise ValueError(f"{name} must have at most {attribute.size_b} bytes")


def _yes(choice: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise ValueError(f"{choice} must be yes or no, not {value!r}")
    return value == "yes"


def _choice(choice: str, value: str) -> dict[str, Any]:
    if choice == "unanswered":
        if value not in ("refuse", "accept"):
            raise ValueError(f"unanswered must be refuse or accept, not {value!r}")
        return {"accept_unanswered": value == "accept"}
    if choice == "anonymous":
        if not value or not value.isprintable() or len(value.encode()) > TEMPLATE_B:
            raise ValueError("anonymous must be refuse, accept, or a name to ask about in its place")
        return {"anonymous": {"refuse": "", "accept": None}.get(value, value)}
    return {choice: _yes(choice, value)}


def parse_radius(text: str, uid: Callable[[str], int], gid: Callable[[str], int]) -> RadiusRule:
    """Read what is behind ``radius``; ``uid`` and ``gid`` look up names of users and groups.

    Raises:
        ValueError: what is wrong with it.
    """
    casts = {**caller_casts(uid, gid), **session_casts()}
    first, *words = text.split() or [""]
    name = rule_name(first)
    choices: dict[str, Any] = {}
    attributes = dict(DEFAULTS)
    criteria: list[str] = []
    seen: set[str] = set()
    for word in words:
        what, equals, value = word.partition("=")
        if what in casts:
            criteria.append(word)
            continue
        if not equals or (what not in _CHOICES and not what[:1].isupper()):
            raise ValueError(
                f"{word!r} is no criterion ({', '.join(casts)}), choice ({', '.join(_CHOICES)}) or Attribute"
            )
        if what in seen:
            raise ValueError(f"{what} stands there twice")
        seen.add(what)
        if what in _CHOICES:
            choices |= _choice(what, value)
        else:
            attributes[what] = _template(what, value)
    sent = tuple((attribute, template) for attribute, template in attributes.items() if template)
    if len(sent) > ATTRIBUTES:
        raise ValueError(f"sets {len(sent)} attributes where {ATTRIBUTES} fit into a packet")
    return RadiusRule(name=name, text=" ".join(words), **read_criteria(criteria, casts), **choices, attributes=sent)
