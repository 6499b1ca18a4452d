"""Access rules: the first that applies decides, and what none applies to is refused, once there are rules.

What is not certain helps nobody: a unit or a program that /proc told of a process that may not be the one that
connected satisfies no rule that allows, and every rule that denies.
"""

from __future__ import annotations

from collections.abc import Collection

from tlspool_broker.events import Caller
from tlspool_broker.policy import Allowed
from tlspool_common.access import NOBODY, AccessRule
from tlspool_common.account_rules import AccountRule
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, generalise
from tlspool_common.messages import Side
from tlspool_common.quota import LimitRule
from tlspool_common.radius_rules import RadiusRule


class Access:
    """The rules of a configuration, and how often each decided."""

    def __init__(self, rules: tuple[AccessRule, ...]) -> None:
        self._rules = rules
        self._used = [0] * len(rules)
        self._by_default = 0

    def replace(self, rules: tuple[AccessRule, ...]) -> None:
        """Go by other rules from now on; a rule that stays the same keeps its count."""
        used = dict(zip(self._rules, self._used, strict=True))
        self._rules, self._used = rules, [used.get(rule, 0) for rule in rules]

    def for_session(self, caller: Caller, service: str) -> Allowed:
        """Return a function that says which identities and roles a caller may have for a service."""

        def allowed(side: Side, localid: Donai | None) -> None:
            self.check(caller, side, localid, service)

        return allowed

    def check(self, caller: Caller, side: Side, localid: Donai | None, service: str) -> None:
        """Let the rules decide.

        Raises:
            PoolError: ACCESS_DENIED, with the name of the rule.
        """
        if not self._rules:
            return
        names = {NOBODY} if localid is None else set(generalise(localid))
        for number, rule in enumerate(self._rules):
            if applies(rule, caller, side, names, service, uncertain=not rule.allow):
                self._used[number] += 1
                if rule.allow:
                    return
                raise PoolError(Code.ACCESS_DENIED, f"rule {rule.name}")
        self._by_default += 1
        raise PoolError(Code.ACCESS_DENIED, "no rule allows it")

    def rows(self) -> list[dict[str, object]]:
        """Return the rules as the operator's socket shows them."""
        rows: list[dict[str, object]] = [
            {"rule": rule.name, "does": str(rule), "used": used}
            for rule, used in zip(self._rules, self._used, strict=True)
        ]
        if rows:
            rows.append({"rule": "-", "does": "deny", "used": self._by_default})
        return rows


def applies(
    rule: AccessRule | RadiusRule,
    caller: Caller,
    side: Side,
    names: Collection[str],
    service: str,
    *,
    uncertain: bool,
) -> bool:
    """Whether a rule is about this caller in this role, with an identity that is called all these names."""
    return (
        covers(rule, caller, uncertain=uncertain)
        and _among({side}, rule.sides)
        and _among(names, rule.localids)
        and _among({service}, rule.services)
    )


def covers(rule: AccessRule | AccountRule | LimitRule | RadiusRule, caller: Caller, *, uncertain: bool) -> bool:
    """Whether a rule is about this caller; ``uncertain`` is what counts where /proc does not say for sure."""
    return (
        _among({caller.socket}, rule.sockets)
        and _among({caller.uid}, rule.uids)
        and _among({caller.gid, *caller.groups}, rule.gids)
        and _told(_units(caller), rule.units, uncertain=None if caller.certain else uncertain)
        and _told({caller.exe}, rule.exes, uncertain=None if caller.certain and caller.exe else uncertain)
    )


def _told(values: Collection[str], wanted: Collection[str], *, uncertain: bool | None) -> bool:
    """Judge by what /proc says, if that is certain (None)."""
    return not wanted or (_among(values, wanted) if uncertain is None else uncertain)


def _among(values: Collection[object], wanted: Collection[object]) -> bool:
    """Whether one of the values is wanted; a rule that wants nothing in particular takes all."""
    return not wanted or any(value in wanted for value in values)


def _units(caller: Caller) -> set[str]:
    """Return the unit, and the template that it is an instance of (systemd.unit(5))."""
    name, at, rest = caller.unit.partition("@")
    template = {f"{name}@.{rest.rpartition('.')[2]}"} if at else set()
    return {caller.unit, *template} if caller.unit else set()
