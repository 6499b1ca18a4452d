"""A listening socket that accepts plaintext: readiness, addresses, bounds, forks, and its end."""

import asyncio
import collections
import errno
import gc
import logging
import os
import select
import socket
import threading
import time

import pytest

import libstub
from libstub.aio import server as server_module
from tests.fixtures.crowd import crowded
from tests.fixtures.fake_pool import answer, error
from tests.unit.test_libstub_localid import Host
from tlspool_common.appwire import Cmd


@pytest.fixture
def listen(fake):
    """Make listeners; all are closed at the end."""
    made = []

    def make(where=("127.0.0.1", 0), **options):
        made.append(libstub.listen(where, "localhost", pool=fake.path, **options))
        made[-1].settimeout(15)
        return made[-1]

    yield make
    for one in made:
        one.close()
    made.clear()  # what a test was told of errors is not kept


@pytest.fixture
def client():
    made = []

    def connect(where):
        address = where if isinstance(where, tuple) else where.getsockname()
        made.append(socket.create_connection(address, timeout=15))
        return made[-1]

    yield connect
    for sock in made:
        sock.close()


def test_accept(listen, client):
    listener = listen()
    remote = client(listener)
    plain, address = listener.accept()
    with plain:
        assert address == remote.getsockname() == plain.getpeername()
        assert plain.getsockname() == listener.getsockname()
        assert plain.gettimeout() is None
        assert (plain.tls.localid, plain.tls.version) == ("localhost", "TLSv1.3")
        remote.sendall(b"x")
        assert plain.recv(1) == b"x"
        with plain.dup() as copy:
            assert copy.getpeername() == ""
            copy.sendall(b"y")
        assert remote.recv(1) == b"y"


def test_ready_means_that_accept_does_not_wait(listen, client):
    listener = listen()
    listener.setblocking(False)
    assert not listener.getblocking()
    assert not select.select([listener], [], [], 0)[0]
    with pytest.raises(BlockingIOError):
        listener.accept()
    client(listener)
    client(listener)
    for _ in range(2):
        assert select.select([listener], [], [], 15)[0]
        listener.accept()[0].close()
    assert not select.select([listener], [], [], 0)[0]
    listener.setblocking(True)
    assert listener.gettimeout() is None


def test_timeouts(listen):
    listener = listen()
    listener.settimeout(0.01)
    with pytest.raises(TimeoutError):
        listener.accept()


def test_a_program_with_many_descriptors(listen):
    listener = listen()
    listener.settimeout(0.01)
    with crowded(), pytest.raises(TimeoutError):
        listener.accept()


def test_a_session_that_is_taken_while_another_thread_closes_the_listener(listen, client):
    listener = listen()

    class Closing(collections.deque):
        def popleft(self):
            sock = super().popleft()
            listener.close()
            return sock

    remote = client(listener)
    assert select.select([listener], [], [], 15)[0]
    background = listener._background
    background._sessions = Closing(background._sessions)
    with listener.accept()[0] as plain:
        plain.sendall(b"x")
        assert remote.recv(1) == b"x"


def test_a_slow_handshake_delays_nobody(fake, listen, client):
    held = threading.Event()
    kept = []

    def hold(peer, asked):
        fake.on.clear()
        kept.append((peer, asked))
        held.set()

    fake.on[Cmd.STARTTLS] = hold
    listener = listen()
    listener.fileno()
    slow = client(listener)
    assert held.wait(15)
    quick = client(listener)
    plain, address = listener.accept()
    plain.close()
    assert address == quick.getsockname()
    answer(*kept[0])
    plain, address = listener.accept()
    plain.close()
    assert address == slow.getsockname()


def test_a_bound_on_what_is_under_way(fake, listen, client):
    """With two places, two that nobody has accepted hold back the third, until one is taken."""
    listener = listen(setups=2)
    remotes = [client(listener) for _ in range(3)]
    listener.fileno()
    details = [Cmd.LOCAL_DETAILS] * 2
    fake.await_change(lambda: [cmd for cmd in fake.commands() if cmd == Cmd.LOCAL_DETAILS] == details)
    assert fake.commands().count(Cmd.STARTTLS) == 2
    found = set()
    for _ in remotes:
        plain, address = listener.accept()
        plain.close()
        found.add(address)
    assert found == {remote.getsockname() for remote in remotes}


def test_a_function_of_the_program_that_fails_costs_no_place(fake, client, caplog):
    """What ``on_localid`` raises is raised where a handshake is waited for; here that is nowhere."""

    happened = threading.Event()

    def choose(localid):
        happened.set()
        raise KeyError(localid)

    host = Host("a.example", "b.example")
    fake.on[Cmd.STARTTLS] = host.starttls

    def refused(peer, asked):
        peer.crypts.popitem()[1].close()
        peer.send(error(asked.frame, "[209] the application refuses"))

    fake.on[Cmd.ERROR] = refused
    with libstub.listen(("127.0.0.1", 0), pool=fake.path, on_localid=choose, setups=1) as listener:
        for _ in range(2):
            happened.clear()
            client(listener)
            listener.fileno()
            assert happened.wait(15)
        deadline = time.monotonic() + 15
        while caplog.text.count("KeyError: ") < 2:  # the loop tells it when the task has ended
            assert time.monotonic() < deadline
            time.sleep(0.01)
    caplog.clear()
    host.asked.clear()


def test_failures_are_told(fake, listen, client):
    def refuse(peer, asked):
        asked.drop()
        peer.send(error(asked.frame, "[307] too slow"))

    fake.on[Cmd.STARTTLS] = refuse
    told = []
    happened = threading.Event()
    listener = listen(on_error=lambda *args: (told.append(args), happened.set()), setups=1)
    listener.setblocking(False)
    for _ in range(3):  # the place of the one that failed is free again
        happened.clear()
        remote = client(listener)
        listener.fileno()
        assert happened.wait(15)
        assert remote.recv(1) == b""
    assert isinstance(told[0][0], libstub.Timeout)
    assert told[2][1] == remote.getsockname()


def test_failures_are_logged(fake, listen, client, caplog):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: (asked.drop(), peer.send(error(asked.frame, "[307] too slow")))
    with caplog.at_level(logging.INFO, "libstub"):
        listener = listen()
        listener.fileno()
        assert client(listener).recv(1) == b""
        listener.close()
    assert "[307] too slow" in caplog.text


def test_descriptors_run_out(listen, client, monkeypatch, caplog):
    """Accepting pauses, and goes on."""
    real = asyncio.selector_events.BaseSelectorEventLoop.sock_accept
    failures = [errno.EMFILE, errno.ECONNABORTED]

    async def accept(loop, sock):
        if failures:
            raise OSError(failures.pop(0), "no")
        return await real(loop, sock)

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_accept", accept)
    monkeypatch.setattr(server_module, "PAUSE_S", 0.01)
    listener = listen()
    client(listener)
    listener.accept()[0].close()
    assert "accepting pauses" in caplog.text
    assert failures == []


def test_the_end(listen, client):
    """What was accepted goes on; what was not is broken off; who waits is woken."""
    listener = listen()
    remote = client(listener)
    plain, _ = listener.accept()
    left = client(listener)
    assert select.select([listener], [], [], 15)[0]
    listener.close()
    listener.close()
    assert listener.fileno() == -1
    assert "closed" in repr(listener)
    assert left.recv(1) == b""
    with plain:
        plain.sendall(b"x")
        assert remote.recv(1) == b"x"
    with pytest.raises(OSError, match="closed"):
        listener.accept()


def test_the_end_wakes_who_waits(listen):
    listener = listen()
    listener.settimeout(None)
    outcome = []

    def wait():
        try:
            listener.accept()
        except OSError as error:
            outcome.append(error.errno)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    listener.fileno()
    listener.close()
    thread.join(15)
    assert outcome == [errno.EBADF]


def test_the_end_is_for_all_who_wait(listen):
    """Also for one that is about to wait, and looks whether there is something first."""
    listener = listen()
    background = listener._running()
    listener.close()
    for _ in range(2):
        assert background.take() is None
        assert select.select([background.ready], [], [], 0)[0]


def test_the_end_in_the_middle_of_a_handshake(fake, listen, client):
    held = threading.Event()
    fake.on[Cmd.STARTTLS] = lambda _peer, asked: (asked.drop(), held.set())
    listener = listen()
    listener.fileno()
    remote = client(listener)
    assert held.wait(15)
    listener.close()
    assert remote.recv(1) == b""


def test_the_last_session_lets_go_of_the_pool(fake, listen, client):
    listener = listen()
    client(listener)
    plain, _ = listener.accept()
    listener.close()
    gc.collect()
    assert len(fake.peers) == 1
    plain.close()
    del plain
    gc.collect()
    fake.await_change(lambda: not fake.peers)


def test_a_child_accepts_by_itself(fake, listen, client):
    """A server that forks its workers: the listener is made before, and used before, by the parent."""
    listener = listen()
    client(listener)
    listener.accept()[0].close()
    listener_address = listener.getsockname()
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(ready)
            listener.fileno()
            os.write(done, b"x")
            plain, address = listener.accept()
            plain.sendall(b"from the child")
            os.write(done, repr(address).encode())
        finally:
            os._exit(0)
    os.close(done)
    assert os.read(ready, 1) == b"x"
    listener.close()  # so that all is the child's
    remote = client(listener_address)
    assert remote.recv(100) == b"from the child"
    assert os.read(ready, 100).decode() == repr(remote.getsockname())
    os.close(ready)
    assert os.waitpid(child, 0)[1] == 0


def test_a_socket_that_listens_already(listen, client):
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(3)
    listener = listen(sock)
    assert sock.fileno() == -1
    client(listener)
    listener.accept()[0].close()
    assert repr(listener).startswith("<TlsListener ('127.0.0.1'")


def test_what_cannot_be(fake):
    with pytest.raises(libstub.Misuse, match="localid"):
        libstub.listen(("127.0.0.1", 0), "")
    with pytest.raises(libstub.Misuse):
        libstub.listen(("127.0.0.1", 0), "localhost", pool="x" * 200)
    with pytest.raises(OSError):
        libstub.listen(("203.0.113.1", 0), "localhost")
    assert fake.commands() == []


def test_a_loop_that_accepts_by_itself(listen):
    """uvloop takes the descriptor, and would wait for ever."""
    listener = listen()
    asyncio._set_running_loop(asyncio.AbstractEventLoop())
    try:
        with pytest.raises(libstub.Misuse, match="past TLS"):
            listener.fileno()
    finally:
        asyncio._set_running_loop(None)


def test_asyncio_accepts_from_it(listen, client):
    """What uvicorn does: a server over a socket that was given to it."""
    listener = listen()

    async def run():
        async def handler(reader, writer):
            writer.write(repr(writer.get_extra_info("peername")).encode())
            writer.close()

        async with await asyncio.start_server(handler, sock=listener):
            remote = client(listener)
            return remote, await asyncio.to_thread(remote.recv, 100)

    remote, text = asyncio.run(run())
    assert text.decode() == repr(remote.getsockname())
    assert listener.fileno() == -1
