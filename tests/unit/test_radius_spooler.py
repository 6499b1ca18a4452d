"""The thread of the spool: jobs that gather are one transaction, and what becomes of them is told."""

import queue
import threading

import pytest

from tests.fixtures.radius_process import account
from tlspool_common.errors import Code
from tlspool_common.messages import AccountSettled
from tlspool_common.messages_radius import Status
from tlspool_radius import bounds
from tlspool_radius import events as e
from tlspool_radius.spooler import Spooler

pytestmark = pytest.mark.usefixtures("no_leaks")


class Told:
    def __init__(self):
        self.queue = queue.SimpleQueue()

    def __call__(self, event):
        self.queue.put((threading.current_thread().name, event))

    def next(self, kind):
        thread, event = self.queue.get(timeout=30)
        assert isinstance(event, kind), event
        assert thread == "spool"
        return event


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def spooler(tmp_path, told):
    found = Spooler(tmp_path, 1000, told)
    found.start()
    yield found
    found.stop()


def start(number):
    return e.Keep(number, account(Status.START, f"s{number}", number), 0)


def test_jobs_and_what_becomes_of_them(spooler, told):
    spooler.put(e.OpenSpool())
    assert told.next(e.SpoolOpened).figures == e.Figures()
    spooler.put(start(1))
    kept = told.next(e.SpoolKept)
    assert kept.kept == (e.Kept(1, True),)
    assert kept.figures == e.Figures(1, 1, 1)
    spooler.put(e.Load(0, 1))
    loaded = told.next(e.SpoolLoaded)
    assert (loaded.records[0].message.acct_id, loaded.more) == ("s1", True)
    spooler.put(e.Load(1, 1))
    assert told.next(e.SpoolLoaded) == e.SpoolLoaded((), False)
    spooler.put(e.ListSpool(9, 0, 50))
    listed = told.next(e.SpoolListed)
    assert (listed.exchange, len(listed.records), listed.figures.waiting) == (9, 1, 1)
    spooler.put(e.Remove(loaded.records[0].record_id))
    assert told.next(e.SpoolKept) == e.SpoolKept((), e.Figures(0, 0, 1))
    spooler.put(e.Keep(0, AccountSettled(at_ms=1), 0))
    assert told.next(e.SpoolKept).kept == (e.Kept(0, False),)


def test_before_it_is_open(spooler, told):
    spooler.put(start(1))
    assert told.next(e.SpoolKept).kept[0].code == Code.ACCOUNT_UNKEPT
    spooler.put(e.Load(0, 1))
    spooler.put(e.ListSpool(9, 0, 50))
    assert told.next(e.SpoolListed) == e.SpoolListed(9, (), None)


def test_jobs_that_gather_are_one_transaction(tmp_path, told):
    spooler = Spooler(tmp_path, 1000, told)
    spooler.put(e.OpenSpool())
    for number in range(bounds.BATCH + 50):
        spooler.put(start(number))
    spooler.start()
    told.next(e.SpoolOpened)
    first, second = told.next(e.SpoolKept), told.next(e.SpoolKept)
    spooler.stop()
    assert [len(first.kept), len(second.kept)] == [bounds.BATCH - 1, 51]
    assert [one.exchange for one in (*first.kept, *second.kept)] == list(range(bounds.BATCH + 50))


def test_what_was_put_before_the_end_is_done(tmp_path, told):
    spooler = Spooler(tmp_path, 1000, told)
    spooler.put(e.OpenSpool())
    spooler.start()
    for number in range(1000):
        spooler.put(start(number))
    spooler.stop()
    again = Spooler(tmp_path, 1000, told)
    again._open()
    assert again._spool.figures().waiting == 1000
    again._close()


def test_a_spool_that_cannot_be_opened(tmp_path, told):
    (tmp_path / "spool.sqlite").write_text("no database\n" * 200)
    spooler = Spooler(tmp_path, 1000, told)
    spooler.start()
    spooler.put(e.OpenSpool())
    assert "not a database" in told.next(e.SpoolFailed).detail
    (tmp_path / "spool.sqlite").unlink()
    spooler.put(e.OpenSpool())
    told.next(e.SpoolOpened)
    spooler.put(e.OpenSpool())  # it is open
    spooler.stop()
    assert told.queue.empty()
