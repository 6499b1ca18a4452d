"""``tlspool metrics``: the numbers of the daemons, as text for monitoring."""

from __future__ import annotations

import argparse
import sys

from tlspool_admin import where
from tlspool_admin.catalog import help_of
from tlspool_admin.client import NotReachable, ask
from tlspool_admin.options import common, run_dir
from tlspool_admin.table import clean, print_json
from tlspool_common import openmetrics
from tlspool_common.openmetrics import Sample, Samples

_DAEMONS = ("broker", "worker", "keyd")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "Prints OpenMetrics text; docs/metrics.md says what each name means.  Without DAEMON: one text of all three."
    parser = subparsers.add_parser("metrics", parents=[common()], help=help_of("metrics"), description=text)
    parser.add_argument("daemon", nargs="?", choices=_DAEMONS, help="of this daemon only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask, and print."""
    directory = run_dir(args)
    parts: list[Samples] = []
    code = 0
    for name in [args.daemon] if args.daemon else _DAEMONS:
        try:
            answer = ask(where.control_socket(directory, name), {"cmd": "metrics"})
            parts.append(openmetrics.read_untrusted(str(answer.get("text", ""))))
        except (NotReachable, openmetrics.BadText) as error:
            print(f"tlspool: {name}: {clean(error)}", file=sys.stderr)
            parts.append({"tlspool_up": [Sample("tlspool_up", {"daemon": name}, 0)]})
            code = 1
    merged = openmetrics.merge(parts)
    if args.json:
        rows = {name: [_row(sample) for sample in samples] for name, samples in merged.items()}
        print_json({"ok": not code, "metrics": rows})
    else:
        sys.stdout.write(openmetrics.write(merged))
    return code


def _row(sample: Sample) -> dict[str, object]:
    return {"name": sample.name, "labels": dict(sample.labels), "value": sample.value}
