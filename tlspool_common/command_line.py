"""The command line of a daemon."""

from __future__ import annotations

import argparse
from pathlib import Path

from tlspool_common.setting_option import Part
from tlspool_common.settings import PATH_HELP, default_path


def parser(part: Part, about: str, check: str) -> argparse.ArgumentParser:
    """Return it; ``check`` says what the daemon does when it is only to check its configuration."""
    made = argparse.ArgumentParser(prog=part.program, description=about)
    made.add_argument("--config", type=Path, default=default_path(), metavar="FILE", help=PATH_HELP)
    made.add_argument("--check", action="store_true", help=check)
    made.add_argument("--foreground", action="store_true", help="changes nothing: it never goes anywhere else")
    return made
