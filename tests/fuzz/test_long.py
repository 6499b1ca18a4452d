"""The driver of long runs: finds a fault that is there, keeps it, says so, and brings the table up to date."""

import importlib.util
import re
import signal
import subprocess
import sys

import pytest

from tests.fuzz import long, native, planted
from tests.fuzz.long import Result, dictionary, report


def run(tmp_path, *options):
    assert importlib.util.find_spec("atheris"), "atheris is missing: pip install -e '.[dev]'"
    command = [sys.executable, "-m", "tests.fuzz.long", "--grown", tmp_path / "grown", "--found", tmp_path / "found"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=long.ROOT, timeout=120)
    return done, list((tmp_path / "found").rglob("*-*"))


def test_a_fault_is_found(tmp_path):
    done, found = run(tmp_path, "--target", "planted", "--runs", "3000000", "--seed", "1")
    assert done.returncode == 1, done.stdout
    (path,) = [each for each in found if each.is_file()]
    assert f"planted: FINDING {path}" in done.stdout
    assert "AssertionError" in done.stdout  # and what it is
    with pytest.raises(AssertionError, match="planted"):
        planted.TARGETS[0].check(path.read_bytes())


def test_a_run_without_findings(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{long._BEGIN}\n{long._END}\nafter\n")
    done, found = run(tmp_path, "--target", "c-provider", "--runs", "5000", "--report", page)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not found
    assert re.search(
        r"c-provider: 5,00\d of 5,000 inputs, [0-9,]+/s, done; kept [0-9]+, covered [1-9][0-9]*", done.stdout
    )
    assert re.search(r"^\| c-provider \| 5,00\d \|", page.read_text(), re.MULTILINE)
    assert (tmp_path / "grown" / "c-provider").is_dir()


def test_an_interrupted_run_is_counted(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{long._BEGIN}\n{long._END}\n")
    command = [sys.executable, "-m", "tests.fuzz.long", "--target", "c-provider", "--target", "c-relay"]
    command += ["--grown", tmp_path / "grown", "--found", tmp_path / "found", "--report", page]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=long.ROOT) as process:
        assert re.match(r"c-provider: [0-9,]+ of 10,000,000 inputs", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    found = re.search(r"c-provider: ([0-9,]+) of 10,000,000 inputs, [0-9,]+/s, done", rest)[1]
    assert long.had(long.rows_of(page)[1], "c-provider")[0] == int(found.replace(",", ""))
    assert "c-relay" not in rest + page.read_text()


def test_only_what_is_lacking(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{long._BEGIN}\n{long._END}\n")
    report(page, Result("c-provider", 3000, 1.0))
    report(page, Result("c-relay", 5000, 1.0))
    options = ("--target", "c-provider", "--target", "c-relay", "--runs", "5000", "--report", page, "--up-to-report")
    done, _ = run(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "c-provider: 2,000 of 2,000 inputs" in done.stdout
    assert "c-relay" not in done.stdout
    assert [long.had(long.rows_of(page)[1], name)[0] for name in ("c-provider", "c-relay")] == [5000, 5000]


def test_what_does_not_run_is_no_success(tmp_path, monkeypatch):
    broken = native.Native("broken", "fuzz_provider.c", (), "provider")
    monkeypatch.setattr(native.Native, "build", lambda _self, _directory: "/bin/false")
    options = long.parser({"broken": broken}).parse_args(
        ["--target", "broken", "--grown", str(tmp_path / "grown"), "--found", str(tmp_path / "found")]
    )
    result = long.Run(broken, options).go()
    assert result.is_broken
    assert not result.findings


def test_the_table_adds_up(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{long._BEGIN}\n{long._END}\nafter\n")
    report(page, Result("valexp", 1_000_000, 10.2, 20, 5, []))
    report(page, Result("client-hello", 500, 1.0, 100, 7, ["x"]))
    report(page, Result("valexp", 2_000_000, 9.9, 25, 6, ["crash"]))
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| client-hello | 500 | 1 | 500 | 7 | 100 | 1 |")  # in the order of targets
    assert rows[2].startswith("| valexp | 3,000,000 | 20 | 202,020 | 6 | 25 | 1 |")
    assert page.read_text().startswith("# Before\n")
    assert page.read_text().endswith("\nafter\n")


def test_dictionary():
    assert dictionary((b'a"\\', b"\0\xff")) == '"\\x61\\x22\\x5c"\n"\\x00\\xff"\n'
