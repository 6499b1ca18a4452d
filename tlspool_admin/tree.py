"""The command line as data, read from its parsers: what shell completion and manual pages are made from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = {
    # what a metavar stands for: a kind of tlspool_admin.words, files, or words that are always the same
    "ID": "identities",
    "SELECTOR": "selectors",
    "REMOTE|SELECTOR": "selectors",
    "KEY|CERTFILE": "anchors",
    "SESSION": "sessions",
    "SESSION|last": "sessions",
    "GENERATION": "generations",
    "SETTING": "settings",
    "STATE": "=expect_choice expect_localid expect_keyd expect_worker expect_client_hello expect_handshake"
    " expect_advice expect_alert expect_radius expect_plaintext relaying expect_end",
    "WHO": "=host service: localid:",
    "FLAGS": "=x509,client x509,server x509,client,server valexp,client,server",
}
_FILES = ("FILE", "CERTFILE", "URI CERTFILE", "CERT|SHA256", "ISSUER|CRLFILE", "SERIAL|CERTFILE", "DIR")


class Option(NamedTuple):
    """An option: its names, what it takes ('' nothing), the kind of that, and its help."""

    names: tuple[str, ...]
    metavar: str
    kind: str
    help: str


class Argument(NamedTuple):
    """A positional argument; ``many`` may be given again."""

    metavar: str
    kind: str
    help: str
    many: bool
    optional: bool


class Node(NamedTuple):
    """A command: the words that name it behind ``tlspool``, and what may follow them."""

    words: tuple[str, ...]
    help: str
    description: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    children: tuple[Node, ...]

    def all(self) -> Iterator[Node]:
        """Yield the command and all below it."""
        yield self
        for child in self.children:
            yield from child.all()


def tree(parser: argparse.ArgumentParser) -> Node:
    """Return a command line as data."""
    return _node(parser, (), parser.description or "")


def _node(parser: argparse.ArgumentParser, words: tuple[str, ...], text: str) -> Node:
    options: list[Option] = []
    arguments: list[Argument] = []
    children: list[Node] = []
    for action in parser._actions:
        shown = _expanded(parser, action)
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            children += [_node(child, (*words, name), helps.get(name, "")) for name, child in action.choices.items()]
        elif action.help == argparse.SUPPRESS:
            continue
        elif action.option_strings:
            takes = action.nargs != 0
            metavar = _metavar(action) if takes else ""
            options.append(Option(tuple(action.option_strings), metavar, _kind(action) if takes else "", shown))
        else:
            many = action.nargs in ("+", "*", argparse.REMAINDER)
            optional = action.nargs in ("?", "*")
            arguments.append(Argument(_metavar(action), _kind(action), shown, many, optional))
    return Node(words, text, parser.description or "", tuple(options), tuple(arguments), tuple(children))


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _kind(action: argparse.Action) -> str:
    if action.choices:
        return "=" + " ".join(map(str, action.choices))
    metavar = _metavar(action)
    return "files" if metavar in _FILES else _KINDS.get(metavar, "")


def _expanded(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = action.help or ""
    if text == argparse.SUPPRESS:
        return ""
    values = {**vars(action), "prog": parser.prog}
    if action.choices is not None:
        values["choices"] = ", ".join(map(str, action.choices))
    return text % values
