"""The grammar of validation expressions, for all who read one: databases, configuration, policies.

    expr = "0" | "1" | letter | expr "~" | expr expr "&" | expr expr "|" | expr expr expr "?"

Postfix, one ASCII character a token, no blanks.  What they mean is in tlspool_broker/validation/expression.py.
"""

from __future__ import annotations

from itertools import accumulate

from tlspool_common import limits

LETTERS = "LlIiFfAaTtDdRrEeOoGgPpUuSsCcQq"
"""The predicates, in the order in which they are told and started."""

_OPERANDS = {**dict.fromkeys(LETTERS + "01", 0), "~": 1, "&": 2, "|": 2, "?": 3}
_LEFT = {sign: 1 - needed for sign, needed in _OPERANDS.items()}
_SIGNS = "".join(_OPERANDS)


def fault_untrusted(text: str) -> str:
    """Say what is wrong with an expression, with place and remedy; '' when it is well formed."""
    if not text:
        return "it is empty; 1 is what is always true"
    if len(text) > limits.VALEXP_B:
        return f"{len(text)} characters; at most {limits.VALEXP_B} are read"
    known = text[: len(text) - len(text.lstrip(_SIGNS))]
    # How many values there are in front of each sign, and at the end; an operator that lacks one leaves none.
    depths = list(accumulate(map(_LEFT.__getitem__, known), initial=0))
    if min(depths[1:], default=1) < 1:
        place = list(map((1).__gt__, depths)).index(True, 1)
        sign = known[place - 1]
        return (
            f"{sign} at character {place} needs {_OPERANDS[sign]} values in front of it, and there "
            f"{_are(depths[place - 1])}; operators come behind what they work on, as in TR&"
        )
    if len(known) < len(text):
        sign = text[len(known)]
        return f"{sign!r} at character {len(known) + 1} means nothing; {_instead(sign)}"
    depth = depths[-1]
    if depth != 1:
        return f"{depth} values are left at the end; join them with {'&' * (depth - 1)} if all of them must hold"
    return ""


def _instead(sign: str) -> str:
    if sign.isspace():
        return "leave blanks out"
    if sign in "()":
        return "there are no brackets: write operands first, then the operator"
    if sign in "!^":
        return "not is ~, behind its operand"
    return f"the predicates are {LETTERS}, the operators ~ & | ?"


def _are(depth: int) -> str:
    return "is none" if depth == 0 else "is one" if depth == 1 else f"are {depth}"
