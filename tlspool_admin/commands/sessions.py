"""``tlspool sessions [list|show|kill]`` and ``tlspool kill``: who speaks with whom, and ending that."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from tlspool_admin.catalog import help_of
from tlspool_admin.options import ask_broker, common, number
from tlspool_admin.table import clean, objects, print_json, print_warnings, show, table
from tlspool_common.errors import Code, PoolError

_SESSION = number("number of a session; `tlspool sessions` lists them", below=10**19)
_SHOWN = 50
_ALL = 10**6
_PAGE = 1000
"""Sessions in one request: the broker has other things to do between two."""

_NAMED = 5
"""Sessions that are named when somebody is asked whether to end them."""

_KILL = """\
Ends sessions at once: by their numbers, or all that an option fits.  Several options must all fit.  What is not named
by its number is shown first, and ended when that is confirmed, or with --yes."""
_WORDS = {
    # option: metavar, help
    "caller": ("CALLER", "of this caller: its unit, program or process"),
    "uid": ("UID", "of this user"),
    "local": ("ID", "with this identity of ours"),
    "remote": ("REMOTE", "with this remote, @DOMAIN its users, .DOMAIN all below it"),
    "state": ("STATE", "in this state: relaying, expect_handshake, ..."),
    "service": ("SERVICE", "for this service"),
    "worker": ("WORKER", "in this worker"),
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the two commands."""
    parser = subparsers.add_parser("sessions", parents=[common(), _filter()], help=help_of("sessions"))
    _paging(parser)
    parser.set_defaults(run=run_list)
    actions = parser.add_subparsers(dest="action", metavar="list|show|kill")
    one = actions.add_parser("list", parents=[common(), _filter()], help="list them (the default)")
    _paging(one)
    one.set_defaults(run=run_list)
    one = actions.add_parser("show", parents=[common()], help="everything about one")
    one.add_argument("session", metavar="SESSION", type=_SESSION, help="its number")
    one.set_defaults(run=run_show)
    one = actions.add_parser("kill", parents=[common()], help="end a session at once")
    one.add_argument("session", metavar="SESSION", type=_SESSION, nargs=1, help="its number")
    one.set_defaults(run=run_kill, all=False, yes=True)

    parser = subparsers.add_parser("kill", parents=[common(), _filter()], help=help_of("kill"), description=_KILL)
    parser.add_argument("session", metavar="SESSION", type=_SESSION, nargs="*", help="its number")
    parser.add_argument("--all", action="store_true", help="every session of the pool")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=run_kill)


def _filter() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    for word, (metavar, text) in _WORDS.items():
        parser.add_argument(f"--{word}", metavar=metavar, help=text)
    return parser


def _paging(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", type=number("number", below=10**5), default=argparse.SUPPRESS, metavar="N", help="at most N (default: 50)"
    )
    parser.add_argument(
        "--after", type=_SESSION, default=argparse.SUPPRESS, metavar="SESSION", help="go on behind this one"
    )


def fields_of(args: argparse.Namespace) -> dict[str, object]:
    """Return what a request says of which sessions are meant."""
    return {word: getattr(args, word) for word in _WORDS if hasattr(args, word)}


def run_list(args: argparse.Namespace) -> int:
    """List sessions; to a program all of them."""
    shown = getattr(args, "n", None)
    answer = _asked(args, shown if shown is not None else _ALL if args.json else _SHOWN)
    if args.json:
        print_json(answer)
        return 0
    rows = objects(answer.get("sessions"))
    if not any(row.get("tags") for row in rows):  # a column for pools that ask RADIUS servers
        rows = [{name: value for name, value in row.items() if name != "tags"} for row in rows]
    print(table(rows) if rows else "there are no sessions" if not fields_of(args) else "there is no such session")
    more = answer.get("more")
    if isinstance(more, int) and more:
        print(f"{more} more; go on with --after {clean(answer.get('next', 0))}, or see all with -n {len(rows) + more}")
    return 0


def _asked(args: argparse.Namespace, wanted: int) -> dict[str, object]:
    """Ask for so many sessions, page by page."""
    fields = fields_of(args)
    rows: list[Mapping[str, object]] = []
    after: object = getattr(args, "after", 0)
    while True:
        answer = ask_broker(args, "sessions", limit=min(_PAGE, wanted - len(rows)), after=after, **fields)
        rows += objects(answer.get("sessions"))
        after = answer.get("next")
        if after is None or len(rows) >= wanted:
            return {**answer, "sessions": rows}


def run_show(args: argparse.Namespace) -> int:
    """Tell everything about one session."""
    answer = ask_broker(args, "session", session=args.session)
    if args.json:
        print_json(answer)
    else:
        print(show(answer))
    return 0


def run_kill(args: argparse.Namespace) -> int:
    """End sessions."""
    fields = fields_of(args)
    if args.session:
        if fields or args.all:
            raise PoolError(Code.FIELD_MALFORMED, "name sessions by their numbers, or by options, not both")
        return _kill_numbers(args)
    if bool(fields) == args.all:
        raise PoolError(Code.FIELD_MALFORMED, "say which sessions: by number, by an option, or --all")
    if not args.yes and not _confirmed(args, fields):
        return 1
    answer = ask_broker(args, "kill", **(fields or {"all": True}))
    if args.json:
        print_json(answer)
    else:
        print_warnings(answer)
        print(f"{clean(answer.get('sessions'))} sessions: ended")
    return 0


def _kill_numbers(args: argparse.Namespace) -> int:
    code = 0
    for session in args.session:
        try:
            answer = ask_broker(args, "kill", session=session)
        except PoolError as error:
            if len(args.session) == 1 or error.code is not Code.SESSION_UNKNOWN:
                raise
            print(f"tlspool: session {session}: {clean(error)}", file=sys.stderr)
            code = 1
            continue
        if args.json:
            print_json(answer)
        else:
            print_warnings(answer)
            print(f"session {session}: ended")
    return code


def _confirmed(args: argparse.Namespace, fields: Mapping[str, object]) -> bool:
    answer = ask_broker(args, "sessions", limit=_NAMED, **fields)
    rows, more = objects(answer.get("sessions")), answer.get("more")
    count = len(rows) + (more if isinstance(more, int) else 0)
    if not count:
        print("tlspool: there is no such session", file=sys.stderr)
        return False
    print(table([{name: row.get(name) for name in ("session", "caller", "localid", "remoteid")} for row in rows]))
    if count > len(rows):
        print(f"and {count - len(rows)} more")
    if not sys.stdin.isatty():
        raise PoolError(Code.FIELD_MALFORMED, f"this would end {count} sessions; say --yes where nobody can be asked")
    return input(f"End {count} session{'' if count == 1 else 's'}? [y/N] ").strip().lower() in ("y", "yes")
