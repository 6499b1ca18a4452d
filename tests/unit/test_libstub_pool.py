"""One Pool for all threads: sharing, restarts, forks, silence, interruptions, against a pool that speaks V2 only."""

import gc
import os
import select
import signal
import socket
import threading
import time
import weakref

import pytest

import libstub
from libstub import core, starttls
from libstub import pool as pool_module
from tests.fixtures.fake_pool import answer, error
from tlspool_common.appwire import Cmd, Frame, Ping


@pytest.fixture
def remote():
    """Make connected sockets: one for libstub, one for the remote."""
    made = []

    def make():
        ours, theirs = socket.socketpair()
        theirs.settimeout(15)
        made.extend((ours, theirs))
        return ours, theirs

    yield make
    for sock in made:
        sock.close()


class Caller(threading.Thread):
    """A thread that calls something, and keeps what it returns or raises."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self._function = function
        self.start()

    def run(self):
        try:
            self.result = self._function()
        except BaseException as error:
            self.result = error

    def is_done(self, wait_s):
        self.join(wait_s)
        return not self.is_alive()

    def outcome(self):
        self.join(20)
        assert not self.is_alive()
        return self.result


def held(fake, cmd):
    """Let a pool keep requests; return what was kept and a function that answers all."""
    kept = []

    def keep(peer, asked):
        kept.append((peer, asked))

    def release():
        for peer, asked in kept:
            answer(peer, asked)
        kept.clear()

    fake.on[cmd] = keep
    return release


def test_ping(pool):
    pong = pool.ping()
    assert (pong.identity, pong.facilities) == ("20151111api@tlspool.arpa2.net", 1)


def test_one_connection_serves_many_threads(fake, pool, remote):
    def converse(number):
        ours, theirs = remote()
        with libstub.starttls_client(ours, f"host{number}.example", pool=pool) as session:
            assert session.remoteid == f"host{number}.example"
            session.sock.sendall(b"%d" % number)
            assert theirs.recv(100) == b"%d" % number
        return number

    callers = [Caller(lambda number=number: converse(number)) for number in range(40)]
    assert [caller.outcome() for caller in callers] == list(range(40))
    assert fake.connections == 1


def test_answers_in_reverse_order_reach_who_asked(fake, pool):
    kept = []
    everybody = threading.Event()

    def keep(peer, asked):
        kept.append(asked)
        if len(kept) == 20:
            for one in reversed(kept):
                number = Ping.from_payload_untrusted(one.frame.payload).facilities
                peer.send(
                    Frame(
                        one.frame.reqid, 0, Cmd.PING, Ping(f"2020{one.frame.reqid:04}x@y.example", number).to_payload()
                    )
                )
            everybody.set()

    fake.on[Cmd.PING] = keep
    callers = [Caller(pool.ping) for _ in range(20)]
    assert everybody.wait(15)
    assert len({caller.outcome().identity for caller in callers}) == 20


def test_the_leader_that_is_served_makes_another(fake, pool):
    """The first caller reads for all; when it has its answer, the others must not be left alone."""
    release = held(fake, Cmd.STARTTLS)
    pairs = [socket.socketpair() for _ in range(2)]
    waiting = [Caller(lambda ours=ours: libstub.starttls_client(ours, "x.example", pool=pool)) for ours, _ in pairs]
    fake.await_change(lambda: fake.commands() == [Cmd.STARTTLS] * 2)
    for _ in range(3):
        pool.ping()  # each ends as leader, or is woken by one
    release()
    for caller in waiting:
        caller.outcome().close()
    for _, theirs in pairs:
        theirs.close()


def test_a_pool_that_is_away_is_waited_for_with_what_was_not_sent(fake, pool, remote):
    pool.ping()
    fake.stop()
    ours, _ = remote()
    callers = [Caller(pool.ping), Caller(lambda: libstub.starttls_client(ours, "x.example", pool=pool).close())]
    assert not any(caller.is_done(0.1) for caller in callers)
    fake.start()
    for caller in callers:
        assert not isinstance(caller.outcome(), BaseException)


def test_a_pool_that_stays_away_is_waited_for_once(fake, pool, monkeypatch):
    monkeypatch.setattr("libstub.pool.RETURN_S", 0.3)
    pool.ping()
    fake.stop()
    began_s = time.monotonic()
    for _ in range(10):
        with pytest.raises(libstub.PoolUnavailable, match="not running"):
            pool.ping()
    assert 0.3 <= time.monotonic() - began_s < 1.5
    fake.start()
    assert pool.ping()


def test_a_pool_that_never_was_there_is_not_waited_for(tmp_path):
    began_s = time.monotonic()
    with pytest.raises(libstub.PoolUnavailable, match="there is no pool"):
        libstub.Pool(tmp_path / "nothing").ping()
    assert time.monotonic() - began_s < 1


def test_the_end_of_a_pool_is_noticed_before_anything_is_sent_whoever_reads(fake, pool):
    """Another thread waits for an answer, and so reads for all; it need not have seen the end yet."""
    held(fake, Cmd.STARTTLS)
    caller = Caller(lambda: pool.command(Cmd.STARTTLS, bytes(380), Cmd.STARTTLS))
    fake.await_commands(Cmd.STARTTLS)
    fake.drop_connections()
    assert pool.ping()
    assert "closed the connection" in str(caller.outcome())


def test_a_pool_that_restarts(fake, pool, remote, monkeypatch):
    monkeypatch.setattr("libstub.pool.RETURN_S", 0.1)
    pool.ping()
    fake.stop()
    with pytest.raises(libstub.PoolUnavailable, match="not running"):
        pool.ping()
    fake.start()
    assert pool.ping()
    fake.stop()
    fake.start()
    ours, _ = remote()
    libstub.starttls_client(ours, "x.example", pool=pool).close()  # what nobody noticed fails nobody


def test_a_pool_that_stops_while_asked(fake, pool, remote):
    held(fake, Cmd.STARTTLS)
    ours, theirs = remote()
    caller = Caller(lambda: libstub.starttls_client(ours, "x.example", pool=pool))
    fake.await_commands(Cmd.STARTTLS)
    fake.drop_connections()
    assert "closed the connection" in str(caller.outcome())
    assert theirs.recv(1) == b""
    assert pool.ping()


def test_sessions_end_with_the_pool_unless_forked(fake, remote):
    with libstub.Pool(fake.path) as pool:
        (ours, theirs), (lasting_ours, lasting_theirs) = remote(), remote()
        session = libstub.starttls_client(ours, "x.example", pool=pool)
        lasting = libstub.starttls_client(lasting_ours, "x.example", pool=pool, fork=True)
    assert theirs.recv(1) == b""
    lasting_theirs.sendall(b"still here")
    assert lasting.sock.recv(100) == b"still here"
    session.close()
    lasting.close()


def test_a_session_keeps_its_pool(fake, remote):
    ours, theirs = remote()
    session = libstub.starttls_client(ours, "x.example", pool=libstub.Pool(fake.path))
    kept = weakref.ref(session.pool)
    gc.collect()
    theirs.sendall(b"x")
    assert session.sock.recv(1) == b"x"
    session.close()
    del session
    gc.collect()
    assert kept() is None
    assert theirs.recv(1) == b""


def test_closed(fake, remote):
    pool = libstub.Pool(fake.path)
    held(fake, Cmd.PING)
    caller = Caller(pool.ping)
    fake.await_commands(Cmd.PING)
    pool.close()
    assert "this program closed" in str(caller.outcome())
    ours, theirs = remote()
    for _ in range(2):
        with pytest.raises(libstub.Misuse, match="was closed"):
            pool.ping()
    with pytest.raises(libstub.Misuse):
        libstub.starttls_client(ours, "x.example", pool=pool)
    assert theirs.recv(1) == b""
    pool.close()


# --- silence ----------------------------------------------------------------------------------------


def test_a_ping_that_is_not_answered(fake, pool, monkeypatch):
    monkeypatch.setattr(pool_module, "TICK_S", 0.05)
    held(fake, Cmd.PING)
    with pytest.raises(libstub.Timeout):
        pool.ping(timeout_s=0.05)


def test_a_silent_pool_is_given_up(fake, pool, remote, monkeypatch):
    monkeypatch.setattr(core, "SILENCE_S", 0.1)
    monkeypatch.setattr(core, "DEAF_S", 0.2)
    monkeypatch.setattr(pool_module, "TICK_S", 0.05)
    held(fake, Cmd.STARTTLS)
    held(fake, Cmd.PING)
    ours, theirs = remote()
    with pytest.raises(libstub.PoolUnavailable, match="has said nothing"):
        libstub.starttls_client(ours, "x.example", pool=pool)
    assert fake.commands() == [Cmd.STARTTLS, Cmd.PING]
    assert theirs.recv(1) == b""


def test_a_slow_handshake_with_a_live_pool_is_waited_for(fake, pool, remote, monkeypatch):
    monkeypatch.setattr(core, "SILENCE_S", 0.05)
    monkeypatch.setattr(core, "DEAF_S", 0.1)
    monkeypatch.setattr(pool_module, "TICK_S", 0.02)
    release = held(fake, Cmd.STARTTLS)
    ours, _ = remote()
    caller = Caller(lambda: libstub.starttls_client(ours, "x.example", pool=pool, timeout_s=libstub.NO_TIMEOUT))
    fake.await_change(lambda: fake.commands().count(Cmd.PING) >= 5)
    release()
    caller.outcome().close()


def test_time_passes_while_others_keep_the_connection_busy(fake, pool, remote, monkeypatch):
    monkeypatch.setattr(pool_module, "TICK_S", 0.05)
    monkeypatch.setattr(starttls, "_GRACE_S", 0.1)
    held(fake, Cmd.STARTTLS)
    ours, _ = remote()
    stop = threading.Event()

    def chatter():
        while not stop.is_set():
            pool.ping()

    noise = Caller(chatter)
    with pytest.raises(libstub.Timeout):
        libstub.starttls_client(ours, "x.example", pool=pool, timeout_s=0.1)
    stop.set()
    assert noise.outcome() is None


def test_a_pool_that_closes_every_connection(fake, pool):
    fake.on[Cmd.PING] = lambda peer, _: peer.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(libstub.PoolUnavailable):
        pool.ping()


def test_a_failure_to_connect_is_shared_by_all_who_waited(tmp_path, monkeypatch, no_leaks):
    monkeypatch.setattr(pool_module, "CONNECT_S", 0.5)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first, libstub.Pool(tmp_path / "s") as pool:
            first.connect(str(tmp_path / "s"))
            callers = [Caller(pool.ping) for _ in range(8)]
            errors = [caller.outcome() for caller in callers]
    assert {type(one) for one in errors} == {libstub.PoolUnavailable}
    assert len({id(one) for one in errors}) == 8


# --- forks and signals ------------------------------------------------------------------------------


def in_child(function):
    """Run a function in a forked child and return its exit status."""
    pid = os.fork()
    if not pid:
        status = 99
        try:
            status = function()
        finally:
            os._exit(status)
    with_deadline = os.pidfd_open(pid)
    try:
        if not select.select([with_deadline], [], [], 20)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(with_deadline)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_connection_of_its_own(fake, pool, remote):
    ours, theirs = remote()
    session = libstub.starttls_client(ours, "x.example", pool=pool)
    before = fake.connections

    def child():
        pool.ping()
        session.sock.sendall(b"from the child")
        pool.close()
        return 7

    assert in_child(child) == 7
    assert fake.connections == before + 1
    assert theirs.recv(100) == b"from the child"
    theirs.sendall(b"the parent goes on")
    assert session.sock.recv(100) == b"the parent goes on"
    pool.ping()
    assert fake.connections == before + 1
    session.close()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_child_does_not_keep_what_was_under_way(fake, pool, remote):
    """Descriptors of handshakes of other threads are closed in the child, and go on in the parent."""
    release = held(fake, Cmd.STARTTLS)
    ours, theirs = remote()
    inode = os.fstat(ours.fileno()).st_ino
    caller = Caller(lambda: libstub.starttls_client(ours, "x.example", pool=pool))
    fake.await_commands(Cmd.STARTTLS)

    def copies():
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return sum(os.readlink(link) == f"socket:[{inode}]" for link in links if os.path.lexists(link))

    assert copies() == 2  # ours, and that of the pool in this process
    assert in_child(copies) == 1
    assert copies() == 2
    release()
    with caller.outcome() as session:
        theirs.sendall(b"x")
        assert session.sock.recv(1) == b"x"


class Interruption(Exception):
    """What a signal handler raises."""


def test_an_interrupted_caller_gives_up_and_others_go_on(fake, pool, remote):
    """As with Ctrl-C: the caller that is interrupted is the one that reads for all."""
    release = held(fake, Cmd.STARTTLS)
    ours, theirs = remote()
    (other_ours, other_theirs) = remote()

    def handler(*_):
        raise Interruption

    def interrupt():
        fake.await_change(lambda: fake.commands() == [Cmd.STARTTLS])
        other = Caller(lambda: libstub.starttls_client(other_ours, "y.example", pool=pool))
        fake.await_change(lambda: fake.commands() == [Cmd.STARTTLS] * 2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        return other

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        interrupter = Caller(interrupt)
        with pytest.raises(Interruption):
            libstub.starttls_client(ours, "x.example", pool=pool)
    finally:
        signal.signal(signal.SIGUSR1, before)
    other = interrupter.outcome()
    assert theirs.recv(1) == b""  # shut down at once, though the pool has a copy
    release()
    with other.outcome() as session:
        other_theirs.sendall(b"x")
        assert session.sock.recv(1) == b"x"
    assert pool.ping()


class InterruptedLock:
    """A lock at whose first release a signal comes."""

    def __init__(self, shared):
        self.shared, self.lock = shared, shared._lock
        shared._lock = self

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.shared._lock = self.lock
        self.lock.release()
        raise Interruption


def test_a_caller_that_is_interrupted_before_it_waits_does_not_lead(fake, pool):
    """It would be woken in place of one that waits, for ever."""
    pool.ping()
    kept = []
    fake.on[Cmd.PING] = lambda peer, asked: kept.append((peer, asked))
    InterruptedLock(pool._shared)
    with pytest.raises(Interruption):
        pool.ping()
    first = Caller(pool.ping)
    fake.await_change(lambda: len(kept) == 2)
    second = Caller(pool.ping)
    fake.await_change(lambda: len(kept) == 3)
    answer(*kept[1])
    assert isinstance(first.outcome(), libstub.Pong)
    answer(*kept[2])
    assert isinstance(second.outcome(), libstub.Pong)


def test_an_interruption_inside_the_core_gives_the_connection_up(fake, pool, remote, monkeypatch):
    held(fake, Cmd.STARTTLS)
    ours, theirs = remote()
    other = Caller(lambda: libstub.starttls_client(ours, "x.example", pool=pool))
    fake.await_commands(Cmd.STARTTLS)
    line = pool._shared._line

    def interrupted(_event):
        monkeypatch.undo()
        raise Interruption

    monkeypatch.setattr(line, "handle", interrupted)
    with pytest.raises(Interruption):
        pool.ping()
    assert "interrupted" in str(other.outcome())
    assert theirs.recv(1) == b""
    assert pool.ping()


# --- hostile pools ----------------------------------------------------------------------------------


def test_a_pool_that_never_asks_for_the_plaintext(fake, pool, remote):
    def at_once(peer, asked):
        asked.drop()
        peer.send(Frame(asked.frame.reqid, 0, Cmd.STARTTLS, asked.frame.payload))

    fake.on[Cmd.STARTTLS] = at_once
    ours, theirs = remote()
    with pytest.raises(libstub.ProtocolError, match="did not ask"):
        libstub.starttls_client(ours, "x.example", pool=pool)
    plain, other = remote()
    ours, _ = remote()
    with pytest.raises(libstub.ProtocolError, match="did not ask"):
        libstub.starttls_client(ours, "x.example", pool=pool, plain=plain)
    assert other.recv(1) == b""
    assert theirs.recv(1) == b""


def test_a_pool_that_asks_twice(fake, pool, remote):
    def again(peer, asked):
        asked.drop()
        del fake.on[Cmd.PLAINTEXT_CONNECT]
        peer.call_back(asked)

    fake.on[Cmd.PLAINTEXT_CONNECT] = again
    ours, _ = remote()
    with pytest.raises(libstub.PoolUnavailable, match="twice"):
        libstub.starttls_client(ours, "x.example", pool=pool)


def test_a_pool_that_asks_who_we_are_though_nobody_wanted_that(fake, pool, remote):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: answer(peer, asked, Cmd.STARTTLS_LOCALID)
    ours, _ = remote()
    with pytest.raises(libstub.Misuse) as caught:
        libstub.starttls_client(ours, "x.example", pool=pool)
    assert caught.value.code == 109


def test_no_descriptors_for_the_plaintext(fake, pool, remote, monkeypatch):
    ours, _ = remote()

    def none(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("libstub.holding.socket.socketpair", none)
    with pytest.raises(libstub.PoolUnavailable, match="Too many open files"):
        libstub.starttls_client(ours, "x.example", pool=pool)
    fake.await_change(lambda: Cmd.ERROR in fake.commands())
    assert pool.ping()


def test_an_unknown_request_id_ends_the_connection_and_the_next_call_makes_another(fake, pool):
    fake.on[Cmd.PING] = lambda peer, asked: peer.send(Frame(asked.frame.reqid + 5, 0, Cmd.PING))
    with pytest.raises(libstub.ProtocolError, match="not open"):
        pool.ping()
    del fake.on[Cmd.PING]
    assert pool.ping()
    assert fake.connections == 2


def test_500_sessions_leave_nothing_behind(fake, pool, remote):
    """Good ones, refused ones, and ones that are closed at once; ``no_leaks`` counts."""
    fake.on[Cmd.STARTTLS] = lambda peer, asked: (
        (asked.drop(), peer.send(error(asked.frame, "[402] not trusted")))
        if asked.starttls.remoteid.startswith("bad")
        else answer(peer, asked)
    )
    for number in range(500):
        ours, theirs = socket.socketpair()
        with theirs:
            if number % 5 == 4:
                with pytest.raises(libstub.RemoteUnverified):
                    libstub.starttls_client(ours, "bad.example", pool=pool)
            else:
                libstub.starttls_client(ours, "x.example", pool=pool).close()
    assert pool._shared._line.open_count == 0
