"""``tlspool config``, ``check`` and ``reload``: the configuration in effect, in a file, and made to take effect."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from tlspool_admin import where
from tlspool_admin.catalog import help_of
from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import author, common, config_path, control_socket, run_dir
from tlspool_admin.table import clean, objects, paint, print_json, table, texts, warn
from tlspool_common.errors import Code, PoolError

DAEMONS = ("worker", "keyd", "broker")
"""In the order in which they are to reload: the worker is the one that knows which lists OpenSSL takes, and the
broker the one that sends them."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the three commands."""
    text = "Shows settings in effect, with the line each comes from; from the file alone when the daemon does not run."
    parser = subparsers.add_parser("config", parents=[common()], help=help_of("config"), description=text)
    parser.add_argument("names", nargs="*", metavar="SETTING", help="only these")
    parser.add_argument("--of", choices=sorted(DAEMONS), default="broker", help="which daemon's (default: %(default)s)")
    parser.add_argument("--value", action="store_true", help="only the values, one a line, for scripts")
    parser.add_argument("--changed", action="store_true", help="only what the file sets")
    parser.set_defaults(run=run_config)

    text = """Reads a configuration as the daemons do, and says all that is wrong with it, and with what it names on
    this host; nothing is changed."""
    parser = subparsers.add_parser("check", parents=[common()], help=help_of("check"), description=text)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: the configuration in use")
    parser.set_defaults(run=run_check)

    text = """Has every daemon read its configuration again.  Each takes all of it, or nothing if something is wrong;
    when one refuses, those behind it are not asked.  Sessions that run are not disturbed.  Settings that need a restart
    are named."""
    parser = subparsers.add_parser("reload", parents=[common()], help=help_of("reload"), description=text)
    parser.add_argument("only", nargs="?", metavar="|".join(DAEMONS), choices=DAEMONS, help="only this daemon")
    parser.set_defaults(run=run_reload)


def run_config(args: argparse.Namespace) -> int:
    """Show settings."""
    answer = _effective(args)
    rows = objects(answer.get("settings"))
    if args.names:
        known = {str(row.get("name")) for row in rows}
        if unknown := [name for name in args.names if name not in known]:
            raise PoolError(Code.SETTING_INVALID, f"{', '.join(unknown)}: {args.of} has no such setting")
        rows = [row for row in rows if row.get("name") in args.names]
    if args.changed:
        rows = [row for row in rows if row.get("line")]
    if args.json:
        print_json({**answer, "settings": [dict(row) for row in rows]})
        return 0
    if args.value:
        for row in rows:
            print(clean(row.get("value")))
        return 0
    print(table([_row(row, str(answer.get("file", ""))) for row in rows]))
    return 0


def _effective(args: argparse.Namespace) -> dict[str, object]:
    """Return the settings of a daemon, or what they would be."""
    try:
        return ask(control_socket(args, args.of), {"cmd": "config"})
    except NotReachable as error:
        if not error.nobody:
            raise
    from tlspool_common import settings  # slow to import, and not needed where a daemon answers

    path = config_path(args)
    part = settings.Part[args.of.upper()]
    warn(f"no {args.of} runs; this is what {path} says", "note")
    return {"ok": True, "file": str(path), "settings": settings.load(path, part).rows(), "offline": True}


def _row(row: Mapping[str, object], path: str) -> dict[str, object]:
    line = row.get("line")
    origin = f"line {line}" if line else "default"
    return {"setting": row.get("name"), "value": row.get("value"), "from": origin}


def run_check(args: argparse.Namespace) -> int:
    """Check a file, and what it names."""
    from tlspool_common import setting_checks, settings  # slow to import
    from tlspool_worker import lists

    path = args.file or config_path(args)
    found, problems, warnings = settings.check(path)
    remarks = setting_checks.look(found, path) if found else []
    if found:
        try:
            lists.check(found)
        except settings.SettingError as error:
            problems = [*problems, *error.problems]
    wrong = bool(problems) or any(remark.level == "error" for remark in remarks)
    if args.json:
        shown = [{"line": one.line, "setting": one.keyword, "value": one.value, "hint": one.hint} for one in problems]
        host = [
            {
                "level": one.level,
                "setting": one.keyword,
                "subject": one.subject,
                "text": one.text,
                "remedy": one.remedy,
            }
            for one in remarks
        ]
        print_json({"ok": not wrong, "file": str(path), "problems": shown, "host": host, "warnings": warnings})
        return 1 if wrong else 0
    for text in warnings:
        warn(text)
    for problem in problems:
        print(f"{clean(str(path))}: {paint('wrong', 'red')}: {clean(str(problem))}")
    for remark in remarks:
        if remark.level == "error":
            print(f"{clean(str(path))}: {paint('wrong', 'red')}: {clean(str(remark))}")
        else:
            warn(str(remark), remark.level)
    if not wrong:
        print(f"{clean(str(path))} is right")
    return 1 if wrong else 0


def run_reload(args: argparse.Namespace) -> int:
    """Ask each daemon."""
    directory = run_dir(args)
    answers: dict[str, object] = {}
    code = 0
    refused = ""
    for name in [args.only] if args.only else DAEMONS:
        try:
            if refused:
                raise PoolError(Code.SETTING_INVALID, f"not asked, as {refused} has refused")
            answer = ask(where.control_socket(directory, name), {"cmd": "reload", "author": author()})
        except (NotReachable, PoolError) as error:
            answers[name] = {"ok": False, "error": str(error)}
            code = 1
            if not isinstance(error, NotReachable):
                refused = refused or name
            if not args.json:
                warn(f"{name}: {error}", "not reloaded")
            continue
        answers[name] = answer
        if not args.json:
            for text in texts(answer.get("warnings")):
                warn(f"{name}: {text}")
            changed = ", ".join(map(clean, texts(answer.get("applied")))) or "nothing has changed"
            print(f"{name}: reloaded; {changed}")
            if waiting := texts(answer.get("restart")):
                warn(f"{name}: not before a restart: {', '.join(waiting)}", "note")
    if args.json:
        print_json({"ok": code == 0, **answers})
    return code
