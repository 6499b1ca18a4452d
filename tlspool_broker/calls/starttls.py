"""STARTTLS: secure the socket that comes along."""

from __future__ import annotations

from tlspool_broker import policy
from tlspool_broker.calls.call import Call, Desk
from tlspool_common.appwire import Facility, Flag, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side

_BY_DATABASES = frozenset({Code.LOCALID_UNKNOWN, Code.LOCALID_NOT_DISCLOSED, Code.RECORD_MALFORMED})
"""What is refused for what the databases say, and not for what the request does."""


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
    try:
        _begin(desk, call, request)
    except PoolError as error:
        caller, generation = call.connection.caller, desk.snapshots.newest
        desk.explain.turned_away(caller, request, generation if error.code in _BY_DATABASES else 0, error)
        raise


def _begin(desk: Desk, call: Call, request: Starttls) -> None:
    alpn = call.connection.alpn.pop(request.ctlkey, b"")
    policy.check_form(request.flags, call.passed, desk.settings)
    desk.sessions.admit(call.connection, request.ctlkey)
    allowed = desk.access.for_session(call.connection.caller, request.service)
    records = desk.snapshots.take()
    undecided = desk.chooser.plan(call.connection.caller, request)
    by_name = bool(desk.settings.default_localid)
    plan = undecided or policy.make_plan(request, records, allowed, named_by_client=by_name)
    as_server = None
    if policy.is_peer(request.flags):
        as_server = policy.make_plan(request, records, allowed, Side.SERVER, named_by_client=by_name)
    address = call.passed.address if call.passed is not None else ""
    desk.sessions.open(
        call.connection,
        call.frame.reqid,
        request,
        plan,
        records,
        call.take_fd(),
        alpn,
        as_server,
        remote_address=address,
        chooses=undecided is not None,
    )


def _ask_again(desk: Desk, call: Call, request: Starttls) -> None:
    """Ask the remote of a session that relays once more who it is."""
    if call.passed is not None:
        raise PoolError(Code.SUPERFLUOUS_FD, "RENEGOTIATE")
    policy.check_facility(Facility.STARTTLS, desk.settings)
    desk.reauth.ask(call.connection, call.frame.reqid, request)
