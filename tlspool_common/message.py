"""The base of border messages, apart from the table, so that messages may be in more than one module."""

from __future__ import annotations

from typing import ClassVar


class Message:
    """Base of everything that crosses a border.

    Attributes:
        REPEATS: the first of the fields at the end that are often as they were in an earlier message; '' has none.
    """

    __slots__ = ()

    REPEATS: ClassVar[str] = ""
