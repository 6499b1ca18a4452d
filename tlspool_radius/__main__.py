"""``python -m tlspool_radius``: the helper that speaks RADIUS.  The broker starts it (spawn.py), nobody else.

    --fd N                the descriptor of its channel to the broker: one end of a SOCK_SEQPACKET pair
    --parent PID          the process that started it; it ends when that does
    --authn HOST:PORT     a server that authenticates, for each (setting radius_authn)
    --authz HOST:PORT     a server that authorises (radius_authz)
    --acct HOST:PORT      a server that accounts (radius_acct)
    --secret-file PATH    the file with shared secrets (radius_secret_file); no secret is on the command line
    --timeout-s S         how long a server may take (radius_timeout_s)
    --tries N             how often a server is asked (radius_tries)
    --dead-s S            how long a server that did not answer is left alone (radius_dead_s)
    --accept-unsigned     answers need no Message-Authenticator (radius_unsigned accept)
    --spool-dir PATH      where records wait (radius_spool_dir)
    --spool-records N     how many may (radius_spool_records)
    --dynamic ADDRESS     who may send requests of RFC 5176, for each (radius_dynamic)
    --listen ADDRESS:PORT where they come in (radius_dynamic_listen)
    --log-level LEVEL
    --sandbox MODE        required, warn or off (setting sandbox)

Its start-up, in order:

1. close what was inherited but the channel, and give up what it never needs: new rights, core files, many descriptors
2. read the file with secrets, open the socket for requests
3. enter the sandbox: from here on no file but the spool's can be opened for writing, and no secret can be read
4. open the spool, say RadiusHello, serve until the channel is closed

Settings are arguments, and secrets are read once: where they change, the broker starts another one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tlspool_common import sandbox, sandbox_profiles
from tlspool_common.channel import ChannelBroken, from_fd
from tlspool_common.child import die_with_parent
from tlspool_common.errors import PoolError
from tlspool_common.fd import OwnedFd, open_fds
from tlspool_common.helping import EXIT_USAGE, give_up
from tlspool_common.log import LEVELS, Log
from tlspool_common.messages import Party
from tlspool_radius import secrets_file
from tlspool_radius.asking import Manner
from tlspool_radius.core import Chance, RadiusCore
from tlspool_radius.servers import Purpose, Server
from tlspool_radius.shell import Shell
from tlspool_radius.sockets import listening

EXIT_CONFIG = 78
"""EX_CONFIG: the file with secrets, or the address to listen at, cannot be used."""

_FDS = 1024
"""Descriptors: 16 for each of 24 servers, the spool's, and few others."""


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text} must be HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="tlspool-radius", description="The TLS pool's helper; the broker starts it.")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the channel to the broker")
    parser.add_argument("--parent", type=int, required=True, help="process id of the broker")
    for option, what in (("--authn", "authenticates"), ("--authz", "authorises"), ("--acct", "accounts")):
        parser.add_argument(option, type=_address, action="append", default=[], help=f"a server that {what}")
    parser.add_argument("--secret-file", type=Path, help="the file with shared secrets")
    parser.add_argument("--timeout-s", type=float, default=2.0, help="how long a server may take to answer")
    parser.add_argument("--tries", type=int, default=2, help="how often a server is asked")
    parser.add_argument("--dead-s", type=float, default=60.0, help="how long a silent server is left alone")
    parser.add_argument("--accept-unsigned", action="store_true", help="answers need no Message-Authenticator")
    parser.add_argument("--spool-dir", type=Path, help="where records wait")
    parser.add_argument("--spool-records", type=int, default=1_000_000, help="how many may")
    parser.add_argument("--dynamic", action="append", default=[], help="an address that may send requests")
    parser.add_argument("--listen", type=_address, help="where requests come in")
    parser.add_argument("--sandbox", choices=sandbox.MODES, default=sandbox.REQUIRED, help="what must confine it")
    parser.add_argument("--log-level", choices=tuple(LEVELS), default="info")
    return parser.parse_args(argv)


def _secrets(path: Path | None, log: Log) -> secrets_file.Secrets:
    if path is None:
        return secrets_file.Secrets({})
    found = secrets_file.read(path)
    for line in found.short:
        log.warning("radius.secret_short", path=str(path), detail=f"{line}: fewer than {secrets_file.SHORT_B} bytes")
    return found


def _servers(args: argparse.Namespace, known: secrets_file.Secrets, log: Log) -> list[Server]:
    servers: list[Server] = []
    for purpose, addresses in (
        (Purpose.AUTHENTICATE, args.authn),
        (Purpose.AUTHORIZE, args.authz),
        (Purpose.ACCOUNT, args.acct),
    ):
        for host, port in addresses:
            secret = known.of(host, port)
            one = Server(len(servers) + 1, purpose, host, port, secret, secrets.randbelow(256))
            servers.append(one)
            if not secret:
                detail = "it has no line in radius_secret_file, and is not asked"
                log.error("radius.no_secret", server=one.name, purpose=purpose.value, detail=detail)
    return servers


def main(argv: Sequence[str] | None = None) -> int:
    """Run the helper, and return its exit code."""
    args = arguments(argv)
    log = Log("radius", args.log_level)
    for fd in open_fds() - {0, 1, 2, args.fd}:
        os.close(fd)
    die_with_parent(args.parent)
    give_up(_FDS)
    os.umask(0o077)
    listener: socket.socket | None = None
    try:
        channel = from_fd(OwnedFd(args.fd), Party.RADIUS, Party.BROKER)
    except ChannelBroken as error:
        log.error("radius.refuses_to_start", detail=str(error))
        return EXIT_USAGE
    try:
        known = _secrets(args.secret_file, log)
        servers = _servers(args, known, log)
        dynamic_secrets = {address: known.of(address) for address in args.dynamic}
        for address in (address for address, secret in dynamic_secrets.items() if not secret):
            log.error("radius.no_secret", server=address, purpose="dynamic", detail="what it sends is dropped")
        listener = listening(args.listen) if args.listen else None
        sandbox.enter(sandbox_profiles.radius(args.spool_dir if args.acct else None), args.sandbox, log)
    except secrets_file.BadSecrets as error:
        log.error("radius.refuses_to_start", detail=f"radius_secret_file: {args.secret_file} {error}")
        return EXIT_CONFIG
    except OSError as error:
        log.error("radius.refuses_to_start", detail=f"radius_dynamic_listen: {error.strerror}")
        return EXIT_CONFIG
    except PoolError as error:
        log.error("radius.refuses_to_start", detail=str(error))
        return EXIT_USAGE
    manner = Manner(args.timeout_s * 1000, args.tries, args.dead_s * 1000, args.accept_unsigned)
    chance = Chance(lambda: secrets.token_bytes(16), random.SystemRandom().random)
    core = RadiusCore(servers, manner, dynamic_secrets, chance, os.getpid())
    spool = (args.spool_dir, args.spool_records) if args.acct and args.spool_dir else None

    async def serve() -> int:
        return await Shell(channel, core, spool, listener, log).run()

    return asyncio.run(serve())


def run() -> NoReturn:
    """Run the helper, and end at once: a thread that waits for a name server is not waited for."""
    code = main()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
