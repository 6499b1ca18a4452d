"""What manual pages are written with: heads, rows, options and running text in the macros of man(7)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from tlspool_admin.tree import Option

_VERSION = "0.1.0"
_DATE = "2026-11-30"

Rows = Sequence[tuple[str, str]]
"""Terms, and what is said of each."""

_MARKED = re.compile(r"``([^`]+)``|`([^`]+)`|\[([^]]+)\]\([^)]*\)")
"""Code as documentation strings and pages have it, and links, of which the words stay."""
_ROW = re.compile(r" {4}(\S+(?: \S+)*?) {2,}(\S.*)")


def head(name: str, section: int, text: str) -> list[str]:
    """Return the beginning of a page."""
    return [
        '.\\" Made by docs/generate.py from tlspool_admin; do not edit.',
        f'.TH {_quoted(name.upper())} {section} {_quoted(_DATE)} {_quoted(f"tlspool {_VERSION}")} "TLS pool"',
        ".SH NAME",
        f"{plain(name)} \\- {plain(text)}",
    ]


def rows(title: str, pairs: Rows) -> list[str]:
    """Return a section of terms."""
    out = [f".SH {title}"]
    for term, said in pairs:
        out += [".TP", f".B {plain(term)}", *text(said)]
    return out


def options(given: Sequence[Option]) -> list[str]:
    """Return options as a list of terms."""
    out = []
    for one in given:
        names = ", ".join(f"\\fB{plain(name)}\\fR" for name in one.names)
        out += [".TP", f"{names} \\fI{plain(one.metavar)}\\fR" if one.metavar else names, *text(one.help or "?")]
    return out


def see_also(names: Sequence[tuple[str, int]]) -> list[str]:
    """Return the last section: other pages."""
    return [".SH SEE ALSO", ", ".join(f"\\fB{plain(name)}\\fR({section})" for name, section in names)]


def text(said: str) -> list[str]:
    """Return lines of running text; two blanks end a sentence, as a line's end does for the formatter."""
    flat = " ".join(said.split()).replace(". ", ".\n")
    return [plain(line) for part in flat.split("\n") for line in textwrap.wrap(part, 110, break_on_hyphens=False)] or [
        ""
    ]


def marked(said: str) -> list[str]:
    """Return running text in which code is bold, and of links there are the words."""
    return _MARKED.sub(_show, "\n".join(text(said))).split("\n")


def _show(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return f"\\fB{code}\\fR" if code else found[3]


def paragraphs(said: str) -> list[str]:
    """Return a documentation string: what is indented by four blanks is rows of terms, or stays as it is."""
    out: list[str] = []
    for part in said.strip("\n").split("\n\n"):
        lines = part.split("\n")
        found = [one for one in map(_ROW.fullmatch, lines) if one]
        if len(found) == len(lines):
            for one in found:
                out += [".TP", f".B {plain(one[1])}", *marked(one[2])]
        elif all(line.startswith("    ") for line in lines):
            out += [".PP", ".nf", *(plain(line[4:]) for line in lines), ".fi"]
        else:
            out += [".PP", *marked(part)]
    return out[1:] if out[0] == ".PP" else out  # behind a head it stands anyway


def plain(words: str) -> str:
    """Return text that the formatter takes for nothing else."""
    escaped = words.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped


def _quoted(words: str) -> str:
    return '"' + words.replace('"', "\\(dq") + '"'
