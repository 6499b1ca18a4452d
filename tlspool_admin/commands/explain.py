"""``tlspool explain``: why a session was accepted or refused; or whether a certificate would be."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tlspool_admin.catalog import help_of
from tlspool_admin.options import ask_broker, common, number
from tlspool_admin.table import clean, objects, paint, print_json, print_warnings, table, texts

_TEXT = """\
Tells why a session was accepted or refused: which rule decided, by which generation of the databases, what each part
of the expressions came to, and which field of the certificate to look at.  The broker remembers the last thousand.
With --certificate nothing is connected: would a remote that shows this certificate be accepted for a service, as the
pool is now?  What depends on a handshake is not known then, unless --tls, --cipher and --group say it."""

_SAID = (
    # field of an account: words
    ("wanted", "expected"),
    ("rule", "rule"),
    ("generation", "generation"),
    ("field", "look at"),
    ("remedy", "what to do"),
    ("missing", "not known"),
)
_FACTS = (
    # field of what the remote showed: words
    ("subject", "subject"),
    ("names", "names"),
    ("usages", "for"),
    ("strengths", "keys"),
    ("leaf_sha256", "SHA-256"),
    ("anchor_sha256", "anchor"),
)

_COUNT = number("number below 100000", below=100000)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("explain", parents=[common()], help=help_of("explain"), description=_TEXT)
    parser.add_argument("session", nargs="?", type=_session, metavar="SESSION|last", help="default: a list of the last")
    parser.add_argument(
        "-n",
        type=_COUNT,
        default=20,
        metavar="N",
        help="how many to list (default: %(default)s)",
    )
    parser.add_argument("--refused", action="store_true", help="list only those that were refused")
    dry = parser.add_argument_group("would a certificate be accepted")
    dry.add_argument("--certificate", type=Path, metavar="FILE", help="what the remote shows: leaf, then its issuers")
    dry.add_argument("--service", metavar="NAME", default="", help="IANA service name, as the application gives it")
    dry.add_argument("--as", dest="localid", metavar="ID", default="", help="who we would be")
    dry.add_argument(
        "--remote",
        metavar="ID",
        default="",
        help="who the remote has to be (default: whom its certificate names first; a server takes anybody)",
    )
    dry.add_argument("--tls", choices=("1.2", "1.3"), default="", help="version of the handshake (default: not known)")
    dry.add_argument("--cipher", metavar="NAME", default="", help="its cipher, as OpenSSL names it")
    dry.add_argument("--group", metavar="NAME", default="", help="its key exchange, such as X25519MLKEM768")
    dry.add_argument(
        "--domain-represents-user",
        action="store_true",
        help="a domain may speak for its users (the application says so)",
    )
    roles = dry.add_mutually_exclusive_group()
    roles.add_argument("--client", action="store_true", help="we are the client (the default)")
    roles.add_argument("--server", action="store_true", help="we are the server")
    parser.set_defaults(run=run, usage_error=parser.error)


def _session(text: str) -> str:
    if text == "last" or (text.isascii() and text.isdigit() and len(text) < 20):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is neither the number of a session nor last")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.certificate is not None:
        if args.session is not None:
            args.usage_error("give a session or --certificate, not both")
        return _dry(args)
    of_dry = ("service", "localid", "remote", "tls", "cipher", "group", "server", "client")
    if any(getattr(args, name) for name in of_dry):
        args.usage_error(
            "--service, --as, --remote, --tls, --cipher, --group, --client and --server need --certificate"
        )
    if args.session is None:
        return _list(args)
    answer = ask_broker(args, "explain", session=args.session if args.session == "last" else int(args.session))
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(account(answer))
    return 0


def _list(args: argparse.Namespace) -> int:
    answer = ask_broker(args, "explain", session="list", count=args.n)
    rows = [row for row in objects(answer.get("accounts")) if not args.refused or row.get("outcome") != "accepted"]
    if args.json:
        print_json({**answer, "accounts": [dict(row) for row in rows]})
        return 0
    shown = []
    for row in rows:
        at_s = row.get("at_s")
        at = f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}" if isinstance(at_s, int | float) else ""
        names = ("session", "outcome", "code", "caller", "service", "localid", "remoteid", "rule")
        shown.append({"at": at, **{name: row.get(name) for name in names}})
    print(table(shown) if shown else "there were no sessions yet")
    return 0


def account(answer: Mapping[str, object]) -> str:
    """Return what is known of one session, for people."""
    accepted = answer.get("outcome") == "accepted"
    lines = [paint(clean(answer.get("sentence")), "green" if accepted else "red")]
    lines += [f"  {text}: {clean(answer[name])}" for name, text in _SAID if answer.get(name)]
    remote = answer.get("remote")
    if isinstance(remote, Mapping):
        lines.append("  the remote showed")
        lines += [f"    {word}: {clean(remote[name])}" for name, word in _FACTS if remote.get(name)]
    if isinstance(radius := answer.get("radius"), Mapping):
        lines += ["  what RADIUS had to do with it", *_radius(radius)]
    if trace := objects(answer.get("trace")):
        lines += ["  what was weighed", *_trace(trace)]
    return "\n".join(lines)


_ACCESS = {"accepted": "green", "rejected": "red"}


def _radius(radius: Mapping[str, object]) -> list[str]:
    known = (("rule", "rule"), ("acct_id", "Acct-Session-Id"), ("tags", "tags"))
    lines = [f"    {word}: {clean(radius[name])}" for name, word in known if radius.get(name)]
    for one in objects(radius.get("asked")):
        access = clean(one.get("access"))
        by = f" by {clean(one.get('server'))} in {clean(one.get('ms'))} ms" if one.get("server") else ""
        why = clean(one.get("message") or one.get("detail") or "")
        line = f"    {clean(one.get('purpose'))}: {paint(access, _ACCESS.get(access, 'yellow'))}{by}"
        lines.append(line + (f": {why}" if why else ""))
    return lines


_VALUES = {True: ("yes", "green"), False: ("no", "red"), None: ("unknown", "yellow")}


def _trace(trace: Sequence[Mapping[str, object]]) -> list[str]:
    lines = []
    for one in trace:
        value = one.get("value")
        word, colour = _VALUES[value if isinstance(value, bool) else None]
        text = f"{clean(one.get('name'))} {clean(one.get('text'))}".rstrip()
        indent = "    " if one.get("kind") == "source" else "      "
        why = f": {clean(one.get('why'))}" if one.get("why") else ""
        lines.append(f"{indent}{paint(f'{word:<8}', colour)}{text}  {clean(one.get('meaning'))}{why}")
    return lines


def _dry(args: argparse.Namespace) -> int:
    from tlspool_admin import rehearsing  # loads OpenSSL, and nearly everything else

    side = "server" if args.server else "client"
    remote = rehearsing.described(args, args.certificate, side)
    names = [name.partition(":")[2] for name in texts(remote.get("names")) if not name.startswith("ip:")]
    named = names[0] if names and side == "client" else ""  # a client always expects somebody
    if side == "client" and not (args.remote or named):
        args.usage_error("the certificate names nobody, and a client expects somebody: say whom with --remote ID")
    answer = ask_broker(
        args,
        "explain.dry",
        side=side,
        service=args.service,
        localid=args.localid,
        remoteid=args.remote or named,
        flags=["domain_represents_user"] if args.domain_represents_user else [],
        remote=remote,
    )
    if args.json:
        print_json(answer)
    else:
        print_warnings(answer)
        print(account(answer))
    return 0 if answer.get("outcome") == "accepted" else 1
