"""Contexts are shared by what they depend on, never changed, and hold no more than they should."""

import pytest
from OpenSSL import SSL

from tests.fixtures import certs
from tests.fixtures.lone_worker import KINDS
from tests.fixtures.software_handshakes import generation, handshake, start
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import RemoteAuth, Side
from tlspool_worker.contexts import KEPT, Contexts, fitting
from tlspool_worker.trust import NAMED_ANCHORS, Trust


def chains(*kinds):
    return tuple((KINDS[kind], (certs.leaf("local.example", kind).der, certs.intermediate().der)) for kind in kinds)


def test_the_same_policy_shares_a_context():
    contexts, trust = Contexts(), generation()
    one = contexts.get(start(session_id=1, alpn=b"\2h2"), chains("p256"), trust)
    assert contexts.get(start(session_id=2, remote_name="a.example"), chains("p256"), trust) is one


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"side": Side.CLIENT}, ("p256",)),
        ({"remote_auth": RemoteAuth.REQUIRE}, ("p256",)),
        ({"tls_min": 0x0304}, ("p256",)),
        ({"tls_max": 0x0303}, ("p256",)),
        ({"groups": "X25519"}, ("p256",)),
        ({"ciphers_tls12": "ECDHE+CHACHA20"}, ("p256",)),
        ({"ciphersuites_tls13": "TLS_AES_128_GCM_SHA256"}, ("p256",)),
        ({"sigalgs": "ECDSA+SHA256"}, ("p256",)),
        ({"names_anchors": False}, ("p256",)),
        ({}, ("rsa",)),
        ({}, ("p256", "rsa")),
    ],
)
def test_another_policy_has_another(fields, kinds):
    contexts, trust = Contexts(), generation()
    one = contexts.get(start(), chains("p256"), trust)
    assert contexts.get(start(**fields), chains(*kinds), trust) is not one


def test_a_new_trust_generation_displaces_the_contexts_of_the_old():
    contexts = Contexts()
    one = contexts.get(start(), chains("p256"), generation(number=1))
    assert contexts.get(start(), chains("p256"), generation(number=2)) is not one
    assert len(contexts._made) == 1


def test_the_cache_is_bounded_and_keeps_what_is_used():
    contexts, trust = Contexts(), generation()
    first = contexts.get(start(), (), trust)
    for number in range(KEPT + 5):
        groups = "X25519" + ":P-256" * (number % 2) + ":P-384" * (number // 2 % 2) + ":X448" * (number // 4)
        contexts.get(start(groups=groups[:1000]), (), trust)
        assert contexts.get(start(), (), trust) is first
    assert len(contexts._made) <= KEPT


@pytest.mark.parametrize("field", ["groups", "ciphers_tls12", "ciphersuites_tls13", "sigalgs"])
@pytest.mark.parametrize("text", ["nonsense", "\u20ac"])
def test_lists_that_openssl_does_not_take(field, text):
    with pytest.raises(PoolError) as caught:
        Contexts().get(start(**{field: text}), (), generation())
    assert caught.value.code is Code.SETTING_INVALID
    assert text in caught.value.detail


def test_a_chain_that_is_none():
    with pytest.raises(PoolError) as caught:
        Contexts().get(start(), ((KINDS["p256"], (b"garbage",)),), generation())
    assert caught.value.code is Code.RECORD_MALFORMED


def test_one_chain_for_each_slot_of_openssl():
    every = chains("p256", "p384", "rsa", "ed25519")
    assert fitting(every) == (every[0], every[2], every[3])
    assert fitting(chains("p384", "p256")) == chains("p384", "p256")[:1]


def test_what_is_turned_off():
    made = Contexts().get(start(), chains("p256"), generation())
    options = made.set_options(0) if not made._used else 0
    for option in (SSL.OP_NO_TICKET, SSL.OP_NO_COMPRESSION, SSL.OP_NO_RENEGOTIATION):
        assert options & option
    assert made.get_session_cache_mode() == SSL.SESS_CACHE_OFF


def test_anchors_are_named_to_clients_only_while_they_are_few():
    roots = [certs.make(f"Root {number}", ca=True, number=100) for number in range(NAMED_ANCHORS + 1)]
    few = handshake(remote_auth=RemoteAuth.REQUIRE, trust=generation(*roots[:3]))
    assert len(few._open().get_client_ca_list()) == 3
    many = handshake(remote_auth=RemoteAuth.REQUIRE, trust=generation(*roots))
    assert many._open().get_client_ca_list() == []
    others = handshake(remote_auth=RemoteAuth.REQUIRE, trust=generation(*roots[:3]), names_anchors=False)
    assert others._open().get_client_ca_list() == []  # other certificates may do, too
    ignoring = handshake(remote_auth=RemoteAuth.IGNORE, trust=generation(*roots[:3]))
    assert ignoring._open().get_client_ca_list() == []


def test_anchors_are_for_sides():
    made = generation(certs.root(), for_sides=1)
    made.add(2, certs.intermediate().der)
    assert len(made._for(Side.CLIENT)) == len(made._for(Side.SERVER)) == 1
    assert made.store(Side.CLIENT) is made.store(Side.CLIENT)
    assert made.store(Side.CLIENT) is not made.store(Side.SERVER)


# --- generations -----------------------------------------------------------------------------------------


def test_generations_are_filled_then_frozen():
    trust = Trust()
    with pytest.raises(ValueError, match="not known"):
        trust.use(1)
    trust.begin(1)
    assert trust.anchor(1, 3, certs.root().der)
    assert not trust.anchor(1, 3, b"garbage")
    used = trust.use(1)
    for number in (0, 1, 2):
        with pytest.raises(ValueError, match="not being filled"):
            trust.anchor(number, 3, certs.root().der)
    with pytest.raises(ValueError, match="begins twice"):
        trust.begin(1)
    trust.begin(2)
    with pytest.raises(ValueError, match="not known"):
        trust.use(1)
    assert trust.use(2) is not used
    assert len(used._for(Side.SERVER)) == 1  # those who hold it still can use it
