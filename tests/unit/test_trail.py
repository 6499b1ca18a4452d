"""The audit trail's files: days, sizes, crashes, full disks, and files that somebody else has touched."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tlspool_admin import trails
from tlspool_common import audit
from tlspool_common import trail as module
from tlspool_common.trail import Trail, files

DAY_S = 86400
AT_S = 1_772_442_751.004


class Clock:
    def __init__(self):
        self.now_s = AT_S

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Make trails; all are closed at the end."""
    made = []

    def start(**options):
        made.append(Trail(tmp_path / "audit", "broker", clock, **{"retry_s": 0.0, **options}))
        return made[-1]

    yield start
    for one in made:
        one.close()


def of(tmp_path):
    return files(tmp_path / "audit", "broker")


def verdict(tmp_path, *heads):
    return trails.verify("broker", of(tmp_path), heads)


def events(tmp_path):
    return [record.event for record in trails.records({"broker": of(tmp_path)})]


def fields_of(tmp_path, event):
    return [record.fields for record in trails.records({"broker": of(tmp_path)}) if record.event == event]


def test_records_follow_each_other_across_starts(make, tmp_path):
    trail = make()
    assert trail.append("a.b", {"n": 1})
    trail.close()
    trail = make()
    assert trail.append("c.d", {"n": 2})
    assert (verdict(tmp_path).broken, verdict(tmp_path).records, trail.head.seq) == (None, 2, 2)
    (path,) = of(tmp_path)
    assert path.name == "broker-000001.jsonl"
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.parent.stat().st_mode & 0o777 & ~0o750 == 0


def test_a_record_is_in_the_kernel_when_append_returns(make, tmp_path):
    trail = make()
    trail.append("a.b", {})
    assert of(tmp_path)[0].read_bytes().endswith(b"}\n")


def test_a_new_day_is_a_new_file(make, tmp_path, clock):
    trail = make()
    trail.append("a.b", {})
    clock.now_s += DAY_S
    trail.append("c.d", {})
    assert [path.name for path in of(tmp_path)] == ["broker-000001.jsonl", "broker-000002.jsonl"]
    assert events(tmp_path) == ["a.b", "audit.file", "c.d"]
    assert fields_of(tmp_path, "audit.file") == [{"reason": "day"}]
    assert verdict(tmp_path).broken is None
    first = audit.record_untrusted(of(tmp_path)[1].read_bytes().splitlines(keepends=True)[0])
    assert first.prev == audit.record_untrusted(of(tmp_path)[0].read_bytes()).hash


def test_a_full_file_is_followed_by_the_next(make, tmp_path):
    trail = make(file_b=1000)
    for number in range(20):
        assert trail.append("a.b", {"n": number})
    assert len(of(tmp_path)) > 3
    assert all(path.stat().st_size < 1500 for path in of(tmp_path))
    assert verdict(tmp_path).broken is None
    trail.close()
    trail = make(file_b=1000)
    trail.append("c.d", {})
    assert verdict(tmp_path).broken is None


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_file_that_is_missing_is_found(make, tmp_path, place):
    trail = make(file_b=600)
    for number in range(20):
        trail.append("a.b", {"n": number})
    head, found = trail.head, of(tmp_path)
    found[{"first": 0, "middle": len(found) // 2, "last": -1}[place]].unlink()
    assert verdict(tmp_path, head).broken


# --- crashes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [b"{", b'{"seq":2,"time":"20', b"\0" * 100, b"garbage\n", b"\n", b'{"a":1}\n{"b"'])
def test_what_a_crash_leaves_behind_is_accounted_for(make, tmp_path, left):
    trail = make()
    trail.append("a.b", {})
    trail.close()
    with of(tmp_path)[0].open("ab") as file:
        file.write(left)
    assert verdict(tmp_path).broken
    trail = make()
    trail.append("c.d", {})
    assert events(tmp_path) == ["a.b", "audit.recovered", "c.d"]
    (said,) = fields_of(tmp_path, "audit.recovered")
    assert (said["lost_b"], said["missed"]) == (len(left), 0)
    found = verdict(tmp_path)
    assert (found.broken, [one.seq for one in found.recovered]) == (None, [2])
    assert left in of(tmp_path)[0].read_bytes()  # nothing is ever taken out


def test_a_line_without_its_end_was_never_written(make, tmp_path):
    """The record is whole but for its newline: what it speaks of did not happen."""
    trail = make()
    trail.append("a.b", {})
    trail.append("c.d", {})
    trail.close()
    path = of(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert verdict(tmp_path).unfinished
    trail = make()
    assert trail.head.seq == 2
    assert events(tmp_path) == ["a.b", "audit.recovered"]
    assert verdict(tmp_path).broken is None


@pytest.mark.parametrize("left", [b"", b'{"seq":'])
def test_a_file_without_records_follows_the_one_before(make, tmp_path, left):
    trail = make()
    trail.append("a.b", {})
    trail.close()
    (tmp_path / "audit" / "broker-000002.jsonl").write_bytes(left)
    make().append("c.d", {})
    assert verdict(tmp_path).broken is None
    assert events(tmp_path)[-1] == "c.d"


def test_and_the_very_first_one(make, tmp_path):
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "broker-000001.jsonl").write_bytes(b'{"seq":1')
    make().append("a.b", {})
    assert verdict(tmp_path).broken is None
    assert events(tmp_path) == ["audit.recovered", "a.b"]


def test_what_another_user_has_written_is_not_gone_on_with(make, tmp_path, monkeypatch):
    """Both daemons write to the directory: one that was taken over could go on with the trail of the other."""
    trail = make()
    trail.append("a.b", {})
    trail.close()
    (path,) = of(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    trail = make()
    assert not trail.append("c.d", {})
    assert f"{path} belongs to user {path.stat().st_uid}; see who made it, and move it away" in trail.lost
    assert (of(tmp_path), path.read_bytes()) == ([path], before)


def test_more_garbage_than_any_crash_leaves_is_not_built_upon(make, tmp_path):
    trail = make()
    trail.append("a.b", {})
    trail.close()
    with of(tmp_path)[0].open("ab") as file:
        file.write(b"x" * (module._SCAN_B + 10))
    trail = make()
    assert not trail.append("c.d", {})
    assert "move it away" in trail.lost


WRITER = """
import sys, time
from pathlib import Path
from tlspool_common.trail import Trail
trail = Trail(Path(sys.argv[1]), "broker", time.time, file_b=20000)
print("ready", flush=True)
number = 0
while True:
    trail.append("a.b", {"n": number, "text": "x" * (number % 400)})
    number += 1
"""


def test_a_writer_that_is_killed_again_and_again(tmp_path):
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "audit")], stdout=subprocess.PIPE)
        try:
            assert process.stdout.readline() == b"ready\n"
            size_b = sum(path.stat().st_size for path in of(tmp_path))
            while sum(path.stat().st_size for path in of(tmp_path)) < size_b + 5000:
                assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
    Trail(tmp_path / "audit", "broker", Clock()).close()
    found = verdict(tmp_path)
    assert found.broken is None
    assert found.records > 100


# --- a trail that is lost -----------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size_b):
    """Let files grow to a size and no further, as on a disk that is full: writes are short, then refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_b, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room_b", [0, 1, 17, 100])
def test_a_full_disk(make, tmp_path, room_b):
    trail = make()
    trail.append("a.b", {})
    with largest_file(of(tmp_path)[0].stat().st_size + room_b):
        assert not trail.append("c.d", {})
        assert not trail.append("c.d", {})
        assert trail.lost
        assert trail.missed == 2
    assert trail.append("e.f", {})
    assert (trail.lost, trail.missed, trail.missed_in_all) == ("", 0, 2)
    assert events(tmp_path) == ["a.b", "audit.recovered", "e.f"]
    (said,) = fields_of(tmp_path, "audit.recovered")
    assert said["missed"] == 2
    assert verdict(tmp_path).broken is None


def test_a_disk_that_is_full_when_the_day_ends(make, tmp_path, clock):
    trail = make()
    trail.append("a.b", {})
    clock.now_s += DAY_S
    with largest_file(10):
        assert not trail.append("c.d", {})
        assert not trail.append("c.d", {})
    assert trail.append("e.f", {})
    assert verdict(tmp_path).broken is None


def test_a_real_disk_that_is_full(tmp_path):
    """A file system of 64 KiB, of the test's own."""
    assert os.geteuid() == 0, "mounting a tmpfs needs root"
    place = tmp_path / "small"
    place.mkdir()
    code = (
        "import os, sys, time; from pathlib import Path; from tlspool_common.trail import Trail\n"
        "place = Path(sys.argv[1]); trail = Trail(place / 'audit', 'broker', time.time, retry_s=0.0)\n"
        "while trail.append('a.b', {'text': 'x' * 900}): pass\n"
        "print(trail.lost); full = trail.missed\n"
        "(place / 'ballast').unlink()\n"
        "assert trail.append('c.d', {}), trail.lost\n"
        "trail.close()\n"
        "from tlspool_admin import trails; found = trails.find([place / 'audit'])\n"
        "verdict = trails.verify('broker', found['broker']); print(verdict.broken, verdict.records)\n"
    )
    script = 'mount -t tmpfs -o size=64k none "$1" && head -c 16384 /dev/zero > "$1/ballast" && exec "$2" -c "$3" "$1"'
    command = [
        "unshare",
        "-m",
        "--propagation",
        "unchanged",
        "sh",
        "-c",
        script,
        "sh",
        str(place),
        sys.executable,
        code,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lost, found = done.stdout.splitlines()
    assert lost == "No space left on device"
    assert found.startswith("None ")


def test_a_file_that_was_removed(make, tmp_path):
    trail = make()
    trail.append("a.b", {})
    of(tmp_path)[0].unlink()
    assert not trail.append("c.d", {})
    assert "was removed" in trail.lost
    assert trail.append("e.f", {})
    assert [path.name for path in of(tmp_path)] == ["broker-000002.jsonl"]
    found = verdict(tmp_path)
    assert found.broken
    assert found.broken[1] == 1


@pytest.mark.parametrize("how", ["moved", "shortened", "lengthened", "replaced"])
def test_a_file_that_somebody_else_touched_is_noticed_and_stays_found(make, tmp_path, how):
    trail = make()
    for number in range(5):
        trail.append("a.b", {"n": number})
    path = of(tmp_path)[0]
    data = path.read_bytes()
    if how == "moved":
        path.rename(tmp_path / "elsewhere")
    elif how == "shortened":
        with path.open("r+b") as file:
            file.truncate(data.rindex(b"\n", 0, len(data) - 1) + 1)
    elif how == "lengthened":
        head = audit.record_untrusted(data.splitlines(keepends=True)[-1]).head
        with path.open("ab") as file:
            file.write(audit.line(head, audit.stamp(AT_S), "broker", "session.start", {"forged": True})[0])
    else:
        path.unlink()
        path.write_bytes(data)
    trail.look()
    assert trail.lost
    assert trail.append("c.d", {})
    assert bool(verdict(tmp_path).broken) == (how != "replaced")


def test_only_one_process_writes(make, tmp_path):
    trail, other = make(), make()
    assert trail.append("a.b", {})
    assert not other.append("c.d", {})
    assert "another process" in other.lost
    trail.close()
    assert other.append("e.f", {})
    assert verdict(tmp_path).broken is None


def test_what_is_no_directory_or_no_file(make, tmp_path):
    (tmp_path / "audit").write_text("")
    trail = make()
    assert not trail.append("a.b", {})
    assert "audit" in trail.lost
    (tmp_path / "audit").unlink()
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "broker-000001.jsonl").symlink_to("/dev/null")
    assert not trail.append("a.b", {})
    (tmp_path / "audit" / "broker-000001.jsonl").unlink()
    os.mkfifo(tmp_path / "audit" / "broker-000001.jsonl")
    assert not trail.append("a.b", {})
    assert "no file" in trail.lost
    (tmp_path / "audit" / "broker-000001.jsonl").unlink()
    assert trail.append("a.b", {})


def test_a_directory_without_permission(tmp_path):
    """As another user, as root may write everywhere."""
    place = tmp_path / "audit"
    place.mkdir(mode=0o555)
    code = (
        "import os, sys, time; from pathlib import Path; from tlspool_common.trail import Trail\n"
        "os.chmod(sys.argv[1], 0o555)\n"
        "os.getuid() or os.setuid(65534)\n"
        "trail = Trail(Path(sys.argv[1]), 'broker', time.time, retry_s=0.0)\n"
        "print(trail.append('a.b', {}), trail.lost)\n"
    )
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    done = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True)
    assert done.stdout.startswith("False "), done.stderr
    assert "Permission denied" in done.stdout


def test_a_lost_trail_is_not_tried_at_every_fact(make, tmp_path, monkeypatch):
    trail = make(retry_s=3600.0)
    trail.append("a.b", {})
    of(tmp_path)[0].unlink()
    tries = []
    monkeypatch.setattr(Trail, "_try", lambda self: tries.append(1))
    for _ in range(10):
        assert not trail.append("c.d", {})
    assert (tries, trail.missed) == ([], 10)


# --- onto the disk --------------------------------------------------------------------------------------------


def test_flush_is_for_a_thread(make):
    trail = make()
    assert trail.flush() is None
    trail.append("a.b", {})
    sync = trail.flush()
    assert trail.flush() is None
    trail.append("c.d", {})
    thread = threading.Thread(target=sync)
    thread.start()
    trail.close()  # it may be over before the thread
    thread.join()


def test_files_that_are_over_are_put_onto_the_disk_too(make, tmp_path, monkeypatch):
    trail, synced = make(file_b=400), []
    for number in range(6):
        trail.append("a.b", {"n": number})
    assert len(of(tmp_path)) > 2
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    trail.flush()()
    assert synced == [str(path) for path in of(tmp_path)]


def test_a_disk_that_refuses_is_a_trail_that_is_lost(make, tmp_path, monkeypatch):
    trail = make()
    trail.append("a.b", {})
    sync = trail.flush()
    with monkeypatch.context() as patched, pytest.raises(OSError) as caught:
        patched.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(errno.EIO, "input/output error")))
        sync()
    trail.fail(caught.value)
    assert trail.lost
    assert trail.append("c.d", {})
    assert events(tmp_path) == ["a.b", "audit.recovered", "c.d"]
    assert verdict(tmp_path).broken is None


def test_no_descriptor_stays_open(make, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    trail = make(file_b=400)
    for number in range(20):
        trail.append("a.b", {"n": number})
    Path(of(tmp_path)[-1]).unlink()
    trail.append("a.b", {})
    trail.append("a.b", {})
    trail.close()
    assert len(os.listdir("/proc/self/fd")) == before
