"""docs/validation.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tlspool_broker.validation import judgement, usages
from tlspool_broker.validation.expression import parse
from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.valexp import LETTERS

PAGE = (Path(__file__).parents[2] / "docs" / "validation.md").read_text()


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


EXAMPLES = [row[1].strip("`") for row in rows(section("Examples"))[1:]]
EXAMPLES += re.findall(r" '([^']+)'", PAGE.split("## Grammar")[0])


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_can_be_stored(text: str) -> None:
    assert parse(text).text == text


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10


def test_the_grammar_table_reads_as_the_pool_prints() -> None:
    shown = [(row[0].strip("`"), row[2].strip("`")) for row in rows(section("Grammar")) if row[2].startswith("`")]
    assert len(shown) == 4
    for text, infix in shown:
        assert parse(text).infix == infix
    assert f"at\nmost {limits.VALEXP_B} characters" in section("Grammar")


def test_every_predicate_is_there_once() -> None:
    letters = [letter for row in rows(section("Predicates"))[1:] for letter in re.findall(r"`(.)`", row[0])]
    assert sorted(letters) == sorted(LETTERS)


def test_the_codes_are_codes() -> None:
    for row in rows(section("Predicates"))[1:]:
        for number in re.findall(r"\b4\d\d\b", row[2]):
            assert Code(int(number)) in {*judgement._TELLING, Code.VALIDATION_FAILED, Code.VALIDATION_UNDECIDED}


def test_the_baseline_is_what_the_page_says() -> None:
    chain, name = rows(section("How expressions combine"))[-2:]
    assert set(re.findall(r"[A-Za-z]", chain[1])) == judgement.AUTHENTICATES
    assert set(re.findall(r"[A-Za-z]", name[1])) == judgement.IDENTIFIES


def test_services_with_usages_of_their_own_are_named() -> None:
    for service, usage in usages.TABLE.items():
        if (usage.server, usage.client) != (usages.DEFAULT.server, usages.DEFAULT.client):
            assert f"`{service}`" in PAGE
