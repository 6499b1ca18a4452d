"""Who a server is: what the application says, what its client asks for, and the two settings about that."""

import pytest

from tests.playbook.broker import CLIENT, SERVER, World, credential
from tlspool_common.appwire import Cmd, Flag
from tlspool_common.errors import Code
from tlspool_common.messages import ClientHelloSeen, EndSession, HandshakeDone, Side, UseCredential

DEFAULT = "default_localid fallback.example\n"
LENIENT = "unknown_sni default\n"


def make(config):
    world = World(config)
    for name in ("www.example.com", "fallback.example"):
        world.records.identities[name, Side.SERVER] = [credential(name)]
    return world


def becomes(world, app, localid, sni):
    """Begin a server's session; return whose credential it gets, or with which code and alert it fails."""
    session_id = world.starttls(app, localid=localid)
    if session_id is None:
        return world.error(app)[1]
    world.say(session_id, ClientHelloSeen, sni=sni)
    used = world.to_worker(UseCredential)
    if not used:
        [end] = world.to_worker(EndSession)
        return world.error(app)[1], end.alert
    world.say(session_id, HandshakeDone, sni=sni)
    frame, told = world.callback(app)
    assert told.localid == used[0].chain[0].decode()
    world.answer(app, frame)
    return told.localid


UNRECOGNIZED_NAME = 112


@pytest.mark.parametrize(
    ("config", "localid", "sni", "outcome"),
    [
        # the application says who it is
        ("", "localhost", "localhost", "localhost"),
        ("", "localhost", "", "localhost"),
        ("", "localhost", "www.example.com", (Code.SNI_MISMATCH, UNRECOGNIZED_NAME)),
        (DEFAULT, "localhost", "www.example.com", (Code.SNI_MISMATCH, UNRECOGNIZED_NAME)),
        (DEFAULT + LENIENT, "localhost", "www.example.com", "localhost"),
        (DEFAULT + LENIENT, "localhost", "nobody.example", "localhost"),
        # the application does not say
        ("", "", "www.example.com", Code.LOCALID_MISSING),
        (DEFAULT, "", "www.example.com", "www.example.com"),
        (DEFAULT, "", "WWW.Example.com", "www.example.com"),
        (DEFAULT, "", "", "fallback.example"),
        (DEFAULT, "", "nobody.example", (Code.LOCALID_UNKNOWN, UNRECOGNIZED_NAME)),
        (DEFAULT, "", "a..b", (Code.IDENTITY_MALFORMED, 80)),
        (DEFAULT + LENIENT, "", "nobody.example", "fallback.example"),
        (DEFAULT + LENIENT, "", "a..b", "fallback.example"),
        ("default_localid gone.example\n", "", "", (Code.LOCALID_UNKNOWN, UNRECOGNIZED_NAME)),
    ],
)
def test_who_a_server_is(no_leaks, config, localid, sni, outcome):
    world = make(config)
    assert becomes(world, world.app(), localid, sni) == outcome
    world.close()


def test_names_that_are_not_for_the_caller(no_leaks):
    """A client cannot make a program be what its access rules keep from it."""
    world = make(DEFAULT + "access own allow localid=fallback.example\n")
    app = world.app()
    assert becomes(world, app, "", "www.example.com") == (Code.ACCESS_DENIED, UNRECOGNIZED_NAME)
    assert becomes(world, app, "", "") == "fallback.example"
    world.close()


def test_a_wildcard_is_no_name(no_leaks):
    """Identities are looked up as they are: there is no walk to more general ones for servers."""
    world = make(DEFAULT)
    world.records.identities["*.example.org", Side.SERVER] = [credential("*.example.org")]
    assert becomes(world, world.app(), "", "a.example.org") == (Code.LOCALID_UNKNOWN, UNRECOGNIZED_NAME)
    world.close()


def test_the_default_is_proposed_to_an_application_that_wants_to_be_asked(no_leaks):
    world = make(DEFAULT)
    app = world.app()
    session_id = world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK, localid="")
    world.say(session_id, ClientHelloSeen, sni="")
    frame, told = world.callback(app, Cmd.STARTTLS_LOCALID)
    assert told.localid == "fallback.example"
    world.answer(app, frame, passed=None)
    assert world.to_worker(UseCredential)[0].chain == (b"fallback.example",)
    world.close()


def test_a_peer_that_turns_out_to_be_the_server(no_leaks):
    world = make(DEFAULT)
    world.records.disclosures["www.example.com"] = ["me.example"]
    app = world.app()
    session_id = world.starttls(app, flags=CLIENT | SERVER, localid="", remoteid="www.example.com")
    world.say(session_id, ClientHelloSeen, sni="")
    assert world.to_worker(UseCredential)[0].chain == (b"fallback.example",)
    world.close()


def test_what_is_judged_is_who_it_became(no_leaks):
    world = make(DEFAULT)
    app = world.app()
    world.records.change(expressions={("www.example.com", Side.SERVER): "F"})
    session_id = world.starttls(app, localid="")
    assert world.session(session_id).asks.asks
    world.say(session_id, ClientHelloSeen, sni="")
    assert str(world.session(session_id).plan.localid) == "fallback.example"
    world.close()
