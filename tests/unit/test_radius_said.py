"""What is made of an answer's attributes (tests/playbook/test_radius_asking.py has the rest)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_radius.packets import BadPacket, Packet
from tlspool_radius.said import number_untrusted, printable, read_untrusted, tags_untrusted


def packet(*pairs, code=2):
    return Packet(code, 1, bytes(16), b"", list(pairs))


@given(raw=st.binary(max_size=2000), most_b=st.integers(0, 300))
def test_text_is_printable_and_bounded(raw, most_b):
    text = printable(raw, most_b)
    assert len(text.encode()) <= most_b
    assert text.isprintable()


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs", "Cf", "Co", "Cn"))))
def test_what_is_printable_stays_as_it_is(text):
    assert printable(text.encode(), 10_000) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\nb\x1b[0m\x00", "a\\x0ab\\x1b[0m\\x00"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u202eevil".encode(), "\\u202eevil"),
        ("grüße".encode(), "grüße"),
    ],
)
def test_what_is_not_is_escaped(raw, text):
    assert printable(raw, 100) == text


def test_numbers():
    assert number_untrusted(packet(), "Session-Timeout") == 0
    assert number_untrusted(packet((27, b"\0\0\1\0")), "Session-Timeout") == 256
    for pairs in ([(27, b"\0\0\0")], [(27, b"")], [(27, bytes(5))], [(27, bytes(4)), (27, bytes(4))]):
        with pytest.raises(BadPacket):
            number_untrusted(packet(*pairs), "Session-Timeout")


def test_tags():
    cut = []
    assert tags_untrusted(packet((11, b"a"), (11, b""), (11, b"a"), ((44469, 12), b"b\n")), cut) == ("a", "b\\x0a")
    assert cut == []
    assert len(tags_untrusted(packet(*[(11, str(number).encode()) for number in range(20)]), cut)) == 16
    assert cut == ["tags: 16 of 20 count"]


@pytest.mark.parametrize(("value", "terminate"), [(0, 0), (1, 1), (2, 0), (2**32 - 1, 0)])
def test_termination_actions(value, terminate):
    assert read_untrusted(packet((29, value.to_bytes(4, "big")))).terminate == terminate


def test_messages_are_one_text():
    said = read_untrusted(packet((18, b"no"), (18, b""), (18, b"way" * 500), code=3))
    assert said.message.startswith("no wayway")
    assert len(said.message) == 1024
