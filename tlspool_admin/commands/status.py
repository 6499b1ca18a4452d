"""``tlspool status``: how the three daemons are, on one screen, with a verdict for monitoring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from tlspool_admin.catalog import help_of
from tlspool_admin.options import common, run_dir
from tlspool_admin.table import clean, objects, paint, print_json, show, texts, warn
from tlspool_admin.verdict import DAEMONS, Level, gather, judge, sentence

_TEXT = """\
Says in its first line whether the pool is fine, degraded or down, and why.  Exit status: 0 fine, 1 degraded (somebody
should look), 2 down (no new session can be set up); so it serves as a check of a monitoring system as it is."""

_COLOURS = {Level.FINE: "green", Level.DEGRADED: "yellow", Level.DOWN: "red"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("status", parents=[common()], help=help_of("status"), description=_TEXT)
    parser.add_argument("--all", action="store_true", help="all that the daemons say")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask each daemon; say how it is on the whole."""
    answers = gather(run_dir(args), dict.fromkeys(DAEMONS, "status"))
    level, reasons = judge(answers)
    if args.json:
        print_json({**answers, "verdict": level.name.lower(), "reasons": reasons})
        return int(level)
    print(paint(sentence(level, answers), _COLOURS[level]))
    for reason in reasons:
        warn(reason, level.name.lower()) if sys.stdout.isatty() else print(reason)
    for name, answer in answers.items():
        if answer.get("ok") is not True:
            continue
        if args.all:
            print(f"{name}:\n{show(answer, '  ')}")
        else:
            print(f"{name}: {_brief(name, answer)}")
    return int(level)


def _brief(name: str, answer: Mapping[str, object]) -> str:
    if name == "broker":
        states = answer.get("states")
        counts = [f"{number} {state}" for state, number in states.items()] if isinstance(states, Mapping) else []
        return (
            f"pid {clean(answer.get('pid'))}, up {clean(answer.get('uptime_s'))} s, {clean(answer.get('connections'))}"
            f" connections; sessions: {clean(', '.join(counts)) or 'none'}; databases at generation"
            f" {clean(answer.get('generation'))}"
        )
    if name == "worker":
        return f"pid {clean(answer.get('pid'))}, {len(objects(answer.get('workers')))} workers"
    tokens = [clean(line) for module in objects(answer.get("modules")) for line in texts(module.get("tokens"))]
    return (
        f"pid {clean(answer.get('pid'))}, {clean(answer.get('signed'))} signed, {clean(answer.get('refused'))} refused,"
        f" {clean(answer.get('waiting'))} waiting; tokens: {'; '.join(tokens) or 'none'}"
    )
