"""The databases in their Berkeley DB environment: who we are, whom we tell, whom we believe, how strictly.

The broker is the only process that opens the environment, once, after any fork; it is the only writer.

* Reads are snapshots: they see one committed state.  environment.py is about transactions and recovery.
* Each change is one short transaction over all it touches.  A transaction that changes something also counts up
  the *generation*, which is kept in a small database of its own and so survives a restart, and writes down in
  another one what was changed, by whom and why (history.py).  All of it happens, or nothing.
* What earlier generations had can be seen (``at``, ``diff``) and brought back (``rollback``).
* A record that does not parse is reported (RECORD_MALFORMED with database, key and reason) and left out;
  the records beside it count as if it were not there.

Record formats are in records.py and trustdata.py, what can be changed in edit.py, what sessions ask in
reading.py.  Duplicates are unsorted, as their order has a meaning: first is preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tlspool_broker import history, ledger, records
from tlspool_broker.edit import Edit
from tlspool_broker.entries import Entry, Name, read_entry
from tlspool_broker.environment import Environment, View
from tlspool_broker.history import By, Change, Place, Values
from tlspool_broker.past import Past
from tlspool_broker.reading import Reading, Report
from tlspool_broker.records import Disclosed, LocalRecord, TrustRecord
from tlspool_broker.trustindex import TrustIndex
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai
from tlspool_common.messages import Side
from tlspool_common.settings import Settings

GENERATION_FILE, HISTORY_FILE, POLICY_FILE = "generation.db", "history.db", "policy.db"
"""Ours alone; earlier pools do not know them and need not."""

_NOTHING = By()

T = TypeVar("T")
R = TypeVar("R")


def now_s() -> int:
    """Return the time that records have: seconds since 1970."""
    return int(datetime.now(UTC).timestamp())


class Databases(Reading):
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
        *,
        history_keep: int = limits.HISTORY_KEEP,
        now_s: Callable[[], int] = now_s,
    ) -> None:
        """Open, or create; file names are relative to ``directory``.  ``report`` hears of malformed records.

        Raises:
            PoolError: DATABASE, SETTING_INVALID.
        """
        files = {
            Name.LOCALID: localid,
            Name.DISCLOSE: disclose,
            Name.TRUST: trust,
            Name.POLICY: POLICY_FILE,
            Name.GENERATION: GENERATION_FILE,
            Name.HISTORY: HISTORY_FILE,
        }
        self._environment = Environment(directory, files)
        super().__init__(self._read_now, report)
        self._history_keep = history_keep
        self._now_s = now_s
        self._generations: tuple[int, int] | None = None
        self._opened = 0
        self._pasts: dict[int, Past] = {}
        self._environment.open()
        self._counted()  # so that a damaged file shows at start

    @classmethod
    def from_settings(cls, settings: Settings, report: Report = lambda _error: None) -> Databases:
        """Open those that the settings name."""
        return cls(
            settings.dbenv_dir,
            settings.db_localid,
            settings.db_disclose,
            settings.db_trust,
            report,
            history_keep=settings.history_keep,
        )

    def close(self) -> None:
        """Close the environment; the next use opens it again."""
        with suppress(PoolError):  # an environment that is broken is recovered when it is opened again
            self._environment.sync()
        self._environment.close()

    def sync(self) -> None:
        """Make changes durable that were made with ``durable=False``; may be called in any thread."""
        self._environment.sync()

    @property
    def generation(self) -> int:
        """Number of the current state of all databases; 1 before the first change, and one more with each."""
        return self._counted()[0]

    @property
    def trust_generation(self) -> int:
        """The generation that last changed a trust anchor: what workers have to be told about."""
        return self._counted()[1]

    def _counted(self) -> tuple[int, int]:
        if self._generations is None:
            self._generations = self._read_now(_counts)
        return self._generations

    # --- transactions ---------------------------------------------------------------------------------

    def _read_now(self, work: Callable[[View], T]) -> T:
        result = self._environment.read(work)
        self._look_for_recovery()
        return result

    def _look_for_recovery(self) -> None:
        """Remember nothing of before a recovery: it shows that another process had opened the environment."""
        if self._opened != self._environment.opened:
            self._opened = self._environment.opened
            self._forget_all()

    def _forget_all(self) -> None:
        self.forget()
        self._generations = None
        self._pasts.clear()

    def change(
        self, work: Callable[[Edit], T], by: By = _NOTHING, *, if_generation: int | None = None, durable: bool = True
    ) -> T:
        """Run ``work`` in one transaction, which makes at most one generation.

        Not ``durable``: the change is safe if this process is killed, and ``sync`` must follow.

        Raises:
            PoolError: GENERATION_OTHER, the current one is not ``if_generation``; or what ``work`` raises.
        """
        counted: tuple[int, int] | None = None
        changes: dict[Place, tuple[Values, Values]] = {}

        def transaction(view: View) -> T:
            nonlocal counted, changes
            generation = ledger.count(view, ledger.GENERATION)
            if if_generation not in (None, generation):
                raise PoolError(Code.GENERATION_OTHER, f"it is {generation}, not {if_generation}")
            result = work(Edit(view, self._trusted))
            ledger.close_generation(view, by, self._now_s(), self._history_keep)
            counted, changes = _counts(view), view.changes
            return result

        try:
            result = self._environment.write(transaction, durable)
        except PoolError as error:
            if error.code is Code.DATABASE:
                self._forget_all()  # it is unknown whether the commit came through
            raise
        except BaseException:
            self._forget_all()
            raise
        self._look_for_recovery()
        self._generations = counted
        if changes:
            self.forget(changes)
        return result

    # --- history --------------------------------------------------------------------------------------

    @property
    def oldest(self) -> int:
        """The oldest generation that can be seen and brought back."""
        return self._read_now(ledger.oldest) - 1

    def history(self, first: int, last: int) -> list[Change]:
        """Return what made these generations, oldest first; nothing made generation 1.

        Raises:
            PoolError: GENERATION_UNKNOWN, one of them is none, or forgotten.
        """
        return self._read_now(lambda view: ledger.changes(view, first, last))

    def diff(self, old: int, new: int) -> dict[Place, tuple[Values, Values]]:
        """Return by key the records in one generation and in another, where these differ.

        Raises:
            PoolError: GENERATION_UNKNOWN.
        """
        first, last = min(old, new), max(old, new)
        found = self._read_now(lambda view: history.net(ledger.since(view, first, last)))
        return found if old <= new else {place: (after, before) for place, (before, after) in found.items()}

    def at(self, generation: int) -> Past:
        """Return the databases as they were in a generation; changes to come make no difference to it.

        Raises:
            PoolError: GENERATION_UNKNOWN.
        """
        past = self._pasts.get(generation)
        if past is None:
            past = Past(self, generation, self._read_now, self._report)
            past.catch_up()
            if len(self._pasts) >= limits.PASTS:
                self._pasts.pop(next(iter(self._pasts)))
            self._pasts[generation] = past
        return past

    def trust_index(self) -> TrustIndex:
        """Return the current trust database, which is not to be changed."""
        return self._trusted()

    # --- localid --------------------------------------------------------------------------------------

    def localid_entry(self, donai: Donai) -> Entry[LocalRecord]:
        """Return the records of an identity."""
        return self._entry(Name.LOCALID, str(donai).encode(), records.decode_local_untrusted)

    def localid_list(self) -> list[Entry[LocalRecord]]:
        """Return the records of all identities, by identity."""
        return self._listed(Name.LOCALID, records.decode_local_untrusted)

    # --- disclose -------------------------------------------------------------------------------------

    def disclose_entry(self, selector: Donai) -> Entry[Disclosed]:
        """Return what a selector itself says, without a walk."""
        return self._entry(Name.DISCLOSE, str(selector).encode(), records.decode_disclosure_untrusted)

    def disclose_list(self) -> list[Entry[Disclosed]]:
        """Return all selectors and what they disclose, by selector."""
        return self._listed(Name.DISCLOSE, records.decode_disclosure_untrusted)

    def disclose_add(self, selector: Donai, localid: Donai, *, first: bool, move: bool) -> bool:
        """As Edit has it, for the choice of an application.  It is safe if this process is killed.

        Raises:
            PoolError: LOCALID_UNKNOWN, it is no key of the localid database.
        """
        by = By(command="disclose.add", reason="an application's choice")
        return self.change(lambda edit: edit.disclose_add(selector, localid, first=first, move=move), by, durable=False)

    # --- trust ----------------------------------------------------------------------------------------

    def trust_entry(self, key: bytes) -> Entry[TrustRecord]:
        """Return the records of a key identifier."""
        return self._entry(Name.TRUST, key, records.decode_trust_untrusted)

    def trust_list(self) -> list[Entry[TrustRecord]]:
        """Return all records, by key identifier."""
        return self._listed(Name.TRUST, records.decode_trust_untrusted)

    def pin_add(self, remote: str, sha256: bytes, author: str, reason: str, side: Side) -> None:
        """Pin a certificate for a remote in our role, by first use; safe as disclose_add is.

        Raises:
            PoolError: PIN_UNMATCHED, another certificate has been pinned meanwhile; PINS_FULL.
        """
        now_s = self._now_s()

        def work(edit: Edit) -> None:
            edit.pin_first(remote, sha256, side, now_s)

        self.change(work, By(command=ledger.FIRST_USE, author=author, reason=reason), durable=False)

    # --- policy ---------------------------------------------------------------------------------------

    def policy_list(self) -> list[Entry[str]]:
        """Return all assignments of crypto policies, by what they are assigned to."""
        return self._listed(Name.POLICY, records.decode_policy_untrusted)

    # --- common ---------------------------------------------------------------------------------------

    def _entry(self, name: Name, key: bytes, decode: Callable[[bytes], R]) -> Entry[R]:
        return read_entry(name, key, self._read_now(lambda view: view.values(name, key)), decode)

    def _listed(self, name: Name, decode: Callable[[bytes], R]) -> list[Entry[R]]:
        found: Iterable[tuple[bytes, list[bytes]]] = self._read_now(lambda view: sorted(view.items(name)))
        return [read_entry(name, key, values, decode) for key, values in found]


def _counts(view: View) -> tuple[int, int]:
    return ledger.count(view, ledger.GENERATION), ledger.count(view, ledger.TRUST)
