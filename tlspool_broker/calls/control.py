"""CONTROL_DETACH and CONTROL_REATTACH: which connection controls a session.  Flags and name have no use."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.appwire import Cmd, Control


def detach(desk: Desk, call: Call) -> None:
    """Let go of a session: it does not end with this connection any more."""
    desk.sessions.keys.detach(call.connection, _ctlkey_of(call))
    reply(desk, call, Cmd.SUCCESS)


def reattach(desk: Desk, call: Call) -> None:
    """Take a session that no connection controls."""
    desk.sessions.keys.reattach(call.connection, _ctlkey_of(call))
    reply(desk, call, Cmd.SUCCESS)


def _ctlkey_of(call: Call) -> bytes:
    _, ctlkey, _ = Control.FORM.unpack_from(call.frame.payload)  # the name counts for nothing, so it may be anything
    return bytes(ctlkey)
