"""Manual pages are those of the parsers, and formatters find nothing wrong with them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tlspool_admin.__main__ import parser
from tlspool_admin.manpages import pages
from tlspool_admin.tree import tree

MAN = Path(__file__).parents[2] / "man"
PAGES = pages(parser())


def test_the_files_are_current():
    found = {path.name: path.read_text() for path in MAN.iterdir()}
    assert found.keys() == PAGES.keys()
    assert [name for name in PAGES if found[name] != PAGES[name]] == []  # make docs


@pytest.mark.parametrize("command", [["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-man", "-ww", "-z"]])
def test_formatters_agree(command):
    assert shutil.which(command[0]), f"{command[0]} is missing; run scripts/need test"
    done = subprocess.run([*command, *sorted(map(str, MAN.glob("*.1")))], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_every_option_and_argument_is_there():
    for node in tree(parser()).all():
        page = PAGES[f"tlspool-{node.words[0]}.1" if node.words else "tlspool.1"].replace("\\-", "-")
        for option in node.options:
            if node.children and option.names[0] == "-h":
                continue
            assert option.names[-1] in page or option.names[-1] == "--help", (node.words, option)
        for argument in node.arguments:
            assert argument.metavar.replace("-", "-") in page, (node.words, argument)


def test_nothing_is_said_twice_of_what_all_take():
    assert PAGES["tlspool-localid.1"].count("for the history") == 1


def test_leading_dots_and_signs_are_text():
    for name, text in PAGES.items():
        for line in text.splitlines():
            assert not line.startswith("'"), (name, line)
            assert not line.startswith(".") or line[1:3].isupper() or line[1:2] in "BI\\", (name, line)
