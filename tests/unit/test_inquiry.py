"""A handshake that asks in the middle: what is described for each kind of chain, and what a verdict does."""

import datetime
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from OpenSSL._util import lib

from tests.fixtures import certs
from tests.fixtures.software_handshakes import NAME, Remote, generation, handshake, shake
from tlspool_common.errors import Code
from tlspool_common.messages import Finding, RemoteAuth, Side, Verdict
from tlspool_worker import inquiry, verify
from tlspool_worker.inquiry import REFUSALS, Inquiry
from tlspool_worker.tls import Handshake

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = [pytest.param(TLS12, id="1.2"), pytest.param(TLS13, id="1.3")]
SIDES = [pytest.param(Side.CLIENT, id="client"), pytest.param(Side.SERVER, id="server")]


class Broker:
    """Answers with one code, and keeps what it was shown."""

    def __init__(self, code=0, detail="because"):
        self.code, self.detail = code, detail
        self.shown = []

    def __call__(self, shown):
        self.shown.append(shown)
        return Verdict(session_id=shown.session_id, code=int(self.code), detail=self.detail)

    @property
    def one(self):
        (shown,) = self.shown
        return shown


@pytest.fixture
def chain_file(tmp_path):
    def write(*issued):
        path = tmp_path / "chain.pem"
        first = issued[0]
        secret = first.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(secret + b"".join(one.pem for one in issued))
        return str(path)

    return write


def meet(side, version, path, broker, **fields):
    """Shake hands with a remote that shows a chain; return the remote, and our last step."""
    remote = Remote(Side.SERVER if side is Side.CLIENT else Side.CLIENT, version, path, **fields.pop("how", {}))
    fields.setdefault("remote_auth", RemoteAuth.REQUIRE)
    ours = handshake(side, kinds=() if side is Side.CLIENT else ("p256",), ask=broker, **fields)
    return remote, shake(ours, remote)


# --- chains ----------------------------------------------------------------------------------------------

BELOW = certs.intermediate
OTHER_ROOT = certs.make("Another root", ca=True, number=110)
OTHER = OTHER_ROOT.issue("Another intermediate", ca=True, number=111)
FORGER = certs.key("p256", 112)


def constrained(name):
    extension = x509.NameConstraints([x509.DNSName(name)], None)
    return certs.root().issue("Constrained", ca=True, number=113, extensions=(extension,))


def weak():
    private = rsa.generate_private_key(65537, 1024)
    made = BELOW().certificate
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(made.subject)
        .public_key(private.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(BELOW().private, hashes.SHA256())
    )
    return certs.Issued(certificate, private)


# name -> (chain as it is shown, fault, whether it ends at an anchor, whether the leaf is good for itself)
CHAINS = {
    "good": (lambda: (certs.leaf(NAME), BELOW()), 0, True, False),
    "anchor sent along": (lambda: (certs.leaf(NAME), BELOW(), certs.root()), 0, True, False),
    "unknown root": (lambda: (OTHER.issue(NAME), OTHER), Code.CHAIN_UNTRUSTED, False, False),
    "unknown root sent": (lambda: (OTHER.issue(NAME), OTHER, OTHER_ROOT), Code.CHAIN_UNTRUSTED, False, False),
    "no issuer": (lambda: (certs.leaf(NAME),), Code.CHAIN_UNTRUSTED, False, False),
    "expired": (lambda: (BELOW().issue(NAME, days=(-9, -2)), BELOW()), Code.EXPIRED, True, False),
    "not yet valid": (lambda: (BELOW().issue(NAME, days=(2, 9)), BELOW()), Code.NOT_YET_VALID, True, False),
    "expired and unknown": (lambda: (OTHER.issue(NAME, days=(-9, -2)), OTHER), Code.CHAIN_UNTRUSTED, False, False),
    "own issuer": (lambda: (certs.make(NAME, number=114),), Code.SELF_SIGNED, False, True),
    "own issuer, expired": (lambda: (certs.make(NAME, number=114, days=(-9, -2)),), Code.EXPIRED, False, True),
    "own issuer, early": (lambda: (certs.make(NAME, number=114, days=(2, 9)),), Code.NOT_YET_VALID, False, True),
    "own issuer, forged": (lambda: (certs.make(NAME, number=114, signer=FORGER),), Code.CHAIN_INVALID, False, False),
    "forged below an anchor": (
        lambda: (BELOW().issue(NAME, signer=FORGER), BELOW()),
        Code.CHAIN_INVALID,
        True,
        False,
    ),
    "forged below nobody": (lambda: (OTHER.issue(NAME, signer=FORGER), OTHER), Code.CHAIN_UNTRUSTED, False, False),
    "constrained, inside": (lambda: (constrained("example").issue(NAME), constrained("example")), 0, True, False),
    "constrained, outside": (
        lambda: (constrained("example.org").issue(NAME), constrained("example.org")),
        Code.CHAIN_INVALID,
        True,
        False,
    ),
    "weak": (lambda: (weak(), BELOW()), Code.KEY_WEAK, True, False),
    "issued by a leaf": (
        lambda: (certs.leaf("issuer.example").issue(NAME), certs.leaf("issuer.example"), BELOW()),
        Code.CHAIN_INVALID,
        True,
        False,
    ),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", CHAINS)
def test_chains(side, version, name, chain_file):
    make, fault, anchored, self_signed = CHAINS[name]
    chain = make()
    how = {"ciphers": "DEFAULT@SECLEVEL=0"} if name == "weak" else {}
    broker = Broker()
    remote, step = meet(side, version, chain_file(*chain), broker, how=how, tells_chain=True)
    shown = broker.one
    assert Code(shown.fault) == fault
    assert bool(shown.detail) is bool(fault)
    assert bool(shown.anchor_sha256) is anchored
    assert not anchored or shown.anchor_sha256 == certs.root().certificate.fingerprint(hashes.SHA256())
    assert shown.self_signed is self_signed
    assert shown.leaf_sha256 == chain[0].certificate.fingerprint(hashes.SHA256())
    assert shown.chain[0] == chain[0].der
    assert len(shown.strengths) == len(shown.chain) == len(shown.links) + anchored
    # whatever it is: the broker accepts it
    assert step.fault is None
    assert remote.error is None
    assert step.facts.remote_verified
    assert step.facts.remote_names == shown.names
    assert step.facts.remote_sha256 == shown.leaf_sha256


@pytest.mark.parametrize("side", SIDES)
def test_a_certificate_for_the_other_side_only(side, chain_file):
    usage = ("client",) if side is Side.CLIENT else ("server",)
    broker = Broker()
    meet(side, TLS13, chain_file(BELOW().issue(NAME, usage=usage), BELOW()), broker)
    assert Code(broker.one.fault) is Code.WRONG_PURPOSE
    assert broker.one.usages == ("1.3.6.1.5.5.7.3.2" if side is Side.CLIENT else "1.3.6.1.5.5.7.3.1",)


def test_anchors_that_are_no_roots(chain_file):
    leaf = certs.leaf(NAME)
    for anchor, strengths in ((BELOW(), 2), (leaf, 1)):
        broker = Broker()
        meet(Side.CLIENT, TLS13, chain_file(leaf, BELOW()), broker, trust=generation(anchor))
        assert not broker.one.fault
        assert broker.one.anchor_sha256 == anchor.certificate.fingerprint(hashes.SHA256())
        assert len(broker.one.strengths) == strengths
        assert len(broker.one.links) == strengths - 1


def test_an_anchor_for_the_other_side_is_none(chain_file):
    broker = Broker()
    trust = generation(certs.root(), for_sides=2)
    meet(Side.CLIENT, TLS13, chain_file(certs.leaf(NAME), BELOW()), broker, trust=trust)
    assert Code(broker.one.fault) is Code.CHAIN_UNTRUSTED
    assert broker.one.anchor_sha256 == b""


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_known_of_the_handshake(side, version, chain_file):
    broker = Broker()
    _, step = meet(side, version, chain_file(certs.leaf(NAME), BELOW()), broker)
    shown = broker.one
    assert shown.session_id == 1
    assert shown.tls_version == step.facts.tls_version
    assert shown.cipher == step.facts.cipher != ""
    knows_group = version is TLS13 or side is Side.SERVER  # a server's key exchange comes after its certificate
    assert shown.group == (step.facts.group if knows_group else "")


def test_a_hello_in_single_bytes(chain_file):
    """The cipher of TLS 1.2 is read from the ServerHello."""
    broker = Broker()
    ours = handshake(Side.CLIENT, kinds=(), ask=broker, remote_auth=RemoteAuth.REQUIRE)
    remote = Remote(Side.SERVER, TLS12, chain_file(certs.leaf(NAME), BELOW()))
    for byte in remote.step(ours.step(b"").output):
        step = ours.step(bytes([byte]))
        assert not step.fault
    assert broker.one.cipher.startswith("ECDHE-ECDSA-")


# --- verdicts --------------------------------------------------------------------------------------------

ALERTS = {
    40: "HANDSHAKE_FAILURE",
    42: "BAD_CERTIFICATE",
    43: "UNSUPPORTED_CERTIFICATE",
    44: "CERTIFICATE_REVOKED",
    45: "CERTIFICATE_EXPIRED",
    46: "CERTIFICATE_UNKNOWN",
    48: "UNKNOWN_CA",
    80: "INTERNAL_ERROR",
}
REFUSING = [*REFUSALS, Code.VALIDATION_FAILED, Code.VALIDATION_UNDECIDED, Code.REVOCATION_UNKNOWN, Code.CHAIN_INVALID]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("code", REFUSING)
def test_a_refusal_has_its_alert(side, version, code, chain_file):
    broker = Broker(code, "because of this")
    remote, step = meet(side, version, chain_file(certs.leaf(NAME), BELOW()), broker)
    _, alert = REFUSALS.get(code, (43, 46))
    assert (step.fault.code, step.fault.alert, step.fault.detail) == (code, alert, "because of this")
    assert step.facts is None
    if remote.error is None:  # a client of TLS 1.3 is done before the server has seen its certificate
        remote.read(step.output)
    assert ALERTS[alert] in remote.error.reason
    assert len(broker.shown) == 1


def test_every_alert_is_one_that_libssl_sends():
    for number, alert in REFUSALS.values():
        assert verify.TABLE.get(number, (None, alert))[1] == alert


def test_a_verdict_with_a_code_that_nobody_knows(chain_file):
    _, step = meet(Side.CLIENT, TLS13, chain_file(certs.leaf(NAME), BELOW()), Broker(499))
    assert step.fault.code is Code.INTERNAL


@pytest.mark.parametrize("version", VERSIONS)
def test_no_verdict_is_a_refusal(version, chain_file):
    _, step = meet(Side.CLIENT, version, chain_file(certs.leaf(NAME), BELOW()), lambda _: None)
    assert step.fault.code is Code.VALIDATION_UNDECIDED
    assert step.fault.alert == 46


def test_a_broker_that_cannot_be_asked_is_a_refusal(chain_file):
    def broken(_shown):
        raise RuntimeError("no loop")

    remote, step = meet(Side.CLIENT, TLS13, chain_file(certs.leaf(NAME), BELOW()), broken)
    assert step.fault.code is Code.CHAIN_INVALID
    assert step.fault.alert == 46
    assert "CERTIFICATE_UNKNOWN" in remote.error.reason


def test_a_certificate_that_cannot_be_read_is_not_described(monkeypatch, chain_file):
    def unreadable(*_):
        raise ValueError("cannot be read")

    broker = Broker()
    monkeypatch.setattr(inquiry, "describe_untrusted", unreadable)
    _, step = meet(Side.CLIENT, TLS13, chain_file(certs.leaf(NAME), BELOW()), broker)
    assert step.fault.code is Code.CHAIN_INVALID
    assert broker.shown == []


def test_a_new_fault_after_the_verdict_ends_the_handshake(monkeypatch, chain_file):
    """If the second look at constraints were missing, OpenSSL's own would still count."""
    monkeypatch.setattr(Inquiry, "_constraints_untrusted", lambda *_: None)
    above = constrained("example.org")
    _, step = meet(Side.CLIENT, TLS13, chain_file(above.issue(NAME), above), Broker())
    assert step.fault.code is Code.CHAIN_INVALID
    assert "permitted subtree" in step.fault.detail


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_asked_where_nothing_is_shown(version, chain_file):
    broker = Broker()
    _, step = meet(Side.SERVER, version, None, broker, remote_auth=RemoteAuth.REQUEST)
    assert step.facts
    assert not step.facts.remote_verified
    for side in Side:
        _, step = meet(side, version, chain_file(certs.leaf(NAME), BELOW()), broker, remote_auth=RemoteAuth.IGNORE)
        assert step.facts
        assert not step.facts.remote_verified
    assert broker.shown == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_certificate_is_missing(version):
    broker = Broker()
    _, step = meet(Side.SERVER, version, None, broker)
    assert step.fault.code is Code.CERTIFICATE_MISSING
    assert broker.shown == []


def test_a_name_is_not_compared(chain_file):
    broker = Broker()
    _, step = meet(Side.CLIENT, TLS13, chain_file(certs.leaf(NAME), BELOW()), broker, remote_name="other.example")
    assert step.facts.remote_verified


def test_a_session_that_asks_has_somebody_to_ask():
    made = handshake(Side.CLIENT, kinds=())
    with pytest.raises(AssertionError, match="nobody to ask"):
        Handshake(made._context, handshake(Side.CLIENT, kinds=(), ask=Broker())._start, [], None, 1000)


def test_many_at_once(chain_file):
    """Threads that wait have only their own verdict."""
    path = chain_file(certs.leaf(NAME), BELOW())
    found, barrier = {}, threading.Barrier(4)

    def one(number):
        def ask(shown):
            barrier.wait(10)
            code = Code.REVOKED if number % 2 else Code.OK
            return Verdict(session_id=shown.session_id, code=int(code), detail=str(number))

        _, found[number] = meet(Side.CLIENT, TLS13, path, ask, session_id=number + 1)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [bool(found[number].fault) for number in range(4)] == [False, True, False, True]
    assert found[3].fault.detail == "3"


# --- stapling --------------------------------------------------------------------------------------------


def staple(issued, status=ocsp.OCSPCertStatus.GOOD, issuer=None, days=(-1, 1)):
    issuer = issuer or BELOW()
    now = datetime.datetime.now(datetime.UTC)
    revoked = now - datetime.timedelta(days=2) if status is ocsp.OCSPCertStatus.REVOKED else None
    return (
        ocsp.OCSPResponseBuilder()
        .add_response(
            issued.certificate,
            issuer.certificate,
            hashes.SHA1(),
            status,
            now + datetime.timedelta(days=days[0]),
            now + datetime.timedelta(days=days[1]),
            revoked,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.certificate)
        .sign(issuer.private, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def meet_each_other(version, broker, response, kind="p256", **fields):
    """Shake hands between two of ours; return the steps of client and server."""
    server = handshake(Side.SERVER, kinds=(kind,), staple=response, tls_max=version.value)
    client = handshake(Side.CLIENT, kinds=(), ask=broker, **fields)
    there, back = client.step(b""), None
    for _ in range(8):
        if there.output and not (back and (back.facts or back.fault)):
            back = server.step(there.output)
        if there.facts or there.fault:
            break
        there = client.step(back.output)
    return there, back


STAPLES = {
    "good": (lambda: staple(certs.leaf(NAME, "p256")), Finding.GOOD),
    "revoked": (lambda: staple(certs.leaf(NAME, "p256"), ocsp.OCSPCertStatus.REVOKED), Finding.REVOKED),
    "unknown": (lambda: staple(certs.leaf(NAME, "p256"), ocsp.OCSPCertStatus.UNKNOWN), Finding.UNKNOWN),
    "out of date": (lambda: staple(certs.leaf(NAME, "p256"), days=(-9, -2)), Finding.BAD),
    "of another": (lambda: staple(certs.leaf("other.example")), Finding.NONE),  # and not this either
    "of another issuer": (lambda: staple(certs.leaf(NAME, "p256"), issuer=OTHER), Finding.BAD),
    "try later": (lambda: b"\x30\x03\x0a\x01\x03", Finding.NONE),
    "none": (lambda: b"", Finding.NONE),
    "garbage": (lambda: b"garbage", Finding.NONE),  # OpenSSL sends no such thing
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", STAPLES)
def test_staples(version, name):
    make, finding = STAPLES[name]
    broker = Broker()
    client, server = meet_each_other(version, broker, make(), wants_staple=True)
    assert client.facts
    assert client.facts.remote_verified
    assert not server.fault
    assert broker.one.stapled is finding
    assert bool(broker.one.stapled_detail) is (name not in ("none", "garbage", "of another"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_staple_that_nobody_asked_for_is_not_sent(version):
    broker = Broker()
    client, _ = meet_each_other(version, broker, staple(certs.leaf(NAME, "p256")))
    assert client.facts
    assert broker.one.stapled is Finding.NONE


@pytest.mark.parametrize("code", [Code.REVOKED, Code.VALIDATION_FAILED, Code.PIN_UNMATCHED])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_refusal_after_the_staple_has_its_alert_too(version, code):
    client, server = meet_each_other(version, Broker(code, "x"), staple(certs.leaf(NAME, "p256")), wants_staple=True)
    _, alert = REFUSALS.get(code, (43, 46))
    assert (client.fault.code, client.fault.alert, client.fault.detail) == (code, alert, "x")
    assert (server.fault.code, server.fault.alert, server.fault.received) == (Code.REMOTE_ALERT, alert, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_in_the_middle_is_before_our_certificate(version, chain_file):
    """A client that refuses has not said who it is."""
    for wants in (False, True):
        ours = handshake(Side.CLIENT, ask=Broker(Code.REVOKED), wants_staple=wants)
        path = chain_file(certs.leaf("server.example"), BELOW())
        remote = Remote(Side.SERVER, version, path, verify=ssl.CERT_OPTIONAL)
        step = shake(ours, remote)
        assert step.fault.code is Code.REVOKED
        with pytest.raises(ValueError, match="not done"):
            remote.tls.getpeercert()
        assert len(step.output) < 100  # an alert, and nothing that a certificate would fit in
        assert "CERTIFICATE_REVOKED" in remote.error.reason


def test_each_certificate_has_its_own_staple(monkeypatch):
    from tlspool_worker import stapling

    given = []
    monkeypatch.setattr(stapling, "give", lambda _ssl, data: given.append(data) or False)
    server = handshake(Side.SERVER, kinds=("p256", "rsa"))
    one, other = (certs.leaf(NAME, kind).der for kind in ("p256", "rsa"))
    server._check.staples = {one: b"for p256", other: b"for rsa"}
    client = handshake(Side.CLIENT, kinds=(), ask=Broker(), wants_staple=True, sigalgs="RSA-PSS+SHA256")
    server.step(client.step(b"").output)
    assert given == [b"for rsa"]


def test_the_error_queue_is_empty_afterwards(chain_file):
    meet(Side.CLIENT, TLS13, chain_file(certs.make(NAME, number=114)), Broker())
    assert lib.ERR_get_error() == 0
