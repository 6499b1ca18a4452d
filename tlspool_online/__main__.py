"""``python -m tlspool_online``: the helper that asks the network.  The broker starts it (spawn.py), nobody else.

    --fd N            the descriptor of its channel to the broker: one end of a SOCK_SEQPACKET pair
    --parent PID      the process that started it; it ends when that does
    --files-only      ask nothing of the network (setting online no)
    --private         this host, and private networks, may be asked (setting online_private yes)
    --port N          a TCP port that may be connected to, for each (setting online_ports; 80 if there is none)
    --crl-file PATH   a file with revocation lists, for each (setting crl_file)
    --log-level LEVEL
    --sandbox MODE    required, warn or off (setting sandbox)

Its start-up, in order:

1. close what was inherited but the channel, and give up what it never needs: new rights, files of its own, core files
2. enter the sandbox
3. read the files with revocation lists
4. say OnlineHello, serve until the channel is closed

What it says: RevocationTold to AskRevocation, StapleTold to AskStaple, each with the exchange number of the question,
within its deadline, and in no order.  Settings are arguments: where they change, the broker starts another one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from cryptography.utils import CryptographyDeprecationWarning

from tlspool_common import sandbox, sandbox_profiles
from tlspool_common.channel import ChannelBroken, from_fd
from tlspool_common.child import die_with_parent
from tlspool_common.errors import PoolError
from tlspool_common.fd import OwnedFd, open_fds
from tlspool_common.helping import EXIT_USAGE, give_up
from tlspool_common.log import LEVELS, Log
from tlspool_common.messages import Party
from tlspool_online.core import Options
from tlspool_online.shell import Shell
from tlspool_online.watch import Watched

_FDS = 512
"""Descriptors: a connection for each download, and few others."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tlspool-online", description="The TLS pool's helper; the broker starts it.")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the channel to the broker")
    parser.add_argument("--parent", type=int, required=True, help="process id of the broker")
    parser.add_argument("--files-only", action="store_true", help="ask nothing of the network")
    parser.add_argument("--private", action="store_true", help="ask this host and private networks, too")
    parser.add_argument("--port", type=int, action="append", help="a TCP port that may be asked (default: 80)")
    parser.add_argument("--crl-file", type=Path, action="append", default=[], help="a file with revocation lists")
    parser.add_argument("--sandbox", choices=sandbox.MODES, default=sandbox.REQUIRED, help="what must confine it")
    parser.add_argument("--log-level", choices=tuple(LEVELS), default="info")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the helper, and return its exit code."""
    args = arguments(argv)
    log = Log("online", args.log_level)
    for fd in open_fds() - {0, 1, 2, args.fd}:
        os.close(fd)
    # What strangers write into certificates is no news for standard error.
    warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning)
    die_with_parent(args.parent)
    give_up(_FDS)
    allowed = tuple(args.port or (80,))
    try:
        channel = from_fd(OwnedFd(args.fd), Party.ONLINE, Party.BROKER)
        sandbox.enter(sandbox_profiles.online(args.crl_file, not args.files_only, allowed), args.sandbox, log)
    except (ChannelBroken, PoolError) as error:
        log.error("online.refuses_to_start", detail=str(error))
        return EXIT_USAGE
    options = Options(not args.files_only, allowed)
    files = [Watched(path) for path in args.crl_file]

    async def serve() -> int:
        return await Shell(channel, options, args.private, files, log, os.getpid()).run()

    return asyncio.run(serve())


def run() -> NoReturn:
    """Run the helper, and end at once: a thread that waits for a name server is not waited for."""
    code = main()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
