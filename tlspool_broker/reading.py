"""What sessions ask of the databases, and what is remembered of the answers.

Sessions ask these things at every handshake, so an answer is a dictionary look-up from the second time on.  What
is remembered is bounded: by the databases themselves, or, where names come from outside, by a number.

``Reading`` answers from whatever ``read`` lets it see; ``Databases`` is one of the present, ``Past`` of a
generation that is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from tlspool_broker import credentials, records
from tlspool_broker.credentials import Anchor, Credential
from tlspool_broker.entries import Name, located, read_entry
from tlspool_broker.history import Place, Values
from tlspool_broker.trustdata import Pin, Revocations
from tlspool_broker.trustindex import TrustIndex
from tlspool_common.errors import PoolError
from tlspool_common.identity import Donai, generalise
from tlspool_common.messages import KeyKind, Side

_REMOTES = 4096
"""Remotes whose disclosure is remembered; applications name them."""

T = TypeVar("T")
R = TypeVar("R")
Report = Callable[[PoolError], None]


class Source(Protocol):
    """One state of the databases."""

    def values(self, name: Name, key: bytes) -> list[bytes]:
        """Return the records of a key in their order."""

    def has(self, name: Name, key: bytes) -> bool:
        """Tell whether a key has records."""

    def items(self, name: Name) -> Iterable[tuple[bytes, list[bytes]]]:
        """Yield every key with its records."""


class Read(Protocol):
    """Runs a function on one state of the databases."""

    def __call__(self, work: Callable[[Source], T], /) -> T:
        """Return what the function returns."""


class Reading:
    """Answers of one state of the databases.  Each method may raise PoolError DATABASE."""

    def __init__(self, read: Read, report: Report) -> None:
        self._read = read
        self._report = report
        self._credentials: dict[tuple[str, Side], tuple[Credential, ...]] = {}
        self._expressions: dict[tuple[str, Side], str] = {}
        self._disclosures: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {}
        self._trust: TrustIndex | None = None
        self._policies: dict[str, str] | None = None
        self._judged: dict[Side, set[bytes]] | None = None

    def forget(self, changes: Mapping[Place, tuple[Values, Values]] | None = None) -> None:
        """Remember nothing that these changes make wrong; None: nothing at all."""
        if changes is None:
            self._credentials.clear()
            self._expressions.clear()
            self._disclosures.clear()
            self._trust = self._policies = self._judged = None
            return
        for (name, key), (_, after) in changes.items():
            if name is Name.TRUST:
                if self._trust is not None:
                    self._trust.update(key, after)
                continue
            if name is Name.POLICY:
                self._policies = None
                continue
            self._disclosures.clear()  # which depend on the identities that there are
            if name is Name.LOCALID:
                if self._judged is not None:
                    _note_judged(self._judged, key, after)
                for side in Side:
                    self._credentials.pop((key.decode("utf-8", "replace"), side), None)
                    self._expressions.pop((key.decode("utf-8", "replace"), side), None)

    # --- who we are -----------------------------------------------------------------------------------

    def credentials(self, donai: Donai, side: Side) -> list[Credential]:
        """Return what an identity can show in a role: of each kind of key the first X.509 record.

        Raises:
            PoolError: RECORD_MALFORMED, there is nothing, and malformed records may be why; LOCALID_UNKNOWN,
                its validation expression is 0.
        """
        found = self._credentials.get((str(donai), side))
        if found is None:
            found = self._load_credentials(donai, side)
            if found:  # names come from remotes: what is not there must not fill memory
                self._credentials[str(donai), side] = found
        return list(found)

    def _load_credentials(self, donai: Donai, side: Side) -> tuple[Credential, ...]:
        entry = read_entry(Name.LOCALID, *self._localid(donai), records.decode_local_untrusted)
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

    def expression(self, donai: Donai, side: Side) -> str:
        """Return the validation expression of an identity in a role; '' for none.

        Raises:
            PoolError: RECORD_MALFORMED, it is none.
        """
        known = self._expressions.get((str(donai), side))
        if known is not None:
            return known
        key, values = self._localid(donai)
        wanted = records.ROLE_OF[side]
        texts = (records.decode_local_untrusted(one).uri for one in values if records.is_condition(one, wanted))
        found = self._conjoined(Name.LOCALID, key, texts)
        if values:
            self._expressions[str(donai), side] = found
        return found

    def judged_identities(self, side: Side) -> bool:
        """Whether any identity has an expression other than 1 in a role, or a crypto policy of its own."""
        if self._judged is None:
            found: dict[Side, set[bytes]] = {one: set() for one in Side}
            for key, values in self._read(lambda source: list(source.items(Name.LOCALID))):
                _note_judged(found, key, values)
            self._judged = found
        return bool(self._judged[side]) or any(key.startswith("localid:") for key in self._assigned())

    def _conjoined(self, name: Name, key: bytes, texts: Iterable[str]) -> str:
        # What does not parse is not left out: it would let in whom it is to keep out.
        found = []
        try:
            for text in texts:
                records.check_valexp(text)
                found.append(text)
        except PoolError as error:
            wrong = located(error, name, key)
            self._report(wrong)
            raise wrong from None
        return records.conjoined(found)

    def _localid(self, donai: Donai) -> tuple[bytes, list[bytes]]:
        key = str(donai).encode()
        return key, self._read(lambda source: source.values(Name.LOCALID, key))

    # --- whom we tell ---------------------------------------------------------------------------------

    def disclosure(self, remote: Donai) -> tuple[str, list[str]]:
        """Return the first selector that matches and has records, and the identities it discloses.

        Identities that have gone from the localid database are left out.  '' and nothing: no selector.
        """
        selector, identities, _ = self._disclosure(remote)
        return selector, list(identities)

    def disclosed(self, remote: Donai) -> list[str]:
        """Return the local identities a remote may see, most preferred first."""
        return list(self._disclosure(remote)[1])

    def disclosure_expression(self, remote: Donai) -> str:
        """Return the validation expression of the first selector that matches and has records; '' for none.

        Raises:
            PoolError: RECORD_MALFORMED, it is none.
        """
        selector, _, expressions = self._disclosure(remote)
        return self._conjoined(Name.DISCLOSE, selector.encode(), expressions)

    def _disclosure(self, remote: Donai) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        known = self._disclosures.get(str(remote))
        if known is not None:
            return known

        def work(source: Source) -> tuple[bytes, list[bytes], set[bytes]]:
            for selector in generalise(remote):
                if values := source.values(Name.DISCLOSE, selector.encode()):
                    has = {value for value in values if source.has(Name.LOCALID, value)}
                    return selector.encode(), values, has
            return b"", [], set()

        key, values, has = self._read(work)
        entry = read_entry(Name.DISCLOSE, key, values, records.decode_disclosure_untrusted)
        for error in entry.bad:
            self._report(error)
        identities = tuple(one.identity for one in entry.good if one.identity and one.identity.encode() in has)
        # Also what does not parse: disclosure_expression is to find out, and let nobody in by it.
        expressions = tuple(value[1:].decode("ascii", "replace") for value in values if value.startswith(b"\0"))
        found = key.decode(), identities, expressions
        if len(self._disclosures) >= _REMOTES:
            self._disclosures.clear()
        self._disclosures[str(remote)] = found
        return found

    # --- whom we believe ------------------------------------------------------------------------------

    def anchors(self) -> list[Anchor]:
        """Return the trust anchors, those with expression 0 too."""
        return list(self._trusted().anchors)

    def needs_judging(self, side: Side) -> bool:
        """Whether more is to be looked at than which anchor a chain of a local client or server ends at."""
        return self._trusted().needs_judging(side)

    def pins(self, remote: str) -> list[Pin]:
        """Return the pins of a remote identity, and behind them those for any remote, whose ``remote`` is ''."""
        return self._trusted().pins(remote)

    def revocations(self, issuer_key: bytes) -> Revocations | None:
        """Return what an issuer, by its key identifier, has revoked; None when nobody has told."""
        return self._trusted().revocations(issuer_key)

    def _trusted(self) -> TrustIndex:
        if self._trust is None:
            index = TrustIndex(self._report)
            for key, values in self._read(lambda source: sorted(source.items(Name.TRUST))):
                index.update(key, values)
            self._trust = index
        return self._trust

    # --- how strictly ---------------------------------------------------------------------------------

    def crypto_policy(self, service: str, localid: str) -> str:
        """Return the name of the crypto policy assigned to an identity, else to a service, else to the host; or ''."""
        known = self._assigned()
        return known.get(f"localid:{localid}") or known.get(f"service:{service}") or known.get("host") or ""

    def _assigned(self) -> dict[str, str]:
        known = self._policies
        if known is None:
            known = {}
            for key, values in self._read(lambda source: list(source.items(Name.POLICY))):
                entry = read_entry(Name.POLICY, key, values, records.decode_policy_untrusted)
                for error in entry.bad:
                    self._report(error)
                for name in entry.good[:1]:
                    known[key.decode("utf-8", "replace")] = name
            self._policies = known
        return known


def _note_judged(found: dict[Side, set[bytes]], key: bytes, values: Iterable[bytes]) -> None:
    """Note for which roles an identity has an expression other than 1."""
    for side, keys in found.items():
        wanted = records.ROLE_OF[side]
        judged = any(records.is_condition(one, wanted) and one[4:] != b"1\0" for one in values)
        (keys.add if judged else keys.discard)(key)
