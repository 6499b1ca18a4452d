"""Manual pages, made from the parsers: ``tlspool(1)`` and one for each command.

``make docs`` writes them to man/.  A description that lives in a parser is the one that ``--help`` shows too.
"""

from __future__ import annotations

import argparse
import textwrap

from tlspool_admin.catalog import CATALOG
from tlspool_admin.tree import Node, Option, tree

_VERSION = "0.1.0"
_DATE = "2026-11-29"

_EXIT = (
    ("0", "done"),
    (
        "1",
        "refused, not found, or failed; standard error says why, and with --json so does an object on standard output",
    ),
    ("2", "bad usage"),
)
_ENVIRONMENT = (
    ("TLSPOOL_CONFIG_FILE", "configuration, unless --config names one; else /etc/tlspool.conf"),
    ("NO_COLOR", "if set, nothing is coloured; nor is it in a pipe or a file"),
)
_FILES = (
    ("/etc/tlspool.conf", "configuration of the three daemons"),
    ("/run/tlspool/broker.sock", "control socket of the broker; whoever may open it may give commands"),
    ("/run/tlspool/keyd.sock, /run/tlspool/worker.sock", "those of the key daemon and of the worker master"),
)


def pages(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the pages by the names of their files."""
    root = tree(parser)
    found = {"tlspool.1": _main_page(root)}
    for node in root.children:
        found[f"tlspool-{node.words[0]}.1"] = _page(node)
    return found


def _main_page(root: Node) -> str:
    out = [
        *_head("tlspool", "operate a TLS pool"),
        ".SH SYNOPSIS",
        ".B tlspool",
        "[OPTIONS] COMMAND ...",
        ".SH DESCRIPTION",
        *_text(root.description),
        *_text("Commands about a pool are requests to the control sockets of its daemons.  While no broker runs, those "
               "about the databases work on the files themselves, and standard error says so."),
        ".SH COMMANDS",
    ]  # fmt: skip
    for entry in CATALOG:
        out += [".TP", f".BR tlspool-{_roff(entry.name)} (1)", *_text(entry.help)]
    out += [".SH OPTIONS", *_options(root.options), *_tail()]
    out += [".SH SEE ALSO", ", ".join(f"\\fBtlspool-{_roff(entry.name)}\\fR(1)" for entry in CATALOG)]
    return "\n".join(out) + "\n"


def _page(node: Node) -> str:
    name = f"tlspool {' '.join(node.words)}"
    out = [*_head(f"tlspool-{node.words[0]}", node.help), ".SH SYNOPSIS"]
    leaves = [one for one in node.all() if not one.children or one.arguments]
    for leaf in leaves:
        out += [".HP", f".B {_roff('tlspool ' + ' '.join(leaf.words))}", _roff(_synopsis(leaf))]
    out += [".SH DESCRIPTION", *_text(node.description or f"{name}: {node.help}.")]
    if node.children:
        out += [".SH ACTIONS"]
        for leaf in leaves:
            if leaf is node:
                continue
            out += [f".SS {_roff(' '.join(leaf.words[1:]))}", *_text(leaf.description or f"{_sentence(leaf.help)}")]
            out += [*_arguments(leaf), *_options(_own(leaf))]
    else:
        out += [*_arguments(node)]
    shared = [one for one in _shared(node) if not node.children or one.names[0] != "-h"]
    options = [*(shared if node.children else node.options)]
    out += [".SH OPTIONS", *_options(options)] if options else []
    out += [*_tail(doctor=node.words[0] == "doctor"), ".SH SEE ALSO", ".BR tlspool (1)"]
    return "\n".join(out) + "\n"


_COMMON = ("--config", "--json", "--reason", "--if-generation")


def _own(leaf: Node) -> list[Option]:
    return [one for one in leaf.options if one.names[0] not in (*_COMMON, "-h")]


def _shared(node: Node) -> list[Option]:
    """Return the common options that anything below a command takes, once."""
    found: dict[str, Option] = {}
    for one in node.all():
        for option in one.options:
            if option.names[0] in _COMMON:
                found.setdefault(option.names[0], option)
    return list(found.values())


def _synopsis(leaf: Node) -> str:
    words = [f"[{one.names[-1]}{f' {one.metavar}' if one.metavar else ''}]" for one in _own(leaf)]
    for one in leaf.arguments:
        text = f"{one.metavar} ..." if one.many else one.metavar
        words.append(f"[{text}]" if one.optional else text)
    return " ".join(words)


def _head(name: str, text: str) -> list[str]:
    return [
        '.\\" Made by docs/generate.py from the parsers of tlspool_admin; do not edit.',
        f'.TH {_quoted(name.upper())} 1 {_quoted(_DATE)} {_quoted(f"tlspool {_VERSION}")} "TLS pool"',
        ".SH NAME",
        f"{_roff(name)} \\- {_roff(text)}",
    ]


def _tail(*, doctor: bool = False) -> list[str]:
    codes = [*_EXIT, ("3", "nothing is wrong, and something soon will be, or may be")] if doctor else _EXIT
    out = []
    for title, rows in (("EXIT STATUS", codes), ("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
        out.append(f".SH {title}")
        for term, text in rows:
            out += [".TP", f".B {_roff(term)}", *_text(text)]
    return out


def _arguments(leaf: Node) -> list[str]:
    out = []
    for one in leaf.arguments:
        if one.help:
            out += [".TP", f".I {_roff(one.metavar)}", *_text(one.help)]
    return out


def _options(options: tuple[Option, ...] | list[Option]) -> list[str]:
    out = []
    for one in options:
        names = ", ".join(f"\\fB{_roff(name)}\\fR" for name in one.names)
        out += [".TP", f"{names} \\fI{_roff(one.metavar)}\\fR" if one.metavar else names, *_text(one.help or "?")]
    return out


def _text(text: str) -> list[str]:
    """Return lines of running text; two blanks end a sentence, as a line's end does for the formatter."""
    flat = " ".join(text.split()).replace(". ", ".\n")
    return [_roff(line) for part in flat.split("\n") for line in textwrap.wrap(part, 110, break_on_hyphens=False)] or [
        ""
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return "\\&" + escaped if escaped[:1] in (".", "'") else escaped


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "\\(dq") + '"'
