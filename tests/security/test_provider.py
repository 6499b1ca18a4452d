"""What the shared object must not be able to do, and what it must not do wrong in memory."""

import os
import subprocess

import pytest

from tests.fixtures.native import ASAN, INSTALLED, NATIVE, ROOT, shared


def readelf(*options):
    return subprocess.run(["readelf", "-W", *options, INSTALLED], capture_output=True, text=True, check=True).stdout


def symbols():
    """Return (name, whether it is defined here) of the dynamic symbols."""
    rows = [line.split() for line in readelf("--dyn-syms").splitlines() if "@" in line or "GLOBAL" in line]
    return {row[7].partition("@")[0]: row[6] != "UND" for row in rows if len(row) > 7}


def test_one_way_in():
    assert [name for name, is_defined in symbols().items() if is_defined] == ["OSSL_provider_init"]


def test_nothing_but_libc():
    """No libcrypto above all: it would be another copy than the one that loads us."""
    assert [line.split("[")[1].rstrip("]") for line in readelf("-d").splitlines() if "(NEEDED)" in line] == [
        "libc.so.6"
    ]


def test_no_way_out_but_the_channel():
    """It opens no file, makes no connection, starts nothing."""
    used = {name for name, is_defined in symbols().items() if not is_defined}
    assert {"socketpair", "sendmsg", "recv", "poll"} <= {name.removeprefix("__").removesuffix("_chk") for name in used}
    assert not used & {
        "open",
        "open64",
        "fopen",
        "socket",
        "connect",
        "bind",
        "execve",
        "system",
        "fork",
        "getenv",
        "dlopen",
    }


def test_hardened():
    assert "__stack_chk_fail" in symbols()
    assert "NOW" in readelf("-d")
    assert "GNU_RELRO" in readelf("-l")
    assert "TEXTREL" not in readelf("-d")
    (stack,) = (line for line in readelf("-l").splitlines() if "GNU_STACK" in line)
    assert " RWE " not in stack


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    # nodelete: libcrypto unloads providers at exit, and leaks would then be reported without names
    directory = tmp_path_factory.mktemp("asan")
    flags = (*ASAN, "-fno-sanitize-recover=undefined", "-fvisibility=hidden", "-Wl,-z,nodelete")
    return shared(directory / "tlspool_provider.so", *sorted(NATIVE.glob("*.c")), flags=flags)


def test_memory_under_sanitizers(sanitized, tmp_path):
    """All scenarios in Debian's Python.  It has leaks of its own at exit; ours would name our sources."""
    runtime = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    done = subprocess.run(
        ["/usr/bin/python3", "-m", "tests.fixtures.remote_handshakes", "everything"],
        cwd=ROOT,
        env={
            **os.environ,
            "TEST_PROVIDER": str(sanitized),
            "LD_PRELOAD": runtime.stdout.strip(),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": f"detect_leaks=1:exitcode=0:log_path={tmp_path}/report",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == '"done"', done.stderr
    assert "runtime error" not in done.stderr  # UndefinedBehaviorSanitizer
    report = "".join(path.read_text() for path in tmp_path.glob("report*"))
    assert "ERROR: AddressSanitizer" not in report, report
    assert "ERROR: LeakSanitizer" in report  # it did look
    assert "tlspool_worker/native" not in report, report
