"""Options that commands share, and asking the daemons."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from tlspool_admin import where


class Parser(argparse.ArgumentParser):
    """A parser that refuses a second ``--`` where one word is wanted; argparse makes an empty list of it."""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        value: object = super()._get_values(action, arg_strings)
        if value == [] and action.nargs is None:
            self.error(f"argument {action.metavar or action.dest}: expected one argument")
        return value


def common() -> argparse.ArgumentParser:
    """Return a parent parser with the common options; absent ones do not overwrite those given earlier."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration (default: TLSPOOL_CONFIG_FILE, else /etc/tlspool.conf)",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    return parser


def changing() -> argparse.ArgumentParser:
    """Return a parent parser with the options of commands that change the databases."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--reason", metavar="TEXT", help="why, for the history")
    parser.add_argument(
        "--if-generation", type=int, metavar="N", help="only if the databases are at this generation still"
    )
    return parser


def number(what: str, *, least: int = 0, below: int = 10**18) -> Callable[[str], int]:
    """Return a type of argument: a number in decimal digits; errors say that it is no ``what``."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= len(str(below - 1)) and least <= int(text) < below:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}")

    return read


def config_path(args: argparse.Namespace) -> Path:
    """Return the configuration that is meant."""
    return where.config_path(getattr(args, "config", None))


def run_dir(args: argparse.Namespace) -> Path:
    """Return the directory of the control sockets.

    Raises:
        PoolError: SETTING_INVALID.
        OSError: the configuration cannot be read.
    """
    return where.run_dir_of(config_path(args))


def control_socket(args: argparse.Namespace, daemon: str) -> Path:
    """Return the control socket of a daemon.

    Raises:
        PoolError, OSError: as ``run_dir``.
    """
    return where.control_socket(run_dir(args), daemon)


def author() -> str:
    """Return who gives the command, for log and history; a convenience, not a proof."""
    import pwd  # not needed to print help

    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def ask_broker(args: argparse.Namespace, command: str, **fields: object) -> dict[str, object]:
    """Ask the broker.

    Raises:
        PoolError, NotReachable: as ``client.ask`` and ``control_socket``.
    """
    from tlspool_admin.client import ask  # not needed to print help

    return ask(control_socket(args, "broker"), {"cmd": command, "author": author(), **fields})
