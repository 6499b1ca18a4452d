"""What all pages have in common: links that lead somewhere, whole tables, commands that there are, and no gaps."""

import argparse
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from tlspool_admin import doctor
from tlspool_admin.__main__ import parser
from tlspool_common.errors import TABLE
from tlspool_common.setting_table import BY_NAME, REPEATED, UNUSED

ROOT = Path(__file__).parents[2]
PARSER = parser()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: one that is there twice gets a number."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} (.*)$", without_code(page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def dead_links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", without_code(page.read_text()))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_other = re.match(r"https?:", link)
        if not is_other and (not target.exists() or (anchor and anchor not in anchors(target))):
            dead.append(link)
    return dead


def torn_rows(text: str) -> list[str]:
    """Rows that have another number of cells than the head of their table; a bar in a cell is written ``\\|``."""
    cells, torn = 0, []
    for line in without_code(text).splitlines():
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if count and cells and count != cells:
            torn.append(line)
        cells = cells if count and cells else count
    return torn


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert dead_links(page) == []


def test_a_dead_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` c?\n# A b c\n[1](#a-b-c) [2](#a-b-c-1) [3](#a-b-c-2) [4](page.md#nowhere) [5](other.md)\n")
    assert dead_links(page) == ["#a-b-c-2", "page.md#nowhere", "other.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rows_are_whole(page):
    assert torn_rows(page.read_text()) == []


def test_a_torn_row_is_noticed():
    assert torn_rows("| a | b |\n|---|---|\n| 1 \\| 2 | 3 |\n| `1|2` | 3 |\n\n| a |\n|---|\n") == ["| `1|2` | 3 |"]


# --- commands -----------------------------------------------------------------------------------------------


def unknown_words(text: str) -> list[str]:
    """Of the words behind ``tlspool`` those that are no command, action or option; what behind these is data."""
    here, options, unknown = PARSER, {"-h", "--help"}, []
    for position, word in enumerate(text.split()):
        actions = here._actions
        options.update(name for action in actions for name in action.option_strings)
        choices = {
            k: v for one in actions if isinstance(one, argparse._SubParsersAction) for k, v in one.choices.items()
        }
        if word == "--":
            break
        if word.startswith("-") and len(word) > 1:
            unknown += [] if word.partition("=")[0] in options else [word]
        elif word in choices:
            here = choices[word]
            options.update(name for action in here._actions for name in action.option_strings)
        elif position == 0:
            return [word]
    return unknown


def commands(text: str) -> list[str]:
    """What stands behind ``tlspool`` in backquotes, or in an example, up to the end of that command."""
    found = re.findall(r"`(?:sudo )?tlspool ([^`]+)`|^(?: {4}|\$ )*(?:sudo )?tlspool (.+)$", text, re.MULTILINE)
    heads = (re.split(r"[;&#<>|]|  ", (quoted or line).replace("\\|", "|"))[0] for quoted, line in found)
    return [head.strip() for head in heads if head.strip() and not head.startswith("COMMAND")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_are_there(page):
    assert {text: words for text in commands(page.read_text()) if (words := unknown_words(text))} == {}


def test_a_command_that_is_not_there_is_noticed():
    text = "`tlspool import x`, `tlspool keys lock A`\n    tlspool status --al --json | less\n"
    text += "    sudo tlspool kill --uid 1 # a -b\n"
    assert commands(text) == ["import x", "keys lock A", "status --al --json", "kill --uid 1"]
    assert [unknown_words(one) for one in commands(text)] == [["import"], [], ["--al"], []]


def test_remedies_name_commands_that_are_there():
    remedies = {
        code: re.findall(r"tlspool ((?:[a-z]+ ?)+(?:--[a-z]+)?)", entry.remedy) for code, entry in TABLE.items()
    }
    assert sum(map(len, remedies.values())) > 20
    assert {code: text for code, found in remedies.items() for text in found if unknown_words(text)} == {}


# --- lists that are made by hand, or from more than one table ---------------------------------------------------


def test_every_keyword_of_the_configuration_has_a_row():
    page = (ROOT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert Counter(rows) == Counter([*BY_NAME, *REPEATED, *UNUSED])


def test_every_check_of_the_doctor_has_a_row():
    folder = Path(inspect.getfile(doctor)).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    checks = set(re.findall(r"Finding\([^,()]+(?:\([^)]*\))?[^,]*, \"([a-z]+)\"", source)) | set(
        re.findall(r"^CHECK = \"([a-z]+)\"", source, re.MULTILINE)
    )
    table = (ROOT / "docs/command.md").read_text().partition("## What the doctor looks at")[2].partition("\n\nEach")[0]
    assert checks == set(re.findall(r"^\| ([a-z]+) \|", table, re.MULTILINE)) - {"check"}


def test_every_argument_and_option_has_a_help():
    def without_help(one, words):
        found = []
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, child in action.choices.items():
                    found += without_help(child, [*words, name])
            elif not action.help:
                found.append(" ".join([*words, action.metavar or action.dest]))
        return found

    assert without_help(PARSER, ["tlspool"]) == []
