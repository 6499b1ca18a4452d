"""``tlspool run -- CMD``: a program whose standard input and output are a TLS session."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys

import libstub
from libstub.starttls import RemoteAuth, make_request, patience_of
from tlspool_admin import endpoints, oneshot
from tlspool_admin.commands.tunnel import raise_limit
from tlspool_admin.endpoints import shown
from tlspool_admin.inetd import CHILD_FDS, CHILDREN, Inetd, Service, environment
from tlspool_admin.loop import Ask
from tlspool_admin.oneshot import Report, Unable
from tlspool_admin.options import common
from tlspool_admin.preambles.options import add_options, preamble_of, targets_of
from tlspool_admin.preambles.proxyheader import origin_of
from tlspool_admin.preambles.whole import Meeting, Preamble
from tlspool_admin.table import clean
from tlspool_admin.tunnel import CONNECT_S, OTHER_FDS
from tlspool_common import settings
from tlspool_common.appwire import Flag
from tlspool_common.fd import OwnedFd
from tlspool_common.identity import parse_untrusted
from tlspool_common.log import Log

_TEXT = """\
Run a program with a TLS session as its standard input and output: one for each connection that is accepted, or one
for a connection that is made.  What is known of the session is in its environment: TLSPOOL_REMOTEID and others."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    usage = """tlspool run --listen H:P --localid ID [OPTIONS] -- CMD ARGS
       tlspool run --accept-on-stdin --localid ID [OPTIONS] -- CMD ARGS
       tlspool run --connect H:P --remoteid ID [OPTIONS] [-- CMD ARGS]"""
    parser = subparsers.add_parser(
        "run", parents=[common()], help="run a program with TLS as its input and output", description=_TEXT, usage=usage
    )
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--listen", metavar="H:P", help="accept connections, and run CMD for each")
    ways.add_argument("--accept-on-stdin", action="store_true", help="standard input is an accepted connection")
    ways.add_argument("--connect", metavar="H:P", help="connect to a server; without CMD copy stdin and stdout")
    parser.add_argument("--localid", metavar="ID", default="", help="who we are (as client: the pool chooses)")
    parser.add_argument(
        "--remoteid", metavar="ID", default="", help="who the server, or every client, must prove to be"
    )
    parser.add_argument(
        "--client-auth",
        choices=("require", "request", "ignore"),
        default="require",
        help="whether clients need a certificate (default: require)",
    )
    parser.add_argument("--alpn", metavar="NAME,...", default="", help="protocols for ALPN, most preferred first")
    parser.add_argument("--service", metavar="NAME", default="", help="IANA service name, for policy and logs")
    parser.add_argument("--timeout", metavar="S", type=float, help="for a handshake (default: the pool's)")
    parser.add_argument(
        "--connect-timeout", metavar="S", type=float, default=CONNECT_S, help="for connecting (default: %(default)s)"
    )
    parser.add_argument(
        "--children",
        metavar="N",
        type=int,
        default=CHILDREN,
        help="programs at once, with connections being set up (default: %(default)s)",
    )
    add_options(parser, server=True, client=True)
    parser.add_argument("--linger", action="store_true", help="programs and sessions go on when this ends")
    parser.add_argument("command", metavar="CMD", nargs="*", help="the program and its arguments, behind --")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Serve, or become the program."""
    try:
        preamble = _checked(args)
        ask = _ask(args)
        if args.listen:
            return _listen(args, ask, preamble)
    except ValueError as error:
        args.usage_error(str(error))
    except libstub.PoolError as error:
        print(f"tlspool: {clean(str(error))}", file=sys.stderr)
        return 1
    return _once(args, ask, preamble)


def _checked(args: argparse.Namespace) -> Preamble:
    """Check what does not go together.

    Raises:
        ValueError: something does not.
        PoolError: of tlspool_common, an identity is malformed.
    """
    is_server = not args.connect
    if is_server and not args.localid:
        raise ValueError("--localid is needed: who we are")
    if not is_server and not args.remoteid:
        raise ValueError("--remoteid is needed with --connect: who the server must prove to be")
    if is_server and not args.command:
        raise ValueError("there is no program to run: write it behind --")
    if args.command and shutil.which(args.command[0]) is None:
        raise ValueError(f"{args.command[0]!r} is no program that can be found")
    if args.via and is_server:
        raise ValueError("--via goes with --connect")
    if args.accept_proxy and not is_server:
        raise ValueError("--accept-proxy does not go with --connect")
    if args.children < 1 or args.connect_timeout <= 0:
        raise ValueError("--children and --connect-timeout must be above 0")
    preamble = preamble_of(args, args.localid if is_server else args.remoteid, is_server=is_server)
    if is_server and preamble.asks_backend:
        raise ValueError(
            f"with {args.protocol} a server speaks before there is TLS, so before there is CMD: "
            "let CMD listen, and put `tlspool tunnel server` in front"
        )
    return preamble


def _ask(args: argparse.Namespace) -> Ask:
    """Return what the pool is asked.

    Raises:
        PoolError: of tlspool_common, an identity or the configuration is malformed.
        libstub.Misuse: another value cannot be.
    """
    flags = Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT
    if args.connect:
        flags = Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER
    if args.linger or not args.listen:
        flags |= Flag.FORK  # a program that takes our place has no connection to the pool
    ids = [str(parse_untrusted(one)) if one else "" for one in (args.localid, args.remoteid)]
    names = [name for name in args.alpn.split(",") if name]
    auth: RemoteAuth = args.client_auth if not args.connect else "require"
    request, alpn = make_request(flags, ids[0], ids[1], args.service, args.timeout, names, auth)
    path = str(settings.load(args.config).socket_name) if getattr(args, "config", None) else libstub.socket_path()
    return Ask(request, path, alpn, patience_of(args.timeout))


def _listen(args: argparse.Namespace, ask: Ask, preamble: Preamble) -> int:
    """Serve until SIGTERM or SIGINT."""
    libstub.Pool(ask.pool_path).ping()
    listeners = endpoints.listen(args.listen)
    children = raise_limit(args.children, CHILD_FDS, OTHER_FDS)
    service = Service(ask, args.command, preamble, children, args.protocol_timeout)
    inetd = Inetd(service, listeners, Log("run"))
    with inetd.stopped_by_signals():
        for listener in listeners:
            print(f"ready on {shown(listener.getsockname())}", flush=True)
        inetd.run()
    return 0


def _once(args: argparse.Namespace, ask: Ask, preamble: Preamble) -> int:
    """Secure one connection, and become the program, or copy."""
    report = Report.beside(0) if args.accept_on_stdin else Report()
    remote = "-"
    try:
        if args.accept_on_stdin:
            sock = oneshot.standard_input()
        else:
            sock = oneshot.connected(targets_of(args), args.connect_timeout)
        with sock:
            meeting = Meeting(origin_of(sock), secrets.token_hex(8))
            remote = shown(meeting.origin.source) if meeting.origin else "local"
            ours, theirs = oneshot.pair(oneshot.agree(preamble, sock, meeting, args.protocol_timeout))
            crypt = OwnedFd(sock.detach())
        with ours, libstub.Pool(ask.pool_path) as pool:
            plain = OwnedFd(theirs.detach())
            session = pool.starttls(ask.request, crypt, alpn=ask.alpn, plain=plain, patience_s=ask.patience_s)
            pool.close()  # the session goes on
            if args.command:
                return oneshot.become(args.command, ours, environment(session, meeting.origin), report)
            return oneshot.pump(ours)
    except (ValueError, OSError, Unable, libstub.PoolError) as error:
        report.failed(remote, *oneshot.cause_of(error))
        return 1
