"""What line protocols have in common: lines of printable text, and answers that begin with a number."""

from __future__ import annotations

import re
from collections.abc import Generator

from tlspool_admin.preambles.script import LINE_B, LINES, NeedUntil, Refused, Side, Step

TEXT = 200
"""So much of what a server says goes into an error."""

_LINE = {side: NeedUntil(side) for side in Side}
_REPLY = re.compile(r"[1-5][0-9]{2}(?:[ -]|\Z)")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def line(side: Side, limit_b: int = LINE_B) -> Generator[Step, bytes, str]:
    """Hear a line, without its end.

    Control characters are refused: a program further on might take a lone CR for the end of a line, too.
    """
    data = yield _LINE[side] if limit_b == LINE_B else NeedUntil(side, limit_b=limit_b)
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    text = data.decode("utf-8", "surrogateescape")
    if _CONTROL.search(data):
        raise Refused(side, f"control characters in a line: {quoted(text)}")
    return text


def encoded(text: str) -> bytes:
    """Return a line as it goes out again."""
    return text.encode("utf-8", "surrogateescape") + b"\r\n"


def quoted(text: str) -> str:
    """Return what a side said, for an error."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = repr(shown[:TEXT])
    return text if len(text) <= TEXT + 2 else f"{text[:TEXT]}...'"


def reply(side: Side) -> Generator[Step, bytes, tuple[int, list[str]]]:
    """Hear the answer of an SMTP or FTP server: its code, and the text of its lines.

    ``250-text`` says that more follow, ``250 text`` ends.  In FTP lines between need no code (RFC 959 section 4.2).
    """
    first = yield from line(side)
    if _REPLY.match(first) is None:
        raise Refused(side, f"no answer of this protocol: {quoted(first)}")
    code, texts = first[:3], [first[4:]]
    more = first[3:4] == "-"
    while more:
        if len(texts) >= LINES:
            raise Refused(side, f"an answer with more than {LINES} lines")
        text = yield from line(side)
        has_code = text.startswith(code) and text[3:4] in ("", " ", "-")
        more = not has_code or text[3:4] == "-"
        texts.append(text[4:] if has_code else text)
    return int(code), texts


def expect(side: Side, wanted: int, what: str) -> Generator[Step, bytes, list[str]]:
    """Hear an answer with this code, and return its lines.

    Raises:
        Refused: it has another code.
    """
    code, texts = yield from reply(side)
    if code != wanted:
        raise Refused(side, f"{what} was answered with {code} {quoted(texts[0])}")
    return texts


def until_dot(side: Side) -> Generator[Step, bytes, list[str]]:
    """Hear the lines of a POP3 or NNTP answer, up to the one that is a dot."""
    texts: list[str] = []
    while True:
        text = yield from line(side)
        if text == ".":
            return texts
        if len(texts) >= LINES:
            raise Refused(side, f"an answer with more than {LINES} lines")
        texts.append(text.removeprefix("."))


def first_word(text: str) -> str:
    """Return the first word in capitals; '' if there is none."""
    words = text.split(maxsplit=1)
    return words[0].upper() if words else ""
