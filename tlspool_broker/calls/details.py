"""LOCAL_DETAILS: what protocol V2 has no field for, of a session that relays, or did until a moment ago."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.appwire import CTLKEY_B, Cmd


def handle(desk: Desk, call: Call) -> None:
    """Answer about a session that this connection controls."""
    ctlkey = call.frame.payload[:CTLKEY_B]  # it comes first, and the rest counts for nothing
    reply(desk, call, Cmd.LOCAL_DETAILS, desk.sessions.keys.details(call.connection, ctlkey).to_payload())
