"""LOCAL_AUTHENTICATE: is this somebody's password?  A RADIUS server knows."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk
from tlspool_common.aaawire import Authenticate
from tlspool_common.appwire import Cmd
from tlspool_common.messages_radius import Purpose


def handle(desk: Desk, call: Call) -> None:
    """Ask; the reply comes from there."""
    asked = Authenticate.from_payload_untrusted(call.frame.payload)
    desk.aaa.ask(
        call.connection,
        call.frame.reqid,
        Cmd.LOCAL_AUTHENTICATE,
        Purpose.AUTHENTICATE,
        asked.key,
        asked.timeout_ms,
        password_secret=asked.password_secret,
    )
