"""LIDENTRY_REGISTER: a program lets people choose who they are; and LOCAL_ASKER: on whose behalf it is asked."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.appwire import Cmd


def register(desk: Desk, call: Call) -> None:
    """Take the registration; there is no reply but the first callback."""
    desk.chooser.register(call.connection, call.frame)


def asker(desk: Desk, call: Call) -> None:
    """Say which application needs the identity."""
    reply(desk, call, Cmd.LOCAL_ASKER, desk.chooser.asker(call.connection).to_payload())
