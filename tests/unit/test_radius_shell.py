"""The helper's hands: what ends it, and with which exit code (tests/e2e/test_radius_helper.py has the rest)."""

import asyncio
import socket

import pytest

from tests.fixtures.radius_process import question
from tlspool_common.channel import from_fd, pair
from tlspool_common.helping import EXIT_BUG
from tlspool_common.log import Log
from tlspool_common.messages import Party
from tlspool_radius import events as e
from tlspool_radius.shell import Shell

pytestmark = pytest.mark.usefixtures("no_leaks")


class Core:
    """A core that has a bug, or none."""

    title = "nothing to do"

    def __init__(self, effects=(), bug=None):
        self.effects = list(effects)
        self.bug = bug
        self.events = []

    def begin(self):
        return self.effects

    def handle(self, event, now):
        assert now.ms > 0
        assert now.wall_ms > 1_000_000_000_000
        self.events.append(event)
        if self.bug is not None:
            raise self.bug
        return []


def run(core, *, ask=False, count=0, spool=None, listener=None):
    """Run a shell until so much has happened, and its broker leaves; return the exit code."""

    async def play():
        broker, theirs = pair(Party.BROKER, Party.RADIUS)
        shell = Shell(from_fd(theirs, Party.RADIUS, Party.BROKER), core, spool, listener, Log("radius"))
        running = asyncio.ensure_future(shell.run())
        try:
            async with asyncio.timeout(20):
                if ask:
                    broker.send(question("User-Name=carol"), exchange=5)
                while len(core.events) < count:  # noqa: ASYNC110 - the shell has its turns
                    await asyncio.sleep(0.001)
                if core.bug is None:
                    broker.close()
                return await running
        finally:
            broker.close()

    return asyncio.run(play())


def test_it_ends_when_its_broker_does():
    core = Core()
    assert run(core, ask=True, count=1) == 0
    assert [(event.exchange, event.message.attributes) for event in core.events] == [(5, ("User-Name=carol",))]


def test_a_bug_ends_it(capfd):
    assert run(Core(bug=ZeroDivisionError("here")), ask=True, count=1) == EXIT_BUG
    told = capfd.readouterr().err
    assert "ZeroDivisionError: here" in told
    assert "event=helper.internal error=ZeroDivisionError" in told


def test_effects_that_need_what_there_is_not():
    """Without spool and listener their effects have no one to carry them out."""
    core = Core(
        [e.OpenSpool(), e.Reply(("127.0.0.1", 9), b"x"), e.ClosePort(1, 1), e.Note("debug", "radius.counters", {})]
    )
    assert run(core) == 0


def test_spool_timers_and_requests(tmp_path):
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    listener.setblocking(False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"request", listener.getsockname())
        core = Core([e.OpenSpool(), e.Arm(e.Timer(e.Clock.SWEEP, 3), 1.0)])
        assert run(core, count=3, spool=(tmp_path, 10), listener=listener) == 0
        source = client.getsockname()[1]
    kinds = {type(event) for event in core.events}
    assert kinds == {e.SpoolOpened, e.TimerFired, e.Requested}
    (requested,) = [event for event in core.events if isinstance(event, e.Requested)]
    assert requested == e.Requested(("127.0.0.1", source), b"request")
