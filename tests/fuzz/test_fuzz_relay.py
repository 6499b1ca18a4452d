"""Invariants: see fuzz_relay.c; stress_relay.c has real TLS and threads."""

import subprocess

from tests.fuzz import native
from tests.fuzz.target import CORPUS, findings_of


def test_the_relay_under_sanitizers(tmp_path):
    (target,) = [each for each in native.TARGETS if each.name == "c-relay"]
    fuzzer = target.build(tmp_path)
    grown = tmp_path / "grown"
    grown.mkdir()
    options = ("-runs=20000", "-max_total_time=6", "-max_len=200", "-seed=1", f"-artifact_prefix={tmp_path}/")
    done = subprocess.run([fuzzer, *options, grown, CORPUS / "relay"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    for path in findings_of("c-relay"):
        again = subprocess.run([fuzzer, path], capture_output=True, text=True, timeout=60)
        assert again.returncode == 0, again.stderr[-4000:]
