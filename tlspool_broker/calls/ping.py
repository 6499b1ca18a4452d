"""PING: is there a pool, and what can it do?"""

from __future__ import annotations

from tlspool_broker import policy
from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.appwire import IDENTITY, Cmd, Ping


def handle(desk: Desk, call: Call) -> None:
    """Answer with who we are, and those of the wanted facilities that are granted.

    What the application calls itself is not read, so that PING never fails.
    """
    _, wanted = Ping.FORM.unpack_from(call.frame.payload)
    reply(desk, call, Cmd.PING, Ping(IDENTITY, wanted & policy.facilities(desk.settings)).to_payload())
