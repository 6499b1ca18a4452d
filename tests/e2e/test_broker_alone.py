"""A real broker process, with the test in the place of everybody else, over the real sockets."""

import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.lone_broker import (
    GRANT_SECRET,
    LoneBroker,
    await_message,
    await_received,
    end,
    facts,
    failed,
    starttls,
    take,
    vector,
)
from tests.fixtures.native import compile_c
from tlspool_common import appwire, grants
from tlspool_common.appwire import Cmd, Frame
from tlspool_common.channel import Channel
from tlspool_common.messages import (
    ClientHelloSeen,
    EndReason,
    EndSession,
    PinService,
    PlainConnected,
    Proceed,
    Side,
    StartSession,
    UseCredential,
)

KEY = bytes(range(0xC0, 0xD0))


@pytest.fixture(scope="module")
def shared():
    """A broker with everybody there, for tests that leave it as it was: (broker, keyd, master, worker)."""
    with LoneBroker("isolation pool", "workers 1") as broker:
        yield broker, *broker.staffed()


@pytest.fixture
def world(no_leaks, shared):
    broker, *channels = shared
    yield broker, *channels
    for one in [one for one in broker.made if not isinstance(one, Channel)]:
        one.close()
        broker.made.remove(one)
    broker.until(lambda status: status["connections"] == 0)
    assert broker.ask("status")["sessions"] == 0


# --- the wire, byte for byte ----------------------------------------------------------------------------


def test_ping_is_golden(world):
    app = world[0].app()
    app.send(vector("01"))
    assert app.receive() == vector("02")


def test_a_client_session_is_golden_in_both_directions(world, tcp):
    broker, _, _, worker = world
    app = broker.app()
    crypt, remote = tcp
    app.send(vector("03"), crypt.fileno())
    crypt.close()
    with await_received(worker) as first:
        trust = [first.message]
    while not isinstance(trust[-1], StartSession):
        with await_received(worker) as received:
            trust.append(received.message)
            if isinstance(received.message, StartSession):
                worker_crypt = received.take_fd()
    start = trust[-1]
    assert (start.sni, start.remote_name) == ("tlspool.arpa2.lab", "testsrv@tlspool.arpa2.lab")
    use = await_message(worker, UseCredential)
    grant = grants.unseal_untrusted(GRANT_SECRET, use.grant)
    assert (grant.side, grant.key_uri) == (Side.CLIENT, "pkcs11:object=testcli@tlspool.arpa2.lab")
    assert 0 < grant.expires_ms - grants.now_ms() <= 5001
    assert await_message(worker) == Proceed(session_id=start.session_id)
    os.write(worker_crypt.fileno(), b"over the remote's socket")
    assert remote.recv(100) == b"over the remote's socket"

    worker.send(facts(start.session_id))
    callback = app.receive()
    [cbid] = struct.unpack_from("=H", callback, 2)
    assert cbid
    assert callback == vector("04", cbid)
    ours, theirs = socket.socketpair()
    app.send(vector("05", cbid), theirs.fileno())
    theirs.close()
    assert app.receive() == vector("06")
    plain_received = await_received(worker)
    assert plain_received.message == PlainConnected(session_id=start.session_id)
    plain = take(plain_received)
    os.write(plain.fileno(), b"plaintext")
    assert ours.recv(100) == b"plaintext"

    app.send(Frame(3, 0, Cmd.LOCAL_DETAILS, KEY).to_bytes())
    details = appwire.Details.from_payload_untrusted(app.frame().payload)
    assert (details.ctlkey, details.group, details.session_id) == (KEY, "X25519MLKEM768", start.session_id)
    [row] = broker.ask("sessions")["sessions"]
    assert (row["remoteid"], row["state"]) == ("testsrv@tlspool.arpa2.lab", "relaying")
    assert row["caller"].endswith(f"[{os.getpid()}]")
    app.close()
    assert await_message(worker) == EndSession(session_id=start.session_id, alert=255)
    end(worker, start.session_id)
    broker.await_log(rf"event=session.end session={start.session_id} [^\n]*by=\"caller gone\"")
    for fd in (worker_crypt, plain, ours):
        fd.close()


def test_a_refused_callback_is_golden(world, tcp):
    """What libtlspool sends: ERROR with the rest of the callback still in the payload."""
    broker, _, _, worker = world
    app = broker.app()
    app.send(starttls(8, localid="localhost", flags=6, ctlkey=KEY, timeout_ms=5000), tcp[0].fileno())
    session_id = await_message(worker, StartSession).session_id
    worker.send(ClientHelloSeen(session_id=session_id, sni="localhost", alpn=b""))
    await_message(worker, Proceed)
    worker.send(facts(session_id))
    callback = app.frame()
    app.send(vector("10", callback.cbid))
    assert app.error()[:2] == (8, 109)
    assert await_message(worker) == EndSession(session_id=session_id, alert=49)
    end(worker, session_id, EndReason.ORDERED)


def test_a_server_that_is_asked_and_lets_go_is_golden(world, tcp):
    """The client's SNI is proposed; the plaintext descriptor accepts it; control is given up and taken back."""
    broker, _, _, worker = world
    broker.be("tlspool.arpa2.lab")
    app = broker.app()
    app.send(vector("07"), tcp[0].fileno())
    session_id = await_message(worker, StartSession).session_id
    worker.send(ClientHelloSeen(session_id=session_id, sni="tlspool.arpa2.lab", alpn=b""))
    callback = app.receive()
    [cbid] = struct.unpack_from("=H", callback, 2)
    assert callback == vector("08", cbid)
    ours, theirs = socket.socketpair()
    app.send(vector("09", cbid), theirs.fileno())
    theirs.close()
    use = await_message(worker, UseCredential)
    assert grants.unseal_untrusted(GRANT_SECRET, use.grant).key_uri == "pkcs11:object=tlspool.arpa2.lab"
    assert await_message(worker) == Proceed(session_id=session_id)
    worker.send(facts(session_id, sni="tlspool.arpa2.lab"))
    final = appwire.frame_untrusted(app.receive())  # and no PLAINTEXT_CONNECT before it
    assert (final.reqid, final.cbid, final.cmd) == (8, 0, Cmd.STARTTLS)
    told = appwire.Starttls.from_payload_untrusted(final.payload)
    assert (told.localid, told.remoteid) == ("tlspool.arpa2.lab", "testsrv@tlspool.arpa2.lab")
    received = await_received(worker)
    assert received.message == PlainConnected(session_id=session_id)
    with take(received) as plain:
        os.write(plain.fileno(), b"plaintext")
        assert ours.recv(100) == b"plaintext"
    ours.close()

    done = vector("13")[:8] + bytes(380)  # earlier pools left the request's payload in it, where nothing belongs
    app.send(vector("12"))
    assert app.receive() == done
    app.send(vector("12"))
    assert app.error()[:2] == (9, 120)
    app.close()
    other = broker.app()
    other.send(Frame(9, 0, Cmd.CONTROL_REATTACH, appwire.Control(KEY).to_payload()).to_bytes())
    assert other.receive() == done
    other.close()
    assert await_message(worker) == EndSession(session_id=session_id, alert=255)
    end(worker, session_id)


def test_a_failed_handshake_is_golden(world, tcp):
    broker, _, _, worker = world
    app = broker.app()
    app.send(starttls(8), tcp[0].fileno())
    failed(worker, await_message(worker, StartSession).session_id, 305)
    frame = app.receive()
    assert frame[:12] == vector("11")[:12]  # the text is ours
    assert frame[12:].startswith(b"[305] ")


@pytest.mark.parametrize(
    ("name", "code"),
    [("09", 102), ("10", 102), ("12", 115), ("14", 115), ("16", 115), ("17", 115), ("25", 102)],
)
def test_golden_requests_about_no_session_and_stray_answers(world, tcp, name, code):
    app = world[0].app()
    data = vector(name)
    app.send(data, *([tcp[0].fileno()] if name == "09" else []))
    [reqid] = struct.unpack_from("=H", data)
    assert app.error()[:2] == (reqid, code)
    tcp[0].close()
    if name == "09":
        assert tcp[1].recv(1) == b""  # the broker does not keep what came along


@pytest.mark.parametrize("name", ["19", "21"])
def test_a_pin_service_is_handed_over_to_keyd(world, name):
    """The connection goes to keyd as it is, without what a registration has no use for; the broker forgets it."""
    broker, keyd, _, _ = world
    app = broker.app()
    app.send(vector(name))
    with await_of(keyd, PinService) as received:
        assert received.message == PinService(reqid=0, flags=0, timeout_us=60_000_000)
        with received.take_fd() as handed, socket.socket(fileno=os.dup(handed.fileno())) as ours:
            broker.until(lambda status: status["connections"] == 0)
            app.send(b"for keyd only")
            assert ours.recv(100) == b"for keyd only"
            ours.send(b"from keyd")
            assert app.sock.recv(100) == b"from keyd"
    assert app.sock.recv(1) == b""  # nobody else has it


def await_of(channel, kind):
    """Wait for a message of a kind; use what is returned in a ``with``."""
    while not isinstance((received := await_received(channel)).message, kind):
        with received:
            continue
    return received


def test_a_pin_service_needs_keyd(own):
    app = own.app()
    app.send(vector("19"))
    assert app.error()[:2] == (0, 601)


def test_a_program_that_chooses_identities_is_registered_without_a_word(world):
    broker = world[0]
    app = broker.app()
    app.send(vector("22"))
    assert app.ping()
    assert [one["state"] for one in broker.ask("status")["choosers"]] == ["registered"]
    app.send(vector("22"))
    assert app.error()[:2] == (0, 232)
    app.close()
    broker.until(lambda status: status["choosers"] == [])


def test_options_reach_the_worker(world, tcp):
    broker, _, _, worker = world
    app = broker.app()
    app.send(Frame(1, 0, Cmd.LOCAL_OPTIONS, appwire.Options(KEY, b"\x02h2").to_payload()).to_bytes())
    assert app.receive() == Frame(1, 0, Cmd.SUCCESS).to_bytes()
    app.send(starttls(2, ctlkey=KEY), tcp[0].fileno())
    start = await_message(worker, StartSession)
    assert start.alpn == b"\x02h2"
    failed(worker, start.session_id)
    assert app.error()[:2] == (2, 303)


@pytest.mark.parametrize("size_b", [1, 7, 97, 387, 389, 1000])
def test_frames_in_pieces_and_glued(world, size_b):
    app = world[0].app()
    stream = b"".join(Frame(number, 0, Cmd.PING, bytes(380)).to_bytes() for number in range(1, 9))
    for at in range(0, len(stream), size_b):
        app.send(stream[at : at + size_b])
    assert [app.frame().reqid for _ in range(8)] == list(range(1, 9))


def test_a_descriptor_belongs_to_the_frame_it_comes_with(world, tcp):
    """Frames without descriptors glued in front do not get it, however the stream is cut."""
    broker, _, _, worker = world
    app = broker.app()
    ping = Frame(1, 0, Cmd.PING, bytes(380)).to_bytes()
    request = starttls(2)
    app.send(ping + ping + request[:100])
    app.send(request[100:], tcp[0].fileno())
    assert [app.frame().cmd, app.frame().cmd] == [Cmd.PING, Cmd.PING]
    start = await_message(worker, StartSession)
    failed(worker, start.session_id)
    assert app.error()[1] == 303


def test_the_first_of_many_descriptors_is_used(world, tcp):
    broker, _, _, worker = world
    app = broker.app()
    read_fd, write_fd = os.pipe()
    app.send(starttls(2), tcp[0].fileno(), *[write_fd] * 252)
    os.close(write_fd)
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)
    session_id = await_message(worker, StartSession).session_id
    failed(worker, session_id)
    assert app.error()[1] == 303


def test_descriptors_that_will_not_do(world, tmp_path):
    broker = world[0]
    app = broker.app()
    with (
        (tmp_path / "file").open("wb") as file,
        socket.socket() as unconnected,
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_UNIX) as control,
    ):
        control.connect(str(broker.control))
        # the socket of a session that is one of the pool's own would tie it to itself
        for fd in (file, unconnected, listening, datagram, control, app.sock):
            app.send(starttls(1), fd.fileno())
            assert app.error()[1] == 105
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    app.send(starttls(1), ours.fileno())
    assert app.error()[1] == 105
    ours.close()
    theirs.close()


def test_200_requests_are_open_at_once(world):
    broker, _, _, worker = world
    app = broker.app()
    pairs = [socket.socketpair() for _ in range(200)]
    for number, (ours, _) in enumerate(pairs):
        app.send(starttls(number), ours.fileno())
        ours.close()
    ids = [await_message(worker, StartSession).session_id for _ in range(200)]
    assert app.ping(5000)  # answered while they are open
    for session_id in reversed(ids):
        worker.send(ClientHelloSeen(session_id=session_id, sni="", alpn=b""))
    for _ in ids:
        await_message(worker, Proceed)
    for session_id in ids:
        worker.send(facts(session_id))
    callbacks = {}
    for _ in ids:
        frame = app.frame()
        callbacks[frame.reqid] = frame
    assert set(callbacks) == set(range(200))
    for reqid in (199, *range(199)):
        plain, other = socket.socketpair()
        frame = callbacks[reqid]
        app.send(Frame(reqid, frame.cbid, frame.cmd, frame.payload).to_bytes(), plain.fileno())
        plain.close()
        other.close()
        final = app.frame()
        assert (final.reqid, final.cbid, final.cmd) == (reqid, 0, Cmd.STARTTLS)
    assert broker.ask("status")["states"] == {"relaying": 200}
    app.close()
    for _ in ids:
        end(worker, await_message(worker, EndSession).session_id)
    for _, theirs in pairs:
        theirs.close()
    broker.until(lambda status: status["sessions"] == 0)


@pytest.fixture(scope="module")
def program_path(tmp_path_factory):
    """A program that does with the socket what the C library does."""
    return compile_c(tmp_path_factory.mktemp("v2") / "v2", Path(__file__).parents[1] / "fixtures" / "v2.c")


@pytest.mark.parametrize("manner", ["ok", "refuse", "stray", "asynch"])
def test_as_the_c_library_does_it(world, program_path, manner):
    broker, _, _, worker = world
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [str(program_path), str(broker.run_dir / "tlspool.sock"), manner, "server", "localhost", "-"]
        command += ["127.0.0.1", str(listener.getsockname()[1]), "ping", "end"]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        listener.settimeout(20)
        remote, _ = listener.accept()
    with remote, program:
        session_id = await_message(worker, StartSession).session_id
        worker.send(ClientHelloSeen(session_id=session_id, sni="localhost", alpn=b""))
        await_message(worker, Proceed)
        worker.send(facts(session_id))
        received = await_received(worker)
        if manner in ("refuse", "stray"):
            with received:
                assert received.message == EndSession(session_id=session_id, alert=49)
        else:
            assert received.message == PlainConnected(session_id=session_id)
            with socket.socket(fileno=take(received).detach()) as plain:
                assert plain.recv(16) == b"ping"
                plain.sendall(b"pong")
        output, _ = program.communicate(timeout=20)
        end(worker, session_id)
    assert program.returncode == 0, output
    expected = {"refuse": "refused", "stray": "stray"}.get(manner, "localhost testsrv@tlspool.arpa2.lab")
    assert output.strip() == expected


# --- applications that misbehave ------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["close", "half-close", "half a frame"])
def test_an_application_that_goes_away(world, tcp, manner):
    broker, _, _, worker = world
    app = broker.app()
    app.send(starttls(1), tcp[0].fileno())
    session_id = await_message(worker, StartSession).session_id
    if manner == "half a frame":
        app.send(b"x" * 300, tcp[0].fileno())
    if manner == "half-close":
        app.sock.shutdown(socket.SHUT_WR)
    else:
        app.close()
    assert await_message(worker) == EndSession(session_id=session_id, alert=255)
    end(worker, session_id, EndReason.ORDERED)
    tcp[0].close()
    assert tcp[1].recv(1) == b""


def test_an_application_that_never_reads_is_not_read_from(world):
    broker = world[0]
    deaf, other = broker.app(), broker.app()
    deaf.sock.setblocking(False)
    ping = Frame(1, 0, Cmd.PING, bytes(380)).to_bytes()
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 100_000:
            # a socket takes any part of what it is given; frames may be cut anywhere
            sent += deaf.sock.send(ping) // 388
    assert other.ping()
    assert sent < 10_000
    deaf.sock.setblocking(True)
    deaf.sock.settimeout(20)
    got = 0
    while got < sent * 388:  # when it reads at last, nothing is lost
        got += len(deaf.sock.recv(1 << 16))
    assert got % 388 == 0


def test_a_connection_more_than_there_may_be(no_leaks):
    """Each user may have half of them, so that none can lock the others out."""
    with LoneBroker() as broker:
        broker.stop()
        broker.start(prefix=("/bin/bash", "-c", 'ulimit -n 64; exec "$@"', "-"))
        most = 64 * 3 // 4 // 2
        apps = [broker.app() for _ in range(most)]
        assert all(app.ping() for app in apps)
        assert broker.app().sock.recv(1) == b""
        broker.await_log("event=caller.refused [^\n]*connections=24")
        apps[0].close()
        broker.until(lambda status: status["connections"] == most - 1)
        assert broker.app().ping()
