"""The spool against a model in lists: any sequence of records, removals, settlements and new openings."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fixtures.radius_process import account
from tlspool_common.errors import Code
from tlspool_common.messages import AccountSettled
from tlspool_common.messages_radius import Status
from tlspool_radius.events import Keep
from tlspool_radius.spool import Spool

MOST = 6
ids = st.sampled_from(["s1", "s2", "s3", "i1"])
times = st.integers(1, 9)
octets = st.integers(0, 3)


def is_item(acct_id):
    return acct_id.startswith("i")


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.spool = Spool(self.directory, MOST)
        self.records = []  # (number, id, status, octets, time)
        self.open = {}  # id: (status, octets, time)
        self.closed = set()
        self.named = set()
        self.last = 0

    def teardown(self):
        self.spool.close()
        shutil.rmtree(self.directory)

    def record(self, acct_id, status, count, at_ms):
        self.last += 1
        self.records.append((self.last, acct_id, status, count, at_ms))

    def say(self, status, acct_id, count, at_ms):
        attributes = ("TLSPool-Kind=mail",) if is_item(acct_id) else ("User-Name=carol",)
        message = account(status, acct_id, at_ms, from_remote_b=count, attributes=attributes)
        (kept,) = self.spool.do([Keep(1, message, 0)])
        return kept.code

    @rule(acct_id=ids, count=octets, at_ms=times)
    def start(self, acct_id, count, at_ms):
        code = self.say(Status.START, acct_id, count, at_ms)
        self.named.add(acct_id)
        if acct_id in self.closed or acct_id in self.open:
            assert code == 0
        elif len(self.records) >= MOST:
            assert code == Code.ACCOUNT_SPOOL_FULL
        else:
            assert code == 0
            self.open[acct_id] = (Status.START, count, at_ms)
            self.record(acct_id, Status.START, count, at_ms)

    @rule(acct_id=ids, count=octets, at_ms=times)
    def update(self, acct_id, count, at_ms):
        code = self.say(Status.INTERIM, acct_id, count, at_ms)
        self.named.add(acct_id)
        if acct_id in self.closed:
            assert code == 0
            return
        if acct_id in self.open:
            status, _, known_ms = self.open[acct_id]
            if at_ms < known_ms or (at_ms == known_ms and status is Status.INTERIM):
                assert code == 0
                return
            self.open[acct_id] = (Status.INTERIM, count, at_ms)
        own = [one for one in self.records if one[1] == acct_id]
        if own and own[-1][2] is Status.INTERIM:
            self.records.remove(own[-1])
        if len(self.records) >= MOST:
            assert code == Code.ACCOUNT_SPOOL_FULL
        else:
            assert code == 0
            self.record(acct_id, Status.INTERIM, count, at_ms)

    @rule(acct_id=ids, count=octets, at_ms=times)
    def stop(self, acct_id, count, at_ms):
        code = self.say(Status.STOP, acct_id, count, at_ms)
        if acct_id in self.closed:
            assert code == 0
            self.named.add(acct_id)
        elif len(self.records) >= MOST and acct_id not in self.open:
            assert code == Code.ACCOUNT_SPOOL_FULL
            self.named.add(acct_id)
        else:
            assert code == 0
            self.open.pop(acct_id, None)
            self.closed.add(acct_id)
            self.named.discard(acct_id)
            self.record(acct_id, Status.STOP, count, at_ms)

    @rule()
    def settle(self):
        self.spool.do([Keep(0, AccountSettled(at_ms=5), 0)])
        for acct_id in sorted(set(self.open) - self.named):
            if not is_item(acct_id):
                _, count, at_ms = self.open.pop(acct_id)
                self.record(acct_id, Status.STOP, count, at_ms)

    @rule(place=st.integers(0, 9))
    def remove(self, place):
        if self.records:
            number = self.records.pop(place % len(self.records))[0]
            self.spool.do([], [f"{self.spool.id}-{number}"])

    @rule()
    def forget(self):
        self.spool.tidy(10**12)
        self.closed.clear()

    @rule()
    def reopen(self):
        self.spool.close()
        self.spool = Spool(self.directory, MOST)
        self.named.clear()

    @invariant()
    def holds_what_the_model_holds(self):
        found = [
            (one.number, one.message.acct_id, one.message.status, one.message.from_remote_b, one.message.at_ms)
            for one in self.spool.load(0, 1000)
        ]
        assert found == self.records
        figures = self.spool.figures()
        assert (figures.waiting, figures.open) == (len(self.records), len(self.open))
        assert figures.oldest_ms == (self.records[0][4] if self.records else 0)


SpoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpool = SpoolMachine.TestCase
