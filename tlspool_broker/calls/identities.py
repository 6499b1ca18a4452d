"""LOCAL_IDENTITIES: the final reply of a session that relays, once more; for who has reattached it."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.appwire import CTLKEY_B, Cmd


def handle(desk: Desk, call: Call) -> None:
    """Answer about a session that this connection controls."""
    ctlkey = call.frame.payload[:CTLKEY_B]  # it comes first, and the rest counts for nothing
    session = desk.sessions.keys.controlled(call.connection, ctlkey)
    reply(desk, call, Cmd.LOCAL_IDENTITIES, session.echo().to_payload())
