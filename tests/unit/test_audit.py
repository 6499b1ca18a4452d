"""The chain of the audit trail: what is written is read, and whatever else is done to it is found.

Invariant: of any bytes ``record_untrusted`` makes a record or raises BadRecord, and ``Chain`` goes on or raises Broken.
"""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common import audit
from tlspool_common.audit import EMPTY, BadRecord, Broken, Chain, Head

TIME = "2026-03-02T09:12:31.004Z"
VALUES = st.text() | st.integers(-(2**70), 2**70) | st.booleans() | st.none() | st.floats(-1e9, 1e9)
FIELDS = st.dictionaries(st.text(max_size=20).filter(lambda name: not name.endswith("_secret")), VALUES, max_size=8)


def trail(count=8, daemon="broker", head=EMPTY):
    lines = []
    for number in range(count):
        fields = {"session": number, "detail": 'it said "no"\n' if number % 2 else "grüß", "ms": 1.5}
        data, head = audit.line(head, TIME, daemon, f"session.{'ab'[number % 2]}", fields)
        lines.append(data)
    return lines


def chain_of(lines, **options):
    chain = Chain(**options)
    for data in lines:
        chain.take_untrusted(data)
    return chain


def is_whole(lines):
    try:
        return not chain_of(lines).unexplained
    except Broken:
        return False


LINES = trail()


def test_a_record_is_one_line_of_ascii_in_one_order():
    data, head = audit.line(
        Head(16, "ab" * 32), TIME, "keyd", "sign.done", {"session": 17, "key": "ü\n", "ms": 1.23456}
    )
    body = (
        '{"seq":17,"time":"2026-03-02T09:12:31.004Z","daemon":"keyd","event":"sign.done",'
        '"fields":{"session":17,"key":"\\u00fc\\n","ms":1.235},"prev":"' + "ab" * 32 + '"}'
    )
    digest = hashlib.sha256(body.encode()).hexdigest()
    assert data == f'{body[:-1]},"hash":"{digest}"}}\n'.encode()
    assert head == Head(17, digest)
    assert audit.record_untrusted(data).head == head


def test_a_time():
    assert audit.stamp(1_772_442_751.0049) == "2026-03-02T09:12:31.004Z"


@given(FIELDS)
def test_what_is_written_is_read(fields):
    data, head = audit.line(EMPTY, TIME, "broker", "x.y", fields)
    assert data.isascii()
    assert data.count(b"\n") == 1
    record = audit.record_untrusted(data)
    assert record.head == head
    assert list(record.fields) == list(fields)


def test_long_texts_are_cut_and_a_record_stays_readable():
    fields = {f"f{number}": "\U0001f512" * 5000 for number in range(25)}
    data, head = audit.line(EMPTY, TIME, "broker", "x.y", fields)
    assert len(data) <= audit.RECORD_B
    assert audit.record_untrusted(data).head == head


@pytest.mark.parametrize(
    "fields", [{"pin_secret": "1234"}, {"data": b"bytes"}, {"thing": object()}, {"ms": float("nan")}]
)
def test_secrets_and_objects_are_refused(fields):
    with pytest.raises(ValueError):
        audit.line(EMPTY, TIME, "broker", "x", fields)


# --- whatever is done to a trail ------------------------------------------------------------------------


def test_a_whole_trail():
    chain = chain_of(LINES)
    assert (chain.head.seq, chain.daemon, chain.unexplained, chain.recovered) == (8, "broker", "", [])
    assert is_whole([])


@given(st.data())
def test_any_byte_that_is_changed_is_found(data):
    raw = b"".join(LINES)
    place = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    changed = raw[:place] + bytes([other]) + raw[place + 1 :]
    assert not is_whole(changed.splitlines(keepends=True) if b"\r" not in changed else changed.split(b"\n"))


@given(st.data())
def test_any_byte_that_is_taken_out_or_put_in_is_found(data):
    raw = b"".join(LINES)
    place = data.draw(st.integers(0, len(raw) - 1))
    more = data.draw(st.binary(max_size=3))
    changed = raw[:place] + more + raw[place + 1 :]
    if changed != raw:
        lines = [part + b"\n" for part in changed.split(b"\n")]
        lines[-1] = lines[-1][:-1]
        assert not is_whole([one for one in lines if one])


@given(st.integers(0, len(LINES) - 2))
def test_a_line_that_is_missing_is_found(place):
    assert not is_whole(LINES[:place] + LINES[place + 1 :])


@given(st.integers(0, len(LINES) - 1), st.integers(0, len(LINES) - 1))
def test_lines_that_are_swapped_are_found(a, b):
    lines = list(LINES)
    lines[a], lines[b] = lines[b], lines[a]
    assert is_whole(lines) == (a == b)


@given(st.integers(0, len(LINES) - 1), st.integers(0, len(LINES)))
def test_a_line_that_is_repeated_is_found(which, where):
    assert not is_whole(LINES[:where] + [LINES[which]] + LINES[where:])


@given(st.binary(min_size=1, max_size=200))
def test_what_is_appended_is_found(more):
    assert not is_whole([*LINES, *more.splitlines(keepends=True)])


def test_records_of_another_trail_are_found():
    assert not is_whole([*LINES, trail(9)[8].replace(b"session.a", b"session.b")])
    with pytest.raises(Broken, match="follow"):
        chain_of([*LINES[:4], *trail(8, head=audit.Head(0, "1" * 64))[4:]])
    head = audit.record_untrusted(LINES[-1]).head
    with pytest.raises(Broken, match="of keyd, in the trail of broker"):
        chain_of([*LINES, audit.line(head, TIME, "keyd", "x.y", {})[0]])


def test_a_missing_end_is_not_found_without_a_head():
    """What a chain cannot show; heads are told elsewhere for that."""
    assert is_whole(LINES[:-1])


def test_a_missing_beginning_is_found_unless_one_says_so():
    assert not is_whole(LINES[3:])
    assert chain_of(LINES[3:], anywhere=True).head.seq == 8


# --- after a crash --------------------------------------------------------------------------------------


def recovered(lost, head, **more):
    counted = audit.Lost()
    for data in lost:
        counted.add(data)
    return audit.line(head, TIME, "broker", audit.RECOVERED, {**counted.fields(), **more})[0]


HEAD = audit.record_untrusted(LINES[-1]).head


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4))
def test_bytes_that_a_record_accounts_for_are_no_break(parts):
    lost = b"".join(parts)
    record = recovered([lost], HEAD)
    if not lost.endswith(b"\n"):
        lost += b"\n"
    lines = [part + b"\n" for part in lost[:-1].split(b"\n")]
    chain = chain_of([*LINES, *lines, record])
    assert chain.unexplained == ""
    assert [one.seq for one in chain.recovered] == [9]


def test_and_these_bytes_only():
    lost = b'{"seq":9,"time":"2026'
    record = recovered([lost], HEAD)
    assert is_whole([*LINES, lost + b"\n", record])
    for other in (b"", b"\n", lost[:-1] + b"\n", lost + b"x\n", lost + b"\n\n"):
        assert not is_whole([*LINES, other, record])
    assert not is_whole([*LINES, lost + b"\n"])
    assert not is_whole([*LINES[:-1], lost + b"\n", record])
    assert not is_whole([*LINES, record])
    # another record than audit.recovered does not account for anything
    assert not is_whole([*LINES, lost + b"\n", audit.line(HEAD, TIME, "broker", "x.y", {})[0]])


def test_a_record_cannot_hide_in_a_line_that_is_none():
    lost = b"x" * (audit.RECORD_B + 1)
    chain = chain_of(LINES)
    assert chain.take_untrusted(lost) is None
    # the rest of that line, though it could be read as a record
    assert chain.take_untrusted(audit.line(HEAD, TIME, "broker", "x.y", {})[0]) is None
    assert chain.unexplained


# --- anything -------------------------------------------------------------------------------------------


@given(st.binary(max_size=300) | st.sampled_from(LINES).map(lambda line: line[:-40]))
def test_any_bytes_are_no_record(data):
    with pytest.raises(BadRecord):
        audit.record_untrusted(data)


JSON = st.recursive(VALUES | st.floats(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner))


@given(st.dictionaries(st.sampled_from(["seq", "time", "daemon", "event", "fields", "prev", "hash"]), JSON))
def test_any_json_is_a_record_or_refused(value):
    value |= {name: value.get(name, 1) for name in ("seq", "time", "daemon", "event", "fields", "prev", "hash")}
    ordered = {name: value[name] for name in ("seq", "time", "daemon", "event", "fields", "prev", "hash")}
    with pytest.raises(BadRecord):
        audit.record_untrusted(json.dumps(ordered, separators=(",", ":")).encode() + b"\n")


def test_deep_and_long():
    for data in (b"[" * 60_000 + b"}\n", b'{"seq":' + b"9" * 60_000 + b"}\n", b"x" * audit.RECORD_B + b"}\n"):
        with pytest.raises(BadRecord):
            audit.record_untrusted(data)


@given(st.lists(st.sampled_from([*LINES, b"\n", b"x", b"{}\n"]) | st.binary(max_size=20), max_size=12))
def test_any_lines_are_taken_or_break_the_chain(lines):
    try:
        chain_of(lines)
    except Broken as error:
        assert str(error)
