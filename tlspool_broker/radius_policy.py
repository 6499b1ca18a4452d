"""Which RADIUS servers are asked about a session, with what, and what is done in doubt: by the rules (radius_rules.py).

The first rule that applies decides.  Where none does, and without rules, the defaults hold: every server there is for
a purpose is asked, and whoever is not accepted is refused.

What /proc says of a caller and is not certain helps nobody: a rule that asks less than the defaults, or refuses less,
does not apply to such a caller for its unit or program, and one that does not, does.

An attribute that comes out empty, or does not fit, is left out; a User-Name that does not fit refuses the session.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from tlspool_broker.access import applies
from tlspool_broker.parties import Caller
from tlspool_broker.radius import Radius
from tlspool_broker.radius_grant import Admission
from tlspool_broker.session import Session
from tlspool_common import limits
from tlspool_common.access import NOBODY
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, generalise
from tlspool_common.messages import Purpose, Side
from tlspool_common.radius_rules import WORDS, RadiusRule, check_value, fill
from tlspool_common.radius_table import BY_NAME
from tlspool_common.settings import Settings

BY_DEFAULT = RadiusRule(name="", text="the defaults")

ATTRIBUTES_B = 1_600
"""Of attributes that rules set, in a packet of 4096: accounting has eight Class attributes besides, and the figures."""

_HEAD_B, _VENDOR_B = 2, 6
"""Before a value, and before that of a vendor (RFC 2865 sections 5 and 5.26)."""

_SERVICE_TYPE = {Purpose.AUTHENTICATE: "Authenticate-Only", Purpose.AUTHORIZE: "Authorize-Only"}


class RadiusPolicy:
    """The rules in force, and how often each has decided."""

    def __init__(
        self,
        settings: Settings,
        radius: Radius,
        acct_prefix: str,
        user_name: Callable[[int], str],
    ) -> None:
        """``acct_prefix`` goes before the number of a session: numbers begin anew where the private directory is lost.

        ``user_name`` has names for users.
        """
        self._settings = settings
        self._radius = radius
        self._acct_prefix = acct_prefix
        self._user_name = user_name
        self._host = os.uname().nodename
        self._used: dict[str, int] = {}

    @property
    def has_servers(self) -> bool:
        """Whether any session has anything to do with RADIUS."""
        return (
            self._radius.accounts or self._radius.serves(Purpose.AUTHENTICATE) or self._radius.serves(Purpose.AUTHORIZE)
        )

    def rule_for(self, caller: Caller, side: Side, localid: Donai | None, service: str) -> RadiusRule:
        """Return the rule that applies."""
        names = {NOBODY} if localid is None else set(generalise(localid))
        for rule in self._settings.radius:
            if applies(rule, caller, side, names, service, uncertain=not _is_lax(rule)):
                return rule
        return BY_DEFAULT

    def acct_id(self, number: int) -> str:
        """Return the Acct-Session-Id of a session."""
        return f"{self._acct_prefix}-{number:X}"

    def admission(self, session: Session, remoteid: str | None = None) -> Admission | None:
        """Return what is asked about a session with, and what it is accounted for with; None: RADIUS is not concerned.

        ``remoteid`` is who its remote has proved to be, if that is not settled yet.

        Raises:
            PoolError: RADIUS_ANONYMOUS, RADIUS_UNASKED.
        """
        if not self.has_servers:
            return None
        localid = session.plan.localid if session.localid else None
        rule = self.rule_for(session.caller, session.plan.side, localid, session.request.service)
        self._used[rule.name] = self._used.get(rule.name, 0) + 1
        authn = rule.authn and self._radius.serves(Purpose.AUTHENTICATE)
        authz = rule.authz and self._radius.serves(Purpose.AUTHORIZE)
        accounts = rule.acct and self._radius.accounts
        remoteid = session.remoteid if remoteid is None else remoteid
        if not remoteid and (authn or authz):
            if rule.anonymous == "":
                raise PoolError(Code.RADIUS_ANONYMOUS, f"rule {rule.name}" if rule.name else "")
            if rule.anonymous is None:
                authn = authz = False
        if not remoteid and rule.anonymous:
            remoteid = rule.anonymous
        if not (authn or authz or accounts):
            return None
        return Admission(
            rule=rule.name,
            acct_id=self.acct_id(session.session_id),
            attributes=attributes_of(rule, self.words(session, remoteid)),
            accounts=accounts,
            accepts_unkept=rule.accept_unanswered,
            authn=authn,
            authz=authz,
        )

    def words(self, session: Session, remoteid: str) -> dict[str, str]:
        """Return what templates name, of a session whose handshake is over."""
        caller, facts = session.caller, session.facts
        certificate = facts.remote_sha256.hex() if facts is not None and session.verified else ""
        return {
            **self.words_of(caller, remoteid, session.localid, session.request.service),
            "remote.address": session.remote_address,
            "role": session.plan.side.name.lower(),
            "session": str(int(session.session_id)),
            "version": session.version,
            "cipher": "" if facts is None else facts.cipher,
            "group": "" if facts is None else facts.group,
            "certificate": certificate,
            "generation": str(session.generation),
        }

    def words_of(self, caller: Caller, remoteid: str, localid: str, service: str) -> dict[str, str]:
        """Return what templates name where there is no session: what belongs to one is ''."""
        return {
            **dict.fromkeys(WORDS, ""),
            "remoteid": remoteid,
            **_parts("remote", remoteid),
            "localid": localid,
            **_parts("local", localid),
            "service": service,
            "caller.uid": str(caller.uid),
            "caller.user": self._user_name(caller.uid),
            "caller.unit": caller.unit,
            "caller.exe": caller.exe,
            "host": self._host,
        }

    def rows(self) -> list[dict[str, object]]:
        """Return the rules as the operator's socket shows them, and how often each has decided."""
        rules = (*self._settings.radius, BY_DEFAULT) if self.has_servers else self._settings.radius
        return [{"rule": rule.name or "-", "does": str(rule), "used": self._used.get(rule.name, 0)} for rule in rules]


def question(admission: Admission, purpose: Purpose) -> tuple[str, ...]:
    """Return the attributes of a question."""
    own = [f"Acct-Session-Id={admission.acct_id}"]
    if not any(one.startswith("Service-Type=") for one in admission.attributes):
        own.append(f"Service-Type={_SERVICE_TYPE[purpose]}")
    return (*admission.attributes, *own)


def attributes_of(rule: RadiusRule, words: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a rule's templates come to, but for what is empty or does not fit.

    Raises:
        PoolError: RADIUS_UNASKED, the User-Name does not fit.
    """
    found: list[str] = []
    left_b = ATTRIBUTES_B
    for name, template in rule.attributes:
        value = fill(template, words)
        size_b = len(value.encode("utf-8", "replace")) + _HEAD_B + (_VENDOR_B if BY_NAME[name].vendor else 0)
        try:
            if "\0" in value or not value.isprintable():
                raise ValueError(f"{name} has what cannot be printed")
            if value:
                check_value(name, value)
        except ValueError as error:
            if name == "User-Name":
                raise PoolError(Code.RADIUS_UNASKED, str(error)) from None
            continue
        if value and size_b <= left_b and len(found) < limits.RADIUS_ATTRIBUTES - 2:
            left_b -= size_b
            found.append(f"{name}={value}")
    return tuple(found)


def _parts(which: str, identity: str) -> dict[str, str]:
    user, _, domain = identity.rpartition("@")
    return {f"{which}.user": user, f"{which}.domain": domain}


def _is_lax(rule: RadiusRule) -> bool:
    """Whether a rule asks less than the defaults, or refuses less."""
    return not (rule.authn and rule.authz and rule.acct) or rule.accept_unanswered or rule.anonymous != ""
