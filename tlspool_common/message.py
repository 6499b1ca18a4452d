"""The base of border messages, apart from the table, so that messages may be in more than one module."""

from __future__ import annotations


class Message:
    """Base of everything that crosses a border."""

    __slots__ = ()
