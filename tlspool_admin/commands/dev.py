"""``tlspool dev up|env|down --dir DIR``: a development pool in a directory."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from tlspool_admin.devpool import KEY_TYPES, DevPool


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its three actions."""
    parser = subparsers.add_parser("dev", help="run a complete pool in a directory, for development")
    actions = parser.add_subparsers(dest="action", required=True, metavar="up|env|down")
    for action, text in (
        ("up", "start a pool; ready when this returns; may be repeated"),
        ("env", "print the variables an application needs"),
        ("down", "stop the pool and leave nothing behind"),
    ):
        one = actions.add_parser(action, help=text)
        one.add_argument("--dir", type=Path, required=True, help="directory of the pool")
        one.set_defaults(run=run)
        if action == "up":
            one.add_argument("--key-type", choices=KEY_TYPES, default="ec", help="kind of the demo keys (default: ec)")
            one.add_argument(
                "--ask-pin",
                action="store_true",
                help="do not tell the pool the PIN: `tlspool pin` does (DIR/pin has it)",
            )
            one.add_argument("--module", default="", help="PKCS #11 library to use instead of SoftHSM2's")
            one.add_argument(
                "--set", action="append", default=[], metavar="'KEYWORD VALUE'", help="add a line to the configuration"
            )


def run(args: argparse.Namespace) -> int:
    """Do it."""
    pool = DevPool(args.dir, report=lambda text: print(f"  {text}", file=sys.stderr, flush=True))
    if args.action == "env":
        for name, value in pool.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        return 0
    if args.action == "down":
        print(f"{'stopped and removed' if pool.down() else 'there is no pool in'} {pool.directory}")
        return 0
    started = time.monotonic()
    if pool.up(args.key_type, args.set, args.module, knows_pin=not args.ask_pin):
        print(f"pool is up in {pool.directory} after {time.monotonic() - started:.1f} s")
    else:
        print(f"pool is up in {pool.directory} already")
    print(f'use it:  eval "$(tlspool dev env --dir {shlex.quote(str(pool.directory))})"')
    return 0
