"""LOCAL_SUBJECT: who is meant by the next question, or accounting, with a key that is no session's."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.aaawire import Subject
from tlspool_common.appwire import Cmd


def handle(desk: Desk, call: Call) -> None:
    """Keep the name for the question to come; whether it may be asked about is looked at then."""
    desk.aaa.name(call.connection, Subject.from_payload_untrusted(call.frame.payload))
    reply(desk, call, Cmd.SUCCESS)
