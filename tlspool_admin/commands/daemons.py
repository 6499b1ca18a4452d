"""``tlspool workers|callers|loads``: what the broker and the worker master say of who has, wants and does how much."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tlspool_admin.catalog import help_of
from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import common, control_socket
from tlspool_admin.table import objects, print_json, show, table, warn

_EMPTY = {"workers": "there are no workers", "callers": "nobody has called yet"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands."""
    for name in ("workers", "callers", "loads"):
        parser = subparsers.add_parser(name, parents=[common()], help=help_of(name))
        parser.set_defaults(run=run_workers if name == "workers" else run, command=name)


def run(args: argparse.Namespace) -> int:
    """Ask the broker."""
    answer = ask(control_socket(args, "broker"), {"cmd": args.command})
    if args.json:
        print_json(answer)
    elif args.command == "loads":
        print(show(answer))
    else:
        rows = objects(answer.get(args.command))
        print(table(rows) if rows else _EMPTY[args.command])
    return 0


def run_workers(args: argparse.Namespace) -> int:
    """Ask the worker master for its processes, and the broker for what they have."""
    answer = ask(control_socket(args, "worker"), {"cmd": "status"})
    try:
        loads = objects(ask(control_socket(args, "broker"), {"cmd": "workers"}).get("workers"))
    except NotReachable as error:
        loads = []
        warn(str(error))
    rows = joined(objects(answer.get("workers")), loads)
    if args.json:
        print_json({**answer, "workers": rows})
    else:
        print(table(rows) if rows else _EMPTY["workers"])
    return 0


def joined(processes: list[Mapping[str, object]], loads: list[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return a row for each process, with what the broker has given it; numbers alone may be of an earlier master."""
    known = {(load.get("worker"), load.get("pid")): load for load in loads}
    rows: list[dict[str, object]] = []
    for process in processes:
        load = known.get((process.get("worker"), process.get("pid")), {})
        rows.append({**process, "sessions": load.get("sessions"), "owner": load.get("owner")})
    return rows
