"""A client with several credentials shows the one that the server can use."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import certs
from tests.fixtures.lone_worker import KINDS
from tests.fixtures.software_handshakes import NAME, SoftwareHandshake, credential, generation, handshake
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import RemoteAuth, Side, UseCredential
from tlspool_worker.contexts import Contexts, fitting
from tlspool_worker.showing import choose, schemes_untrusted

VERSIONS = [pytest.param(0x0303, id="1.2"), pytest.param(0x0304, id="1.3")]
BOTH = tuple(itertools.permutations(("p256", "rsa")))
OTHER_ROOT = certs.make("Root of the others", ca=True, number=130)


def run(client, server):
    """Shake hands; return the server's last step."""
    there, back = client.step(b""), None
    for _ in range(8):
        if there.output and not (back and (back.facts or back.fault)):
            back = server.step(there.output)
        if there.facts or there.fault or not back.output:
            break
        there = client.step(back.output)
    assert not there.fault, there.fault
    return back


def kind_of(facts):
    return next(k for k in certs.KINDS if hashlib.sha256(certs.leaf(NAME, k).der).digest() == facts.remote_sha256)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kinds", BOTH)
@pytest.mark.parametrize(("wanted", "sigalgs"), [("rsa", "RSA-PSS+SHA256:RSA+SHA256"), ("p256", "ECDSA+SHA256")])
def test_by_what_the_server_can_verify(version, kinds, wanted, sigalgs):
    server = handshake(Side.SERVER, (wanted,), sigalgs=sigalgs, tls_max=version, remote_auth=RemoteAuth.REQUIRE)
    client = handshake(Side.CLIENT, kinds)
    assert kind_of(run(client, server).facts) == wanted
    assert client.stream().shown


@pytest.mark.parametrize("kinds", BOTH)
def test_the_first_that_will_do_in_tls_1_2(kinds):
    server = handshake(Side.SERVER, ("rsa",), tls_max=0x0303, remote_auth=RemoteAuth.REQUIRE)
    assert kind_of(run(handshake(Side.CLIENT, kinds), server).facts) == kinds[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_none_that_will_do(version):
    server = handshake(Side.SERVER, ("ed25519",), sigalgs="ed25519", tls_max=version, remote_auth=RemoteAuth.REQUEST)
    client = handshake(Side.CLIENT, ("p256", "rsa"))
    assert run(client, server).facts.remote_sha256 == b""
    assert version == 0x0304 or not client.stream().shown


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kinds", BOTH)
@pytest.mark.parametrize("known", ["p256", "rsa"])
def test_by_the_authorities_that_the_server_names(version, kinds, known):
    """One credential of each authority; the server believes one of them."""
    anchors = {"p256": certs.root(), "rsa": OTHER_ROOT}
    leaves = {"p256": certs.leaf(NAME, "p256"), "rsa": OTHER_ROOT.issue(NAME, "rsa")}
    chains = {"p256": (leaves["p256"].der, certs.intermediate().der), "rsa": (leaves["rsa"].der,)}
    server = handshake(
        Side.SERVER, ("p256",), tls_max=version, remote_auth=RemoteAuth.REQUIRE, trust=generation(anchors[known])
    )
    made = handshake(Side.CLIENT, kinds)
    credentials = [UseCredential(session_id=1, key_kind=KINDS[k], chain=chains[k], grant=b"") for k in kinds]
    fit = fitting(tuple((each.key_kind, each.chain) for each in credentials))
    context = Contexts().get(made._start, fit, generation())
    facts = run(SoftwareHandshake(context, made._start, credentials, None, 1000), server).facts
    assert facts.remote_sha256 == hashlib.sha256(leaves[known].der).digest()


def test_a_key_that_is_not_to_be_had_is_said(monkeypatch):
    def refuse(*_):
        raise PoolError(Code.KEYD_UNREACHABLE, "gone")

    for error, code in ((refuse, Code.KEYD_UNREACHABLE), (lambda *_: 1 / 0, Code.INTERNAL)):
        client = handshake(Side.CLIENT, ("p256", "rsa"))
        server = handshake(Side.SERVER, ("p256",), remote_auth=RemoteAuth.REQUIRE)
        flight = server.step(client.step(b"").output).output
        with monkeypatch.context() as patch:
            patch.setattr(SoftwareHandshake, "_use_key", error)
            fault = client.step(flight).fault
        assert (fault.code, fault.alert) == (code, 80), fault


def test_the_choice():
    ours = [credential("p256"), credential("rsa"), credential("ed25519")]
    assert choose(ours, frozenset({0x0401}), frozenset()) == [ours[1]]
    assert choose(ours, frozenset({0x0807, 0x0401}), frozenset()) == [ours[1]]
    assert choose(ours, frozenset({0x0201}), frozenset()) == []
    assert choose(ours, None, frozenset()) == ours
    assert choose(ours, None, frozenset({b"nobody"})) == ours
    assert choose(ours, frozenset({0x0403}), frozenset({b"nobody"})) == [ours[0]]
    broken = UseCredential(session_id=1, key_kind=KINDS["rsa"], chain=(b"x",), grant=b"")
    assert choose([broken], None, frozenset({b"nobody"})) == [broken]


REQUEST = bytes.fromhex("0d00000c 01 40 0004 0403 0401 0002 0000".replace(" ", ""))


def records(content, size):
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"\x16\x03\x03" + len(part).to_bytes(2) + part for part in parts)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_schemes_in_any_number_of_records(size):
    flight = records(b"\x02\0\0\x02ab" + REQUEST + b"\x0e\0\0\0", size)
    assert schemes_untrusted(flight) == {0x0403, 0x0401}


@pytest.mark.parametrize(
    "content", [b"", b"\x02\0\0\x02ab", REQUEST[:-5], b"\x0d\0\0\0", b"\x0d\0\0\x01\xff", b"\x0d\0"]
)
def test_no_schemes(content):
    assert schemes_untrusted(records(content, 100)) is None


@given(st.binary(max_size=200))
def test_anything_at_all(data):
    for flight in (data, records(data, 50), records(b"\x0d" + data, 50), records(REQUEST + data, 20)):
        found = schemes_untrusted(flight)
        assert found is None or all(0 <= number <= 0xFFFF for number in found)
