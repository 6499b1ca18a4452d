"""``tlspool status|sessions|workers|keys``: what the three daemons say of themselves."""

from __future__ import annotations

import argparse
import sys

from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import common, run_dir
from tlspool_admin.table import objects, print_json, show, table

_DAEMONS = {"broker": "broker.sock", "worker": "worker.sock", "keyd": "keyd.sock"}

_LISTS = {
    # command: (socket, request, list in the answer, help, when it is empty)
    "sessions": ("broker.sock", "sessions", "sessions", "list the sessions of the pool", "there are no sessions"),
    "workers": ("worker.sock", "status", "workers", "list the worker processes", "there are no workers"),
    "keys": ("keyd.sock", "keys", "keys", "list the private keys on the tokens", "there are no keys"),
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the four commands."""
    parser = subparsers.add_parser("status", parents=[common()], help="ask all three daemons how they are")
    parser.set_defaults(run=run_status)
    for name, (_, _, _, text, _) in _LISTS.items():
        subparsers.add_parser(name, parents=[common()], help=text).set_defaults(run=run, command=name)


def run_status(args: argparse.Namespace) -> int:
    """Ask each daemon; say which cannot be reached."""
    directory = run_dir(args)
    answers: dict[str, object] = {}
    code = 0
    for name, socket_name in _DAEMONS.items():
        try:
            answer = ask(directory / socket_name, {"cmd": "status"})
        except NotReachable as error:
            print(f"tlspool: {name}: {error}", file=sys.stderr)
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
    socket_name, request, name, _, empty = _LISTS[args.command]
    answer = ask(run_dir(args) / socket_name, {"cmd": request})
    if args.json:
        print_json(answer)
        return 0
    rows = objects(answer.get(name))
    print(table(rows) if rows else empty)
    return 0
