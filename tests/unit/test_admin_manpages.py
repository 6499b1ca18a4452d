"""Manual pages are those of the parsers, and formatters find nothing wrong with them."""

import configparser
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from docs.generate import manuals
from tlspool_admin.__main__ import parser
from tlspool_admin.manpages_system import EXAMPLE
from tlspool_admin.tree import tree
from tlspool_common import settings
from tlspool_common.setting_table import BY_NAME, REPEATED, UNUSED

ROOT = Path(__file__).parents[2]
MAN = ROOT / "man"
REQUEST = re.compile(r"\.([A-Z]{2}|[BI]|nf|fi|\\)")
PAGES = {name.rpartition("/")[2]: text for name, text in manuals().items()}


def test_the_files_are_current():
    found = {path.name: path.read_text() for path in MAN.iterdir()}
    assert found.keys() == PAGES.keys()
    assert [name for name in PAGES if found[name] != PAGES[name]] == []  # make docs


@pytest.mark.parametrize("command", [["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-man", "-ww", "-z"]])
def test_formatters_agree(command):
    assert shutil.which(command[0]), f"{command[0]} is missing; run scripts/need test"
    done = subprocess.run(
        [*command, *sorted(map(str, MAN.glob("*.[158]")))], capture_output=True, text=True, timeout=60
    )
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
            assert not line.startswith(".") or REQUEST.match(line), (name, line)


def test_every_setting_has_its_place():
    lines = PAGES["tlspool.conf.5"].splitlines()
    terms = [line for before, line in itertools.pairwise(lines) if before == ".TP"]
    names = [re.split(r" |\\fR", line.removeprefix("\\fB").removeprefix(".B "))[0] for line in terms]
    known = {*BY_NAME, *REPEATED, *UNUSED}
    assert sorted(name for name in names if name in known) == sorted(known)


def test_the_example_can_be_read():
    settings.parse_untrusted(EXAMPLE)


def test_every_program_has_a_page():
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    scripts = [line.split("=")[0].strip() for line in parsed["options.entry_points"]["console_scripts"].splitlines()]
    programs = {name for name in scripts if name and not name.startswith("#")}
    helpers = {"tlspool-online", "tlspool-radius"}  # of the broker: nobody starts them by hand
    assert helpers < programs
    assert [name for name in programs - helpers if f"{name}.1" not in PAGES and f"{name}.8" not in PAGES] == []
