"""The file with shared secrets."""

import os
from pathlib import Path

import pytest

from tlspool_radius.secrets_file import FILE_B, SECRET_B, BadSecrets, parse_untrusted, read

LINES = b"""\
# a comment

10.0.0.1            of all ports # and this is not a comment
10.0.0.1:1813\tof one port
[2001:DB8::1]:1812  six with port
2001:db8::2         six
[2001:db8::3]       six in brackets
Radius.Example:18120  of a name
short               seven77
"""


def test_secrets_by_server():
    found = parse_untrusted(LINES.replace(b"\n", b"\r\n"))
    assert found.of("10.0.0.1", 1812) == found.of("10.0.0.1") == b"of all ports # and this is not a comment"
    assert found.of("10.0.0.1", 1813) == b"of one port"
    assert found.of("2001:db8::1", 1812) == b"six with port"
    assert found.of("2001:db8::1", 1813) == b""
    assert found.of("2001:db8::2", 1813) == b"six"
    assert found.of("2001:db8::3") == b"six in brackets"
    assert found.of("radius.example", 18120) == b"of a name"
    assert found.of("elsewhere", 1812) == b""
    assert found.short == ("line 6", "line 9")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"10.0.0.1", "line 1 must be SERVER SECRET"),
        (b"\n10.0.0.1:0 secret77", "line 2 has a port"),
        (b"10.0.0.1:99999 secret77", "line 1 has a port"),
        (b"10.0.0.1:x secret77", "line 1 has a port"),
        (b"10.0.0.1.5 secret77", "line 1 does not begin with a server"),
        (b"[::1 secret77", "line 1 does not begin with a server"),
        (b"a_:b_:c secret77", "line 1 does not begin with a server"),
        (b"\xff\xfe secret77", "line 1 does not begin with a server"),
        (b"a/b secret77", "line 1 does not begin with a server"),
        (b"10.0.0.1 secret77\n10.0.0.1 secret77", "line 2 has the server of an earlier line"),
        (b"10.0.0.1 " + b"s" * (SECRET_B + 1), f"more than {SECRET_B} bytes"),
        (b"10.0.0.1 secret\x0077", "NUL"),
        (b"#" * (FILE_B + 1), f"more than {FILE_B} bytes"),
    ],
)
def test_lines_that_cannot_be_read(data, why):
    with pytest.raises(BadSecrets, match=why) as caught:
        parse_untrusted(data)
    assert "secret77" not in str(caught.value)


def test_no_secret_is_shown():
    assert "port" not in repr(parse_untrusted(LINES))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "secrets"
    path.write_bytes(LINES)
    path.chmod(0o600)
    return path


def test_a_file(file):
    assert read(file).of("10.0.0.1", 1813) == b"of one port"
    file.chmod(0o400)
    assert read(file).of("10.0.0.1", 1813) == b"of one port"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o601])
def test_a_file_that_others_can_read(file, mode):
    file.chmod(mode)
    with pytest.raises(BadSecrets, match=f"with mode {mode:04o}: chmod 0600"):
        read(file)


def test_what_is_no_file(tmp_path):
    for path, why in ((tmp_path, "regular file"), (tmp_path / "none", "No such file"), (Path("/dev/null"), "regular")):
        with pytest.raises(BadSecrets, match=why):
            read(path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(BadSecrets, match="regular file"):
        read(fifo)


def test_a_file_of_somebody_else(file, monkeypatch):
    if (owner := os.geteuid()) == 0:
        owner = 12345
        os.chown(file, owner, owner)
    else:  # only root gives files away; so we are somebody else
        monkeypatch.setattr("tlspool_radius.secrets_file.os.geteuid", lambda: owner + 1)
    with pytest.raises(BadSecrets, match=f"belongs to user {owner}"):
        read(file)


def test_a_credential(file, monkeypatch, tmp_path):
    """An ACL for the unit's user shows as permissions of the group; the world has none, and other files have no ACL."""
    file.chmod(0o440)
    for directory in ("", "relative", str(tmp_path.parent), str(tmp_path / "credentials")):
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)
        with pytest.raises(BadSecrets, match="with mode 0440"):
            read(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read(file).of("10.0.0.1", 1813) == b"of one port"
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(BadSecrets, match="with mode 0440"):
        read(file.rename(tmp_path / "elsewhere" / "secrets"))
    file = (tmp_path / "elsewhere" / "secrets").rename(tmp_path / "secrets")
    file.chmod(0o444)
    with pytest.raises(BadSecrets, match="with mode 0444"):
        read(file)
