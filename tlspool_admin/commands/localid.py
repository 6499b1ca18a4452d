"""``tlspool localid set|get|list|del``: who we are."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from tlspool_admin import files
from tlspool_admin.options import ask_broker, common
from tlspool_admin.table import clean, objects, print_json, print_warnings, table
from tlspool_common.errors import Code, PoolError

_SET = """\
Gives ID credentials of one type for the roles in FLAGS, in place of those it has of that type for these
roles.  FLAGS are words with commas: x509 or valexp, and client, server.  CERTFILE is PEM or DER, the leaf
first, then its issuers without the root.  Several pairs are for keys of different kinds.  For the type
valexp give the expression in place of URI, and no file (or /dev/null)."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("localid", help="local identities, their certificates and keys")
    actions = parser.add_subparsers(dest="action", required=True, metavar="set|get|list|del")

    one = actions.add_parser("set", parents=[common()], help="give an identity credentials", description=_SET)
    one.add_argument("id", metavar="ID", help="domain or user@domain")
    one.add_argument("flags", metavar="FLAGS", help="for example x509,client,server")
    one.add_argument("pairs", nargs="+", metavar="URI CERTFILE", help="PKCS #11 URI of the key, and its certificate")
    one.set_defaults(run=run, usage_error=one.error)

    one = actions.add_parser("get", parents=[common()], help="show an identity")
    one.add_argument("id", metavar="ID")
    one.add_argument("--out", type=Path, metavar="FILE", help="write the chain of the first X.509 record as PEM")
    one.set_defaults(run=run)

    actions.add_parser("list", parents=[common()], help="list all identities").set_defaults(run=run)

    one = actions.add_parser("del", parents=[common()], help="remove an identity, or what it has for a role")
    one.add_argument("id", metavar="ID")
    one.add_argument("flags", nargs="?", metavar="FLAGS", help="only this type, for these roles: x509,client")
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    actions = {"set": _set, "get": _get, "list": _list, "del": _del}
    return actions[args.action](args)


def _set(args: argparse.Namespace) -> int:
    is_expression = "valexp" in args.flags.lower().split(",")
    if is_expression and len(args.pairs) == 1:
        args.pairs.append("/dev/null")
    if len(args.pairs) % 2:
        args.usage_error("give a CERTFILE behind each URI")
    records: list[dict[str, object]] = []
    for uri, name in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        chain = [] if is_expression and not Path(name).read_bytes() else files.certificates_of(Path(name))
        records.append({"uri": uri, "chain": chain})
    answer = ask_broker(args, "localid.set", id=args.id, flags=args.flags, records=records)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(f"{clean(answer.get('id'))}: {clean(answer.get('records'))} set, generation {answer.get('generation')}")
    return 0


def _get(args: argparse.Namespace) -> int:
    answer = ask_broker(args, "localid.get", id=args.id)
    records = objects(answer.get("records"))
    if args.out is not None:
        chain = next((record["chain"] for record in records if record.get("chain")), None)
        if chain is None:
            raise PoolError(Code.LOCALID_UNKNOWN, f"{args.id} has no X.509 record to write")
        args.out.write_text("".join(files.pem(str(one.get("der"))) for one in objects(chain)))
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(clean(answer.get("id")))
    for record in records:
        print(f"  {_flags(record)}  {clean(record.get('uri') or record.get('expression'))}")
        if record.get("malformed"):
            print(f"    malformed: {clean(record['malformed'])}")
        for one in objects(record.get("chain")):
            print(f"    {clean(one.get('subject'))}")
            print(f"      issued by {clean(one.get('issuer'))}, valid until {clean(one.get('not_after'))}")
            print(f"      SHA-256 {clean(one.get('sha256'))}")
    return 0


def _list(args: argparse.Namespace) -> int:
    answer = ask_broker(args, "localid.list")
    if args.json:
        print_json(answer)
        return 0
    rows = []
    for identity in objects(answer.get("identities")):
        print_warnings(identity)
        rows += [
            {"id": identity.get("id"), "flags": _flags(one), "key or expression": one.get("uri", one.get("expression"))}
            for one in objects(identity.get("records"))
        ]
    print(table(rows) if rows else "there are no local identities")
    return 0


def _del(args: argparse.Namespace) -> int:
    fields = {"flags": args.flags} if args.flags else {}
    answer = ask_broker(args, "localid.del", id=args.id, **fields)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(f"{clean(answer.get('id'))}: {answer.get('removed')} removed, generation {answer.get('generation')}")
    return 0


def _flags(record: Mapping[str, object]) -> str:
    return clean(record.get("flags")).replace(", ", ",")
