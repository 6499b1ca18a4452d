"""The application socket under load: callers take turns, and connections that are too many are told so."""

import array
import asyncio
import contextlib
import os
import socket
import stat
import struct
import threading
import time

import pytest

from tests.fixtures.lone_worker import tcp_pair
from tests.fixtures.loops import Lines, on_loop, until
from tlspool_broker import applications, caller, closing, door
from tlspool_broker.events import AppConnected, AppFrame, AppGone, AppTurnedAway, Caller, FdKind
from tlspool_broker.out import Out
from tlspool_broker.quotas import Quotas
from tlspool_common import peer
from tlspool_common.appwire import FRAME_B, Cmd, ErrorReply, Frame, frame_untrusted
from tlspool_common.fd import OwnedFd
from tlspool_common.settings import parse_untrusted


def ping(reqid):
    return Frame(reqid, 0, Cmd.PING).to_bytes()


class World:
    """Applications of several users, who are whoever a test says."""

    def __init__(self, monkeypatch, text="", most=1000):
        self.seen, self.log = [], Lines()
        self._uids = {}
        monkeypatch.setattr(peer, "credentials", lambda sock: peer.Credentials(1, self._uids[sock.fileno()], 0))
        monkeypatch.setattr(caller, "identify", lambda sock: Caller(self._uids[sock.fileno()], 0, 1))
        quotas = Quotas(Out(), parse_untrusted(text))
        self.apps = applications.Applications(self._happened, frozenset(), most, quotas.of, self.log)
        self._socks = []

    def _happened(self, event):
        self.seen.append(event)

    def connect(self, uid, passed=None):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        if passed is not None:
            socket.send_fds(ours, [b"x"], [passed.fileno()])
            passed.close()
        self._uids[theirs.fileno()] = uid
        self._socks.append(ours)
        self.apps.accepted(theirs)
        return ours

    def frames(self):
        """Return the request ids of the frames, in the order in which they were read."""
        return [event.frame.reqid for event in self.seen if isinstance(event, AppFrame)]

    def close(self):
        self.apps.close()
        for sock in self._socks:
            sock.close()


@pytest.fixture
def make(monkeypatch):
    with contextlib.ExitStack() as stack:

        def one(*args, **options):
            made = World(monkeypatch, *args, **options)
            stack.callback(made.close)
            return made

        yield one


def story(told):
    """Run a test on a loop, with worlds."""

    def test(make, no_leaks):
        worlds = []

        async def bounded():
            try:
                await told(lambda *args, **options: worlds.append(make(*args, **options)) or worlds[-1])
            finally:
                for world in worlds:
                    world.close()

        on_loop(bounded)(None)

    test.__name__, test.__doc__ = told.__name__, told.__doc__
    return test


@story
async def test_a_flood_over_many_connections_delays_nobody_else(make):
    world = make()
    flood = [world.connect(1) for _ in range(100)]
    for sock in flood:
        sock.sendall(b"".join(ping(1) for _ in range(20)))
    quiet = world.connect(2)
    quiet.sendall(ping(9))
    await until(lambda: 9 in world.frames())
    # All connections can be read at the same time.  Of the flood, what one turn allows is read before, or twice that.
    assert world.frames().index(9) <= 2 * applications._FRAMES_AT_ONCE
    await until(lambda: len(world.frames()) == 2001)
    await until(lambda: not world.apps._waiting)  # they are looked at once more, and have nothing


@story
async def test_connections_of_one_caller_take_turns_too(make):
    world = make()
    busy = world.connect(1)
    busy.sendall(b"".join(ping(1) for _ in range(300)))
    others = [world.connect(1) for _ in range(20)]
    for number, sock in enumerate(others):
        sock.sendall(ping(100 + number))
    await until(lambda: len(world.frames()) == 320)
    order = world.frames()
    assert max(order.index(100 + number) for number in range(20)) < 320 - 100, order


@story
async def test_the_end_of_connections_counts_like_a_frame(make):
    world = make()
    for sock in [world.connect(1) for _ in range(200)]:
        sock.close()
    quiet = world.connect(2)
    quiet.sendall(ping(9))
    await until(lambda: 9 in world.frames())
    before = world.seen[: next(n for n, event in enumerate(world.seen) if isinstance(event, AppFrame))]
    assert sum(isinstance(event, AppGone) for event in before) <= 2 * applications._FRAMES_AT_ONCE
    await until(lambda: sum(isinstance(event, AppGone) for event in world.seen) == 200)


@story
async def test_one_that_waits_for_its_turn_can_be_dropped(make):
    world = make()
    socks = [world.connect(1) for _ in range(3)]
    for sock in socks:
        sock.sendall(b"".join(ping(1) for _ in range(40)))
    while not world.apps._waiting:  # noqa: ASYNC110 - each round is to be seen; on_loop bounds it
        await asyncio.sleep(0)
    for event in [event for event in world.seen if isinstance(event, AppConnected)]:
        world.apps.drop(event.connection, "a test")
    count = len(world.frames())
    quiet = world.connect(1)
    quiet.sendall(ping(9))
    await until(lambda: 9 in world.frames())
    assert len(world.frames()) == count + 1
    await until(lambda: not world.apps._waiting and not world.apps._is_turning)


async def reply_to(sock, data=b""):
    """Send something; return what comes back before the end of the connection."""
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        sock.sendall(data)
    got = []

    def ended():
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # it has not read all of what was sent
            return True
        got.append(data)
        return not data

    await until(ended)
    return b"".join(got)


@story
async def test_one_connection_too_many_is_told_so(make):
    world = make("max_connections_per_caller 2\n")
    first, _second, third = world.connect(1), world.connect(1), world.connect(1)
    other = world.connect(2)
    reply = frame_untrusted(await reply_to(third, ping(77)))
    assert (reply.reqid, reply.cbid, reply.cmd) == (77, 0, Cmd.ERROR)
    told = ErrorReply.from_payload_untrusted(reply.payload).message
    assert told.startswith("[215] ")
    assert "max_connections_per_caller is 2" in told
    assert [event.caller.uid for event in world.seen if isinstance(event, AppTurnedAway)] == [1]
    assert world.frames() == []
    other.sendall(ping(5))
    first.sendall(ping(6))
    await until(lambda: sorted(world.frames()) == [5, 6])
    first.close()
    await until(lambda: any(isinstance(event, AppGone) for event in world.seen))
    world.connect(1).sendall(ping(8))
    await until(lambda: 8 in world.frames())


@story
async def test_a_rule_counts_its_own_connections(make):
    world = make("limit few user=1 connections=1\nlimit none user=2 connections=0\n")
    world.connect(1)
    reply = frame_untrusted(await reply_to(world.connect(1), ping(1)))
    assert "limit few connections is 1" in ErrorReply.from_payload_untrusted(reply.payload).message
    reply = frame_untrusted(await reply_to(world.connect(2), ping(1)))
    assert "limit none connections is 0" in ErrorReply.from_payload_untrusted(reply.payload).message
    world.connect(3).sendall(ping(3))
    await until(lambda: world.frames() == [3])


@story
async def test_few_are_at_the_door_and_none_for_long(make):
    world = make("max_connections_per_caller 1\n")
    world.connect(1)
    door._WAIT_S, before = 0.05, door._WAIT_S
    try:
        guests = [world.connect(1) for _ in range(door._GUESTS_OF_USER)]
        assert len(world.apps._door) == door._GUESTS_OF_USER
        assert await reply_to(world.connect(1), ping(1)) == b"", "nobody waits for it"
        guests[0].sendall(ping(1)[: FRAME_B // 2])
        guests[1].close()
        assert [await reply_to(guest) for guest in guests[2:]] == [b""] * (door._GUESTS_OF_USER - 2)
        assert await reply_to(guests[0]) == b""
        await until(lambda: not len(world.apps._door))
    finally:
        door._WAIT_S = before


@story
async def test_descriptors_that_come_along_at_the_door_are_closed(make):
    import array
    import os

    world = make("max_connections_per_caller 1\n")
    world.connect(1)
    third = world.connect(1)
    read_fd, write_fd = os.pipe()
    third.sendmsg([ping(1)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write_fd]))])
    os.close(write_fd)
    assert await reply_to(third)
    assert os.read(read_fd, 1) == b"", "nobody has it any more"
    os.close(read_fd)


@story
async def test_a_storm_that_there_are_no_descriptors_for_is_one_line_a_second(make):
    world = make(most=4)
    for _ in range(50):
        world.connect(1)
    assert len(world.log.of("caller.refused")) == 1
    assert world.log.of("caller.refused")[0]["connections"] == 2


# --- descriptors ------------------------------------------------------------------------------------------


class SlowPipes:
    """Pipes are closed when a test lets them: so it is with a file whose file system does not answer (FUSE)."""

    def __init__(self, monkeypatch):
        self.answers = threading.Event()
        self.inside = 0
        close = os.close

        def slow(fd):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                self.inside += 1
                assert self.answers.wait(30)
            close(fd)

        self.pipes = os.pipe()
        self._close = close
        monkeypatch.setattr(os, "close", slow)

    def pass_with(self, sock, data, count=1):
        """Send data, and descriptors along."""
        passed = array.array("i", [self.pipes[0]] * count)
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])

    def end(self):
        self.answers.set()
        for fd in self.pipes:
            self._close(fd)


@pytest.fixture
def pipes(monkeypatch):
    made = SlowPipes(monkeypatch)
    yield made
    made.end()


async def _is_closed(world, uid):
    await until(lambda: uid not in world.apps._closer._waiting)


@pytest.mark.parametrize("count", [1, 3])
def test_what_cannot_be_closed_holds_up_nobody(make, pipes, count, monkeypatch):
    async def story():
        monkeypatch.setattr(closing, "_LONG_S", 0.05)
        world = make()
        bad, good = world.connect(1), world.connect(2)
        pipes.pass_with(bad, ping(1), count)
        await until(lambda: pipes.inside == 1)
        good.sendall(ping(2))
        bad.sendall(ping(3))
        await until(lambda: sorted(world.frames()) == [1, 2, 3])
        first = next(event for event in world.seen if isinstance(event, AppFrame))
        assert first.passed.kind is FdKind.OTHER
        first.passed.fd.close()  # as who refuses it does
        await until(lambda: world.log.of("caller.descriptor_hangs"))
        pipes.pass_with(bad, ping(4), count)
        await until(lambda: len(world.frames()) == 4)
        assert world.seen[-1].passed is None
        await asyncio.sleep(0.2)
        assert world.log.of("caller.descriptor_hangs") == [{"uid": 1}], "it is said once"
        pipes.answers.set()
        await _is_closed(world, 1)
        assert not world.apps._closer.is_stuck(1)

    on_loop(story)(None)


def test_of_whose_descriptors_do_not_come_to_an_end_no_more_are_taken(make, pipes, monkeypatch):
    async def story():
        monkeypatch.setattr(closing, "_LONG_S", 0.2)
        world = make()
        bad, good = world.connect(1), world.connect(2)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(10):
            pipes.pass_with(bad, ping(number), 50)
            await until(lambda come=number + 1: len(world.frames()) == come)
        passed = [event.passed for event in world.seen if isinstance(event, AppFrame)]
        assert [one is not None for one in passed] == [True, True] + [False] * 8
        taken = len(os.listdir("/proc/self/fd")) - before
        assert closing._MOST <= taken <= closing._MOST + 50
        pipes.pass_with(good, ping(20))  # another user's are
        await until(lambda: len(world.frames()) == 11)
        assert world.seen[-1].passed.kind is FdKind.OTHER
        for event in world.seen:
            if isinstance(event, AppFrame) and event.passed is not None:
                event.passed.fd.close()
        pipes.answers.set()
        await _is_closed(world, 1)
        await _is_closed(world, 2)
        pipes.pass_with(bad, ping(30))
        await until(lambda: len(world.frames()) == 12)
        assert world.seen[-1].passed is not None
        world.seen[-1].passed.fd.close()
        await _is_closed(world, 1)

    on_loop(story)(None)


def test_where_no_thread_can_be_had_it_is_closed_all_the_same(make, monkeypatch):
    async def story():
        world = make()
        monkeypatch.setattr(threading.Thread, "start", lambda _self: (_ for _ in ()).throw(RuntimeError("no")))
        app = world.connect(1)
        ours, theirs = os.pipe()
        app.sendmsg([ping(1)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))])
        os.close(theirs)
        await until(lambda: world.frames() == [1])
        assert os.read(ours, 1) == b""  # there is no writer any more
        os.close(ours)
        world.seen[-1].passed.fd.close()
        assert not world.apps._closer.is_stuck(1)

    on_loop(story)(None)


# --- sockets that linger ------------------------------------------------------------------------------------

LINGER_S = 6


def lingering():
    """Return a socket whose closing takes time, if it is the last copy; its remote reads nothing."""
    remote, sock = tcp_pair()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
    return remote, sock


@pytest.mark.parametrize("how", ["too many connections", "turned away", "turned away unread", "gone unread"])
def test_nobody_makes_us_linger_by_what_nobody_takes(make, no_leaks, how):
    """The kernel closes what came over a connection that is closed, and would wait for it in that call."""
    remote, sock = lingering()

    @on_loop
    async def told():
        few = "" if how == "gone unread" else "limit none user=1 connections=0\n"
        world = make(few, most=1 if how == "too many connections" else 1000)
        began_s = time.monotonic()
        world.connect(1, sock)
        if how == "turned away":
            await until(lambda: world.apps._door._guests and next(iter(world.apps._door._guests)).frame)
        world.close()
        assert time.monotonic() - began_s < LINGER_S / 2

    told(None)
    remote.close()


def within(sock):
    """Return a UNIX socket in which another socket waits to be received, and which has the last copy of that."""
    ours, theirs = socket.socketpair()
    socket.send_fds(theirs, [b"x"], [sock.fileno()])
    sock.close()
    theirs.close()
    return ours


@pytest.mark.parametrize("how", ["refused", "one too many", "half a frame", "turned away"])
def test_nobody_makes_us_linger_by_what_waits_in_a_socket(make, no_leaks, how):
    remote, sock = lingering()

    @on_loop
    async def told():
        world = make("limit none user=1 connections=0\n" if how == "turned away" else "")
        began_s = time.monotonic()
        nested = within(sock)
        if how == "turned away":
            app = world.connect(1, nested)
            await until(lambda: world.apps._door._guests and next(iter(world.apps._door._guests)).frame)
        else:
            app, (other, another) = world.connect(1), socket.socketpair()
            frame = b"x" if how == "half a frame" else ping(1)
            socket.send_fds(
                app, [frame], [other.fileno(), nested.fileno()] if how == "one too many" else [nested.fileno()]
            )
            for one in (nested, other, another):
                one.close()
            if how == "half a frame":
                await until(lambda: any(line.passed for line in world.apps._lines.values()))
            else:
                await until(lambda: world.frames() == [1])
                world.apps.let_go(world.seen[-1].passed.fd)
        app.close()
        world.close()
        assert time.monotonic() - began_s < LINGER_S / 2
        remote.close()  # the other end of what lingers, so that what closes it ends
        await until(lambda: not world.apps._closer._waiting)

    told(None)


def test_many_sockets_wait_in_bins(make, no_leaks):
    """Refused requests of one user, each with a socket, before the thread that closes them has had its turn."""

    @on_loop
    async def told():
        world = make()
        remote, sock = lingering()
        first = OwnedFd(within(sock).detach(), received=True)
        first.giver_uid = 1
        closer = world.apps._closer
        before = len(os.listdir("/proc/self/fd"))
        closer.drop([first])
        others = []
        for _ in range(1000):
            ours, theirs = socket.socketpair()
            fd = OwnedFd(theirs.detach(), received=True)
            fd.giver_uid = 1
            closer.drop([fd])
            others.append(ours)
        assert not closer.is_stuck(1)
        assert len(os.listdir("/proc/self/fd")) - before <= 1000 + 2 * (1 + 1000 // closing._IN_BIN + 1)
        remote.close()
        await _is_closed(world, 1)
        for one in others:
            one.settimeout(0)
            assert one.recv(1) == b""
            one.close()

    told(None)
