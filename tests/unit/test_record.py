"""Records are values: compared and hashed by their fields, small, and without secrets in their text."""

from dataclasses import field, fields, replace

import pytest

from tlspool_common.record import named_record, record


@record
class Point:
    """Two numbers."""

    x: int
    y: int = 0
    pin_secret: bytes = field(default=b"", repr=False)


@named_record
class Named:
    """A number by name."""

    x: int


def test_equal_fields_are_the_same_value():
    assert Point(1, 2) == Point(1, y=2)
    assert Point(1, 2) != Point(2, 1)
    assert Named(x=1) != Point(1)
    assert len({Point(1, 2), Point(1, 2), Point(1)}) == 2


def test_fields_are_all_there_is():
    point = Point(1)
    assert not hasattr(point, "__dict__")
    with pytest.raises(AttributeError):
        point.z = 1
    assert [one.name for one in fields(Point)] == ["x", "y", "pin_secret"]
    assert replace(point, y=5) == Point(1, 5)


def test_a_secret_is_not_shown():
    assert repr(Point(1, pin_secret=b"1234")) == "Point(x=1, y=0)".replace("Point", Point.__qualname__)


def test_messages_have_their_fields_by_name():
    with pytest.raises(TypeError):
        Named(1)


def test_a_record_can_be_matched():
    match Point(3, 4):
        case Point(x, y):
            assert (x, y) == (3, 4)
