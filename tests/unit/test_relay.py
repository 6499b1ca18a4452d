"""A relay on socket pairs, with its handshake made in memory: what its states promise, step by step."""

import contextlib
import socket

import pytest

from tests.fixtures.lone_worker import tcp_pair
from tests.fixtures.software_handshakes import Remote, handshake, shake
from tlspool_common.messages import EndReason
from tlspool_worker.poller import Poller
from tlspool_worker.relay import HELD_B, Relay, Surroundings
from tlspool_worker.tls import CIPHER_B, PLAIN_B, SMALL_B


class World:
    """A relay, its remote and its application."""

    def __init__(self, version=None):
        self.poller = Poller()
        self.ends = []
        self.around = Surroundings(self.poller, self._ended)
        self.remote = Remote(version=version)
        ours = handshake()
        assert shake(ours, self.remote).facts
        self.cipher, sock = tcp_pair()
        sock.setblocking(False)
        self.relay = Relay(self.around, 1, sock, ours.stream(), b"")
        self.relay.start()
        self.app = None

    def _ended(self, relay, reason, detail):
        self.ends.append((reason, detail))
        relay.take_socket().close()

    def attach(self, kind=socket.SOCK_STREAM):
        self.app, plain = socket.socketpair(socket.AF_UNIX, kind)
        self.app.settimeout(5)
        plain.setblocking(False)
        self.relay.attach(plain)

    def send(self, data):
        """The remote sends; the relay is given turns until nothing happens any more."""
        self.remote.tls.write(data)
        self.flush()

    def flush(self):
        self.cipher.sendall(self.remote.outgoing.read())
        self.turn()

    def turn(self):
        for _ in range(50):
            self.poller.run_once(0)

    def received(self):
        """What the remote's application sees by now."""
        self.cipher.setblocking(False)
        found = b""
        try:
            while part := self.cipher.recv(1 << 20):
                self.remote.incoming.write(part)
        except BlockingIOError:
            pass
        self.cipher.settimeout(5)
        while isinstance(part := self.remote.read(b""), bytes) and part:
            found += part
        return found

    def close(self):
        if not self.ends:
            self.relay.end()
        self.cipher.close()
        if self.app is not None:
            self.app.close()
        self.poller.close()


@pytest.fixture
def world(no_leaks):
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize("size_b", [1, SMALL_B - 100, SMALL_B, 16384, 16385, 100_000])
def test_sizes_both_ways(world, size_b):
    world.attach()
    for round_number in range(3):
        data = bytes([round_number]) * size_b
        world.send(data)
        assert world.app.recv(size_b, socket.MSG_WAITALL) == data
        world.app.sendall(data)
        got = b""
        while len(got) < size_b:
            world.turn()
            got += world.received()
        assert got == data
    assert world.relay.from_remote_b == world.relay.to_remote_b == 3 * size_b


def test_a_record_in_pieces(world):
    """What OpenSSL keeps of a record does not depend on our buffer."""
    world.attach()
    world.remote.tls.write(b"first" * 1000)
    data = world.remote.outgoing.read()
    for at in range(0, len(data), 700):
        world.cipher.sendall(data[at : at + 700])
        world.turn()
    assert world.app.recv(5000, socket.MSG_WAITALL) == b"first" * 1000


def test_buffers_hold_what_a_batch_can_become():
    assert PLAIN_B >= CIPHER_B + 16384 + 16384
    assert CIPHER_B >= 8 * (16384 + 5 + 8 + 16 + 1)


def test_what_comes_early_is_kept_up_to_a_bound(world):
    for _ in range(100):
        world.remote.tls.write(bytes(16384))
    data = world.remote.outgoing.read()
    world.cipher.setblocking(False)
    sent = 0
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            sent += world.cipher.send(data[sent:])
        world.poller.run_once(0)
    assert HELD_B <= len(world.relay._to_plain) <= HELD_B + PLAIN_B
    held = len(world.relay._to_plain)
    world.attach()
    assert world.app.recv(held, socket.MSG_WAITALL) == bytes(held)


def test_nothing_is_read_that_could_not_be_kept(world):
    """An application that does not read: at most one batch waits, and the remote is not read."""
    world.attach()
    for _ in range(1500):  # more than TCP keeps by itself
        world.remote.tls.write(bytes(16384))
    data = world.remote.outgoing.read()
    world.cipher.setblocking(False)
    sent = 0
    for _ in range(400):
        with contextlib.suppress(BlockingIOError):
            sent += world.cipher.send(data[sent : sent + 100_000])
        world.poller.run_once(0)
    assert sent < len(data)
    assert 0 < len(world.relay._to_plain) <= PLAIN_B


def test_a_burst_s_memory_is_given_back(world):
    world.attach()
    world.app.sendall(bytes(100_000))
    world.turn()
    assert world.around.busy == {world.relay}
    before = world.relay._stream._wbio
    world.relay.slim()
    assert world.relay._stream._wbio != before
    world.received()
    world.app.sendall(b"still works")
    world.turn()
    assert world.received()[-11:] == b"still works"
    world.send(b"both ways")
    assert world.app.recv(100) == b"both ways"


def test_clean_ends(world):
    world.attach()
    world.app.shutdown(socket.SHUT_WR)
    world.turn()
    assert world.received() == b""
    assert world.ends == []
    world.send(b"more of the remote")
    assert world.app.recv(100) == b"more of the remote"
    world.remote.tls.unwrap()
    world.flush()
    assert world.app.recv(100) == b""
    assert world.ends == [(EndReason.CLEAN, "")]


def test_an_end_with_bytes_left_over_waits_for_them(world):
    """The application is slow: it gets all, and only then the end."""
    world.attach()
    size = 600_000
    world.remote.tls.write(bytes(size))
    world.app.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with contextlib.suppress(OSError):
        world.remote.tls.unwrap()
    data = world.remote.outgoing.read()
    world.cipher.setblocking(False)
    sent = got = 0
    while got < size:
        if sent < len(data):
            with contextlib.suppress(BlockingIOError):
                sent += world.cipher.send(data[sent:])
        world.turn()
        got += len(world.app.recv(50_000))
    world.turn()
    assert world.app.recv(1) == b""
    assert world.relay.from_remote_b == size


def test_an_application_that_closes_altogether(world):
    world.attach()
    world.app.sendall(b"bye")
    world.app.close()
    world.turn()
    assert world.ends == [(EndReason.CLEAN, "")]
    assert world.received() == b"bye"


def test_packets(world):
    world.attach(socket.SOCK_SEQPACKET)
    world.send(b"x" * 1300)
    assert [len(world.app.recv(4096)) for _ in range(3)] == [512, 512, 276]
    for packet in (b"one", b"two", b"three"):
        world.app.send(packet)
    world.turn()
    assert world.received() == b"onetwothree"


def test_a_turn_is_one_batch(world):
    """A remote that never stops sending does not keep others from their turn."""
    world.attach()
    for _ in range(50):
        world.remote.tls.write(bytes(16384))
    world.cipher.sendall(world.remote.outgoing.read())
    world.poller.run_once(1)
    assert 0 < world.relay.from_remote_b <= PLAIN_B


def test_an_order_to_end(world):
    world.attach()
    world.relay.end()
    assert world.ends == [(EndReason.ORDERED, "")]
    assert world.app.recv(1) == b""
    assert world.received() == b""
    assert world.remote.error is None  # it was close_notify
