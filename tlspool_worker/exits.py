"""How a worker ends, in a number that its master can read.

The master reaps a worker with a wait status; ``meaning`` says in words what it was, for the log and for the
broker (WorkerGone).  Numbers never change their meaning.  1 and 2 are left to Python itself (an uncaught
exception, a command line that is no good), and numbers above 128 to shells, which say 128 + signal.
"""

from __future__ import annotations

import signal
from enum import IntEnum


class Exit(IntEnum):
    """Exit code of a worker, and the last two of the master: sysexits.h has no number for the first of them."""

    OK = 0
    UNCAUGHT = 1
    CHANNEL_BROKEN = 10
    BUG = 11
    START = 12
    PROVIDER = 13
    CONFIGURATION = 78  # EX_CONFIG


_MEANINGS = {
    Exit.OK: "ended in order",
    Exit.UNCAUGHT: "an exception nobody caught; see standard error",
    Exit.CHANNEL_BROKEN: "the broker broke the table of messages, and cannot be trusted",
    Exit.BUG: "a bug in the worker; see the line worker.bug in the log",
    Exit.PROVIDER: "the OpenSSL provider is not in effect; was it built?",
    Exit.CONFIGURATION: "the configuration is wrong, or a socket cannot be had; see standard error",
    Exit.START: "could not start: OpenSSL or the channel is unfit; see the log",
}


def meaning(status: int) -> str:
    """Say what an exit code means; a signal is 128 + its number, or negative as in waitstatus_to_exitcode."""
    number = -status if status < 0 else status - 128 if status > 128 else 0
    if number:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    try:
        return _MEANINGS[Exit(status)]
    except ValueError:
        return f"ended with exit code {status}, which has no meaning"
