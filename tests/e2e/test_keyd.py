"""The key daemon as a process, with SoftHSM tokens; the test is its broker and its workers."""

import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.fixtures import slowtoken
from tests.fixtures.keyd_world import (
    PIN,
    WAIT_S,
    KeydWorld,
    await_message,
    sign,
    tls12_server_content,
    tls13_content,
)
from tlspool_common.channel import ChannelClosed
from tlspool_common.errors import Code
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import Side, SignHandshake

SCHEMES = {
    "rsa": {0x0804: hashes.SHA256(), 0x0805: hashes.SHA384(), 0x0806: hashes.SHA512()},
    "ec": {0x0403: hashes.SHA256()},
    "ec384": {0x0503: hashes.SHA384()},
    "ed25519": {0x0807: None},
}
TLS12_SCHEMES = {
    "rsa": {0x0401: hashes.SHA256(), 0x0601: hashes.SHA512(), **SCHEMES["rsa"]},
    "ec": {0x0403: hashes.SHA256(), 0x0503: hashes.SHA384(), 0x0603: hashes.SHA512()},
    "ec384": {0x0403: hashes.SHA256(), 0x0503: hashes.SHA384()},
    "ed25519": {0x0807: None},
}
P256, SERVER = 0x0403, tls13_content(Side.SERVER)


def verify(spki, scheme, chosen, signature, content):
    """Check a signature as a TLS peer does (RFC 8446 section 4.2.3)."""
    public = load_der_public_key(spki)
    if chosen is None:
        public.verify(signature, content)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, content, ec.ECDSA(chosen))
    elif scheme >> 8 == 8:
        public.verify(signature, content, padding.PSS(padding.MGF1(chosen), chosen.digest_size), chosen)
    else:
        public.verify(signature, content, padding.PKCS1v15(), chosen)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One token for each kind of key, in one daemon; tests leave it as it was."""
    with KeydWorld(tmp_path_factory.mktemp("w"), {kind: kind for kind in SCHEMES}) as made:
        yield made


# --- signatures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEMES)
def test_signatures_verify(world, kind):
    worker = world.join(1)
    key = world.key(kind)
    for scheme, chosen in SCHEMES[kind].items():
        for side in Side:
            content = tls13_content(side, kind.encode())
            signed = worker.sign(world.grant(key, side=side), scheme, content)
            assert signed.code == Code.OK
            verify(key.spki, scheme, chosen, signed.signature, content)
    for scheme, chosen in TLS12_SCHEMES[kind].items():
        content = tls12_server_content()
        signed = worker.sign(world.grant(key), scheme, content)
        assert signed.code == Code.OK
        verify(key.spki, scheme, chosen, signed.signature, content)


def test_each_signature_and_each_refusal_is_a_line(world):
    worker = world.join(2)
    start = len(world.log)
    grant = world.grant(world.key("ec"), worker_id=2, session_id=815)
    assert worker.sign(grant, P256, SERVER).code == Code.OK
    assert worker.sign(grant, P256, SERVER).code == Code.GRANT_USED
    done = world.await_log(r"event=sign\.done[^\n]*", start)
    assert re.search(r"session=815 worker=2 side=server what=tls13-certificate-verify", done)
    assert re.search(r'scheme=ecdsa_secp256r1_sha256 key="pkcs11:token=ec;object=web;type=private" token="', done)
    assert re.search(r'token="pkcs11:token=ec" ms=[0-9.]+ queue_ms=[0-9.e-]+ token_ms=[0-9.]+$', done)
    refused = world.await_log(r"event=sign\.refused[^\n]*", start)
    assert re.search(r"code=513 why=GRANT_USED session=815 worker=2 side=server", refused)


def test_a_key_that_is_not_the_certificates(world):
    worker = world.join(1)
    other = world.key("ec", "mail@tlspool.arpa2.lab")
    signed = worker.sign(world.grant(world.key("ec"), key_uri=other.uri), P256, SERVER)
    assert signed.code == Code.KEY_MISMATCH


def test_a_scheme_that_is_not_the_keys(world):
    worker = world.join(1)
    assert worker.sign(world.grant(world.key("ed25519")), P256, SERVER).code == Code.SCHEME_REFUSED


def test_tls12_content_is_refused_when_policy_has_tls13_only(make_keyd):
    world = make_keyd(settings=["tls_min_version 1.3"])
    worker = world.join(1)
    assert worker.sign(world.grant(world.key("t1")), P256, tls12_server_content()).code == Code.CONTENT_REFUSED
    assert sign(world, worker).code == Code.OK


# --- where keys are ---------------------------------------------------------------------------------


def test_all_that_p11tool_lists_resolves(world):
    command = ["p11tool", "--provider", world.module, "--login", f"--set-pin={PIN}", "--list-all", "--only-urls"]
    private = 0
    for label in SCHEMES:
        done = subprocess.run(
            [*command, f"pkcs11:token={label}"], env=world.child_environment(), capture_output=True, text=True
        )
        urls = done.stdout.split()
        assert urls, done.stderr
        for url in urls:
            answer = world.question(url)
            if "type=private" in url:
                private += 1
                assert (answer.code, answer.detail) == (Code.OK, ""), url
                assert answer.spki in {world.key(label, name).spki for name in ("web", "mail@tlspool.arpa2.lab")}
            else:  # parsed and understood, but nothing to sign with
                assert answer.code == Code.KEY_URI_MALFORMED
                assert "where a private key is wanted" in answer.detail
    assert private == 2 * len(SCHEMES)


def test_questions(world):
    assert world.question("pkcs11:token=ec;object=nothing").code == Code.KEY_NOT_FOUND
    assert world.question("pkcs11:token=nowhere;object=web").code == Code.KEY_NOT_FOUND
    assert world.question("pkcs11:token=ec").code == Code.KEY_URI_MALFORMED
    assert world.question("http://localhost").code == Code.KEY_URI_MALFORMED
    # each of the four tokens has one of this name, and the URI does not say which is meant
    assert world.question("pkcs11:object=web").code == Code.KEY_AMBIGUOUS
    assert world.question("pkcs11:serial=0;object=web").code == Code.TOKEN_GONE


def test_the_operator_sees_keys_and_state(world):
    answer = world.control("keys")
    assert answer["troubles"] == []
    assert len(answer["keys"]) == 2 * len(SCHEMES)
    kinds = {(key["token"], key["object"]): key["kind"] for key in answer["keys"]}
    assert kinds["ec", "web"] == "ec_p256"
    assert kinds["ed25519", "mail@tlspool.arpa2.lab"] == "ed25519"
    for key in answer["keys"]:
        assert (key["usable"], key["trouble"]) == (True, "")
        assert world.question(key["uri"]).code == Code.OK
    status = world.control("status")
    assert (status["broker"], status["pid"], status["pin"]) == (True, world.process.pid, "file")
    assert [module["state"] for module in status["modules"]] == ["ready"] * len(SCHEMES)


def test_two_modules(tmp_path, slow_module):
    world = KeydWorld(
        tmp_path,
        {"t1": "ec", "t2": "rsa"},
        lines=[
            f"pkcs11_path {slowtoken.SOFTHSM}",
            "pkcs11_token pkcs11:token=t1",
            f"pkcs11_path {slow_module}",
            "pkcs11_token pkcs11:token=t2",
        ],
        environment=slowtoken.environment(),
    )
    world.make_token("t2", "rsa", ["only-here"])
    with world:
        two_modules(world, slow_module)


def two_modules(world, slow_module):
    worker = world.join(1)
    assert sign(world, worker, "t1").code == Code.OK
    assert sign(world, worker, "t2", 0x0804).code == Code.OK
    modules = {module["module"] for module in world.control("status")["modules"]}
    assert modules == {slowtoken.SOFTHSM, slow_module}
    assert sign(world, worker, "t1", key_uri="pkcs11:object=web").code == Code.KEY_AMBIGUOUS
    only = world.key("t2", "only-here")
    for _ in range(2):  # searched for, then remembered
        signed = worker.sign(world.grant(only, key_uri="pkcs11:object=only-here"), 0x0804, SERVER)
        assert signed.code == Code.OK
        verify(only.spki, 0x0804, hashes.SHA256(), signed.signature, SERVER)


# --- start, end, and the broker -------------------------------------------------------------------------


def run(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tlspool_keyd", *map(str, words)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), ""),
        (("colour red",), "colour"),
        (("pkcs11_path /nowhere.so", "pkcs11_token pkcs11:"), "pkcs11_path '/nowhere.so': no such file"),
        ((f"pkcs11_path {slowtoken.SOFTHSM}", "pkcs11_token pkcs11:token=a;token=b"), "token stands there twice"),
        ((f"pkcs11_path {slowtoken.SOFTHSM}", "pkcs11_token pkcs11:?pin-value=canary"), "pin-value is not allowed"),
        (
            (f"pkcs11_path {slowtoken.SOFTHSM}", "pkcs11_token pkcs11:token=a", "pkcs11_token pkcs11:serial=1"),
            "could mean a token that 'pkcs11:token=a' means",
        ),
        (("pkcs11_pin_file /nowhere",), "pkcs11_pin_file '/nowhere': No such file or directory"),
    ],
)
def test_check_names_what_is_wrong(tmp_path, lines, said):
    config = tmp_path / "conf"
    config.write_text("\n".join([f"run_dir {tmp_path}/run", *lines, ""]))
    done = run("--check", "--config", config)
    assert done.returncode == (78 if said else 0)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_pin_file_that_others_can_read_is_refused(tmp_path):
    world = KeydWorld(tmp_path, {})
    world.pin_path.chmod(0o640)
    done = run("--config", world.config)
    assert done.returncode == 78
    assert "code=703" in done.stderr
    assert "has mode 0640" in done.stderr
    assert PIN not in done.stderr


def test_sigterm_ends_all_processes_in_order(make_keyd):
    world = make_keyd()
    (pid,) = world.token_pids
    assert world.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    assert not (world.run_dir / "keyd.sock").exists()
    assert "event=keyd.stopped" in world.log
    assert "token.died" not in world.log


def test_token_processes_do_not_outlive_keyd(make_keyd):
    world = make_keyd()
    (pid,) = world.token_pids
    pid_fd = os.pidfd_open(pid)
    world.stop(signal.SIGKILL)
    assert select.select([pid_fd], [], [], WAIT_S)[0]
    os.close(pid_fd)


def test_the_broker_is_started_anew(make_keyd):
    world = make_keyd()
    worker = world.join(1)
    secret = world.secret
    before = world.grant(world.key("t1"))
    world.lose_broker()
    world.await_log(r"event=broker\.lost")
    assert sign(world, worker).code == Code.OK  # needs no broker
    assert world.control("status")["broker"] is False
    world.listen()
    world.accept()
    assert world.secret == secret
    assert worker.sign(before, P256, SERVER).code == Code.OK
    assert worker.sign(before, P256, SERVER).code == Code.GRANT_USED
    assert sign(world, world.join(2), worker_id=2).code == Code.OK


def test_keyd_is_ready_without_a_broker(tmp_path):
    world = KeydWorld(tmp_path, {"t1": "ec"})
    try:
        world.start()
        assert world.control("status")["broker"] is False
        world.listen()
        world.accept()
        assert sign(world, world.join(1)).code == Code.OK
    finally:
        world.close()


def test_a_broker_of_another_user_is_none(tmp_path):
    world = KeydWorld(tmp_path, {}, settings=["broker_user 4711"])
    try:
        world.listen()
        world.start()
        assert f"user {os.getuid()} listens there, not 4711" in world.await_log(r"event=broker\.unreachable[^\n]*")
        assert world.control("status")["broker"] is False
    finally:
        world.close()


def test_a_broker_that_breaks_the_table_is_left(make_keyd):
    world = make_keyd()
    worker = world.join(1)
    first = world.broker
    first._sock.send(b"\0\x30\0\0\0\0")
    world.await_log(r"event=broker\.lost[^\n]*is not for this border")
    world.accept()
    assert sign(world, worker).code == Code.OK


def test_a_newer_channel_of_a_worker_replaces_the_older(make_keyd):
    world = make_keyd()
    older, newer = world.join(1), world.join(1)
    assert sign(world, newer).code == Code.OK
    with pytest.raises(ChannelClosed):
        await_message(older.channel)


def test_a_worker_that_breaks_the_table_loses_its_channel_only(make_keyd):
    world = make_keyd()
    bad, good = world.join(1), world.join(2)
    ours, theirs = socket.socketpair()  # a stream where a channel belongs
    with pytest.raises(ChannelClosed):
        bad.channel.send(SignHandshake(grant=b"", scheme=0, content=b""), fd=OwnedFd(theirs.detach()))
        await_message(bad.channel)
    ours.close()
    world.await_log(r"event=worker\.broken worker=1")
    assert sign(world, good, worker_id=2).code == Code.OK
    world.offer(3, OwnedFd(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)))
    world.await_log(r"event=worker\.broken worker=3")
    assert sign(world, good, worker_id=2).code == Code.OK


def test_a_worker_that_takes_no_answer_delays_nobody(make_keyd, slow_module):
    """It keeps a copy of the end that keyd answers over, fills it, and makes it blocking again behind keyd's back."""
    world = make_keyd({"t1": "ec"}, module=slow_module, environment=slowtoken.environment(200))
    bad, good = world.join(1), world.join(2)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with ours, theirs:
        with pytest.raises(BlockingIOError):
            while True:
                theirs.send(bytes(1000))
        request = SignHandshake(grant=world.grant(world.key("t1")), scheme=P256, content=SERVER)
        bad.channel.send(request, fd=OwnedFd(os.dup(theirs.fileno())))
        deadline = time.monotonic() + WAIT_S
        while world.control("status")["waiting"] != 1:
            assert time.monotonic() < deadline
        theirs.setblocking(True)
        world.await_log(r"event=sign\.done")
        assert sign(world, good, worker_id=2).code == Code.OK


def test_an_operator_for_whom_there_is_no_descriptor_does_not_end_it(make_keyd):
    """It is served when there is one again."""
    world = make_keyd()
    worker = world.join(1)
    assert sign(world, worker).code == Code.OK
    pid, (soft, hard) = world.process.pid, resource.prlimit(world.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    with socket.socket(socket.AF_UNIX) as operator:
        operator.settimeout(WAIT_S)
        operator.connect(str(world.directory / "run" / "keyd.sock"))
        operator.sendall(b"queue\n")
        world.await_log(r"event=listener\.paused")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert b'"ok": true' in operator.recv(4096)
    assert sign(world, worker).code == Code.OK


def test_nothing_leaks(make_keyd):
    world = make_keyd()
    worker = world.join(1)

    def work():
        for _ in range(100):
            assert sign(world, worker).code == Code.OK
            assert worker.sign(b"no grant", P256, SERVER).code == Code.GRANT_REFUSED
            world.control("status")
        world.control("keys")
        world.join(1)
        return world.workers[-1]

    worker = work()
    before = world.control("status")["descriptors"]
    for _ in range(3):
        worker = work()
    assert world.control("status")["descriptors"] <= before + 1  # a control connection that is being closed
