"""Where the parts of the core put effects, and read the time."""

from __future__ import annotations

from tlspool_broker.events import Effect, Note
from tlspool_common.auditor import Nobody, Witness
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Value


class Out:
    """The effects of one event, in order, and the time at which it happened."""

    def __init__(self, witness: Witness | None = None) -> None:
        self.now_ms = 0
        self.witness = witness or Nobody()
        self._effects: list[Effect] = []

    def __call__(self, effect: Effect) -> None:
        """Add an effect."""
        self._effects.append(effect)

    def note(self, level: str, event: str, **fields: Value) -> None:
        """Add a line for the log."""
        self._effects.append(Note(level, event, fields))

    def attest(self, note: Note) -> None:
        """Have a fact recorded before it comes true, or raise PoolError AUDIT_LOST: it must not; then log it."""
        if not self.witness.attest(note.event, note.fields):
            raise PoolError(Code.AUDIT_LOST)
        self._effects.append(note)

    def take(self) -> list[Effect]:
        """Return what was added since the last time."""
        effects, self._effects = self._effects, []
        return effects
