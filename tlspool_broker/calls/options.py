"""LOCAL_OPTIONS: what protocol V2 has no field for, said before the STARTTLS with the same control key."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.appwire import Cmd, Options
from tlspool_common.errors import Code, PoolError


def handle(desk: Desk, call: Call) -> None:
    """Keep the options for the STARTTLS to come over this connection."""
    options = Options.from_payload_untrusted(call.frame.payload)
    kept = call.connection.alpn
    if options.ctlkey not in kept and len(kept) >= desk.settings.max_requests_per_connection:
        raise PoolError(Code.TOO_MANY_REQUESTS, "options without STARTTLS")
    kept[options.ctlkey] = options.alpn
    reply(desk, call, Cmd.SUCCESS)
