"""The vectors of earlier pools, at the same moment of decision, and what a validation promises its handlers."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.expressions import Table, lettered, shapes, texts
from tests.fixtures.running import Validation
from tlspool_broker.validation import expression
from tlspool_common.errors import Code, PoolError

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "validation.json").read_text())
FEW = "TREoP"


class Watched:
    """A validation and everything that it says, in order."""

    def __init__(self, *expressions: str) -> None:
        self.said: list[tuple[str, str | bool]] = []
        self.validation = Validation(
            expressions,
            lambda letter: self.said.append(("start", letter)),
            lambda letter: self.said.append(("stop", letter)),
            lambda outcome: self.said.append(("final", outcome)),
        )

    def told(self, what: str) -> list[str | bool]:
        return [value for kind, value in self.said if kind == what]

    def check(self) -> bool:
        """It is over: told once, and stopped what it started.  Return the outcome."""
        (outcome,) = self.told("final")
        assert sorted(map(str, self.told("start"))) == sorted(map(str, self.told("stop")))
        assert len(set(self.told("start"))) == len(self.told("start"))
        assert self.validation.outcome is outcome
        return bool(outcome)


def run(text: str, signals: str) -> tuple[str, str, Watched]:
    """Do as the test driver of earlier pools: return the outcome, and the signal after which it was told."""
    watched = Watched(text)
    watched.validation.register()
    when = "REG" if watched.told("final") else ""
    value = True
    for signal in signals:
        if signal == "~":
            value = not value
            continue
        watched.validation.setpredicate(signal, value)
        if watched.told("final") and not when:
            when = signal if value else f"~{signal}"
    watched.validation.unregister()
    return "V" if watched.check() else "F", when or "END", watched


def test_all_vectors_are_there() -> None:
    assert len(VECTORS) == 35
    assert sum(len(one["vectors"]) for one in VECTORS) == 303


@pytest.mark.parametrize("one", VECTORS, ids=lambda one: one["test"])
def test_vectors_of_earlier_pools(one: dict) -> None:
    for signals, outcome, when in one["vectors"]:
        found = run(one["expression"], signals)
        assert found[:2] == (outcome, when), signals
        assert found[2].told("start") == list(one["started"])


@pytest.mark.parametrize(
    ("text", "signals", "outcome", "when"),
    [
        # a or (d and (T or E)); earlier pools took it for 1
        ("adTE|&|", "", "F", "END"),
        ("adTE|&|", "~adTE", "F", "~d"),
        ("adTE|&|", "~a~d", "F", "END"),
        ("adTE|&|", "dT", "V", "T"),
        # (a or (d and P)) and (T or E); they were content with T and d
        ("adP&|TE|&", "Td~aP", "F", "~P"),
        ("adP&|TE|&", "TdP", "V", "P"),
        ("adP&|TE|&", "Td", "F", "END"),
        # (a|d)&(T|E)&(P|F); they were content with d
        ("ad|TE|PF|&&", "d", "F", "END"),
        ("ad|TE|PF|&&", "dEF", "V", "F"),
        # ((a&d)|(T&E))&(P|F); they refused this one
        ("ad&TE&|PF|&", "adP", "V", "P"),
        # these ended the daemon
        ("ad|TE?", "ET", "V", "T"),
        ("ad|TE?", "Ea", "F", "END"),
        ("ad|TE?", "E~T", "F", "~T"),
        ("adT|E?", "~Ea", "F", "~a"),
        ("adT|E?", "Ed", "V", "d"),
        # these were right
        ("TRO|DG|&&", "TOG", "V", "G"),
        ("TRO|&DG|&", "TRD", "V", "D"),
        ("PDG||", "~PDG", "F", "~G"),
        ("PD|G|", "D", "V", "D"),
        ("PDG||F&", "PF", "V", "F"),
        ("tI&", "tI", "V", "I"),
        ("It&", "~t", "F", "~t"),
        ("ad|PF|&", "aF", "V", "F"),
    ],
)
def test_where_earlier_pools_were_wrong(text: str, signals: str, outcome: str, when: str) -> None:
    assert run(text, signals)[:2] == (outcome, when)


@pytest.mark.parametrize("leaves", [2, 3, 4, 5])
def test_every_shape_is_decided_when_it_can_be(leaves: int) -> None:
    letters = FEW[:leaves]
    for shape in shapes(leaves):
        text = lettered(shape, letters)
        table = Table(text)
        for values in product((True, False), repeat=leaves):
            signals = list(zip(letters, values, strict=True))
            for order in permutations(signals) if leaves < 4 else (signals[::-1],):
                watched = Watched(text)
                watched.validation.register()
                known: dict[str, bool | None] = {}
                for letter, value in order:
                    assert (table.value(known) is None) == (not watched.told("final"))
                    watched.validation.setpredicate(letter, value)
                    known[letter] = value
                assert watched.check() is table.value(known)


def test_an_expression_that_is_malformed_is_none() -> None:
    with pytest.raises(PoolError) as caught:
        Watched("T", "TR")
    assert caught.value.code is Code.RECORD_MALFORMED


def test_several_are_a_conjunction() -> None:
    watched = Watched("TR|", "P")
    watched.validation.register()
    assert watched.told("start") == ["T", "R", "P"]
    watched.validation.setpredicate("T", True)
    assert watched.told("stop") == ["T", "R"]
    watched.validation.setpredicate("P", True)
    assert watched.said[-2:] == [("stop", "P"), ("final", True)]
    assert watched.check()


def test_none_at_all_is_true_at_once() -> None:
    watched = Watched()
    watched.validation.register()
    assert watched.said == [("final", True)]


def test_not_known_is_not_false() -> None:
    watched = Watched("AD|~")
    watched.validation.register()
    assert watched.told("final") == []
    watched.validation.unregister()
    assert watched.check() is False


def test_what_makes_no_difference_is_stopped() -> None:
    watched = Watched("ORS?")
    watched.validation.register()
    watched.validation.setpredicate("S", True)
    assert watched.told("stop") == ["S", "O"]
    watched.validation.setpredicate("O", True)
    assert watched.told("final") == []
    watched.validation.setpredicate("R", True)
    assert watched.check() is True


def test_a_letter_is_known_once() -> None:
    watched = Watched("TR&")
    watched.validation.register()
    watched.validation.setpredicate("T", True)
    watched.validation.setpredicate("T", False)
    watched.validation.setpredicate("R", True)
    assert watched.check() is True
    watched.validation.setpredicate("R", False)
    watched.validation.unregister()
    watched.validation.unregister()
    assert watched.check() is True


def test_nothing_is_known_before_it_is_started() -> None:
    watched = Watched("T")
    watched.validation.setpredicate("T", True)
    watched.validation.register()
    assert watched.told("final") == []
    watched.validation.unregister()
    assert watched.check() is False


class Answering:
    """Handlers that answer for their letter, and others, while it is being started or stopped."""

    def __init__(
        self, text: str, at_start: dict[str, list[tuple[str, bool]]], at_stop: dict[str, list[tuple[str, bool]]]
    ) -> None:
        self.said: list[tuple[str, str | bool]] = []
        self.at_start, self.at_stop = at_start, at_stop
        self.validation = Validation(
            [text], self.start, self.stop, lambda outcome: self.said.append(("final", outcome))
        )

    def start(self, letter: str) -> None:
        assert ("final",) not in [entry[:1] for entry in self.said], "started after the end"
        self.said.append(("start", letter))
        for answer in self.at_start.get(letter, ()):
            self.validation.setpredicate(*answer)

    def stop(self, letter: str) -> None:
        self.said.append(("stop", letter))
        for answer in self.at_stop.get(letter, ()):
            self.validation.setpredicate(*answer)


def test_nothing_is_started_when_it_is_decided() -> None:
    answering = Answering("TRP||", {"T": [("T", True)]}, {})
    answering.validation.register()
    assert answering.said == [("start", "T"), ("stop", "T"), ("final", True)]


def test_what_became_pointless_is_not_started() -> None:
    answering = Answering("RTP&|", {"T": [("T", False)]}, {})
    answering.validation.register()
    assert answering.said == [("start", "T"), ("stop", "T"), ("start", "R")]


def test_a_handler_may_give_up() -> None:
    watched = Watched("TR&")
    validation = Validation(
        ["TR&"],
        lambda letter: (watched.said.append(("start", letter)), validation.unregister())[0],
        lambda letter: watched.said.append(("stop", letter)),
        lambda outcome: watched.said.append(("final", outcome)),
    )
    validation.register()
    assert watched.said == [("start", "T"), ("stop", "T"), ("final", False)]


ANSWERS = st.dictionaries(
    st.sampled_from(FEW), st.lists(st.tuples(st.sampled_from(FEW), st.booleans()), max_size=3), max_size=5
)


@settings(deadline=None)
@given(texts(FEW), ANSWERS, ANSWERS, st.lists(st.tuples(st.sampled_from(FEW), st.booleans()), max_size=10))
def test_told_once_and_stopped_once_whatever_handlers_do(
    text: str,
    at_start: dict[str, list[tuple[str, bool]]],
    at_stop: dict[str, list[tuple[str, bool]]],
    later: list[tuple[str, bool]],
) -> None:
    answering = Answering(text, at_start, at_stop)
    answering.validation.register()
    for answer in later:
        answering.validation.setpredicate(*answer)
    answering.validation.unregister()
    started = [value for kind, value in answering.said if kind == "start"]
    stopped = [value for kind, value in answering.said if kind == "stop"]
    assert len(set(started)) == len(started)
    assert sorted(map(str, started)) == sorted(map(str, stopped))
    assert sum(kind == "final" for kind, _ in answering.said) == 1


@settings(deadline=None)
@given(texts(FEW), st.permutations(FEW), st.fixed_dictionaries({letter: st.booleans() for letter in FEW}))
def test_the_outcome_does_not_depend_on_the_order(text: str, order: list[str], values: dict[str, bool]) -> None:
    watched = Watched(text)
    watched.validation.register()
    for letter in order:
        watched.validation.setpredicate(letter, values[letter])
    assert watched.told("final") == [expression.parse(text).value(values)]
    assert watched.check() is expression.parse(text).value(values)
