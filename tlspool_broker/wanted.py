"""What sessions want to know from the databases, and have them remember."""

from __future__ import annotations

from typing import Protocol

from tlspool_broker.credentials import Anchor, Credential
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_common.identity import Donai
from tlspool_common.messages import Side


class Records(Protocol):
    """What is asked of the databases.  Each may raise PoolError."""

    @property
    def generation(self) -> int:
        """Number of the state of all databases."""

    @property
    def trust_generation(self) -> int:
        """Number of the state of the trust database."""

    def at(self, generation: int) -> Records:
        """Return the records as they were in an earlier generation."""

    def credentials(self, donai: Donai, side: Side) -> list[Credential]:
        """Return what an identity can show in a role, one for each kind of key."""

    def expression(self, donai: Donai, side: Side) -> str:
        """Return the validation expression of an identity in a role; '' for none."""

    def judged_identities(self, side: Side) -> bool:
        """Whether any identity has an expression other than 1 in a role, or a crypto policy of its own."""

    def disclosed(self, remote: Donai) -> list[str]:
        """Return the local identities that a remote may see, most preferred first."""

    def disclosure(self, remote: Donai) -> tuple[str, list[str]]:
        """Return the first selector that matches a remote and has records, and what it discloses; '' for none."""

    def disclosure_expression(self, remote: Donai) -> str:
        """Return the validation expression of that selector; '' for none."""

    def disclose_add(self, selector: Donai, localid: Donai, *, first: bool, move: bool) -> bool:
        """Disclose one more identity, in front or at the end; return whether anything changed."""

    def anchors(self) -> list[Anchor]:
        """Return the trust anchors, those with expression 0 too."""

    def needs_judging(self, side: Side) -> bool:
        """Whether the trust database has more to say, for this role, than whom to trust."""

    def pins(self, remote: str) -> list[Pin]:
        """Return the pins of a remote identity."""

    def pin_add(self, remote: str, sha256: bytes, author: str, reason: str, side: Side) -> None:
        """Pin a certificate for a remote identity in our role, in the place of one that may be replaced."""

    def revocations(self, issuer_key: bytes) -> Revocations | None:
        """Return what an issuer, by its key identifier, has revoked; None when nobody has told."""

    def crypto_policy(self, service: str, localid: str) -> str:
        """Return the name of the crypto policy that was assigned; '' for none."""
