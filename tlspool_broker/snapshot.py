"""One generation of the databases, held for as long as a session is being decided about.

Theory of operation.  The broker is the only writer, and does one thing at a time: whatever it reads for one event is
of one generation.  A session is decided about in several events, though, and an operator may change anything between
them.  So a session holds a *snapshot*, taken when its plan is made, and everything that is decided about it is decided
by that: who we are, what is disclosed, which anchors its worker gets, pins, revocations, expressions.  It is the
generation that admits it, or does not.

A snapshot costs nothing while the databases stay as they are.  When they have changed it reads what they were
(``Records.at``), and only what has changed since.  What is written goes to the databases as they are now.
"""

from __future__ import annotations

from tlspool_broker.credentials import Anchor, Credential
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_broker.wanted import Records
from tlspool_common.identity import Donai
from tlspool_common.messages import Side

_UNKNOWN = -1


class Snapshot:
    """The records of one generation."""

    __slots__ = ("_live", "_past", "generation", "trust_generation")

    def __init__(self, live: Records, generation: int | None = None) -> None:
        self._live = live
        self._past: Records | None = None
        self.generation = live.generation if generation is None else generation
        self.trust_generation = live.trust_generation if self.generation == live.generation else _UNKNOWN

    def _then(self) -> Records:
        """Return who has the records of this generation."""
        if self._live.generation == self.generation:
            return self._live
        if self._past is None:
            self._past = self._live.at(self.generation)
        return self._past

    def at(self, generation: int) -> Records:
        """As the databases have it."""
        return self._live.at(generation)

    def credentials(self, donai: Donai, side: Side) -> list[Credential]:
        """Return what an identity could show."""
        return self._then().credentials(donai, side)

    def expression(self, donai: Donai, side: Side) -> str:
        """Return the expression of an identity."""
        return self._then().expression(donai, side)

    def judged_identities(self, side: Side) -> bool:
        """Whether any identity had an expression, or a crypto policy of its own."""
        return self._then().judged_identities(side)

    def disclosed(self, remote: Donai) -> list[str]:
        """Return what a remote might see."""
        return self._then().disclosed(remote)

    def disclosure(self, remote: Donai) -> tuple[str, list[str]]:
        """Return the selector that matched, and what it disclosed."""
        return self._then().disclosure(remote)

    def disclosure_expression(self, remote: Donai) -> str:
        """Return the expression of that selector."""
        return self._then().disclosure_expression(remote)

    def disclose_add(self, selector: Donai, localid: Donai, *, first: bool, move: bool) -> bool:
        """Change the databases as they are now."""
        return self._live.disclose_add(selector, localid, first=first, move=move)

    def anchors(self) -> list[Anchor]:
        """Return the trust anchors."""
        same = self._live.trust_generation == self.trust_generation
        return (self._live if same else self._then()).anchors()

    def needs_judging(self, side: Side) -> bool:
        """Whether the trust database had more to say than whom to trust."""
        return self._then().needs_judging(side)

    def pins(self, remote: str) -> list[Pin]:
        """Return the pins of a remote."""
        return self._then().pins(remote)

    def pin_add(self, remote: str, sha256: bytes, author: str, reason: str, side: Side) -> None:
        """Change the databases as they are now."""
        self._live.pin_add(remote, sha256, author, reason, side)

    def revocations(self, issuer_key: bytes) -> Revocations | None:
        """Return what an issuer had revoked."""
        return self._then().revocations(issuer_key)

    def crypto_policy(self, service: str, localid: str) -> str:
        """Return the name of the assigned policy."""
        return self._then().crypto_policy(service, localid)


class Snapshots:
    """Hands out snapshots; sessions of one generation share one."""

    def __init__(self, live: Records) -> None:
        self._live = live
        self._newest: Snapshot | None = None

    @property
    def newest(self) -> int:
        """Number of the generation that was handed out last; 0 before the first."""
        return self._newest.generation if self._newest is not None else 0

    def of(self, generation: int) -> Snapshot:
        """Return an earlier generation, of which nothing is read before it is asked for; it may be forgotten then."""
        newest = self._newest
        return newest if newest is not None and newest.generation == generation else Snapshot(self._live, generation)

    def take(self) -> Snapshot:
        """Return the current generation.

        Raises:
            PoolError: DATABASE.
        """
        newest = self._newest
        if newest is None or newest.generation != self._live.generation:
            newest = self._newest = Snapshot(self._live)
        return newest
