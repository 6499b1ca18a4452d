"""A PIN service: tells the pool a PIN from the environment, once, and declines if that was wrong.

PIN=1234 examples/pin_service.py
"""

from __future__ import annotations

import os
import sys

import libstub


def answer(question: libstub.PinQuestion) -> str | None:
    """Return the PIN for a token, or None to decline."""
    print(f"attempt {question.attempt} for token {question.label}, serial {question.serial}", flush=True)
    if question.attempt:
        return None  # it was wrong, and a token that gets it again may lock
    return os.environ.get("PIN")


def main() -> int:
    """Serve until the pool ends."""
    try:
        with libstub.PinService(answer) as service:
            service.run()
    except libstub.PoolError as error:
        print(f"ended: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
