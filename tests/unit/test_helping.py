"""How helpers of the broker end, each of them, and what they refuse to start with."""

import os
import signal
import sys
from dataclasses import dataclass

import pytest

from tests.fixtures import online_process, radius_process
from tlspool_common import child, helping
from tlspool_common.channel import pair
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import Party
from tlspool_online import spawn as online
from tlspool_radius import spawn as radius

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclass
class Kind:
    """A helper: its name, how it is spawned, and how a test begins it."""

    name: str
    party: Party
    spawn: object
    start: object


KINDS = [
    Kind("online", Party.ONLINE, online, lambda _, **options: online_process.Helper(**options)),
    Kind("radius", Party.RADIUS, radius, radius_process.Helper),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


def test_it_ends_with_its_channel(tmp_path, kind):
    with kind.start(tmp_path) as helper:
        helper.hang_up()
        assert helper.wait() == 0


def test_it_ends_when_told_to(tmp_path, kind):
    with kind.start(tmp_path) as helper:
        os.kill(helper.pid, signal.SIGTERM)
        assert helper.wait() == 0


def test_a_broker_that_breaks_the_table(tmp_path, kind):
    with kind.start(tmp_path, log=tmp_path / "log") as helper:
        helper.send_raw(b"\0\0\0\0\0\0\0\0")
        assert helper.wait() == helping.EXIT_BROKEN == 76
    assert "helper.broker_broken" in (tmp_path / "log").read_text()


def test_a_descriptor_that_is_no_channel(capfd, kind):
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    pid = kind.spawn.spawn(OwnedFd(read_fd), [])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == helping.EXIT_USAGE
    assert f"{kind.name}.refuses_to_start" in capfd.readouterr().err


def test_a_parent_that_is_another(kind):
    channel, theirs = pair(Party.BROKER, kind.party)
    with theirs:
        argv = [sys.executable, "-m", f"tlspool_{kind.name}", "--fd", "3", "--parent", "1"]
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
        pid = os.posix_spawn(sys.executable, argv, child.helper_environment(), file_actions=actions)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    channel.close()
