"""``tlspool trust set|get|list|del``: whom we believe."""

from __future__ import annotations

import argparse
from pathlib import Path

from tlspool_admin import files
from tlspool_admin.options import ask_broker, common
from tlspool_admin.table import clean, objects, print_json, print_warnings, table

_SET = """\
Trusts every certificate of CERTFILE (PEM, one or many, or DER) in the roles of FLAGS: client for what local
clients believe, server for what local servers believe.  VALEXP is 1, or 0 for never.  A certificate that is
no root needs the flag notroot.  Each is filed under its key identifier and takes the place of the anchors
that this key has for these roles."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("trust", help="trust anchors")
    actions = parser.add_subparsers(dest="action", required=True, metavar="set|get|list|del")

    one = actions.add_parser("set", parents=[common()], help="trust certificates", description=_SET)
    one.add_argument("flags", metavar="FLAGS", help="for example x509,client,server")
    one.add_argument("valexp", metavar="VALEXP", help="validation expression: 1 or 0")
    one.add_argument("file", type=Path, metavar="CERTFILE")
    one.set_defaults(run=run)

    one = actions.add_parser("get", parents=[common()], help="show what a key has")
    one.add_argument("key", metavar="KEY|CERTFILE", help="key identifier in hexadecimal, or a certificate")
    one.set_defaults(run=run)

    actions.add_parser("list", parents=[common()], help="list all anchors").set_defaults(run=run)

    one = actions.add_parser("del", parents=[common()], help="remove what a key has")
    one.add_argument("key", metavar="KEY|CERTFILE", help="key identifier in hexadecimal, or a certificate")
    one.add_argument("flags", nargs="?", metavar="FLAGS", help="only this type, for these roles: x509,client")
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    fields: dict[str, object] = {}
    if args.action == "set":
        fields = {"flags": args.flags, "valexp": args.valexp, "data": files.certificates_of(args.file)}
    elif args.action in {"get", "del"}:
        fields = _key(args.key)
        if getattr(args, "flags", None):
            fields["flags"] = args.flags
    answer = ask_broker(args, f"trust.{args.action}", **fields)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    if args.action == "set":
        keys = answer.get("keys")
        for key in keys if isinstance(keys, list) else []:
            print(f"{clean(key)}: set, generation {answer.get('generation')}")
    elif args.action == "del":
        print(f"{clean(answer.get('key'))}: {answer.get('removed')} removed, generation {answer.get('generation')}")
    else:
        return _shown(args, answer)
    return 0


def _shown(args: argparse.Namespace, answer: dict[str, object]) -> int:
    entries = [answer] if args.action == "get" else objects(answer.get("keys"))
    rows = []
    for entry in entries:
        if entry is not answer:
            print_warnings(entry)
        rows += [
            {
                "key": entry.get("key"),
                "flags": clean(one.get("flags")).replace(", ", ","),
                "valexp": one.get("valexp"),
                "subject": one.get("subject") or one.get("malformed"),
                **({"not_after": one["not_after"]} if "not_after" in one else {}),
            }
            for one in objects(entry.get("records"))
        ]
    print(table(rows) if rows else "there are no such records" if args.action == "get" else "nobody is trusted")
    return 0 if rows or args.action == "list" else 1


def _key(text: str) -> dict[str, object]:
    """Return the field for a key: hexadecimal unless there is such a file."""
    path = Path(text)
    if path.is_file():
        return {"data": files.certificates_of(path)[0]}
    return {"key": text.replace(":", "")}
