"""``tlspool drain`` and ``resume``: let the sessions come to an end, and no new ones begin."""

from __future__ import annotations

import argparse

from tlspool_admin.catalog import help_of
from tlspool_admin.options import ask_broker, common
from tlspool_admin.table import clean, print_json

_TEXT = {
    "drain": "Refuses new sessions, and lets those that there are go on until they end; `tlspool status` counts them.",
    "resume": "Takes new sessions again.",
}
_DONE = {"drain": "new sessions are refused", "resume": "new sessions are taken"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two commands."""
    for name, text in _TEXT.items():
        parser = subparsers.add_parser(name, parents=[common()], help=help_of(name), description=text)
        parser.set_defaults(run=run, command=name)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    answer = ask_broker(args, args.command)
    if args.json:
        print_json(answer)
        return 0
    sessions = answer.get("sessions")
    print(_DONE[args.command] + (f"; {clean(sessions)} sessions go on" if isinstance(sessions, int) else ""))
    return 0
