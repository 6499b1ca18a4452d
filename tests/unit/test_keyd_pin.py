"""Where the PIN comes from, and when it counts as another."""

import os

import pytest

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_keyd import pin
from tlspool_keyd.pin import Origin, PinSource, find


def write(path, text, mode=0o600):
    path.write_bytes(text)
    path.chmod(mode)
    return path


def never():
    raise AssertionError("nobody is to be asked")


def refusal(path, origin=Origin.FILE):
    with pytest.raises(PoolError) as raised:
        PinSource(origin, path)
    return raised.value


def test_the_order_of_sources(tmp_path):
    file = write(tmp_path / "pin", b"of the file\n")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path / "c")}
    assert find(file, credentials, never).pin_secret == b"of the file"  # no credential of that name
    (tmp_path / "c").mkdir()
    write(tmp_path / "c" / "pkcs11-pin", b"of systemd", 0o440)
    found = find(file, credentials, never)
    assert (found.origin, found.pin_secret) == (Origin.CREDENTIAL, b"of systemd")
    assert find(file, {}, never).origin is Origin.FILE
    assert find(file, {"CREDENTIALS_DIRECTORY": "relative"}, never).origin is Origin.FILE
    found = find(None, {}, lambda: "typed")
    assert (found.origin, found.pin_secret) == (Origin.TERMINAL, b"typed")
    assert find(None, {}, lambda: "").origin is Origin.NONE
    assert find(None, {}, None).pin_secret == b""


def test_a_pin_typed_that_is_too_long():
    with pytest.raises(PoolError) as raised:
        find(None, {}, lambda: "7" * (limits.PIN_B + 1))
    assert "777" not in str(raised.value)


@pytest.mark.parametrize("text", [b"1234", b"1234\n", b"1234\r\n", b"1234\n\n"])
def test_the_end_of_the_line_is_not_part_of_the_pin(tmp_path, text):
    assert PinSource(Origin.FILE, write(tmp_path / "pin", text)).pin_secret == b"1234"


@pytest.mark.parametrize("text", [b" 12 34 ", "žluťoučký".encode(), b"x" * limits.PIN_B, b"#1"])
def test_pins_are_taken_as_they_are(tmp_path, text):
    assert PinSource(Origin.FILE, write(tmp_path / "pin", text + b"\n")).pin_secret == text


@pytest.mark.parametrize("text", [b"", b"\n", b"12\n34", b"12\x0034", b"x" * (limits.PIN_B + 1), b"x" * 100_000])
def test_what_is_no_pin(tmp_path, text):
    error = refusal(write(tmp_path / "pin", text))
    assert error.code is Code.SETTING_INVALID
    assert "one line of 1 to 127 bytes" in str(error)
    assert "xx" not in str(error)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_modes_that_keep_others_out(tmp_path, mode):
    assert PinSource(Origin.FILE, write(tmp_path / "pin", b"1234", mode)).pin_secret == b"1234"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666, 0o601])
def test_modes_that_do_not(tmp_path, mode):
    error = refusal(write(tmp_path / "pin", b"1234", mode))
    assert error.code is Code.PIN_FILE_EXPOSED
    assert f"has mode {mode:04o}" in str(error)
    assert "1234" not in str(error)


def test_a_credential_may_be_for_its_group_but_not_for_the_world(tmp_path):
    assert PinSource(Origin.CREDENTIAL, write(tmp_path / "a", b"1234", 0o440)).pin_secret == b"1234"
    assert refusal(write(tmp_path / "b", b"1234", 0o444), Origin.CREDENTIAL).code is Code.PIN_FILE_EXPOSED


def test_a_file_of_another_user(tmp_path, monkeypatch):
    path = write(tmp_path / "pin", b"1234")
    owner = path.stat().st_uid
    if os.getuid() == 0:
        os.chown(path, 4711, -1)
        owner = 4711
    monkeypatch.setattr(pin.os, "geteuid", lambda: owner + 1)
    error = refusal(path)
    assert error.code is Code.PIN_FILE_EXPOSED
    assert f"belongs to user {owner}" in str(error)


def test_what_is_no_file(tmp_path, no_leaks):
    assert "No such file" in str(refusal(tmp_path / "nothing"))
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "must be a regular file" in str(refusal(tmp_path / "fifo"))
    (tmp_path / "directory").mkdir(0o700)
    assert "must be a regular file" in str(refusal(tmp_path / "directory"))


def test_a_link_counts_as_what_it_points_to(tmp_path):
    write(tmp_path / "pin", b"1234")
    (tmp_path / "link").symlink_to("pin")
    assert PinSource(Origin.FILE, tmp_path / "link").pin_secret == b"1234"


def test_only_another_pin_is_a_change(tmp_path):
    path = write(tmp_path / "pin", b"1234\n")
    source = PinSource(Origin.FILE, path)
    assert not source.look()
    os.utime(path)
    assert not source.look()
    write(path, b"1234")
    assert not source.look()
    write(path, b"5678")
    assert source.look()
    assert source.pin_secret == b"5678"
    assert not source.look()
    write(tmp_path / "new", b"9999")
    os.replace(tmp_path / "new", path)
    assert source.look()


def test_a_source_that_goes_bad_is_told_once_and_the_pin_stays(tmp_path):
    path = write(tmp_path / "pin", b"1234\n")
    source = PinSource(Origin.FILE, path)
    for spoil in (lambda: path.chmod(0o644), path.unlink, lambda: write(path, b"")):
        spoil()
        with pytest.raises(PoolError):
            source.look()
        assert not source.look()
        assert source.pin_secret == b"1234"
    write(path, b"5678")
    assert source.look()


def test_other_sources_never_change():
    assert not PinSource(Origin.TERMINAL, pin_secret=b"1234").look()
    assert not PinSource(Origin.NONE).look()


def test_a_source_does_not_show_its_pin():
    assert repr(PinSource(Origin.TERMINAL, pin_secret=b"1234")) == "PinSource(terminal)"
