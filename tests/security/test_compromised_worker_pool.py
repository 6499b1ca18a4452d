"""Code in the place of master and workers, with the channels that a real broker hands out, and grants that it makes.

What the worker alone may try with keyd is in test_compromised_worker.py.  Here: what is in a grant of the real broker,
and what else the broker can be brought to give.
"""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_der_x509_certificate

import libstub
from tests.fixtures.captor import Captor
from tests.fixtures.keyd_world import tls13_content
from tlspool_admin.devpool import DevPool
from tlspool_common.codec import decode_untrusted
from tlspool_common.errors import Code
from tlspool_common.grants import Grant, now_ms
from tlspool_common.messages import ClientHelloSeen, HandshakeDone, Proceed, SessionEnded, Side, UseCredential

P256 = 0x0403
SERVER = tls13_content(Side.SERVER)


@pytest.fixture
def captor(tmp_path):
    pool = DevPool(tmp_path / "p")
    pool.up("ec", ["isolation pool", "workers 2", "log_level debug"])
    try:
        with Captor(pool) as made:
            yield made
        assert set(pool.running()) == {"broker", "keyd"}, "a daemon did not survive"
    finally:
        pool.down()


def with_grant(captor, localid="localhost"):
    """Begin a session and get its one grant."""
    session = captor.begin(localid)
    session.hello_seen()
    captor.turn_until(lambda: session.worker.take(Proceed))
    assert len(session.grants) == 1
    return session


def test_one_session_one_signature(captor):
    session = with_grant(captor)
    (grant,) = session.grants
    keyd = session.worker.keyd
    (credential,) = session.worker.take(UseCredential)
    for bit in (0, 100, 400, len(grant) * 8 - 1):
        bent = bytearray(grant)
        bent[bit // 8] ^= 1 << bit % 8
        assert keyd.sign(bytes(bent), P256, SERVER).code == Code.GRANT_REFUSED
    (other,) = (worker for worker in captor.workers if worker.keyd and worker is not session.worker)
    assert other.keyd.sign(grant, P256, SERVER).code == Code.GRANT_REFUSED
    waiting = [keyd.ask(grant, P256, tls13_content(Side.SERVER, bytes([number]))) for number in range(50)]
    answers = [each.result() for each in waiting]
    assert sorted(answer.code for answer in answers) == [Code.OK] + 49 * [Code.GRANT_USED]
    ((number, good),) = ((n, answer) for n, answer in enumerate(answers) if answer.code == Code.OK)
    public = load_der_x509_certificate(credential.chain[0]).public_key()
    public.verify(good.signature, tls13_content(Side.SERVER, bytes([number])), ec.ECDSA(hashes.SHA256()))


OTHERS = {
    "client": tls13_content(Side.CLIENT),
    "digest-32": bytes(32),
    "digest-48": bytes(48),
    "ber": b"\x30\x62" + bytes(98),
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_other_content_costs_the_grant(captor, content):
    session = with_grant(captor)
    (grant,) = session.grants
    assert session.worker.keyd.sign(grant, P256, content).code == Code.CONTENT_REFUSED
    assert session.worker.keyd.sign(grant, P256, SERVER).code == Code.GRANT_USED


def test_a_grant_ends_with_its_handshake(captor):
    """The application allows ten seconds; nothing that the worker says makes its grant live longer."""
    begin_ms = now_ms()
    session = with_grant(captor)
    grant = decode_untrusted(Grant, session.grants[0][:-32])  # a worker can read it, and only that
    assert (grant.session_id, grant.worker_id) == (session.start.session_id, session.worker.worker_id)
    assert grant.side is Side.SERVER
    expires_ms = grant.expires_ms
    assert 9_000 <= expires_ms - begin_ms <= 11_500


def test_no_second_grant_for_a_session(captor):
    """Asking again is not in the session's state table: the broker believes this worker nothing more."""
    session = with_grant(captor)
    session.hello_seen()
    captor.turn_until(lambda: session.worker.lost)
    assert len(session.grants) == 1
    assert isinstance(session.end(), libstub.PoolError)


@pytest.mark.parametrize("kind", ["hello", "done", "ended"])
def test_sessions_of_another_worker(captor, kind):
    session = captor.begin("localhost")
    thief = next(worker for worker in captor.workers if worker.keyd and worker is not session.worker)
    number = session.start.session_id
    thief.broker.send(
        {
            "hello": ClientHelloSeen(session_id=number, sni="", alpn=b""),
            "done": HandshakeDone(
                session_id=number,
                tls_version=0x0304,
                cipher="TLS_AES_128_GCM_SHA256",
                group="X25519",
                alpn=b"",
                sni="",
                remote_verified=True,
                remote_names=("dns:bank.example",),
                remote_subject="CN=bank",
                remote_sha256=bytes(32),
            ),
            "ended": SessionEnded(session_id=number, reason=1, from_remote_b=0, to_remote_b=0, detail=""),
        }[kind]
    )
    captor.turn_until(lambda: thief.lost)
    assert not thief.take(UseCredential)
    session.hello_seen()  # its own worker goes on as if nothing had been
    captor.turn_until(lambda: session.grants)
    assert session.worker.keyd.sign(session.grants[0], P256, SERVER).code == Code.OK


def test_a_session_that_does_not_exist(captor):
    thief = next(worker for worker in captor.workers if worker.keyd)
    thief.broker.send(ClientHelloSeen(session_id=12345, sni="localhost", alpn=b""))
    captor.turn_until(lambda: thief.lost)
    assert not thief.take(UseCredential)


def test_what_the_worker_is_told(captor):
    """Chains and grants for the session's identity, and nothing of others; no PIN, no sealing secret."""
    session = with_grant(captor, "testsrv@tlspool.arpa2.lab")
    pin = (captor.pool.directory / "pin").read_text().strip()
    told = "\n".join(repr(message) for worker in captor.workers for message in worker.said)
    assert pin not in told
    assert "secret" not in told
    assert b"testcli" not in session.grants[0]
    names = load_der_x509_certificate(session.worker.take(UseCredential)[0].chain[0]).subject.rfc4514_string()
    assert "testsrv" in names
