"""Every message goes round; nothing else comes in."""

import dataclasses
from enum import IntEnum
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common import codec
from tlspool_common.codec import HEADER, BadFrame, Bits, Items, decode_untrusted, encode, header_untrusted
from tlspool_common.messages import (
    BY_MESSAGE,
    TABLE,
    EndSession,
    Finding,
    KeydHello,
    RemoteShown,
    SignHandshake,
    TrustAnchor,
)


def values(hint):
    """A strategy for one field, from its annotation alone."""
    if hint is bool:
        return st.booleans()
    base, bound, *_ = get_args(hint)
    if isinstance(bound, Bits):
        if issubclass(base, IntEnum):
            return st.sampled_from(list(base))
        return st.integers(0, (1 << bound.width) - 1)
    if isinstance(bound, Items):
        item = get_args(base)[0]
        return st.lists(plain(item, min(bound.size_b, 40)), max_size=min(bound.count, 4)).map(tuple)
    assert get_origin(hint)
    return plain(base, min(bound, 300))


def plain(kind, bound):
    if kind is bytes:
        return st.binary(max_size=bound)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=bound // 4)


def messages_of(kind):
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in dataclasses.fields(kind)})


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.message.__name__)
def test_round_trip(row):
    @given(messages_of(row.message), st.integers(0, 2**32 - 1))
    def check(message, exchange):
        frame = encode(row.code, exchange, message)
        assert header_untrusted(frame) == (row.code, exchange)
        assert decode_untrusted(row.message, frame) == message
        with pytest.raises(BadFrame):
            decode_untrusted(row.message, frame + b"\0")
        if len(frame) > HEADER.size:
            with pytest.raises(BadFrame):
                decode_untrusted(row.message, frame[:-1])

    check()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (SignHandshake(grant=bytes(1025), scheme=0, content=b""), "SignHandshake.grant: 1025 bytes where at most 1024"),
        (EndSession(session_id=1, alert=256), "EndSession.alert: 256 is no unsigned 8-bit"),
        (EndSession(session_id=-1, alert=0), "EndSession.session_id: -1 is no unsigned 64-bit"),
        (KeydHello(protocol=1, pid=1, grant_secret="text"), "KeydHello.grant_secret: str where bytes"),
    ],
)
def test_what_is_out_of_bounds_is_not_sent(message, text):
    with pytest.raises(BadFrame, match=text):
        encode(0, 0, message)


def test_an_announced_length_is_held_against_the_bound_before_it_is_read():
    frame = bytearray(encode(0x54, 0, TrustAnchor(generation=1, for_sides=3, certificate=b"x")))
    frame[HEADER.size + 9 : HEADER.size + 11] = b"\xff\xff"
    with pytest.raises(BadFrame, match="65535 bytes announced where at most 16384"):
        decode_untrusted(TrustAnchor, bytes(frame))


# --- ends that repeat themselves --------------------------------------------------------------------------


CODE = BY_MESSAGE[RemoteShown].code


def shown(**fields):
    """A description in which everything is small."""
    texts = {"cipher": "c", "group": "g", "detail": "", "subject": "CN=x", "stapled_detail": ""}
    octets = {"anchor_sha256": bytes(32), "leaf_sha256": bytes(32), "spki_sha256": b""}
    lists = dict.fromkeys(("names", "strengths", "usages", "extensions", "links", "crl_urls", "ocsp_urls", "chain"), ())
    numbers = {"session_id": 1, "tls_version": 0x0304, "fault": 0, "not_after_s": 1, "stapled": Finding.NONE}
    flags = {"self_signed": False, "must_staple": False}
    return RemoteShown(**{**texts, **octets, **lists, **numbers, **flags, **fields})


@pytest.fixture
def forgotten():
    repeats = codec._repeats(RemoteShown)
    repeats.written.clear()
    repeats.read.clear()
    return repeats


def in_full(message):
    """What the field's own writers make of it."""
    out = bytearray(HEADER.pack(CODE, 7))
    codec._write(message, codec.plan(type(message)), out)
    return bytes(out)


@given(st.lists(messages_of(RemoteShown), min_size=1, max_size=4), st.lists(st.integers(0, 3), max_size=8))
def test_what_is_remembered_changes_nothing(messages, order):
    for number in order:
        message = messages[number % len(messages)]
        frame = encode(CODE, 7, message)
        assert frame == in_full(message)
        found = decode_untrusted(RemoteShown, frame)
        assert found == message
        assert [type(value) for value in vars_of(found)] == [type(value) for value in vars_of(message)]


def vars_of(message):
    return [getattr(message, field.name) for field in dataclasses.fields(message)]


def test_only_the_end_of_a_message_is_remembered(forgotten):
    for number in range(3):
        message = shown(session_id=number, fault=number, detail=f"fault {number}")
        assert decode_untrusted(RemoteShown, encode(CODE, number, message)) == message
    assert (len(forgotten.written), len(forgotten.read)) == (1, 1)
    for stapled in (Finding.GOOD, Finding.REVOKED):
        message = shown(stapled=stapled, stapled_detail=stapled.name)
        assert decode_untrusted(RemoteShown, encode(CODE, 0, message)) == message
    assert (len(forgotten.written), len(forgotten.read)) == (3, 3)


def test_what_is_equal_and_of_another_type_is_not_the_same(forgotten):
    encode(CODE, 0, shown(not_after_s=1))
    with pytest.raises(BadFrame, match=r"RemoteShown.not_after_s: 1.0 is no unsigned"):
        encode(CODE, 0, shown(not_after_s=1.0))
    assert encode(CODE, 0, shown(subject="CN=x", chain=())) == encode(CODE, 0, shown())
    with pytest.raises(BadFrame, match=r"RemoteShown.chain: no tuple"):
        encode(CODE, 0, shown(chain=[]))


def test_it_is_bounded(forgotten):
    for number in range(2 * codec.REMEMBERED + 10):
        decode_untrusted(RemoteShown, encode(CODE, 0, shown(not_after_s=number)))
        assert max(len(forgotten.written), len(forgotten.read)) <= codec.REMEMBERED
    before = len(forgotten.written), len(forgotten.read)
    long = shown(chain=(bytes(codec.REMEMBERED_B),))
    assert decode_untrusted(RemoteShown, encode(CODE, 0, long)) == long
    assert (len(forgotten.written), len(forgotten.read)) == before


def test_what_is_no_message_is_never_remembered(forgotten):
    frame = encode(CODE, 0, shown())
    for bad in (frame + b"\0", frame[:-1], frame[: HEADER.size + 5]):
        for _ in range(2):
            with pytest.raises(BadFrame, match="RemoteShown"):
                decode_untrusted(RemoteShown, bad)
    assert not forgotten.read
