"""install-units writes what works, or says what is in the way; it never touches what is not its own."""

import json
import stat

import pytest

from tlspool_admin.__main__ import main
from tlspool_admin.commands import install_units
from tlspool_common.errors import Code, PoolError


@pytest.fixture
def prefix(tmp_path):
    """An environment with what is looked at, and no more."""
    directory = tmp_path / "venv"
    (directory / "bin").mkdir(parents=True)
    for name in ("tlspool", "tlspool-broker", "tlspool-keyd", "tlspool-worker", "python"):
        (directory / "bin" / name).write_text("#!/bin/sh\n")
        (directory / "bin" / name).chmod(0o755)
    return directory


@pytest.fixture
def anywhere(monkeypatch):
    """Leave out that tests live in a directory that units do not see."""
    monkeypatch.setattr(install_units, "check_prefix", lambda _prefix: None)


def run(command, root, *words):
    return main([command, "--root", str(root), *map(str, words)])


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_is_written(tmp_path, prefix, anywhere, capsys):
    root = tmp_path / "host"
    assert run("install-units", root, "--prefix", prefix, "--check") == 0
    assert not root.exists()
    assert "write" in capsys.readouterr().out
    assert run("install-units", root, "--prefix", prefix) == 0
    assert "systemctl enable --now tlspool.target tlspool-broker-control.socket" in capsys.readouterr().out
    made = files(root)
    assert {"etc/tlspool.conf", "etc/tlspool/softhsm2.conf", "etc/sysusers.d/tlspool.conf"} < made
    assert len([name for name in made if name.startswith("etc/systemd/system/")]) == 9
    unit = (root / "etc/systemd/system/tlspool-broker.service").read_text()
    assert f"ExecStart={prefix}/bin/tlspool-broker --config" in unit
    assert "/usr/bin/" not in unit
    for name in made:
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o644

    assert run("install-units", root, "--prefix", prefix, "--json") == 0  # once more: nothing to do
    answer = json.loads(capsys.readouterr().out)
    assert {file["action"] for file in answer["files"]} == {"leave"}

    (root / "etc/tlspool.conf").write_text("log_level debug\n")
    assert run("install-units", root, "--prefix", tmp_path) == 0  # another environment
    assert (
        f"ExecStart={tmp_path}/bin/tlspool-broker" in (root / "etc/systemd/system/tlspool-broker.service").read_text()
    )
    assert (root / "etc/tlspool.conf").read_text() == "log_level debug\n"


def test_what_is_removed(tmp_path, prefix, anywhere, capsys):
    root = tmp_path / "host"
    run("install-units", root, "--prefix", prefix)
    foreign = root / "etc/systemd/system/tlspool-mine.service"
    foreign.write_text("[Unit]\n")
    before = files(root)
    assert run("uninstall-units", root, "--check") == 0
    assert files(root) == before
    assert run("uninstall-units", root) == 0
    assert files(root) == {"etc/tlspool.conf", "etc/tlspool/softhsm2.conf", "etc/systemd/system/tlspool-mine.service"}
    assert "remove" in capsys.readouterr().out
    assert run("uninstall-units", root) == 0


def test_what_is_not_ours_stays(tmp_path, prefix, anywhere, capsys):
    root = tmp_path / "host"
    path = root / "etc/systemd/system/tlspool.target"
    path.parent.mkdir(parents=True)
    path.write_text("[Unit]\nDescription=mine\n")
    assert run("install-units", root, "--prefix", prefix) == 1
    assert "was not written by install-units" in capsys.readouterr().err
    assert files(root) == {"etc/systemd/system/tlspool.target"}


def test_beside_the_debian_package(tmp_path, prefix, anywhere, capsys):
    packaged = tmp_path / "lib/systemd/system/tlspool-broker.service"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    assert run("install-units", tmp_path, "--prefix", prefix) == 1
    assert "the Debian package has units of its own" in capsys.readouterr().err


def test_an_environment_that_units_cannot_use(tmp_path, prefix, monkeypatch):
    def refusal():
        with pytest.raises(PoolError) as caught:
            install_units.check_prefix(prefix)
        assert caught.value.code is Code.UNITS_UNFIT
        return caught.value.detail

    monkeypatch.setattr(install_units, "_HIDDEN", (tmp_path,))
    assert f"the units see nothing in {tmp_path}" in refusal()
    monkeypatch.setattr(install_units, "_HIDDEN", ())
    prefix.chmod(0o700)
    assert "other users may not pass" in refusal()
    prefix.chmod(0o755)
    (prefix / "bin/tlspool-keyd").unlink()
    assert refusal() == f"there is no {prefix}/bin/tlspool-keyd"


def test_python_is_followed_to_where_it_is(tmp_path, prefix, monkeypatch):
    """A virtual environment's Python is a link, often into a home directory."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "python3").write_text("")
    (home / "python3").chmod(0o755)
    (prefix / "bin/python").unlink()
    (prefix / "bin/python").symlink_to(home / "python3")
    monkeypatch.setattr(install_units, "_HIDDEN", (home,))
    with pytest.raises(PoolError, match="the units see nothing in"):
        install_units.check_prefix(prefix)
