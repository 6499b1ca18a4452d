"""What is said of a code of an error."""

from __future__ import annotations

from dataclasses import dataclass

from tlspool_common.error_codes import ComErr


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of a code: to the application, and to who can repair it."""

    com_err: ComErr
    happened: str
    remedy: str
