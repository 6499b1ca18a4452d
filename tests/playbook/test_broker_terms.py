"""The terms of a server's handshake follow from who it is, and that may be known only after the ClientHello."""

import pytest

from tests.playbook.broker import SERVER, World, anchor, credential
from tlspool_common.appwire import Cmd, Flag
from tlspool_common.errors import Code
from tlspool_common.messages import ClientHelloSeen, EndSession, Proceed, Side, StartSession, UseCredential
from tlspool_common.policies import POLICIES

TLS12, TLS13 = 0x0303, 0x0304
ASK = SERVER | Flag.LOCALID_CHECK
DEFAULT = "default_localid b.example\n"
PARAMETERS = ("tls_min", "tls_max", "groups", "ciphers_tls12", "ciphersuites_tls13", "sigalgs")


def make(config=DEFAULT, **changes):
    world = World(config)
    for name in ("a.example", "b.example"):
        world.records.identities[name, Side.SERVER] = [credential(name)]
    world.records.policies = {"localid:a.example": "modern", "localid:b.example": "fips-like"}
    for name, value in changes.items():
        setattr(world.records, name, value)
    return world


@pytest.fixture
def world(no_leaks):
    made = make()
    yield made
    made.close()


def proceeds(world):
    [message] = world.to_worker(Proceed)
    return message


def is_under(message, name):
    policy = POLICIES[name]
    return all(getattr(message, each) == getattr(policy, each) for each in PARAMETERS)


@pytest.mark.parametrize(
    ("sni", "name"), [("a.example", "modern"), ("b.example", "fips-like"), ("", "fips-like")], ids=str
)
def test_the_policy_of_whom_the_client_asks_for(world, sni, name):
    session_id = world.starttls(world.app(), localid="")
    [start] = world.to_worker(StartSession)
    assert is_under(start, "intermediate")
    world.say(session_id, ClientHelloSeen, sni=sni)
    proceed = proceeds(world)
    assert is_under(proceed, name)
    assert proceed.names_anchors


def test_and_of_whom_the_application_says(world):
    app = world.app()
    session_id = world.starttls(app, localid="", flags=ASK)
    world.say(session_id, ClientHelloSeen, sni="a.example")
    frame, _ = world.callback(app, Cmd.STARTTLS_LOCALID)
    world.answer(app, frame, localid="b.example", passed=None)
    assert [one.chain for one in world.to_worker(UseCredential)] == [(b"b.example",)]
    assert is_under(proceeds(world), "fips-like")


@pytest.mark.parametrize(
    ("policies", "fields"),
    [
        ({}, {"localid": ""}),
        ({"host": "modern", "localid:a.example": "modern"}, {"localid": ""}),
        ({"localid:a.example": "modern"}, {"localid": "a.example"}),
    ],
    ids=["none is assigned", "it is the same one", "it was known"],
)
def test_nothing_is_said_twice(no_leaks, policies, fields):
    world = make(policies=policies)
    session_id = world.starttls(world.app(), **fields)
    world.say(session_id, ClientHelloSeen, sni="a.example")
    assert proceeds(world) == Proceed(session_id=session_id)
    world.close()


def test_a_client_has_been_told_everything_at_its_start(world):
    world.records.policies = {"host": "modern"}
    session_id = world.starttls_client(world.app())
    assert is_under(world.to_worker(StartSession)[0], "modern")
    assert proceeds(world) == Proceed(session_id=session_id)


def test_the_two_roles_of_a_peer(world):
    """A client of the host's policy; the server that it turns out to be has one of its own."""
    world.records.identities["me.example", Side.SERVER] = [credential("me.example as server")]
    world.records.policies = {"host": "intermediate", "localid:a.example": "modern"}
    world.records.disclosures["www.example.com"] = ["me.example"]
    session_id = world.starttls(world.app(), flags=0xF, localid="", remoteid="www.example.com")
    assert is_under(world.to_worker(StartSession)[0], "intermediate")
    assert proceeds(world) == Proceed(session_id=session_id)
    world.say(session_id, ClientHelloSeen, sni="a.example")
    assert is_under(proceeds(world), "modern")


def test_they_are_not_forgotten_while_keyd_is_away(world):
    session_id = world.starttls(world.app(), localid="")
    world.keyd_goes()
    world.say(session_id, ClientHelloSeen, sni="a.example")
    assert world.state(session_id) == "EXPECT_KEYD"
    assert not world.to_worker()
    world.keyd_comes()
    assert is_under(proceeds(world), "modern")


@pytest.mark.parametrize(
    ("config", "policies", "code"),
    [
        (DEFAULT, {"localid:a.example": "best"}, Code.POLICY_UNKNOWN),
        (DEFAULT + "tls_max_version 1.2\n", {"localid:a.example": "modern"}, Code.POLICY_EMPTY),
    ],
)
def test_an_identity_under_a_policy_that_cannot_be(no_leaks, config, policies, code):
    """Nobody but that identity is concerned; the remote hears that it is not its fault."""
    world = make(config, policies=policies)
    app = world.app()
    first, second = (world.starttls(app, localid="", reqid=reqid) for reqid in (1, 2))
    world.say(first, ClientHelloSeen, sni="a.example")
    assert world.error(app)[1] == code
    assert world.to_worker() == [EndSession(session_id=first, alert=80)]
    world.say(second, ClientHelloSeen, sni="b.example")
    assert proceeds(world) == Proceed(session_id=second)
    world.close()


# --- whom a server says it trusts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "names_anchors"),
    [
        ("", True),
        ("1", True),
        ("F", True),
        ("T", True),
        ("TR&", True),
        ("tT&", True),
        ("t", False),
        ("P", False),
        ("p", False),
        ("TP|", False),
        ("Tts?", False),
        ("0", True),
        ("nonsense", True),
    ],
)
def test_anchors_are_named_where_nothing_else_will_do(no_leaks, expression, names_anchors):
    world = make(policies={}, expressions={("a.example", Side.SERVER): expression})
    world.starttls(world.app(), localid="a.example")
    assert world.to_worker(StartSession)[0].names_anchors == names_anchors
    session_id = world.starttls(world.app(), localid="")
    assert world.to_worker(StartSession)[0].names_anchors
    world.say(session_id, ClientHelloSeen, sni="a.example")
    proceed = proceeds(world)
    if names_anchors:
        assert proceed == Proceed(session_id=session_id)
    else:
        assert (proceed.names_anchors, is_under(proceed, "intermediate")) == (False, True)
    world.close()


def test_another_expression_may_want_a_chain_all_the_same(no_leaks):
    world = make(DEFAULT + "validation T\n", policies={}, expressions={("a.example", Side.SERVER): "t"})
    world.starttls(world.app(), localid="a.example")
    assert world.to_worker(StartSession)[0].names_anchors
    world.close()


def test_what_an_anchor_says_is_for_chains_that_lead_there(no_leaks):
    world = make(policies={}, trusted=[anchor(valexp="t")])
    world.starttls(world.app(), localid="a.example")
    [start] = world.to_worker(StartSession)
    assert (start.asks, start.names_anchors) == (True, True)
    world.close()
