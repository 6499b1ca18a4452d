"""The package as a file: by lintian's word, and the same for the same tree."""

import re
import subprocess

from tests.system.conftest import build


def test_lintian_has_nothing_to_say(packages):
    done = subprocess.run(["lintian", "--fail-on", "error,warning", str(packages[0])], capture_output=True, text=True)
    # Manual pages are there for the commands that people use: daemons and tools of earlier pools have --help.
    said = [line for line in done.stdout.splitlines() if line[:2] in ("E:", "W:") and "no-manual-page" not in line]
    assert not said


def test_the_same_tree_gives_the_same_package(packages, tmp_path):
    assert build(tmp_path, "0.1.0").read_bytes() == packages[0].read_bytes()


def test_what_is_in_it(packages):
    listing = subprocess.run(["dpkg-deb", "-c", str(packages[0])], capture_output=True, text=True, check=True).stdout
    owners = {line.split()[1] for line in listing.splitlines()}
    assert owners == {"root/root"}
    assert not re.search(r"__pycache__|\.pyc|/tests/|direct_url|RECORD$", listing)
    control = subprocess.run(["dpkg-deb", "-f", str(packages[0])], capture_output=True, text=True, check=True).stdout
    assert "python3 (<< 3.12)" in control
