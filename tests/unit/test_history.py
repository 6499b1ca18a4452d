"""What the history remembers of a change, as bytes and as a difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_broker import history
from tlspool_broker.entries import CONTENT, Name
from tlspool_broker.history import NOBODY, By, Change
from tlspool_common.errors import Code, PoolError

values = st.lists(st.binary(max_size=6), max_size=4).map(tuple)
places = st.tuples(st.sampled_from(CONTENT), st.binary(min_size=1, max_size=4))
bys = st.builds(By, st.integers(0, NOBODY), st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
changes = st.builds(
    Change,
    st.integers(1, 2**63),
    st.integers(0, 2**40),
    bys,
    st.dictionaries(places, st.tuples(values, values), max_size=4),
)


@given(changes)
def test_round_trip(change: Change) -> None:
    assert history.decode_untrusted(change.generation, change.encode()) == change


@given(changes, st.data())
def test_damage_is_found_or_harmless(change: Change, data: st.DataObject) -> None:
    whole = bytearray(change.encode())
    cut = data.draw(st.integers(0, len(whole)))
    for number in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=3)):
        whole[number] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            history.decode_untrusted(7, damaged)
        except PoolError as error:
            assert error.code is Code.RECORD_MALFORMED
            assert error.detail.startswith("history 7")


def test_what_stays_is_stored_once() -> None:
    big = bytes(10_000)
    change = Change(2, 1, By(), {(Name.LOCALID, b"k"): ((big, b"x"), (b"x", big, b"y"))})
    assert len(change.encode()) < 10_200
    assert history.decode_untrusted(2, change.encode()) == change


def test_a_record_of_a_newer_pool_is_refused() -> None:
    with pytest.raises(PoolError, match="format 2"):
        history.decode_untrusted(7, b"\2" + Change(7, 1, By(), {}).encode()[1:])


def test_the_net_of_several_changes() -> None:
    a, b = (Name.LOCALID, b"a"), (Name.TRUST, b"b")
    first = Change(2, 1, By(), {a: ((), (b"1",)), b: ((b"x",), (b"y",))})
    second = Change(3, 1, By(), {a: ((b"1",), (b"2",)), b: ((b"y",), (b"x",))})
    assert history.net([first, second]) == {a: ((), (b"2",))}
    assert history.net([]) == {}


def test_gone_and_added() -> None:
    assert history.gone_and_added((b"1", b"1", b"2"), (b"2", b"1", b"3")) == ([b"1"], [b"3"])
    assert history.gone_and_added((b"1", b"2"), (b"2", b"1")) == ([], []), "another order"
