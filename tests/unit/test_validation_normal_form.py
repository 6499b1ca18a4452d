from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.expressions import Table, texts
from tests.fixtures.normal_form import TooMany, cases, text
from tlspool_broker.validation.expression import BIT, parse
from tlspool_common.valexp import LETTERS

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "validation.json").read_text())
FEW = "TREoP"


def printed(line: str) -> set[tuple[int, int]]:
    """The cases that earlier pools printed, without those that another is a part of; ~ is for all behind it."""
    found = set()
    for case in line.split(" | ") if line != "0" else ():
        positive, _, negative = case.replace("1", "").partition("~")
        found.add((sum(BIT[letter] for letter in positive), sum(BIT[letter] for letter in negative)))
    return {
        (positive, negative)
        for positive, negative in found
        if not any((p | positive, n | negative) == (positive, negative) for p, n in found - {(positive, negative)})
    }


@pytest.mark.parametrize("one", VECTORS, ids=lambda one: one["test"])
def test_the_cases_of_earlier_pools(one: dict) -> None:
    assert set(cases(parse(one["expression"]))) == printed(one["cases"])


@pytest.mark.parametrize(
    ("expression", "line"),
    [
        ("0", "0"),
        ("1", "1"),
        ("TRO~|&", "TR | T~O"),
        ("PF|FA|&", "F | AP"),
        ("1TS?", "T | ~S"),
        ("TT~&", "0"),
        ("TT~|", "T | ~T"),
        ("adTE|&|", "a | Td | dE"),
    ],
)
def test_cases_for_people(expression: str, line: str) -> None:
    assert text(cases(parse(expression))) == line


def covers(found: tuple[tuple[int, int], ...], values: dict[str, bool]) -> bool:
    bits = sum(1 << LETTERS.index(letter) for letter, value in values.items() if value)
    return any(positive & bits == positive and not negative & bits for positive, negative in found)


@settings(deadline=None)
@given(texts(FEW), st.fixed_dictionaries({letter: st.booleans() for letter in FEW}))
def test_the_cases_mean_the_same(expression: str, values: dict[str, bool]) -> None:
    assert covers(cases(parse(expression)), values) is Table(expression).value(values)


@settings(deadline=None)
@given(texts(FEW))
def test_no_case_is_part_of_another(expression: str) -> None:
    found = cases(parse(expression))
    assert len(set(found)) == len(found)
    for positive, negative in found:
        assert not positive & negative
        for p, n in found:
            assert (p, n) == (positive, negative) or not (p & positive == p and n & negative == n)


def test_an_expression_with_too_many_cases_is_given_up_quickly() -> None:
    letters = "LlIiFfAaTtDdRrEeOoGgPpUuSsCcQq"
    pairs = "".join(f"{one}{two}|" for one, two in zip(letters[::2], letters[1::2], strict=True)) + "&" * 14
    with pytest.raises(TooMany):
        cases(parse(pairs))
    assert len(cases(parse(pairs[:24] + "&" * 7))) == 256
