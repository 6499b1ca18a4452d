"""Options that every command takes, before or behind its name."""

from __future__ import annotations

import argparse
from pathlib import Path

from tlspool_admin.client import ask
from tlspool_common import settings


def common() -> argparse.ArgumentParser:
    """Return a parent parser with the common options; absent ones do not overwrite those given earlier."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration (default: TLSPOOL_CONFIG_FILE, else /etc/tlspool.conf)",
    )
    parser.add_argument("--json", action="store_true", help="print the daemon's answer as JSON")
    return parser


def run_dir(args: argparse.Namespace) -> Path:
    """Return the directory of the control sockets.

    Raises:
        PoolError: SETTING_INVALID, the configuration cannot be read.
    """
    path: Path = getattr(args, "config", None) or settings.default_path()
    return settings.load(path).run_dir


def ask_broker(args: argparse.Namespace, command: str, **fields: object) -> dict[str, object]:
    """Ask the broker.

    Raises:
        PoolError, NotReachable: as ``client.ask`` and ``run_dir``.
    """
    return ask(run_dir(args) / "broker.sock", {"cmd": command, "author": author(), **fields})


def author() -> str:
    """Return who gives the command, for the broker's log; a convenience, not a proof."""
    import getpass  # loads pwd and the like; not needed to print help
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
