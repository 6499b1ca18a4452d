"""Applications that are wrong in every way, against a whole pool: an error each, and no effect on anybody else."""

import array
import os
import random
import socket
import struct

import pytest

from tests.e2e.conftest import log_of
from tlspool_admin.client import ask
from tlspool_common import appwire
from tlspool_common.appwire import Cmd, Flag, Frame


class App:
    """A connection to the application socket that can say anything."""

    def __init__(self, pool):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(pool.socket))
        self.sock.settimeout(15)

    def send(self, data, *fds):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def receive(self):
        data = self.sock.recv(388, socket.MSG_WAITALL)
        assert len(data) == 388, data
        return appwire.frame_untrusted(data)

    def error(self):
        frame = self.receive()
        assert frame.cmd == Cmd.ERROR
        assert frame.cbid == 0
        return frame.reqid, appwire.ErrorReply.from_payload_untrusted(frame.payload)

    def alive(self):
        self.send(Frame(999, 0, Cmd.PING, appwire.Ping("20200101x@example.com", 0xFFFFFFFF).to_payload()).to_bytes())
        frame = self.receive()
        ping = appwire.Ping.from_payload_untrusted(frame.payload)
        return (frame.reqid, ping) == (999, appwire.Ping(appwire.IDENTITY, 1))


@pytest.fixture
def app(pool, no_leaks):
    made = App(pool)
    yield made
    made.sock.close()


@pytest.fixture
def tcp():
    """A connected TCP socket and its remote end."""
    listener = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    listener.close()
    yield one, other
    one.close()
    other.close()


def starttls(reqid=1, cbid=0, **fields):
    fields = {"flags": 0x6, "localid": "localhost", "ctlkey": os.urandom(16), "service": "generic", **fields}
    return Frame(reqid, cbid, Cmd.STARTTLS, appwire.Starttls(**fields).to_payload()).to_bytes()


def test_ping(app):
    assert app.alive()


@pytest.mark.parametrize("cmd", [0, 1, 0x28, 0x2A, 0x201, 0x11, 0x80000005, 0xFFFFFFFF])
def test_unknown_commands(app, cmd):
    app.send(Frame(5, 77, cmd, b"\xff" * 380).to_bytes())
    reqid, error = app.error()
    assert (reqid, error.tlserrno) == (5, -1167372280)
    assert app.alive()


@pytest.mark.parametrize(("cmd", "code"), [(Cmd.PRNG, 124), (Cmd.INFO, 115)])
@pytest.mark.parametrize("payload", [b"", b"\xff" * 380, bytes(range(256))])
def test_questions_about_nothing(app, cmd, code, payload):
    app.send(Frame(6, 0, cmd, payload).to_bytes())
    reqid, error = app.error()
    assert reqid == 6
    assert error.message.startswith(f"[{code}] ")
    assert app.alive()


def test_asking_a_remote_again_that_is_none(app):
    app.send(starttls(reqid=7, flags=0x6 | Flag.RENEGOTIATE))
    reqid, error = app.error()
    assert (reqid, error.tlserrno) == (7, -1167372269)
    assert error.message.startswith("[127] ")
    assert app.alive()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"flags": 0x2}, 110),
        ({"flags": 0x0}, 110),
        ({"localid": ""}, 111),
        ({"localid": "nobody.example"}, 201),
        ({"localid": "a..b@@"}, 113),
        ({"flags": 0x9, "localid": ""}, 112),
        ({"flags": 0x9, "localid": "playground.arpa2.lab", "remoteid": "www.example.com"}, 202),
        ({"flags": 0x6 | Flag.LOCALID_CHECK, "localid": "nobody.example"}, 201),
        ({"flags": 0x6 | Flag.LOCALID_ONTHEFLY, "localid": "nobody.example"}, 201),
        ({"flags": 0x6 | Flag.RENEGOTIATE}, 106),
    ],
)
def test_starttls_that_cannot_be(app, tcp, fields, code):
    crypt, remote = tcp
    app.send(starttls(reqid=8, **fields), crypt.fileno())
    crypt.close()
    reqid, error = app.error()
    assert reqid == 8
    assert error.message.startswith(f"[{code}] "), error
    remote.settimeout(5)
    assert remote.recv(1) == b""  # the pool does not keep it
    assert app.alive()


@pytest.mark.parametrize("cmd", [Cmd.CONTROL_DETACH, Cmd.CONTROL_REATTACH])
@pytest.mark.parametrize("payload", [b"", b"\xff" * 380, bytes(range(256))])
def test_control_keys_of_nobody(app, cmd, payload):
    app.send(Frame(6, 0, cmd, payload).to_bytes())
    reqid, error = app.error()
    assert (reqid, error.tlserrno) == (6, -1167372273)
    assert error.message.startswith("[115] ")
    assert app.alive()


def test_a_callback_for_who_we_are_that_is_answered_with_rubbish(app, tcp):
    """It fails the session, and nothing else."""
    app.send(
        starttls(reqid=8, flags=0x9 | Flag.LOCALID_CHECK, localid="", remoteid="tlspool.arpa2.lab"), tcp[0].fileno()
    )
    tcp[0].close()
    frame = app.receive()
    assert frame.cmd == Cmd.STARTTLS_LOCALID
    app.send(Frame(8, frame.cbid, Cmd.STARTTLS_LOCALID, b"\xff" * 380).to_bytes())
    reqid, error = app.error()
    assert reqid == 8
    assert error.message.startswith("[101] ")
    tcp[1].settimeout(5)
    assert tcp[1].recv(1) == b""
    assert app.alive()


@pytest.mark.parametrize("field", ["localid", "remoteid", "service"])
def test_strings_without_nul(app, tcp, field):
    at = {"localid": 20, "remoteid": 148, "service": 292}[field]
    size = 16 if field == "service" else 128
    data = bytearray(starttls())
    data[at : at + size] = b"x" * size
    app.send(bytes(data), tcp[0].fileno())
    _, error = app.error()
    assert error.message.startswith("[101] ")
    assert field in error.message
    assert app.alive()


def test_no_descriptor(app):
    app.send(starttls())
    assert app.error()[1].tlserrno == -1167372282
    assert app.alive()


def test_descriptors_that_are_no_connected_stream_sockets(app, tmp_path):
    with (
        (tmp_path / "file").open("wb") as file,
        socket.socket() as unconnected,
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        for fd in (file.fileno(), unconnected.fileno(), listening.fileno(), datagram.fileno()):
            app.send(starttls(), fd)
            assert app.error()[1].message.startswith("[105] ")
    assert app.alive()


def test_a_descriptor_where_none_belongs(app, tcp):
    app.send(Frame(3, 0, Cmd.PING, appwire.Ping("x", 1).to_payload()).to_bytes(), tcp[0].fileno())
    app.receive()
    tcp[0].close()
    tcp[1].settimeout(5)
    assert tcp[1].recv(1) == b""
    assert app.alive()


def test_many_descriptors_at_once(app, tcp):
    read_fd, write_fd = os.pipe()
    app.send(starttls(localid="nobody.example"), tcp[0].fileno(), *([write_fd] * 30))
    app.error()
    os.close(write_fd)
    assert os.read(read_fd, 1) == b""  # no copy is left in the pool
    os.close(read_fd)
    assert app.alive()


def test_a_frame_in_pieces_and_frames_glued(app):
    ping = Frame(1, 0, Cmd.PING, appwire.Ping("x", 1).to_payload()).to_bytes()
    for at in range(0, 388, 97):
        app.send(ping[at : at + 97])
    assert app.receive().reqid == 1
    app.send(ping + ping + ping[:10])
    assert app.receive().cmd == app.receive().cmd == Cmd.PING
    app.send(ping[10:])
    assert app.receive().cmd == Cmd.PING


def test_half_a_frame_and_gone(pool, app, tcp):
    other = App(pool)
    other.send(starttls()[:200], tcp[0].fileno())
    other.sock.close()
    tcp[0].close()
    tcp[1].settimeout(5)
    assert tcp[1].recv(1) == b""
    assert app.alive()


def test_gone_during_the_handshake(pool, app, tcp):
    other = App(pool)
    other.send(starttls(flags=0x9, remoteid="www.example.com", localid=""), tcp[0].fileno())
    tcp[0].close()
    tcp[1].settimeout(5)
    assert tcp[1].recv(3) == b"\x16\x03\x01"
    other.sock.shutdown(socket.SHUT_WR)  # half-closed is gone
    while tcp[1].recv(4096):
        pass
    other.sock.close()
    assert app.alive()


def test_a_request_id_used_twice_does_not_confuse(pool, app):
    """A second STARTTLS under an id that is in a handshake is refused, or ends the first; never both, never more."""
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, _ in pairs:
        app.send(starttls(reqid=4, timeout_ms=1500), ours.fileno())
        ours.close()
    replies = [app.error() for _ in range(1)]
    assert replies[0][0] == 4
    for _, theirs in pairs:
        theirs.close()
    # the other one ends too, because its remote is gone: its answer, if any, bears the same id
    app.sock.settimeout(3)
    assert app.alive() or app.alive()


def test_garbage(pool, app):
    chance = random.Random(7)
    before = ask(pool.run_dir / "broker.sock", {"cmd": "status"})["sessions"]
    for _ in range(20):
        other = App(pool)
        for _ in range(20):
            frame = bytearray(chance.randbytes(388))
            if chance.random() < 0.7:
                frame[4:8] = struct.pack("=I", chance.choice(list(Cmd)))
            if chance.random() < 0.5:
                frame[2:4] = b"\0\0"
            ours, theirs = socket.socketpair()
            other.send(bytes(frame), *([ours.fileno()] if chance.random() < 0.3 else []))
            ours.close()
            theirs.close()
        other.sock.close()
    assert app.alive()
    assert ask(pool.run_dir / "broker.sock", {"cmd": "status"})["sessions"] <= before + 0
    assert "internal" not in log_of(pool, "broker").lower()


def test_an_application_that_never_reads(pool, app):
    other = App(pool)
    other.sock.setblocking(False)
    ping = Frame(1, 0, Cmd.PING, appwire.Ping("x", 1).to_payload()).to_bytes()
    sent = 0
    try:
        while sent < 200_000:
            other.send(ping)
            sent += 1
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        pass
    assert sent < 200_000  # it is held up, or sent away
    assert app.alive()
    other.sock.close()


def test_no_control_key_twice(pool, app):
    key = bytes(range(16))
    pairs = [socket.socketpair() for _ in range(2)]
    for number, (ours, _) in enumerate(pairs):
        app.send(starttls(reqid=20 + number, ctlkey=key, timeout_ms=60000), ours.fileno())
        ours.close()
    reqid, error = app.error()
    assert reqid == 21
    assert error.message.startswith("[114] ")
    for _, theirs in pairs:
        theirs.close()
