"""A real broker process and the other daemons, operators and the system around it, all played by the test."""

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_broker import (
    GRANT_SECRET,
    IDENTITIES,
    LoneBroker,
    await_message,
    await_received,
    ended,
    facts,
    starttls,
    take,
    vector,
)
from tlspool_admin.client import Refused
from tlspool_common.appwire import Cmd, Frame
from tlspool_common.channel import ChannelClosed
from tlspool_common.codec import encode
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    PROTOCOL,
    ClientHelloSeen,
    EndSession,
    KeyChannel,
    KeydHello,
    MasterHello,
    RetireWorker,
    SpawnWorkers,
    StartSession,
    TrustAnchor,
    TrustBegin,
    UseCredential,
    UseKeyChannel,
    WorkerBorn,
)

# --- the other daemons ----------------------------------------------------------------------------------


def test_who_is_there(own):
    status = own.ask("status")
    assert (status["keyd"], status["master"], status["workers"], status["generation"]) == (False, False, 0, 1)
    keyd, master, worker = own.staffed()
    assert await_message(keyd, KeyChannel) == KeyChannel(worker_id=1)
    assert await_message(worker, UseKeyChannel) == UseKeyChannel(worker_id=1)
    assert await_message(master, SpawnWorkers).count == 1
    status = own.ask("status")
    assert (status["keyd"], status["master"], status["workers"], status["spares"]) == (True, True, 1, 1)
    [row] = own.ask("workers")["workers"]
    assert (row["worker"], row["pid"], row["sessions"]) == (1, os.getpid(), 0)
    keyd.close()
    own.until(lambda status: not status["keyd"])
    worker.close()
    own.until(lambda status: not status["workers"])
    master.close()
    own.until(lambda status: not status["master"])


def test_the_channel_between_worker_and_keyd_is_one(own):
    keyd, _, worker = own.staffed()
    key_end, worker_end = take(await_received(keyd)), take(await_received(worker))
    with socket.socket(fileno=key_end.detach()) as one, socket.socket(fileno=worker_end.detach()) as other:
        assert one.type == other.type == socket.SOCK_SEQPACKET
        one.send(b"hello")
        assert other.recv(10) == b"hello"


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"x",
        bytes(100),
        encode(0x12, 0, MasterHello(protocol=PROTOCOL, pid=1)),
        encode(0x62, 0, ClientHelloSeen(session_id=1, sni="", alpn=b"")),
        encode(0x10, 0, MasterHello(protocol=PROTOCOL, pid=1)) + b"x",
        encode(0x10, 0, MasterHello(protocol=PROTOCOL + 1, pid=1)),
        encode(0x20, 0, KeydHello(protocol=PROTOCOL + 1, pid=1, grant_secret=bytes(32))),
    ],
    ids=["end", "byte", "zeros", "not-hello", "worker", "longer", "old-master", "old-keyd"],
)
def test_strangers_on_the_private_socket(own, tcp, first):
    with own.private() as sock:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, tcp[0].fileno().to_bytes(4, sys.byteorder))]
        if first:
            sock.sendmsg([first], rights if len(first) == 100 else [])
        else:
            sock.shutdown(socket.SHUT_WR)
        assert ended(sock)
    tcp[0].close()
    assert tcp[1].recv(1) == b""
    status = own.ask("status")
    assert not status["keyd"]
    assert not status["master"]
    own.staffed()


def test_those_who_say_nothing_are_few_and_not_for_long(own):
    begun = time.monotonic()
    silent = [own.private() for _ in range(8)]
    with own.private() as refused:
        assert refused.recv(1) == b""
    for sock in silent:
        assert sock.recv(1) == b""
        sock.close()
    assert 4 < time.monotonic() - begun < 15
    own.staffed()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("path", ["tlspool.sock", "private/broker.sock", "broker.sock"])
def test_other_users(no_leaks, path):
    """Any user may be an application; the private socket is for the users of the other daemons, root or not; and
    these are no operators."""
    with LoneBroker("keyd_user 12345", "worker_user 12346") as broker:
        broker.directory.chmod(0o755)
        private = broker.run_dir / "private"
        assert private.stat().st_mode & 0o777 == 0o710
        script = (
            "import os, socket, sys\n"
            "uid, path = int(sys.argv[1]), sys.argv[2]\n"
            "os.setgroups([]); os.setgid(0); os.setuid(uid)\n"
            "kind = socket.SOCK_SEQPACKET if 'private' in path else socket.SOCK_STREAM\n"
            "with socket.socket(socket.AF_UNIX, kind) as sock:\n"
            "    sock.settimeout(15)\n"
            "    sock.connect(path)\n"
            "    try:\n"
            "        sock.send(bytes.fromhex(sys.argv[3]))\n"
            "        print(len(sock.recv(388)))\n"
            "    except OSError as error:\n"
            "        print(type(error).__name__)\n"
        )

        def as_user(uid, first):
            command = [sys.executable, "-c", script, str(uid), str(broker.run_dir / path), first.hex()]
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

        if path == "tlspool.sock":
            assert as_user(54321, vector("01")) == "388"
            return
        if path == "broker.sock":  # by its mode they could, as all three are of one group
            assert int(as_user(54321, b"help\n")) > 0
            for uid in (12345, 12346):
                assert as_user(uid, b"help\n") in ("0", "BrokenPipeError", "ConnectionResetError")
            return
        keyd = encode(0x20, 0, KeydHello(protocol=PROTOCOL, pid=1, grant_secret=bytes(32)))
        master = encode(0x10, 0, MasterHello(protocol=PROTOCOL, pid=1))
        for uid, first in ((0, keyd), (0, master), (54321, keyd), (12345, master), (12346, keyd)):
            assert as_user(uid, first) in ("0", "BrokenPipeError", "ConnectionResetError"), (uid, first)
        assert not re.search("event=(keyd|master).connected", broker.log)
        as_user(12345, keyd + b"x")  # the right user, the right code, and then not what it says
        broker.await_log("event=border.broken peer=keyd")


def test_a_worker_that_breaks_the_table_is_ended_alone(own, tcp):
    _, master, worker = own.staffed()
    app = own.app()
    app.send(starttls(1), tcp[0].fileno())
    await_message(worker, StartSession)
    worker._sock.send(b"\0\x60garbage")
    assert app.error()[:2] == (1, 603)
    assert await_message(master, RetireWorker) == RetireWorker(worker_id=1, kill=True)
    with pytest.raises(ChannelClosed):
        while True:
            await_message(worker)
    assert app.ping()
    second = own.born(master, 2)
    app.send(starttls(1), tcp[0].fileno())
    assert await_message(second, StartSession)


def test_a_worker_that_is_no_channel(own):
    """The descriptor that the master gives must be a channel."""
    master = own.master()
    ours, theirs = socket.socketpair()
    for number, fd in enumerate((os.open("/dev/null", os.O_RDONLY), theirs.detach())):
        master.send(WorkerBorn(worker_id=number, pid=1), fd=OwnedFd(fd))
        assert await_message(master, RetireWorker) == RetireWorker(worker_id=number, kill=True)
    assert own.ask("status")["workers"] == 0
    ours.close()


def test_a_worker_that_does_not_read_holds_up_nobody(own, tcp):
    """Its channel is closed when too much waits for it: here trust anchors, generation after generation."""
    _, master, _stuck = own.staffed()
    ders = [certs.make(f"Root {number}", ca=True, number=60, pad_b=15_000).der for number in range(40)]
    anchors = [base64.b64encode(der).decode() for der in ders]
    own.ask("trust.set", flags="x509,client,server", valexp="1", data=anchors, key="aa")
    app = own.app()
    for number in range(12):
        own.ask("trust.set", flags="x509,client" if number % 2 else "x509,server", valexp="1", data=anchors[0])
        app.send(starttls(number), tcp[0].fileno())
        if not app.quiet():
            break
    errors = [app.error() for _ in range(number + 1)]
    assert {code for _, code, _ in errors} == {603}
    assert {reqid for reqid, _, _ in errors} == set(range(number + 1))
    assert "does not read" in own.await_log("event=worker.lost [^\n]*")
    assert own.ask("status")["workers"] == 0
    assert app.ping()
    worker = own.born(master, 2)
    app.send(starttls(99), tcp[0].fileno())
    assert await_message(worker, StartSession)


# --- operators, and the process -------------------------------------------------------------------------


def test_databases_over_the_control_socket(own):
    own.fill()
    assert own.ask("localid.get", id="localhost")["records"][0]["uri"] == "pkcs11:object=localhost"
    assert own.ask("status")["generation"] == 5
    line = own.await_log("event=database.changed cmd=localid.set [^\n]*")
    assert f"what={IDENTITIES[0]}" in line
    with pytest.raises(Refused, match=r"\[201\]"):
        own.ask("localid.get", id="nobody.example")
    with pytest.raises(Refused, match=r"\[102\]"):
        own.ask("make.coffee")
    own.ask("disclose.del", selector="@.arpa2.lab")
    own.stop()
    own.start()
    assert own.ask("status")["generation"] == 6
    assert [entry["id"] for entry in own.ask("localid.list")["identities"]] == sorted(IDENTITIES, reverse=True)[::-1]


def test_people_may_ask_too(own):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(own.control))
        sock.sendall(b"help\n")
        answer = sock.recv(65536)
    assert b'\n  "commands": ["status", ' in answer
    assert b"localid.set" in answer


def test_kill(own, tcp):
    _, _, worker = own.staffed()
    app = own.app()
    app.send(starttls(1), tcp[0].fileno())
    session_id = await_message(worker, StartSession).session_id
    for wrong in ("x", -1, None, "9" * 30):
        with pytest.raises(Refused, match=r"\[101\]"):
            own.ask("kill", session=wrong)
    with pytest.raises(Refused, match=r"\[119\]"):
        own.ask("kill", session=session_id + 1)
    assert own.ask("kill", args=[str(session_id)])["session"] == session_id
    assert app.error()[:2] == (1, 208)
    assert await_message(worker) == EndSession(session_id=session_id, alert=49)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end(own, tcp, number):
    """Sessions that are set up get an error, those that relay go on in the worker; no socket is left behind."""
    _, _, worker = own.staffed()
    app = own.app()
    app.send(starttls(1), tcp[0].fileno())
    relaying = await_message(worker, StartSession).session_id
    worker.send(ClientHelloSeen(session_id=relaying, sni="", alpn=b""))
    worker.send(facts(relaying))
    callback = app.frame()
    plain, other = socket.socketpair()
    with plain, other:
        app.send(Frame(1, callback.cbid, callback.cmd, callback.payload).to_bytes(), plain.fileno())
    assert app.frame().cmd == Cmd.STARTTLS
    app.send(starttls(2), tcp[0].fileno())
    setting_up = await_message(worker, StartSession).session_id
    process = own.process
    process.send_signal(signal.SIGHUP)
    own.await_log("event=reload.done")
    assert own.stop(number) == 0
    assert app.error()[:2] == (2, 604)
    assert app.sock.recv(1) == b""
    assert await_message(worker) == EndSession(session_id=setting_up, alert=80)
    with pytest.raises(ChannelClosed):
        await_received(worker)
    assert sorted(path.name for path in own.run_dir.rglob("*")) == ["private", "session-numbers", "session-secret"]
    assert "internal" not in own.log
    assert "Traceback" not in own.log


def test_a_broker_that_was_killed_is_followed_by_another(own):
    own.fill()
    own.kill()
    own.start()
    assert own.ask("status")["generation"] == 5
    assert own.app().ping()
    own.staffed()


def test_one_broker_at_a_time(own):
    command = [sys.executable, "-m", "tlspool_broker", "--config", str(own.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "another broker uses" in done.stderr
    assert "Traceback" not in done.stderr
    assert own.app().ping()


def test_check(no_leaks, tmp_path):
    def run(text):
        (tmp_path / "c").write_text(text)
        command = [sys.executable, "-m", "tlspool_broker", "--foreground", "--check", "--config", str(tmp_path / "c")]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    good = run(f"run_dir {tmp_path}/run\ndbenv_dir {tmp_path}/db\n")
    assert (good.returncode, good.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    bad = run("colour red\n")
    assert bad.returncode == 78
    assert bad.stderr.startswith("tlspool-broker: [701] ")
    assert "colour" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_a_directory_that_cannot_be_used(no_leaks, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "c").write_text(f"run_dir {tmp_path}/file/run\ndbenv_dir {tmp_path}/db\n")
    command = [sys.executable, "-m", "tlspool_broker", "--config", str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert re.search(r"\[701\].*file/run", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_socket_from_systemd(no_leaks):
    with LoneBroker() as broker:
        broker.stop()
        path = broker.directory / "passed.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(5)
            fd = listener.fileno()
            prefix = ("/bin/bash", "-c", f'exec 3<&{fd}; export LISTEN_PID=$$; exec "$@"', "-")
            environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "app"}
            broker.start(environment, prefix, pass_fds=(fd,))
        assert not (broker.run_dir / "tlspool.sock").exists()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.send(vector("01"))
            assert sock.recv(388) == vector("02")
        assert broker.stop() == 0
        assert path.exists()  # it is systemd's


def test_modes_of_the_sockets(no_leaks):
    with LoneBroker("socket_mode 0600") as broker:
        modes = {path.name: path.stat().st_mode & 0o777 for path in broker.run_dir.rglob("*")}
        kept = {"session-numbers": 0o600, "session-secret": 0o600}
        assert modes == {"tlspool.sock": 0o600, "broker.sock": modes["broker.sock"], "private": 0o700, **kept}
        assert broker.control.stat().st_mode & 0o777 == 0o660
        assert (broker.run_dir / "private" / "broker.sock").stat().st_mode & 0o777 == 0o600
        assert broker.run_dir.stat().st_mode & 0o777 == 0o755
        assert (broker.directory / "db").stat().st_mode & 0o777 == 0o700


def test_trust_is_shared_with_workers_once(own):
    _, _, worker = own.staffed()
    app = own.app()
    pairs = [socket.socketpair() for _ in range(3)]
    seen = []
    for number, (ours, _) in enumerate(pairs):
        if number == 2:
            other = certs.make("Other root", ca=True, number=55)
            data = base64.b64encode(other.der).decode()
            own.ask("trust.set", flags="x509,client", valexp="1", data=data)
        app.send(starttls(number), ours.fileno())
        kinds = []
        while True:
            message = await_message(worker)
            kinds.append(type(message))
            if isinstance(message, StartSession):
                break
        seen.append([kind for kind in kinds if kind in (TrustBegin, TrustAnchor)])
    assert seen == [[TrustBegin, TrustAnchor], [], [TrustBegin, TrustAnchor, TrustAnchor]]
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_no_secret_is_in_the_log(own, tcp):
    _, _, worker = own.staffed()
    app = own.app()
    app.send(starttls(1, ctlkey=b"canary-ctlkey-16"), tcp[0].fileno())
    session_id = await_message(worker, StartSession).session_id
    worker.send(ClientHelloSeen(session_id=session_id, sni="", alpn=b""))
    use = await_message(worker, UseCredential)
    own.ask("sessions")
    log = own.log
    for secret in (b"canary-ctlkey-16", GRANT_SECRET, use.grant[:20]):
        for form in (secret.decode("latin-1"), secret.hex(), repr(secret), base64.b64encode(secret).decode()):
            assert form not in log
