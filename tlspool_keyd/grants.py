"""The ledger of used grants: who may use a grant, once, and until when.

The seal is checked elsewhere (tlspool_common.grants); here is what a good seal does not say.  A grant is
spent by its first use on the right worker's channel, whatever comes of that use: a refusal is no second try.
Presenting another worker's grant spends nothing, so that one worker cannot spoil another's handshakes.

Used ids are remembered until the grant has expired, in one set per second of expiry; a set is dropped as a
whole.  Nothing else has to be remembered: an expired grant is refused for being expired.
"""

from __future__ import annotations

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.grants import Grant

REMEMBERED = 1 << 19
"""Used grants that have not expired: 1700 signatures a second if each grant lived for GRANT_LIFE_S, 13000 at the
usual 40 s.  About 60 MB when full; beyond it nothing is signed, because nothing may be forgotten."""

_SLACK_MS = 1000


class Ledger:
    """Which grants are spent."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._limit = remembered
        self._spent: dict[int, set[bytes]] = {}
        self._count = 0
        self._pruned_s = 0

    def __len__(self) -> int:
        return self._count

    def spend(self, grant: Grant, worker_id: int, now_ms: float) -> None:
        """Spend a grant that came over this worker's channel.

        Raises:
            PoolError: GRANT_REFUSED, GRANT_EXPIRED, GRANT_USED.
        """
        self._prune(int(now_ms // 1000))
        if grant.worker_id != worker_id:
            raise PoolError(Code.GRANT_REFUSED, f"it was made for worker {grant.worker_id}")
        if now_ms >= grant.expires_ms:
            raise PoolError(Code.GRANT_EXPIRED, f"{(now_ms - grant.expires_ms) / 1000:.1f} s ago")
        if grant.expires_ms > now_ms + limits.GRANT_LIFE_S * 1000 + _SLACK_MS:
            raise PoolError(Code.GRANT_REFUSED, f"it would live longer than {limits.GRANT_LIFE_S} s")
        spent = self._spent.setdefault(grant.expires_ms // 1000, set())
        if grant.grant_id in spent:
            raise PoolError(Code.GRANT_USED)
        if self._count >= self._limit:
            raise PoolError(Code.GRANT_REFUSED, f"{self._limit} grants were used and have not expired yet")
        spent.add(grant.grant_id)
        self._count += 1

    def _prune(self, now_s: int) -> None:
        if now_s == self._pruned_s:
            return
        self._pruned_s = now_s
        for second in [second for second in self._spent if second < now_s]:
            self._count -= len(self._spent.pop(second))
