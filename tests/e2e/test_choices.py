"""A whole pool, and programs that choose who its clients are."""

import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import libstub
from tests.e2e.conftest import COMMANDS, await_log, connect, tlspool
from tests.fixtures.services import Raw, await_status, localid_service
from tests.fixtures.terminal import Terminal
from tlspool_admin.client import ask
from tlspool_common.appwire import Cmd, Frame
from tlspool_common.errors import Code
from tlspool_common.servicewire import ChoiceFlag, Lidentry

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "v2"
REMOTE, ME, OTHER = "testsrv@tlspool.arpa2.lab", "testcli@tlspool.arpa2.lab", "playground.arpa2.lab"


def vector(name: str) -> bytes:
    [path] = VECTORS.glob(f"{name}-*.bin")
    return path.read_bytes()


@pytest.fixture(autouse=True)
def databases(pool):
    """What is disclosed, as every test finds it."""
    tlspool(pool, "disclose", "set", "@.arpa2.lab", ME, OTHER)
    yield
    tlspool(pool, "disclose", "set", "@.arpa2.lab", ME)
    tlspool(pool, "disclose", "del", REMOTE)
    tlspool(pool, "disclose", "del", "@tlspool.arpa2.lab")


@pytest.fixture
def server(pool, echo_server):
    """A server that wants to know who its clients are."""
    return echo_server(pool, localid=REMOTE, remote_auth="require")


def await_chooser(pool):
    """Wait until a program is registered."""
    await_status(
        lambda: ask(pool.run_dir / "broker.sock", {"cmd": "status"}),
        lambda status: [one["state"] for one in status["choosers"]] == ["registered"],
    )


def stored(pool):
    listed = ask(pool.run_dir / "broker.sock", {"cmd": "disclose.list"})
    return {row["selector"]: row["ids"] for row in listed["selectors"]}


class Client:
    """A session of a client, in a thread: it may have to wait."""

    def __init__(self, pool, port, remoteid=REMOTE, **options):
        self.localid = None
        self.error = None
        self._pool = libstub.Pool(str(pool.socket))
        self._thread = threading.Thread(target=self._run, args=(port, remoteid), kwargs=options)
        self._thread.start()

    def _run(self, port, remoteid, **options):
        try:
            with libstub.starttls_client(connect(port), remoteid, pool=self._pool, **options) as tls:
                tls.sock.sendall(b"hello")
                tls.sock.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda: tls.sock.recv(100), b"")) == b"hello"
                self.localid = tls.localid
        except libstub.PoolError as error:
            self.error = error

    def result(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._pool.close()
        return self.localid or self.error


def test_the_choice_is_who_the_client_is(pool, server):
    with localid_service(pool.socket) as service:
        await_chooser(pool)
        client = Client(pool, server.port, service="smtp")
        question = service.question()
        assert (question.remoteid, question.suggestion, question.service) == (REMOTE, "", "smtp")
        assert [(one.localid, one.selector, one.levels) for one in question.entries] == [
            (ME, "@.arpa2.lab", 3),
            (OTHER, "@.arpa2.lab", 3),
        ]
        assert question.selectors[:2] == (REMOTE, "@tlspool.arpa2.lab")
        assert (question.uid, question.pid) == (os.getuid(), os.getpid())
        assert f"[{os.getpid()}]" in question.program
        service.answers.put(OTHER)
        assert client.result() == OTHER
    assert server.await_session(1).remoteid == OTHER
    assert stored(pool)["@.arpa2.lab"] == [ME, OTHER]


def test_the_suggestion_of_the_application(pool, server):
    with localid_service(pool.socket) as service:
        await_chooser(pool)
        client = Client(pool, server.port, localid="localhost")  # which policy does not disclose
        assert service.question().suggestion == "localhost"
        service.answers.put(ME)
        assert client.result() == ME


def test_nobody(pool, echo_server):
    server = echo_server(pool, localid=REMOTE, remote_auth="request")
    with localid_service(pool.socket) as service:
        await_chooser(pool)
        client = Client(pool, server.port)
        service.question()
        service.answers.put(None)
        client.result()
    assert server.await_session(1).remoteid == ""


def test_a_choice_is_stored_only_when_the_handshake_succeeds(pool, server, stranger, start):
    choice = libstub.LocalidChoice(OTHER, store="first", selector="@tlspool.arpa2.lab")
    certificate, key = stranger.issue(REMOTE)  # a server that nobody trusts
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    command = ["openssl", "s_server", "-accept", str(port), "-cert", str(certificate), "-key", str(key), "-quiet"]
    start(command, port)
    with localid_service(pool.socket) as service:
        await_chooser(pool)
        client = Client(pool, port)
        service.question()
        service.answers.put(choice)
        assert isinstance(client.result(), libstub.RemoteUnverified)
        assert "@tlspool.arpa2.lab" not in stored(pool)

        client = Client(pool, server.port)
        assert service.question().entries[0].selector == "@.arpa2.lab"
        service.answers.put(choice)
        assert client.result() == OTHER
        assert stored(pool)["@tlspool.arpa2.lab"] == [OTHER]

        client = Client(pool, server.port)
        entries = service.question().entries
        assert [(one.localid, one.selector, one.levels) for one in entries] == [(OTHER, "@tlspool.arpa2.lab", 1)]
        service.answers.put(libstub.LocalidChoice(ME, store="last", selector="@tlspool.arpa2.lab"))
        assert client.result() == ME
        assert stored(pool)["@tlspool.arpa2.lab"] == [OTHER, ME]

        client = Client(pool, server.port)
        service.question()
        service.answers.put(libstub.LocalidChoice(ME, store="first", selector="@tlspool.arpa2.lab", move=True))
        assert client.result() == ME
        assert stored(pool)["@tlspool.arpa2.lab"] == [ME, OTHER]


def test_what_is_in_the_database_may_be_used_without_asking(pool, server):
    with localid_service(pool.socket, skip=ChoiceFlag.SKIP_DBENTRY) as service:
        await_chooser(pool)
        assert Client(pool, server.port).result() == ME
        assert service.questions.empty()


def test_a_missed_deadline_fails_that_session_only(pool, server):
    with localid_service(pool.socket, timeout_s=1) as service:
        await_chooser(pool)
        client = Client(pool, server.port)
        service.question()
        error = client.result()
        assert (error.code, type(error)) == (Code.CHOICE_TIMEOUT, libstub.Refused)
        assert Client(pool, server.port).result() == ME  # as if there were no program
        service.answers.put(OTHER)  # late: swallowed, and the next registration
        await_chooser(pool)
        client = Client(pool, server.port)
        service.question()
        service.answers.put(OTHER)
        assert client.result() == OTHER


def test_the_program_fails(pool, server):
    with localid_service(pool.socket) as service:
        await_chooser(pool)
        client = Client(pool, server.port)
        service.question()
        service.answers.put(RuntimeError("no terminal"))
        error = client.result()
        assert error.code == Code.CHOICE_REFUSED
        assert isinstance(service.join(), RuntimeError)
    assert Client(pool, server.port).result() == ME


def test_it_vanishes_in_the_middle_of_a_question(pool, server):
    with Raw(pool.socket) as program:
        program.send(vector("22"))
        await_chooser(pool)
        client = Client(pool, server.port)
        program.frame()
    assert client.result().code == Code.CHOICE_REFUSED
    assert Client(pool, server.port).result() == ME


def test_two_programs(pool):
    with localid_service(pool.socket):
        await_chooser(pool)
        with localid_service(pool.socket) as second:
            error = second.join()
        assert (error.code, type(error)) == (Code.LIDENTRY_TAKEN, libstub.Refused)


def test_the_golden_frames(pool, server):
    """22 registers, 23 is an entry, 24 the inquiry and 25 the answer: byte for byte, but for ids, time and depth."""
    tlspool(pool, "disclose", "set", "@.arpa2.lab", ME)
    with Raw(pool.socket) as program:
        program.send(vector("22"))
        await_chooser(pool)
        client = Client(pool, server.port)
        got = bytearray(program.receive())
        golden = bytearray(vector("23"))
        golden[2:4] = got[2:4]
        struct.pack_into("=HI", golden, 12, 3, Lidentry.from_payload_untrusted(bytes(got[8:])).timeout_s)
        assert got == golden
        program.send(bytes(got))
        got = bytearray(program.receive())
        golden = bytearray(vector("24"))
        golden[2:4] = got[2:4]
        struct.pack_into("=HI", golden, 12, 7, Lidentry.from_payload_untrusted(bytes(got[8:])).timeout_s)
        assert got == golden
        answer = bytearray(vector("25"))
        answer[2:4] = got[2:4]
        program.send(bytes(answer))
        assert client.result() == ME
        assert stored(pool)[REMOTE] == [ME]


def test_an_error_of_the_program_comes_back(pool, server):
    with Raw(pool.socket) as program:
        program.send(Frame(5, 0, Cmd.LIDENTRY_REGISTER, Lidentry(timeout_s=60).to_payload()).to_bytes())
        await_chooser(pool)
        client = Client(pool, server.port)
        asked = program.frame()
        refusal = Frame(5, asked.cbid, Cmd.ERROR, b"\x16\0\0\0no more").to_bytes()
        program.send(refusal)
        bounced = program.receive()
        assert bounced[4:] == refusal[4:]
        assert bounced[:4] == struct.pack("=HH", 5, 0)
        assert client.result().code == Code.CHOICE_REFUSED


def test_the_pool_stops(own_pool):
    with localid_service(own_pool.socket) as service:
        await_log(own_pool, "broker", "event=choice.service_registered")
        own_pool.down()
        assert service.join().code == Code.STOPPING


def test_the_command_at_a_terminal(pool, server):
    program = Terminal(pool, str(COMMANDS / "tlspool"), "choose")
    try:
        program.until("waiting until an identity is needed")
        await_chooser(pool)
        client = Client(pool, server.port, localid="localhost", service="smtp")
        program.until(rf"\[{os.getpid()}\] of user {os.getuid()}, service smtp needs an identity for {REMOTE}")
        program.until("it suggests localhost")
        program.until("disclosed to @.arpa2.lab:")
        program.until(f"1  {ME}")
        program.until(f"2  {OTHER}")
        program.until("nobody: ")
        program.type("3")
        program.until("no such number")
        program.type("2")
        assert client.result() == OTHER

        client = Client(pool, server.port)
        program.until("nobody: ")
        program.type("tlspool.arpa2.lab")
        program.until("remember it")
        program.type("maybe")
        program.until("one of no, first, last")
        program.type("first")
        program.until("2  @tlspool.arpa2.lab")
        program.until("a number")
        program.type("2")
        assert client.result() == "tlspool.arpa2.lab"
        assert stored(pool)["@tlspool.arpa2.lab"] == ["tlspool.arpa2.lab"]
    finally:
        assert program.close() == 0


def test_the_command_when_the_input_ends(pool, server):
    process = subprocess.Popen(
        [str(COMMANDS / "tlspool"), "choose"],
        env={**os.environ, **pool.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert b"waiting" in process.stdout.readline()
    await_chooser(pool)
    assert Client(pool, server.port).result().code == Code.CHOICE_REFUSED
    output, _ = process.communicate(timeout=20)
    assert b"the input has ended" in output
    assert process.returncode == 0


def test_the_example(pool, server):
    command = [sys.executable, str(EXAMPLES / "choose_service.py"), "--localid", OTHER]
    environment = {**os.environ, **pool.environment, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        await_chooser(pool)
        assert Client(pool, server.port).result() == OTHER
        assert stored(pool)["@tlspool.arpa2.lab"] == [OTHER]
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=20)
    assert f"needs an identity for {REMOTE}".encode() in output
    assert f"disclosed so far: {ME}, {OTHER}".encode() in output
