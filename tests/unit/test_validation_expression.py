from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.expressions import Table, knowledge, lettered, shapes, texts
from tests.fixtures.running import conjunction
from tlspool_broker.validation import expression
from tlspool_broker.validation.expression import needs, parse
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.valexp import LETTERS

FEW = "TREoP"
UNKNOWN, YES, NO = None, True, False


def refused(text: str) -> str:
    with pytest.raises(PoolError) as caught:
        parse(text)
    assert caught.value.code is Code.RECORD_MALFORMED
    return caught.value.detail


# --- the grammar ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty; 1 is what is always true"),
        ("&", "& at character 1 needs 2 values in front of it, and there is none"),
        ("T&", "& at character 2 needs 2 values in front of it, and there is one"),
        ("TR?", "? at character 3 needs 3 values in front of it, and there are 2"),
        ("~T", "~ at character 1 needs 1 values"),
        ("TR", "2 values are left at the end; join them with & if all of them must hold"),
        ("TRP", "3 values are left at the end; join them with &&"),
        ("TH&", "'H' at character 2 means nothing; the predicates are LlIi"),
        ("TCO|DH|&&", "'H' at character 6"),
        ("T R&", "' ' at character 2 means nothing; leave blanks out"),
        ("T\n", "'\\n' at character 2 means nothing"),
        ("(T)", "'(' at character 1 means nothing; there are no brackets"),
        ("!T", "'!' at character 1 means nothing; not is ~"),
        ("TÉ&", "'É' at character 2"),
        ("T\0R&", "'\\x00' at character 2"),
        ("T2&", "'2' at character 2"),
        ("TT&" * 43 + "&" * 42, "171 characters; at most 128"),
    ],
)
def test_a_malformed_expression_is_refused_with_place_and_remedy(text: str, why: str) -> None:
    assert why in refused(text)


@settings(deadline=None)
@given(st.text(max_size=200) | st.text(LETTERS + "01~&|? HX", max_size=200))
def test_the_parser_raises_nothing_else(text: str) -> None:
    try:
        parsed = parse(text)
    except PoolError as error:
        assert error.code is Code.RECORD_MALFORMED
        assert error.detail.isprintable()
    else:
        assert parsed.text == text
        assert len(text) <= limits.VALEXP_B


@settings(deadline=None)
@given(texts())
def test_what_is_well_formed_is_read(text: str) -> None:
    parsed = parse(text)
    assert parsed.mentions == set(text) & set(LETTERS)
    assert set(parsed.letters) <= parsed.mentions
    assert list(parsed.letters) == sorted(parsed.letters, key=LETTERS.index)


def test_all_thirty_letters_are_told_in_the_old_order() -> None:
    assert LETTERS == "LlIiFfAaTtDdRrEeOoGgPpUuSsCcQq"
    text = "".join(reversed(LETTERS)) + "&" * 29
    assert "".join(parse(text).letters) == LETTERS


@pytest.mark.parametrize("text", ["adTE|&|", "adP&|TE|&", "ad|TE|PF|&&", "TRO|DG|&&", "TRO|&DG|&", "PDG||F&", "tI&"])
def test_expressions_of_the_older_documents_are_read(text: str) -> None:
    assert parse(text).text == text


def test_letters_that_constants_make_pointless_do_not_matter() -> None:
    assert parse("0T&").letters == ()
    assert parse("1T|~").letters == ()
    assert parse("T0R&|").letters == ("T",)
    assert parse("0TS?").letters == ("T", "S")
    # Both branches of a condition that is a constant were started by earlier pools.
    assert parse("ET1?").letters == ("T", "E")
    assert needs(["T0R&|", "1", "malformed", "PI&"]) == {"T", "P", "I"}
    assert needs([]) == set()


# --- evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "known", "value"),
    [
        ("0", {}, NO),
        ("1", {}, YES),
        ("T", {}, UNKNOWN),
        ("T", {"T": None}, UNKNOWN),
        ("T~", {"T": False}, YES),
        ("TR&", {"T": False}, NO),
        ("TR&", {"T": True}, UNKNOWN),
        ("TR|", {"R": True}, YES),
        ("TR|", {"R": False}, UNKNOWN),
        ("RTS?", {"S": True, "T": True}, YES),
        ("RTS?", {"S": False, "R": False}, NO),
        ("RTS?", {"S": True, "R": True}, UNKNOWN),
        ("RTS?", {"T": True, "R": True}, YES),
        ("RTS?", {"T": False, "R": False}, NO),
        ("RTS?", {"T": True, "R": False}, UNKNOWN),
        # Kleene's logic does not see that a letter is the same on both sides.
        ("TT~|", {}, UNKNOWN),
        ("TT~&", {}, UNKNOWN),
    ],
)
def test_evaluation(text: str, known: dict[str, bool | None], value: bool | None) -> None:
    assert parse(text).value(known) is value


def every_shape(leaves: int) -> list[str]:
    return [lettered(shape, FEW) for shape in shapes(leaves)]


def test_as_many_shapes_as_there_are() -> None:
    assert [len(every_shape(leaves)) for leaves in range(1, 6)] == [1, 2, 9, 50, 311]


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 5])
def test_every_shape_agrees_with_its_truth_table(leaves: int) -> None:
    for text in every_shape(leaves):
        parsed, table = parse(text), Table(text)
        for values in product((None, True, False), repeat=leaves):
            known = dict(zip(FEW, values, strict=False))
            assert parsed.value(known) is table.value(known), (text, known)


@pytest.mark.parametrize("leaves", [1, 2, 3, 4])
def test_every_shape_with_negations_agrees_with_its_truth_table(leaves: int) -> None:
    for shape in shapes(leaves):
        # a ~ behind each token, or not; the last one negates the whole
        for places in product(("", "~"), repeat=len(shape)) if leaves < 4 else product(("", "~"), repeat=leaves):
            if leaves < 4:
                text = lettered("".join(map("".join, zip(shape, places, strict=True))), FEW)
            else:
                left = iter(places)
                text = lettered("".join(one + (next(left) if one == "x" else "") for one in shape), FEW)
            parsed, table = parse(text), Table(text)
            for values in product((None, True, False), repeat=leaves):
                known = dict(zip(FEW, values, strict=False))
                assert parsed.value(known) is table.value(known), (text, known)


@pytest.mark.parametrize("leaves", [1, 2, 3, 4])
def test_what_is_wanted_is_what_makes_a_difference(leaves: int) -> None:
    for text in every_shape(leaves):
        parsed, table = parse(text), Table(text)
        for values in product((None, True, False), repeat=leaves):
            known = dict(zip(FEW, values, strict=False))
            matter = {letter for letter in parsed.mentions if known[letter] is None and table.matters(letter, known)}
            assert set(parsed.wanting(known)) == matter, (text, known)


@pytest.mark.parametrize("leaves", [1, 2, 3, 4])
def test_a_reason_is_enough_and_no_larger_than_it_has_to_be(leaves: int) -> None:
    for text in every_shape(leaves):
        parsed = parse(text)
        for values in product((None, True, False), repeat=leaves):
            known = dict(zip(FEW, values, strict=False))
            value, because = parsed.value(known), parsed.because(known)
            if value is None:
                assert because == ()
                continue
            assert parsed.value({letter: known[letter] for letter in because}) is value
            for left_out in because:
                assert parsed.value({letter: known[letter] for letter in because if letter != left_out}) is None


@settings(deadline=None)
@given(texts(FEW), knowledge(FEW), knowledge(FEW))
def test_to_know_more_never_reverses_a_decision(
    text: str, known: dict[str, bool | None], more: dict[str, bool | None]
) -> None:
    before = parse(text).value(known)
    grown = {**more, **{letter: value for letter, value in known.items() if value is not None}}
    assert before is None or parse(text).value(grown) is before


@settings(deadline=None)
@given(texts(FEW), knowledge(FEW))
def test_a_decision_is_never_unlike_the_truth_table(text: str, known: dict[str, bool | None]) -> None:
    value = parse(text).value(known)
    assert value is None or Table(text).value(known) is value


@settings(deadline=None)
@given(texts(FEW), st.fixed_dictionaries({letter: st.booleans() for letter in FEW}))
def test_all_known_is_decided(text: str, known: dict[str, bool | None]) -> None:
    assert parse(text).value(known) is Table(text).value(known) is not None


@settings(deadline=None)
@given(texts(FEW), knowledge(FEW), st.fixed_dictionaries({letter: st.booleans() for letter in FEW}))
def test_what_is_not_wanted_makes_no_difference(
    text: str, known: dict[str, bool | None], rest: dict[str, bool]
) -> None:
    parsed = parse(text)
    wanting = parsed.wanting(known)
    all_known = {**rest, **{letter: value for letter, value in known.items() if value is not None}}
    only_wanted = {letter: value for letter, value in all_known.items() if letter in wanting or letter in known}
    assert parsed.value(all_known) is parsed.value(only_wanted)
    assert (parsed.value(known) is not None) <= (wanting == ())


@settings(deadline=None)
@given(texts(FEW), knowledge(FEW))
def test_a_reason_is_enough(text: str, known: dict[str, bool | None]) -> None:
    parsed = parse(text)
    because = parsed.because(known)
    assert parsed.value({letter: known[letter] for letter in because}) is (parsed.value(known))


@settings(deadline=None)
@given(st.lists(texts(FEW), max_size=4), knowledge(FEW))
def test_a_conjunction_is_false_with_one_and_true_with_all(several: list[str], known: dict[str, bool | None]) -> None:
    values = [parse(text).value(known) for text in several]
    expected = False if False in values else None if None in values else True
    whole = conjunction(map(parse, several))
    assert whole.value(known) is expected
    assert parse(whole.text) == whole if len(whole.text) <= limits.VALEXP_B else True
    assert conjunction(map(parse, reversed(several))).value(known) is expected


def test_a_conjunction_may_be_longer_than_what_is_read() -> None:
    longest = parse("T~" + "~" * (limits.VALEXP_B - 2))
    assert conjunction([longest] * 8).value({"T": False}) is True


@settings(deadline=None)
@given(texts())
def test_an_expression_is_read_once(text: str) -> None:
    assert parse(text) is parse(text)
    assert str(parse(text)) == text


# --- for people -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "infix"),
    [
        ("T", "T"),
        ("1", "1"),
        ("TRO~|&", "T and (R or not O)"),
        ("TR&O|", "T and R or O"),
        ("TRO&&", "T and R and O"),
        ("TR|~", "not (T or R)"),
        ("T~~", "not not T"),
        ("1TS?", "if S then T else 1"),
        ("ETad&~?", "if not (a and d) then T else E"),
        ("1TS?R&", "(if S then T else 1) and R"),
        ("1TS?RP?", "if P then R else (if S then T else 1)"),
        ("1TS?~", "not (if S then T else 1)"),
    ],
)
def test_infix(text: str, infix: str) -> None:
    assert parse(text).infix == infix


class Infix:
    """Reads what people read."""

    def __init__(self, text: str) -> None:
        self.words = re.findall(r"if|then|else|and|or|not|[()]|\w", text)
        self.postfix = self.whole()
        assert not self.words

    def taken(self, word: str) -> bool:
        if self.words and self.words[0] == word:
            self.words.pop(0)
            return True
        return False

    def whole(self) -> str:
        if not self.taken("if"):
            return self.chain("or", "|", lambda: self.chain("and", "&", self.part))
        condition = self.whole()
        assert self.taken("then")
        then = self.whole()
        assert self.taken("else")
        return self.whole() + then + condition + "?"

    def chain(self, word: str, sign: str, inner) -> str:
        found = inner()
        while self.taken(word):
            found += inner() + sign
        return found

    def part(self) -> str:
        if self.taken("not"):
            return self.part() + "~"
        if self.taken("("):
            found = self.whole()
            assert self.taken(")")
            return found
        return self.words.pop(0)


@settings(deadline=None)
@given(texts(FEW), knowledge(FEW))
def test_what_people_read_means_the_same(text: str, known: dict[str, bool | None]) -> None:
    assert parse(Infix(parse(text).infix).postfix).value(known) is parse(text).value(known)


def test_a_letter_is_one_bit_of_its_own() -> None:
    assert len(set(expression.BIT.values())) == 30
    assert expression.letters_of(sum(expression.BIT.values())) == tuple(LETTERS)
