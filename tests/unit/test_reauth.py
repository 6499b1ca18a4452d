"""Authentication after the handshake: our server against the ssl module's client, and our client against its server."""

import ssl
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL._util import lib
from OpenSSL.crypto import PKey

from tests.fixtures import certs
from tests.fixtures.software_handshakes import NAME, Remote, credential, generation, handshake, shake
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import RemoteAuth, Side
from tlspool_worker import facts, questions, reauth, tls, verify
from tlspool_worker.contexts import Contexts
from tlspool_worker.reauth import Answering


@pytest.fixture
def chain_file(tmp_path):
    def make(name=NAME, kind="p256", issuer=None):
        leaf = issuer.issue(name, kind) if issuer else certs.leaf(name, kind)
        key = leaf.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = tmp_path / f"{name}-{kind}.pem"
        path.write_bytes(leaf.pem + certs.intermediate().pem + key)
        return str(path)

    return make


class Ours:
    """A Stream of ours, with the ssl module at the other end."""

    def __init__(self, side, remote, **fields):
        self.remote = remote
        ours = handshake(side, sni=NAME, **fields)
        step = shake(ours, remote)
        assert step.facts, step.fault
        self.stream = ours.stream()

    def send(self):
        """Give the remote what our OpenSSL has to say; return what its application sees."""
        data = b""
        while (count := self.stream.take()) > 0:
            data += bytes(tls.CIPHER[:count])
        return self.remote.read(data)

    def receive(self, data=None):
        """Take what the remote has to say; return what our application sees."""
        data = self.remote.outgoing.read() if data is None else data
        tls.CIPHER[: len(data)] = data
        return bytes(tls.PLAIN[: self.stream.decrypt(len(data))])

    def say(self, text):
        tls.PLAIN[: len(text)] = text
        assert self.stream.encrypt(len(text))


# --- our server asks --------------------------------------------------------------------------------


class Asking:
    """A server of ours that asks."""

    def __init__(self, remote, expected="", trust=None, **fields):
        self.ours = Ours(Side.SERVER, remote, **fields)
        self.stream = self.ours.stream
        self.check = verify.Check(parse_untrusted(expected) if expected else None, False)
        self.answers = []
        self.trust = trust or generation()

    def ask(self):
        context = Contexts().get(questions._start(Side.SERVER, "", self.trust), (), self.trust)
        reauth.ask(self.stream, context, self.check, lambda: self.answers.append(1))

    def told(self):
        return reauth.judge(self.stream, self.check, 1, 2)


@pytest.fixture
def client(chain_file):
    def make(name=NAME, offers=True, version=None, **how):
        remote = Remote(version=version)
        remote.context.post_handshake_auth = offers
        if name:
            remote.context.load_cert_chain(chain_file(name, **how))
        remote.incoming, remote.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        remote.tls = remote.context.wrap_bio(remote.incoming, remote.outgoing, False, NAME)
        return remote

    yield make
    assert reauth._asking == {}
    assert verify._expecting == {}


@pytest.mark.parametrize("before", list(RemoteAuth))
@pytest.mark.parametrize("kind", certs.KINDS)
def test_a_client_answers(client, before, kind):
    asking = Asking(client(kind=kind), NAME, remote_auth=before)
    local = facts.local_certificate(asking.stream)
    asking.ask()
    assert asking.answers == []
    assert asking.ours.send() is None
    assert asking.ours.receive() == b""
    assert asking.answers == [1]
    told = asking.told()
    assert (told.asked, told.code, told.remote_verified) == (True, 0, True)
    assert told.remote_names == (f"dns:{NAME}",)
    assert facts.remote_certificate(asking.stream) == certs.leaf(NAME, kind).der
    assert facts.local_certificate(asking.stream) == local == certs.leaf(NAME, "p256").der
    asking.ours.say(b"after")
    assert asking.ours.send() == b"after"


def test_data_flows_while_the_client_thinks(client):
    remote = client()
    asking = Asking(remote, NAME)
    asking.ask()
    asking.ours.say(b"question")
    request = b""
    while (count := asking.stream.take()) > 0:
        request += bytes(tls.CIPHER[:count])
    remote.tls.write(b"before it has read that")
    assert asking.ours.receive() == b"before it has read that"
    assert asking.answers == []
    assert remote.read(request) == b"question"
    remote.tls.write(b"data behind the answer")
    assert asking.ours.receive() == b"data behind the answer"
    assert asking.told().remote_verified


def test_a_client_may_be_asked_again_and_again(client):
    asking = Asking(client(), NAME)
    for turn in range(1, 4):
        asking.check = verify.Check(None, False)
        asking.ask()
        asking.ours.send()
        asking.ours.receive()
        assert len(asking.answers) == turn
        assert asking.told().remote_verified


def test_a_client_without_a_certificate(client):
    asking = Asking(client(name=""))
    asking.ask()
    asking.ours.send()
    asking.ours.receive()
    told = asking.told()
    assert (told.asked, told.code, told.remote_verified, told.remote_sha256) == (True, 0, False, b"")
    asking.ours.say(b"goes on")
    assert asking.ours.send() == b"goes on"


@pytest.mark.parametrize(
    ("code", "expected", "trust"),
    [
        (Code.NAME_MISMATCH, "other.example", None),
        (Code.CHAIN_UNTRUSTED, NAME, generation(certs.make("Somebody else", ca=True, number=3))),
    ],
)
def test_a_client_that_proves_nothing_is_nobody_and_goes_on(client, code, expected, trust):
    asking = Asking(client(), expected, trust)
    asking.ask()
    asking.ours.send()
    asking.ours.receive()
    told = asking.told()
    assert (told.asked, told.code, told.remote_verified, told.remote_names) == (True, code, False, ())
    assert facts.remote_certificate(asking.stream) == b""
    asking.ours.say(b"goes on")
    assert asking.ours.send() == b"goes on"
    asking.trust, asking.check = generation(), verify.Check(None, False)
    asking.ask()
    asking.ours.send()
    asking.ours.receive()
    assert asking.told().remote_verified
    assert facts.remote_certificate(asking.stream)


def test_an_answer_that_was_tampered_with_ends_the_session(client):
    asking = Asking(client(), NAME)
    asking.ask()
    asking.ours.send()
    data = bytearray(asking.ours.remote.outgoing.read())
    data[-1] ^= 1
    asking.ours.receive(bytes(data))
    assert asking.answers == []
    assert asking.stream.state == tls.BROKEN
    reauth.forget(asking.stream.ssl)


@pytest.mark.parametrize(
    ("code", "how"),
    [(Code.REAUTH_INSECURE, {"offers": False}), (Code.REAUTH_INSECURE, {"version": ssl.TLSVersion.TLSv1_2})],
)
def test_clients_that_cannot_be_asked(client, code, how):
    asking = Asking(client(**how))
    with pytest.raises(PoolError) as caught:
        asking.ask()
    assert caught.value.code is code
    assert lib.ERR_get_error() == 0
    asking.ours.say(b"goes on")
    assert asking.ours.send() == b"goes on"


def test_not_while_it_is_being_asked(client):
    asking = Asking(client())
    asking.ask()
    with pytest.raises(PoolError) as caught:
        reauth.ask(asking.stream, Contexts().get(questions._start(Side.SERVER, "", asking.trust), (), asking.trust),
                   asking.check, lambda: None)  # fmt: skip
    assert caught.value.code is Code.REAUTH_BUSY
    asking.ours.send()
    asking.ours.receive()
    assert asking.told().remote_verified


@pytest.mark.parametrize("who", ["we", "they"])
def test_not_when_one_side_has_closed(client, who):
    remote = client()
    asking = Asking(remote)
    if who == "we":
        asking.stream.close()
    else:
        with pytest.raises(ssl.SSLWantReadError):
            remote.tls.unwrap()
        asking.ours.receive()
    with pytest.raises(PoolError) as caught:
        asking.ask()
    assert caught.value.code is Code.REAUTH_BUSY


# --- our client is asked ----------------------------------------------------------------------------


@pytest.fixture
def asked(chain_file, monkeypatch):
    """A client of ours whose server, which knows nobody yet, has asked."""

    def software_key(ssl_object, one, channel, timeout_ms):
        assert one.grant
        key = PKey.from_cryptography_key(certs.leaf(NAME, "p256").private)
        assert lib.SSL_use_PrivateKey(ssl_object, key._pkey) == 1

    monkeypatch.setattr(reauth, "use_key", software_key)

    def make(verify_mode=ssl.CERT_REQUIRED, behind=b"", **fields):
        remote = Remote(Side.SERVER, chain_file=chain_file(), verify=verify_mode, asks_later=True)
        ours = Ours(Side.CLIENT, remote, **fields)
        assert not ours.stream.shown
        remote.tls.verify_client_post_handshake()
        with pytest.raises(ssl.SSLWantReadError):
            remote.tls.read(1)  # that is when it is sent
        if behind:
            remote.tls.write(behind)
        return ours

    return make


def answer(ours, *credentials):
    trust = generation(number=0)
    nobody = Contexts().get(questions._start(Side.CLIENT, "", trust), (), trust)
    answering = Answering(ours.stream, nobody, credentials, None, 1000)
    answering.step()
    return answering.fault


@pytest.mark.parametrize("behind", [b"", b"short", b"x" * 16000])
def test_it_waits_and_loses_nothing(asked, behind):
    ours = asked(behind=behind)
    assert ours.receive() == b""
    assert ours.stream.waits
    tls.CIPHER[:] = bytes(len(tls.CIPHER))  # others have had the buffer meanwhile
    assert answer(ours, granted()) is None
    assert not ours.stream.waits
    assert bytes(tls.PLAIN[: ours.stream.read()]) == behind
    ours.say(b"after")
    assert ours.send() == b"after"
    assert ours.remote.tls.getpeercert(True) == certs.leaf(NAME, "p256").der
    assert facts.local_certificate(ours.stream) == certs.leaf(NAME, "p256").der


def granted():
    return replace(credential(), grant=b"grant")


def test_without_a_grant_it_has_no_certificate(asked):
    ours = asked(ssl.CERT_OPTIONAL)
    ours.receive()
    assert answer(ours) is None
    ours.say(b"goes on")
    assert ours.send() == b"goes on"
    assert ours.remote.tls.getpeercert(True) is None
    assert facts.local_certificate(ours.stream) == b""


def test_and_can_have_one_the_next_time(asked):
    ours = asked(ssl.CERT_OPTIONAL)
    ours.receive()
    answer(ours)
    ours.send()
    ours.remote.tls.verify_client_post_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        ours.remote.tls.read(1)
    ours.receive()
    assert ours.stream.waits
    assert answer(ours, granted()) is None
    ours.send()
    assert ours.remote.tls.getpeercert(True) == certs.leaf(NAME, "p256").der


def test_a_key_that_does_not_sign(asked, monkeypatch):
    """Then it is as if there were none, and somebody is told why."""

    def no_key(*_):
        raise PoolError(Code.KEYD_UNREACHABLE, "gone")

    monkeypatch.setattr(reauth, "use_key", no_key)
    ours = asked(ssl.CERT_OPTIONAL)
    ours.receive()
    assert answer(ours, granted()).code is Code.KEYD_UNREACHABLE
    assert ours.send() is None
    ours.say(b"goes on")
    assert ours.send() == b"goes on"
    assert ours.remote.tls.getpeercert(True) is None


def test_a_client_without_identity_cannot_be_asked(chain_file):
    remote = Remote(Side.SERVER, chain_file=chain_file(), verify=ssl.CERT_OPTIONAL, asks_later=True)
    ours = Ours(Side.CLIENT, remote, kinds=())
    with pytest.raises(ssl.SSLError, match="EXTENSION_NOT_RECEIVED"):
        remote.tls.verify_client_post_handshake()
    assert ours.stream.shown is False
