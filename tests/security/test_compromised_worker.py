"""Code in a worker's place, holding a worker's channel to a real key daemon, tries what it must not get.

Every attempt ends in a stable code or a closed channel; after each one an honest worker's signature still verifies.
``pytest -s`` prints the table of attempts and what became of them.
"""

import array
import os
import random
import select
import socket
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.fixtures.keyd_world import PIN, WAIT_S, KeydWorld, await_message, tls12_server_content, tls13_content
from tests.unit.test_recognise import ACCEPTED, REFUSED
from tlspool_common import limits
from tlspool_common.channel import ChannelClosed
from tlspool_common.codec import encode
from tlspool_common.errors import Code
from tlspool_common.grants import Grant, new_id, now_ms, seal
from tlspool_common.messages import BY_CODE, BY_MESSAGE, Party, Side, Signed, SignHandshake

P256, RSA = 0x0403, 0x0804
ATTACKER, HONEST = 1, 2
SERVER = tls13_content(Side.SERVER)
SIGN_HANDSHAKE = BY_MESSAGE[SignHandshake].code


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with KeydWorld(tmp_path_factory.mktemp("keyd"), {"ours": "ec", "theirs": "rsa"}) as made:
        made.attempts = []
        yield made
        print("\n" + "\n".join(f"{attempt:64} {outcome}" for attempt, outcome in made.attempts))
        assert PIN not in made.log
        assert made.stop() == 0


@pytest.fixture
def attacker(world):
    """A channel of the attacker's; in the end an honest worker must get what it wants, and nothing may have leaked."""
    before = keyd_fds(world)
    worker = world.join(ATTACKER)
    yield worker
    worker.close()
    honest(world)
    eventually(lambda: keyd_fds(world) <= before + 2, "descriptors are left in keyd")
    assert world.process.poll() is None


def honest(world):
    """Let another worker sign, and verify that."""
    worker = world.join(HONEST)
    key = world.key("ours")
    content = tls13_content(Side.SERVER, os.urandom(8))
    signed = worker.sign(world.grant(key, worker_id=HONEST), P256, content)
    worker.close()
    assert signed.code == Code.OK
    load_der_public_key(key.spki).verify(signed.signature, content, ec.ECDSA(hashes.SHA256()))


def keyd_fds(world):
    return len(os.listdir(f"/proc/{world.process.pid}/fd"))


def eventually(condition, what):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.01)


def refused(world, attempt, signed, code):
    """Note an attempt that was answered, and check the answer."""
    assert (signed.code, signed.signature) == (code, b""), attempt
    world.attempts.append((attempt, f"{code.value} {code.name}"))


def is_closed(worker):
    """Whether keyd closes this channel without a word."""
    poller = select.poll()
    poller.register(worker.channel.fileno(), select.POLLIN)
    assert poller.poll(WAIT_S * 1000), "keyd does not close the channel"
    with pytest.raises(ChannelClosed):
        assert worker.channel.receive() is None
        pytest.fail("keyd said something")
    return True


def closed(world, attempt, worker):
    assert is_closed(worker)
    world.attempts.append((attempt, "channel closed"))


def send_raw(worker, frame, *fds):
    """Send any frame with any descriptors."""
    sock = socket.socket(fileno=os.dup(worker.channel.fileno()))
    with sock:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([frame], rights)


def flush(worker):
    """Send what the socket would not take at once."""
    while worker.channel.wants_write:
        select.select([], [worker.channel], [], WAIT_S)
        worker.channel.flush()


def request(grant, scheme=P256, content=SERVER):
    return encode(SIGN_HANDSHAKE, 0, SignHandshake(grant=grant, scheme=scheme, content=content))


# --- grants ---------------------------------------------------------------------------------------------------------


def test_a_second_signature_from_a_used_grant(world, attacker):
    grant = world.grant(world.key("ours"))
    assert attacker.sign(grant, P256, SERVER).code == Code.OK
    refused(world, "the same grant, the same content", attacker.sign(grant, P256, SERVER), Code.GRANT_USED)
    other = tls13_content(Side.SERVER, b"another handshake")
    refused(world, "the same grant, other content", attacker.sign(grant, P256, other), Code.GRANT_USED)
    again = world.join(ATTACKER)
    refused(world, "the same grant over a new channel", again.sign(grant, P256, other), Code.GRANT_USED)


def test_fifty_at_once(world, attacker):
    grant = world.grant(world.key("ours"))
    contents = [tls13_content(Side.SERVER, str(number).encode()) for number in range(50)]
    waiting = [attacker.ask(grant, P256, content) for content in contents]
    flush(attacker)
    answers = [each.result() for each in waiting]
    assert sorted(answer.code for answer in answers) == [Code.OK] + 49 * [Code.GRANT_USED]
    assert sum(answer.signature != b"" for answer in answers) == 1
    world.attempts.append(("one grant, 50 requests at once", "1 signature, 49 times 513 GRANT_USED"))


def test_a_refusal_spends_the_grant(world, attacker):
    grant = world.grant(world.key("ours"))
    refused(world, "bad content, to try again with good", attacker.sign(grant, P256, b"x"), Code.CONTENT_REFUSED)
    refused(world, "then good content", attacker.sign(grant, P256, SERVER), Code.GRANT_USED)


def test_every_bit_of_a_grant(world, attacker):
    """Among them those that name key, role, worker, session and time."""
    grant = world.grant(world.key("ours"))
    for bit in range(len(grant) * 8):
        bent = bytearray(grant)
        bent[bit // 8] ^= 1 << bit % 8
        assert attacker.sign(bytes(bent), P256, SERVER).code == Code.GRANT_REFUSED, bit
    world.attempts.append((f"each of {len(grant) * 8} bits flipped, one at a time", "512 GRANT_REFUSED"))
    for name, bent in (("cut", grant[:-1]), ("lengthened", grant + b"\0"), ("empty", b""), ("seal only", grant[-32:])):
        refused(world, f"grant {name}", attacker.sign(bent, P256, SERVER), Code.GRANT_REFUSED)
    assert attacker.sign(grant, P256, SERVER).code == Code.OK  # none of that spent it


def test_another_key(world, attacker):
    """The grant says which key; whoever writes another one in it has no seal for that."""
    ours, theirs = world.grant(world.key("ours")), world.grant(world.key("theirs"))
    mixed = theirs[:-32] + ours[-32:]
    refused(world, "the seal of one grant on another", attacker.sign(mixed, RSA, SERVER), Code.GRANT_REFUSED)
    replaced = ours.replace(b"token=ours", b"token=thei")
    assert replaced != ours
    refused(world, "another token's name in the grant", attacker.sign(replaced, P256, SERVER), Code.GRANT_REFUSED)
    for scheme in (RSA, 0x0805, 0x0807):
        signed = attacker.sign(world.grant(world.key("ours")), scheme, SERVER)
        refused(world, f"scheme {scheme:#06x} with a P-256 key", signed, Code.SCHEME_REFUSED)
    other = world.key("ours", "mail@tlspool.arpa2.lab")
    grant = world.grant(world.key("ours"), spki_sha256=other.spki_sha256)
    refused(
        world, "grant for a key that is not the certificate's", attacker.sign(grant, P256, SERVER), Code.KEY_MISMATCH
    )


@pytest.mark.parametrize(
    "secret", [bytes(32), b"", b"\xff" * 32, os.urandom(32)], ids=["zeros", "none", "ones", "random"]
)
def test_a_forged_grant(world, attacker, secret):
    key = world.key("ours")
    forged = Grant(
        grant_id=new_id(),
        worker_id=ATTACKER,
        session_id=7,
        side=Side.SERVER,
        expires_ms=now_ms() + 1000,
        spki_sha256=key.spki_sha256,
        key_uri=key.uri,
    )
    refused(
        world,
        "grant sealed by a secret of our own",
        attacker.sign(seal(secret, forged), P256, SERVER),
        Code.GRANT_REFUSED,
    )


def test_another_workers_grant(world, attacker):
    grant = world.grant(world.key("ours"), worker_id=HONEST)
    refused(world, "another worker's grant", attacker.sign(grant, P256, SERVER), Code.GRANT_REFUSED)
    owner = world.join(HONEST)
    assert owner.sign(grant, P256, SERVER).code == Code.OK  # it was not spoilt either
    refused(world, "another worker's grant that was used", attacker.sign(grant, P256, SERVER), Code.GRANT_REFUSED)


def test_time(world, attacker):
    for age_ms in (1, 1000, now_ms()):
        grant = world.grant(world.key("ours"), expires_ms=now_ms() - age_ms)
        refused(
            world,
            f"grant that expired {age_ms / 1000:.3f} s ago",
            attacker.sign(grant, P256, SERVER),
            Code.GRANT_EXPIRED,
        )
    expires_ms = now_ms() + 150
    grant = world.grant(world.key("ours"), expires_ms=expires_ms)
    eventually(lambda: now_ms() >= expires_ms, "time stands still")
    refused(world, "grant that was kept too long", attacker.sign(grant, P256, SERVER), Code.GRANT_EXPIRED)
    grant = world.grant(world.key("ours"), expires_ms=now_ms() + (limits.GRANT_LIFE_S + 60) * 1000)
    refused(world, "grant that lives too long", attacker.sign(grant, P256, SERVER), Code.GRANT_REFUSED)


def test_grants_end_with_keyd(tmp_path):
    """keyd forgets what was used when it ends, so what was sealed before must be worth nothing."""
    with KeydWorld(tmp_path, {"ours": "ec"}) as world:
        attacker = world.join(ATTACKER)
        used, unused = world.grant(world.key("ours")), world.grant(world.key("ours"))
        assert attacker.sign(used, P256, SERVER).code == Code.OK
        world.stop()
        assert is_closed(attacker)
        world.start()
        world.accept()
        attacker = world.join(ATTACKER)
        for grant in (used, unused):
            assert attacker.sign(grant, P256, SERVER) == Signed(code=Code.GRANT_REFUSED, signature=b"")
        honest(world)


# --- content --------------------------------------------------------------------------------------------------------


def test_other_role_and_version(world, attacker):
    key = world.key("ours")
    by = {side: [vector for vector in ACCEPTED if vector[2] is side and vector[3] == P256] for side in Side}
    for side, other in ((Side.SERVER, Side.CLIENT), (Side.CLIENT, Side.SERVER)):
        kinds = {vector[4]["what"]: vector for vector in by[other]}
        assert len(kinds) == 2
        for what, (_, content, *_) in kinds.items():
            signed = attacker.sign(world.grant(key, side=side), P256, content)
            refused(
                world,
                f"{what} of a {other.name.lower()} with a {side.name.lower()}'s grant",
                signed,
                Code.CONTENT_REFUSED,
            )


def test_a_digest_of_any_length(world, attacker):
    key = world.key("ours")
    for side in Side:
        for size in [*range(65), 96, 128, 256]:
            digest = random.Random(size).randbytes(size)
            signed = attacker.sign(world.grant(key, side=side), P256, digest)
            assert (signed.code, signed.signature) == (Code.CONTENT_REFUSED, b""), size
    world.attempts.append(("bare digests of 0 to 64, 96, 128 and 256 bytes, both roles", "511 CONTENT_REFUSED"))
    for scheme in (0x0000, 0x0201, 0x0203, 0x0808, 0x0809, 0xFFFF):
        signed = attacker.sign(world.grant(key), scheme, tls12_server_content())
        refused(world, f"scheme {scheme:#06x}", signed, Code.CONTENT_REFUSED)


def test_every_vector_that_must_be_refused(world, attacker):
    key = world.key("ours")
    for path, content, side, scheme, _ in REFUSED:
        signed = attacker.sign(world.grant(key, side=side), scheme, content)
        assert (signed.code, signed.signature) == (Code.CONTENT_REFUSED, b""), path.name
    world.attempts.append((f"{len(REFUSED)} contents of tests/vectors/recognise/refused", "511 CONTENT_REFUSED"))


def test_content_that_is_large(world, attacker):
    key = world.key("ours")
    for side in Side:
        signed = attacker.sign(world.grant(key, side=side), P256, bytes(limits.SIGN_CONTENT_B))
        refused(world, f"{limits.SIGN_CONTENT_B} bytes of content as {side.name.lower()}", signed, Code.CONTENT_REFUSED)
    (large,) = (vector for vector in ACCEPTED if vector[0].stem.endswith("transcript-60-kib"))
    signed = attacker.sign(world.grant(key, side=Side.CLIENT), P256, large[1])
    assert signed.code == Code.OK  # no attack: so long a transcript can be honest
    grant = world.grant(key)
    frame = request(grant, content=bytes(limits.SIGN_CONTENT_B))
    announced = frame.replace(b"\xff\xff" + bytes(64), b"\xff\xff" + bytes(65), 1)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        send_raw(attacker, announced, other.fileno())
        closed(world, f"{limits.SIGN_CONTENT_B + 1} bytes of content", attacker)
        large_frame = world.join(ATTACKER)
        send_raw(large_frame, frame.ljust(limits.FRAME_B + 1, b"\0"), other.fileno())
        closed(world, f"a frame of {limits.FRAME_B + 1} bytes", large_frame)


# --- frames and descriptors -----------------------------------------------------------------------------------------


def test_malformed_frames(world, attacker):
    good = request(world.grant(world.key("ours")))
    chance = random.Random(7)
    frames = {
        "frame of one byte": b"\0",
        "header only": good[:6],
        "unknown code": b"\x7f\xff" + good[2:],
        "frame cut in the grant": good[:40],
        "frame cut at its end": good[:-1],
        "bytes left over": good + b"\0",
        "random bytes": chance.randbytes(300),
        "zeros": bytes(300),
        "grant longer than allowed": good[:6] + b"\xff\xff" + good[8:],
    }
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        for name, frame in frames.items():
            worker = world.join(ATTACKER)
            send_raw(worker, frame, other.fileno())
            closed(world, name, worker)


def test_messages_of_other_borders(world, attacker):
    """Among them those that log in, open, sign without a grant, list keys, and hand out channels."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        for code, row in BY_CODE.items():
            if (row.sender, row.receiver) == (Party.WORKER, Party.KEYD):
                continue
            worker = world.join(ATTACKER)
            send_raw(worker, code.to_bytes(2, "big") + bytes(60), *[other.fileno()] * row.fds)
            assert is_closed(worker), row.message.__name__
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            one.recv(1)
    world.attempts.append((f"each of {len(BY_CODE) - 1} messages of other borders (TokenSign, ...)", "channel closed"))


@pytest.fixture
def descriptors(tmp_path):
    """Descriptors of every kind but the right one."""
    (tmp_path / "file").touch()
    read_fd, write_fd = os.pipe()
    stream, other = socket.socketpair()
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    found = {
        "a file": os.open(tmp_path / "file", os.O_RDWR),
        "a directory": os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY),
        "/dev/null": os.open("/dev/null", os.O_WRONLY),
        "an end of a pipe": write_fd,
        "the other end of a pipe": read_fd,
        "a stream socket": stream.detach(),
        "a stream socket that is read": other.detach(),
        "a datagram socket": datagram.detach(),
        "a TCP socket": socket.socket().detach(),
        "a UDP socket": socket.socket(type=socket.SOCK_DGRAM).detach(),
        "a pidfd": os.pidfd_open(os.getpid()),
    }
    yield found
    for fd in found.values():
        os.close(fd)


def test_wrong_descriptors(world, attacker, descriptors):
    for name, fd in descriptors.items():
        worker = world.join(ATTACKER)
        grant = world.grant(world.key("ours"))
        send_raw(worker, request(grant), fd)
        closed(world, f"{name} for the answer", worker)


def test_wrong_number_of_descriptors(world, attacker):
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        for number in (0, 2, 4, 5, 100):
            worker = world.join(ATTACKER)
            send_raw(worker, request(world.grant(world.key("ours"))), *[other.fileno()] * number)
            closed(world, f"{number} descriptors for the answer", worker)


def test_an_answer_into_our_own_channel(world, attacker):
    """The answer then comes to keyd as a worker's message; it costs nobody but this worker."""
    send_raw(attacker, request(world.grant(world.key("ours"))), attacker.channel.fileno())
    closed(world, "our end of the channel for the answer", attacker)


def test_an_unconnected_or_closed_answer(world, attacker):
    grant = world.grant(world.key("ours"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as lonely:
        send_raw(attacker, request(grant), lonely.fileno())
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.close()
    with other:
        send_raw(attacker, request(world.grant(world.key("ours"))), other.fileno())
    signed = attacker.sign(grant, P256, SERVER)
    refused(world, "a grant whose first answer could not be delivered", signed, Code.GRANT_USED)


# --- the PIN --------------------------------------------------------------------------------------------------------


def test_no_pin_anywhere(world, attacker):
    """Not in an answer, whatever is asked; not in the log, the status, or the command line and environment."""
    key = world.key("ours")
    answers = [attacker.sign(world.grant(key), P256, content) for content in (SERVER, PIN.encode(), b"", bytes(100))]
    bent = world.grant(key, key_uri=key.uri + "?pin-value=" + "0000")
    answers.append(attacker.sign(bent, P256, SERVER))
    assert answers[-1].code == Code.KEY_URI_MALFORMED
    world.attempts.append(("a PIN of our own in the key's URI", "504 KEY_URI_MALFORMED"))
    places = [answer.signature for answer in answers]
    places += [world.log.encode(), repr(world.control("status")).encode(), repr(world.control("keys")).encode()]
    for pid in (world.process.pid, *world.token_pids):
        places += [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert all(PIN.encode() not in place for place in places)
    world.attempts.append(("the PIN in answers, log, status, command lines, environments", "not there"))


# --- floods ---------------------------------------------------------------------------------------------------------


def flood(worker, frame, number, stop):
    """Send the same request again and again, for answers that nobody reads; return how many were taken."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock = socket.socket(fileno=os.dup(worker.channel.fileno()))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [other.fileno()]))]
    taken = 0
    with one, other, sock:
        sock.setblocking(False)
        while taken < number and not stop.is_set():
            try:
                sock.sendmsg([frame], rights, socket.MSG_NOSIGNAL)
                taken += 1
            except BlockingIOError:
                select.select([], [sock], [], 1)
    return taken


def test_ten_thousand_requests(world, attacker):
    """An honest worker goes on meanwhile; memory, descriptors and log stay small."""
    grant = world.grant(world.key("ours"))
    assert attacker.sign(grant, P256, SERVER).code == Code.OK
    log_b = len(world.log)
    refusals = world.control("status")["refused"]
    rss_kib = _rss_kib(world.process.pid)
    stop, taken, times_ms = threading.Event(), [], []
    thread = threading.Thread(target=lambda: taken.append(flood(attacker, request(grant), 10_000, stop)))
    worker = world.join(HONEST)
    start_s = time.monotonic()
    thread.start()
    try:
        while thread.is_alive() or len(times_ms) < 20:
            begin_s = time.monotonic()
            signed = worker.sign(world.grant(world.key("ours"), worker_id=HONEST), P256, SERVER)
            times_ms.append((time.monotonic() - begin_s) * 1000)
            assert signed.code == Code.OK
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert taken == [10_000]
    flood_s = time.monotonic() - start_s
    eventually(lambda: world.control("status")["refused"] >= refusals + 10_000, "requests were lost")
    times_ms.sort()
    median, worst = times_ms[len(times_ms) // 2], times_ms[-1]
    outcome = f"513 GRANT_USED in {flood_s:.1f} s; honest worker {median:.1f} ms median, {worst:.1f} ms worst"
    world.attempts.append(("10 000 requests, answers not read", outcome))
    assert worst < 1000
    assert _rss_kib(world.process.pid) - rss_kib < 20_000
    assert len(world.log) - log_b < 2_000_000


def _rss_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_good_grants_beyond_number_are_served_in_turn(world, attacker):
    """300 good requests at once, which only a broker can allow, do not keep another worker waiting."""
    key = world.key("ours")
    waiting = [attacker.ask(world.grant(key), P256, SERVER) for _ in range(300)]
    flush(attacker)
    begin_s = time.monotonic()
    honest(world)
    took_ms = (time.monotonic() - begin_s) * 1000
    assert {each.result().code for each in waiting} == {Code.OK}
    world.attempts.append(("300 good requests at once", f"served; honest worker waits {took_ms:.0f} ms"))


def test_broker_messages_still_come_through(world, attacker):
    """The last word: keyd is as it was."""
    assert world.question(world.key("ours").uri).code == Code.OK
    other = world.join(HONEST)
    assert other.sign(world.grant(world.key("theirs"), worker_id=HONEST), RSA, SERVER).code == Code.OK
    with pytest.raises(AssertionError, match="nothing from keyd"):
        await_message(attacker.channel, seconds=0.05)
