"""Where the control sockets are: the one setting that most commands need, read without all the others.

The daemons read the whole configuration, and refuse what is wrong with it; an operator's command is what one
mends it with, and has to work with a file that is half right.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tlspool_common.errors import Code, PoolError

DEFAULT_CONFIG = Path("/etc/tlspool.conf")
DEFAULT_RUN_DIR = Path("/run/tlspool")
_CONFIG_B = 1024 * 1024
_LINE = re.compile(r"^([^ #\n][^ \n]*) (.*)$", re.MULTILINE)


class Unconfigured(OSError):
    """There is no configuration that says where the pool is."""


def config_path(given: Path | None) -> Path:
    """Return the configuration: as given, else TLSPOOL_CONFIG_FILE, else /etc/tlspool.conf."""
    named = os.environ.get("TLSPOOL_CONFIG_FILE")
    return given or (Path(named) if named else DEFAULT_CONFIG)


def read(path: Path) -> bytes:
    """Return what a configuration has, as far as one may reach.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(_CONFIG_B)


def run_dir_of(path: Path) -> Path:
    """Return the directory that a configuration names with ``run_dir``, or the default.

    Raises:
        Unconfigured: the file cannot be read.
        PoolError: SETTING_INVALID, what it says is no path.
    """
    try:
        data = read(path)
    except OSError as error:
        raise Unconfigured(
            f"no configuration: {path}: {error.strerror}; name one by --config or TLSPOOL_CONFIG_FILE"
        ) from None
    found = run_dir_untrusted(data)
    if not found.is_absolute():
        raise PoolError(Code.SETTING_INVALID, f"run_dir {str(found)!r} in {path}: must be an absolute path")
    return found


def control_socket(run_dir: Path, daemon: str) -> Path:
    """Return the control socket of a daemon: broker, worker or keyd."""
    return run_dir / f"{daemon}.sock"


def run_dir_untrusted(data: bytes) -> Path:
    """Return the last ``run_dir`` among the lines of a file, whatever else there may be."""
    found = values_untrusted(data).get("run_dir")
    return DEFAULT_RUN_DIR if found is None else Path(found.replace("\0", ""))


def values_untrusted(data: bytes) -> dict[str, str]:
    """Return the last value of each keyword of a file."""
    return dict(_LINE.findall(data.decode("utf-8", "replace")))
