"""Sessions that a server wants ended or changed (RFC 5176): which are meant, and what is done to them.

A session is meant that has all that the request names: Acct-Session-Id, and attributes as they were sent about it.
The helper (tlspool_radius) has seen to it that the server may ask.  A request that names no session is not understood
as one for all of them.

    Disconnect-Request   the session ends, with close_notify to its remote
    CoA-Request          Session-Timeout and Idle-Timeout count from now on; Filter-Id replaces all tags
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tlspool_broker.accounting import Accounting, End
from tlspool_broker.out import Out
from tlspool_broker.radius_grant import Admission
from tlspool_broker.session import Session
from tlspool_common.messages import DynamicAsked, DynamicTold
from tlspool_common.messages_radius import Dynamic

MISSING_ATTRIBUTE, NOT_FOUND = 402, 503
"""Error-Cause (RFC 5176 section 3.5): nothing says which session, or what to change; there is no such session."""

TIMEOUT, IDLE, TAGS = 1, 2, 4
"""Bits of DynamicAsked.changes."""

_WHOSE = frozenset({"NAS-IP-Address", "NAS-IPv6-Address", "NAS-Identifier"})
"""Say which of several hosts is meant, or which resource of it, and no session (RFC 5176 section 3)."""

MOST = 2**16 - 1
"""Sessions that one request can be about: DynamicTold says no higher number."""


class DynamicAuthorization:
    """Takes requests."""

    def __init__(self, out: Out, accounting: Accounting, end: End) -> None:
        self._out = out
        self._accounting = accounting
        self._end = end

    def asked(self, request: DynamicAsked) -> DynamicTold:
        """Do what a server wants, and say to how many sessions it was done."""
        names_one = request.acct_id or any(one.partition("=")[0] not in _WHOSE for one in request.attributes)
        is_change = request.dynamic is Dynamic.CHANGE
        if not names_one or (is_change and not request.changes & (TIMEOUT | IDLE | TAGS)):
            return self._told(request, 0, MISSING_ATTRIBUTE)
        found = list(self._meant(request))[:MOST]
        for session, access in found:
            if is_change:
                self._change(session, access, request)
            else:
                self._out.note("info", "radius.disconnect", **_whose(session, access), server=request.server)
                self._end(session, f"radius {request.server}")
        return self._told(request, len(found), 0 if found else NOT_FOUND)

    def _meant(self, request: DynamicAsked) -> Iterator[tuple[Session, Admission]]:
        wanted = frozenset(request.attributes)
        for session in self._accounting:
            access = session.access
            if access is None or (request.acct_id and access.acct_id != request.acct_id):
                continue
            if wanted <= frozenset(access.attributes):
                yield session, access

    def _change(self, session: Session, access: Admission, request: DynamicAsked) -> None:
        changes = request.changes
        session.access = replace(
            access,
            session_timeout_s=request.session_timeout_s if changes & TIMEOUT else access.session_timeout_s,
            idle_timeout_s=request.idle_timeout_s if changes & IDLE else access.idle_timeout_s,
            tags=request.tags if changes & TAGS else access.tags,
        )
        self._out.note(
            "info",
            "radius.change",
            **_whose(session, access),
            server=request.server,
            session_timeout_s=session.access.session_timeout_s,
            idle_timeout_s=session.access.idle_timeout_s,
            tags=" ".join(session.access.tags),
        )
        self._accounting.changed(session, timed=bool(changes & TIMEOUT))

    def _told(self, request: DynamicAsked, sessions: int, error_cause: int) -> DynamicTold:
        self._out.note(
            "debug" if sessions else "warning",
            "radius.dynamic",
            server=request.server,
            dynamic=request.dynamic.name.lower(),
            acct_id=request.acct_id,
            attributes=" ".join(request.attributes),
            sessions=sessions,
            error_cause=error_cause,
        )
        return DynamicTold(sessions=sessions, error_cause=error_cause)


def _whose(session: Session, access: Admission) -> dict[str, str | int]:
    return {
        "session": session.session_id,
        "acct_id": access.acct_id,
        "caller": session.caller.label,
        "uid": session.caller.uid,
        "localid": session.localid,
        "remoteid": session.remoteid,
    }
