"""``tlspool disclose set|get|list|del``: whom we tell who we are."""

from __future__ import annotations

import argparse

from tlspool_admin.options import ask_broker, common
from tlspool_admin.table import clean, objects, print_json, print_warnings, table

_SELECTOR = (
    "SELECTOR is an identity, @domain for all users there, .domain or @.domain for all below it, . or @. for all"
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("disclose", help="which local identities a remote may see", description=_SELECTOR)
    actions = parser.add_subparsers(dest="action", required=True, metavar="set|get|list|del")

    one = actions.add_parser("set", parents=[common()], help="set the list of a selector", description=_SELECTOR)
    one.add_argument("selector", metavar="SELECTOR")
    one.add_argument("ids", nargs="+", metavar="ID", help="local identities, most preferred first")
    one.set_defaults(run=run)

    one = actions.add_parser("get", parents=[common()], help="show what a remote, or a selector, may see")
    one.add_argument("selector", metavar="REMOTE|SELECTOR")
    one.set_defaults(run=run)

    actions.add_parser("list", parents=[common()], help="list all selectors").set_defaults(run=run)

    one = actions.add_parser("del", parents=[common()], help="remove a selector")
    one.add_argument("selector", metavar="SELECTOR")
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    fields = {name: getattr(args, name) for name in ("selector", "ids") if hasattr(args, name)}
    answer = ask_broker(args, f"disclose.{args.action}", **fields)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    if args.action == "list":
        rows = [{"selector": one.get("selector"), "ids": one.get("ids")} for one in objects(answer.get("selectors"))]
        for one in objects(answer.get("selectors")):
            print_warnings(one)
        print(table(rows) if rows else "nothing is disclosed to anybody")
        return 0
    if args.action == "del":
        print(
            f"{clean(answer.get('selector'))}: {answer.get('removed')} removed, generation {answer.get('generation')}"
        )
        return 0
    for step in objects(answer.get("walk")):
        print(f"{clean(step.get('selector'))}: {'present' if step.get('present') else 'absent'}")
    ids = answer.get("ids")
    for identity in ids if isinstance(ids, list) else []:
        print(f"  {clean(identity)}")
    if args.action == "get" and not ids:
        print("nothing is disclosed")
    return 0
