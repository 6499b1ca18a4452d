"""`make demo`, when all is installed: what it shows, to root and to an ordinary user."""

import os
import re
import subprocess
import sys

import pytest

from tests.fixtures.native import ROOT

DEMO = [sys.executable, str(ROOT / "examples/demo.py")]
ROW = re.compile(r"^ +\d+  (tlspool-.{34}) (yes|-|\?) +(yes|-|\?) +(yes|-|\?)$", re.MULTILINE)
KINDS = ("tlspool-broker: looker", "tlspool-keyd: token", "tlspool-worker: master", "tlspool-worker: worker")


@pytest.mark.parametrize("who", ["root", "ordinary"])
def test_the_demo(who):
    # Of root's powers an ordinary user has none: processes that have closed themselves stay closed.
    is_root = os.geteuid() == 0
    ordinary = ["setpriv", "--bounding-set", "-all"] if is_root and who == "ordinary" else []
    done = subprocess.run([*ordinary, *DEMO], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "client: it said: hello over TLS" in done.stdout
    assert "openssl: Verification: OK" in done.stdout
    assert "curl: 200 over TLS, verify result 0" in done.stdout
    assert done.stdout.count("sign.done") == 4
    rows = {title.rstrip(): marks for title, *marks in ROW.findall(done.stdout)}
    for kind in KINDS:
        assert any(title.startswith(kind) for title in rows), done.stdout
    marks = next(marks for title, marks in rows.items() if title.startswith("tlspool-keyd: token"))
    assert marks == (["yes", "-", "-"] if is_root and who == "root" else ["?", "?", "?"])
