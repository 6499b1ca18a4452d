"""LOCAL_AUTHORIZE: may somebody, who has proved who it is, have this?"""

from __future__ import annotations

from tlspool_broker.aaa import about
from tlspool_broker.calls.call import Call, Desk
from tlspool_common.aaawire import Authorize
from tlspool_common.appwire import Cmd
from tlspool_common.messages_radius import Purpose


def handle(desk: Desk, call: Call) -> None:
    """Ask; the reply comes from there."""
    asked = Authorize.from_payload_untrusted(call.frame.payload)
    desk.aaa.ask(
        call.connection,
        call.frame.reqid,
        Cmd.LOCAL_AUTHORIZE,
        Purpose.AUTHORIZE,
        asked.key,
        asked.timeout_ms,
        more=about(asked.kind, asked.instance),
    )
