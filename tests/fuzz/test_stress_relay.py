"""Invariant: see stress_relay.c."""

import re
import shutil
import subprocess

import pytest

from tests.fixtures.native import NATIVE, ROOT, compile_c

PLANS = 6
SOURCES = (ROOT / "tests" / "fuzz" / "stress_relay.c", NATIVE / "relay.c", NATIVE / "relay_thread.c")
LIBRARIES = ("-lssl", "-lcrypto", "-pthread")
# Function pointers are cast because libssl's have types of their own
COMMON = ("-g", "-O1", "-fno-omit-frame-pointer", "-Wno-cast-function-type", "-pthread", f"-I{NATIVE}")


@pytest.mark.parametrize(("sanitizers", "seed"), [("address,undefined", 1), ("thread", 2)])
def test_nothing_is_lost_under_sanitizers(tmp_path, sanitizers, seed):
    assert shutil.which("clang"), "clang is missing: apt install clang"
    flags = (*COMMON, f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all")
    program = compile_c(tmp_path / "stress", *SOURCES, *LIBRARIES, compiler="clang", flags=flags)
    command = [program, "150", "16", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "unexpected memory mapping" in done.stderr:  # addresses are more random here than the sanitizer can bear
        done = subprocess.run(["setarch", "-R", *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    tally = [sum(map(int, counts.split())) for counts in re.findall(r"plan \d: (.*)", done.stdout)]
    assert len(tally) == PLANS and sum(tally) == 150 and min(tally) > 0
