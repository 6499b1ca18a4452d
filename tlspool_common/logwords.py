"""Read lines of ``name=value`` words again, as log.py writes them.

Escapes stay as they are but for quotes and backslashes: what was not printable is for nobody to see, and a line with
some of it is none of log.py's.
"""

from __future__ import annotations

import re

_WORD = re.compile(r'([a-z][a-z0-9_.]*)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: +|$)')
_ESCAPED = re.compile(r'\\(["\\])')


def words_untrusted(text: str) -> dict[str, str]:
    """Return the words of a line; ``-`` is an empty value, as in logs.

    Raises:
        ValueError: it is no such line.
    """
    if not text.isprintable():
        raise ValueError("there is in it what cannot be printed")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        word = _WORD.match(text, at)
        if word is None or word[1] in found:
            raise ValueError(f"no name=value at character {at}")
        value = word[2]
        found[word[1]] = _ESCAPED.sub(r"\1", value[1:-1]) if value[:1] == '"' else "" if value == "-" else value
        at = word.end()
    return found
