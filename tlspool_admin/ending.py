"""How a command ends: by a signal; its exit status, and one line about what went wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def heard(numbers: tuple[signal.Signals, ...], handler: Callable[[], None], wake_fd: int) -> Iterator[None]:
    """Have signals call a handler in the main thread, which waits until ``wake_fd`` or others can be read.

    A handler in Python runs between two bytecodes, never inside a system call.  A signal that comes when the last
    bytecode before a call is done, and the call has not begun, does not interrupt it: it would be heard when the call
    returns, perhaps never.  So each signal's arrival is a byte on ``wake_fd``, too (signal.set_wakeup_fd).

    Args:
        numbers: the signals.
        handler: what they mean; it may raise.
        wake_fd: does not block; its other end is among what the main thread waits for, and open until this is over.
    """
    for number in numbers:
        signal.signal(number, lambda _number, _frame: handler())
    before = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
