"""keyd without a PIN: people are asked for it, over pin.sock or over a connection that the broker handed over."""

import gc
import json
import os
import signal
import socket
import struct
from pathlib import Path

import pytest

from tests.fixtures.keyd_world import PIN, KeydWorld, sign
from tests.fixtures.services import Raw, await_status, pin_service
from tlspool_common.appwire import Cmd, Frame
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import PinService
from tlspool_common.servicewire import Pinentry

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "v2"
WRONG = "canary-wrong-0815"


def vector(name: str) -> bytes:
    [path] = VECTORS.glob(f"{name}-*.bin")
    return path.read_bytes()


@pytest.fixture
def make_world(tmp_path_factory):
    """Make key daemons that know no PIN."""
    made = []

    def make(tokens=None, **options):
        directory = tmp_path_factory.mktemp("k")
        made.append(KeydWorld(directory, tokens or {"t1": "ec"}, pin_setting=False, **options))
        return made[-1].__enter__()

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    return make_world()


def pins(world):
    return world.control("status")["pin_service"]


def pin_sock(world):
    return world.run_dir / "pin.sock"


def assert_no_canary(world, *secrets):
    """No PIN is in the log, in what operators are told, or in any file but the token's own and the test's."""
    told = world.log + json.dumps([world.control("status"), world.control("keys")])
    for secret in (PIN, WRONG, *secrets):
        assert secret not in told
    for path in world.run_dir.rglob("*"):
        assert not path.is_file(), path


# --- the way of a PIN -----------------------------------------------------------------------------------


def test_without_anybody_there_is_no_signature(world):
    assert sign(world, world.join(1)).code == Code.PIN_MISSING
    assert pins(world)["service"] == ""


def test_wrong_then_right(world):
    worker = world.join(1)
    with pin_service(pin_sock(world)) as service:
        question = service.question()
        assert (question.attempt, question.label, question.manufacturer) == (0, "t1", "SoftHSM project")
        waiting = worker.ask(
            world.grant(world.key("t1")), 0x0403, b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
        )
        service.answers.put(WRONG)
        question = service.question()
        assert question.attempt == 1
        service.answers.put(PIN)
        assert waiting.result().code == Code.OK
        assert sign(world, worker).code == Code.OK
        assert pins(world)["tokens"] == []
    world.await_log("pin.wrong .*wrong=1")
    assert world.log.count("event=pin.asked") == 2
    assert_no_canary(world)
    # the service has gone; what it said stays with keyd, also for the next token process
    pid = world.token_pids[0]
    os.kill(pid, 9)
    world.await_log("token.died")
    await_status(lambda: {"code": sign(world, worker).code}, lambda status: status["code"] == Code.OK)


def test_a_pin_is_typed_before_anybody_needs_it(world):
    with pin_service(pin_sock(world)) as service:
        service.question()
        service.answers.put(PIN)
        world.await_log("event=pin.accepted")
    assert sign(world, world.join(1)).code == Code.OK


@pytest.mark.parametrize("answer", [None, "", b""])
def test_declined(world, answer):
    with pin_service(pin_sock(world)) as service:
        service.question()
        service.answers.put(answer)
        world.await_log("event=pin.declined")
        assert sign(world, world.join(1)).code == Code.PIN_MISSING
        assert service.questions.empty()


def test_the_program_fails_while_it_asks(world):
    with pin_service(pin_sock(world)) as service:
        service.question()
        service.answers.put(RuntimeError("no terminal"))
        assert isinstance(service.join(), RuntimeError)
        world.await_log("event=pin.declined")
    world.await_log("event=pin.service_gone")


def test_it_vanishes_in_the_middle_of_a_question(world):
    worker = world.join(1)
    with Raw(pin_sock(world)) as program:
        program.register()
        program.frame()
        waiting = worker.ask(
            world.grant(world.key("t1")), 0x0403, b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
        )
        await_status(lambda: world.control("status"), lambda status: status["waiting"] == 1)
    assert waiting.result().code == Code.PIN_MISSING
    world.await_log("event=pin.service_gone")
    with pin_service(pin_sock(world)) as service:
        service.question()
        service.answers.put(PIN)
        world.await_log("event=pin.accepted")


def test_a_session_waits_no_longer_than_it_is_set(make_world):
    world = make_world(settings=["pin_wait_s 0.3"])
    with Raw(pin_sock(world)) as program:
        program.register()
        asked = program.frame()
        assert sign(world, world.join(1)).code == Code.PIN_MISSING
        program.type(asked, PIN)  # late for that session, and good for the next
        world.await_log("event=pin.accepted")
    assert sign(world, world.join(2), worker_id=2).code == Code.OK


def reload_in_vain(world):
    with world.config.open("a") as file:
        file.write("log_level loud\n")
    with pytest.raises(PoolError) as caught:
        world.control("reload")
    assert caught.value.code is Code.RELOAD_REFUSED


SAY_SO = {
    "pin.again": lambda world: world.control("pin.again"),
    "reload": lambda world: world.control("reload"),
    "a reload that is refused": reload_in_vain,
    "SIGHUP": lambda world: world.process.send_signal(signal.SIGHUP),
}


@pytest.mark.parametrize("say_so", SAY_SO.values(), ids=SAY_SO)
def test_after_two_wrong_pins_nobody_is_asked_until_an_operator_says_so(world, say_so):
    with pin_service(pin_sock(world)) as service:
        for _ in range(2):
            service.question()
            service.answers.put(WRONG)
        world.await_log("event=pin.stopped .*why=PIN_WRONG")
        assert sign(world, world.join(1)).code == Code.PIN_WRONG
        assert service.questions.empty()
        assert pins(world)["tokens"][0]["wrong"] == 2
        say_so(world)
        assert service.question().attempt == 0
        service.answers.put(PIN)
        world.await_log("event=pin.accepted")


def test_two_tokens_have_a_pin_each(make_world):
    world = make_world({"t1": "ec", "t2": "ec"}, lines=None)
    with pin_service(pin_sock(world)) as service:
        labels = []
        for _ in range(2):
            labels.append(service.question().label)
            service.answers.put(PIN)
        assert sorted(labels) == ["t1", "t2"]
        await_status(lambda: pins(world), lambda status: not status["tokens"])
    worker = world.join(1)
    assert sign(world, worker, "t1").code == sign(world, worker, "t2").code == Code.OK


def test_a_pin_in_the_configuration_comes_first(tmp_path):
    with KeydWorld(tmp_path, {"t1": "ec"}) as world, Raw(pin_sock(world)) as program:
        program.register()
        assert sign(world, world.join(1)).code == Code.OK
        assert program.quiet()
        assert pins(world)["service"]


# --- the frames -----------------------------------------------------------------------------------------


def test_the_golden_frames(world):
    """19 registers, 20 is the callback, 21 its answer: byte for byte, but for what names this token and this try."""
    with Raw(pin_sock(world)) as program:
        program.send(vector("19"))
        got = bytearray(program.receive())
        told = Pinentry.from_payload_untrusted(bytes(got[8:]))
        assert (told.attempt, told.token_label) == (0, "t1")
        cbid = got[2:4]
        golden = bytearray(vector("20"))
        golden[2:4] = cbid
        struct.pack_into("=I", golden, 12, 0)  # that one is of a second try
        serial = told.token_serial.encode()
        golden[332:352] = serial.ljust(20, b"\0")
        golden[352:388] = b"t1".ljust(36, b"\0")
        assert got == golden
        answer = bytearray(vector("21"))
        answer[2:4] = cbid
        answer[20 : 20 + 128] = PIN.encode().ljust(128, b"\0")
        program.send(bytes(answer))
        world.await_log("event=pin.accepted")


def test_frames_in_pieces(world):
    with Raw(pin_sock(world)) as program:
        data = vector("19")
        for at in range(0, 388, 97):
            program.send(data[at : at + 97])
        asked = program.frame()
        answer = bytearray(asked.to_bytes())
        answer[20 : 20 + len(PIN)] = PIN.encode()
        for octet in answer:
            program.send(bytes([octet]))
        world.await_log("event=pin.accepted")


def test_two_programs(world):
    with Raw(pin_sock(world)) as first, Raw(pin_sock(world)) as second:
        first.register()
        first.frame()
        second.register()
        assert second.error() == Code.PINENTRY_TAKEN
        first.sock.close()
        world.await_log("event=pin.service_gone")
        second.register(reqid=7)
        assert second.frame().reqid == 7


def test_what_is_no_pin_service(world):
    with Raw(pin_sock(world)) as program:
        program.send(Frame(3, 0, Cmd.PING).to_bytes())
        assert program.error() == Code.COMMAND_UNKNOWN
        program.send(b"\xff" * 388)
        assert program.error() == Code.COMMAND_UNKNOWN
        program.send(b"status\n")
        assert program.quiet()
    with Raw(pin_sock(world)) as program:
        program.register()
        asked = bytearray(program.frame().to_bytes())
        asked[20:148] = b"7" * 128  # a field without NUL is no PIN
        program.send(bytes(asked))
        world.await_log("event=pin.declined")


def test_descriptors_that_come_along_are_closed(world):
    before = world.control("status")["descriptors"]
    with Raw(pin_sock(world)) as program:
        a, b = socket.socketpair()
        with a, b:
            socket.send_fds(program.sock, [vector("19")], [a.fileno()])
            program.frame()
        # at most: a connection of an earlier question may have been open when ``before`` was counted
        await_status(lambda: world.control("status"), lambda status: status["descriptors"] <= before + 1)
    await_status(lambda: world.control("status"), lambda status: status["descriptors"] <= before)


def test_the_end_of_keyd_is_told(world):
    with Raw(pin_sock(world)) as program:
        program.register(reqid=5)
        program.frame()
        world.process.terminate()
        frame = program.frame()
        assert (frame.reqid, frame.cmd) == (5, Cmd.ERROR)
        assert program.ended()
        assert world.process.wait(20) == 0
        assert not pin_sock(world).exists()


# --- handed over by the broker --------------------------------------------------------------------------


def handed_over(world, **fields):
    """Be the application whose connection the broker hands over; return its end."""
    ours, theirs = socket.socketpair()
    registration = PinService(**{"reqid": 4, "flags": 0, "timeout_us": 60_000_000, **fields})
    world.broker.send(registration, fd=OwnedFd(theirs.detach()))
    ours.settimeout(20)
    return ours


def test_a_connection_that_the_broker_hands_over(world):
    program = Raw.__new__(Raw)
    with handed_over(world) as program.sock:
        asked = program.frame()
        assert (asked.reqid, asked.cmd) == (4, Cmd.PINENTRY)
        program.type(asked, PIN)
        world.await_log("event=pin.accepted")
    assert sign(world, world.join(1)).code == Code.OK
    assert_no_canary(world)


@pytest.mark.parametrize("kind", ["file", "datagram"])
def test_the_broker_hands_over_what_is_no_connection(world, kind):
    if kind == "file":
        fd = OwnedFd(os.open("/dev/null", os.O_RDONLY))
    else:
        fd = OwnedFd(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())
    world.broker.send(PinService(reqid=0, flags=0, timeout_us=0), fd=fd)
    world.await_log("event=pin.service_broken")
    assert pins(world)["service"] == ""


def descriptors(world):
    """Return how many keyd has when none comes or goes any more, as some do after its start."""
    seen = []

    def is_settled(status):
        seen.append(status["descriptors"])
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    return await_status(lambda: world.control("status"), is_settled)["descriptors"]


def test_nothing_is_left_behind(world, no_leaks):
    before = descriptors(world)
    for _ in range(20):
        with Raw(pin_sock(world)) as program:
            program.register()
            program.frame()
        with handed_over(world) as sock:
            assert sock.recv(388)
    gc.collect()
    await_status(lambda: world.control("status"), lambda status: status["descriptors"] == before)
