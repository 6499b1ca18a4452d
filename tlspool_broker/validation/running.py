"""A validation that runs: predicates are started, become known one after the other, and are stopped.

The shape is that of earlier pools, whose test vectors it passes:

* ``register`` tells the outcome at once if constants decide it, else starts each letter that is needed, in order;
* ``setpredicate`` makes one letter known; it is stopped, and so is each that cannot make a difference any more;
* ``unregister`` stops what is left; what is not decided then has failed: not known is not false, but not enough;
* the outcome is told exactly once, and each letter that was started is stopped exactly once.

A handler may call ``setpredicate`` or ``unregister`` itself, even while its letter is being started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tlspool_broker.validation.expression import Expression, Value, conjunction, parse

Started = Callable[[str], None]
Told = Callable[[bool], None]


class Validation:
    """The conjunction of some expressions, until it is decided."""

    def __init__(self, expressions: Iterable[Expression | str], start: Started, stop: Started, final: Told) -> None:
        """Read the expressions; nothing is started yet.

        Raises:
            PoolError: RECORD_MALFORMED.
        """
        parsed = (parse(one) if isinstance(one, str) else one for one in expressions)
        self._expression = conjunction(parsed)
        self._start = start
        self._stop = stop
        self._final = final
        self._known: dict[str, Value] = {}
        self._running: dict[str, None] = {}
        self._outcome: bool | None = None
        self._over = False

    @property
    def outcome(self) -> bool | None:
        """What was told; None while it was not."""
        return self._outcome

    def register(self) -> None:
        """Start what has to be found out."""
        self._settle()
        for letter in self._expression.letters:
            if self._over:
                return
            if self._known and letter not in self._expression.wanting(self._known):
                continue  # a handler has answered for it, or made it pointless
            self._running[letter] = None
            self._start(letter)

    def setpredicate(self, letter: str, value: bool) -> None:
        """Make a letter known.  One that is not in progress, or is known already, is ignored."""
        if letter not in self._running:
            return
        self._known[letter] = value
        self._halt([letter])
        if not self._over:
            self._settle()

    def unregister(self) -> None:
        """End it; without effect when it has ended."""
        self._over = True
        self._halt(list(self._running))
        self._tell(False)

    def _settle(self) -> None:
        """Tell the outcome if it is known, and stop what makes no difference any more."""
        value = self._expression.value(self._known)
        if value is not None:
            self._over = True
            self._tell(value)
            self._halt(list(self._running))
            return
        wanting = self._expression.wanting(self._known)
        if self._known:
            self._halt([letter for letter in self._running if letter not in wanting])

    def _halt(self, letters: Iterable[str]) -> None:
        for letter in letters:
            # A handler of an earlier one may have stopped it.
            if letter in self._running:
                del self._running[letter]
                self._stop(letter)

    def _tell(self, outcome: bool) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._final(outcome)
