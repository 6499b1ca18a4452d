"""The grammar of validation expressions, for all who read one: databases, configuration, policies.

    expr = "0" | "1" | letter | expr "~" | expr expr "&" | expr expr "|" | expr expr expr "?"

Postfix, one ASCII character a token, no blanks.  What they mean is in tlspool_broker/validation/expression.py.
"""

from __future__ import annotations

from tlspool_common import limits

LETTERS = "LlIiFfAaTtDdRrEeOoGgPpUuSsCcQq"
"""The predicates, in the order in which they are told and started."""

_OPERANDS = {**dict.fromkeys(LETTERS + "01", 0), "~": 1, "&": 2, "|": 2, "?": 3}


def fault_untrusted(text: str) -> str:
    """Say what is wrong with an expression, with place and remedy; '' when it is well formed."""
    if not text:
        return "it is empty; 1 is what is always true"
    if len(text) > limits.VALEXP_B:
        return f"{len(text)} characters; at most {limits.VALEXP_B} are read"
    depth = 0
    for place, sign in enumerate(text, 1):
        needed = _OPERANDS.get(sign)
        if needed is None:
            return f"{sign!r} at character {place} means nothing; {_instead(sign)}"
        if depth < needed:
            return (
                f"{sign} at character {place} needs {needed} values in front of it, and there {_are(depth)}; "
                "operators come behind what they work on, as in TR&"
            )
        depth += 1 - needed
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
