"""``tlspool pin``: ask at this terminal for the PINs that the pool needs, until interrupted.

The PIN goes to keyd and nowhere else, over keyd's own socket, or over the application socket if that may not be
opened.  It is not shown, not kept, and not written anywhere by this program.
"""

from __future__ import annotations

import argparse
import getpass
import signal
import sys

import libstub
from tlspool_admin.client import ask
from tlspool_admin.ending import heard
from tlspool_admin.options import common
from tlspool_admin.table import clean
from tlspool_common import settings
from tlspool_common.settings import Settings

_MORE = """\
The pool asks for the PIN of each token that needs one.  An empty PIN declines.  A wrong one is asked for again, as
often as pin_tries allows; --again lets the pool ask after that.  Who may do this is decided by pin_services."""


QUIET_S = 5.0
"""Whether a PIN was right shows in that it is not asked for again: a token process has tried it within a second."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    text = "type the PINs that the pool needs"
    parser = subparsers.add_parser("pin", parents=[common()], help=text, description=f"{text}.  {_MORE}")
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds that nobody else is asked instead, while a PIN is typed (default: 60)",
    )
    parser.add_argument(
        "--once", action="store_true", help=f"end when no PIN was asked for in {QUIET_S:g} s after the last one"
    )
    parser.add_argument("--again", action="store_true", help="let the pool ask again after too many wrong PINs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask for PINs until SIGTERM, Ctrl-C or the end of the pool."""
    config = settings.load(getattr(args, "config", None) or settings.default_path())
    if args.again:
        ask(config.run_dir / "keyd.sock", {"cmd": "pin.again"})
    try:
        with _connected(config, args.timeout) as service, heard((signal.SIGTERM,), sys.exit, service.wakeup_fd):
            print("waiting until a PIN is needed; end with Ctrl-C", flush=True)
            service.run(QUIET_S if args.once else None)
    except libstub.PoolError as error:
        print(f"tlspool: {clean(str(error))}", file=sys.stderr)
        return 1
    return 0


def _connected(config: Settings, timeout_s: float) -> libstub.PinService:
    try:
        return libstub.PinService(typed, pool=config.pin_socket, timeout_s=timeout_s)
    except (libstub.PoolUnavailable, libstub.Refused):
        return libstub.PinService(typed, pool=config.socket_name, timeout_s=timeout_s)


def typed(question: libstub.PinQuestion) -> str:
    """Ask for a PIN at the terminal."""
    print(f"token {describe(question)}", flush=True)
    if question.attempt:
        print(f"{question.attempt} wrong so far", flush=True)
    return getpass.getpass(f"{clean(question.prompt).rstrip()} ")


def describe(question: libstub.PinQuestion) -> str:
    """Return the token in one line."""
    parts = (question.label or "without label", question.manufacturer, question.model)
    serial = f"serial {question.serial}" if question.serial else ""
    return clean(", ".join(part for part in (*parts, serial) if part))
