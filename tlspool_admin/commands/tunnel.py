"""``tlspool tunnel server|client``: TLS for programs that have never heard of it."""

from __future__ import annotations

import argparse
import resource
import socket
import sys
from collections.abc import Sequence

import libstub
from libstub.starttls import RemoteAuth, make_request, patience_of
from tlspool_admin import endpoints
from tlspool_admin.loop import Ask
from tlspool_admin.options import common
from tlspool_admin.preambles.options import add_options, add_send_proxy, preamble_of, targets_of
from tlspool_admin.table import clean
from tlspool_admin.tunnel import CONNECT_S, OTHER_FDS, SETUP_FDS, SETUPS, Plan, Tunnel
from tlspool_common import settings
from tlspool_common.appwire import Flag
from tlspool_common.identity import parse_untrusted
from tlspool_common.log import Log

_SERVER = "Accept TLS, and pass the plaintext on to another socket."
_CLIENT = "Accept plaintext, and pass it on over TLS."
_MORE = """\
H:P is an address and a port, [::1]:443 for IPv6, or the path of a UNIX socket; --listen :P is all interfaces,
and port 0 one that is free.  Names are looked up once, at start.  Sessions end with the tunnel, unless --linger."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its two sides."""
    parser = subparsers.add_parser("tunnel", help="put TLS around the connections of other programs")
    sides = parser.add_subparsers(dest="side", required=True, metavar="server|client")
    for side, text in (("server", _SERVER), ("client", _CLIENT)):
        one = sides.add_parser(side, parents=[common()], help=text, description=f"{text}  {_MORE}")
        one.add_argument("--listen", metavar="H:P", required=True, help="where to accept connections")
        one.add_argument("--connect", metavar="H:P", required=True, help="where to connect to for each of them")
        if side == "server":
            one.add_argument("--localid", metavar="ID", required=True, help="who we are")
            one.add_argument(
                "--client-auth",
                choices=("require", "request", "ignore"),
                default="require",
                help="whether clients need a certificate (default: require)",
            )
        else:
            one.add_argument("--remoteid", metavar="ID", required=True, help="who the server must prove to be")
            one.add_argument("--localid", metavar="ID", default="", help="who we are (default: the pool chooses)")
        one.add_argument("--alpn", metavar="NAME,...", default="", help="protocols for ALPN, most preferred first")
        one.add_argument("--service", metavar="NAME", default="", help="IANA service name, for policy and logs")
        one.add_argument("--timeout", metavar="S", type=float, help="for a handshake (default: the pool's)")
        one.add_argument(
            "--connect-timeout",
            metavar="S",
            type=float,
            default=CONNECT_S,
            help="for connecting (default: %(default)s)",
        )
        one.add_argument(
            "--setups",
            metavar="N",
            type=int,
            default=SETUPS,
            help="connections set up at once; more wait to be accepted (default: %(default)s)",
        )
        add_options(one, server=True, client=side == "client")
        add_send_proxy(one)
        one.add_argument("--linger", action="store_true", help="sessions go on when the tunnel ends")
        one.set_defaults(run=run, usage_error=one.error)


def run(args: argparse.Namespace) -> int:
    """Run a tunnel until SIGTERM or SIGINT."""
    try:
        plan = plan_of(args)
        libstub.Pool(plan.ask.pool_path).ping()
        listeners = endpoints.listen(args.listen)
    except ValueError as error:
        args.usage_error(str(error))
    except libstub.PoolError as error:
        print(f"tlspool: {clean(str(error))}", file=sys.stderr)
        return 1
    serve(plan, listeners)
    return 0


def plan_of(args: argparse.Namespace) -> Plan:
    """Make the plan of a command line.

    Raises:
        ValueError: an address or a number cannot be.
        PoolError: of tlspool_common, an identity or the configuration is malformed.
        libstub.Misuse: another value cannot be.
    """
    remoteid = str(parse_untrusted(args.remoteid)) if args.side == "client" else ""
    localid = str(parse_untrusted(args.localid)) if args.localid else ""
    if args.setups < 1 or args.connect_timeout <= 0:
        raise ValueError("--setups and --connect-timeout must be above 0")
    if args.side == "server" and not localid:
        raise ValueError("--localid is needed: who we are")
    flags = Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT
    if args.side == "client":
        flags = Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER
    flags |= Flag.FORK if args.linger else Flag(0)
    names = [name for name in args.alpn.split(",") if name]
    auth: RemoteAuth = args.client_auth if args.side == "server" else "require"
    request, alpn = make_request(flags, localid, remoteid, args.service, args.timeout, names, auth)
    path = str(settings.load(args.config).socket_name) if getattr(args, "config", None) else libstub.socket_path()
    return Plan(
        ask=Ask(request, path, alpn, patience_of(args.timeout)),
        targets=targets_of(args),
        preamble=preamble_of(args, localid if args.side == "server" else remoteid, is_server=args.side == "server"),
        talk_s=args.protocol_timeout,
        setups=raise_limit(args.setups, SETUP_FDS, OTHER_FDS),
        connect_s=args.connect_timeout,
    )


def serve(plan: Plan, listeners: Sequence[socket.socket]) -> None:
    """Run the tunnel; the listeners are closed in the end."""
    tunnel = Tunnel(plan, listeners, Log("tunnel"))
    with tunnel.stopped_by_signals():
        for listener in listeners:
            print(f"ready on {endpoints.shown(listener.getsockname())}", flush=True)
        tunnel.run()


def raise_limit(wanted: int, fds: int, other_fds: int) -> int:
    """Have ``fds`` descriptors for each of so many connections, and others; or return for how many there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * fds + other_fds
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return max(1, (needed - other_fds) // fds)
