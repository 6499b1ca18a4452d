"""Items of applications: what is said of them, in which order, and what another broker goes on with."""

from dataclasses import replace

import pytest

from tlspool_broker.events import Clock, Note, Timer
from tlspool_broker.items import (
    LOST_SERVICE,
    NAS_ERROR,
    USER_REQUEST,
    Item,
    Items,
    from_bytes_untrusted,
    to_bytes,
)
from tlspool_broker.out import Out
from tlspool_broker.shelf import InDirectory, InMemory
from tlspool_common import limits
from tlspool_common.codec import BadFrame
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Accounted
from tlspool_common.messages_radius import Status

KEPT = Accounted(code=0, detail="")
FULL = Accounted(code=int(Code.ACCOUNT_SPOOL_FULL), detail="1000000 wait")
NOW_S = 1_700_000_000.25
NOW_MS = 1_700_000_000_250


def item(number=1, **fields):
    values = {
        "acct_id": f"p-{number:X}",
        "uid": 1000,
        "kind": "print",
        "instance": f"job-{number}",
        "attributes": ("User-Name=john@example.com", "TLSPool-Kind=print"),
        "classes": (b"class",),
        "started_ms": NOW_MS,
        "at_ms": NOW_MS,
        "heard_ms": NOW_MS,
        "items": 0,
        "cause": 0,
    }
    return Item(**{**values, **fields})


class Accountant:
    """Hears records, and answers when it is told to."""

    def __init__(self):
        self.said = []
        self.open = []

    def account(self, message, told=None):
        self.said.append(message)
        self.open.append(told)

    def answer(self, answer=KEPT):
        told = self.open.pop(0)
        if told is not None:
            told(answer)

    def words(self):
        return [(one.acct_id, one.status.name, one.items) for one in self.said]


class World:
    """A broker's items; another broker has the same shelf."""

    def __init__(self, shelf=None):
        self.now_s = NOW_S
        self.shelf = shelf or InMemory()
        self.next()

    def next(self):
        self.out, self.accountant = Out(), Accountant()
        self.items = Items(self.out, self.shelf, self.accountant, lambda: self.now_s)
        self.heard = []
        self.items.began()

    def start(self, one):
        self.items.check_free(one.uid, one.kind, one.instance)
        return self.items.start(one, self.hears("start"))

    def hears(self, what):
        return lambda error: self.heard.append((what, None if error is None else error.code))

    def notes(self):
        return [effect.event for effect in self.out.take() if isinstance(effect, Note)]


@pytest.fixture
def world():
    return World()


def started(world, **fields):
    one = item(**fields)
    world.start(one)
    world.accountant.answer()
    world.heard.clear()
    return one


def test_from_start_to_end(world):
    one = item()
    world.start(one)
    assert (len(world.items), world.heard) == (1, [])  # nothing is said before it is on the disk
    assert world.shelf.load() == {"p-1": to_bytes(one)}
    world.accountant.answer()
    assert world.heard == [("start", None)]
    world.now_s += 60
    world.items.update(world.items.item(1000, "print", "job-1"), 3, NOW_MS + 50_000, world.hears("update"))
    world.accountant.answer()
    world.items.end(world.items.item(1000, "print", "job-1"), 7, NOW_MS + 60_000, world.hears("end"))
    with pytest.raises(PoolError, match="808"):
        world.items.item(1000, "print", "job-1")
    assert len(world.shelf.load()) == 1
    world.accountant.answer()
    assert world.heard == [("start", None), ("update", None), ("end", None)]
    assert (len(world.items), world.shelf.load()) == (0, {})
    begin, interim, stop = world.accountant.said
    assert (begin.status, begin.at_ms, begin.has_items, begin.session_s, begin.cause) == (
        Status.START, NOW_MS, False, 0, 0,
    )  # fmt: skip
    assert (interim.status, interim.at_ms, interim.items, interim.session_s, interim.cause) == (
        Status.INTERIM, NOW_MS + 50_000, 3, 50, 0,
    )  # fmt: skip
    assert (stop.status, stop.at_ms, stop.items, stop.has_items, stop.session_s, stop.cause) == (
        Status.STOP, NOW_MS + 60_000, 7, True, 60, USER_REQUEST,
    )  # fmt: skip
    assert {(one.acct_id, one.attributes, one.classes) for one in world.accountant.said} == {
        ("p-1", one.attributes, (b"class",))
    }
    assert world.notes() == ["account.started", "account.ended"]


def test_the_last_word_counts(world):
    one = started(world)
    world.items.update(one, 5, NOW_MS, world.hears("update"))
    world.items.update(world.items.item(*one.key), None, NOW_MS - 10, world.hears("update"))
    world.items.end(world.items.item(*one.key), None, NOW_MS - 20, world.hears("end"))
    assert [(said.items, said.at_ms) for said in world.accountant.said[1:]] == [(5, NOW_MS)] * 3


@pytest.mark.parametrize("kind", [InMemory, InDirectory])
def test_another_broker_goes_on(kind, tmp_path):
    """Killed between any two steps, it says what may not have been heard; the helper knows what it has been told."""
    world = World(kind() if kind is InMemory else kind(tmp_path))
    world.start(item(1))  # no answer came
    started_one = item(2)
    world.start(started_one)
    world.start(item(3))
    world.items.end(world.items.item(*item(3).key), 9, NOW_MS, world.hears("end"))
    world.next()
    assert world.accountant.words() == [("p-1", "START", 0), ("p-2", "START", 0), ("p-3", "STOP", 9)]
    assert "account.resumed" in world.notes()
    for _ in range(3):
        world.accountant.answer()
    assert [one.acct_id for one in world.items] == ["p-1", "p-2"]
    world.next()
    assert world.accountant.words() == [("p-1", "START", 0), ("p-2", "START", 0)]


def test_what_is_there_is_not_started_again(world):
    started(world)
    with pytest.raises(PoolError) as caught:
        world.items.check_free(1000, "print", "job-1")
    assert caught.value.code is Code.ACCOUNT_EXISTS
    world.items.check_free(1001, "print", "job-1")  # another user's
    world.items.check_free(1000, "print", "job-2")
    world.items.check_free(1000, "fax", "job-1")


def test_there_are_so_many(world, monkeypatch):
    monkeypatch.setattr(limits, "RADIUS_ITEMS_PER_CALLER", 2)
    monkeypatch.setattr(limits, "RADIUS_ITEMS", 3)
    for number in (1, 2):
        started(world, number=number, instance=f"job-{number}")
    with pytest.raises(PoolError, match="user 1000") as caught:
        world.items.check_free(1000, "print", "job-3")
    assert caught.value.code is Code.TOO_MANY_REQUESTS
    world.items.check_free(1001, "print", "job-3")
    world.start(item(3, uid=1001))
    with pytest.raises(PoolError, match="3 items are open"):
        world.items.check_free(1002, "print", "job-4")


def test_a_start_that_is_refused_leaves_nothing(world):
    world.start(item())
    world.accountant.answer(FULL)
    assert world.heard == [("start", Code.ACCOUNT_SPOOL_FULL)]
    assert (len(world.items), world.shelf.load()) == (0, {})
    assert world.accountant.words() == [("p-1", "START", 0)]


def test_a_start_that_nobody_waits_for_any_more_is_ended_without_items(world):
    """Its record may have come through, or may yet: then its end follows, and bills nothing."""
    cancel = world.start(item())
    cancel()
    assert world.accountant.words() == [("p-1", "START", 0), ("p-1", "STOP", 0)]
    assert world.accountant.said[1].cause == NAS_ERROR
    world.accountant.answer()
    assert world.heard == []
    world.accountant.answer()
    assert (len(world.items), world.shelf.load()) == (0, {})


def test_a_start_when_nobody_keeps_records(world):
    world.start(item())
    world.accountant.answer(None)
    assert world.heard == [("start", Code.ACCOUNT_UNKEPT)]
    assert world.accountant.words()[1:] == [("p-1", "STOP", 0)]


def test_an_end_that_is_not_kept_is_said_again(world):
    one = started(world)
    world.items.end(one, 7, NOW_MS, world.hears("end"))
    world.accountant.answer(FULL)
    assert world.heard == [("end", Code.ACCOUNT_SPOOL_FULL)]
    # by its application, whose other figures come too late, and which may ask twice
    ended = world.items.item(*one.key, ended=True)
    world.items.end(ended, 8, NOW_MS + 1, world.hears("again"))
    world.items.end(ended, 8, NOW_MS + 1, world.hears("and again"))
    assert world.accountant.words()[1:] == [("p-1", "STOP", 7)] * 2
    world.accountant.answer(FULL)
    assert world.heard[1:] == [("again", Code.ACCOUNT_SPOOL_FULL), ("and again", Code.ACCOUNT_SPOOL_FULL)]
    # and by the broker, when it looks
    world.items.look()
    world.items.look()
    assert world.accountant.words()[3:] == [("p-1", "STOP", 7)]
    world.accountant.answer()
    assert (len(world.items), world.shelf.load()) == (0, {})


def test_what_nobody_speaks_of_is_ended(world):
    started(world, number=1, instance="job-1")
    two = started(world, number=2, instance="job-2", items=4)
    world.now_s += limits.RADIUS_ITEM_S - 1
    world.items.update(world.items.item(1000, "print", "job-1"), 1, NOW_MS, world.hears("update"))
    world.items.look()
    assert len(world.accountant.said) == 3
    world.now_s += 1
    world.items.look()
    stop = world.accountant.said[-1]
    assert (stop.acct_id, stop.status, stop.items, stop.cause) == ("p-2", Status.STOP, 4, LOST_SERVICE)
    assert stop.at_ms == two.heard_ms  # it is billed for as long as it is known to have lived
    assert [effect.timer for effect in world.out.take() if hasattr(effect, "timer")][-1] == Timer(Clock.ITEMS)


def test_what_cannot_be_written_is_refused(world, monkeypatch):
    one = started(world)

    def put(name, content):
        raise PoolError(Code.ACCOUNT_UNKEPT, "the disk is full")

    monkeypatch.setattr(world.shelf, "put", put)
    with pytest.raises(PoolError):
        world.start(item(2))
    with pytest.raises(PoolError):
        world.items.update(one, 3, NOW_MS, world.hears("update"))
    with pytest.raises(PoolError):
        world.items.end(one, 3, NOW_MS, world.hears("end"))
    assert list(world.items) == [one]
    assert len(world.accountant.said) == 1


def test_what_ends_by_itself_ends_on_a_full_disk_too(world, monkeypatch):
    cancel = world.start(item(1))
    started(world, number=2, instance="job-2")

    def put(name, content):
        raise PoolError(Code.ACCOUNT_UNKEPT, "the disk is full")

    monkeypatch.setattr(world.shelf, "put", put)
    cancel()
    world.now_s += limits.RADIUS_ITEM_S
    world.items.look()
    assert world.accountant.words()[2:] == [("p-1", "STOP", 0), ("p-2", "STOP", 0)]
    assert world.notes().count("account.unreadable") == 2


def test_a_shelf_that_cannot_be_read(monkeypatch):
    """Nothing else waits for it."""

    def load(_shelf):
        raise PoolError(Code.ACCOUNT_UNKEPT, "/var/lib/tlspool/radius/items: Permission denied")

    monkeypatch.setattr(InMemory, "load", load)
    world = World()
    assert (len(world.items), world.notes()) == (0, ["account.unreadable"])


def test_it_begins_once(world):
    one = started(world)
    world.items.began()
    assert list(world.items) == [one]
    assert world.accountant.words() == [("p-1", "START", 0)]


@pytest.mark.parametrize("content", [b"", b"x", to_bytes(item())[:-1], to_bytes(item()) + b"x", bytes(200)])
def test_a_file_that_is_no_item_stays_where_it_is(world, content):
    with pytest.raises(BadFrame):
        from_bytes_untrusted(content)
    world.shelf.put("p-9", content)
    world.next()
    assert (len(world.items), world.accountant.said) == (0, [])
    assert world.notes() == ["account.unreadable"]
    assert world.shelf.load() == {"p-9": content}


def test_the_longest_fits():
    attributes = tuple(f"User-Name={'x' * 253}" for _ in range(limits.RADIUS_ATTRIBUTES))
    long = item(kind="k" * 63, instance="i" * 127, attributes=attributes, classes=(b"c" * 253,) * 8, items=2**64 - 1)
    assert from_bytes_untrusted(to_bytes(long)) == long
    assert replace(long, cause=1).record(Status.STOP).items == 2**64 - 1
