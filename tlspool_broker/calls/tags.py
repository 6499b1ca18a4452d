"""LOCAL_TAGS: what a RADIUS server calls the remote of a session, or whom it was asked about."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.aaawire import Tags
from tlspool_common.appwire import Cmd


def handle(desk: Desk, call: Call) -> None:
    """Answer with as many as fit, from the one that is asked for on."""
    key, first, *_ = Tags.FORM.unpack_from(call.frame.payload)  # the rest counts for nothing
    tags = desk.aaa.tags(call.connection, key)
    reply(desk, call, Cmd.LOCAL_TAGS, Tags.of(key, first, tags).to_payload())
