"""``tlspool disclose set|get|list|del|import``: whom we tell who we are."""

from __future__ import annotations

import argparse
from pathlib import Path

from tlspool_admin import files
from tlspool_admin.catalog import help_of
from tlspool_admin.operations import operate
from tlspool_admin.options import changing, common
from tlspool_admin.table import clean, objects, print_json, print_warnings, table, texts
from tlspool_common.errors import Code, PoolError

_SELECTOR = (
    "SELECTOR is an identity, @domain for all users there, .domain or @.domain for all below it, . or @. for all"
)
_IMPORT = """\
Each line of FILE is a selector and the local identities that it discloses, most preferred first, with blanks between
them; a word =EXPRESSION behind the selector is its validation expression.  Blank lines and lines that start with #
count for nothing.  All lines are one change."""
_FILE_B = 16 * 1024 * 1024


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("disclose", help=help_of("disclose"), description=_SELECTOR)
    actions = parser.add_subparsers(dest="action", required=True, metavar="set|get|list|del|import")
    change = [common(), changing()]

    one = actions.add_parser("set", parents=change, help="set the list of a selector", description=_SELECTOR)
    one.add_argument("selector", metavar="SELECTOR", help="for example .example.com or @example.com")
    one.add_argument("ids", nargs="*", metavar="ID", help="local identities, most preferred first")
    one.add_argument("--valexp", metavar="VALEXP", help="what remotes that it matches have to fulfil; '' takes it away")
    one.set_defaults(run=run, usage_error=one.error)

    one = actions.add_parser("get", parents=[common()], help="show what a remote, or a selector, may see")
    one.add_argument("selector", metavar="REMOTE|SELECTOR", help="domain or user@domain; or a selector, as it was set")
    one.set_defaults(run=run)

    actions.add_parser("list", parents=[common()], help="list all selectors").set_defaults(run=run)

    one = actions.add_parser("del", parents=change, help="remove a selector")
    one.add_argument("selector", metavar="SELECTOR", help="for example .example.com or @example.com")
    one.set_defaults(run=run)

    one = actions.add_parser("import", parents=change, help="set many selectors from a file", description=_IMPORT)
    one.add_argument("file", type=Path, metavar="FILE", help="or - for standard input")
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.action == "import":
        return _import(args)
    if args.action == "set" and not args.ids and not args.valexp:
        args.usage_error("name at least one ID, or give --valexp; `tlspool disclose del` removes a selector")
    fields = {name: getattr(args, name) for name in ("selector", "ids") if hasattr(args, name)}
    if getattr(args, "valexp", None) is not None:
        fields["expression"] = args.valexp
    answer = operate(args, f"disclose.{args.action}", **fields)
    if args.json:
        print_json(answer)
        return 0 if args.action != "get" or answer.get("ids") else 1
    print_warnings(answer)
    if args.action == "list":
        rows = []
        for one in objects(answer.get("selectors")):
            print_warnings(one)
            extra = {"valexp": one["expression"]} if one.get("expression") else {}
            rows.append({"selector": one.get("selector"), "ids": one.get("ids"), **extra})
        print(table(rows) if rows else "nothing is disclosed to anybody")
        return 0
    if args.action == "del":
        print(
            f"{clean(answer.get('selector'))}: {answer.get('removed')} removed, generation {answer.get('generation')}"
        )
        return 0
    for step in objects(answer.get("walk")):
        print(f"{clean(step.get('selector'))}: {'present' if step.get('present') else 'absent'}")
    ids = texts(answer.get("ids"))
    for identity in ids:
        print(f"  {clean(identity)}")
    if answer.get("expression"):
        print(f"  if the remote fulfils {clean(answer['expression'])}")
    if args.action == "set":
        print(f"{clean(answer.get('selector'))}: set, generation {answer.get('generation')}")
    elif not ids:
        print("nothing is disclosed")
        return 1
    return 0


def _import(args: argparse.Namespace) -> int:
    operations = lines_untrusted(*files.begin_of(args.file, _FILE_B + 1))
    answer = operate(args, "batch", operations=operations)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(f"{len(operations)} selectors set, generation {answer.get('generation')}")
    return 0


def lines_untrusted(data: bytes, name: str) -> list[dict[str, object]]:
    """Return the operations for the lines of a file.

    Raises:
        PoolError: FIELD_MALFORMED, naming the line.
    """
    if len(data) > _FILE_B:
        raise PoolError(Code.FIELD_MALFORMED, f"{name} has more than {_FILE_B} bytes")
    operations: list[dict[str, object]] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            words = raw.decode("utf-8").split()
        except UnicodeDecodeError:
            raise PoolError(Code.FIELD_MALFORMED, f"{name} line {number} is not UTF-8") from None
        if not words or words[0].startswith("#"):
            continue
        selector, rest = words[0], words[1:]
        fields: dict[str, object] = {}
        if rest and rest[0].startswith("="):
            fields["expression"] = rest.pop(0)[1:]
        if not rest:
            raise PoolError(Code.FIELD_MALFORMED, f"{name} line {number}: no identity behind {selector[:60]!r}")
        operations.append({"cmd": "disclose.set", "selector": selector, "ids": rest, **fields})
    if not operations:
        raise PoolError(Code.FIELD_MALFORMED, f"{name} has no lines; each is a selector and identities")
    return operations
