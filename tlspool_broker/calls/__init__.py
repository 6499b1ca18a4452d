"""The commands of applications: one file each, and the table that finds them.

What is not in the table is no request: unknown codes, and those that only we send or that only answer.
"""

from __future__ import annotations

from tlspool_broker.calls import details, options, ping, starttls, unsupported
from tlspool_broker.calls.call import Call, Desk, Handler
from tlspool_common.appwire import Cmd

__all__ = ["HANDLERS", "Call", "Desk", "Handler"]

HANDLERS: dict[int, Handler] = {
    Cmd.PING: ping.handle,
    Cmd.STARTTLS: starttls.handle,
    Cmd.LOCAL_DETAILS: details.handle,
    Cmd.LOCAL_OPTIONS: options.handle,
    Cmd.PINENTRY: unsupported.handle,
    Cmd.PRNG: unsupported.handle,
    Cmd.INFO: unsupported.handle,
    Cmd.CONTROL_DETACH: unsupported.handle,
    Cmd.CONTROL_REATTACH: unsupported.handle,
    Cmd.LIDENTRY_REGISTER: unsupported.handle,
}
