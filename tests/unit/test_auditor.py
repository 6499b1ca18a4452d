"""What a daemon records, and what happens when it cannot."""

import asyncio
import contextlib

import pytest

from tests.fixtures.loops import on_loop, until
from tlspool_admin import trails
from tlspool_common import auditor as module
from tlspool_common.auditor import Auditor, Nobody
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.settings import parse_untrusted
from tlspool_common.trail import Trail, files

AT_S = 1_772_442_751.0


class Lines(Log):
    """A log that keeps its lines, and has readers as a real one does."""

    def __init__(self):
        super().__init__("broker", "debug")
        self.lines = []

    def _write(self, level, number, text):
        self.lines.append(text)

    def of(self, event):
        return [line for line in self.lines if line.startswith(f"event={event} ")]


class World:
    def __init__(self, directory, *lines):
        self.directory = directory / "audit"
        self.now_s = 100.0
        self.log = Lines()
        self.settings = parse_untrusted("\n".join([f"audit_dir {self.directory}", *lines]))
        self.auditor = Auditor(self.settings, "broker", self.log, lambda: AT_S, lambda: self.now_s)

    def events(self):
        return [record.event for record in trails.records(trails.find([self.directory]))]

    def break_it(self):
        for path in files(self.directory, "broker"):
            path.unlink()
        self.directory.rmdir()
        self.directory.touch()

    def mend_it(self):
        self.directory.unlink()
        self.auditor.trail._next_try_s = 0.0


@pytest.fixture
def make(tmp_path):
    made = []

    def start(*lines):
        made.append(World(tmp_path, *lines))
        return made[-1]

    yield start
    for world in made:
        world.auditor.close()


def test_facts_of_the_table_are_recorded_once(make):
    world = make()
    world.log.info("broker.ready", generation=1)
    world.log.debug("worker.born", worker=1)
    assert world.auditor.attest("session.start", {"session": 1})
    world.log.info("session.start", session=1)
    world.log.info("session.end", session=1)
    world.log.info("nobody.knows", session=1)
    assert world.events() == ["broker.ready", "session.start", "session.end"]


def test_the_level_of_the_log_makes_no_difference(make):
    world = make()
    world.log.set_level("error")
    world.log.info("session.end", session=1)
    assert world.events() == ["session.end"]
    assert world.log.lines == []


def test_without_a_directory_everything_is_attested(tmp_path):
    log = Lines()
    auditor = Auditor(parse_untrusted(""), "keyd", log, lambda: AT_S)
    assert auditor.ready
    assert auditor.attest("sign.done", {})
    auditor.tick()
    auditor.close()
    assert (auditor.state, auditor.describe(), log.lines, log.readers) == ("off", {"state": "off"}, [], [])
    assert Nobody().attest("x", {})


def test_a_trail_that_is_lost_and_required(make):
    world = make("audit_required yes")
    world.log.info("broker.ready")
    assert world.auditor.ready
    world.break_it()
    assert not world.auditor.attest("session.start", {"session": 1})
    assert not world.auditor.ready
    with pytest.raises(PoolError) as caught:
        world.auditor.check()
    assert caught.value.code is Code.AUDIT_LOST
    (line,) = world.log.of("audit.lost")
    assert "missed=1 seconds=0 refuses=yes" in line
    world.mend_it()
    assert world.auditor.attest("session.start", {"session": 2})
    assert world.auditor.ready
    assert world.events() == ["audit.recovered", "session.start"]
    (line,) = world.log.of("audit.back")
    assert "missed=1" in line


def test_a_trail_that_is_lost_and_not_required_is_spoken_of_again_and_again(make):
    world = make()
    world.break_it()
    for second in range(200):
        world.now_s = 100.0 + second
        assert world.auditor.attest("session.start", {"session": second})
        world.auditor.tick()
    assert len(world.log.of("audit.lost")) == 4
    assert "missed=181 seconds=180 refuses=no" in world.log.of("audit.lost")[-1]
    assert world.auditor.describe()["state"] == "lost"
    assert ("tlspool_audit_records_lost", {}, 200) in world.auditor.readings()


def test_it_is_found_again_without_anything_to_record(make):
    world = make()
    world.log.info("broker.ready")
    world.break_it()
    world.auditor.tick()
    assert world.auditor.state == "lost"
    world.mend_it()
    world.auditor.tick()
    assert world.auditor.state == "written"
    assert world.events() == ["audit.recovered"]


def test_the_setting_counts_when_it_is_read_again(make):
    world = make()
    world.break_it()
    assert world.auditor.attest("session.start", {})
    world.settings.adopt(parse_untrusted(f"audit_dir {world.directory}\naudit_required yes"))
    assert not world.auditor.attest("session.start", {})


def test_what_anybody_can_provoke_is_bounded_and_counted(make):
    world = make()
    for number in range(module.PROVOKED_RECORDS + 7):
        world.log.info("session.failed", session=number)
    for number in range(3):
        world.log.info("session.end", session=number)
    world.now_s += 1
    world.auditor.tick()
    events = world.events()
    assert events.count("session.failed") == module.PROVOKED_RECORDS
    assert events.count("session.end") == 3
    last = list(trails.records(trails.find([world.directory])))[-1]
    assert (last.event, last.fields) == ("audit.withheld", {"of": "session.failed", "count": 7})


def test_heads_are_told_when_there_are_new_ones(make):
    world = make()
    world.log.info("broker.ready")
    for _ in range(5):
        world.now_s += module.HEAD_S
        world.auditor.tick()
    assert len(world.log.of("audit.head")) == 1
    world.log.info("broker.stopped")
    world.auditor.close()
    heads = trails.heads_untrusted("\n".join(world.log.lines))["broker"]
    assert [head.seq for head in heads] == [1, 2]
    paths = trails.find([world.directory])["broker"]
    assert trails.verify("broker", paths, heads).broken is None
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[: data.index(b"\n") + 1])
    assert trails.verify("broker", paths, heads[:1]).broken is None
    assert "the end is missing" in trails.verify("broker", paths, heads).broken[2]


def test_a_forged_end_is_found_by_a_head(make, tmp_path):
    world = make()
    world.log.info("broker.ready")
    world.log.info("broker.stopping")
    world.auditor.close()
    heads = trails.heads_untrusted("\n".join(world.log.lines))["broker"]
    (path,) = trails.find([world.directory])["broker"]
    first = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(first)
    forger = Trail(world.directory, "broker", lambda: AT_S)
    forger.append("broker.stopping", {"forged": True})
    forger.append("broker.stopped", {"forged": True})
    forger.close()
    assert trails.verify("broker", [path]).broken is None
    assert trails.verify("broker", [path], heads).broken[1:] == (2, "it is not the record 2 whose head was told")


@on_loop
async def test_records_are_put_onto_the_disk_in_a_thread():
    import tempfile
    import threading
    from pathlib import Path

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        world = World(Path(name))
        stack.callback(world.auditor.close)
        asked, threads = world.auditor.trail.flush, []

        def flush():
            if (sync := asked()) is None:
                return None
            return lambda: (threads.append(threading.get_ident()), sync())

        world.auditor.trail.flush = flush
        patched, module.TICK_S = module.TICK_S, 0.01
        stack.callback(lambda: setattr(module, "TICK_S", patched))
        keeping = asyncio.create_task(world.auditor.keep())
        world.log.info("broker.ready")
        await until(lambda: threads)
        assert threads[0] != threading.get_ident()
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        await asyncio.get_running_loop().shutdown_default_executor()
