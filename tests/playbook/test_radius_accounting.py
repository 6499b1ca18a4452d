"""Accounting in the helper: what is acknowledged when, what is sent in which order, what an outage does."""

import sqlite3

import pytest

from tests.fixtures import radius_codec as codec
from tests.fixtures.radius_process import account
from tests.playbook.radius import REFUSED, World
from tlspool_common.errors import Code
from tlspool_common.messages_radius import Status
from tlspool_radius import bounds

START, STOP, INTERIM = Status.START, Status.STOP, Status.INTERIM
ITEM = ("User-Name=carol@example.net", "TLSPool-Kind=mail", "TLSPool-Instance=7", "Acct-Multi-Session-Id=s1")


@pytest.fixture
def make(tmp_path):
    worlds = []

    def make_world(**options):
        options.setdefault("acct", 1)
        worlds.append(World(tmp_path, **options))
        return worlds[-1]

    yield make_world
    for world in worlds:
        world.close()


def test_a_session_from_start_to_stop(make):
    world = make()
    traffic = {
        "from_remote_b": 2**32 * 3 + 7,
        "to_remote_b": 9,
        "from_remote_records": 2**32 + 2,
        "to_remote_records": 1,
    }
    assert world.account(START, "s1", classes=(b"0x41", b"\0")).code == 0
    world.advance(5000)
    assert world.account(INTERIM, "s1", session_s=5, **traffic).code == 0
    world.advance(5000)
    assert world.account(STOP, "s1", session_s=10, cause=5, **traffic).code == 0
    world.advance(1000)
    assert world.records() == [("s1", 1), ("s1", 3), ("s1", 2)]
    start, update, stop = world.server(1).heard
    assert all(codec.is_keyed(packet, world.manners.secret) for packet in (start, update, stop))
    assert start.all(codec.CLASS) == [b"0x41", b"\0"]
    assert start.all(codec.INPUT_OCTETS) == []
    assert (update.number(codec.INPUT_OCTETS), update.number(codec.INPUT_GIGAWORDS)) == (7, 3)
    assert (stop.number(codec.OUTPUT_OCTETS), stop.number(codec.OUTPUT_GIGAWORDS)) == (9, 0)
    assert stop.number(47) == 2
    assert (stop.number(codec.SESSION_TIME), stop.number(codec.TERMINATE_CAUSE)) == (10, 5)
    assert stop.number(codec.EVENT_TIMESTAMP) - start.number(codec.EVENT_TIMESTAMP) == 10
    assert len({packet.text(codec.RECORD_ID) for packet in (start, update, stop)}) == 3
    told = world.look()
    assert (told.waiting, told.open, told.sent, told.refused) == (0, 0, 3, 0)


def test_nothing_is_acknowledged_before_it_is_on_the_disk(make):
    world = make()
    exchange = world.say(account(START, "s1", world.now.wall_ms))
    assert exchange not in world.told
    world.settle()
    assert world.told[exchange].code == 0


def test_an_item_of_an_application(make):
    world = make()
    world.account(START, "i1", attributes=ITEM)
    world.account(STOP, "i1", attributes=ITEM, has_items=True, items=2**32 + 5, session_s=3)
    world.advance(100)
    stop = world.server(1).heard[-1]
    assert (stop.number((codec.VENDOR, 22)), stop.number((codec.VENDOR, 23))) == (5, 1)
    assert (stop.text(codec.KIND), stop.text((codec.VENDOR, 21)), stop.text(50)) == ("mail", "7", "s1")
    assert stop.all(codec.INPUT_OCTETS) == []


def test_records_of_one_session_are_sent_one_after_the_other_and_others_beside_them(make):
    world = make()
    world.server(1).behave = None
    for status in (START, INTERIM, STOP):
        for name in ("s1", "s2", "s3"):
            world.account(status, name)
    world.advance(1)
    assert world.records() == [("s1", 1), ("s2", 1), ("s3", 1)]
    world.server(1).behave = world.manners.accepts()
    world.advance(60_000)
    heard = world.records()
    for name in ("s1", "s2", "s3"):
        assert [status for one, status in heard if one == name] == [1, 3, 2]
    assert world.look().waiting == 0


def test_a_newer_update_takes_the_place_of_one_that_waits(make):
    world = make()
    world.server(1).behave = REFUSED
    world.account(START, "s1")
    for octets in range(1, 10):
        world.advance(10)
        assert world.account(INTERIM, "s1", from_remote_b=octets).code == 0
    assert world.look().waiting == 2
    world.server(1).behave = world.manners.accepts()
    world.advance(120_000)
    assert world.server(1).heard[-1].number(codec.INPUT_OCTETS) == 9


def test_what_is_said_again_is_one_record(make):
    """A broker says again what it has heard no answer to; a new one says START of all sessions it has found."""
    world = make()
    at_ms = world.now.wall_ms
    for _ in range(3):
        assert world.account(START, "s1", at_ms=at_ms).code == 0
        assert world.account(INTERIM, "s1", at_ms=at_ms + 5).code == 0
        assert world.account(START, "s1", at_ms=at_ms + 50).code == 0
    for _ in range(3):
        assert world.account(STOP, "s1", at_ms=at_ms + 10).code == 0
        assert world.account(START, "s1", at_ms=at_ms).code == 0
        assert world.account(INTERIM, "s1", at_ms=at_ms + 5).code == 0
    world.advance(1000)
    assert world.records() == [("s1", 1), ("s1", 3), ("s1", 2)]


def test_an_update_and_a_stop_of_what_is_not_open(make):
    world = make()
    assert world.account(INTERIM, "s1").code == 0
    assert world.account(STOP, "s2").code == 0
    world.advance(100)
    assert world.records() == [("s1", 3), ("s2", 2)]


# --- servers that are away --------------------------------------------------------------------------------------


def test_delay_time_grows(make):
    world = make(timeout_ms=1000.0, tries=2)
    world.server(1).behave = None
    world.account(START, "s1")
    world.advance(30_000)
    world.server(1).behave = world.manners.accepts()
    world.advance(60_000)
    heard = world.server(1).heard
    delays = [packet.number(codec.DELAY_TIME) for packet in heard]
    began_ms = world.server(1).times[0]
    for packet, delay, at_ms in zip(heard, delays, world.server(1).times, strict=True):
        if packet.raw not in [one.raw for one in heard[: heard.index(packet)]]:
            assert abs(delay - (at_ms - began_ms) / 1000) <= 1
    assert delays == sorted(delays)
    assert delays[-1] > 5
    assert {packet.number(codec.EVENT_TIMESTAMP) for packet in heard} == {heard[0].number(codec.EVENT_TIMESTAMP)}
    assert len({packet.text(codec.RECORD_ID) for packet in heard}) == 1
    # Another delay is another packet (RFC 2866 section 5.2); the same is the same.
    assert len({(packet.raw) for packet in heard}) == len(set(delays))


def test_the_next_server_is_asked(make):
    world = make(acct=2)
    world.server(1).behave = REFUSED
    world.account(START, "s1")
    world.advance(10)
    assert world.records(2) == [("s1", 1)]
    assert world.look().waiting == 0


def test_an_outage_is_bridged_with_few_packets_and_ends_at_once(make):
    world = make(timeout_ms=1000.0, tries=1)
    world.server(1).behave = None
    for number in range(300):
        world.account(START, f"s{number}")
    world.advance(3_600_000)
    packets = len(world.server(1).heard)
    assert packets < 400, packets
    assert world.look().waiting == 300
    world.server(1).behave = world.manners.accepts()
    world.advance(bounds.DOWN_MS[-1] + 5000)
    assert world.look().waiting == 0
    starts = {one.text(44) for one in world.server(1).heard}
    assert len(starts) == 300


def test_an_operator_does_not_want_to_wait(make):
    world = make()
    world.server(1).behave = REFUSED
    world.account(START, "s1")
    world.advance(3_600_000)
    world.server(1).behave = world.manners.accepts()
    told = world.look(retry=True)
    world.advance(10)
    assert (told.waiting, world.look().waiting) == (1, 0)
    assert "failures=" in told.records[0]


def test_a_record_that_no_server_likes_keeps_nobody_else_waiting(make):
    world = make(timeout_ms=1000.0, tries=1)
    accepts = world.manners.accepts()
    world.server(1).behave = lambda packet: [] if packet.text(44) == "bad" else accepts(packet)
    world.account(START, "bad")
    world.account(STOP, "bad")
    for number in range(100):
        world.account(START, f"s{number}")
        world.account(STOP, f"s{number}")
        world.advance(100)
    world.advance(60_000)
    assert world.look().waiting == 2
    heard = world.records()
    assert len([one for one, _ in heard if one != "bad"]) == 200
    assert ("bad", 2) not in heard
    before = len(world.server(1).heard)
    world.advance(3_600_000)
    assert len(world.server(1).heard) - before < 200
    world.server(1).behave = accepts
    world.advance(3_600_000)
    assert world.records()[-2:] == [("bad", 1), ("bad", 2)] or ("bad", 2) in world.records()
    assert world.look().waiting == 0


@pytest.mark.parametrize("manner", ["with_wrong_secret", "with_wrong_signature"])
def test_an_acknowledgement_must_be_of_the_server(make, manner):
    world = make()
    world.server(1).behave = {
        "with_wrong_secret": world.manners.with_wrong_secret(),
        "with_wrong_signature": lambda packet: [
            world.manners.answer(packet, codec.ACCOUNTING_RESPONSE, vector=bytes(range(16)))
        ],
    }[manner]
    world.account(START, "s1")
    world.advance(10_000)
    told = world.look()
    assert (told.waiting, told.sent) == (1, 0)


@pytest.mark.parametrize("vector", [bytes(16), None])
def test_an_acknowledgement_may_be_signed_in_two_manners(make, vector):
    world = make()
    world.server(1).behave = lambda packet: [
        world.manners.answer(packet, codec.ACCOUNTING_RESPONSE, vector=vector, signed=True)
    ]
    world.account(START, "s1")
    world.advance(100)
    assert world.look().waiting == 0


# --- the spool is full, broken, away -----------------------------------------------------------------------------


def test_a_full_spool_refuses_new_sessions_and_takes_the_stops_of_old_ones(make):
    world = make(most=4)
    world.server(1).behave = REFUSED
    for number in range(4):
        assert world.account(START, f"s{number}").code == 0
    refused = world.account(START, "s4")
    assert refused.code == Code.ACCOUNT_SPOOL_FULL
    assert "4 records wait" in refused.detail
    assert world.account(INTERIM, "s0", from_remote_b=77).code == Code.ACCOUNT_SPOOL_FULL
    assert world.account(STOP, "s5").code == Code.ACCOUNT_SPOOL_FULL
    for number in range(1, 4):
        assert world.account(STOP, f"s{number}").code == 0
    told = world.look()
    assert (told.waiting, told.open, told.refused) == (7, 1, 3)
    world.settled()
    assert world.look().open == 1  # it was named
    world.server(1).behave = world.manners.accepts()
    world.advance(120_000)
    assert world.look().waiting == 0
    assert world.account(START, "s4").code == 0


def test_accounting_that_is_not_configured(make):
    world = make(acct=0, authz=1)
    assert world.account(START, "s1").code == Code.RADIUS_UNUSED
    world.settled()
    assert world.look().servers[0].startswith("purpose=authz")


def test_a_record_that_fits_no_packet_is_refused_when_the_session_begins(make):
    world = make()
    attributes = tuple(f"TLSPool-Service={'x' * 230}" for _ in range(17))
    refused = world.account(START, "s1", attributes=attributes)
    assert refused.code == Code.ACCOUNT_UNKEPT
    assert "4096 are allowed" in refused.detail
    # At its end there is nobody any more to refuse: the last attributes are left out.
    assert world.account(STOP, "s1", attributes=(*attributes, "Nonsense=1")).code == 0
    world.advance(100)
    (stop,) = world.server(1).heard
    assert 3800 < len(stop.raw) <= 4096
    assert stop.text(44) == "s1"


def test_a_spool_that_is_no_database(make, tmp_path):
    (tmp_path / "spool.sqlite").write_bytes(b"this is no database" * 100)
    world = make(authz=1)
    assert world.hello.pid == 4711
    refused = world.account(START, "s1")
    assert refused.code == Code.ACCOUNT_UNKEPT
    assert "spool.sqlite: file is not a database; move it aside" in refused.detail
    assert world.ask().access.name == "ACCEPTED"
    told = world.look()
    assert told.servers[-1].startswith("purpose=spool state=unusable")
    assert len(world.said("radius.spool_unusable")) == 1
    world.advance(bounds.SPOOL_AGAIN_MS * 3)
    assert len(world.said("radius.spool_unusable")) == 1
    assert (tmp_path / "spool.sqlite").read_bytes().startswith(b"this is")
    (tmp_path / "spool.sqlite").rename(tmp_path / "aside")
    world.advance(bounds.SPOOL_AGAIN_MS)
    assert world.account(START, "s1").code == 0


class Broken:
    """A database that has no room."""

    def __init__(self, database, name="SQLITE_FULL"):
        self.database = database
        self.is_broken = True
        self.name = name

    def execute(self, statement, *arguments):
        if self.is_broken and statement.startswith(("INSERT", "DELETE")):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = self.name
            raise error
        return self.database.execute(statement, *arguments)

    def __getattr__(self, name):
        return getattr(self.database, name)


def test_a_disk_without_room(make):
    world = make()
    world.server(1).behave = REFUSED
    world.account(START, "s0")
    spool = world.spooler._spool
    spool._database = broken = Broken(spool._database)
    refused = world.account(START, "s1")
    assert refused.code == Code.ACCOUNT_UNKEPT
    assert "make room on that file system" in refused.detail
    world.server(1).behave = world.manners.accepts()
    world.advance(60_000)
    assert world.records()[0] == ("s0", 1)
    assert world.look().waiting == 1  # it could not be removed
    broken.is_broken = False
    assert world.account(START, "s1").code == 0
    world.advance(100)
    assert world.look().waiting == 0
    assert world.records() == [("s0", 1), ("s1", 1)]


def test_a_file_that_breaks_while_it_is_open_is_opened_anew(make):
    world = make()
    world.account(START, "s0")
    world.server(1).behave = None
    world.account(STOP, "s0")
    world.account(START, "s1")
    spool = world.spooler._spool
    spool._database = Broken(spool._database, "SQLITE_IOERR_WRITE")
    assert world.account(START, "s2").code == Code.ACCOUNT_UNKEPT
    assert world.account(START, "s2").code == Code.ACCOUNT_UNKEPT
    assert "radius.spool_unusable" in [note.event for note in world.notes]
    world.advance(bounds.SPOOL_AGAIN_MS + 1)
    assert world.account(START, "s2").code == 0
    world.server(1).behave = world.manners.accepts()
    world.advance(120_000)
    assert sorted(world.records()) == [("s0", 1), ("s0", 2), ("s1", 1), ("s2", 1)]
    assert world.look().waiting == 0


def test_too_much_waits_for_the_disk(make, monkeypatch):
    monkeypatch.setattr(bounds, "BACKLOG", 3)
    world = make()
    asked = [world.say(account(START, f"s{number}", world.now.wall_ms)) for number in range(5)]
    world.settle()
    assert [world.told[one].code for one in asked] == [0, 0, 0, Code.ACCOUNT_UNKEPT, Code.ACCOUNT_UNKEPT]


# --- brokers and helpers that end --------------------------------------------------------------------------------


def test_what_nobody_names_any_more_has_ended(make):
    world = make()
    world.account(START, "s1", session_s=0)
    world.account(START, "s2")
    world.account(START, "i1", attributes=ITEM)
    world.advance(1000)
    world.account(INTERIM, "s1", session_s=60, from_remote_b=500, at_ms=world.now.wall_ms, classes=(b"c",))
    last_ms = world.now.wall_ms
    world.advance(1000)
    world.close()
    world = make()
    world.account(START, "s2")
    world.advance(1000)
    world.settled()
    world.settled()
    world.advance(1000)
    assert world.records() == [("s1", 2)]
    (stop,) = world.server(1).heard
    assert (stop.number(codec.TERMINATE_CAUSE), stop.number(codec.INPUT_OCTETS)) == (11, 500)
    assert (stop.number(codec.SESSION_TIME), stop.number(codec.EVENT_TIMESTAMP)) == (60, last_ms // 1000)
    assert stop.all(codec.CLASS) == [b"c"]
    assert world.look().open == 2
    assert world.account(STOP, "s2").code == 0
    assert world.account(STOP, "i1", attributes=ITEM).code == 0
    world.advance(100)
    assert world.records() == [("s1", 2), ("s2", 2), ("i1", 2)]


def test_a_session_that_is_found_after_all_goes_on(make):
    world = make()
    world.account(START, "s1")
    world.close()
    world = make()
    world.settled()
    assert world.account(START, "s1").code == 0
    world.advance(1000)
    assert world.account(STOP, "s1", from_remote_b=99, cause=1).code == 0
    world.advance(1000)
    assert world.records() == [("s1", 1), ("s1", 2), ("s1", 1), ("s1", 2)]
    last = world.server(1).heard[-1]
    assert (last.number(codec.INPUT_OCTETS), last.number(codec.TERMINATE_CAUSE)) == (99, 1)


def test_what_waits_is_sent_by_the_next_helper(make):
    world = make()
    world.server(1).behave = None
    for status in (START, STOP):
        for number in range(700):
            world.account(status, f"s{number}")
    world.close()
    world = make()
    world.advance(120_000)
    assert world.look().waiting == 0
    heard = world.records()
    assert len(heard) == 1400
    assert all(heard.index((f"s{number}", 1)) < heard.index((f"s{number}", 2)) for number in range(700))
    ids = [packet.text(codec.RECORD_ID) for packet in world.server(1).heard]
    assert len(set(ids)) == 1400


def test_what_an_operator_sees(make):
    world = make()
    world.server(1).behave = REFUSED
    for number in range(60):
        world.account(START, f"s{number}")
    world.account(START, "i1", attributes=ITEM)
    world.advance(7000)
    told = world.look()
    assert (told.waiting, told.open, told.oldest_s) == (61, 61, 7)
    assert len(told.records) == 50
    assert told.records[0].startswith("number=1 status=start acct_id=s0 age_s=7 user_name=carol@example.net failures=")
    rest = world.look(after=50)
    assert [line.split()[0] for line in rest.records] == [f"number={number}" for number in range(51, 62)]
    assert rest.records[-1].endswith("kind=mail instance=7")
    assert world.look(count=0).records == ()
    assert world.core.title == "0 questions, 61 records waiting"
