"""The trust database in memory, by what is asked of it: anchors, pins of a remote, revocations of an issuer.

Kept up to date key by key, as reading thousands of certificates again for each change would hold up handshakes.
A record that does not parse is reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tlspool_broker import credentials, records, trustdata
from tlspool_broker.credentials import Anchor
from tlspool_broker.entries import Name, located, read_entry
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_common.errors import PoolError
from tlspool_common.messages import Side


@dataclass(frozen=True, slots=True)
class _Key:
    """What one key of the database comes to."""

    anchors: tuple[Anchor, ...]
    pins: tuple[Pin, ...]
    revocations: Revocations | None


class TrustIndex:
    """All of the trust database that is of use."""

    def __init__(self, report: Callable[[PoolError], None]) -> None:
        self._report = report
        self._keys: dict[bytes, _Key] = {}
        self._pins: dict[str, dict[bytes, tuple[Pin, ...]]] = {}
        self._revoking = 0
        self._judged = 0
        self.pin_count = 0
        """How many pins there are."""

        self._anchors: tuple[Anchor, ...] | None = None

    def copy(self) -> TrustIndex:
        """Return one that can be changed apart from this."""
        other = TrustIndex(self._report)
        other._keys = dict(self._keys)
        other._pins = {remote: dict(pins) for remote, pins in self._pins.items()}
        other._revoking = self._revoking
        other.pin_count = self.pin_count
        return other

    def update(self, key: bytes, values: Sequence[bytes]) -> None:
        """Let a key have these records."""
        old = self._keys.pop(key, None)
        if old is not None:
            for remote in {pin.remote for pin in old.pins}:
                of_remote = self._pins[remote]
                of_remote.pop(key, None)
                if not of_remote:
                    del self._pins[remote]
            self.pin_count -= len(old.pins)
            self._revoking -= old.revocations is not None
        new = self._read(key, values)
        if new.anchors or (old is not None and old.anchors):
            self._anchors = None
        if not (new.anchors or new.pins or new.revocations):
            return
        self._keys[key] = new
        for remote in {pin.remote for pin in new.pins}:
            self._pins.setdefault(remote, {})[key] = tuple(pin for pin in new.pins if pin.remote == remote)
        self.pin_count += len(new.pins)
        self._revoking += new.revocations is not None

    def _read(self, key: bytes, values: Sequence[bytes]) -> _Key:
        entry = read_entry(Name.TRUST, key, values, records.decode_trust_untrusted)
        for error in entry.bad:
            self._report(error)
        anchors: list[Anchor] = []
        pins: list[Pin] = []
        revocations: list[Revocations] = []
        for record in entry.good:
            try:
                if record.is_revocation:
                    revocations.append(trustdata.revocations_of(record))
                elif record.is_pin:
                    pins.append(trustdata.pin_of(key, record))
                elif record.is_anchor and (anchor := credentials.anchor_of(key, record)) is not None:
                    anchors.append(anchor)
            except PoolError as error:
                self._report(located(error, Name.TRUST, key))
        return _Key(
            tuple(anchors),
            tuple(pin for pin in pins if pin.for_sides),
            trustdata.merged(revocations) if revocations else None,
        )

    @property
    def anchors(self) -> tuple[Anchor, ...]:
        """All anchors; one certificate may be several if roles have different expressions."""
        if self._anchors is None:
            found: dict[tuple[bytes, str], Anchor] = {}
            for key in sorted(self._keys):
                for anchor in self._keys[key].anchors:
                    known = found.get((anchor.sha256, anchor.valexp), anchor)
                    found[anchor.sha256, anchor.valexp] = replace(
                        known,
                        for_sides=known.for_sides | anchor.for_sides,
                        may_be_no_root=known.may_be_no_root or anchor.may_be_no_root,
                    )
            self._anchors = tuple(found.values())
            self._judged = 0
            for anchor in self._anchors:
                if anchor.valexp != "1":
                    self._judged |= anchor.for_sides
        return self._anchors

    def needs_judging(self, side: Side) -> bool:
        """Whether an anchor for that side has an expression other than 1, or pins or revocations exist."""
        if self._pins or self._revoking:
            return True
        _ = self.anchors
        return bool(self._judged & side)

    def pins(self, remote: str) -> list[Pin]:
        """Return the pins of a remote, and behind them those for any."""
        names = (remote, "") if remote else ("",)
        return [pin for name in names for pins in self._pins.get(name, {}).values() for pin in pins]

    def revocations(self, issuer_key: bytes) -> Revocations | None:
        """Return what an issuer has revoked."""
        found = self._keys.get(issuer_key)
        return found.revocations if found is not None else None
