"""``tlspool trust``: whom we believe.  Anchors, pins of single certificates, and revocations."""

from __future__ import annotations

import argparse
import base64
from collections.abc import Mapping
from pathlib import Path

from tlspool_admin import files
from tlspool_admin.catalog import help_of
from tlspool_admin.operations import operate
from tlspool_admin.options import changing, common, number
from tlspool_admin.progress import Progress
from tlspool_admin.table import clean, objects, print_json, print_warnings, table, texts, warn, words
from tlspool_common.errors import Code, PoolError

_SET = """\
Trusts every certificate of CERTFILE (PEM, one or many, or DER) in the roles of FLAGS: client for what local
clients believe, server for what local servers believe.  VALEXP is what remotes below this anchor have to fulfil:
1 for nothing more, 0 for never, or a validation expression.  A certificate that is no root needs the flag notroot.
Each is filed under its key identifier and takes the place of the anchors that this key has for these roles."""

_IMPORT = """\
Trusts the roots of bundles such as /etc/ssl/certs/ca-certificates.crt, thousands if need be, as one change: PEM, DER,
PKCS #7, or PKCS #12 without keys.  Certificates that can be no anchor (expired, no root, no authority, twice there) are
left out and named.  A revocation list in a file is filed under the anchor that signed it, if that is trusted.
"""

_REVOKE = """\
Marks serial numbers of an issuer as revoked, or files the revocation list CRLFILE under the anchor that signed it.
ISSUER is its key identifier, or a file with its certificate; a serial is hexadecimal (0x may stand before it), or a
file with the certificate.  What was revoked before stays revoked."""

_PIN = """\
Only CERT may be shown by REMOTE, in sessions whose validation expression asks for it (p or P): a file, or the SHA-256
of the certificate in hexadecimal.  --days says how long, and --replace-days for how many days before that end the pool
may take another certificate of the same remote in its place."""

_DAYS = number("number of days from 1 to 36499", least=1, below=36500)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its actions."""
    parser = subparsers.add_parser("trust", help=help_of("trust"))
    metavar = "set|get|list|del|import|pin|unpin|pins|revoke|unrevoke"
    actions = parser.add_subparsers(dest="action", required=True, metavar=metavar)
    change = [common(), changing()]

    one = actions.add_parser("set", parents=change, help="trust certificates", description=_SET)
    one.add_argument("flags", metavar="FLAGS", help="for example x509,client,server")
    one.add_argument("valexp", metavar="VALEXP", help="validation expression, 1 for nothing beyond the chain")
    one.add_argument("file", type=Path, metavar="CERTFILE", help="PEM, one certificate or many; or DER")
    one.set_defaults(run=run)

    one = actions.add_parser("get", parents=[common()], help="show what a key has")
    one.add_argument("key", metavar="KEY|CERTFILE", help="key identifier in hexadecimal, or a certificate")
    one.set_defaults(run=run)

    one = actions.add_parser("list", parents=[common()], help="list anchors, pins and revocations")
    one.set_defaults(run=run)

    one = actions.add_parser("del", parents=change, help="remove what a key has")
    one.add_argument("key", metavar="KEY|CERTFILE", help="key identifier in hexadecimal, or a certificate")
    one.add_argument("flags", nargs="?", metavar="FLAGS", help="only this type, for these roles: x509,client")
    one.set_defaults(run=run)

    one = actions.add_parser("import", parents=change, help="trust the roots of a bundle", description=_IMPORT)
    one.add_argument("files", nargs="+", type=Path, metavar="FILE", help="or - for standard input")
    one.add_argument(
        "--flags", default="x509,client", help="for whom (default: %(default)s, what local clients believe)"
    )
    one.add_argument("--valexp", metavar="VALEXP", default="1", help="validation expression (default: %(default)s)")
    one.add_argument("--expired", action="store_true", help="also those that have expired")
    one.add_argument("--password-file", type=Path, metavar="FILE", help="password of a PKCS #12 file (default: asked)")
    one.add_argument("--dry-run", action="store_true", help="only say what would be imported")
    one.set_defaults(run=run_import)

    one = actions.add_parser("pin", parents=change, help="bind a remote to a certificate", description=_PIN)
    one.add_argument("remote", metavar="REMOTE", help="domain or user@domain")
    one.add_argument("cert", metavar="CERT|SHA256", help="a file, or 64 hexadecimal digits")
    one.add_argument("--days", type=_DAYS, metavar="N", help="how long the pin counts (default: forever)")
    one.add_argument("--replace-days", type=_DAYS, metavar="N", help="days before the end in which another may come")
    one.set_defaults(run=run_pin)

    one = actions.add_parser("unpin", parents=change, help="forget the pins of a remote")
    one.add_argument("remote", metavar="REMOTE", help="domain or user@domain")
    one.add_argument("cert", nargs="?", metavar="CERT|SHA256", help="only this one")
    one.set_defaults(run=run_pin)

    one = actions.add_parser("pins", parents=[common()], help="list pins, and whether they are in force")
    one.add_argument("remote", nargs="?", metavar="REMOTE", help="only those of this one")
    one.set_defaults(run=run_pins)

    one = actions.add_parser("revoke", parents=change, help="mark certificates as revoked", description=_REVOKE)
    one.add_argument("issuer", metavar="ISSUER|CRLFILE", help="the issuer (key identifier or certificate), or its list")
    one.add_argument("serials", nargs="*", metavar="SERIAL|CERTFILE", help="none: the first argument is a CRLFILE")
    one.set_defaults(run=run_revoke)

    text = "take serials off the list of an issuer, or forget the list"
    one = actions.add_parser("unrevoke", parents=change, help=text)
    one.add_argument("issuer", metavar="ISSUER", help="its key identifier, or a file with its certificate")
    one.add_argument("serials", nargs="*", metavar="SERIAL|CERTFILE", help="none: all")
    one.set_defaults(run=run_unrevoke)


def run(args: argparse.Namespace) -> int:
    """Do it."""
    fields: dict[str, object] = {}
    if args.action == "set":
        fields = {"flags": args.flags, "valexp": args.valexp, "data": files.certificates_of(args.file)}
    elif args.action in {"get", "del"}:
        fields = _key(args.key)
        if getattr(args, "flags", None):
            fields["flags"] = args.flags
    answer = operate(args, f"trust.{args.action}", **fields)
    if args.json:
        print_json(answer)
        return 0 if args.action != "get" or answer.get("records") else 1
    print_warnings(answer)
    if args.action == "set":
        for key in texts(answer.get("keys")):
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
        rows += [_row(entry.get("key"), one) for one in objects(entry.get("records"))]
    print(table(rows) if rows else "there are no such records" if args.action == "get" else "nobody is trusted")
    return 0 if rows or args.action == "list" else 1


def _row(key: object, record: Mapping[str, object]) -> dict[str, object]:
    row = {"key": key, "flags": words(record.get("flags")), "valexp": record.get("valexp")}
    about = record.get("subject") or record.get("malformed")
    if "remote" in record:
        about = f"pin of {record['remote'] or 'any remote'}"
    elif "serials" in record:
        serials = record["serials"]
        about = f"{len(serials) if isinstance(serials, list) else serials} revoked"
    row["about"] = about
    for name in ("not_after", "until", "this_update", "next_update"):
        if record.get(name):
            row[name] = record[name]
    return row


def _key(text: str) -> dict[str, object]:
    """Return the field for a key: hexadecimal unless there is such a file."""
    path = Path(text)
    if path.is_file():
        return {"data": files.certificates_of(path)[0]}
    return {"key": text.replace(":", "")}


# --- bundles ------------------------------------------------------------------------------------------


def run_import(args: argparse.Namespace) -> int:
    """Trust what is fit of some files, as one change."""
    from datetime import UTC, datetime

    from tlspool_admin import chains  # imports cryptography, which other actions need not wait for

    with Progress("reading") as progress:
        ders: list[bytes] = []
        lists: list[bytes] = []
        for path in args.files:
            contents = files.read(path, files.password_of(args.password_file))
            if contents.has_key:
                warn(f"{path} also holds a private key, which was not read; keys belong on a token")
            ders += contents.certificates
            lists += contents.lists
        now = datetime.now(UTC)
        flags = args.flags.lower().split(",")
        fit: list[bytes] = []
        unfit: list[tuple[str, str]] = []
        step = max(1, len(ders) // 100)
        for at in range(0, len(ders), step):
            part = chains.fit_anchors(
                ders[at : at + step], now, want_expired=args.expired, want_not_root="notroot" in flags
            )
            fit += part.ders
            unfit += part.unfit
            progress.at(min(at + step, len(ders)), len(ders))
    distinct = list(dict.fromkeys(fit))
    if len(distinct) != len(fit):
        unfit.append((f"{len(fit) - len(distinct)} certificates", "twice in the bundle"))
    if not distinct and not lists:
        raise PoolError(Code.RECORD_MALFORMED, f"nothing in there can be an anchor{_reasons(unfit)}")
    operations: list[dict[str, object]] = []
    if distinct:
        data = [base64.b64encode(der).decode() for der in distinct]
        operations.append({"cmd": "trust.set", "flags": args.flags, "valexp": args.valexp, "data": data})
    operations += [{"cmd": "trust.revoke", "crl": base64.b64encode(one).decode()} for one in lists]
    counts: dict[str, object] = {"anchors": len(distinct), "crls": len(lists), "left_out": len(unfit)}
    details = [{"subject": who, "why": why} for who, why in unfit]
    if args.dry_run:
        answer: dict[str, object] = {"ok": True, **counts, "unfit": details}
    else:
        with Progress("writing") as progress:
            progress.at(0, len(distinct))
            answer = {**operate(args, "batch", operations=operations), **counts, "unfit": details}
    if args.json:
        print_json(answer)
        return 0
    for who, why in unfit:
        warn(f"{who}: {why}", "left out")
    print_warnings(answer)
    for one in objects(answer.get("answers")):
        print_warnings(one)
    done = f"generation {answer.get('generation')}" if not args.dry_run else "nothing written"
    crls = f", {len(lists)} revocation lists" if lists else ""
    print(f"{len(distinct)} anchors{crls} imported, {len(unfit)} left out, {done}")
    return 0


def _reasons(unfit: list[tuple[str, str]]) -> str:
    return "".join(f"; {who}: {why}" for who, why in unfit[:3])


# --- pins and revocations -----------------------------------------------------------------------------


def run_pin(args: argparse.Namespace) -> int:
    """Pin, or unpin."""
    from datetime import UTC, datetime, timedelta

    fields: dict[str, object] = {"remote": args.remote}
    if args.cert is not None:
        fields["sha256"] = sha256_of(args.cert)
    if args.action == "pin":
        if args.days is not None:
            fields["until_s"] = int((datetime.now(UTC) + timedelta(days=args.days)).timestamp())
        elif args.replace_days is not None:
            raise PoolError(Code.FIELD_MALFORMED, "--replace-days needs --days: it counts back from the end")
        if args.replace_days is not None:
            fields["before_s"] = args.replace_days * 86400
    answer = operate(args, f"trust.{args.action}", **fields)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    what = "pinned" if args.action == "pin" else f"{clean(answer.get('removed'))} pins removed"
    print(f"{clean(answer.get('remote', args.remote))}: {what}, generation {answer.get('generation')}")
    return 0


def sha256_of(text: str) -> str:
    """Return the SHA-256 of a certificate: of a file if there is one, else as written.

    Raises:
        PoolError: RECORD_MALFORMED, FIELD_MALFORMED.
    """
    path = Path(text)
    if path.is_file():
        import hashlib

        return hashlib.sha256(base64.b64decode(files.certificates_of(path)[0])).hexdigest()
    digits = text.replace(":", "").lower()
    if len(digits) != 64 or digits.strip("0123456789abcdef"):
        raise PoolError(Code.FIELD_MALFORMED, f"{text!r} is neither a file nor a SHA-256 of 64 hexadecimal digits")
    return digits


def run_revoke(args: argparse.Namespace) -> int:
    """Revoke serials of an issuer, or file revocation lists."""
    if args.serials:
        fields: dict[str, object] = {**_key(args.issuer), "serials": [_serial(text) for text in args.serials]}
        answer = operate(args, "trust.revoke", **fields)
    else:
        lists = files.read(Path(args.issuer)).lists
        if not lists:
            raise PoolError(Code.RECORD_MALFORMED, f"{args.issuer} holds no revocation list; or name serials behind it")
        if len(lists) == 1:
            answer = operate(args, "trust.revoke", crl=base64.b64encode(lists[0]).decode())
        else:
            operations = [{"cmd": "trust.revoke", "crl": base64.b64encode(one).decode()} for one in lists]
            answer = operate(args, "batch", operations=operations)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    for one in objects(answer.get("answers")) or [answer]:
        print(
            f"{clean(one.get('key'))}: {clean(one.get('serials', ''))} revoked, generation {answer.get('generation')}"
        )
    return 0


def run_unrevoke(args: argparse.Namespace) -> int:
    """Take revocations back."""
    serials = [_serial(text) for text in args.serials]
    answer = operate(args, "trust.unrevoke", **_key(args.issuer), serials=serials)
    if args.json:
        print_json(answer)
        return 0
    print_warnings(answer)
    print(f"{clean(answer.get('key'))}: {answer.get('removed')} removed, generation {answer.get('generation')}")
    return 0


def run_pins(args: argparse.Namespace) -> int:
    """List pins."""
    answer = operate(args, "trust.pins", **({"remote": args.remote} if args.remote else {}))
    if args.json:
        print_json(answer)
        return 0
    names = ("remote", "sha256", "flags", "until", "state")
    rows = [{name: row.get(name) for name in names} for row in objects(answer.get("pins"))]
    print(table([{**row, "flags": words(row["flags"])} for row in rows]) if rows else "nothing is pinned")
    return 0


def _serial(text: str) -> str:
    """Return a serial number in hexadecimal: of a certificate in a file, or as written."""
    path = Path(text)
    if path.is_file():
        from tlspool_admin import chains

        return f"{chains.load_untrusted(base64.b64decode(files.certificates_of(path)[0])).serial_number:x}"
    digits = text.lower().removeprefix("0x").replace(":", "")
    if not digits or digits.strip("0123456789abcdef"):
        raise PoolError(Code.FIELD_MALFORMED, f"serial {text!r} is neither hexadecimal nor a file with a certificate")
    return digits
