"""Token processes as children: started, heard to their last word, ended and reaped."""

import asyncio
import os
import select
import signal
import sys
import time

import pytest

from tests.fixtures import slowtoken
from tests.fixtures.keyd_world import PIN, WAIT_S, KeydWorld
from tlspool_common.child import environment
from tlspool_common.errors import Code
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import TokenFind, TokenOpen, TokenSign
from tlspool_keyd import children as module
from tlspool_keyd.children import Children


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("w")
    made = KeydWorld(directory, {"ec": "ec"})
    made.order = directory / "order"
    wanted = {**made.environment, **slowtoken.environment(0, made.order)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    made.slow = str(slowtoken.build(directory))
    yield made
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


class Watched:
    """Children, and what was heard of them."""

    def __init__(self, path=slowtoken.SOFTHSM):
        self.path = path
        self.said, self.lost, self.changed = [], {}, asyncio.Event()
        self.children = Children(self._said, self._lost)

    def _said(self, generation, received):
        self.said.append((generation, received.message))
        self.changed.set()

    def _lost(self, generation, how):
        assert generation not in self.lost
        self.lost[generation] = how
        self.changed.set()

    async def until(self, test):
        while not test():
            self.changed.clear()
            await self.changed.wait()

    async def start(self, generation):
        self.children.start(generation, self.opening())
        await self.until(lambda: self.said and self.said[-1][0] == generation)

    def opening(self, pin=PIN):
        return TokenOpen(module=self.path, token_uri="pkcs11:", pin_secret=pin.encode(), pin_refused_by=(), sessions=2)


def run(work):
    async def bounded():
        async with asyncio.timeout(WAIT_S):
            await work()

    asyncio.run(bounded())


def test_start_ask_and_end(world, no_leaks):
    async def work():
        watched = Watched()
        await watched.start(1)
        assert watched.said[0][1].code == Code.OK
        assert set(watched.children.pids) == {1}
        watched.children.send(1, TokenFind(uri=world.key("ec").uri), 7)
        await watched.until(lambda: len(watched.said) == 2)
        assert watched.said[1][1].spki == world.key("ec").spki
        watched.children.send(99, TokenFind(uri=""), 1)  # nobody is there
        watched.children.end(99)
        begun = time.monotonic()
        watched.children.end(1)
        watched.children.end(1)
        await watched.until(lambda: watched.lost)
        assert watched.lost == {1: "exit 0"}  # it logged out by itself
        assert time.monotonic() - begun < module.GRACE_S
        assert watched.children.pids == {}

    run(work)


def test_the_last_words_are_heard(no_leaks):
    async def work():
        watched = Watched("/nowhere.so")
        watched.children.start(1, watched.opening())
        await watched.until(lambda: watched.lost)
        assert [message.code for _, message in watched.said] == [Code.TOKEN_FAILED]
        assert watched.lost == {1: "exit 0"}

    run(work)


def test_one_that_is_killed(world, no_leaks):
    async def work():
        watched = Watched()
        await watched.start(1)
        os.kill(watched.children.pids[1], signal.SIGKILL)
        await watched.until(lambda: watched.lost)
        assert watched.lost == {1: "signal SIGKILL"}

    run(work)


def test_one_that_hangs_is_killed_after_its_grace(world, no_leaks):
    async def work():
        watched = Watched(world.slow)
        await watched.start(1)
        pid = watched.children.pids[1]
        world.order.write_text("hang")
        key = world.key("ec")
        watched.children.send(1, TokenSign(uri=key.uri, scheme=0x0403, spki_sha256=key.spki_sha256, content=b"c"), 1)
        os.kill(pid, signal.SIGSTOP)  # so that it cannot even see the end of its channel
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - it is stopped within microseconds
        watched.children.end(1)
        await watched.until(lambda: watched.lost)
        assert watched.lost == {1: "signal SIGKILL"}
        world.order.unlink()

    run(work)


def test_one_that_breaks_the_table_is_killed(world, no_leaks, monkeypatch):
    """A frame that no process of ours writes: a shell in its place writes it."""
    monkeypatch.setattr(module, "spawn", _impostor)

    async def work():
        watched = Watched()
        watched.children.start(1, watched.opening())
        await watched.until(lambda: watched.lost)
        assert watched.said == []
        assert watched.lost == {1: "signal SIGKILL"}

    run(work)


def _impostor(fd, _words):
    with fd:
        actions = [(os.POSIX_SPAWN_DUP2, fd.fileno(), 3)]
        words = ["/bin/sh", "-c", "printf garbage >&3; exec sleep 60"]
        return os.posix_spawn("/bin/sh", words, dict(os.environ), file_actions=actions)


CHATTERBOX = """
import socket
from tlspool_common.channel import Channel
from tlspool_common.messages import Party, TokenOpened, TokenSigned
channel = Channel(socket.socket(fileno=3), Party.TOKEN, Party.KEYD)
channel.send(TokenOpened(code=0, detail="", tokens=()))
for number in range(100):
    channel.send(TokenSigned(code=0, detail="", signature=b"s"), exchange=number)
assert not channel.wants_write
"""


def test_many_last_words_are_heard(no_leaks, monkeypatch):
    def chatterbox(fd, _words):
        with fd:
            actions = [(os.POSIX_SPAWN_DUP2, fd.fileno(), 3)]
            words = [sys.executable, "-c", CHATTERBOX]
            return os.posix_spawn(sys.executable, words, environment(), file_actions=actions)

    monkeypatch.setattr(module, "spawn", chatterbox)

    async def work():
        watched = Watched()
        watched.children.start(1, watched.opening())
        # The loop stands still until the process has ended, so that all is there at once.
        with OwnedFd(os.pidfd_open(watched.children.pids[1])) as ended:
            assert select.select([ended], [], [], WAIT_S)[0]
        await watched.until(lambda: watched.lost)
        assert len(watched.said) == 101
        assert watched.lost == {1: "exit 0"}

    run(work)


def test_one_that_cannot_be_started(no_leaks, monkeypatch):
    def refuse(fd, _words):
        fd.close()
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module, "spawn", refuse)

    async def work():
        watched = Watched()
        watched.children.start(1, watched.opening())
        assert watched.lost == {}  # not while it is being started
        await watched.until(lambda: watched.lost)
        assert watched.lost == {1: "cannot be started: Resource temporarily unavailable"}

    run(work)


def test_one_that_cannot_be_watched_does_not_stay(no_leaks, monkeypatch):
    pids = []

    def refuse(pid):
        pids.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module.os, "pidfd_open", refuse)

    async def work():
        watched = Watched()
        watched.children.start(1, watched.opening())
        await watched.until(lambda: watched.lost)
        assert watched.lost == {1: "cannot be started: Too many open files"}
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)

    run(work)


def test_all_are_ended(world, no_leaks):
    async def work():
        watched = Watched()
        await watched.start(1)
        watched.children.end(1)
        await watched.until(lambda: 1 in watched.lost)
        for generation in (2, 3):
            await watched.start(generation)
        await watched.children.end_all()
        assert set(watched.lost) == {1, 2, 3}
        await watched.children.end_all()

    run(work)
