"""Where the broker writes down what applications account for: whole, its own, and there again."""

import stat

import pytest

from tlspool_broker.shelf import DIRECTORY, InDirectory, InMemory
from tlspool_common.errors import Code, PoolError


@pytest.fixture(params=["memory", "directory"])
def shelf(request, tmp_path):
    return InMemory() if request.param == "memory" else InDirectory(tmp_path)


def test_what_is_put_is_there_until_it_is_dropped(shelf):
    assert shelf.load() == {}
    shelf.put("a", b"1")
    shelf.put("b", b"2")
    shelf.put("a", b"3")
    assert shelf.load() == {"a": b"3", "b": b"2"}
    shelf.drop("a")
    shelf.drop("a")
    assert shelf.load() == {"b": b"2"}


def test_another_broker_has_the_same(tmp_path):
    InDirectory(tmp_path).put("a", b"1")
    assert InDirectory(tmp_path).load() == {"a": b"1"}


def test_nobody_else_can_read_it(tmp_path):
    InDirectory(tmp_path).put("a", b"1")
    directory = tmp_path / DIRECTORY
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o600


def test_what_was_half_written_does_not_count(tmp_path):
    shelf = InDirectory(tmp_path)
    shelf.put("a", b"1")
    (tmp_path / DIRECTORY / "b.new").write_bytes(b"hal")
    assert shelf.load() == {"a": b"1"}
    assert [path.name for path in (tmp_path / DIRECTORY).iterdir()] == ["a"]


def test_a_directory_that_cannot_be_had(tmp_path):
    (tmp_path / DIRECTORY).write_bytes(b"")
    shelf = InDirectory(tmp_path)
    with pytest.raises(PoolError) as caught:
        shelf.load()
    assert caught.value.code is Code.ACCOUNT_UNKEPT
    with pytest.raises(PoolError) as caught:
        shelf.put("a", b"1")
    assert caught.value.code is Code.ACCOUNT_UNKEPT
    shelf.drop("a")
