"""What RADIUS is told of whom an application asks about: by the radius rule that applies (radius_policy.py)."""

from __future__ import annotations

from tlspool_broker.aaa import Who
from tlspool_broker.parties import Caller
from tlspool_broker.radius_policy import RadiusPolicy, attributes_of
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import Side


class Describer:
    """Fills the templates of rules.  Where there is no session the application counts as a server."""

    def __init__(self, policy: RadiusPolicy) -> None:
        self._policy = policy

    def described(self, caller: Caller, who: Who) -> tuple[str, ...]:
        """Return ``Name=value`` attributes, User-Name among them.

        Raises:
            PoolError: RADIUS_ANONYMOUS; RADIUS_UNASKED, the User-Name does not fit.
        """
        session = who.session
        side = Side.SERVER if session is None else session.plan.side
        localid = parse_untrusted(who.localid) if who.localid else None
        rule = self._policy.rule_for(caller, side, localid, who.service)
        remoteid = who.remoteid or rule.anonymous
        if not remoteid:
            raise PoolError(Code.RADIUS_ANONYMOUS, f"rule {rule.name}" if rule.name else "")
        if session is None:
            words = {**self._policy.words_of(caller, remoteid, who.localid, who.service), "role": "server"}
        else:
            words = {**self._policy.words(session, remoteid), "service": who.service}
        return attributes_of(rule, words)
