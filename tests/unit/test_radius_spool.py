"""The spool as a file: what is in it, who may open it, what it says of files that are none."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.radius_process import account
from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.messages import AccountSettled
from tlspool_common.messages_radius import Status
from tlspool_radius import bounds
from tlspool_radius.events import Keep
from tlspool_radius.spool import NAME, VERSION, Spool, SpoolError

START, STOP, INTERIM = Status.START, Status.STOP, Status.INTERIM

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def spool(tmp_path):
    found = Spool(tmp_path, 1000)
    yield found
    found.close()


def keep(spool, *messages, wall_ms=0):
    return [one.code for one in spool.do([Keep(number, message, wall_ms) for number, message in enumerate(messages)])]


def statuses(spool):
    return [(one.message.acct_id, one.message.status) for one in spool.load(0, 1000)]


counts = st.integers(0, 2**63 - 1)


@given(
    acct_id=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20),
    attributes=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20), max_size=5),
    classes=st.lists(st.binary(max_size=limits.RADIUS_VALUE_B), max_size=limits.RADIUS_CLASSES),
    figures=st.tuples(counts, counts, counts, counts, counts, counts),
    session_s=st.integers(0, 2**32 - 1),
    has_items=st.booleans(),
    cause=st.integers(0, 255),
)
def test_a_record_comes_out_as_it_went_in(
    tmp_path_factory, acct_id, attributes, classes, figures, session_s, has_items, cause
):
    at_ms, b_in, b_out, n_in, n_out, items = figures
    message = account(
        STOP,
        acct_id,
        at_ms,
        attributes=tuple(attributes),
        classes=tuple(classes),
        from_remote_b=b_in,
        to_remote_b=b_out,
        from_remote_records=n_in,
        to_remote_records=n_out,
        session_s=session_s,
        items=items,
        has_items=has_items,
        cause=cause,
    )
    spool = Spool(tmp_path_factory.mktemp("spool"), 10)
    try:
        assert keep(spool, message) == [0]
        (one,) = spool.load(0, 10)
        assert one.message == message
        assert one.record_id == f"{spool.id}-1"
    finally:
        spool.close()


def test_numbers_beyond_what_the_file_holds_are_the_most_it_does(spool):
    keep(spool, account(STOP, "s", 2**64 - 1, from_remote_b=2**64 - 1))
    (one,) = spool.load(0, 10)
    assert (one.message.at_ms, one.message.from_remote_b) == (2**63 - 1, 2**63 - 1)


def test_what_is_in_it_stays(tmp_path, spool):
    keep(spool, account(START, "a", 1), account(START, "b", 2), account(STOP, "a", 3))
    before = spool.load(0, 10)
    spool.close()
    again = Spool(tmp_path, 1000)
    try:
        assert again.load(0, 10) == before
        assert again.figures().waiting == 3
        assert again.figures().open == 1
        assert again.figures().oldest_ms == 1
        assert keep(again, account(STOP, "a", 3), account(START, "b", 2)) == [0, 0]
        assert len(again.load(0, 10)) == 3
        again.do([], [one.record_id for one in before])
        assert again.load(0, 10) == ()
        # A number is not used again: Record-Ids are for ever.
        keep(again, account(STOP, "b", 9))
        assert again.load(0, 10)[0].number == 4
    finally:
        again.close()


def test_records_are_loaded_in_order_and_in_parts(spool):
    keep(spool, *[account(START, f"s{number}", number) for number in range(10)])
    assert [one.number for one in spool.load(3, 4)] == [4, 5, 6, 7]
    assert spool.load(2**64, 4) == ()


def test_records_of_another_spool_are_not_removed(spool):
    keep(spool, account(START, "s", 1))
    spool.do([], ["other-1", f"{spool.id}-7", f"{spool.id}-1", f"{spool.id}-1"])
    assert (spool.load(0, 1), spool.figures().waiting) == ((), 0)


def test_either_all_of_a_batch_or_nothing(spool):
    keep(spool, account(START, "a", 1))
    bad = account(START, object(), 2)
    with pytest.raises(sqlite3.Error):
        keep(spool, account(START, "c", 1), account(STOP, "a", 2), bad)
    assert statuses(spool) == [("a", START)]
    assert (spool.figures().waiting, spool.figures().open) == (1, 1)
    keep(spool, AccountSettled(at_ms=5))
    assert statuses(spool) == [("a", START)]


def test_updates(spool):
    keep(spool, account(START, "a", 10), account(INTERIM, "a", 20, from_remote_b=1))
    keep(spool, account(INTERIM, "a", 15, from_remote_b=2), account(INTERIM, "a", 20, from_remote_b=3))
    assert [one.message.from_remote_b for one in spool.load(0, 10)] == [0, 1]
    keep(spool, account(INTERIM, "a", 30, from_remote_b=4))
    assert [(one.number, one.message.from_remote_b) for one in spool.load(0, 10)] == [(1, 0), (3, 4)]
    assert spool.figures().waiting == 2
    # One that stands before something else of its session stays.
    keep(spool, account(STOP, "a", 40))
    assert statuses(spool) == [("a", START), ("a", INTERIM), ("a", STOP)]


def test_an_update_at_the_moment_of_the_start(spool):
    keep(spool, account(START, "a", 10), account(INTERIM, "a", 10, from_remote_b=1))
    assert statuses(spool) == [("a", START), ("a", INTERIM)]


def test_a_full_spool_remembers_figures(tmp_path):
    spool = Spool(tmp_path, 1)
    try:
        codes = keep(spool, account(START, "a", 10), account(INTERIM, "a", 20, from_remote_b=9), account(START, "b", 1))
        assert codes == [0, Code.ACCOUNT_SPOOL_FULL, Code.ACCOUNT_SPOOL_FULL]
        spool.close()
        spool = Spool(tmp_path, 1)
        keep(spool, AccountSettled(at_ms=50))
        (_, stop) = spool.load(0, 10)
        assert (stop.message.status, stop.message.from_remote_b, stop.message.at_ms) == (STOP, 9, 20)
    finally:
        spool.close()


def test_items_outlive_their_session(tmp_path, spool):
    keep(spool, account(START, "i", 1, attributes=("TLSPool-Kind=mail",)), account(START, "s", 1))
    spool.close()
    again = Spool(tmp_path, 10)
    try:
        keep(again, AccountSettled(at_ms=9))
        assert statuses(again) == [("i", START), ("s", START), ("s", STOP)]
        assert again.figures().open == 1
    finally:
        again.close()


def test_ids_that_are_closed_are_forgotten_after_a_while(spool, monkeypatch):
    keep(spool, account(STOP, "a", 1), wall_ms=1000)
    keep(spool, account(STOP, "b", 1), wall_ms=2000)
    spool.tidy(bounds.CLOSED_S * 1000 + 1500)
    assert keep(spool, account(STOP, "a", 1), account(STOP, "b", 1)) == [0, 0]
    assert statuses(spool) == [("a", STOP), ("b", STOP), ("a", STOP)]
    monkeypatch.setattr(bounds, "CLOSED", 1)
    spool.tidy(0)
    assert spool._count("closed") == 1


# --- the file ------------------------------------------------------------------------------------------------------


def test_nobody_else_can_read_it(tmp_path, spool):
    keep(spool, account(START, "a", 1))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_there_is_one_helper_at_it(tmp_path, spool):
    keep(spool, account(START, "a", 1))
    with pytest.raises(SpoolError, match=r"database is locked; another process has it open"):
        Spool(tmp_path, 10, wait_s=0)
    spool.close()
    Spool(tmp_path, 10, wait_s=0).close()


def text_file(path: Path) -> None:
    path.write_text("no database\n" * 200)


def other_program(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()


def other_version(path: Path) -> None:
    Spool(path.parent, 10).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()


def scrambled(path: Path) -> None:
    Spool(path.parent, 10).close()
    data = bytearray(path.read_bytes())
    data[100:4000] = os.urandom(3900)
    path.write_bytes(data)


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (text_file, "not a database; move it aside"),
        (other_program, "the database of another program; move it aside"),
        (other_version, f"has version {VERSION + 1}, this helper knows {VERSION}"),
        (scrambled, "move it aside, and the helper begins a new one"),
        (directory, "unable to open database file; the directory must belong"),
    ],
)
def test_files_that_are_none(tmp_path, make, why):
    path = tmp_path / NAME
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(SpoolError, match=why) as caught:
        Spool(tmp_path, 10, wait_s=0)
    assert str(caught.value).startswith(f"radius_spool_dir: {path}")
    if path.is_file():
        assert path.read_bytes() == before


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(SpoolError, match="No such file or directory; the directory must belong"):
        Spool(tmp_path / "none", 10)


def test_a_name_that_leads_elsewhere(tmp_path):
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolError):
        Spool(tmp_path, 10)
    assert not (tmp_path / "elsewhere").exists()
