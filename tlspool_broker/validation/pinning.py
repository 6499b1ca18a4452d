"""Pins: which certificate a remote is known by.

A pin that has expired is still a pin: it says that somebody has to look, not that everybody may come.  Only in the
last part of its life, if it has one, may another certificate take its place, once.
"""

from __future__ import annotations

from collections.abc import Iterable

from tlspool_broker.trustdata import Pin
from tlspool_broker.validation.facts import Answer, Facts
from tlspool_common.errors import Code
from tlspool_common.messages_judging import RemoteShown


def pinned(facts: Facts, shown: RemoteShown) -> Answer:
    """Answer ``P``.

    Raises:
        PoolError: what the databases raise.
    """
    remote = facts.remote
    pins = _pins(facts)
    if _matching(shown, pins, facts.context.now_s):
        return Answer(True, f"the certificate is pinned for {remote or 'whoever shows it'}")
    if not remote:
        return Answer(False, "the remote names nobody that something could be pinned for")
    if any(pin.sha256 == shown.leaf_sha256 for pin in pins):
        return Answer(False, f"the pin of this certificate for {remote} has expired", Code.PIN_UNMATCHED)
    own = _own(pins, remote)
    if not own:
        return Answer(False, f"nothing is pinned for {remote}")
    others = f"{own[0].sha256.hex()[:16]}" + (f" and {len(own) - 1} more" if len(own) > 1 else "")
    return Answer(
        False,
        f"pinned for {remote} is {others}, the certificate is {shown.leaf_sha256.hex()[:16]}",
        Code.PIN_UNMATCHED,
    )


def pinned_or_first(facts: Facts, shown: RemoteShown) -> Answer:
    """Answer ``p``.

    Raises:
        PoolError: what the databases raise.
    """
    strict = pinned(facts, shown)
    if strict.value or not facts.remote:
        return strict
    pins = _pins(facts)
    if not _may_pin(facts, pins):
        return strict
    if _own(pins, facts.remote):
        return Answer(True, f"the pin for {facts.remote} may be replaced now, and is when the session is accepted")
    return Answer(True, f"nothing is pinned for {facts.remote}; this certificate is when the session is accepted")


def pins_on_acceptance(facts: Facts) -> bool:
    """Tell whether ``p`` is only true if the certificate is pinned when the session is accepted.

    Raises:
        PoolError: what the databases raise.
    """
    if facts.shown is None or not facts.remote:
        return False
    pins = _pins(facts)
    return not _matching(facts.shown, pins, facts.context.now_s) and _may_pin(facts, pins)


def _pins(facts: Facts) -> list[Pin]:
    """Return the pins that speak of this remote, and of anybody, in our role."""
    side = facts.context.side
    return [pin for pin in facts.context.stored.pins(facts.remote) if pin.for_sides & side]


def _own(pins: Iterable[Pin], remote: str) -> list[Pin]:
    """Return the pins that leave no room for first use: those for the remote itself."""
    return [pin for pin in pins if pin.remote == remote]


def _matching(shown: RemoteShown, pins: Iterable[Pin], now_s: int) -> bool:
    return any(pin.sha256 == shown.leaf_sha256 and not pin.is_over(now_s) for pin in pins)


def _may_pin(facts: Facts, pins: Iterable[Pin]) -> bool:
    """Whether another certificate may be pinned: nothing is, or one is in the last part of its life."""
    now_s = facts.context.now_s
    own = _own(pins, facts.remote)
    return not own or any(pin.is_replaceable(now_s) and not pin.is_over(now_s) for pin in own)
