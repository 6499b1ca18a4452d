"""What outlives a broker: its secret, and that no number is given twice."""

import itertools
import stat

import pytest

from tlspool_broker.lasting import BLOCK, Lasting, in_directory, in_memory
from tlspool_common.errors import Code, PoolError


def test_numbers_are_never_given_twice(tmp_path):
    seen = set()
    for _ in range(5):  # brokers, each killed in the middle of its work
        lasting = in_directory(tmp_path)
        assert lasting.first == max(seen, default=0) // BLOCK * BLOCK + 1 or lasting.first > max(seen)
        numbers = [lasting.number() for _ in range(BLOCK + BLOCK // 2)]
        assert numbers == sorted(numbers)
        assert not seen & set(numbers)
        seen |= set(numbers)


def test_the_secret_lasts_and_keys_differ_by_purpose(tmp_path):
    one, other = in_directory(tmp_path), in_directory(tmp_path)
    assert one.key("records") == other.key("records") != one.key("control keys")
    assert len(one.key("records")) == 32
    assert in_directory_elsewhere(tmp_path).key("records") != one.key("records")


def in_directory_elsewhere(tmp_path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    return in_directory(directory)


def test_nobody_else_can_read_them(tmp_path):
    in_directory(tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["session-numbers", "session-secret"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_secret_that_was_cut_is_replaced(tmp_path, content):
    (tmp_path / "session-secret").write_bytes(content)
    first = in_directory(tmp_path).key("records")
    assert in_directory(tmp_path).key("records") == first


def test_a_file_that_a_crash_left_behind_is_no_hindrance(tmp_path):
    (tmp_path / "session-numbers.new").write_text("rubbish")
    assert in_directory(tmp_path).number() == 1


@pytest.mark.parametrize("content", [b"", b"-5", b"0", b"1e9", b"\xff", b"9" * 30, "\u0663".encode()])
def test_numbers_that_are_none_are_refused_rather_than_begun_anew(tmp_path, content):
    (tmp_path / "session-numbers").write_bytes(content)
    with pytest.raises(PoolError) as caught:
        in_directory(tmp_path)
    assert caught.value.code is Code.SETTING_INVALID
    assert str(tmp_path) in caught.value.detail


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(PoolError) as caught:
        in_directory(tmp_path / "nothing")
    assert caught.value.code is Code.SETTING_INVALID


def test_a_block_is_reserved_before_its_first_number_is_used():
    reserved = []

    def reserve():
        reserved.append(1 + len(reserved) * BLOCK)
        return reserved[-1]

    lasting = Lasting(b"s", reserve)
    assert [lasting.number() for _ in range(BLOCK)][-1] == BLOCK
    assert len(reserved) == 1
    assert (lasting.number(), len(reserved)) == (BLOCK + 1, 2)


def test_in_memory():
    counter = itertools.count()
    lasting = in_memory(lambda size: bytes([next(counter)]) * size)
    assert [lasting.number() for _ in range(BLOCK + 2)] == list(range(1, BLOCK + 3))
