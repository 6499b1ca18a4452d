"""``tlspool doctor``: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

import argparse

from tlspool_admin.catalog import help_of
from tlspool_admin.doctor.finding import ERROR, NOTE, OK, ORDER, WARNING, Finding, counts, exit_code
from tlspool_admin.options import common
from tlspool_admin.progress import Progress
from tlspool_admin.table import clean, paint, print_json

_TEXT = """\
Looks at the configuration, files and sockets, the three daemons, tokens, keys, certificates, disclosures, trust and the
clock; changes nothing.  What it may not look at as this user it says.  Exit status: 0 nothing is wrong, 1 something is,
3 something soon will be, or may be."""

_COLOURS = {ERROR: "red", WARNING: "yellow", NOTE: "dim", OK: "green"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("doctor", parents=[common()], help=help_of("doctor"), description=_TEXT)
    parser.add_argument("--all", action="store_true", help="show what is in order, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, and tell."""
    from tlspool_admin.doctor.visit import examine  # loads nearly everything: not for help

    with Progress("looking at") as progress:
        findings = examine(args, progress.say)
    if args.json:
        numbers = counts(findings)
        print_json({"ok": not numbers[ERROR], "counts": numbers, "findings": [one.row() for one in findings]})
    else:
        print(shown(findings, everything=args.all))
    return exit_code(findings)


def shown(findings: list[Finding], *, everything: bool) -> str:
    """Return findings for people: the worst first, each with its remedy."""
    lines = []
    numbers = counts(findings)
    for level in ORDER:
        if level == OK and not everything:
            continue
        for one in findings:
            if one.level == level:
                about = f" {one.subject}" if one.subject else ""
                lines.append(f"{paint(f'{level:<8}', _COLOURS[level])}{one.check}:{clean(about)} {clean(one.text)}")
                lines += [f"        -> {clean(one.remedy)}"] if one.remedy else []
    total = ", ".join(f"{numbers[level]} {word}" for level, word in _WORDS.items())
    return "\n".join([*lines, total])


_WORDS = {ERROR: "wrong", WARNING: "doubtful", NOTE: "noted", OK: "in order"}
