"""Several expressions and the facts about a remote: accepted, refused, or not decided yet, and why.

All sources must be true.  To these comes the baseline, which is what a pool without any expression asks:

* ``T``, unless some expression authenticates the remote itself: it cannot be true without any of ``TtPpDdGg``;
* ``I``, or ``i`` if the application lets a domain speak for its users, unless some expression asks for ``I`` or ``i``
  itself, or the application expects nobody in particular;
* nothing, if the application ignores who the remote is, or merely requests a credential and none is shown.

Whose expression may take the place of the baseline is said by the source (``waives``).  An anchor's may not: it is
for remotes that come by this anchor, to be stricter with them, and who gets a certificate from somewhere below it has
not been let off the rest.  Nor may a crypto policy's, which an application chooses by the name of its service.

Who is refused is told the reason that says most: what is revoked before what is not trusted, one predicate before
several.  A source that does not parse is false: it may have been written by other tools.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product

from tlspool_broker.validation import expression, pinning, predicates
from tlspool_broker.validation.expression import Expression, Value
from tlspool_broker.validation.facts import Answer, Facts
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import RemoteAuth, Side
from tlspool_common.record import record
from tlspool_common.valexp import LETTERS

AUTHENTICATES = frozenset("TtPpDdGg")
"""Predicates any of which authenticates a remote's credential."""

IDENTIFIES = frozenset("Ii")

BASELINE = "baseline"
"""Where the baseline comes from, as a source."""

_TELLING = (
    Code.CERTIFICATE_MISSING,
    Code.REVOKED,
    Code.PIN_UNMATCHED,
    Code.CHAIN_INVALID,
    Code.CHAIN_UNTRUSTED,
    Code.SELF_SIGNED,
    Code.EXPIRED,
    Code.NOT_YET_VALID,
    Code.NAME_MISMATCH,
    Code.WRONG_PURPOSE,
    Code.KEY_WEAK,
    Code.REVOCATION_UNKNOWN,
    Code.NOT_POST_QUANTUM,
)
"""Which reason is told if there are several, most telling first; any other comes last."""

_WORDS = {True: "true", False: "false", None: "not known"}


@record
class Source:
    """An expression, and where it comes from: ``localid example.com``, ``trust a1b2c3d4``.

    Attributes:
        waives: it may take the place of the baseline, not only add to it.
    """

    where: str
    text: str
    waives: bool = True


@record
class Line:
    """A line of a trace: a source with its expression, or a predicate with its letter.

    Attributes:
        kind: ``source`` or ``predicate``.
        name: where the expression comes from; the letter.
        text: the expression; '' for a predicate.
        meaning: the expression for people; what the predicate means.
        why: what the value comes from: for a source the predicates that make it so.
    """

    kind: str
    name: str
    text: str
    meaning: str
    value: Value
    why: str

    def as_json(self) -> dict[str, str | bool | None]:
        """Return what programs read."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@record
class _Judged:
    """A source, read and evaluated; ``fault`` says what is wrong with one that cannot be read."""

    source: Source
    expression: Expression | None
    value: Value
    fault: str = ""


@record
class Basis:
    """What a judgement was made of."""

    judged: tuple[_Judged, ...]
    answers: Mapping[str, Answer]
    values: Mapping[str, Value]


NOTHING_WEIGHED = Basis((), {}, {})


@record
class Judgement:
    """What came of it.

    Attributes:
        outcome: True accepted, False refused, None: not decided by what is known.
        code: what to tell; OK if accepted.
        detail: one sentence for log and operator; '' if accepted.
        basis: what the trace is made of; empty where it did not come to that.
        rule: the source that refuses, or that is not decided.
        missing: letters that would decide it, in order.
        slow: those of them that are worth to be asked about: without them it cannot be accepted, with them it can.
        pin: the remote identity that the certificate is to be pinned for, if this was its first use; '' none.
    """

    outcome: Value
    code: Code
    detail: str
    basis: Basis = NOTHING_WEIGHED
    rule: str = ""
    missing: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    pin: str = ""

    @property
    def trace(self) -> tuple[Line, ...]:
        """Every source, then every predicate, with value and reason; put into words when somebody asks."""
        basis = self.basis
        sources = (_source_line(one, basis.values) for one in basis.judged)
        return (*sources, *(_letter_line(letter, answer) for letter, answer in basis.answers.items()))


def judge(sources: Sequence[Source], facts: Facts, known: Mapping[str, Value]) -> Judgement:
    """Judge a remote.  ``known`` has values that are to count whatever the facts say; it may be empty.

    Raises:
        PoolError: what the databases raise when they are asked for pins and revocations.
    """
    return judge_all(with_baseline(sources, facts), facts, known)


def with_baseline(sources: Sequence[Source], facts: Facts) -> list[Source]:
    """Return the sources that say anything, the baseline first."""
    said = [source for source in sources if source.text]
    text = baseline(said, facts)
    return [Source(BASELINE, text), *said] if text else said


def baseline(sources: Sequence[Source], facts: Facts) -> str:
    """Return what is asked beside these expressions; '' for nothing."""
    auth = facts.context.remote_auth
    if auth is RemoteAuth.IGNORE or (auth is RemoteAuth.REQUEST and facts.shown is None):
        return ""
    said = [_says(source.text, facts.context.side) for source in sources if source.waives]
    chain = "" if any(authenticates for authenticates, _ in said) else "T"
    name = "i" if facts.context.domain_represents_user else "I"
    if facts.context.expected is None or any(identifies for _, identifies in said):
        name = ""
    return f"{chain}{name}&" if chain and name else chain or name


@lru_cache(maxsize=4096)
def _says(text: str, side: Side) -> tuple[bool, bool]:
    """Tell whether an expression authenticates a remote by itself, and whether it asks for the name, in our role.

    That a letter is written somewhere is not enough: ``1Ts?`` asks for no chain where we are the client, and neither
    does ``TL|`` of a remote with strong keys.
    """
    parsed = _parsed(text)
    if not isinstance(parsed, Expression):
        return False, False
    is_server = side is Side.SERVER
    roles: dict[str, Value] = {"s": is_server, "c": not is_server, "C" if is_server else "S": False}
    authenticates = parsed.value({**roles, **dict.fromkeys(AUTHENTICATES, False)}) is False
    return authenticates and bool(parsed.mentions & AUTHENTICATES), not IDENTIFIES.isdisjoint(parsed.wanting(roles))


def needs_anchor(sources: Sequence[Source]) -> bool:
    """Whether only a chain that leads to an anchor can be accepted, as far as these sources say.

    So it is unless one of them takes the place of the baseline, and all leave another way than ``T``.
    """
    parsed = [found for source in sources if source.text and isinstance(found := _parsed(source.text), Expression)]
    if not any(_says(source.text, Side.SERVER)[0] for source in sources if source.text and source.waives):
        return True
    return any(found.value({"T": False}) is False for found in parsed)


def judge_all(sources: Sequence[Source], facts: Facts, known: Mapping[str, Value]) -> Judgement:
    """Judge a remote by these sources and nothing else."""
    parsed = [_parsed(source.text) for source in sources]
    answers = _answers(parsed, facts, known)
    values = {letter: answer.value for letter, answer in answers.items()}
    judged = tuple(_evaluated(source, found, values) for source, found in zip(sources, parsed, strict=True))
    basis = Basis(judged, answers, values)
    outcomes = [one.value for one in judged]
    if False in outcomes:
        return _refused(basis)
    if None in outcomes:
        return _undecided(basis)
    return Judgement(True, Code.OK, "", basis, pin=_to_pin(basis, facts))


def _parsed(text: str) -> Expression | PoolError:
    try:
        return expression.parse(text)
    except PoolError as error:
        return error


def _answers(parsed: Sequence[Expression | PoolError], facts: Facts, known: Mapping[str, Value]) -> dict[str, Answer]:
    """Return what is known of each letter that is written anywhere, in order."""
    written = {letter for one in parsed if isinstance(one, Expression) for letter in one.mentions}
    found = {}
    for letter in sorted(written, key=expression.BIT.__getitem__):
        answer = predicates.answer(letter, facts)
        if letter in known and known[letter] is not answer.value:
            answer = Answer(known[letter], "so it was found elsewhere", answer.code)
        found[letter] = answer
    return found


def _evaluated(source: Source, found: Expression | PoolError, values: Mapping[str, Value]) -> _Judged:
    if isinstance(found, PoolError):
        return _Judged(source, None, False, found.detail)
    return _Judged(source, found, found.value(values))


def _refused(basis: Basis) -> Judgement:
    """Tell the most telling of the sources that are false."""
    told = [(_reason(one, basis), one) for one in basis.judged if one.value is False]
    (code, detail, _size), one = min(told, key=lambda pair: (_rank(pair[0][0]), pair[0][2]))
    return Judgement(False, code, _sentence(one.source.where, detail), basis, rule=one.source.where)


def _reason(one: _Judged, basis: Basis) -> tuple[Code, str, int]:
    """Return the code for a source that is false, the rest of the sentence, and how many predicates it takes."""
    if one.expression is None:
        return Code.VALIDATION_FAILED, f"{one.fault}; so nobody passes", 0
    letters = one.expression.because(basis.values)
    if not letters:
        return Code.VALIDATION_FAILED, f"the expression {one.source.text} is never true", 0
    # What is true, or is our role, is a condition that applies ("if s then T"); what else is false is what it lacks.
    false = [letter for letter in letters if not basis.values[letter]]
    lacking = [letter for letter in false if letter not in predicates.ROLES] or false
    if not lacking:
        return Code.VALIDATION_FAILED, _because(letters, basis), len(letters)
    codes = {basis.answers[letter].code for letter in lacking}
    code = codes.pop() if len(codes) == 1 else Code.REVOKED if Code.REVOKED in codes else Code.VALIDATION_FAILED
    return code, _because(lacking, basis), len(letters)


def _undecided(basis: Basis) -> Judgement:
    open_ones = [(one, one.expression) for one in basis.judged if one.value is None and one.expression is not None]
    wanting = {letter for _, found in open_ones for letter in found.wanting(basis.values)}
    missing = tuple(letter for letter in LETTERS if letter in wanting)
    one, found = open_ones[0]
    detail = _sentence(one.source.where, _because(found.wanting(basis.values), basis))
    slow = _worth_asking([found for _, found in open_ones], missing, basis.values)
    return Judgement(None, Code.VALIDATION_UNDECIDED, detail, basis, one.source.where, missing, slow)


def _because(letters: Sequence[str], basis: Basis) -> str:
    """Return letters, their common value, and the reasons for it."""
    names = letters[0] if len(letters) == 1 else f"{', '.join(letters[:-1])} and {letters[-1]}"
    reasons = dict.fromkeys(basis.answers[letter].why for letter in letters)
    are = "is" if len(letters) == 1 else "are"
    return f"{names} {are} {_WORDS[basis.values[letters[0]]]}: {'; '.join(reasons)}"


def _worth_asking(
    expressions: Sequence[Expression], missing: Sequence[str], values: Mapping[str, Value]
) -> tuple[str, ...]:
    """Return the slow letters among the missing, if there are answers to them that would accept the remote."""
    slow = tuple(letter for letter in missing if letter in predicates.SLOW)
    for guess in product((True, False), repeat=len(slow)):
        assumed = {**values, **dict(zip(slow, guess, strict=True))}
        if all(one.value(assumed) for one in expressions):
            return slow
    return ()


def _to_pin(basis: Basis, facts: Facts) -> str:
    """Return for whom to pin the certificate: somebody, if only that it was the first use has made it pass."""
    if not basis.values.get("p") or not pinning.pins_on_acceptance(facts):
        return ""
    without = {**basis.values, "p": False}
    needed = any(one.expression is not None and not one.expression.value(without) for one in basis.judged)
    return facts.remote if needed else ""


def _source_line(one: _Judged, values: Mapping[str, Value]) -> Line:
    where, text = _printable(one.source.where), _printable(one.source.text)
    if one.expression is None:
        return Line("source", where, text, "malformed", one.value, one.fault)
    letters = one.expression.because(values) if one.value is not None else one.expression.wanting(values)
    why = ", ".join(f"{letter} is {_WORDS[values[letter]]}" for letter in letters)
    return Line("source", where, text, one.expression.infix, one.value, why)


def _letter_line(letter: str, answer: Answer) -> Line:
    return Line("predicate", letter, "", predicates.MEANINGS[letter], answer.value, _printable(answer.why))


def _rank(code: Code) -> int:
    return _TELLING.index(code) if code in _TELLING else len(_TELLING)


def _sentence(where: str, rest: str) -> str:
    """Return a sentence that fits into a message of the border."""
    text = _printable(f"{where}: {rest}")
    return text.encode()[: limits.PROSE_B].decode(errors="ignore")


def _printable(text: str) -> str:
    """Return a text without what could move a terminal's cursor: names come from certificates."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
