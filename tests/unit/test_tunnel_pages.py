"""docs/tunnel.md and docs/run.md name every option, protocol and variable that there is."""

import argparse
from pathlib import Path

import pytest

from tlspool_admin.__main__ import parser
from tlspool_admin.inetd import VARIABLES
from tlspool_admin.preambles import PROTOCOLS

DOCS = Path(__file__).parents[2] / "docs"
COMMON = {"--help", "--config", "--json"}


def sub(made, name):
    """Return the parser of a subcommand."""
    actions = [action for action in made._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices[name]


def options(made):
    return {word for action in made._actions for word in action.option_strings if word.startswith("--")} - COMMON


@pytest.mark.parametrize(
    ("page", "command"), [("run", ["run"]), ("tunnel", ["tunnel", "server"]), ("tunnel", ["tunnel", "client"])]
)
def test_options(page, command):
    made = parser()
    for word in command:
        made = sub(made, word)
    text = (DOCS / f"{page}.md").read_text()
    missing = {option for option in options(made) if f"`{option}`" not in text}
    assert options(made)
    assert not missing


def test_protocols():
    text = (DOCS / "tunnel.md").read_text()
    assert not [name for name in PROTOCOLS if f"`{name}`" not in text]
    text = (DOCS / "run.md").read_text()
    listed = text.split("hears of nothing before TLS (", 1)[1].split(")", 1)[0]
    silent = {name for name, protocol in PROTOCOLS.items() if not protocol.asks_backend} - {"xmpp-server"}
    assert {word.strip("` ") for word in listed.split(",")} == silent


def test_variables():
    text = (DOCS / "run.md").read_text()
    assert not [name for name in VARIABLES if f"`TLSPOOL_{name}`" not in text]
