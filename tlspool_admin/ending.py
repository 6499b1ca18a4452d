"""How a command ends: its exit status, and one line about what went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tlspool_common.errors import PoolError


def end(work: Callable[[], int], failed: Callable[[str, int], None]) -> int:
    """Do the work and return the exit status; ``failed`` hears what went wrong, and the number of the error or 0."""
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`tlspool sessions | head`); nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except PoolError as error:
        failed(str(error), int(error.code))
        return 1
    except OSError as error:
        failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), 0)
        return 1
    except KeyboardInterrupt:
        return 130
    return status
