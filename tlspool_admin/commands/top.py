"""``tlspool top``: watch a pool live; into a pipe, or with --once or --batch, one plain page after the other."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tlspool_admin.catalog import help_of
from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import author, common, number, run_dir
from tlspool_admin.table import clean, print_json
from tlspool_admin.where import control_socket
from tlspool_common.errors import PoolError

if TYPE_CHECKING:
    from tlspool_admin.top.board import Board

_TEXT = """\
Watch a pool: how much it does, how fast, who has sessions, what workers and tokens are at.  h says what the keys do.
Where no terminal is, or a dumb one, or with --once or --batch, plain pages are printed.  A daemon that is away is shown
as that, and looked for again."""

_WIDTH, _ROWS = 160, 40
"""Of a plain page."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("top", parents=[common()], help=help_of("top"), description=_TEXT)
    parser.add_argument("--once", action="store_true", help="print one page")
    parser.add_argument("--batch", type=number("number", least=1), metavar="N", help="print N pages")
    parser.add_argument(
        "--table",
        choices=("sessions", "callers", "workers", "tokens"),
        default="sessions",
        help="which table to show at first (default: sessions)",
    )
    parser.add_argument("--filter", default="", metavar="TEXT", help="only rows with that; WORD=VALUE for sessions")
    parser.add_argument(
        "--every",
        type=number("number of seconds", least=1, below=3601),
        default=2,
        metavar="S",
        help="seconds between two looks (default: 2)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show pages, or the live view."""
    from tlspool_admin.top.board import Board

    board = Board(table=args.table, filter=args.filter)
    directory = run_dir(args)
    pages = 1 if args.once else args.batch
    alive = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if pages is None and alive and not args.json:
        return _live(board, directory, args.every)
    return _plain(board, directory, args, pages)


def _plain(board: Board, directory: Path, args: argparse.Namespace, pages: int | None) -> int:
    from tlspool_admin.top.sample import take

    printed = 0
    while True:
        board.sample = take(directory, board.words, board.sample)
        if args.json:
            sample = board.sample
            print_json({"verdict": sample.level.name.lower(), "reasons": sample.reasons, **sample.answers})
        else:
            lines = [text.rstrip() for text, _ in board.lines(_WIDTH, _ROWS)[:-1]]
            print("\n".join(lines).rstrip("\n"), flush=True)
        printed += 1
        if printed == pages:
            return int(board.sample.level)
        print(flush=True)
        time.sleep(args.every)


def _live(board: Board, directory: Path, every_s: int) -> int:
    from tlspool_admin.top.board import Kill, Quit
    from tlspool_admin.top.sample import take
    from tlspool_admin.top.terminal import Terminal

    with Terminal().raw() as terminal:
        terminal.show(board.lines)
        due_s, words = 0.0, board.words
        while True:
            if time.monotonic() >= due_s or board.words != words:
                words = board.words
                if not board.still or board.sample is None:
                    board.sample = take(directory, words, board.sample)
                due_s = time.monotonic() + every_s
            terminal.show(board.lines)
            for key in terminal.keys(due_s):
                match board.key(key):
                    case Quit():
                        return 0
                    case Kill(fields):
                        board.message = _end(directory, dict(fields))
                        due_s = 0.0


def _end(directory: Path, fields: dict[str, object]) -> str:
    """End sessions; return what to tell."""
    try:
        answer = ask(control_socket(directory, "broker"), {"cmd": "kill", "author": author(), **fields})
    except (PoolError, NotReachable) as error:
        return clean(error)
    if "sessions" in answer:
        return f"{clean(answer['sessions'])} sessions: ended"
    return f"session {clean(answer.get('session'))}: ended"
