"""The channel: order, descriptors, and everything that must close it."""

import array
import os
import queue
import socket
import threading

import pytest

from tlspool_common import limits
from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed, fds_of, from_fd, pair
from tlspool_common.codec import BadFrame, encode
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    EndReason,
    EndSession,
    KeyAnswer,
    KeyChannel,
    KeydHello,
    KeyQuestion,
    Party,
    SessionEnded,
    TokenFind,
    TokenFound,
    TokenOpen,
    UseKeyChannel,
)

HELLO = KeydHello(protocol=1, pid=1, grant_secret=bytes(32))


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def no_leak():
    before = open_fds()
    yield
    assert open_fds() == before


@pytest.fixture
def ends(no_leak):
    """A broker's end of a worker channel, and the worker's."""
    broker, fd = pair(Party.BROKER, Party.WORKER)
    worker = from_fd(fd, Party.WORKER, Party.BROKER)
    yield broker, worker
    broker.close()
    worker.close()


def raw_ends(me: Party, peer: Party):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one, me, peer), other


def some_fd() -> OwnedFd:
    return OwnedFd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def test_messages_and_descriptors_arrive(ends):
    broker, worker = ends
    assert worker.receive() is None
    broker.send(UseKeyChannel(worker_id=5), exchange=9, fd=some_fd())
    with worker.receive() as got:
        assert got.message == UseKeyChannel(worker_id=5)
        assert got.exchange == 9
        fd = got.take_fd()
    assert not os.get_inheritable(fd.fileno())
    fd.close()


def test_an_end_that_is_told_before_the_last_message(no_leak):
    """An empty frame looks like an end, as that does which the kernel tells too early: what is behind it counts."""
    worker, other = raw_ends(Party.WORKER, Party.BROKER)
    broker, fd = pair(Party.BROKER, Party.WORKER)
    with socket.socket(fileno=fd.detach()) as spy:
        broker.send(UseKeyChannel(worker_id=5), fd=some_fd())
        frame, control, _, _ = spy.recvmsg(4096, 64)
    with other:
        other.send(b"")
        other.sendmsg([frame], control)
    for kept in fds_of(control):
        kept.close()
    with worker.receive() as got:
        assert got.message == UseKeyChannel(worker_id=5)
        got.take_fd().close()
    with pytest.raises(ChannelClosed):
        worker.receive()
    broker.close()


def test_a_descriptor_nobody_takes_is_closed(ends):
    broker, worker = ends
    broker.send(UseKeyChannel(worker_id=5), fd=some_fd())
    with worker.receive() as got:
        fd = got.fds[0]
    assert fd.closed


def test_wrong_direction_is_not_sent_and_its_descriptor_is_closed(ends):
    broker, _ = ends
    ended = SessionEnded(session_id=1, reason=EndReason.CLEAN, from_remote_b=0, to_remote_b=0, detail="")
    with pytest.raises(BadFrame):
        broker.send(ended)
    fd = some_fd()
    with pytest.raises(BadFrame):
        broker.send(EndSession(session_id=1, alert=0), fd=fd)
    assert fd.closed


def send_raw(sock: socket.socket, frame: bytes, fds: int = 0) -> None:
    numbers = [os.open("/dev/null", os.O_RDONLY) for _ in range(fds)]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))] if numbers else []
    sock.sendmsg([frame], rights)
    for number in numbers:
        os.close(number)


END = encode(0x6E, 0, EndSession(session_id=1, alert=0))
USE = encode(0x50, 0, UseKeyChannel(worker_id=1))
ENDED = encode(0x70, 0, SessionEnded(session_id=1, reason=EndReason.CLEAN, from_remote_b=0, to_remote_b=0, detail=""))


@pytest.mark.parametrize(
    ("frame", "fds", "text"),
    [
        (b"", 1, "0 bytes are no frame"),
        (b"\0\x6e", 0, "2 bytes are no frame"),
        (END + b"\0", 0, "1 bytes left over"),
        (END[:-1], 0, "ends inside"),
        (b"\x7f\x01" + END[2:], 0, "is not for this border"),
        (ENDED, 0, "is not for this border"),
        (END, 1, "came with 1 descriptors, not 0"),
        (USE, 0, "came with 0 descriptors, not 1"),
        (USE, 2, "came with 2 descriptors, not 1"),
        (USE, 40, "truncated"),
        (bytes(limits.FRAME_B + 1), 0, "truncated"),
    ],
)
def test_what_breaks_the_table_closes_the_channel(no_leak, frame, fds, text):
    worker, attacker = raw_ends(Party.WORKER, Party.BROKER)
    send_raw(attacker, frame, fds)
    with pytest.raises(ChannelBroken, match=text):
        worker.receive()
    assert worker.fileno() == -1
    attacker.close()


def test_first_must_be_first_and_is_not_repeated(no_leak):
    broker, keyd = raw_ends(Party.BROKER, Party.KEYD)
    send_raw(keyd, encode(0x25, 0, KeyAnswer(code=0, detail="", spki=b"")))
    with pytest.raises(ChannelBroken, match="before the opening message"):
        broker.receive()
    keyd.close()
    broker, keyd = raw_ends(Party.BROKER, Party.KEYD)
    send_raw(keyd, encode(0x20, 0, HELLO))
    send_raw(keyd, encode(0x20, 0, HELLO))
    with broker.receive() as got:
        assert got.message == HELLO
    with pytest.raises(ChannelBroken, match="a second KeydHello"):
        broker.receive()
    keyd.close()


def test_a_full_socket_queues_and_order_is_kept(no_leak):
    broker, fd = pair(Party.BROKER, Party.KEYD)
    keyd = from_fd(fd, Party.KEYD, Party.BROKER)
    count = 3000
    for number in range(count):
        if number % 100:
            broker.send(KeyQuestion(uri="pkcs11:object=" + "x" * 400), exchange=number)
        else:
            broker.send(KeyChannel(worker_id=number), exchange=number, fd=some_fd())
    assert broker.wants_write
    seen = []
    while len(seen) < count:
        got = keyd.receive()
        if got is None:
            broker.flush()
            continue
        with got:
            seen.append(got.exchange)
    assert seen == list(range(count))
    assert not broker.wants_write
    broker.close()
    keyd.close()


def test_a_reader_that_never_reads_is_given_up(no_leak):
    broker, fd = pair(Party.BROKER, Party.KEYD)
    with pytest.raises(ChannelClosed, match="does not read"):
        for _ in range(20000):
            broker.send(KeyQuestion(uri="pkcs11:object=" + "x" * 400))
    fd.close()


def test_the_other_end_going_away_is_told(ends):
    broker, worker = ends
    broker.close()
    with pytest.raises(ChannelClosed, match="has closed"):
        worker.receive()


def test_the_last_words_of_an_end_that_did_not_read_are_heard(no_leak):
    keyd, fd = pair(Party.KEYD, Party.BROKER)
    broker = from_fd(fd, Party.BROKER, Party.KEYD)
    keyd.send(HELLO)  # never read
    for exchange in (1, 2):
        broker.send(KeyQuestion(uri="pkcs11:object=a"), exchange=exchange)
    broker.close()
    for exchange in (1, 2):
        with keyd.receive() as received:
            assert received.exchange == exchange
    with pytest.raises(ChannelClosed, match="has closed"):
        keyd.receive()


def test_nothing_blocks_although_a_copy_of_our_end_was_made_blocking(no_leak):
    """O_NONBLOCK is shared by all copies of a descriptor, and who sent us one may have kept another."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    copy = ours.dup()
    broker = from_fd(OwnedFd(ours.detach()), Party.BROKER, Party.KEYD)
    copy.setblocking(True)
    assert broker.receive() is None
    while not broker.wants_write:
        broker.send(KeyQuestion(uri="pkcs11:object=a"))
    for part in (broker, copy, theirs):
        part.close()


def test_threads_may_wait_and_each_gets_another_frame(no_leak):
    token, fd = pair(Party.TOKEN, Party.KEYD)
    keyd = from_fd(fd, Party.KEYD, Party.TOKEN)
    token.let_receive_wait()
    found, ends = queue.SimpleQueue(), []

    def serve():
        try:
            while True:
                found.put(token.receive().exchange)
        except ChannelClosed as error:
            ends.append(str(error))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    opening = TokenOpen(module="", token_uri="", pin_secret=b"", pin_refused_by=(), sessions=4)
    keyd.send(opening, exchange=0)
    for thread in threads:
        thread.start()
    for exchange in range(1, 200):
        keyd.send(TokenFind(uri="pkcs11:object=a"), exchange=exchange)
        token.send(TokenFound(code=0, detail="", spki=b""))  # sending never waits
    assert sorted(found.get(timeout=10) for _ in range(200)) == list(range(200))
    keyd.close()
    for thread in threads:
        thread.join(10)
    assert len(ends) == 4
    token.close()


def test_other_threads_send_at_once_or_not_at_all(no_leak):
    broker, fd = pair(Party.BROKER, Party.WORKER)
    worker = from_fd(fd, Party.WORKER, Party.BROKER)
    aside = worker.aside()
    sent = []

    def serve(first):
        while aside.send(ended(first + len(sent) % 1000)):
            sent.append(first)

    threads = [threading.Thread(target=serve, args=(number * 1000,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not worker.wants_write  # nothing is queued by it
    count = 0
    while (received := broker.receive()) is not None:
        with received:
            assert isinstance(received.message, SessionEnded)
        count += 1
    assert count == len(sent) > 10
    assert aside.send(ended(1))
    aside.close()
    broker.close()
    worker.close()


def ended(number):
    return SessionEnded(session_id=number, reason=EndReason.ORDERED, from_remote_b=0, to_remote_b=0, detail="")


def test_who_gives_up_a_channel_gives_up_the_way_beside_it(ends):
    broker, worker = ends
    aside = worker.aside()
    worker.close()
    assert broker.receive() is None
    aside.shut()
    aside.shut()
    with pytest.raises(ChannelClosed, match="has closed"):
        broker.receive()
    assert not aside.send(ended(1))
    aside.close()


def test_what_is_not_for_this_border_does_not_go_beside_it_either(ends):
    broker, worker = ends
    aside = worker.aside()
    for wrong in (HELLO, ended(-1)):
        with pytest.raises(BadFrame):
            aside.send(wrong)
    assert broker.receive() is None
    aside.close()


def test_only_a_seqpacket_socket_becomes_a_channel(no_leak):
    one, other = socket.socketpair()
    with pytest.raises(ChannelBroken, match="no channel"):
        from_fd(OwnedFd(one.detach()), Party.WORKER, Party.BROKER)
    other.close()


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_end_is_shut_when_it_is_closed(no_leak, shared):
    broker, fd = pair(Party.BROKER, Party.WORKER)
    worker = from_fd(fd, Party.WORKER, Party.BROKER)
    copy = os.dup(broker.fileno())
    broker.is_shared = shared
    broker.close()
    broker.close()
    if shared:
        with pytest.raises(ChannelClosed):
            worker.receive()
    else:
        assert worker.receive() is None
    os.close(copy)
    worker.close()
