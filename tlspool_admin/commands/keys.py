"""``tlspool keys [list|tokens|queue|grants|lock|unlock]``: private keys, their tokens, and locking these."""

from __future__ import annotations

import argparse

from tlspool_admin.catalog import help_of
from tlspool_admin.client import ask
from tlspool_admin.options import author, common, control_socket
from tlspool_admin.table import objects, print_json, show, table, texts, warn

_LOCK = """\
Makes keyd refuse every signature by a token, at once, also those under way, and log out of it, until it is unlocked.
A token may be named by its label or by a PKCS #11 URI; without a name all tokens are locked.  A lock ends with
keyd: who wants a token out of use for longer takes it out of the configuration."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("keys", parents=[common()], help=help_of("keys"))
    parser.set_defaults(run=run_list, action="keys")
    actions = parser.add_subparsers(metavar="list|tokens|queue|grants|lock|unlock")
    for name, text in (
        ("list", "list the private keys on the tokens (the default)"),
        ("tokens", "list the tokens, and which are locked"),
        ("queue", "what waits for tokens, and how long they take"),
        ("grants", "what became of permissions to sign"),
    ):
        one = actions.add_parser(name, parents=[common()], help=text)
        one.set_defaults(run=run_list, action="keys" if name == "list" else name)
    for name, text in (("lock", "refuse all signatures by a token"), ("unlock", "use a token again")):
        one = actions.add_parser(name, parents=[common()], help=text, description=_LOCK if name == "lock" else None)
        one.add_argument("token", metavar="TOKEN", nargs="?", default="", help="label or URI (default: all tokens)")
        one.set_defaults(run=run_lock, action=name)


def run_list(args: argparse.Namespace) -> int:
    """Ask keyd for a list."""
    answer = ask(control_socket(args, "keyd"), {"cmd": args.action})
    if args.json:
        print_json(answer)
        return 0
    for trouble in texts(answer.get("troubles")):
        warn(trouble, "trouble")
    if args.action == "grants":
        print(show(answer))
        return 0
    rows = objects(answer.get(args.action))
    print(table(rows) if rows else f"there are no {'keys' if args.action == 'keys' else 'tokens'}")
    for uri in texts(answer.get("locked")):
        warn(f"an operator has locked {uri}", "locked")
    return 0


def run_lock(args: argparse.Namespace) -> int:
    """Lock or unlock."""
    answer = ask(control_socket(args, "keyd"), {"cmd": args.action, "token": args.token, "author": author()})
    if args.json:
        print_json(answer)
        return 0
    print(f"{args.token or 'all tokens'}: {args.action}ed")
    rows = objects(answer.get("tokens"))
    if rows:
        print(table(rows))
    return 0
