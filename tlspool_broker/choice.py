"""What a program that chooses identities is asked, and what its answer means.  Functions of their arguments only.

A client's application needs an identity for a remote.  What the disclose database has at the most concrete selector
that it has anything for is a *disclosure*; it is ``levels`` steps more general than the remote (identity.generalise).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tlspool_broker import policy
from tlspool_broker.policy import Allowed, Plan
from tlspool_broker.snapshot import Snapshot
from tlspool_broker.wanted import Records
from tlspool_common.appwire import BadPayload, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, generalise, parse_selector_untrusted, parse_untrusted
from tlspool_common.servicewire import ChoiceFlag, Lidentry

ENTRIES = 100
"""Entries that are shown before the question; the C library's tool has a menu of that size."""

_ROOT = "."


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What the database has for a remote; ``selector`` '' and no identities: nothing."""

    selector: str
    identities: tuple[str, ...]
    levels: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A choice that the disclose database is to have from now on, if the handshake succeeds."""

    selector: Donai
    localid: Donai
    first: bool
    move: bool


class Disclosing(Snapshot):
    """Databases that disclose to every remote what was chosen for this one."""

    __slots__ = ("_identities",)

    def __init__(self, records: Records, identities: list[str]) -> None:
        super().__init__(records)
        self._identities = identities

    def disclosed(self, _remote: Donai) -> list[str]:
        """Return what was chosen."""
        return self._identities

    def disclosure(self, _remote: Donai) -> tuple[str, list[str]]:
        """Return what was chosen, for no selector in particular."""
        return "", self._identities


def disclosure(records: Records, remote: Donai) -> Disclosure:
    """Look up what may be disclosed to a remote.

    Raises:
        PoolError: DATABASE.
    """
    selector, identities = records.disclosure(remote)
    levels = list(generalise(remote)).index(selector) if selector else 0
    return Disclosure(selector, tuple(identities), levels)


def may_skip(flags: int, remote: Donai, found: Disclosure, suggestion: str) -> bool:
    """Whether the registration allows to use what is in the database without asking."""
    if not flags & ChoiceFlag.SKIP_DBENTRY or not found.identities:
        return False
    if suggestion and suggestion not in found.identities:
        return False  # the application wants what the database does not have: that is a question
    user, _, domain = found.selector.rpartition("@")
    if flags & ChoiceFlag.SKIP_USER & ~ChoiceFlag.SKIP_DBENTRY and remote.user is not None and not user:
        return False
    domains = list(dict.fromkeys(selector.rpartition("@")[2] for selector in generalise(remote)))
    up = domains.index(domain)
    same = flags & ChoiceFlag.SKIP_DOMAIN_SAME & ~ChoiceFlag.SKIP_DBENTRY
    one_up = flags & ChoiceFlag.SKIP_DOMAIN_ONEUP & ~ChoiceFlag.SKIP_DBENTRY
    if (same or one_up) and not (same and up == 0) and not (one_up and up == 1):
        return False
    return not (flags & ChoiceFlag.SKIP_NOTROOT & ~ChoiceFlag.SKIP_DBENTRY and domain == _ROOT)


def undecided(request: Starttls, records: Records) -> Plan:
    """Return the plan of a session whose identity is still to be chosen.

    Raises:
        PoolError: as ``policy.make_plan``, but for what concerns the identity.
    """
    if request.localid:
        parse_untrusted(request.localid)
    return policy.make_plan(replace(request, localid=""), Disclosing(records, []), policy.anybody)


def decided_untrusted(
    payload: bytes, request: Starttls, remote: Donai, maxlevels: int, records: Records, allowed: Allowed
) -> tuple[Plan, Stored | None]:
    """Return the plan that an answer leads to, and what it wants to have stored.

    Raises:
        PoolError: FIELD_MALFORMED, IDENTITY_MALFORMED, REMOTEID_NOT_GENERAL, LOCALID_UNKNOWN, CHOICE_REFUSED, or as
            ``policy.make_plan``.
    """
    try:
        answer = Lidentry.from_payload_untrusted(payload)
    except BadPayload as error:
        raise PoolError(Code.FIELD_MALFORMED, str(error)) from None
    if not answer.localid:
        if request.localid:
            raise PoolError(Code.CHOICE_REFUSED, f"none, instead of {request.localid}")
        return policy.make_plan(request, Disclosing(records, []), allowed), None
    localid = parse_untrusted(answer.localid)
    selector = parse_selector_untrusted(answer.remoteid) if answer.remoteid else remote
    if str(selector) not in list(generalise(remote))[: maxlevels + 1]:
        raise PoolError(Code.REMOTEID_NOT_GENERAL, f"{selector} for {remote}")
    if answer.flags & (ChoiceFlag.NEW | ChoiceFlag.ONTHEFLY):
        raise PoolError(Code.LOCALID_UNKNOWN, f"{localid} as client: it is not there yet")
    chosen = replace(request, localid=str(localid))
    plan = policy.make_plan(chosen, Disclosing(records, [str(localid)]), allowed)
    first = bool(answer.flags & ChoiceFlag.DBINSERT)
    if not first and not answer.flags & ChoiceFlag.DBAPPEND:
        return plan, None
    return plan, Stored(selector, localid, first, bool(answer.flags & ChoiceFlag.DBREORDER))
