"""Manual pages, made from the parsers: ``tlspool(1)`` and one for each command.

``make docs`` writes them to man/.  A description that lives in a parser is the one that ``--help`` shows too.
"""

from __future__ import annotations

import argparse

from tlspool_admin import roff
from tlspool_admin.catalog import CATALOG
from tlspool_admin.roff import Rows
from tlspool_admin.tree import Node, Option, tree

_EXIT: Rows = (
    ("0", "done"),
    (
        "1",
        "refused, not found, or failed; standard error says why, and with --json so does an object on standard output",
    ),
    ("2", "bad usage"),
)
CONFIGURATION = ("TLSPOOL_CONFIG_FILE", "configuration, unless --config names one; else /etc/tlspool.conf")
"""A variable of the environment, for all."""
_ENVIRONMENT: Rows = (
    CONFIGURATION,
    ("NO_COLOR", "if set, nothing is coloured; nor is it in a pipe or a file"),
)
_FILES: Rows = (
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
        *roff.head("tlspool", 1, "operate a TLS pool"),
        ".SH SYNOPSIS",
        ".B tlspool",
        "[OPTIONS] COMMAND ...",
        ".SH DESCRIPTION",
        *roff.text(root.description),
        *roff.text("Commands about a pool are requests to the control sockets of its daemons.  While no broker runs, "
                   "those about the databases work on the files themselves, and standard error says so."),
        ".SH COMMANDS",
    ]  # fmt: skip
    for entry in CATALOG:
        out += [".TP", f".BR tlspool-{roff.plain(entry.name)} (1)", *roff.text(entry.help)]
    out += [".SH OPTIONS", *roff.options(root.options), *_tail()]
    out += roff.see_also([*((f"tlspool-{entry.name}", 1) for entry in CATALOG), ("tlspool.conf", 5)])
    return "\n".join(out) + "\n"


def _page(node: Node) -> str:
    name = f"tlspool {' '.join(node.words)}"
    out = [*roff.head(f"tlspool-{node.words[0]}", 1, node.help), ".SH SYNOPSIS"]
    leaves = [one for one in node.all() if not one.children or one.arguments]
    for leaf in leaves:
        out += [".HP", f".B {roff.plain('tlspool ' + ' '.join(leaf.words))}", roff.plain(_synopsis(leaf))]
    out += [".SH DESCRIPTION", *roff.text(node.description or f"{name}: {node.help}.")]
    if node.children:
        out += [".SH ACTIONS"]
        for leaf in leaves:
            if leaf is node:
                continue
            out += [
                f".SS {roff.plain(' '.join(leaf.words[1:]))}",
                *roff.text(leaf.description or f"{_sentence(leaf.help)}"),
            ]
            out += [*_arguments(leaf), *roff.options(_own(leaf))]
    else:
        out += [*_arguments(node)]
    shared = [one for one in _shared(node) if not node.children or one.names[0] != "-h"]
    options = [*(shared if node.children else node.options)]
    out += [".SH OPTIONS", *roff.options(options)] if options else []
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


def _tail(*, doctor: bool = False) -> list[str]:
    codes = [*_EXIT, ("3", "nothing is wrong, and something soon will be, or may be")] if doctor else _EXIT
    return [*roff.rows("EXIT STATUS", codes), *roff.rows("ENVIRONMENT", _ENVIRONMENT), *roff.rows("FILES", _FILES)]


def _arguments(leaf: Node) -> list[str]:
    out = []
    for one in leaf.arguments:
        if one.help:
            out += [".TP", f".I {roff.plain(one.metavar)}", *roff.text(one.help)]
    return out


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
