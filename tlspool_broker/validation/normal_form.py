"""An expression as a disjunction of cases: the sets of predicates any of which suffices.

``TRO~|&`` has the cases ``TR`` and ``T~O``.  They show a person what an expression comes to, and whether two come to
the same.  There can be exponentially many, so that there is a limit, and evaluation does without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tlspool_broker.validation.expression import BIT, LETTERS, Expression

Case = tuple[int, int]
"""Bits of the letters that must be true, and of those that must be false."""

LIMIT = 256
"""Cases that are shown.  Nobody reads more; typical expressions have up to four."""

_Cases = frozenset[Case]
_NEVER: _Cases = frozenset()
_ALWAYS: _Cases = frozenset({(0, 0)})


class TooMany(Exception):
    """There are more cases than were asked for."""


def cases(expression: Expression, limit: int = LIMIT) -> tuple[Case, ...]:
    """Return the cases in which an expression is true, in order; () is never, one empty case is always.

    No case contradicts itself, or is a part of another: ``T`` stands for ``TE`` too.

    Raises:
        TooMany: on the way there are more than ``limit``.
    """
    stack: list[tuple[_Cases, _Cases]] = []  # when it is true; when it is false
    for sign in expression.text:
        match sign:
            case "~":
                stack[-1] = stack[-1][::-1]
            case "&":
                (right, not_right), (left, not_left) = stack.pop(), stack.pop()
                stack.append((_both(left, right, limit), _either(limit, not_left, not_right)))
            case "|":
                (right, not_right), (left, not_left) = stack.pop(), stack.pop()
                stack.append((_either(limit, left, right), _both(not_left, not_right, limit)))
            case "?":
                (yes, no), (then, not_then), (other, not_other) = stack.pop(), stack.pop(), stack.pop()
                stack.append((_chosen(yes, no, then, other, limit), _chosen(yes, no, not_then, not_other, limit)))
            case "0":
                stack.append((_NEVER, _ALWAYS))
            case "1":
                stack.append((_ALWAYS, _NEVER))
            case _:
                stack.append((frozenset({(BIT[sign], 0)}), frozenset({(0, BIT[sign])})))
    return tuple(sorted(stack[0][0], key=_order))


def text(found: Sequence[Case]) -> str:
    """Return cases as one line: ``TR | T~O``; ``0`` for never, ``1`` for always."""
    return " | ".join(_letters(case) or "1" for case in found) or "0"


def _letters(case: Case) -> str:
    positive, negative = case
    return "".join(
        f"~{letter}" if negative & bit else letter for letter, bit in BIT.items() if (positive | negative) & bit
    )


def _order(case: Case) -> tuple[int, list[tuple[int, bool]]]:
    """Short cases first, then by their letters."""
    positive, negative = case
    both = positive | negative
    letters = [(place, bool(negative & 1 << place)) for place in range(len(LETTERS)) if both & 1 << place]
    return len(letters), letters


def _chosen(yes: _Cases, no: _Cases, then: _Cases, other: _Cases, limit: int) -> _Cases:
    """``eti?`` is ``et&`` or ``ti&`` or ``ei~&``: the first counts while the condition is not known."""
    return _either(limit, _both(other, then, limit), _both(then, yes, limit), _both(other, no, limit))


def _both(left: _Cases, right: _Cases, limit: int) -> _Cases:
    found = {(p | q, n | m) for p, n in left for q, m in right if not (p | q) & (n | m)}
    return _shortest(found, limit)


def _either(limit: int, *several: _Cases) -> _Cases:
    return _shortest(frozenset().union(*several), limit)


def _shortest(found: Iterable[Case], limit: int) -> _Cases:
    """Return the cases without those that another one is a part of."""
    kept: list[Case] = []
    for positive, negative in sorted(found, key=lambda case: (case[0] | case[1]).bit_count()):
        if not any(p & positive == p and n & negative == n for p, n in kept):
            kept.append((positive, negative))
            if len(kept) > limit:
                raise TooMany(f"more than {limit} cases")
    return frozenset(kept)
