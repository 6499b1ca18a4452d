"""Names of users: those of the file, read again when it changes, and numbers for all others."""

import pytest

from tlspool_broker.usernames import UserNames


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0:root:/root:/bin/sh\npostfix:x:101:103::/var/spool/postfix:/usr/sbin/nologin\n")
    return path


def test_names(path):
    names = UserNames(path)
    assert [names(uid) for uid in (0, 101, 1000)] == ["root", "postfix", "1000"]


def test_a_change_is_seen(path):
    names = UserNames(path)
    assert names(101) == "postfix"
    path.write_text("exim:x:101:103\n")
    assert names(101) == "exim"
    path.unlink()
    assert names(101) == "exim"


def test_of_two_names_for_a_user_the_first_counts(path):
    path.write_text("first:x:7:7\nsecond:x:7:7\n")
    assert UserNames(path)(7) == "first"


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"a:x\n", b"a:x:b:c\n", b"a:x:99999999999:0\n", b"\xff\n:\n::\n"]
)
def test_lines_that_say_nothing(path, content):
    path.write_bytes(content)
    assert UserNames(path)(7) == "7"


def test_a_file_that_is_not_there(tmp_path):
    assert UserNames(tmp_path / "none")(0) == "0"


def test_the_host_knows_root():
    assert UserNames()(0) == "root"
