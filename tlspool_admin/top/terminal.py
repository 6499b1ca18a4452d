"""The terminal of ``tlspool top``: raw mode and back, its size, keys.  Control sequences of ECMA-48 only.

Nothing that a remote has chosen reaches the terminal but printable characters (``clean``).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator

from tlspool_admin.table import has_colours

_LOOKS = {"bold": "1", "reverse": "7", "green": "32", "yellow": "33", "red": "31", "dim": "2"}
_WITHOUT_COLOURS = ("bold", "reverse")

_KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x1b": "escape",
    "\x03": "q",  # Ctrl-C
    "\x04": "q",  # Ctrl-D
}

_PIECE = re.compile(r"\x1b[\[O][^@-~]*[@-~]?|.", re.DOTALL)
"""A sequence up to its last character, if that has come; or one character."""

_COLUMNS, _LINES = 80, 24
"""Of a terminal that does not know how large it is."""

_SEQUENCE_S = 0.05
"""For the rest of an escape sequence: a slow line sends a key's bytes in one go, too."""


def keys_untrusted(text: str) -> list[str]:
    """Take what was typed apart into keys; sequences that nobody knows are nothing."""
    # What nobody knows stays as it is, and has an escape in it, which cannot be printed.
    return [key for piece in _PIECE.findall(text) if (key := _KEYS.get(piece, piece)).isprintable()]


class Terminal:
    """Standard input and output, as long as they are a terminal."""

    def __init__(self) -> None:
        self._in_fd = sys.stdin.fileno()
        self._colours = has_colours(sys.stdout)
        self._wake_read, self._wake_write = os.pipe()
        self._shown: list[str] = []

    @contextlib.contextmanager
    def raw(self) -> Iterator[Terminal]:
        """Have the terminal to ourselves, and give it back as it was, whatever happens."""
        before = termios.tcgetattr(self._in_fd)
        old = signal.signal(signal.SIGWINCH, lambda _number, _frame: os.write(self._wake_write, b"w"))
        ended = signal.signal(signal.SIGTERM, _leave)
        try:
            tty.setcbreak(self._in_fd)
            self._write("\x1b[?1049h\x1b[?25l\x1b[2J")
            yield self
        finally:
            self._write("\x1b[0m\x1b[?25h\x1b[?1049l")
            termios.tcsetattr(self._in_fd, termios.TCSADRAIN, before)
            signal.signal(signal.SIGWINCH, old)
            signal.signal(signal.SIGTERM, ended)
            os.close(self._wake_read)
            os.close(self._wake_write)

    def show(self, board: Callable[[int, int], list[tuple[str, str]]]) -> None:
        """Draw what a board has to show in the size that there is; only what has changed is written."""
        size = os.get_terminal_size(sys.stdout.fileno())
        width, height = size.columns or _COLUMNS, size.lines or _LINES
        drawn = [self._painted(text, look) for text, look in board(max(1, width), max(1, height))]
        if len(drawn) != len(self._shown):
            self._write("\x1b[2J")
            self._shown = [""] * len(drawn)
        out = [
            f"\x1b[{place + 1};1H{line}\x1b[K"
            for place, (line, before) in enumerate(zip(drawn, self._shown, strict=True))
            if line != before
        ]
        self._shown = drawn
        self._write("".join(out))

    def _painted(self, text: str, look: str) -> str:
        if not look or not (self._colours or look in _WITHOUT_COLOURS):
            return text
        return f"\x1b[{_LOOKS[look]}m{text}\x1b[0m"

    def keys(self, until_s: float) -> list[str]:
        """Wait for keys until a time of the monotonic clock; none when it is over, or the size has changed."""
        readable, _, _ = select.select([self._in_fd, self._wake_read], [], [], max(0.0, until_s - time.monotonic()))
        if self._wake_read in readable:
            os.read(self._wake_read, 4096)
            self._shown = []
        if self._in_fd not in readable:
            return []
        data = os.read(self._in_fd, 4096)
        if not data:
            return ["q"]
        if data.endswith(b"\x1b") and select.select([self._in_fd], [], [], _SEQUENCE_S)[0]:
            data += os.read(self._in_fd, 4096)
        return keys_untrusted(data.decode("utf-8", "replace"))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _leave(_number: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)
