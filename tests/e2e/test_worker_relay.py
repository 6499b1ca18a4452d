"""What a real worker without a pool relays: no byte is lost, no end mistaken for another, nothing is hoarded.

All of it by the relay in C, and again by the one in Python.
"""

import contextlib
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_remotes import (
    NAME,
    VERSIONS,
    client,
    context,
    converse,
    echo,
    relaying,
    serve,
    until_end,
)
from tests.fixtures.lone_worker import Background, LoneWorker, tcp_pair
from tlspool_common.messages import (
    AskTraffic,
    ClientHelloSeen,
    EndReason,
    HandshakeDone,
    HandshakeFailed,
    Side,
    Traffic,
)

BOTH = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module", params=["native", "python"])
def lone_worker(lone_keyd, tmp_path_factory, request):
    """One worker of each kind for the tests of this module."""
    log = tmp_path_factory.mktemp("worker") / "log"
    with LoneWorker(lone_keyd, log, "relay", request.param) as made:
        yield made
    assert "relay.python" not in log.read_text()


@BOTH
def test_half_close(worker, version):
    """Each direction ends on its own: the answer to what came with an end is not lost."""

    def ends_first(tls):
        tls.sendall(b"question")
        return until_end(tls)

    session, plain, remote = relaying(worker, ends_first, version)
    with plain:
        assert plain.recv(100) == b"question"
        plain.sendall(b"answer")
        plain.shutdown(socket.SHUT_WR)
        assert remote.result() == b"answer"
        assert plain.recv(100) == b""
    assert worker.ended(session).reason is EndReason.TRUNCATED  # ssl's recv answers no close_notify by itself


@BOTH
def test_the_remote_closes_its_half_first(worker, version):
    """close_notify of the remote goes through, and megabytes still come back behind it."""
    ours, theirs = tcp_pair()
    session = worker.start(theirs, Side.SERVER)

    def run(sock):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context(Side.CLIENT, version).wrap_bio(incoming, outgoing, server_hostname=NAME)

        def exchange(operation):
            while True:
                try:
                    result = operation()
                    sock.sendall(outgoing.read())
                    return result
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    data = sock.recv(65536)
                    incoming.write(data) if data else incoming.write_eof()

        exchange(tls.do_handshake)
        exchange(lambda: tls.write(b"question"))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()  # sends close_notify, and would wait for theirs
        sock.sendall(outgoing.read())
        with sock:
            return len(until_end(sock))

    remote = Background(run, ours)
    worker.hear(ClientHelloSeen, session)
    worker.credential(session, certs.leaf(NAME))
    worker.proceed(session)
    worker.hear(HandshakeDone, session)
    with worker.plain(session) as plain:
        assert until_end(plain) == b"question"
        plain.sendall(b"x" * 3_000_000)
        plain.shutdown(socket.SHUT_WR)
        assert remote.result() > 3_000_000
    ended = worker.ended(session)
    assert (ended.reason, ended.from_remote_b, ended.to_remote_b) == (EndReason.CLEAN, 8, 3_000_000)


@BOTH
def test_truncation(worker, version):
    def cut(tls):
        tls.sendall(b"all of it?")

    session, plain, remote = relaying(worker, cut, version)
    remote.result()
    with plain:
        assert until_end(plain) == b"all of it?"
    ended = worker.ended(session)
    assert ended.reason in (EndReason.TRUNCATED, EndReason.REMOTE_RESET), ended
    assert ended.from_remote_b == 10


def test_reset(worker):
    def reset(tls):
        tls.sendall(b"x")
        assert tls.recv(1) == b"y"
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    session, plain, remote = relaying(worker, reset)
    with plain:
        plain.recv(1)
        plain.sendall(b"y")
        remote.result()
        assert plain.recv(1) == b""
    assert worker.ended(session).reason is EndReason.REMOTE_RESET


def test_a_record_that_does_not_decrypt(worker):
    def spoil(tls):
        tls.sendall(b"good")
        fd = os.dup(tls.fileno())
        with socket.socket(fileno=fd) as raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        return until_end(tls)

    session, plain, remote = relaying(worker, spoil)
    with plain:
        assert until_end(plain) == b"good"
    ended = worker.ended(session)
    assert ended.reason is EndReason.REMOTE_ALERT
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        remote.result()


@pytest.mark.parametrize("slow", ["remote", "application"])
@BOTH
def test_50_megabytes_to_a_slow_reader(worker, slow, version):
    """Back-pressure goes through: the worker neither loses a byte nor keeps many."""
    size, piece = 50_000_000, bytes(range(256)) * 256
    gate = threading.Event()

    def receive(read, sock):
        gate.wait(20)
        digest, got = hashlib.sha256(), 0
        while part := read(1 << 16):
            digest.update(part)
            got += len(part)
        return got, digest.hexdigest()

    def send(write):
        digest, left = hashlib.sha256(), size
        while left:
            part = piece[:left]
            write(part)
            digest.update(part)
            left -= len(part)
        return size, digest.hexdigest()

    def remote_side(tls):
        if slow == "remote":
            return receive(tls.recv, tls)
        result = send(tls.sendall)
        tls.unwrap()
        return result

    session, plain, remote = relaying(worker, remote_side, version)
    before_kib = worker.pss_kib()
    with plain:

        def app_side():
            if slow == "application":
                return receive(plain.recv, plain)
            result = send(plain.sendall)
            plain.shutdown(socket.SHUT_WR)
            return result

        app = Background(app_side)
        # The sender comes to a stand: nothing moves any more although there is much to send.
        moved, deadline = -1, time.monotonic() + 10
        sender = app if slow == "remote" else remote
        while time.monotonic() < deadline:
            now = io_counters(worker)
            if now == moved:
                break
            moved = now
            select_sleep(0.3)
        assert sender.is_alive()
        assert worker.pss_kib() - before_kib < 4096, worker.pss_kib() - before_kib
        gate.set()
        if slow == "application":
            received = app.result(60)
            plain.shutdown(socket.SHUT_WR)
            assert received == remote.result(60)
        else:
            assert remote.result(60) == app.result(60)
    ended = worker.ended(session)
    assert size in (ended.from_remote_b, ended.to_remote_b)


def io_counters(worker):
    """Return what a process has moved (proc(5), /proc/pid/io): a measure that stands still when it does."""
    with open(f"/proc/{worker.process.pid}/io") as file:
        return file.read()


def select_sleep(seconds):
    threading.Event().wait(seconds)  # an interval between two looks, not a wait for an event


def test_seqpacket(worker):
    """Packets in, bytes out; bytes in, packets of at most 512 out."""

    def run(tls):
        tls.sendall(b"x" * 2000)
        got = b""
        while len(got) < 60_005:
            got += tls.recv(65536)
        tls.unwrap().close()
        return got

    session, plain, remote = relaying(worker, run, kind=socket.SOCK_SEQPACKET)
    with plain:
        got = []
        while sum(map(len, got)) < 2000:
            got.append(plain.recv(4096))
        assert max(map(len, got)) <= 512
        for packet in (b"hello", b"y" * 60_000):
            plain.send(packet)
        plain.shutdown(socket.SHUT_WR)
        assert remote.result() == b"hello" + b"y" * 60_000
        assert plain.recv(100) == b""
    assert worker.ended(session).reason is EndReason.CLEAN


def test_a_plain_tcp_socket(worker):
    session, remote = serve(worker, client(then=echo))
    worker.hear(HandshakeDone, session)
    plain, theirs = tcp_pair()
    worker.attach(session, theirs)
    with plain:
        assert plain.recv(10) == b"ping"
        plain.sendall(b"pong")
        assert plain.recv(10) == b""
    remote.result()
    assert worker.ended(session).reason is EndReason.CLEAN


def test_data_before_the_plaintext_socket_is_kept(worker):
    sent = []

    def run(tls):
        data = os.urandom(300_000)
        sent.append(data)
        tls.sendall(data)
        tls.unwrap().close()

    session, remote = serve(worker, client(then=run))
    worker.hear(HandshakeDone, session)
    with worker.plain(session) as plain:
        assert until_end(plain) == sent[0]
    remote.result()
    assert worker.ended(session).reason is EndReason.CLEAN


def test_a_remote_that_breaks_off_before_the_plaintext_socket(worker):
    session, remote = serve(worker, client())
    worker.hear(HandshakeDone, session)
    assert worker.ended(session).reason in {EndReason.TRUNCATED, EndReason.REMOTE_RESET}
    remote.result()


def test_a_remote_that_has_nothing_to_say(worker):
    """It closes its half in order before there is a plaintext socket, and still gets its answer."""
    session, remote = serve(worker, client(then=lambda tls: tls.unwrap().close()))
    worker.hear(HandshakeDone, session)
    with worker.plain(session) as plain:
        assert plain.recv(1) == b""
    remote.result()
    ended = worker.ended(session)
    assert (ended.reason, ended.from_remote_b) == (EndReason.CLEAN, 0)


def test_an_application_that_goes_away(worker):
    """What it sent before goes out, and the remote sees the end at once."""
    session, plain, remote = relaying(worker, until_end)
    plain.sendall(b"z" * 1_000_000)
    plain.close()
    assert remote.result() == b"z" * 1_000_000
    assert worker.ended(session).reason is EndReason.CLEAN


def test_an_application_that_does_not_read_what_came(worker):
    def run(tls):
        for _ in range(40):
            tls.sendall(b"q" * 50_000)
        return until_end(tls)

    session, plain, remote = relaying(worker, run)
    plain.recv(10)
    plain.sendall(b"enough")
    plain.shutdown(socket.SHUT_WR)
    plain.close()
    assert remote.result() == b"enough"
    assert worker.ended(session).reason is EndReason.PLAIN_LOST


def test_200_sessions_at_once(worker):
    converse(worker)
    before = worker.settled(0, 2)
    barrier = threading.Barrier(201)

    def run(tls):
        barrier.wait(60)
        for turn in range(5):
            tls.sendall(b"%d" % turn * 100)
            got = b""
            while len(got) < 100:
                got += tls.recv(4096)
        tls.unwrap().close()

    opened = []
    for _ in range(200):
        session, remote = serve(worker, client(then=run))
        worker.hear(HandshakeDone, session)
        opened.append((session, worker.plain(session), remote))

    def echoes(plain):
        with plain:
            while data := plain.recv(65536):
                plain.sendall(data)

    apps = [Background(echoes, plain) for _, plain, _ in opened]
    barrier.wait(60)
    for session, _, remote in opened:
        remote.result(60)
        assert worker.ended(session).reason is EndReason.CLEAN
    for app in apps:
        app.result(60)
    assert worker.settled(before) <= before, worker.open_files()


def test_descriptors_and_memory_of_many_sessions(worker):
    """300 sessions of all sorts leave nothing behind; an idle one takes at most 80 KiB."""

    def one(number):
        if number % 3 == 0:
            session, remote = serve(worker, client(then=echo))
            worker.hear(HandshakeDone, session)
            with worker.plain(session) as plain:
                plain.recv(10)
                plain.sendall(b"pong")
            remote.result()
            worker.ended(session)
        elif number % 3 == 1:
            session, remote = serve(worker, client(), manner="refuse 508")
            worker.hear(HandshakeFailed, session)
            with pytest.raises(ssl.SSLError):
                remote.result()
        else:
            ours, theirs = tcp_pair()
            session = worker.start(theirs, Side.SERVER)
            ours.close()
            worker.hear(HandshakeFailed, session)

    for number in range(30):
        one(number)
    fds, kib = worker.settled(0, 3), worker.pss_kib()
    for number in range(300):
        one(number)
    assert worker.settled(fds) <= fds
    assert worker.pss_kib() - kib < 2048

    kib, open_sessions = worker.pss_kib(), []
    release = threading.Event()
    for _ in range(100):
        session, remote = serve(worker, client(then=lambda tls: (tls.sendall(b"x"), release.wait(60))))
        worker.hear(HandshakeDone, session)
        plain = worker.plain(session)
        assert plain.recv(1) == b"x"
        open_sessions.append((session, plain, remote))
    assert (worker.pss_kib() - kib) / 100 < 80
    release.set()
    for session, plain, remote in open_sessions:
        remote.result()
        plain.close()
        worker.ended(session)


def test_key_updates(worker):
    """A remote changes its keys, with and without asking for ours, and bytes go on both ways."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-tls1_3"]
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        accepted, _ = listener.accept()
    session = worker.start(accepted, Side.SERVER)
    worker.hear(ClientHelloSeen, session)
    worker.credential(session, certs.leaf(NAME))
    worker.proceed(session)
    worker.hear(HandshakeDone, session)
    with worker.plain(session) as plain:
        output = b""
        for number, order in enumerate((b"k\n", b"K\n", b"K\n"), 1):  # s_client: one way, and both ways
            program.stdin.write(order)
            program.stdin.flush()
            while output.count(b"KEYUPDATE") < number:
                output += program.stdout.read1(4096)
            program.stdin.write(b"line %d\n" % number)
            program.stdin.flush()
            assert plain.recv(100) == b"line %d\n" % number
            plain.sendall(b"answer %d\n" % number)
            while b"answer %d\n" % number not in output:
                output += program.stdout.read1(4096)
        program.stdin.write(b"Q\n")
        program.stdin.close()
        assert plain.recv(100) == b""
    output += program.stdout.read()
    program.stdout.close()
    assert program.wait(10) == 0, output
    assert worker.ended(session).reason is EndReason.CLEAN


@BOTH
def test_what_was_moved_is_told_while_it_relays(worker, version):
    gone = threading.Event()

    def talk(tls):
        for size in (1, 16_384, 16_385):
            tls.sendall(bytes(size))
        got = len(tls.recv(100))
        gone.wait(20)
        tls.unwrap().close()
        return got

    session, plain, remote = relaying(worker, talk, version)
    with plain:
        left = 1 + 16_384 + 16_385
        while left:
            left -= len(plain.recv(left))
        plain.sendall(b"answer")
        told = []
        while not told or not told[-1].to_remote_b:
            worker.channel.send(AskTraffic(session_id=session))
            told.append(worker.hear(Traffic, session))
        assert (told[-1].from_remote_b, told[-1].from_remote_records) == (1 + 16_384 + 16_385, 4)
        assert (told[-1].to_remote_b, told[-1].to_remote_records) == (6, 1)
        assert told[-1].idle_ms < 10_000
        gone.set()
        plain.shutdown(socket.SHUT_WR)
        until_end(plain)
    assert remote.result() == 6
    ended = worker.ended(session)
    assert (ended.from_remote_records, ended.to_remote_records) == (4, 1)
