"""PINENTRY: a program wants to ask people for PINs.  That is between it and keyd: its connection goes there.

From here on this process reads nothing from it any more, so no PIN ever comes here.
"""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import PinService
from tlspool_common.servicewire import Pinentry


def handle(desk: Desk, call: Call) -> None:
    """Hand the connection over to keyd, which replies from now on.

    Raises:
        PoolError: SERVICE_SHARED, SERVICE_DENIED, NO_KEYD.
    """
    connection = call.connection
    if connection.exchanges or connection.controlled or desk.chooser.holds(connection):
        raise PoolError(Code.SERVICE_SHARED)
    caller = connection.caller
    if not desk.settings.serves_pins(caller.uid, (caller.gid, *caller.groups)):
        raise PoolError(Code.SERVICE_DENIED, f"user {caller.uid}")
    flags, _, timeout_us, *_ = Pinentry.FORM.unpack_from(call.frame.payload)
    desk.keyd.hand_over(connection, PinService(reqid=call.frame.reqid, flags=flags, timeout_us=timeout_us))
    desk.connections.remove(connection.connection_id)
