"""Everything of the broker that has a loop: applications, borders, listeners, and faults in any of it."""

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque

import pytest

from tests.fixtures.loops import Lines, on_loop, until
from tlspool_broker import applications, borders, events, listener
from tlspool_broker.events import (
    AppConnected,
    AppFrame,
    AppGone,
    Arm,
    Clock,
    Disarm,
    DropFd,
    HelperKind,
    HelperLost,
    HelperNumber,
    HelperSaid,
    Note,
    SendApp,
    SendHelper,
    StartHelper,
    StopHelper,
    Timer,
    TimerFired,
    WorkerLost,
    WorkerNumber,
    WorkerSaid,
)
from tlspool_broker.out import Out
from tlspool_broker.quotas import Quotas
from tlspool_broker.shell import Shell
from tlspool_common.appwire import Frame
from tlspool_common.channel import pair
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    AskRevocation,
    ClientHelloSeen,
    OnlineHello,
    Party,
    RevocationTold,
    SessionEnded,
)
from tlspool_common.settings import parse_untrusted

SETTINGS = parse_untrusted("")


class FakeCore:
    """Keeps what happens, and says what it was told to."""

    def __init__(self):
        self.seen = []
        self.answers = deque()
        self.quotas = Quotas(Out(), SETTINGS)
        self.connections = {}

    def handle(self, event, now_ms):
        assert now_ms > 0
        self.seen.append(event)
        answer = self.answers.popleft() if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.contextmanager
def shell(most=100):
    core, log = FakeCore(), Lines()
    made = Shell(core, SETTINGS, frozenset(), most, log)
    try:
        yield made, core, log
    finally:
        made.close()


def connected(made):
    """Connect an application."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    made.applications.accepted(theirs)
    return ours


PING = Frame(1, 0, 0x10).to_bytes()
SAID = ClientHelloSeen(session_id=1, sni="", alpn=b"")


# --- the interpreter ------------------------------------------------------------------------------------


@on_loop
async def test_what_happens_meanwhile_waits_for_its_turn():
    with shell() as (made, _, _):
        order = []

        class Core(FakeCore):
            def handle(self, event, now_ms):
                order.append(event)
                return [SendApp(event, Frame(1, 0, 1))] if event in ("a", "b") else []

        made.core = Core()
        made.applications.send = lambda connection, frame: (
            made.happened(connection * 2),
            order.append(f"sent for {connection}"),
        )
        made.happened("a")
        assert order == ["a", "sent for a", "aa"]


@on_loop
async def test_timers():
    with shell() as (made, core, _):
        first, second, last = (Timer(Clock.SESSION, number) for number in (1, 2, 3))
        core.answers += [[Arm(first, 1), Arm(second, 1), Arm(last, 9), Arm(first, 2), Disarm(second), Disarm(second)]]
        made.happened("go")
        await until(lambda: core.seen[-1] == TimerFired(last))
        assert core.seen == ["go", TimerFired(first), TimerFired(last)]


@on_loop
async def test_a_fault_of_the_core_costs_the_application_that_met_it():
    with shell() as (made, core, log):
        ours, other = connected(made), connected(made)
        secret = "canary"
        core.answers.append(ValueError(secret))
        ours.send(PING)
        await until(lambda: any(isinstance(event, AppGone) for event in core.seen))
        assert ours.recv(1) == b""
        [fault] = log.of("broker.internal")
        assert (fault["at"], fault["error"]) == ("AppFrame", "ValueError")
        assert "handle:" in fault["trace"]
        assert secret not in str(log.lines)
        other.send(PING)
        await until(lambda: isinstance(core.seen[-1], AppFrame))
        ours.close()
        other.close()


@on_loop
async def test_a_fault_of_the_core_costs_the_worker_that_met_it():
    with shell() as (made, core, log):
        core.answers.append(KeyError(5))
        made.happened(WorkerSaid(WorkerNumber(3), SAID))
        assert core.seen[-1] == WorkerLost(WorkerNumber(3), "an internal error", broken=True)
        core.answers.append(KeyError(5))
        made.happened(events.StopAsked())
        assert len(log.of("broker.internal")) == 2


@on_loop
async def test_a_descriptor_is_dropped_and_shut():
    with shell() as (made, core, _):
        for shut in (False, True):
            ours, theirs = socket.socketpair()
            copy = ours.dup()
            core.answers.append([DropFd(OwnedFd(ours.detach()), shut)])
            made.happened("go")
            theirs.setblocking(False)
            if shut:
                assert theirs.recv(1) == b""  # though there is a copy
            else:
                with pytest.raises(BlockingIOError):
                    theirs.recv(1)
            copy.close()
            assert theirs.recv(1) == b""
            theirs.close()
        core.answers.append([Note("info", "x.y", {"a": 1})])
        made.happened("go")


# --- applications ---------------------------------------------------------------------------------------


@on_loop
async def test_one_that_does_not_read_is_sent_away_in_the_end():
    with shell() as (made, core, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr(applications, "_DEAF_S", 0.05)
        ours = connected(made)
        connection = core.seen[0].connection
        while not made.applications.has_queued:
            made.applications.send(connection, Frame(1, 0, 1))
        ours.send(PING)  # is not read any more
        await until(lambda: isinstance(core.seen[-1], AppGone))
        assert "does not read" in core.seen[-1].reason
        assert not any(isinstance(event, AppFrame) for event in core.seen)
        ours.close()


@on_loop
async def test_one_that_reads_slowly_is_not():
    with shell() as (made, core, _):
        ours = connected(made)
        connection = core.seen[0].connection
        sent = 0
        while not made.applications.has_queued or sent % 10:
            made.applications.send(connection, Frame(sent, 0, 1))
            sent += 1
        ours.setblocking(False)
        got = b""
        while len(got) < sent * 388:
            with contextlib.suppress(BlockingIOError):
                got += ours.recv(1000)
            await asyncio.sleep(0)
        assert [int.from_bytes(got[at : at + 2], "little") for at in range(0, len(got), 388)] == list(range(sent))
        ours.send(PING)
        await until(lambda: isinstance(core.seen[-1], AppFrame))  # it is read from again
        ours.close()


@on_loop
async def test_what_waits_for_one_application_is_bounded():
    with shell() as (made, core, _):
        ours = connected(made)
        connection = core.seen[0].connection
        for _ in range(applications._QUEUE_FRAMES + 2000):
            made.applications.send(connection, Frame(1, 0, 1))
        assert isinstance(core.seen[-1], AppGone)
        ours.close()


@on_loop
async def test_one_that_goes_away_while_something_waits_for_it():
    with shell() as (made, core, _):
        ours = connected(made)
        while not made.applications.has_queued:
            made.applications.send(core.seen[0].connection, Frame(1, 0, 1))
        ours.close()
        await until(lambda: isinstance(core.seen[-1], AppGone))


@on_loop
async def test_when_there_are_no_descriptors_left():
    """MSG_CTRUNC: what came through is closed, and the request is one without a descriptor."""
    import array
    import resource

    with shell() as (made, core, log):
        ours = connected(made)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        null_fd = os.open("/dev/null", os.O_RDONLY)
        highest = os.dup(null_fd)
        os.close(highest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
            ours.sendmsg([PING], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null_fd] * 5))])
            await until(lambda: isinstance(core.seen[-1], AppFrame))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert core.seen[-1].passed is None
        assert log.of("caller.descriptors_lost")
        os.close(null_fd)
        ours.close()


@on_loop
async def test_one_user_may_have_half_of_the_connections():
    with shell(most=4) as (made, core, log):
        socks = [connected(made) for _ in range(3)]
        assert socks[2].recv(1) == b""
        assert len(log.of("caller.refused")) == 1
        socks[0].close()
        await until(lambda: isinstance(core.seen[-1], AppGone))
        socks.append(connected(made))
        assert isinstance(core.seen[-1], AppConnected)
        for sock in socks:
            sock.close()


# --- listeners ------------------------------------------------------------------------------------------


class FailingSocket:
    """A listening socket that fails a number of times."""

    def __init__(self, sock, failures):
        self.sock = sock
        self.failures = failures

    def accept(self):
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.sock.accept()

    def __getattr__(self, name):
        return getattr(self.sock, name)


@on_loop
async def test_a_listener_rests_when_there_are_no_descriptors():
    log, accepted = Lines(), []
    name = f"\0tlspool-test-listener-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock, pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "_PAUSE_S", 0.02)
        sock.bind(name)
        sock.listen()
        made = listener.Listener(FailingSocket(sock, 2), accepted.append, log)
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(name)
            await until(lambda: accepted)
        assert len(log.of("listener.paused")) == 2
        accepted[0].close()
        made.close()
        made.close()


@on_loop
async def test_a_listener_that_rests_can_be_closed():
    log = Lines()
    name = f"\0tlspool-test-listener-{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(name)
    sock.listen()
    made = listener.Listener(FailingSocket(sock, 1), lambda _sock: None, log)
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(name)
        await until(lambda: log.lines)
        made.close()


@on_loop
async def test_joining_when_there_are_no_descriptors():
    with shell() as (made, core, _), pytest.MonkeyPatch.context() as patch:
        worker, brokers_end = pair(Party.WORKER, Party.BROKER)
        made.borders.adopt(WorkerNumber(1), brokers_end)

        def none_left():
            raise OSError(errno.EMFILE, "Too many open files")

        patch.setattr(borders, "raw_pair", none_left)
        join = events.JoinKeyd(WorkerNumber(1), 1, events.PeerId(9))
        made.borders.join(join)
        assert core.seen == [WorkerLost(WorkerNumber(1), "no channel to keyd: Too many open files")]
        made.borders.join(join)  # it is gone
        worker.close()


@on_loop
async def test_what_is_sent_to_nobody_is_closed():
    with shell() as (made, _, _):
        fds = [OwnedFd(os.open("/dev/null", os.O_RDONLY)) for _ in range(2)]
        made.borders.send_worker(WorkerNumber(5), SessionEnded, fds[0])
        made.borders.send_peer(events.PeerId(5), SessionEnded, fds[1])
        made.borders.close_worker(WorkerNumber(5))
        made.borders.close_peer(events.PeerId(5))
        made.applications.send(events.ConnectionId(5), Frame(1, 0, 1))
        made.applications.drop(events.ConnectionId(5), "x")
        assert all(fd.closed for fd in fds)


@on_loop
async def test_a_message_of_ours_that_breaks_the_table_costs_its_channel():
    with shell() as (made, core, log):
        channel, theirs = pair(Party.WORKER, Party.BROKER)
        made.borders.adopt(WorkerNumber(5), theirs)
        fd = OwnedFd(os.open("/dev/null", os.O_RDONLY))
        made.borders.send_worker(WorkerNumber(5), SAID, fd)  # it is for the broker
        assert fd.closed
        assert core.seen == [WorkerLost(WorkerNumber(5), "a message to it broke the table", broken=False)]
        assert [fields["message"] for fields in log.of("border.internal")] == ["ClientHelloSeen"]
        channel.close()


# --- the helper -------------------------------------------------------------------------------------

HELPER = HelperNumber(HelperKind.ONLINE, 3)
OTHER = HelperNumber(HelperKind.ONLINE, 2)
QUESTION = AskRevocation(wants=1, chain=(), crl_urls=(), ocsp_urls=(), deadline_ms=2000)


def starts(made, core):
    """Have the helper started."""
    core.answers.append([StartHelper(HELPER)])
    made.happened(TimerFired(Timer(Clock.IDLE)))


@on_loop
async def test_a_helper_is_started_asked_and_stopped():
    with shell() as (made, core, log):
        starts(made, core)
        await until(lambda: any(isinstance(event, HelperSaid) for event in core.seen))
        hello = next(event for event in core.seen if isinstance(event, HelperSaid))
        assert (hello.helper, type(hello.message)) == (HELPER, OnlineHello)
        pid = hello.message.pid
        core.answers.append([SendHelper(HELPER, 77, QUESTION), SendHelper(OTHER, 78, QUESTION)])
        made.happened(TimerFired(Timer(Clock.IDLE)))
        await until(lambda: isinstance(core.seen[-1], HelperSaid) and core.seen[-1].exchange == 77)
        assert isinstance(core.seen[-1].message, RevocationTold)
        core.answers.append([StopHelper(OTHER), StopHelper(HELPER), SendHelper(HELPER, 79, QUESTION)])
        made.happened(TimerFired(Timer(Clock.IDLE)))
        await until(lambda: log.of("helper.gone"))
        assert log.of("helper.gone") == [{"pid": pid, "status": 0}]
        assert not any(isinstance(event, HelperLost) for event in core.seen)


@on_loop
async def test_a_helper_that_dies_is_reaped_and_missed():
    with shell() as (made, core, log):
        starts(made, core)
        await until(lambda: any(isinstance(event, HelperSaid) for event in core.seen))
        os.kill(next(event.message.pid for event in core.seen if isinstance(event, HelperSaid)), 9)
        await until(lambda: isinstance(core.seen[-1], HelperLost) and log.of("helper.gone"))
        assert core.seen[-1].helper == HELPER
        assert log.of("helper.gone")[0]["status"] == -9


@on_loop
async def test_a_helper_that_cannot_be_started():
    def fails(fd, _wishes):
        fd.close()
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with pytest.MonkeyPatch.context() as patch, shell() as (made, core, _):
        patch.setattr(borders.online, "spawn", fails)
        starts(made, core)
        assert core.seen[-1].reason == "it cannot be started: Resource temporarily unavailable"
