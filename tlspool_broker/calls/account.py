"""LOCAL_ACCOUNT_START, LOCAL_ACCOUNT_UPDATE, LOCAL_ACCOUNT_END: what somebody is to be billed for."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk
from tlspool_common.aaawire import AccountCount, AccountStart
from tlspool_common.appwire import Cmd


def start(desk: Desk, call: Call) -> None:
    """Begin; the reply comes when that is on the disk."""
    desk.aaa.start(call.connection, call.frame.reqid, AccountStart.from_payload_untrusted(call.frame.payload))


def update(desk: Desk, call: Call) -> None:
    """Say how many there are by now."""
    asked = AccountCount.from_payload_untrusted(call.frame.payload)
    desk.aaa.count(call.connection, call.frame.reqid, Cmd.LOCAL_ACCOUNT_UPDATE, asked)


def end(desk: Desk, call: Call) -> None:
    """Say how many there were in the end."""
    asked = AccountCount.from_payload_untrusted(call.frame.payload)
    desk.aaa.count(call.connection, call.frame.reqid, Cmd.LOCAL_ACCOUNT_END, asked)
