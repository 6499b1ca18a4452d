"""A relay on socket pairs, with its handshake made in memory: what its states promise, step by step.

The relay in C and the one in Python keep the same promises, so each test is run on both.
"""

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL._util import lib

from tests.fixtures import certs
from tests.fixtures.lone_worker import tcp_pair
from tests.fixtures.relay_world import World
from tests.fixtures.software_handshakes import NAME, Remote, generation, start
from tlspool_common.messages import EndReason, RemoteAuth, Side
from tlspool_worker import reauth, verify
from tlspool_worker.asked import answering
from tlspool_worker.contexts import Contexts
from tlspool_worker.relay import HELD_B
from tlspool_worker.tls import CIPHER_B, PLAIN_B, SMALL_B


@pytest.fixture(params=["native", "python"])
def world(no_leaks, request):
    made = World(request.param)
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
    assert world.counts() == (3 * size_b, 3 * size_b)


# Records of the remote, and what the application writes: of one size each, the last of several records.
SENT = ((1, 200, 16384), (1, 20_000, 100_000))


@pytest.mark.parametrize("early", [True, False], ids=["before the application", "with it"])
def test_records_and_bytes_are_counted(world, early):
    """In C as in Python."""
    sent, wrote = SENT
    if not early:
        world.attach()
    for size in sent:
        world.remote.tls.write(bytes(size))
    world.flush()
    if early:
        world.attach()
    assert world.app.recv(sum(sent), socket.MSG_WAITALL) == bytes(sum(sent))
    for size in wrote:
        world.app.sendall(bytes(size))
        world.gets(bytes(size))
    counted = world.traffic()
    assert (counted.from_remote_b, counted.from_remote_records) == (sum(sent), len(sent))
    assert counted.to_remote_b == sum(wrote)
    assert counted.to_remote_records == world.records() >= 1 + 2 + 7
    world.app.close()
    world.ended()
    assert world.ends_with == replace(counted, idle_ms=world.ends_with.idle_ms)


def test_records_without_data_are_none(world):
    """KeyUpdates, and the end."""
    world.attach()
    world.send(b"one")
    assert world.app.recv(100) == b"one"
    with contextlib.suppress(ssl.SSLWantReadError):
        world.remote.tls.unwrap()
    world.flush()
    world.app.close()
    world.ended()
    assert (world.ends_with.from_remote_records, world.ends_with.to_remote_records) == (1, 0)


def test_how_long_nothing_was_moved(world):
    world.attach()
    began_s = time.monotonic()
    world.send(b"one")
    assert world.app.recv(100) == b"one"
    world.until(lambda: world.traffic().idle_ms >= 50)
    assert world.traffic().idle_ms <= (time.monotonic() - began_s) * 1000 + 11  # C's clock moves in steps
    world.app.sendall(b"two")
    sent_s = time.monotonic()
    world.gets(b"two")
    assert world.traffic().idle_ms <= (time.monotonic() - sent_s) * 1000 + 11


def test_how_long_nothing_was_moved_since_the_handshake(world):
    world.attach()
    before_ms = world.traffic().idle_ms
    world.until(lambda: world.traffic().idle_ms >= before_ms + 30)


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
    world.until(lambda: world.waiting() >= HELD_B)
    held = world.waiting()
    assert HELD_B <= held <= HELD_B + PLAIN_B
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
    world.turn()
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += world.cipher.send(data[sent : sent + 100_000])
    assert sent < len(data)
    world.until(world.waiting)
    assert world.waiting() <= PLAIN_B


def test_a_burst_s_memory_is_given_back(world):
    world.attach()
    world.app.sendall(bytes(100_000))
    world.turn()
    before, busy = world.held(lambda stream: (stream._wbio, stream.was_busy))
    assert busy
    deadline_s = time.monotonic() + 10
    while world.held(lambda stream: stream._wbio) == before:
        assert time.monotonic() < deadline_s
        for relay in world.around.busy:  # as the shell does each second; C looks by itself
            relay.slim()
        world.poller.run_once(0.1)
    assert not world.held(lambda stream: stream.was_busy)
    world.gets(bytes(100_000))
    world.app.sendall(b"still works")
    world.gets(b"still works")
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
    assert world.ended() == [(EndReason.CLEAN, "")]


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
    assert world.counts() == (size, 0)


def test_an_application_that_closes_altogether(world):
    world.attach()
    world.app.sendall(b"bye")
    world.app.close()
    world.turn()
    assert world.ended() == [(EndReason.CLEAN, "")]
    world.gets(b"bye")


def test_packets(world):
    world.attach(socket.SOCK_SEQPACKET)
    world.send(b"x" * 1300)
    assert [len(world.app.recv(4096)) for _ in range(3)] == [512, 512, 276]
    for packet in (b"one", b"two", b"three"):
        world.app.send(packet)
    world.turn()
    world.gets(b"onetwothree")


def test_an_end_that_is_told_before_the_last_packet(world):
    """An empty packet looks like an end, as that does which the kernel tells too early: what is behind it counts."""
    world.attach(socket.SOCK_SEQPACKET)
    world.app.send(b"")
    world.app.send(b"last")
    world.app.shutdown(socket.SHUT_WR)
    world.turn()
    world.gets(b"last")


def test_a_turn_is_one_batch(no_leaks):
    """A remote that never stops sending does not keep others from their turn."""
    world = World("python")  # of C's turns nothing is seen from here
    world.attach()
    for _ in range(50):
        world.remote.tls.write(bytes(16384))
    world.cipher.sendall(world.remote.outgoing.read())
    world.poller.run_once(1)
    assert 0 < world.relay.from_remote_b <= PLAIN_B
    world.close()


def test_a_flood_keeps_nobody_waiting(world):
    """The loop may hold a session, and end it, while a remote never stops sending."""
    world.attach()
    flood = threading.Event()
    for _ in range(2000):
        world.remote.tls.write(bytes(16384))
    data = world.remote.outgoing.read()

    def send():
        flood.set()
        with contextlib.suppress(OSError):
            world.cipher.sendall(data)

    def swallow():
        while world.app.recv(1 << 20):
            pass

    threads = [threading.Thread(target=run) for run in (send, swallow)]
    for thread in threads:
        thread.start()
    flood.wait(5)
    counts = []
    for _ in range(20):
        world.poller.run_once(0.001)
        counts.append(world.counts()[0])
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] <= 2000 * 16384
    if world.relay.from_remote_b < 2000 * 16384:
        world.relay.end()
        assert world.ends == [(EndReason.ORDERED, "")]
    with contextlib.suppress(OSError):
        world.cipher.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


def test_an_order_to_end(world):
    world.attach()
    world.relay.end()
    assert world.ends == [(EndReason.ORDERED, "")]
    assert world.app.recv(1) == b""
    assert world.received() == b""
    assert world.remote.error is None  # it was close_notify


def test_the_remote_breaks_off(world):
    world.attach()
    world.send(b"not the end")
    world.cipher.shutdown(socket.SHUT_WR)
    world.turn()
    assert world.app.recv(100) == b"not the end"
    assert world.app.recv(100) == b""
    world.app.shutdown(socket.SHUT_WR)
    world.turn()
    assert world.ended() == [(EndReason.TRUNCATED, "the remote closed without close_notify")]


def test_the_remote_resets(world):
    world.attach()
    world.cipher.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    world.cipher.close()
    world.turn()
    assert world.ended() == [(EndReason.REMOTE_RESET, "Connection reset by peer")]


def test_a_record_that_does_not_decrypt(world):
    world.attach()
    world.cipher.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    world.turn()
    assert world.app.recv(100) == b""
    ((reason, detail),) = world.ended()
    assert reason is EndReason.REMOTE_ALERT
    assert "decryption failed or bad record mac" in detail
    world.until(lambda: world.received() or world.remote.error)
    assert "BAD_RECORD_MAC" in str(world.remote.error)


def test_an_application_that_breaks(world):
    """Its socket is reset: the remote is not told that what it said was all."""
    world.app, plain = tcp_pair()
    plain.setblocking(False)
    world.relay.attach(plain)
    world.app.sendall(b"half a sen")
    world.turn()
    world.app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    world.app.close()
    world.turn()
    world.gets(b"half a sen")
    assert world.ended() == [(EndReason.PLAIN_LOST, "Connection reset by peer")]
    assert world.cipher.recv(100) == b""  # the end, and no close_notify before it: ``received`` has taken all


def flood(world, size):
    """Have the remote send more than an application takes that does not read."""
    world.remote.tls.write(bytes(size))
    data = world.remote.outgoing.read()
    world.cipher.setblocking(False)
    for _ in range(200):
        with contextlib.suppress(BlockingIOError):
            data = data[world.cipher.send(data) :]
        world.poller.run_once(0.001)
    world.until(lambda: world.waiting() > 0)


def test_an_application_that_did_not_read(world):
    world.attach()
    world.app.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flood(world, 600_000)
    world.app.close()
    world.turn()
    ((reason, _),) = world.ended()
    assert reason is EndReason.PLAIN_LOST


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_nothing_blocks_although_copies_of_the_sockets_were_made_blocking(world, kind):
    """O_NONBLOCK is shared by all copies of a descriptor, and an application may keep one of what it gave away."""
    world.app, plain = socket.socketpair(socket.AF_UNIX, kind)
    world.app.settimeout(5)
    plain.setblocking(False)
    with plain.dup() as copy, world.relay._tls.dup() as other:
        world.relay.attach(plain)
        copy.setblocking(True)
        other.setblocking(True)
        world.app.send(b"out")
        world.gets(b"out")
        world.send(b"in")
        assert world.app.recv(100) == b"in"
        world.app.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100_000):
                world.app.send(bytes(60_000))
                world.poller.run_once(0)
        flood(world, 8_000_000)


def test_the_end_does_not_wait_although_a_copy_was_told_to_linger(world):
    """close(2) waits on a socket that lingers, for as long as the application does not read."""
    world.app, plain = tcp_pair()
    plain.setblocking(False)
    with plain.dup() as copy:
        world.relay.attach(plain)
        flood(world, 8_000_000)
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 8))
    began_s = time.monotonic()
    world.relay.end()
    assert time.monotonic() - began_s < 4


def test_hold(world):
    """Bytes on their way stay so, in both directions and in their order, whenever a session is held."""
    uses = []
    assert world.relay.hold(uses.append)  # before there is an application
    world.send(b"early ")
    world.attach()
    assert world.relay.hold(uses.append)
    world.remote.tls.write(bytes(1_000_000))
    data = world.remote.outgoing.read()
    world.app.settimeout(0)
    world.cipher.setblocking(False)
    outward = inward = 0
    expected = b"early " + bytes(1_000_000)
    while inward < len(expected):
        with contextlib.suppress(BlockingIOError):
            data = data[world.cipher.send(data[:50_000]) :]
        with contextlib.suppress(BlockingIOError):
            outward += world.app.send(b"o" * 30_000)
        assert world.relay.hold(uses.append)
        world.poller.run_once(0.0005)
        with contextlib.suppress(BlockingIOError):
            part = world.app.recv(40_000)
            assert part == expected[inward : inward + len(part)]
            inward += len(part)
    world.app.settimeout(5)
    got = b""
    while len(got) < outward:
        world.turn()
        got += world.received()
    assert got == b"o" * outward
    assert {type(stream).__name__ for stream in uses} == {"Stream"}
    assert world.counts() == (1_000_006, outward)


def test_what_is_said_in_hold_goes_out(world):
    world.attach()
    world.held(lambda stream: stream.close())
    world.turn()
    assert world.received() == b""
    assert world.remote.error is None


@pytest.mark.parametrize("kind", ["native", "python"])
def test_a_remote_that_asks_who_we_are(no_leaks, tmp_path, kind):
    """OpenSSL stops there: the session waits in the loop's thread until it is told to go on, and loses nothing."""
    chain = tmp_path / "chain.pem"
    leaf = certs.leaf(NAME)
    secret = leaf.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(secret + leaf.pem + certs.intermediate().pem)
    remote = Remote(Side.SERVER, chain_file=chain, verify=ssl.CERT_REQUIRED, asks_later=True)
    with contextlib.closing(World(kind, remote, side=Side.CLIENT, remote_auth=RemoteAuth.IGNORE)) as world:
        asked = []
        world.around.asked = asked.append
        world.attach()
        remote.tls.write(b"before ")
        remote.tls.verify_client_post_handshake()
        with contextlib.suppress(ssl.SSLWantReadError):
            remote.tls.read(1)  # that is when ssl sends it
        remote.tls.write(bytes(3000))
        world.app.sendall(b"meanwhile")
        world.flush()
        world.until(lambda: asked)
        assert asked == [world.relay]
        assert world.app.recv(100) == b"before "
        stream = world.relay.stream
        assert stream.waits
        uses = []
        assert world.relay.hold(uses.append)
        assert uses == []
        with answering():
            assert lib.SSL_do_handshake(stream.ssl) == 1
        stream.waits = False
        world.relay.go_on()
        world.turn()
        assert uses == [stream]
        world.gets(b"meanwhile")
        assert remote.tls.getpeercert()["subject"]
        assert world.app.recv(3000, socket.MSG_WAITALL) == bytes(3000)
        assert (getattr(world.relay, "_session", None) is not None) == (kind == "native")
        world.app.sendall(b"afterwards")
        world.turn()
        world.gets(b"afterwards")


@pytest.mark.parametrize("kind", ["native", "python"])
def test_a_remote_that_is_asked_who_it_is(no_leaks, tmp_path, kind):
    """Its answer is judged by a callback, which comes in whichever thread relays."""
    chain = tmp_path / "chain.pem"
    leaf = certs.leaf("john@example.com")
    secret = leaf.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(secret + leaf.pem + certs.intermediate().pem)
    remote = Remote(chain_file=chain, answers_later=True)
    check, answers = verify.Check(None, domain_represents_user=False), []
    context = Contexts().get(start(remote_auth=RemoteAuth.REQUEST), (), generation())
    with contextlib.closing(World(kind, remote)) as world:
        world.attach()
        world.held(lambda stream: reauth.ask(stream, context, check, lambda: answers.append(threading.get_native_id())))
        world.until(lambda: world.received() or remote.outgoing.pending)  # its answer
        world.send(b"and by the way")
        assert world.app.recv(100) == b"and by the way"
        assert len(answers) == 1
        assert (answers[0] == threading.get_native_id()) == (kind == "python")
        told = world.held(lambda stream: reauth.judge(stream, check, 1, 1))
        assert told.remote_verified
        assert told.remote_names == ("email:john@example.com",)
        world.app.sendall(b"welcome")
        world.turn()
        world.gets(b"welcome")


def test_hold_of_a_session_that_is_over_in_its_thread(no_leaks):
    """Its end is on its way to the loop, and comes from there."""
    world = World("native")  # in Python there is no such time
    world.attach()
    world.app.close()
    deadline_s = time.monotonic() + 10
    while not select.select([world.around._event_fd], [], [], 0.1)[0]:
        assert time.monotonic() < deadline_s
    assert not world.relay.hold(lambda _stream: pytest.fail("it is over"))
    assert world.ends == []
    world.turn()
    assert world.ended() == [(EndReason.CLEAN, "")]
    world.close()


def test_traffic_of_a_session_that_is_over(no_leaks):
    """Its end tells it."""
    world = World("native")
    world.attach()
    world.app.close()
    deadline_s = time.monotonic() + 10
    while not select.select([world.around._event_fd], [], [], 0.1)[0]:
        assert time.monotonic() < deadline_s
    assert world.relay.traffic() is None
    world.turn()
    assert world.relay.traffic() is None
    world.close()
