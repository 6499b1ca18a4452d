"""Questions of operators about RADIUS, as event and effect of the core (events.py)."""

from __future__ import annotations

from tlspool_common.messages import AccessTold, AskAccess, AskRadius, RadiusTold
from tlspool_common.record import record


@record
class RadiusAsked:
    """An operator has a question; RadiusHeard follows, with the same number."""

    number: int
    message: AskAccess | AskRadius


@record
class RadiusHeard:
    """Tell who asked what the helper has said; None: nothing, or there is none."""

    number: int
    answer: AccessTold | RadiusTold | None
