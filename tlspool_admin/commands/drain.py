"""``tlspool drain`` and ``resume``: let the sessions come to an end, and no new ones begin."""

from __future__ import annotations

import argparse

from tlspool_admin.catalog import help_of
from tlspool_admin.options import ask_broker, common, number
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
        parser.set_defaults(run=run, command=name, worker=None)
        if name == "drain":
            worker = number("number of a worker; `tlspool workers` lists them")
            parser.add_argument("--worker", type=worker, metavar="N", help="only this worker: it finishes and ends")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    fields = {} if args.worker is None else {"worker": args.worker}
    answer = ask_broker(args, args.command, **fields)
    if args.json:
        print_json(answer)
        return 0
    sessions = answer.get("sessions")
    done = _DONE[args.command] if args.worker is None else f"worker {args.worker} gets no new sessions"
    print(done + (f"; {clean(sessions)} sessions go on" if isinstance(sessions, int) else ""))
    return 0
