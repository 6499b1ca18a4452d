"""Every message goes round; nothing else comes in."""

import dataclasses
from enum import IntEnum
from typing import get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common.codec import HEADER, BadFrame, Bits, Items, decode_untrusted, encode, header_untrusted
from tlspool_common.messages import TABLE, EndSession, KeydHello, SignHandshake, TrustAnchor


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
