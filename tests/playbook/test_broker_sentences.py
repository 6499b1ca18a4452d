"""What an operator is told of a session in one sentence: each kind there is, word for word."""

import json

import pytest

from tests.playbook import choosing
from tests.playbook.broker import DEFAULTS, SERVER
from tlspool_broker import dryrun, explain
from tlspool_broker.session import State
from tlspool_common.appwire import Cmd, Flag
from tlspool_common.errors import Code
from tlspool_common.messages import Access, ClientHelloSeen, HandshakeDone, HandshakeFailed, RemoteShown, Side

WHO = "session 1 of postfix.service[815] for smtp as server localhost"
CLIENTS = "session 1 of postfix.service[815] for smtp as client"


def demand(world, text):
    world.records.change(expressions={("localhost", Side.SERVER): text})


def last(world):
    return world.core.explain.get(None).sentence


def in_handshake(world, app, **fields):
    session_id = world.starttls(app, **fields)
    world.say(session_id, ClientHelloSeen)
    return session_id


# --- accepted -------------------------------------------------------------------------------------------


def test_accepted_without_an_expression(world):
    world.relaying(world.app())
    assert last(world) == (
        f"{WHO} was accepted by generation 7 with john@example.com: its chain leads to a trust anchor and its name is "
        "right"
    )


def test_accepted_by_expressions(world):
    demand(world, "F")
    app = world.app()
    session_id = in_handshake(world, app)
    world.say(session_id, RemoteShown)
    world.say(session_id, HandshakeDone)
    world.answer(app, world.callback(app)[0])
    assert last(world) == f"{WHO} was accepted by generation 8 with john@example.com: every expression holds"


def test_accepted_without_asking_who_it_is(world):
    world.relaying(world.app(), flags=SERVER | Flag.IGNORE_REMOTEID)
    assert last(world) == f"{WHO} was accepted by generation 7 with a remote that need not say who it is"


@pytest.mark.parametrize(
    ("config", "said", "words"),
    [
        ("radius_authz 192.0.2.1\n", Access.ACCEPTED, "RADIUS lets it in, by 192.0.2.1:1812"),
        (
            "radius_authz 192.0.2.1\nradius lax unanswered=accept\n",
            Access.UNANSWERED,
            "no RADIUS server has answered, and the rule lets it in all the same",
        ),
        ("radius_acct 192.0.2.1\n", None, "RADIUS servers account for it"),
    ],
)
def test_accepted_by_radius(world, config, said, words):
    world.use_radius(config)
    app = world.app()
    session_id = in_handshake(world, app)
    world.say(session_id, HandshakeDone)
    if said is not None:
        world.radius_says(said)
    else:
        world.radius_keeps()
    world.answer(app, world.callback(app)[0])
    assert last(world).endswith(f"and its name is right; {words}")


# --- refused, in each state -----------------------------------------------------------------------------


def refused(world, state):
    """Bring a session to a state, and let it fail there."""
    app = world.app()
    if state is State.EXPECT_CHOICE:
        choosing.register(world)
        world.starttls_client(app)
        world.gone(app)
    elif state is State.EXPECT_WORKER:
        for worker in [worker.number for worker in world.core.workers]:
            world.worker_goes(worker)
        world.master_goes()
        world.starttls(app)
        world.later(5_000)
    elif state is State.EXPECT_KEYD:
        world.keyd_goes()
        world.starttls(app)
        world.later(5_000)
    elif state is State.EXPECT_LOCALID:
        world.starttls(app, flags=SERVER | Flag.LOCALID_CHECK)
        world.say(1, ClientHelloSeen)
        world.later(40_000)
    elif state is State.EXPECT_CLIENT_HELLO:
        world.starttls(app)
        world.say(1, HandshakeFailed, detail="")
    elif state is State.EXPECT_HANDSHAKE:
        in_handshake(world, app)
        world.say(1, HandshakeFailed, code=int(Code.EXPIRED), detail="the leaf: certificate has expired")
    elif state is State.EXPECT_ADVICE:
        demand(world, "R")
        in_handshake(world, app)
        world.say(1, RemoteShown)
        world.gone(app)
    elif state is State.EXPECT_ALERT:
        demand(world, "E")
        in_handshake(world, app)
        world.say(1, RemoteShown)
        world.say(1, HandshakeFailed, code=int(Code.WRONG_PURPOSE), detail="")
    elif state is State.EXPECT_RADIUS:
        world.use_radius()
        in_handshake(world, app)
        world.say(1, HandshakeDone)
        world.radius_says(Access.REJECTED, message="not here")
    elif state is State.EXPECT_PLAINTEXT:
        in_handshake(world, app)
        world.say(1, HandshakeDone)
        world.answer(app, world.callback(app)[0], cmd=Cmd.ERROR, passed=None)


GONE = "[207] the application closed its connection: closed it"
SENTENCES = {
    State.EXPECT_CHOICE: f"while its identity was being chosen: {GONE}",
    State.EXPECT_LOCALID: "when the application was asked for its identity: [307] ",
    State.EXPECT_KEYD: "while it waited for the key daemon: [601] ",
    State.EXPECT_WORKER: "while it waited for a worker: [602] ",
    State.EXPECT_CLIENT_HELLO: "before the remote had said what it wants: [303] the remote closed the connection "
    "during the handshake",
    State.EXPECT_HANDSHAKE: "in the handshake: [404] a certificate of the remote has expired: the leaf: certificate "
    "has expired",
    State.EXPECT_ADVICE: f"in the handshake, while others were asked about the certificate: {GONE}",
    State.EXPECT_ALERT: "in the handshake: [407] the remote's certificate is not for this role: localid localhost: E "
    "is false: extended key usage clientAuth (for smtp) is not in the certificate",
    State.EXPECT_RADIUS: "after the handshake, when RADIUS was asked: [801] the RADIUS server refuses the remote: not "
    "here",
    State.EXPECT_PLAINTEXT: "after the handshake: [109] ",
}


@pytest.mark.parametrize("state", SENTENCES, ids=lambda state: state.name)
def test_refused(world, state):
    refused(world, state)
    generation = world.records.generation
    found = last(world)
    who = CLIENTS if state is State.EXPECT_CHOICE else WHO
    begin = f"{who} was refused by generation {generation} {SENTENCES[state]}"
    assert found.startswith(begin)
    assert "expect" not in found.lower().replace("is expected", "")
    assert world.core.explain.get(None).state == state.name.lower()  # programs still get that


def test_every_state_of_setting_up_has_words():
    over = {State.RELAYING, State.EXPECT_END, State.OVER}
    assert set(explain._WHEN) == set(State) - over
    assert set(SENTENCES) == set(State) - over


def test_refused_before_it_was_a_session(world):
    app = world.app()
    world.starttls(app, localid="")
    assert last(world).startswith(
        "a request of postfix.service[815] for smtp as server was refused before the databases were asked: [111] "
    )
    world.starttls(app, localid="nobody.example")
    assert last(world).startswith(
        "a request of postfix.service[815] for smtp as server nobody.example was refused by generation 7: [201] "
    )
    world.starttls(app, flags=0)
    assert last(world).startswith("a request of postfix.service[815] for smtp as localhost was refused before")


def test_the_words_of_a_client(world):
    world.starttls_client(world.app())
    world.say(1, HandshakeFailed, code=int(Code.CHAIN_UNTRUSTED), detail="")
    assert last(world).startswith(f"{CLIENTS} me.example was refused by generation 7 in the handshake: [402] ")


# --- what would happen ----------------------------------------------------------------------------------


def dry(world, **fields):
    fields = {"side": "server", "service": "smtp", "localid": "localhost", **fields}
    if "remote" not in fields:
        shown = RemoteShown(session_id=0, **{**DEFAULTS[RemoteShown], "tls_version": 0, "cipher": "", "group": ""})
        fields["remote"] = json.loads(json.dumps(explain.shown_json(shown)))
    return dryrun.run(world.core.judging, world.core.snapshots, fields, 1.0)


SUCH = "such a session for smtp as server localhost would be"


def test_what_would_be(world):
    assert dry(world).sentence == f"{SUCH} accepted by generation 7 with john@example.com: every expression holds"
    found = dry(world, remoteid="other.example").sentence
    assert found.startswith(f"{SUCH} refused by generation 7: [406] ")
    demand(world, "R")
    assert dry(world).sentence == (
        f"whether {SUCH} accepted by generation 8 cannot be told yet: localid localhost: R is not known: no revocation "
        "list has been asked yet"
    )


HANDSHAKE = {"tls_version": 0x0303, "cipher": "ECDHE-ECDSA-AES256-GCM-SHA384", "group": "x25519"}


@pytest.mark.parametrize(
    ("letter", "fields", "outcome", "why"),
    [
        ("F", {}, "undecided", "version and cipher are not known of the handshake"),
        ("f", {}, "undecided", "version and cipher are not known of the handshake"),
        ("F", {"tls_version": 0x0303}, "undecided", "version and cipher are not known of the handshake"),
        ("F", {"tls_version": 0x0304}, "accepted", "always in TLS 1.3"),
        ("F", HANDSHAKE, "accepted", "the cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("A", {}, "undecided", "the TLS version is not known of the handshake"),
        ("A", {"tls_version": 0x0304}, "accepted", "certificates are encrypted in TLS 1.3"),
        ("A", HANDSHAKE, "refused", "certificates are sent in the clear before TLS 1.3"),
        ("q", {}, "undecided", "the key exchange is not known of the handshake"),
        ("q", {"tls_version": 0x0304}, "undecided", "the key exchange is not known of the handshake"),
        ("q", {"group": "X25519MLKEM768"}, "accepted", "the key exchange is X25519MLKEM768"),
        ("q", HANDSHAKE, "refused", "the key exchange is x25519"),
        ("Q", {}, "refused", ""),
    ],
)
def test_what_depends_on_a_handshake(world, letter, fields, outcome, why):
    """Nothing is assumed of a handshake that there was not; the table says what is not known."""
    demand(world, letter)
    found = dry(world, **fields).as_json()
    assert found["outcome"] == outcome
    [line] = [line for line in found["trace"] if (line["kind"], line["name"]) == ("predicate", letter)]
    assert why in line["why"]
    assert line["value"] is {"accepted": True, "refused": False, "undecided": None}[outcome]
    assert found["missing"] == (letter if outcome == "undecided" else "")


def test_and_of_a_remote_that_shows_nothing(world):
    demand(world, "A")
    fields = {"remote": None, "flags": ["request_remoteid"]}
    assert dry(world, **fields).as_json()["outcome"] == "undecided"
    assert dry(world, **fields, tls_version=0x0304).as_json()["outcome"] == "accepted"
