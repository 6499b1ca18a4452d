"""A worker's loop around a core that only listens: what it is woken for, and that nobody makes it wait."""

import socket

import pytest

from tests.fixtures.lone_worker import WORKER_ID
from tests.fixtures.loops import Lines
from tlspool_common import settings
from tlspool_common.channel import from_fd, pair
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import Party, Traffic
from tlspool_worker.effects import Adopt, Listen, Say, SendCipher
from tlspool_worker.poller import IN
from tlspool_worker.shell import Shell

TRAFFIC = Traffic(session_id=1, from_remote_b=0, to_remote_b=0, from_remote_records=0, to_remote_records=0, idle_ms=0)


class Core:
    """Hears what happens."""

    title = ""

    def __init__(self):
        self.heard = []

    def __len__(self):
        return 1

    def __getattr__(self, name):
        return lambda *what: self.heard.append((name, *what))


class World:
    """A worker's shell, and the ends of others."""

    def __init__(self):
        self.broker, theirs = pair(Party.BROKER, Party.WORKER)
        self.signals, self.signalled = socket.socketpair()
        channel = from_fd(theirs, Party.WORKER, Party.BROKER)
        self.shell = Shell(channel, WORKER_ID, settings.parse_untrusted(""), Lines(), self.signals)
        self.shell._core = self.core = Core()

    def woken_for(self):
        """Return what the loop would be woken for now."""
        return self.shell._poller._epoll.poll(0)

    def close(self):
        self.shell.close()
        self.broker.close()
        self.signals.close()
        self.signalled.close()


@pytest.fixture
def world(no_leaks):
    made = World()
    yield made
    made.close()


def test_a_worker_that_hears_of_the_broker_s_end_is_not_woken_for_ever(world):
    """The threads have a copy of the channel, for which epoll goes on to watch what was closed, and not taken out."""
    world.broker.close()
    world.shell._poller.run_once(5)
    world.shell._chores()
    assert world.core.heard == [("broker_gone",)]
    assert world.woken_for() == []


def test_a_worker_that_cannot_tell_the_broker_anything_is_not_woken_for_ever(world):
    world.broker.close()
    world.shell._do(Say(TRAFFIC))
    world.shell._chores()
    assert world.core.heard == [("broker_gone",)]
    assert world.woken_for() == []


def test_nothing_blocks_although_a_copy_of_a_session_s_socket_was_made_blocking(world):
    """O_NONBLOCK is shared by all copies of a descriptor, and an application may keep one of what it gave away."""
    remote, ours = socket.socketpair()
    with remote, ours.dup() as copy:
        world.shell._do(Adopt(1, OwnedFd(ours.detach())))
        world.shell._do(Listen(1))
        copy.setblocking(True)
        world.shell._cipher_ready(1, IN)  # what was there to be read, somebody else has read
        assert world.core.heard == []
        world.shell._do(SendCipher(1, bytes(10_000_000)))
        assert world.shell._ciphers[1].unsent
