"""The operator's command ``tlspool``.

Commands about a pool are requests to its control sockets; who may give them is decided by who may open
these.  Exit codes: 0 done, 1 refused or failed with one line on standard error, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from tlspool_admin.commands import choose, daemons, dev, disclose, localid, pin, run, trust, tunnel
from tlspool_admin.options import common
from tlspool_admin.table import clean
from tlspool_common.errors import PoolError

COMMANDS = (localid, disclose, trust, daemons, dev, tunnel, run, pin, choose)
"""Modules with ``add_parser(subparsers)``; the parsers they add set ``run``."""


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    made = argparse.ArgumentParser(prog="tlspool", description="Operate a TLS pool.", parents=[common()])
    made.set_defaults(config=None, json=False)
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(subparsers)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code."""
    args = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        code = run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`tlspool sessions | head`); nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PoolError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130
    return code


def _failed(text: str) -> int:
    print(f"tlspool: {clean(text)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
