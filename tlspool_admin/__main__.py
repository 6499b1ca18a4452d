"""The operator's command ``tlspool``.

Commands about a pool are requests to its control sockets; who may give them is decided by who may open
these.  Exit codes: 0 done, 1 refused, not found or failed, with one line on standard error (and, with --json,
an object on standard output), 2 bad usage.  ``doctor`` has 3 besides.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Container, Sequence

from tlspool_admin import catalog, ending
from tlspool_admin.options import Parser, common
from tlspool_admin.table import clean, print_json

_TAKE_VALUE = ("--config",)
"""Options before the command that take the next word."""


def parser(wanted: Container[str] | None = None) -> argparse.ArgumentParser:
    """Return the whole command line; or of the commands that are not wanted only the names."""
    made: argparse.ArgumentParser = Parser(
        prog="tlspool",
        description="Operate a TLS pool.",
        epilog="tlspool COMMAND --help says more.  Exit status: 0 done, 1 refused or not found, 2 bad usage.",
        parents=[common()],
    )
    made.set_defaults(config=None, json=False)
    catalog.add_parsers(made.add_subparsers(required=True, metavar="COMMAND"), wanted)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have letters that a locale has not
    if argv is None and not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, about certificates: for who maintains this, not for operators
    words = sys.argv[1:] if argv is None else list(argv)
    args = parser(_wanted(words)).parse_args(words)
    run: Callable[[argparse.Namespace], int] = args.run
    return ending.end(lambda: run(args), lambda text, code: _failed(args, text, code))


def _wanted(words: Sequence[str]) -> list[str]:
    """Return the command of a command line, if there is one: the first word that is no option."""
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in _TAKE_VALUE
        else:
            return [word]
    return []


def _failed(args: argparse.Namespace, text: str, code: int) -> None:
    print(f"tlspool: {clean(text)}", file=sys.stderr)
    if args.json:
        print_json({"ok": False, "code": code, "error": text})


if __name__ == "__main__":
    raise SystemExit(main())
