"""``tlspool history``, ``diff`` and ``rollback``: what was changed in the databases, and taking it back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tlspool_admin.catalog import help_of
from tlspool_admin.operations import operate
from tlspool_admin.options import changing, common, number
from tlspool_admin.table import clean, objects, paint, print_json, print_warnings, table, texts

_SHOWN = 20
_NUMBER = number("number")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands."""
    parser = subparsers.add_parser("history", parents=[common()], help=help_of("history"))
    parser.add_argument("generation", nargs="?", type=_NUMBER, metavar="GENERATION", help="what this one changed")
    parser.add_argument("-n", type=_NUMBER, default=_SHOWN, metavar="N", help="the last N (default: %(default)s)")
    parser.set_defaults(run=run_history)

    text = "Shows what would have to be removed (-) and added (+) to make one generation of another.  No PIN is shown."
    parser = subparsers.add_parser("diff", parents=[common()], help=help_of("diff"), description=text)
    parser.add_argument("a", type=_NUMBER, metavar="GENERATION", help="the one before")
    parser.add_argument("b", type=_NUMBER, nargs="?", metavar="GENERATION", help="the one after (default: the present)")
    parser.set_defaults(run=run_diff)

    text = (
        "Makes the databases what they were at a generation.  That is a new generation: nothing of the history is lost."
    )
    parser = subparsers.add_parser(
        "rollback", parents=[common(), changing()], help=help_of("rollback"), description=text
    )
    parser.add_argument(
        "generation", type=_NUMBER, metavar="GENERATION", help="its number; `tlspool history` lists them"
    )
    parser.set_defaults(run=run_rollback)


def run_history(args: argparse.Namespace) -> int:
    """List changes, or show one."""
    if args.generation is not None:
        answer = operate(args, "history", generation=args.generation)
    else:
        answer = operate(args, "history", number=args.n)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    rows = objects(answer.get("history"))
    if args.generation is None:
        print(table([_row(row) for row in rows]) if rows else "nothing was changed yet")
        return 0
    for name, value in answer.items():
        if name not in ("ok", "changes", "warnings"):
            print(f"{clean(name)}: {clean(value)}")
    print_changes(answer)
    return 0


def _row(row: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in row.items() if not isinstance(value, dict)}


def run_diff(args: argparse.Namespace) -> int:
    """Show a difference."""
    fields = {} if args.b is None else {"b": args.b}
    answer = operate(args, "diff", a=args.a, **fields)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    if not print_changes(answer):
        print("there is no difference")
    return 0


def run_rollback(args: argparse.Namespace) -> int:
    """Go back."""
    answer = operate(args, "rollback", to=args.generation)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print_changes(answer)
    print(f"as at generation {args.generation} again, generation {answer.get('generation')}")
    return 0


def print_changes(answer: Mapping[str, object]) -> bool:
    """Print what went and what came, key by key; return whether there was anything."""
    changes = objects(answer.get("changes"))
    for change in changes:
        print(paint(f"{clean(change.get('database'))} {clean(change.get('key'))}", "bold"))
        for text in texts(change.get("removed")):
            print(paint(f"  - {clean(text)}", "red"))
        for text in texts(change.get("added")):
            print(paint(f"  + {clean(text)}", "green"))
        if change.get("reordered"):
            print("    in another order")
    return bool(changes)
