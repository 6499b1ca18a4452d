"""The three databases in their Berkeley DB environment: who we are, whom we tell, whom we believe.

The broker is the only process that opens the environment, once, after any fork; it is the only writer.

* Reads are snapshots: they see one committed state.  environment.py is about transactions and recovery.
* Each change is one short transaction over all it touches, durable when the call returns.  A transaction
  that changes something also counts up the *generation*, which is kept in a small fourth database and so
  survives a restart.
* A record that does not parse is reported (RECORD_MALFORMED with database, key and reason) and left out;
  the records beside it count as if it were not there.

Record formats are in records.py.  Duplicates are unsorted, as their order has a meaning: first is preferred.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tlspool_broker import credentials, records
from tlspool_broker.credentials import Anchor, Credential
from tlspool_broker.entries import Entry, Name, located, read_entry, without
from tlspool_broker.environment import Environment, View
from tlspool_broker.records import LocalRecord, TrustRecord
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, generalise
from tlspool_common.messages import KeyKind, Side
from tlspool_common.settings import Settings

__all__ = ["Anchor", "Credential", "Databases", "Entry", "Name"]

GENERATION_FILE = "generation.db"
"""Ours alone; earlier pools do not know it and need not."""

_COUNT = struct.Struct("!Q")

T = TypeVar("T")
R = TypeVar("R")
Report = Callable[[PoolError], None]


class Databases:
    """The databases, for the broker's core.  Methods that write return once the change is durable.

    Each may raise PoolError DATABASE.  Identities and selectors are taken to be in normal form.
    """

    def __init__(
        self,
        directory: Path,
        localid: str = "localid.db",
        disclose: str = "disclose.db",
        trust: str = "trust.db",
        report: Report = lambda _error: None,
    ) -> None:
        """Open, or create; file names are relative to ``directory``.  ``report`` hears of malformed records.

        Raises:
            PoolError: DATABASE, SETTING_INVALID.
        """
        files = {Name.LOCALID: localid, Name.DISCLOSE: disclose, Name.TRUST: trust, Name.GENERATION: GENERATION_FILE}
        self._environment = Environment(directory, files)
        self._report = report
        self._generations: tuple[int, int] | None = None
        self._credentials: dict[tuple[str, Side], tuple[Credential, ...]] = {}
        self._anchors: tuple[Anchor, ...] | None = None
        self._environment.open()
        self.generation  # noqa: B018 - read once, so that a damaged file shows at start

    @classmethod
    def from_settings(cls, settings: Settings, report: Report = lambda _error: None) -> Databases:
        """Open those that the settings name."""
        return cls(settings.dbenv_dir, settings.db_localid, settings.db_disclose, settings.db_trust, report)

    def close(self) -> None:
        """Close the environment; the next use opens it again."""
        self._environment.close()

    @property
    def generation(self) -> int:
        """Number of the current state of all databases; 1 before the first change, and one more with each."""
        return self._counted()[0]

    @property
    def trust_generation(self) -> int:
        """The generation that last changed the trust database."""
        return self._counted()[1]

    def _counted(self) -> tuple[int, int]:
        if self._generations is None:
            self._generations = self._environment.read(
                lambda view: (_count(view, b"generation"), _count(view, b"trust"))
            )
        return self._generations

    def _write(self, work: Callable[[View], T]) -> T:
        def counted(view: View) -> T:
            result = work(view)
            if view.changed:
                number = _COUNT.pack(_count(view, b"generation") + 1)
                trust_changed = Name.TRUST in view.changed
                view.replace(Name.GENERATION, b"generation", [number])
                if trust_changed:
                    view.replace(Name.GENERATION, b"trust", [number])
            return result

        try:
            return self._environment.write(counted)
        finally:  # also when it is unknown whether the commit came through
            self._generations = None
            self._credentials.clear()
            self._anchors = None

    # --- localid --------------------------------------------------------------------------------------

    def localid_entry(self, donai: Donai) -> Entry[LocalRecord]:
        """Return the records of an identity."""
        key = str(donai).encode()
        values = self._environment.read(lambda view: view.values(Name.LOCALID, key))
        return read_entry(Name.LOCALID, key, values, records.decode_local_untrusted)

    def localid_get(self, donai: Donai) -> list[LocalRecord]:
        """Return the well-formed records of an identity, and report the others."""
        return self._reported(self.localid_entry(donai))

    def localid_list(self) -> list[Entry[LocalRecord]]:
        """Return the records of all identities, by identity."""
        return self._listed(Name.LOCALID, records.decode_local_untrusted)

    def localid_set(self, donai: Donai, flags: int, entries: Sequence[tuple[str, Sequence[bytes]]]) -> None:
        """Give an identity these credentials (URI, chain with the leaf first) of one type, for the roles named.

        They take the place of what the identity has of that type for these roles; what it has for another
        role stays.  For the type VALEXP the URI is the expression and the chain is empty.

        Raises:
            PoolError: RECORD_MALFORMED, NOT_SUPPORTED_YET.
        """
        kind, roles = flags & records.TYPE_MASK, flags & records.ROLE_MASK
        new = [credentials.local_value(flags, uri, chain) for uri, chain in entries]
        if kind == records.VALEXP and len(new) > 1:
            raise records.malformed("an identity has one validation expression for a role")
        key = str(donai).encode()

        def work(view: View) -> None:
            kept = without(view.values(Name.LOCALID, key), records.TYPE_MASK, kind, roles)
            view.replace(Name.LOCALID, key, [*kept, *new])

        self._write(work)

    def localid_del(self, donai: Donai, flags: int | None = None) -> int:
        """Remove all of an identity, or what it has of a type and (if named) for roles; return how many records."""
        return self._delete(Name.LOCALID, str(donai).encode(), records.TYPE_MASK, flags)

    def credentials(self, donai: Donai, side: Side) -> list[Credential]:
        """Return what an identity can show in a role: of each kind of key the first X.509 record.

        Raises:
            PoolError: RECORD_MALFORMED, there is nothing, and malformed records may be why; LOCALID_UNKNOWN,
                its validation expression is 0; NOT_SUPPORTED_YET, it has an expression other than 0 and 1.
        """
        found = self._credentials.get((str(donai), side))
        if found is None:
            found = self._load_credentials(donai, side)
            if found:  # names come from remotes: what is not there must not fill memory
                self._credentials[str(donai), side] = found
        return list(found)

    def _load_credentials(self, donai: Donai, side: Side) -> tuple[Credential, ...]:
        entry = self.localid_entry(donai)
        bad = list(entry.bad)
        found: dict[KeyKind, Credential] = {}
        for record in entry.good:
            if not record.flags & records.ROLE_OF[side]:
                continue
            if record.type == records.VALEXP:
                credentials.check_expression(str(donai), record.uri)
            elif record.type == records.X509 and not record.flags & records.LOCAL_NO_PKCS11:
                try:
                    usable = credentials.credential(record)
                except PoolError as error:
                    bad.append(located(error, Name.LOCALID, entry.key))
                else:
                    found.setdefault(usable.key_kind, usable)
        for wrong in bad:
            self._report(wrong)
        if bad and not found:
            raise bad[0]
        return tuple(found.values())

    # --- disclose -------------------------------------------------------------------------------------

    def disclose_entry(self, selector: Donai) -> Entry[str]:
        """Return what a selector itself discloses, without a walk."""
        key = str(selector).encode()
        values = self._environment.read(lambda view: view.values(Name.DISCLOSE, key))
        return read_entry(Name.DISCLOSE, key, values, records.decode_disclosure_untrusted)

    def disclose_get(self, selector: Donai) -> list[str]:
        """Return the well-formed identities of a selector, and report the others."""
        return self._reported(self.disclose_entry(selector))

    def disclose_list(self) -> list[Entry[str]]:
        """Return all selectors and what they disclose, by selector."""
        return self._listed(Name.DISCLOSE, records.decode_disclosure_untrusted)

    def disclose_set(self, selector: Donai, identities: Sequence[Donai]) -> None:
        """Disclose these identities, in this order, to remotes that the selector matches first.

        Raises:
            PoolError: LOCALID_UNKNOWN, one is no key of the localid database.
        """
        texts = list(dict.fromkeys(str(donai) for donai in identities))

        def work(view: View) -> None:
            for text in texts:
                if not view.has(Name.LOCALID, text.encode()):
                    raise PoolError(Code.LOCALID_UNKNOWN, text)
            view.replace(Name.DISCLOSE, str(selector).encode(), [text.encode() for text in texts])

        self._write(work)

    def disclose_add(self, selector: Donai, localid: Donai, *, first: bool, move: bool) -> bool:
        """Disclose one more identity to remotes that the selector matches first, in front or at the end.

        One that is disclosed already stays where it is, unless it is to ``move``.  Return whether anything changed.

        Raises:
            PoolError: LOCALID_UNKNOWN, it is no key of the localid database.
        """
        key, value = str(selector).encode(), str(localid).encode()

        def work(view: View) -> bool:
            if not view.has(Name.LOCALID, value):
                raise PoolError(Code.LOCALID_UNKNOWN, str(localid))
            old = view.values(Name.DISCLOSE, key)
            if value in old and not move:
                return False
            others = [one for one in old if one != value]
            new = [value, *others] if first else [*others, value]
            if new == old:
                return False
            view.replace(Name.DISCLOSE, key, new)
            return True

        return self._write(work)

    def disclose_del(self, selector: Donai) -> int:
        """Remove a selector; return how many identities it disclosed."""
        return self._delete(Name.DISCLOSE, str(selector).encode(), 0, None)

    def disclosure(self, remote: Donai) -> tuple[str, list[str]]:
        """Return the first selector that matches and has records, and the identities it discloses.

        Identities that have gone from the localid database are left out.  '' and nothing: no selector.
        """

        def work(view: View) -> tuple[bytes, list[bytes], set[bytes]]:
            for selector in generalise(remote):
                if values := view.values(Name.DISCLOSE, selector.encode()):
                    return selector.encode(), values, {value for value in values if view.has(Name.LOCALID, value)}
            return b"", [], set()

        key, values, known = self._environment.read(work)
        entry = read_entry(Name.DISCLOSE, key, values, records.decode_disclosure_untrusted)
        return key.decode(), [text for text in self._reported(entry) if text.encode() in known]

    def disclosed(self, remote: Donai) -> list[str]:
        """Return the local identities a remote may see, most preferred first."""
        return self.disclosure(remote)[1]

    # --- trust ----------------------------------------------------------------------------------------

    def trust_entry(self, key: bytes) -> Entry[TrustRecord]:
        """Return the records of a key identifier."""
        values = self._environment.read(lambda view: view.values(Name.TRUST, key))
        return read_entry(Name.TRUST, key, values, records.decode_trust_untrusted)

    def trust_get(self, key: bytes) -> list[TrustRecord]:
        """Return the well-formed records of a key identifier, and report the others."""
        return self._reported(self.trust_entry(key))

    def trust_list(self) -> list[Entry[TrustRecord]]:
        """Return all records, by key identifier."""
        return self._listed(Name.TRUST, records.decode_trust_untrusted)

    def trust_set(self, flags: int, valexp: str, ders: Sequence[bytes], key: bytes | None = None) -> list[bytes]:
        """Trust these anchors in the roles named; return their keys.

        An anchor is filed under its own key identifier unless ``key`` is given, and takes the place of the
        anchors that this key has for these roles.

        Raises:
            PoolError: RECORD_MALFORMED, NOT_SUPPORTED_YET.
        """
        new: dict[bytes, list[bytes]] = {}
        for der in ders:
            own, value = credentials.trust_value(flags, valexp, der)
            new.setdefault(own if key is None else key, []).append(value)

        def work(view: View) -> None:
            for name, values in new.items():
                old = view.values(Name.TRUST, name)
                kept = without(old, records.TRUST_CLASS_MASK, records.X509, flags & records.ROLE_MASK)
                view.replace(Name.TRUST, name, [*values, *kept])  # revocations stand behind anchors

        self._write(work)
        return list(new)

    def trust_del(self, key: bytes, flags: int | None = None) -> int:
        """Remove all of a key, or what it has of a kind and (if named) for roles; return how many records."""
        return self._delete(Name.TRUST, key, records.TRUST_CLASS_MASK, flags)

    def anchors(self) -> list[Anchor]:
        """Return the anchors in force; pins, revocations and expressions other than 1 are none."""
        if self._anchors is None:
            sides: dict[bytes, int] = {}
            for entry in self.trust_list():
                self._reported(entry)
                for record in entry.good:
                    try:
                        side_bits = credentials.anchor_sides(record)
                    except PoolError as error:
                        self._report(located(error, Name.TRUST, entry.key))
                        continue
                    if side_bits:
                        sides[record.data] = sides.get(record.data, 0) | side_bits
            self._anchors = tuple(Anchor(bits, der) for der, bits in sides.items())
        return list(self._anchors)

    # --- common ---------------------------------------------------------------------------------------

    def _delete(self, name: Name, key: bytes, mask: int, flags: int | None) -> int:
        def work(view: View) -> int:
            old = view.values(name, key)
            kept: list[bytes] = []
            if flags is not None:
                kept = without(old, mask, flags & mask, flags & records.ROLE_MASK)
            view.replace(name, key, kept)
            return len(old) - len(kept)

        return self._write(work)

    def _listed(self, name: Name, decode: Callable[[bytes], R]) -> list[Entry[R]]:
        found = self._environment.read(lambda view: sorted(view.items(name)))
        return [read_entry(name, key, values, decode) for key, values in found]

    def _reported(self, entry: Entry[R]) -> list[R]:
        for error in entry.bad:
            self._report(error)
        return list(entry.good)


def _count(view: View, key: bytes) -> int:
    values = view.values(Name.GENERATION, key)
    return int(_COUNT.unpack(values[0])[0]) if values and len(values[0]) == _COUNT.size else 1
