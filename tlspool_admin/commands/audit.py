"""``tlspool audit verify|show``: whether the audit trails are whole, and what is in them.

No daemon is needed, and none is believed: the files are read.  Where the daemons run, verify asks them for their heads,
so that a trail whose end was cut off is found out.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import re
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from tlspool_admin import trails, where
from tlspool_admin.catalog import help_of
from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import common, config_path, number, run_dir
from tlspool_admin.table import clean, paint, print_json, warn
from tlspool_admin.trails import Heads, Verdict
from tlspool_common.audit import Head, Record
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import escape

_ASKED = ("broker", "keyd")
_AGO = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TEXT_B = 256 * 1024 * 1024
"""Of a log that is searched for heads: a year of them, and all else that a busy daemon says in a month."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("audit", parents=[common()], help=help_of("audit"))
    actions = parser.add_subparsers(required=True, metavar="verify|show")
    text = (
        "Reads audit trails from their beginning, and names the first line where one is not as it was written.  "
        "Without FILE it is the directory of the configuration, and daemons are asked for their newest records."
    )
    verify = actions.add_parser("verify", parents=[common()], help="say whether they are whole", description=text)
    verify.add_argument("files", nargs="*", type=Path, metavar="FILE", help="a directory, or files of trails")
    verify.add_argument(
        "--head", action="append", default=[], metavar="HEAD", help="there must be this record: DAEMON:NUMBER:HASH"
    )
    verify.add_argument(
        "--heads",
        type=Path,
        metavar="FILE",
        help="there must be all records that audit.head tells of in this log; - is input",
    )
    verify.add_argument("--partial", action="store_true", help="older files were taken away")
    verify.set_defaults(run=run_verify)
    show = actions.add_parser("show", parents=[common()], help="print what is in them, in the order of time")
    show.add_argument("files", nargs="*", type=Path, metavar="FILE", help="a directory, or files of trails")
    show.add_argument(
        "--since", type=_since, default="2000-01", metavar="TIME", help="2026-03-02, 2026-03-02T09:12, or 2h ago: 2h"
    )
    show.add_argument("--session", type=number("number of a session"), metavar="N", help="of this session only")
    show.add_argument("--event", default="*", metavar="EVENT", help="of this kind only; session.* is all of sessions")
    show.add_argument("-n", type=number("number"), default=0, metavar="N", help="the last N only")
    show.set_defaults(run=run_show)


def _since(text: str) -> str:
    """Return the least time of a record, as records have it."""
    if match := re.fullmatch(r"([0-9]{1,6})([smhd])", text):
        ago = datetime.timedelta(seconds=int(match[1]) * _AGO[match[2]])
        return (datetime.datetime.now(datetime.UTC) - ago).isoformat()[:19]
    if re.fullmatch(r"\d{4}-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?Z?", text, re.ASCII):
        return text.removesuffix("Z")
    raise argparse.ArgumentTypeError(f"{text!r} is no time (UTC) such as 2026-03-02T09:12, or 30m")


def _given(args: argparse.Namespace) -> list[Path]:
    """Return the files that are meant.

    Raises:
        PoolError: SETTING_INVALID, there is no trail.
        OSError: the configuration cannot be read.
    """
    if args.files:
        return list(args.files)
    path = config_path(args)
    directory = where.values_untrusted(where.read(path)).get("audit_dir", "").strip()
    if not directory.startswith("/"):
        raise PoolError(
            Code.SETTING_INVALID, f"{path} has no audit_dir, so there is no audit trail; set it, or name files"
        )
    return [Path(directory)]


def run_verify(args: argparse.Namespace) -> int:
    """Say of each trail whether it is whole."""
    paths = _given(args)
    found = trails.find(paths)
    heads = _heads(args)
    live = {} if args.files else _live_heads(args)
    verdicts = []
    for daemon, files in found.items():
        expected = [*heads.get(daemon, ()), *live.get(daemon, ())]
        verdict = trails.verify(daemon, files, expected, partial=args.partial)
        if verdict.broken is None and daemon in live:
            _hold_against(verdict, _live_heads(args).get(daemon, []))
        verdicts.append(verdict)
    strangers = {daemon for daemon, told in {**heads, **live}.items() if told and any(head.seq for head in told)}
    missing = sorted(strangers - set(found))
    ok = not missing and all(verdict.broken is None for verdict in verdicts)
    if args.json:
        _print_json(verdicts, missing, ok)
        return 0 if ok else 1
    for verdict in verdicts:
        _print(verdict)
    for daemon in missing:
        print(f"{clean(daemon)}: {paint('BROKEN', 'red')}: there is no trail of it, and a head of one was told")
    return 0 if ok else 1


def _heads(args: argparse.Namespace) -> Heads:
    text = "\n".join(args.head)
    found = trails.heads_untrusted(text)
    if sum(map(len, found.values())) != len(args.head):
        raise PoolError(Code.FIELD_MALFORMED, "a head is DAEMON:NUMBER:HASH, as audit.head tells it")
    if args.heads is not None:
        log = sys.stdin.read(_TEXT_B) if str(args.heads) == "-" else args.heads.read_text(errors="replace")
        for daemon, more in trails.heads_untrusted(log).items():
            found.setdefault(daemon, []).extend(more)
    return found


def _live_heads(args: argparse.Namespace) -> dict[str, list[Head]]:
    """Return the heads of daemons that run, and have a trail."""
    found: dict[str, list[Head]] = {}
    for daemon in _ASKED:
        try:
            answer = ask(where.control_socket(run_dir(args), daemon), {"cmd": "status"})
        except NotReachable:
            continue
        described = answer.get("audit")
        told = str(described.get("head", "")) if isinstance(described, dict) else ""
        found.update({name: heads for name, heads in trails.heads_untrusted(told).items() if name == daemon})
    return found


def _hold_against(verdict: Verdict, now: Sequence[Head]) -> None:
    """See that there is nothing behind what the daemon itself calls its newest record."""
    if now and verdict.last is not None and verdict.last.seq > now[-1].seq:
        text = f"record {verdict.last.seq} is not the daemon's: its newest one is {now[-1].seq}"
        verdict.broken = (verdict.files[-1], 0, text)


def _print(verdict: Verdict) -> None:
    span = f"{verdict.first.time} to {verdict.last.time}" if verdict.first and verdict.last else "nothing yet"
    files = f"{len(verdict.files)} file{'s' if len(verdict.files) > 1 else ''}"
    for one in verdict.recovered:
        lost = f"{one.fields.get('lost_b', 0)} bytes lost, {one.fields.get('missed', 0)} records missed"
        warn(f"{verdict.daemon}: record {one.seq} of {one.time} goes on after a break: {lost}; {one.fields.get('why')}")
    if verdict.broken is None:
        head = f", head {verdict.daemon}:{verdict.last.head}" if verdict.last else ""
        print(f"{verdict.daemon}: {paint('whole', 'green')}: {verdict.records} records in {files}, {span}{head}")
        return
    path, line, why = verdict.broken
    place = f"{path} line {line}" if line else str(path)
    print(f"{verdict.daemon}: {paint('BROKEN', 'red')}: {clean(place)}: {clean(why)}")
    if verdict.unfinished:
        print("  The daemon was killed while it wrote this line, and accounts for it at its next start; or it was cut.")
    if verdict.last is not None:
        print(f"  {verdict.records} records before it are whole, {span}")


def _print_json(verdicts: Iterable[Verdict], missing: list[str], ok: bool) -> None:
    rows = []
    for one in verdicts:
        path, line, why = one.broken or (None, None, None)
        rows.append(
            {
                "daemon": one.daemon,
                "whole": one.broken is None,
                "files": [str(name) for name in one.files],
                "records": one.records,
                "head": f"{one.daemon}:{one.last.head}" if one.last else None,
                "recovered": [record.seq for record in one.recovered],
                "bad_file": str(path) if path else None,
                "bad_line": line,
                "why": why,
            }
        )
    answer: dict[str, object] = {"ok": ok, "trails": rows, "missing": missing}
    if not ok:
        answer["code"] = int(Code.AUDIT_BROKEN)
    print_json(answer)


def run_show(args: argparse.Namespace) -> int:
    """Print records."""
    found: Iterable[Record] = (
        record for record in trails.records(trails.find(_given(args))) if _is_wanted(args, record)
    )
    if args.n:
        found = deque(found, args.n)
    for record in found:
        print(json.dumps(_row(record)) if args.json else _text(record))
    return 0


def _is_wanted(args: argparse.Namespace, record: Record) -> bool:
    if record.time < args.since or not fnmatch.fnmatchcase(record.event, args.event):
        return False
    return args.session is None or record.fields.get("session") == args.session


def _row(record: Record) -> dict[str, object]:
    return {
        "seq": record.seq,
        "time": record.time,
        "daemon": record.daemon,
        "event": record.event,
        "fields": record.fields,
        "hash": record.hash,
    }


def _text(record: Record) -> str:
    parts = [
        f"{name}={escape(value if isinstance(value, (str, int, float, bool)) else None)}"
        for name, value in record.fields.items()
        if value not in ("", None)
    ]
    return clean(f"{record.time}  {record.daemon:<6}  {record.seq:>8}  {record.event:<22}  {' '.join(parts)}").rstrip()
