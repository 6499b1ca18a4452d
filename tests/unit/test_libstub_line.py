"""One connection to the pool: the order of sends and closes, sockets that are full, and connections that fail."""

import errno
import os
import signal
import socket
import struct
import threading
import time

import pytest

from libstub.errors import Misuse, PoolUnavailable, ProtocolError, Refused
from libstub.events import Abandoned, Finish, PingAsked, StarttlsAsked, Ticket, TimePassed
from libstub.line import Line
from tlspool_common.appwire import Cmd, Flag, Frame, Ping, Starttls, frame_untrusted
from tlspool_common.fd import OwnedFd

pytestmark = pytest.mark.usefixtures("no_leaks")

REQUEST = Starttls(flags=Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER, remoteid="x.example", ctlkey=bytes(16))


@pytest.fixture
def ends(tmp_path, no_leaks):
    """A Line and the pool's end of it."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        line = Line(path)
        pool, _ = listener.accept()
    pool.settimeout(10)
    yield line, pool
    pool.close()
    line.close()
    line.release()


def frames_of(pool, number):
    data = b""
    while len(data) < 388 * number:
        data += pool.recv(388 * number - len(data))
    return [frame_untrusted(data[at : at + 388]) for at in range(0, len(data), 388)]


def test_frames_go_out_and_come_in(ends):
    line, pool = ends
    assert line.handle(PingAsked(Ticket(1))) == []
    (frame,) = frames_of(pool, 1)
    assert frame.cmd == Cmd.PING
    assert line.receive() == []
    answer = Frame(frame.reqid, 0, Cmd.PING, Ping().to_payload()).to_bytes()
    pool.sendall(answer[:100])
    assert line.receive() == []
    pool.sendall(answer[100:])
    assert [one.ticket for one in line.receive()] == [1]
    assert line.open_count == 0


def test_a_full_socket_holds_back_frames_and_closes(ends):
    """Descriptors stay open until they are sent, however long that takes, and nothing is lost or doubled."""
    line, pool = ends
    total = 2000
    crypts = []
    for number in range(1, total + 1):
        crypts.append(OwnedFd(os.open("/dev/null", os.O_RDONLY)) if number <= 3 or number > total - 3 else None)
        if crypts[-1]:
            line.handle(StarttlsAsked(Ticket(number), REQUEST, crypts[-1]))
        else:
            line.handle(PingAsked(Ticket(number)))
    assert line.wants_write
    line.handle(Abandoned(Ticket(total)))
    assert not crypts[-1].closed  # it was not sent yet
    seen, fds = b"", []
    pool.setblocking(False)
    while len(seen) < 388 * total:
        try:
            data, ancillary, _, _ = pool.recvmsg(65536, 1000)
            seen += data
            fds += [struct.unpack("i", rights)[0] for _, _, rights in ancillary]
        except BlockingIOError:
            line.receive()
    assert [frame_untrusted(seen[at : at + 388]).reqid for at in range(0, len(seen), 388)] == list(range(1, total + 1))
    assert len(fds) == 6
    assert crypts[-1].closed
    assert not line.wants_write
    for fd in fds:
        os.close(fd)


def test_an_answer_is_not_held_up_by_a_pool_that_does_not_read(ends):
    line, _ = ends
    number = 0
    while not line.wants_write:
        number += 1
        line.handle(PingAsked(Ticket(number), patience_s=0))
    told = line.handle(TimePassed())
    assert {one.ticket for one in told} == set(range(1, number + 1))


def test_what_the_pool_said_before_it_went_counts(ends):
    line, pool = ends
    line.handle(PingAsked(Ticket(1)))
    frames_of(pool, 1)
    pool.sendall(Frame(1, 0, Cmd.PING, Ping().to_payload()).to_bytes())
    pool.close()
    assert line.handle(PingAsked(Ticket(2))) == []
    (pong,) = line.receive()
    assert pong.ticket == 1
    (lost,) = line.receive()
    assert (lost.ticket, type(lost.outcome)) == (2, PoolUnavailable)
    assert line.over
    assert line.receive() == []


def test_a_frame_that_cannot_be_sent_ends_the_connection(ends, monkeypatch):
    line, pool = ends

    class Failing:
        def sendmsg(self, *_):
            raise OSError(errno.EIO, "x")

        def __getattr__(self, name):
            return getattr(sock, name)

    sock = line._sock
    monkeypatch.setattr(line, "_sock", Failing())
    crypt = OwnedFd(os.open("/dev/null", os.O_RDONLY))
    line.handle(StarttlsAsked(Ticket(1), REQUEST, crypt))
    (lost,) = line.receive()
    assert isinstance(lost.outcome, PoolUnavailable)
    assert crypt.closed
    assert pool.recv(1) == b""


def test_a_kernel_short_of_memory_is_tried_again(ends, monkeypatch):
    line, pool = ends
    numbers = [errno.ETOOMANYREFS, errno.ENOBUFS]

    class Short:
        def sendmsg(self, *args):
            if numbers:
                number = numbers.pop()
                raise OSError(number, os.strerror(number))
            return sock.sendmsg(*args)

        def __getattr__(self, name):
            return getattr(sock, name)

    sock = line._sock
    monkeypatch.setattr(line, "_sock", Short())
    line.handle(PingAsked(Ticket(1)))
    assert not line.wants_write  # it would be writable at once, again and again
    line.handle(TimePassed())
    line.receive()
    assert frames_of(pool, 1)[0].reqid == 1


def test_a_pool_that_breaks_the_protocol_is_left(ends):
    line, pool = ends
    line.handle(PingAsked(Ticket(1)))
    pool.sendall(Frame(77, 0, Cmd.PING).to_bytes())
    (ended,) = line.receive()
    assert isinstance(ended.outcome, ProtocolError)
    assert line.over
    frames_of(pool, 1)
    assert pool.recv(1) == b""


def test_giving_up_shuts_the_encrypted_socket_down(ends):
    line, _ = ends
    ours, theirs = socket.socketpair()
    kept = ours.dup()  # as the pool may have one
    line.handle(StarttlsAsked(Ticket(1), REQUEST, OwnedFd(ours.detach())))
    line.handle(Abandoned(Ticket(1)))
    theirs.settimeout(5)
    assert theirs.recv(1) == b""
    kept.close()
    theirs.close()


def test_closing_ends_what_is_open(ends):
    line, pool = ends
    line.handle(PingAsked(Ticket(1)))
    assert [type(one) for one in line.close()] == [Finish]
    assert line.close() == []
    frames_of(pool, 1)
    assert pool.recv(1) == b""


def test_dropping_a_line_closes_it(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        line = Line(str(tmp_path / "s"))
        pool, _ = listener.accept()
        del line
        assert pool.recv(1) == b""
        pool.close()


# --- no connection ----------------------------------------------------------------------------------


def refused(path, wait_s=0.0):
    with pytest.raises((Misuse, Refused, PoolUnavailable)) as caught:
        Line(str(path), wait_s)
    return type(caught.value), str(caught.value)


def test_nothing_there(tmp_path):
    assert refused(tmp_path / "s") == (
        PoolUnavailable,
        f"there is no pool at {tmp_path}/s: start it, or set TLSPOOL_SOCKET to where it is",
    )
    assert refused(tmp_path / "s" / "t")[0] is PoolUnavailable


def test_a_socket_nobody_listens_at(tmp_path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
    assert refused(tmp_path / "s") == (PoolUnavailable, f"the pool at {tmp_path}/s is not running: start it")


def test_a_file(tmp_path):
    (tmp_path / "s").touch()
    assert refused(tmp_path / "s")[0] is Misuse
    assert "not a socket" in refused(tmp_path / "s")[1]


def test_another_kind_of_socket(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "s"))
        assert refused(tmp_path / "s")[0] is Misuse


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_what_the_kernel_refuses(tmp_path, monkeypatch, number):
    class Refusing(socket.socket):
        def connect(self, address):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("libstub.line.socket.socket", Refusing)
    kind, text = refused(tmp_path / "s")
    assert kind is (Refused if number == errno.EACCES else PoolUnavailable)
    assert ("socket_mode" if number == errno.EACCES else "Too many open files") in text


@pytest.mark.parametrize("wait_s", [0.0, 0.3])
def test_a_pool_that_does_not_accept(tmp_path, wait_s):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        first = Line(path)
        begun = time.monotonic()
        assert "does not accept" in refused(path, wait_s)[1]
        assert wait_s <= time.monotonic() - begun + 0.05
        assert time.monotonic() - begun < 5
        first.close()


def test_a_signal_while_a_pool_does_not_accept_yet(tmp_path):
    """Python takes a connect(2) that was interrupted for one that goes on by itself, and it does not."""
    path = str(tmp_path / "s")
    rung = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: rung.set())
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(path)
        listener.listen(0)
        listener.settimeout(5)
        other.connect(path)  # now the backlog is full

        def accept():
            assert rung.wait(10)
            for _ in range(2):
                listener.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            line = Line(path, 10)
        finally:
            signal.signal(signal.SIGALRM, before)
        thread.join()
    assert line._sock.getpeername() == path
    line.close()
    line.release()
