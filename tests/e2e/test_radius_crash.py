"""The helper is killed while it takes records and sends them: nothing that it has acknowledged is lost.

Each round kills it at a random moment.  The broker of the test says again what it has heard no answer to, as the pool's
does, names the sessions that are open, and says that these are all.  In the end everything is sent; then

* each record that was acknowledged has come, and each Acct-Session-Id has one START and one STOP, with one Record-Id;
* those of one session have come in their order, the first time that they came.
"""

import os
import random
import time

import pytest

from tests.fixtures import radius_codec as codec
from tests.fixtures.radius_process import ChannelClosed, Helper, Status, account
from tests.fixtures.radius_server import Server
from tlspool_common.messages import AccountSettled

pytestmark = pytest.mark.usefixtures("no_leaks")

ROUNDS = int(os.environ.get("TLSPOOL_CRASH_ROUNDS", "5"))


class Broker:
    """Says records, and says again what was not acknowledged."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.last = 0
        self.open: set[str] = set()
        self.unheard: dict[tuple[str, Status], object] = {}
        self.acknowledged: set[tuple[str, Status]] = set()

    def next(self):
        """Choose what happens next."""
        if not self.open or self.chance.random() < 0.5:
            self.last += 1
            acct_id = f"s{self.last}"
            self.open.add(acct_id)
            return account(Status.START, acct_id)
        acct_id = self.chance.choice(sorted(self.open))
        if self.chance.random() < 0.3:
            return account(Status.INTERIM, acct_id, from_remote_b=self.chance.randrange(2**40))
        self.open.discard(acct_id)
        return account(Status.STOP, acct_id, cause=1)

    def run(self, helper, until_s):
        """Say records until the helper is killed."""
        sent = {}
        try:
            for message in list(self.unheard.values()):
                sent[helper.send(message)] = message
            started = {message.acct_id for message in self.unheard.values()}
            for acct_id in self.open - started:
                sent[helper.send(account(Status.START, acct_id, 1))] = None
            helper.send(AccountSettled(at_ms=time.time_ns() // 1_000_000))
            while True:
                if time.monotonic() > until_s:
                    helper.kill()
                    return
                for _ in range(self.chance.randint(1, 8)):
                    message = self.next()
                    self.unheard[message.acct_id, message.status] = message
                    sent[helper.send(message)] = message
                while len(sent) > 40:
                    exchange, told = helper.receive()
                    message = sent.pop(exchange)
                    assert told.code == 0, told
                    if message is not None:
                        self.heard(message)
        except (ChannelClosed, OSError):
            helper.kill()

    def heard(self, message):
        key = (message.acct_id, message.status)
        self.acknowledged.add(key)
        if self.unheard.get(key) is message:
            del self.unheard[key]


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_was_acknowledged_is_lost(tmp_path, seed):
    chance = random.Random(seed)
    broker = Broker(seed)
    with Server() as server:
        behaviours = [server.accepts(), server.flaps(server.accepts(), server.silent()), server.silent()]
        for _ in range(ROUNDS):
            server.behave = chance.choice(behaviours)
            helper = Helper(tmp_path, acct=(server.address,), timeout_s=0.2, tries=1, dead_s=1.0, log_level="warning")
            broker.run(helper, time.monotonic() + chance.uniform(0.05, 0.8))
        server.behave = server.accepts()
        with Helper(tmp_path, acct=(server.address,), timeout_s=1.0, log_level="warning") as helper:
            for message in list(broker.unheard.values()):
                assert helper.account(message.status, message.acct_id, at_ms=message.at_ms).code == 0
                broker.heard(message)
            helper.look(retry=True)
            told = helper.wait_until(lambda told: not told.waiting, 60)
            assert told.open == len(broker.open)
        heard = list(server.heard)
    numbers = {Status.START: 1, Status.STOP: 2, Status.INTERIM: 3}
    records = {}
    order = {}
    for packet in heard:
        key = packet.text(codec.ACCT_SESSION_ID), packet.number(codec.STATUS_TYPE)
        records.setdefault(key, set()).add(packet.text(codec.RECORD_ID))
        if packet.text(codec.RECORD_ID) not in order:
            order[packet.text(codec.RECORD_ID)] = key
    came = set(records)
    for acct_id, status in broker.acknowledged:
        # An update may have been superseded by a later one.
        assert status is Status.INTERIM or (acct_id, numbers[status]) in came, (acct_id, status)
    assert all(len(ids) == 1 for (_, status), ids in records.items() if status != 3)
    by_session = {}
    for acct_id, status in order.values():
        by_session.setdefault(acct_id, []).append(status)
    for acct_id, statuses in by_session.items():
        assert statuses[0] == 1, (acct_id, statuses)
        assert 2 not in statuses[:-1], (acct_id, statuses)
    assert len(broker.acknowledged) > 100
