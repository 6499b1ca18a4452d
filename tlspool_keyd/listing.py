"""What keys there are, for an operator: every seat is asked, page by page, for the private keys on its tokens.

Only public facts are told: URI, kind, and whether a signature could be made with the key now.
"""

from __future__ import annotations

from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import TokenList
from tlspool_keyd.events import AnswerKeys, Effect
from tlspool_keyd.pkcs11uri import parse_untrusted
from tlspool_keyd.seats import Done, Outcome, Seat, Seats

KEYS = 4096
"""Keys listed for one seat: as many as a token process remembers."""


class Listing:
    """One request of an operator, until all seats have answered."""

    def __init__(self, seats: Seats, ticket: int) -> None:
        self._seats = seats
        self._ticket = ticket
        self._left = len(seats.seats)
        self._keys: list[dict[str, str | bool]] = []
        self._troubles: list[str] = []

    def begin(self, now_ms: float) -> list[Effect]:
        """Ask all seats."""
        effects: list[Effect] = []
        for seat in self._seats.seats:
            effects += self._ask(seat, 0, now_ms)
        return effects if self._seats.seats else [self._answer()]

    def _ask(self, seat: Seat, skip: int, now_ms: float) -> list[Effect]:
        return self._seats.submit(seat, TokenList(skip=skip), self._hear_of(seat, skip), now_ms, patient=False)

    def _hear_of(self, seat: Seat, skip: int) -> Done:
        def hear(outcome: Outcome, now_ms: float) -> list[Effect]:
            self._keys += [row for line in outcome.keys if (row := _row(line))]
            told = skip + len(outcome.keys)
            if outcome.more and outcome.keys and told < KEYS:
                return self._ask(seat, told, now_ms)
            if outcome.code is not Code.OK:
                detail = f": {outcome.detail}" if outcome.detail else ""
                self._troubles.append(f"{seat.token_uri} {outcome.code.name}{detail}")
            elif outcome.more:
                self._troubles.append(f"{seat.token_uri} has more keys than are shown")
            self._left -= 1
            return [] if self._left else [self._answer()]

        return hear

    def _answer(self) -> AnswerKeys:
        return AnswerKeys(self._ticket, tuple(self._keys), tuple(self._troubles))


def _row(line: str) -> dict[str, str | bool]:
    """Take a line ``KIND STATE URI`` apart; empty for one that is malformed."""
    kind, _, rest = line.partition(" ")
    state, _, text = rest.partition(" ")
    try:
        uri = parse_untrusted(text)
    except PoolError:
        return {}
    names = {name: uri.attributes.get(name, b"").decode("utf-8", "replace") for name in ("token", "object")}
    usable = state == "ready"
    return {**names, "kind": kind.lower(), "usable": usable, "trouble": "" if usable else state, "uri": text}
