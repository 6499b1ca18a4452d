"""``tlspool localid set|get|list|del|import``: who we are."""

from __future__ import annotations

import argparse
import base64
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from tlspool_admin import files
from tlspool_admin.catalog import help_of
from tlspool_admin.client import ask
from tlspool_admin.operations import operate
from tlspool_admin.options import changing, common, control_socket
from tlspool_admin.table import clean, objects, print_json, print_warnings, table, warn, words
from tlspool_common.errors import Code, PoolError

_SET = """\
Gives ID credentials of one type for the roles in FLAGS, in place of those it has of that type for these
roles.  FLAGS are words with commas: x509 or valexp, and client, server.  CERTFILE is PEM or DER, the leaf
first, then its issuers without the root.  Several pairs are for keys of different kinds.  For the type
valexp give the expression in place of URI, and no file (or /dev/null)."""

_IMPORT = """\
Files certificates under the identity that each names, with the key on the token that bears this identity as its
label.  Each CERTFILE holds one certificate and, in any order, its issuers: PEM, DER, PKCS #7, or PKCS #12 without
keys; a root is left out.  --id is needed where a certificate names several identities or none, and --key where the
label of the key is another.  All files are one change."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("localid", help=help_of("localid"))
    actions = parser.add_subparsers(dest="action", required=True, metavar="set|get|list|del|import")
    change = [common(), changing()]

    one = actions.add_parser("set", parents=change, help="give an identity credentials", description=_SET)
    one.add_argument("id", metavar="ID", help="domain or user@domain")
    one.add_argument("flags", metavar="FLAGS", help="for example x509,client,server")
    one.add_argument("pairs", nargs="+", metavar="URI CERTFILE", help="PKCS #11 URI of the key, and its certificate")
    one.add_argument("--strict", action="store_true", help="refuse when keyd does not find the key")
    one.set_defaults(run=run, usage_error=one.error)

    one = actions.add_parser("get", parents=[common()], help="show an identity")
    one.add_argument("id", metavar="ID", help="domain or user@domain")
    one.add_argument("--out", type=Path, metavar="FILE", help="write the chain of the first X.509 record as PEM")
    one.set_defaults(run=run)

    actions.add_parser("list", parents=[common()], help="list all identities").set_defaults(run=run)

    one = actions.add_parser("del", parents=change, help="remove an identity, or what it has for a role")
    one.add_argument("id", metavar="ID", help="domain or user@domain")
    one.add_argument("flags", nargs="?", metavar="FLAGS", help="only this type, for these roles: x509,client")
    one.set_defaults(run=run)

    one = actions.add_parser("import", parents=change, help="file certificates under their names", description=_IMPORT)
    one.add_argument("files", nargs="+", type=Path, metavar="CERTFILE", help="a certificate and its issuers")
    one.add_argument("--id", metavar="ID", help="the identity (default: the one that the certificate names)")
    one.add_argument("--key", metavar="URI", help="PKCS #11 URI of the key (default: looked for by its label)")
    one.add_argument("--flags", metavar="FLAGS", default="x509,client,server", help="default: %(default)s")
    one.add_argument("--password-file", type=Path, metavar="FILE", help="password of a PKCS #12 file (default: asked)")
    one.add_argument("--strict", action="store_true", help="refuse when keyd does not find the key")
    one.set_defaults(run=run, usage_error=one.error)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    actions = {"set": _set, "get": _get, "list": _list, "del": _del, "import": _import}
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
    answer = operate(args, "localid.set", id=args.id, flags=args.flags, records=records, **_strict(args))
    return _changed(args, answer)


def _changed(args: argparse.Namespace, answer: Mapping[str, object]) -> int:
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(f"{clean(answer.get('id'))}: {clean(answer.get('records'))} set, generation {answer.get('generation')}")
    return 0


def _strict(args: argparse.Namespace) -> dict[str, object]:
    return {"strict": True} if args.strict else {}


def _get(args: argparse.Namespace) -> int:
    answer = operate(args, "localid.get", id=args.id)
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
        print(f"  {words(record.get('flags'))}  {clean(record.get('uri') or record.get('expression'))}")
        if record.get("malformed"):
            print(f"    malformed: {clean(record['malformed'])}")
        for one in objects(record.get("chain")):
            print(f"    {clean(one.get('subject'))}")
            print(f"      issued by {clean(one.get('issuer'))}, valid until {clean(one.get('not_after'))}")
            print(f"      SHA-256 {clean(one.get('sha256'))}")
    return 0


def _list(args: argparse.Namespace) -> int:
    answer = operate(args, "localid.list")
    if args.json:
        print_json(answer)
        return 0
    rows = []
    for identity in objects(answer.get("identities")):
        print_warnings(identity)
        rows += [
            {
                "id": identity.get("id"),
                "flags": words(one.get("flags")),
                "key or expression": one.get("uri", one.get("expression")),
            }
            for one in objects(identity.get("records"))
        ]
    print(table(rows) if rows else "there are no local identities")
    return 0


def _del(args: argparse.Namespace) -> int:
    fields = {"flags": args.flags} if args.flags else {}
    answer = operate(args, "localid.del", id=args.id, **fields)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(f"{clean(answer.get('id'))}: {answer.get('removed')} removed, generation {answer.get('generation')}")
    return 0


# --- import -------------------------------------------------------------------------------------------


def _import(args: argparse.Namespace) -> int:
    if len(args.files) > 1 and (args.id or args.key):
        args.usage_error("--id and --key go with one CERTFILE")
    keys: list[Mapping[str, object]] | None = None
    changes: dict[str, list[dict[str, object]]] = {}
    for path in args.files:
        contents = files.read(path, files.password_of(args.password_file))
        if contents.has_key:
            warn(f"{path} also holds a private key, which was not read; keys belong on a token")
        chain = _chain(path, contents.certificates)
        identity = args.id or _identity(path, chain[0])
        uri = args.key
        if uri is None:
            keys = keys if keys is not None else objects(ask(control_socket(args, "keyd"), {"cmd": "keys"}).get("keys"))
            uri = key_uri(keys, identity)
        changes.setdefault(identity, []).append(
            {"uri": uri, "chain": [base64.b64encode(der).decode() for der in chain]}
        )
    requests: list[dict[str, object]] = [
        {"cmd": "localid.set", "id": identity, "flags": args.flags, "records": records, **_strict(args)}
        for identity, records in changes.items()
    ]
    if len(requests) == 1:
        name, fields = str(requests[0].pop("cmd")), requests[0]
        return _changed(args, operate(args, name, **fields))
    answer = operate(args, "batch", operations=requests)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    for one in objects(answer.get("answers")):
        print_warnings(one)
        print(f"{clean(one.get('id'))}: {clean(one.get('records'))} set")
    print(f"generation {answer.get('generation')}")
    return 0


def _chain(path: Path, ders: Sequence[bytes]) -> list[bytes]:
    from tlspool_admin import chains  # imports cryptography, which other actions need not wait for

    if not ders:
        raise PoolError(Code.RECORD_MALFORMED, f"{path} holds no certificate")
    try:
        return chains.chain_of(ders)
    except PoolError as error:
        raise PoolError(
            error.code, f"{path}: {error.detail}; one file is for one certificate and its issuers"
        ) from None


def _identity(path: Path, leaf: bytes) -> str:
    from tlspool_admin import chains  # as above

    names = chains.identities(chains.load_untrusted(leaf))
    if len(names) != 1:
        raise PoolError(
            Code.FIELD_MALFORMED, f"{path} names {', '.join(names) or 'no identity'}; say which is meant by --id"
        )
    return names[0]


def key_uri(keys: Sequence[Mapping[str, object]], identity: str) -> str:
    """Return a short URI for the one key that is labelled with an identity.

    Raises:
        PoolError: KEY_NOT_FOUND, there are none or several.
    """
    found = [key for key in keys if str(key.get("object", "")).lower() == identity.lower()]
    if len(found) != 1:
        labels = ", ".join(str(key.get("object")) for key in keys[:10]) or "none"
        raise PoolError(
            Code.KEY_NOT_FOUND,
            f"{len(found)} keys on the tokens have the label {identity}; name the key by --key (labels: {labels})",
        )
    token, label = (urllib.parse.quote(str(found[0].get(name, "")), safe="@-._~") for name in ("token", "object"))
    return f"pkcs11:token={token};object={label};type=private"
