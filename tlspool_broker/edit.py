"""What can be done to the databases within one transaction.

Records that hold certificates come ready, as making them takes a while (credentials.py).  All else is checked in the
transaction, with whatever must be known for it; when an operation raises, nothing of the transaction has happened.
A transaction may be run again, so nothing in here has effects elsewhere.
Identities and selectors are taken to be in normal form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tlspool_broker import certificates, history, ledger, records, trustdata
from tlspool_broker.entries import Entry, Name, read_entry, without
from tlspool_broker.environment import View
from tlspool_broker.history import Place, Values
from tlspool_broker.records import Disclosed, LocalRecord, TrustRecord, malformed
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_broker.trustindex import TrustIndex
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai
from tlspool_common.messages import Side


class Edit:
    """Operations of one transaction."""

    def __init__(self, view: View, trusted: Callable[[], TrustIndex]) -> None:
        """``trusted`` returns the trust database as it was before the transaction."""
        self.view = view
        self._trusted = trusted
        self._more_pins = 0

    # --- localid --------------------------------------------------------------------------------------

    def localid_entry(self, donai: Donai) -> Entry[LocalRecord]:
        """Return the records of an identity."""
        key = str(donai).encode()
        return read_entry(Name.LOCALID, key, self.view.values(Name.LOCALID, key), records.decode_local_untrusted)

    def localid_file(self, donai: Donai, new: Sequence[bytes], kind: int, roles: int) -> None:
        """File records of a type that are ready, in place of those the identity has for roles (0: for any)."""
        key = str(donai).encode()
        kept = without(self.view.values(Name.LOCALID, key), records.TYPE_MASK, kind, roles)
        self.view.replace(Name.LOCALID, key, [*kept, *new])

    def localid_del(self, donai: Donai, flags: int | None = None) -> int:
        """Remove all of an identity, or what it has of a type and (if named) for roles; return how many records."""
        return self._delete(Name.LOCALID, str(donai).encode(), records.TYPE_MASK, flags)

    # --- disclose -------------------------------------------------------------------------------------

    def disclose_entry(self, selector: Donai) -> Entry[Disclosed]:
        """Return what a selector itself says, without a walk."""
        key = str(selector).encode()
        return read_entry(Name.DISCLOSE, key, self.view.values(Name.DISCLOSE, key), records.decode_disclosure_untrusted)

    def disclosing(self, identity: str) -> list[bytes]:
        """Return the selectors that disclose an identity."""
        value = identity.encode()
        return sorted(key for key, values in self.view.items(Name.DISCLOSE) if value in values)

    def disclose_set(self, selector: Donai, identities: Sequence[Donai], expression: str | None = None) -> None:
        """Disclose these identities, in this order, to remotes that the selector matches first.

        ``expression`` must hold for them; '' takes the one away that is there, None leaves it.

        Raises:
            PoolError: LOCALID_UNKNOWN, one is no key of the localid database; RECORD_MALFORMED.
        """
        key = str(selector).encode()
        texts = list(dict.fromkeys(str(donai) for donai in identities))
        for text in texts:
            self._check_known(text)
        if expression is None:
            first = _expressions(self.view.values(Name.DISCLOSE, key))
        else:
            if expression:
                records.check_valexp(expression)
            first = [Disclosed(expression=expression).encode()] if expression else []
        self.view.replace(Name.DISCLOSE, key, [*first, *(text.encode() for text in texts)])

    def disclose_add(self, selector: Donai, localid: Donai, *, first: bool, move: bool) -> bool:
        """Disclose one more identity to remotes that the selector matches first, in front or at the end.

        One that is disclosed already stays where it is, unless it is to ``move``.  Return whether anything changed.

        Raises:
            PoolError: LOCALID_UNKNOWN, it is no key of the localid database.
        """
        key, value = str(selector).encode(), str(localid).encode()
        self._check_known(str(localid))
        old = self.view.values(Name.DISCLOSE, key)
        if value in old and not move:
            return False
        expressions = _expressions(old)
        others = [one for one in old if one != value and one not in expressions]
        new = [*expressions, value, *others] if first else [*expressions, *others, value]
        if new == old:
            return False
        self.view.replace(Name.DISCLOSE, key, new)
        return True

    def disclose_del(self, selector: Donai) -> int:
        """Remove a selector; return how many records it had."""
        return self._delete(Name.DISCLOSE, str(selector).encode(), 0, None)

    def _check_known(self, identity: str) -> None:
        if not self.view.has(Name.LOCALID, identity.encode()):
            raise PoolError(Code.LOCALID_UNKNOWN, identity)

    # --- trust ----------------------------------------------------------------------------------------

    def trust_entry(self, key: bytes) -> Entry[TrustRecord]:
        """Return the records of a key identifier."""
        return read_entry(Name.TRUST, key, self.view.values(Name.TRUST, key), records.decode_trust_untrusted)

    def trust_file(self, new: Mapping[bytes, Sequence[bytes]], roles: int) -> None:
        """File records of anchors that are ready, in place of those that their keys have for roles (0: for any)."""
        for name, values in new.items():
            old = self.view.values(Name.TRUST, name)
            kept = without(old, records.TRUST_CLASS_MASK, records.X509, roles)
            self.view.replace(Name.TRUST, name, [*values, *kept])  # revocations stand behind anchors

    def trust_put(self, flags: int, valexp: str, key: bytes, data: bytes) -> None:
        """Write one pin or revocation record with data that is ready, in place of those that the key has.

        Raises:
            PoolError: RECORD_MALFORMED, NOT_SUPPORTED_YET.
        """
        kind = flags & records.TRUST_CLASS_MASK
        records.check_valexp(valexp)
        record = TrustRecord(flags, valexp, data)
        if record.is_revocation:
            trustdata.revocations_of(record)
        elif record.is_pin:
            if trustdata.pin_of(key, record).remote:
                record = replace(record, flags=flags | records.TRUST_PIN_NAMED)
            self._count_pins(1)
        else:
            raise PoolError(Code.NOT_SUPPORTED_YET, f"writing {','.join(records.trust_words(flags))}")
        kept = without(self.view.values(Name.TRUST, key), records.TRUST_CLASS_MASK, kind, 0)
        self.view.replace(Name.TRUST, key, [*kept, record.encode()])

    def trust_del(self, key: bytes, flags: int | None = None) -> int:
        """Remove all of a key, or what it has of a kind and (if named) for roles; return how many records."""
        return self._delete(Name.TRUST, key, records.TRUST_CLASS_MASK, flags)

    def pins(self, remote: str) -> list[Pin]:
        """Return the pins of a remote; '': those for any remote."""
        keys = {pin.sha256: None for pin in self._trusted().pins(remote)}
        keys.update((key, None) for name, key in self.view.changes if name is Name.TRUST)
        found = [_pin(key, value) for key in keys for value in self.view.values(Name.TRUST, key)]
        return [pin for pin in found if pin is not None and pin.remote == remote]

    def pin(self, pin: Pin, *, alone: bool = False) -> bool:
        """Pin a certificate for a remote, in place of a pin of the same; return whether anything changed.

        ``alone``: the remote has no other pin from now on.

        Raises:
            PoolError: PINS_FULL.
        """
        if alone:
            for other in self.pins(pin.remote):
                if other.sha256 != pin.sha256:
                    self._unpin(other)
        old = self.view.values(Name.TRUST, pin.sha256)
        kept = [value for value in old if not _is_pin_for(pin.sha256, value, pin.remote)]
        if len(kept) == len(old):
            self._count_pins(1)
        new = [*kept, pin.encode()]
        if sorted(new) == sorted(old):
            return False
        self.view.replace(Name.TRUST, pin.sha256, new)
        return True

    def pin_first(self, remote: str, sha256: bytes, side: Side, now_s: int) -> None:
        """Pin a certificate by first use: for our role only, as remotes of the other one have not been met.

        Pins of that remote which may be replaced go, as far as this role is concerned.  What was judged some time
        ago is looked at again: of two first uses at a time only one is the first.

        Raises:
            PoolError: PIN_UNMATCHED, another certificate has been pinned meanwhile; PINS_FULL.
        """
        found = self.pins(remote)
        own = [pin for pin in found if pin.for_sides & side]
        if any(pin.sha256 == sha256 and not pin.is_over(now_s) for pin in own):
            return
        if own and not any(pin.is_replaceable(now_s) and not pin.is_over(now_s) for pin in own):
            raise PoolError(Code.PIN_UNMATCHED, f"{own[0].sha256.hex()[:16]} is pinned for {remote} meanwhile")
        for pin in own:
            if pin.is_replaceable(now_s):
                self._unpin(pin)
                if left := pin.for_sides & ~side:
                    self.pin(replace(pin, for_sides=left))
        same = [pin for pin in self.pins(remote) if pin.sha256 == sha256]
        # Who has it pinned for the other role has said for how long.
        new = same[0] if same else Pin(sha256, remote=remote, for_sides=0)
        self.pin(replace(new, for_sides=new.for_sides | side))
        if self._more_pins > 0 and self._trusted().pin_count + self._more_pins > limits.FIRST_USE_PINS:
            raise PoolError(Code.PINS_FULL, f"{limits.FIRST_USE_PINS} of them by first use")

    def unpin(self, remote: str, sha256: bytes | None = None) -> int:
        """Remove the pins of a remote, or one of them; return how many."""
        found = [pin for pin in self.pins(remote) if sha256 in (None, pin.sha256)]
        for pin in found:
            self._unpin(pin)
        return len(found)

    def _unpin(self, pin: Pin) -> None:
        old = self.view.values(Name.TRUST, pin.sha256)
        kept = [value for value in old if not _is_pin_for(pin.sha256, value, pin.remote)]
        self._more_pins -= len(old) - len(kept)
        self.view.replace(Name.TRUST, pin.sha256, kept)

    def _count_pins(self, more: int) -> None:
        self._more_pins += more
        if self._trusted().pin_count + self._more_pins > limits.PINS:
            raise PoolError(Code.PINS_FULL, str(limits.PINS))

    def revocations(self, key: bytes) -> Revocations | None:
        """Return what an issuer has revoked."""
        found = [trustdata.revocations_of(one) for one in self.trust_entry(key).good if one.is_revocation]
        return trustdata.merged(found) if found else None

    def revoke(self, key: bytes, revocations: Revocations | None) -> None:
        """Let this be all that an issuer has revoked; None or no date and serial: nothing is known.

        Raises:
            PoolError: RECORD_MALFORMED, too many serials, or one that is too long.
        """
        if revocations is not None and len(revocations.serials) > limits.REVOKED_SERIALS:
            raise malformed(f"more than {limits.REVOKED_SERIALS} revoked serials")
        flags = records.X509 | records.TRUST_REVOKED
        kept = without(self.view.values(Name.TRUST, key), records.TRUST_CLASS_MASK, flags, 0)
        new = [] if revocations is None else [revocations.encode(flags | records.ROLE_MASK)]
        self.view.replace(Name.TRUST, key, [*kept, *new])

    def issuers(self, key: bytes) -> list[bytes]:
        """Return the anchors' certificates that are filed under a key."""
        return [one.data for one in self.trust_entry(key).good if one.is_anchor]

    # --- policy ---------------------------------------------------------------------------------------

    def policy_get(self, key: str) -> str:
        """Return the name of the crypto policy that is assigned to this key itself; '' for none."""
        values = self.view.values(Name.POLICY, key.encode())
        entry = read_entry(Name.POLICY, key.encode(), values, records.decode_policy_untrusted)
        return entry.good[0] if entry.good else ""

    def policy_set(self, key: str, name: str) -> None:
        """Assign a crypto policy to ``host``, ``service:NAME`` or ``localid:IDENTITY``; '' takes it away.

        Raises:
            PoolError: RECORD_MALFORMED.
        """
        records.check_policy_key(key)
        if name:
            records.decode_policy_untrusted(name.encode())
        self.view.replace(Name.POLICY, key.encode(), [name.encode()] if name else [])

    # --- history --------------------------------------------------------------------------------------

    def rollback(self, generation: int) -> dict[Place, tuple[Values, Values]]:
        """Bring back what an earlier generation had; return by key the records that were there and those that are.

        What another tool has written over is overwritten too.

        Raises:
            PoolError: GENERATION_UNKNOWN.
        """
        undone = history.net(ledger.since(self.view, generation))
        for (name, key), (before, _) in undone.items():
            self.view.replace(name, key, before)
        return {place: (after, before) for place, (before, after) in undone.items()}

    # --- common ---------------------------------------------------------------------------------------

    def _delete(self, name: Name, key: bytes, mask: int, flags: int | None) -> int:
        old = self.view.values(name, key)
        kept: list[bytes] = []
        if flags is not None:
            kept = without(old, mask, flags & mask, flags & records.ROLE_MASK)
        self.view.replace(name, key, kept)
        return len(old) - len(kept)


def _expressions(values: Sequence[bytes]) -> list[bytes]:
    return [value for value in values if value.startswith(b"\0")]


def _pin(key: bytes, value: bytes) -> Pin | None:
    try:
        record = records.decode_trust_untrusted(value)
        return trustdata.pin_of(key, record) if record.is_pin else None
    except PoolError:
        return None


def _is_pin_for(key: bytes, value: bytes, remote: str) -> bool:
    pin = _pin(key, value)
    return pin is not None and pin.remote == remote


def issuer_key(der: bytes) -> bytes:
    """Return the key that the revocations of an issuer are filed under.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    return certificates.key_identifier(certificates.load(der))
