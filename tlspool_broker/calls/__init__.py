"""The commands of applications: one file each, and the table that finds them.

What is not in the table is no request: unknown codes, and those that only we send or that only answer.
"""

from __future__ import annotations

from tlspool_broker.calls import (
    account,
    authenticate,
    authorize,
    control,
    details,
    identities,
    info,
    lidentry,
    options,
    pinentry,
    ping,
    prng,
    starttls,
    subject,
    tags,
)
from tlspool_broker.calls.call import Call, Desk, Handler
from tlspool_common.appwire import Cmd

__all__ = ["HANDLERS", "NEEDS_STARTTLS", "Call", "Desk", "Handler"]

HANDLERS: dict[int, Handler] = {
    Cmd.PING: ping.handle,
    Cmd.STARTTLS: starttls.handle,
    Cmd.LOCAL_DETAILS: details.handle,
    Cmd.LOCAL_IDENTITIES: identities.handle,
    Cmd.LOCAL_OPTIONS: options.handle,
    Cmd.LOCAL_ASKER: lidentry.asker,
    Cmd.LOCAL_TAGS: tags.handle,
    Cmd.LOCAL_SUBJECT: subject.handle,
    Cmd.LOCAL_AUTHENTICATE: authenticate.handle,
    Cmd.LOCAL_AUTHORIZE: authorize.handle,
    Cmd.LOCAL_ACCOUNT_START: account.start,
    Cmd.LOCAL_ACCOUNT_UPDATE: account.update,
    Cmd.LOCAL_ACCOUNT_END: account.end,
    Cmd.PINENTRY: pinentry.handle,
    Cmd.PRNG: prng.handle,
    Cmd.INFO: info.handle,
    Cmd.CONTROL_DETACH: control.detach,
    Cmd.CONTROL_REATTACH: control.reattach,
    Cmd.LIDENTRY_REGISTER: lidentry.register,
}

NEEDS_STARTTLS = frozenset(
    {
        Cmd.PRNG,
        Cmd.INFO,
        Cmd.CONTROL_DETACH,
        Cmd.CONTROL_REATTACH,
        Cmd.LIDENTRY_REGISTER,
        Cmd.LOCAL_OPTIONS,
        Cmd.LOCAL_DETAILS,
        Cmd.LOCAL_ASKER,
        Cmd.LOCAL_IDENTITIES,
        Cmd.LOCAL_TAGS,
    }
)
"""Commands that are refused when the facility is denied; STARTTLS looks for itself, in the order of its checks."""
