"""Validation expressions and their three-valued evaluation; tlspool_common/valexp.py has the grammar.

``eti?`` is "if i then t else e": the condition comes last.
A letter is true, false or not known (None), and so is an expression (Kleene's strong logic): it is decided as soon
as what is known decides it, whatever the rest turns out to be, and never decided the other way by knowing more.

Expressions come from databases that other tools may have written: ``parse`` is the only way in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.valexp import LETTERS, fault_untrusted

Value = bool | None
Known = Mapping[str, Value]

BIT = {letter: 1 << number for number, letter in enumerate(LETTERS)}

# How tightly the infix text of a part holds together.
_IF, _OR, _AND, _NOT = range(4)


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that is well formed.

    Attributes:
        text: the expression itself.
        letters: what has to be found out, in order: the letters that constants have not made pointless.
        mentions: every letter that is written.
    """

    text: str
    letters: tuple[str, ...]
    mentions: frozenset[str]

    def __str__(self) -> str:
        return self.text

    def value(self, known: Known) -> Value:
        """Return what the expression is, by what is known; a letter that is left out is not."""
        stack: list[Value] = []
        for sign in self.text:
            if sign == "&":
                right, left = stack.pop(), stack[-1]
                stack[-1] = _and(left, right)
            elif sign == "|":
                right, left = stack.pop(), stack[-1]
                stack[-1] = _or(left, right)
            elif sign == "~":
                if stack[-1] is not None:
                    stack[-1] = not stack[-1]
            elif sign == "?":
                condition, then, other = stack.pop(), stack.pop(), stack[-1]
                stack[-1] = _choose(other, then, condition)
            elif sign == "1":
                stack.append(True)
            elif sign == "0":
                stack.append(False)
            else:
                stack.append(known.get(sign))
        return stack[0]

    def wanting(self, known: Known) -> tuple[str, ...]:
        """Return the letters that are not known and may still make a difference, in order."""
        return letters_of(_wanting(self.text, known)[1])

    def because(self, known: Known) -> tuple[str, ...]:
        """Return a smallest set of letters whose values make the expression what it is; () while that is open."""
        return letters_of(_because(self.text, known))

    @property
    def infix(self) -> str:
        """The expression for people: ``TRO~|&`` is ``T and (R or not O)``."""
        stack: list[tuple[int, str]] = []
        for sign in self.text:
            match sign:
                case "~":
                    stack.append((_NOT, f"not {_held(stack.pop(), _NOT)}"))
                case "&" | "|":
                    binding, word = (_AND, "and") if sign == "&" else (_OR, "or")
                    right, left = stack.pop(), stack.pop()
                    stack.append((binding, f"{_held(left, binding)} {word} {_held(right, binding)}"))
                case "?":
                    condition, then, other = (_held(stack.pop(), _OR) for _ in range(3))
                    stack.append((_IF, f"if {condition} then {then} else {other}"))
                case _:
                    stack.append((_NOT, sign))
        return stack[0][1]


@lru_cache(maxsize=4096)  # every session asks for the same few; 4096 of the longest are some MiB
def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        PoolError: RECORD_MALFORMED, with place and remedy.
    """
    if fault := fault_untrusted(text):
        shown = text if len(text) <= limits.VALEXP_B else f"{text[:20]}..."
        raise PoolError(Code.RECORD_MALFORMED, f"validation expression {shown!r}: {fault}")
    return _made(text)


def needs(expressions: Iterable[str]) -> set[str]:
    """Return the letters that matter at all to any of these; to an expression that is malformed none does."""
    found: set[str] = set()
    for text in expressions:
        try:
            found.update(parse(text).letters)
        except PoolError:
            continue
    return found


def letters_of(mask: int) -> tuple[str, ...]:
    """Return the letters of a bit set, in order."""
    return tuple(letter for letter, bit in BIT.items() if mask & bit) if mask else ()


def _made(text: str) -> Expression:
    value, mask = _wanting(text, {}, prunes=False)
    return Expression(text, letters_of(0 if value is not None else mask), frozenset(text) & BIT.keys())


def _and(left: Value, right: Value) -> Value:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def _or(left: Value, right: Value) -> Value:
    if left or right:
        return True
    return None if left is None or right is None else False


def _choose(other: Value, then: Value, condition: Value) -> Value:
    if condition is None:
        return then if then is other else None
    return then if condition else other


def _wanting(text: str, known: Known, prunes: bool = True) -> tuple[Value, int]:
    """Return the value, and the bits of the letters that may still change it.

    Without ``prunes`` a condition that is a constant keeps both of its branches: earlier pools started the
    predicates of both, as they wrote ``eti?`` as ``et&`` or ``ti&`` or ``ei~&`` first.
    """
    stack: list[tuple[Value, int]] = []
    for sign in text:
        match sign:
            case "~":
                value, mask = stack.pop()
                stack.append((None if value is None else not value, mask))
            case "&" | "|":
                (right, more), (left, mask) = stack.pop(), stack.pop()
                value = _and(left, right) if sign == "&" else _or(left, right)
                stack.append((value, 0 if value is not None else mask | more))
            case "?":
                (condition, asked), (then, yes), (other, no) = stack.pop(), stack.pop(), stack.pop()
                value = _choose(other, then, condition)
                if prunes and condition is not None:
                    asked, yes, no = 0, yes if condition else 0, 0 if condition else no
                stack.append((value, 0 if value is not None else asked | yes | no))
            case "0" | "1":
                stack.append((sign == "1", 0))
            case _:
                value = known.get(sign)
                stack.append((value, BIT[sign] if value is None else 0))
    return stack[0]


def _because(text: str, known: Known) -> int:
    """Return the bits of a smallest set of letters that makes the value what it is; 0 while there is none."""
    stack: list[tuple[Value, int]] = []
    for sign in text:
        match sign:
            case "~":
                value, mask = stack.pop()
                stack.append((None if value is None else not value, mask))
            case "&" | "|":
                (right, more), (left, mask) = stack.pop(), stack.pop()
                value = _and(left, right) if sign == "&" else _or(left, right)
                stack.append((value, _enough(value, sign == "|", [(left, mask), (right, more)])))
            case "?":
                (condition, asked), (then, yes), (other, no) = stack.pop(), stack.pop(), stack.pop()
                value = _choose(other, then, condition)
                ways = [yes | no] if then is other and then is not None else []
                if condition is not None and value is not None:
                    ways.append(asked | (yes if condition else no))
                stack.append((value, min(ways, key=int.bit_count, default=0)))
            case "0" | "1":
                stack.append((sign == "1", 0))
            case _:
                value = known.get(sign)
                stack.append((value, 0 if value is None else BIT[sign]))
    return stack[0][1]


def _enough(value: Value, decisive: bool, sides: Sequence[tuple[Value, int]]) -> int:
    """Return the bits that decide a conjunction (one false side does) or a disjunction (one true side does)."""
    if value is None:
        return 0
    if value is decisive:
        return min((mask for side, mask in sides if side is decisive), key=int.bit_count)
    return sides[0][1] | sides[1][1]


def _held(part: tuple[int, str], binding: int) -> str:
    own, text = part
    return text if own >= binding else f"({text})"
