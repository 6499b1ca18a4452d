"""Checks of RADIUS: what the configuration names for it, and what the broker says of servers and spool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tlspool_admin.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from tlspool_admin.table import objects
from tlspool_common.setting_remarks import Remark

CHECK = "radius"
OLD_S = 3600
"""For a record to wait: a server that is restarted, or a link that is down for a while, is no finding."""

DOWN = ("dead", "no-secret")
"""States of a server that is not asked."""

_LEVELS = {"error": ERROR, "warning": WARNING, "note": NOTE}
_LOOK = "is it there, does it know this host, has it the same secret, does it sign its answers? tlspool radius status"


def settings(remarks: Iterable[Remark]) -> list[Finding]:
    """Return what was found about settings."""
    return [
        Finding(_LEVELS[one.level], CHECK, f"{one.keyword} {one.subject}".rstrip(), one.text, one.remedy)
        for one in remarks
    ]


def servers(answer: Mapping[str, object] | str) -> list[Finding]:
    """Judge the broker's answer to ``radius``; a text is why there is none."""
    if isinstance(answer, str):
        return [Finding(ERROR, CHECK, "", answer, "see the log of tlspool-broker")]
    if "servers" not in answer:
        text = "the helper that speaks RADIUS does not answer: nobody is let in where it has to be asked"
        return [Finding(ERROR, CHECK, "tlspool-radius", text, "look for helper. in the log of tlspool-broker")]
    found = []
    rows = objects(answer.get("servers"))
    alive = {row.get("purpose") for row in rows if row.get("state") not in DOWN}
    for row in rows:
        subject = f"{row.get('purpose')} {row.get('server')}"
        if row.get("state") not in DOWN:
            found.append(Finding(OK, CHECK, subject, f"is {row.get('state')}"))
        elif row.get("purpose") in alive:
            text = f"is {row.get('state')}, and another one is asked: {row.get('trouble') or 'nothing is known of why'}"
            found.append(Finding(WARNING, CHECK, subject, text, _LOOK))
        else:
            text = f"is {row.get('state')}, and there is no other: {row.get('trouble') or 'nothing is known of why'}"
            found.append(Finding(ERROR, CHECK, subject, text, _LOOK))
    spool = answer.get("spool")
    if isinstance(spool, Mapping):
        text = f"is {spool.get('state')}: {spool.get('trouble')}"
        found.append(Finding(ERROR, CHECK, "spool", text, "see radius_spool_dir, and radius.spool in the broker's log"))
    oldest, waiting = answer.get("oldest_s"), answer.get("waiting")
    if isinstance(oldest, int) and oldest > OLD_S:
        text = f"{waiting} accounting records wait, the oldest for {oldest} s"
        found.append(Finding(WARNING, CHECK, "spool", text, "tlspool radius spool shows them, --retry sends them"))
    return found
