"""``tlspool status|sessions|workers|keys``: what the three daemons say of themselves."""

from __future__ import annotations

import argparse
import sys

from tlspool_admin import where
from tlspool_admin.catalog import help_of
from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import ask_broker, common, control_socket, number, run_dir
from tlspool_admin.table import clean, objects, print_json, print_warnings, show, table, texts, warn

_DAEMONS = ("broker", "worker", "keyd")

_LISTS = {
    # command: (daemon, request, list in the answer, when it is empty)
    "sessions": ("broker", "sessions", "sessions", "there are no sessions"),
    "workers": ("worker", "status", "workers", "there are no workers"),
    "keys": ("keyd", "keys", "keys", "there are no keys"),
}

_SESSION = number("number of a session; `tlspool sessions` lists them", below=10**19)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four commands."""
    parser = subparsers.add_parser("status", parents=[common()], help=help_of("status"))
    parser.set_defaults(run=run_status)
    for name in _LISTS:
        one = subparsers.add_parser(name, parents=[common()], help=help_of(name))
        one.set_defaults(run=run, command=name)
        if name == "sessions":
            actions = one.add_subparsers(dest="action", metavar="list|kill")
            actions.add_parser("list", parents=[common()], help="list them (the default)")
            kill = actions.add_parser("kill", parents=[common()], help="end a session at once")
            kill.add_argument("session", metavar="SESSION", type=_SESSION, help="its number")
            kill.set_defaults(run=run_kill)


def run_status(args: argparse.Namespace) -> int:
    """Ask each daemon; say which cannot be reached."""
    directory = run_dir(args)
    answers: dict[str, object] = {}
    code = 0
    for name in _DAEMONS:
        try:
            answer = ask(where.control_socket(directory, name), {"cmd": "status"})
        except NotReachable as error:
            print(f"tlspool: {name}: {clean(error)}", file=sys.stderr)
            answers[name] = {"ok": False, "error": str(error)}
            code = 1
            continue
        answers[name] = answer
        if not args.json:
            print(f"{name}:")
            print(show(answer, "  "))
    if args.json:
        print_json(answers)
    return code


def run(args: argparse.Namespace) -> int:
    """Ask one daemon for a list."""
    daemon, request, name, empty = _LISTS[args.command]
    answer = ask(control_socket(args, daemon), {"cmd": request})
    if args.json:
        print_json(answer)
        return 0
    for trouble in texts(answer.get("troubles")):
        warn(trouble, "trouble")
    rows = objects(answer.get(name))
    print(table(rows) if rows else empty)
    return 0


def run_kill(args: argparse.Namespace) -> int:
    """End a session."""
    answer = ask_broker(args, "kill", session=args.session)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(f"session {args.session}: ended")
    return 0
