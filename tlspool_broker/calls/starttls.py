"""STARTTLS: secure the socket that comes along."""

from __future__ import annotations

from tlspool_broker import policy
from tlspool_broker.calls.call import Call, Desk
from tlspool_common.appwire import Starttls


def handle(desk: Desk, call: Call) -> None:
    """Check the request, and open a session; the reply comes from there.

    The checks are in this order: form of the fields, RENEGOTIATE, descriptor, facility, roles, flags of things
    we do not do, room, control key, identities and credentials.
    """
    # Said for this STARTTLS, whatever becomes of it.
    request = Starttls.from_payload_untrusted(call.frame.payload)
    alpn = call.connection.alpn.pop(request.ctlkey, b"")
    policy.check_form(request.flags, call.passed, desk.settings)
    desk.sessions.admit(call.connection, request.ctlkey)
    plan = policy.make_plan(request, desk.records)
    desk.sessions.open(call.connection, call.frame.reqid, request, plan, call.take_fd(), alpn)
