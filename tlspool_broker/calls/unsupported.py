"""Commands of protocol V2 that this version knows by name only."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk
from tlspool_common.appwire import Cmd
from tlspool_common.errors import Code, PoolError


def handle(_desk: Desk, call: Call) -> None:
    """Refuse."""
    raise PoolError(Code.NOT_SUPPORTED_YET, Cmd(call.frame.cmd).name)
