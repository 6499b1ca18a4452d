"""setup.py: provider and relay as plain shared objects, in a wheel for any Python 3, or a clear word why not."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.fixtures.native import ROOT

OBJECTS = {"tlspool_provider.so": b"OSSL_provider_init", "tlspool_relay.so": b"relay_open"}


@pytest.fixture
def tree(tmp_path):
    """A copy of what is built, without what was built."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    for package in {name.partition(".")[0] for name in settings["options"]["packages"].split()}:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(ROOT / "systemd", tmp_path / "systemd")
    for name in ("setup.py", "setup.cfg", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").write_text("read me")
    return tmp_path


def build(tree, *command, **environment):
    return subprocess.run(
        [sys.executable, "setup.py", *command],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel(tree):
    done = build(tree, "-q", "bdist_wheel")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tree / "dist").iterdir()
    assert wheel.name.split("-")[2:4] == ["py3", "none"]
    assert "linux" in wheel.name.split("-")[4]
    with zipfile.ZipFile(wheel) as archive:
        binaries = sorted(name for name in archive.namelist() if name.endswith(".so"))
        assert binaries == [f"tlspool_worker/native/{name}" for name in OBJECTS]
        for name, symbol in zip(binaries, OBJECTS.values(), strict=True):
            assert symbol in archive.read(name)
            assert b"PyInit" not in archive.read(name)


def test_in_place(tree):
    done = build(tree, "-q", "build_ext", "--inplace")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tree / "tlspool_worker" / "native").glob("*.so")) == sorted(OBJECTS)


def test_headers_are_missing(tree):
    done = build(tree, "build_ext", "--inplace", CC="gcc -nostdinc")
    assert done.returncode != 0
    assert "apt install gcc libssl-dev" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_compiler(tree):
    done = build(tree, "build_ext", "--inplace", CC=str(tree / "no-compiler"))
    assert done.returncode != 0
    assert "apt install gcc libssl-dev" in done.stderr


def test_it_builds_where_no_wheel_can_be_made():
    """As in a new virtual environment of Debian 12: setuptools 66, and no wheel."""
    hide = "sys.modules['setuptools.command.bdist_wheel'] = sys.modules['wheel'] = None"
    program = f"import sys; {hide}; sys.argv = ['setup.py', '--name']; exec(open('setup.py').read())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "tlspool", done.stderr
