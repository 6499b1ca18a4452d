"""Which record is sent when: those of one session in their order, those of others beside them.

    spool --Load--> held --send--> flying --acknowledged--> Remove
                     ^                |
                     +--- not taken --+

While servers take records there are so many in flight.  When all servers are dead there is one at a time, after pauses
that grow: a different one each time, as it may be the record that they do not like.  The first that is taken is the
end of that.  A record that is not taken while others are waits for longer and longer, and with it those behind it of
the same session; no other does.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from tlspool_radius import bounds
from tlspool_radius.asking import Asker, Outcome
from tlspool_radius.events import Arm, Clock, Load, Now, Remove, Timer, Waiting
from tlspool_radius.packets import Packet, Request, record
from tlspool_radius.servers import Purpose, Server


@dataclass(slots=True)
class _Trouble:
    """A session whose first waiting record was not taken; ``by_outage``: as nothing was."""

    failures: int = 0
    until_ms: float = 0.0
    by_outage: bool = False


class Sender:
    """What was read from the spool and is not acknowledged yet.

    ``sent``: records that servers have acknowledged since the start.  ``trouble``: why the last one was not.
    """

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.sent = 0
        self.unliked = 0
        self.trouble = ""
        self._held: dict[int, Waiting] = {}
        self._order: list[int] = []
        self._flying: dict[str, str] = {}
        self._spool = 0
        self._troubles: dict[str, _Trouble] = {}
        self._loaded_to = 0
        self._has_more = False
        self._is_loading = False
        self._is_filling = False
        self._failures = 0
        self._quiet_until_ms = 0.0

    def __len__(self) -> int:
        return len(self._flying)

    def begin(self, now: Now) -> None:
        """A spool is open: what was read from an earlier one does not count."""
        self._spool += 1
        self._held.clear()
        self._order.clear()
        self._loaded_to = 0
        self._is_loading = False
        self.grown(now)

    def grown(self, now: Now) -> None:
        """There are records in the spool that were not there before."""
        self._has_more = True
        self.go_on(now)

    def loaded(self, records: tuple[Waiting, ...], more: bool, now: Now) -> None:
        """Take records from the spool."""
        self._is_loading = False
        self._has_more = more
        for one in records:
            if one.number > self._loaded_to:
                self._loaded_to = one.number
                if self._flying.get(one.message.acct_id) == one.record_id:
                    continue
                self._held[one.number] = one
                self._order.append(one.number)
        self.go_on(now)

    def lost(self) -> None:
        """The spool is not there: nothing more comes from it, and what was asked of it is not answered."""
        self._is_loading = self._has_more = False

    def failures_of(self, acct_id: str) -> int:
        """Return how often the first record of a session was not taken."""
        trouble = self._troubles.get(acct_id)
        return trouble.failures if trouble else 0

    def hurry(self, now: Now) -> None:
        """Try again now, whatever has failed."""
        self._failures, self._quiet_until_ms = 0, 0.0
        self._troubles.clear()
        self.go_on(now)

    def go_on(self, now: Now) -> None:
        """Send what may be sent now."""
        if self._is_filling:
            return  # called from within: the loop that runs already goes on
        self._is_filling = True
        try:
            self._fill_up(now)
        finally:
            self._is_filling = False

    def _fill_up(self, now: Now) -> None:
        ready = 0
        for number in [self._probe()] if self._failures else list(self._order):
            if len(self._flying) >= (1 if self._failures else bounds.FLYING) or now.ms < self._quiet_until_ms:
                break
            one = self._held.get(number)
            if one is not None and (self._failures or not self._is_held_up(one, now.ms)):
                ready += 1
                self._send(one, now)
        if self._has_more and not self._is_loading and ready < bounds.FLYING and len(self._held) < bounds.HELD:
            self._is_loading = True
            self._asker.out.append(Load(self._loaded_to, bounds.LOADED))

    def _probe(self) -> int:
        """Return the record that is tried while servers are down: one that was not yet, or not for longest."""
        firsts: dict[str, int] = {}
        for number in self._order:
            firsts.setdefault(self._held[number].message.acct_id, number)
        waits = {
            number: trouble.until_ms if (trouble := self._troubles.get(acct_id)) else 0.0
            for acct_id, number in firsts.items()
            if acct_id not in self._flying
        }
        return min(waits, key=waits.__getitem__, default=0)

    def _is_held_up(self, one: Waiting, now_ms: float) -> bool:
        acct_id = one.message.acct_id
        trouble = self._troubles.get(acct_id)
        return acct_id in self._flying or (trouble is not None and now_ms < trouble.until_ms)

    def _send(self, one: Waiting, now: Now) -> None:
        del self._held[one.number]
        self._order.pop(bisect.bisect_left(self._order, one.number))
        self._flying[one.message.acct_id] = one.record_id
        spool = self._spool

        def make(server: Server, identifier: int, then: Now) -> Request:
            delay_s = (then.wall_ms - one.message.at_ms) // 1000
            return record(one.message, server.secret, identifier, one.record_id, delay_s)

        def told(outcome: Outcome, then: Now) -> None:
            self._told(one, spool, outcome, then)

        patience_ms = self._asker.patience_ms(Purpose.ACCOUNT) + bounds.SLACK_MS
        self._asker.ask(Purpose.ACCOUNT, make, _acknowledged, patience_ms, told, now)

    def _told(self, one: Waiting, spool: int, outcome: Outcome, now: Now) -> None:
        acct_id = one.message.acct_id
        self._flying.pop(acct_id, None)
        if outcome.answer is not None:
            self.sent += 1
            if outcome.server is not None:
                outcome.server.counters.accepted += 1
            self._asker.out.append(Remove(one.record_id))
            self._troubles.pop(acct_id, None)
            if self._failures:
                self._is_back()
            self.go_on(now)
            return
        if spool != self._spool:
            self.begin(now)  # it is read again, if the spool that is open has it
            return
        # It comes back into its place: nothing of the same session was sent meanwhile.
        self._held[one.number] = one
        bisect.insort(self._order, one.number)
        self.trouble = outcome.detail
        trouble = self._troubles.setdefault(acct_id, _Trouble())
        wait_ms = bounds.RETRY_MS[min(trouble.failures, len(bounds.RETRY_MS) - 1)]
        trouble.failures += 1
        trouble.until_ms = now.ms + wait_ms
        trouble.by_outage = self._asker.is_down(Purpose.ACCOUNT)
        if not trouble.by_outage:
            self.unliked += 1
            self._wake(wait_ms)
        elif now.ms >= self._quiet_until_ms:
            pause_ms = bounds.DOWN_MS[min(self._failures, len(bounds.DOWN_MS) - 1)]
            self._failures += 1
            self._quiet_until_ms = now.ms + pause_ms
            self._wake(pause_ms)

    def _is_back(self) -> None:
        """A server takes records again: what was not taken when none did need not wait any more."""
        self._failures, self._quiet_until_ms = 0, 0.0
        for acct_id in [acct_id for acct_id, trouble in self._troubles.items() if trouble.by_outage]:
            del self._troubles[acct_id]

    def _wake(self, delay_ms: float) -> None:
        # A timer that is a little early would find nothing to do, and there is no other.
        self._asker.out.append(Arm(Timer(Clock.DRAIN), delay_ms + 1))


def _acknowledged(_answer: Packet) -> bool:
    return True
