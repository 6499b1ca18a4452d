"""The keywords of rules: each line of one adds a rule, and the first that applies decides."""

from __future__ import annotations

from collections.abc import Callable

from tlspool_common.access import AccessRule, parse_rule
from tlspool_common.account_rules import AccountRule, parse_account
from tlspool_common.quota import LimitRule, parse_limit
from tlspool_common.radius_rules import RadiusRule, parse_radius

RULES: dict[str, Callable[..., AccessRule | AccountRule | LimitRule | RadiusRule]] = {
    "access": parse_rule,
    "account": parse_account,
    "limit": parse_limit,
    "radius": parse_radius,
}
"""How what is behind each keyword is read."""
