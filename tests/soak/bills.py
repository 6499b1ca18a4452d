"""Whether a RADIUS server's records say of each session of a soak that it began, that it ended, and what it moved.

Two records with one TLSPool-Record-Id are one that was sent twice.  Without those

* each Acct-Session-Id has one START and one STOP, in this order, and both are about one remote;
* each session that was set up, and that somebody told about, has them, and who was refused by RADIUS has none;
* octets are those of the load where the session came to its end.  Where it did not, or where its worker died (the
  pool knows only what that has told last), they are not more than it wanted to move.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from tests.fixtures.freeradius import Pairs
from tests.soak.app import Told
from tests.soak.trouble import Disturbance

REFUSED = frozenset({801, 802, 803, 804})
"""By RADIUS, before accounting begins."""

LOST = {"NAS-Error": "end worker", "NAS-Reboot": "end broker"}
"""Causes of an end with figures that may be too small, and what must have been done meanwhile."""

GRACE_S = 2.0
"""Behind what a session told, for its end to become known to the pool."""


class Bills:
    """Compares them."""

    def __init__(self, record: Sequence[Disturbance]) -> None:
        self._record = record
        self._told: dict[str, Told] = {}
        self.faults: list[str] = []
        self.figures: dict[str, object] = {}

    def note(self, told: Told) -> None:
        """Remember what came of a session."""
        self._told[told.user] = told

    def judge(self, records: Sequence[Pairs]) -> None:
        """Compare all of it with what the server was told."""
        once: dict[str, Pairs] = {}
        for one in records:
            once.setdefault(_one(one, "TLSPool-Record-Id"), one)
        by_id: dict[str, list[Pairs]] = defaultdict(list)
        for one in once.values():
            by_id[_one(one, "Acct-Session-Id")].append(one)
        causes: Counter[str] = Counter()
        ids: dict[str, str] = {}
        exact = 0
        for acct_id, found in by_id.items():
            users = {_one(one, "User-Name") for one in found}
            kinds = [kind for one in found if (kind := _one(one, "Acct-Status-Type")) != "Interim-Update"]
            if kinds != ["Start", "Stop"] or len(users) != 1:
                self._wrong(f"Acct-Session-Id {acct_id} has {kinds} about {users}", found)
                continue
            (user,) = users
            if ids.setdefault(user, acct_id) != acct_id:
                self._wrong(f"{user} has the sessions {ids[user]} and {acct_id}", found)
            causes[_one(found[-1], "Acct-Terminate-Cause")] += 1
            exact += self._compare(user, found[-1])
        for user, told in self._told.items():
            if told.set_up and user not in ids:
                self._wrong(f"no records of {told}", [])
            if told.code in REFUSED and user in ids:
                self._wrong(f"records of {told}, who was refused", by_id[ids[user]])
        self.figures = {
            "sessions": len(by_id),
            "records": len(once),
            "sent twice": len(records) - len(once),
            "octets compared and equal": exact,
            "nobody told about": len(ids.keys() - self._told.keys()),
            **{f"ended by {cause}": count for cause, count in sorted(causes.items())},
        }

    def _compare(self, user: str, stop: Pairs) -> bool:
        """Compare what one session has moved; return whether it had to be the same, and was."""
        told = self._told.get(user)
        if told is None:
            return False  # its application was killed, and with it what it would have told
        octets = [_octets(stop, direction) for direction in ("Input", "Output")]
        cause = _one(stop, "Acct-Terminate-Cause")
        if cause in LOST and not self._was_done(LOST[cause], told):
            self._wrong(f"{cause}, and nothing was done to cause it: {told}", [stop])
        wanted = [told.size_b, told.size_b + told.greeting_b]
        if told.outcome == "ok" and cause not in LOST:
            if octets != wanted:
                self._wrong(f"octets {octets} of {told}", [stop])
                return False
            return True
        if any(there > most for there, most in zip(octets, wanted, strict=True)):
            self._wrong(f"octets {octets}, which are too many, of {told}", [stop])
        return False

    def _was_done(self, what: str, told: Told) -> bool:
        return any(
            one.what == what and one.begun <= told.ended + GRACE_S and one.ended >= told.begun for one in self._record
        )

    def _wrong(self, text: str, records: Sequence[Pairs]) -> None:
        self.faults.append(f"accounting: {text}; {list(records)}")


def _one(record: Pairs, name: str) -> str:
    """Return the only value of an attribute; '' where there is none."""
    (value,) = record.get(name, [""])
    return value


def _octets(record: Pairs, direction: str) -> int:
    low, high = (int(_one(record, f"Acct-{direction}-{name}") or 0) for name in ("Octets", "Gigawords"))
    return high << 32 | low
