"""Which seat has a key.  A URI need not say: ``pkcs11:object=web`` may be behind any ``pkcs11_token`` line.

    seats whose line contradicts the URI        never asked
    one seat is left                            it gets the request
    several                                     all are asked for the key; one must have it, and is remembered

A key that several seats have is KEY_AMBIGUOUS, as it is within one: the operator is to say which one signs.
What was remembered is forgotten when the key is not there any more.
"""

from __future__ import annotations

from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import TokenFind, TokenSign
from tlspool_keyd import locks
from tlspool_keyd.events import Effect
from tlspool_keyd.pkcs11uri import parse_untrusted
from tlspool_keyd.seat import PIN_TROUBLE
from tlspool_keyd.seats import Done, Outcome, Seat, Seats

REMEMBERED = 4096
"""URIs whose seat is known: as many keys as a token process remembers."""

_MOST_TELLING = (
    Code.KEY_AMBIGUOUS,
    Code.TOKEN_LOCKED,
    Code.PIN_WRONG,
    Code.PIN_LOCKED,
    Code.PIN_LAST_TRY,
    Code.PIN_MISSING,
    Code.TOKEN_SLOW,
    Code.TOKEN_FAILED,
    Code.SCHEME_REFUSED,
    Code.TOKEN_GONE,
    Code.KEY_NOT_FOUND,
)
"""Of several reasons why nobody has the key, the first of these is told."""

_ABSENT = (Code.TOKEN_GONE, Code.KEY_NOT_FOUND)


class Lookup:
    """Sends requests for a key to the seat that has it."""

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._homes: dict[str, Seat] = {}

    def submit(self, message: TokenSign | TokenFind, done: Done, now_ms: float, owner: int = 0) -> list[Effect]:
        """Have a request of a worker carried out; ``done`` gets the outcome, possibly before this returns."""
        try:
            uri = parse_untrusted(message.uri)
            uri.wants_private_key()
        except PoolError as error:
            return done(Outcome(error.code, error.detail), now_ms)
        if self._seats.locks.covers(message.uri):
            return done(Outcome(Code.TOKEN_LOCKED, locks.DETAIL), now_ms)
        seats = [seat for seat in self._seats.seats if seat.token_uri.may_match(uri)]
        if not seats:
            return done(Outcome(Code.KEY_NOT_FOUND, "no pkcs11_token line of the configuration is for it"), now_ms)
        if len(seats) == 1:
            return self._seats.submit(seats[0], message, done, now_ms, owner=owner)
        home = self._homes.get(message.uri)
        if home is None:
            return self._search(seats, message, done, now_ms, owner)
        return self._seats.submit(home, message, self._forgetful(message.uri, done), now_ms, owner=owner)

    def _forgetful(self, uri: str, done: Done) -> Done:
        def wrapped(outcome: Outcome, now_ms: float) -> list[Effect]:
            if outcome.code in _ABSENT:
                self._homes.pop(uri, None)
            return done(outcome, now_ms)

        return wrapped

    def _search(
        self, seats: list[Seat], message: TokenSign | TokenFind, done: Done, now_ms: float, owner: int
    ) -> list[Effect]:
        answers: list[tuple[Seat, Outcome]] = []

        def hear_of(seat: Seat) -> Done:
            def hear(outcome: Outcome, then_ms: float) -> list[Effect]:
                answers.append((seat, outcome))
                return [] if len(answers) < len(seats) else self._decide(answers, message, done, then_ms, owner)

            return hear

        effects: list[Effect] = []
        for seat in seats:
            # A seat that waits for its PIN must not keep one waiting that has the key.
            find = TokenFind(uri=message.uri)
            effects += self._seats.submit(seat, find, hear_of(seat), now_ms, owner=owner, patient=False)
        return effects

    def _decide(
        self,
        answers: list[tuple[Seat, Outcome]],
        message: TokenSign | TokenFind,
        done: Done,
        now_ms: float,
        owner: int,
    ) -> list[Effect]:
        found = [(seat, outcome) for seat, outcome in answers if outcome.code is Code.OK]
        if len(found) > 1:
            where = ", ".join(str(seat.token_uri) for seat, _ in found)
            return done(Outcome(Code.KEY_AMBIGUOUS, f"behind {len(found)} pkcs11_token lines: {where}"), now_ms)
        hopeful = [seat for seat, outcome in answers if outcome.code in PIN_TROUBLE and self._seats.pin_may_come(seat)]
        if not found and hopeful:
            return self._seats.submit(hopeful[0], message, done, now_ms, owner=owner)
        if not found:
            return done(min((outcome for _, outcome in answers), key=_rank), now_ms)
        seat, outcome = found[0]
        if len(self._homes) >= REMEMBERED:
            self._homes.clear()
        self._homes[message.uri] = seat
        if isinstance(message, TokenFind):
            return done(outcome, now_ms)
        return self._seats.submit(seat, message, self._forgetful(message.uri, done), now_ms, owner=owner)


def _rank(outcome: Outcome) -> int:
    return _MOST_TELLING.index(outcome.code) if outcome.code in _MOST_TELLING else len(_MOST_TELLING)
