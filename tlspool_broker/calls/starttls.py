"""STARTTLS: secure the socket that comes along."""

from __future__ import annotations

from tlspool_broker import policy
from tlspool_broker.calls.call import Call, Desk
from tlspool_common.appwire import Facility, Flag, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side


def handle(desk: Desk, call: Call) -> None:
    """Check the request, and open a session; the reply comes from there.

    The checks are in this order: form of the fields, RENEGOTIATE, descriptor, facility, roles, flags of things
    we do not do, room, control key, identities, access rules and credentials.
    """
    # Said for this STARTTLS, whatever becomes of it.
    request = Starttls.from_payload_untrusted(call.frame.payload)
    if request.flags & Flag.RENEGOTIATE:
        _ask_again(desk, call, request)
        return
    alpn = call.connection.alpn.pop(request.ctlkey, b"")
    policy.check_form(request.flags, call.passed, desk.settings)
    desk.sessions.admit(call.connection, request.ctlkey)
    allowed = desk.access.for_session(call.connection.caller, request.service)
    undecided = desk.chooser.plan(call.connection.caller, request)
    plan = undecided or policy.make_plan(request, desk.records, allowed)
    is_peer = policy.is_peer(request.flags)
    as_server = policy.make_plan(request, desk.records, allowed, Side.SERVER) if is_peer else None
    desk.sessions.open(
        call.connection,
        call.frame.reqid,
        request,
        plan,
        call.take_fd(),
        alpn,
        as_server,
        chooses=undecided is not None,
    )


def _ask_again(desk: Desk, call: Call, request: Starttls) -> None:
    """Ask the remote of a session that relays once more who it is."""
    if call.passed is not None:
        raise PoolError(Code.SUPERFLUOUS_FD, "RENEGOTIATE")
    policy.check_facility(Facility.STARTTLS, desk.settings)
    desk.reauth.ask(call.connection, call.frame.reqid, request)
