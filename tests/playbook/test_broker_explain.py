"""Why sessions were accepted and refused, and whether one would be."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.playbook.broker import DEFAULTS, World, anchor, credential
from tlspool_broker import dryrun, explain
from tlspool_broker.control import Control
from tlspool_broker.trustdata import Pin
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.messages import ClientHelloSeen, HandshakeDone, HandshakeFailed, RemoteShown, Side


def last(world):
    return world.core.explain.get(None)


# --- what happened --------------------------------------------------------------------------------------


def test_nothing_has_happened(world):
    with pytest.raises(PoolError) as caught:
        last(world)
    assert caught.value.code is Code.SESSION_UNKNOWN
    assert world.core.explain.listed() == []


def test_a_session_that_was_not_judged(world):
    session_id = world.relaying(world.app())
    account = last(world)
    assert (account.session, account.accepted, account.judged, account.generation) == (session_id, True, False, 7)
    assert account.sentence == (
        f"session {session_id} of postfix.service[815] for smtp as server localhost was accepted by generation 7 with "
        "john@example.com: its chain leads to a trust anchor and its name is right"
    )
    assert account.as_json()["trace"] == []


def test_a_session_that_failed_otherwise(world):
    session_id = world.starttls(world.app())
    world.say(session_id, HandshakeFailed, code=int(Code.EXPIRED), detail="certificate 1 has expired")
    found = last(world).as_json()
    assert (found["outcome"], found["code"], found["field"]) == ("refused", Code.EXPIRED, "validity.notAfter")
    assert (found["state"], found["rule"], found["detail"]) == (
        "expect_client_hello",
        "expired",
        "certificate 1 has expired",
    )
    assert found["remedy"]


@pytest.mark.parametrize(
    ("fields", "code", "generation"),
    [
        ({"localid": "nobody.example"}, Code.LOCALID_UNKNOWN, 7),
        ({"localid": ""}, Code.LOCALID_MISSING, 0),
        ({"localid": "@"}, Code.IDENTITY_MALFORMED, 0),
        ({"flags": 0}, Code.ROLE_IMPOSSIBLE, 0),
        ({"passed": None}, Code.CIPHER_FD_MISSING, 0),
    ],
)
def test_what_did_not_become_a_session(world, fields, code, generation):
    app = world.app()
    world.starttls(app, **fields)
    account = last(world)
    assert (account.session, account.code, account.generation, account.state) == (0, code, generation, "starttls")
    words = f"by generation {generation}" if generation else "before the databases were asked"
    assert words in account.sentence
    json.dumps(account.as_json())


def test_the_last_thousand(world):
    app = world.app()
    for _ in range(explain.KEPT + 5):
        world.starttls(app, localid="nobody.example")
    assert len(world.core.explain) == explain.KEPT
    assert len(world.core.explain.listed(5)) == 5
    session_id = world.relaying(app)
    rows = world.core.explain.listed()
    assert (len(rows), rows[0]["session"]) == (explain.LISTED, session_id)
    with pytest.raises(PoolError):
        world.core.explain.get(session_id + 1)


def test_what_is_kept_has_no_certificates(world):
    world.records.change(expressions={("localhost", Side.SERVER): "F"})
    session_id = world.starttls(world.app())
    world.say(session_id, ClientHelloSeen)
    world.say(session_id, RemoteShown, chain=(b"x" * 16384,))
    world.say(session_id, HandshakeDone, group="x")
    world.gone(world.session(session_id).exchange.connection.connection_id)
    assert last(world).shown.chain == ()
    assert "chain" not in last(world).as_json()["remote"]


# --- what would happen ----------------------------------------------------------------------------------


def remote(**fields):
    """Return the remote of the playbooks as a program describes it."""
    message = RemoteShown(session_id=0, **{**DEFAULTS[RemoteShown], **fields})
    return json.loads(json.dumps(explain.shown_json(message)))


def dry(world, **fields):
    fields = {"side": "server", "service": "smtp", "localid": "localhost", "remote": remote(), **fields}
    return dryrun.run(world.core.judging, world.core.snapshots, fields, 1.0)


def test_a_description_comes_through_whole():
    whole = RemoteShown(session_id=0, **{**DEFAULTS[RemoteShown], "chain": ()})
    assert explain.shown_untrusted(remote(chain=(b"left out",))) == whole


def test_it_would_be_accepted(world):
    account = dry(world)
    assert account.accepted
    assert account.remoteid == "john@example.com"
    assert account.sentence.startswith("such a session for smtp as server localhost would be accepted by generation 7")
    assert len(world.core.explain) == 0
    assert len(world.core.sessions) == 0


@pytest.mark.parametrize(
    ("change", "fields", "outcome", "code", "rule"),
    [
        ({}, {"remoteid": "www.example.org"}, "refused", Code.NAME_MISMATCH, "baseline"),
        ({}, {"remoteid": "joe@www.example.com"}, "refused", Code.NAME_MISMATCH, "baseline"),
        ({}, {"remoteid": "joe@www.example.com", "flags": ["domain_represents_user"]}, "accepted", 0, ""),
        ({}, {"remote": None}, "refused", Code.CERTIFICATE_MISSING, "baseline"),
        ({}, {"remote": None, "flags": ["request_remoteid"]}, "accepted", 0, ""),
        ({}, {"remote": None, "flags": ["ignore_remoteid"]}, "accepted", 0, ""),
        ({}, {"localid": "nobody.example"}, "refused", Code.LOCALID_UNKNOWN, "localid_unknown"),
        ({"expressions": {("localhost", Side.SERVER): "C"}}, {}, "refused", 411, "localid localhost"),
        ({"expressions": {("localhost", Side.SERVER): "R"}}, {}, "undecided", Code.VALIDATION_UNDECIDED, None),
        ({"expressions": {("localhost", Side.SERVER): "R"}}, {"findings": {"crl": "good"}}, "accepted", 0, ""),
        ({"expressions": {("localhost", Side.SERVER): "o"}}, {"findings": {"ocsp": "revoked"}}, "refused", 409, None),
        ({"trusted": [anchor(valexp="q")]}, {"remote": remote(group="x25519")}, "refused", 415, None),
        ({"stored_pins": {"john@example.com": [Pin(b"x" * 32, remote="john@example.com")]},
          "expressions": {("localhost", Side.SERVER): "p"}}, {}, "refused", Code.PIN_UNMATCHED, "localid localhost"),
    ],
)  # fmt: skip
def test_whether_it_would(world, change, fields, outcome, code, rule):
    world.records.change(trust=True, **change)
    found = dry(world, **fields).as_json()
    assert (found["outcome"], found["code"]) == (outcome, code)
    assert rule is None or found["rule"] == rule
    assert found["generation"] == 8
    assert not world.records.pinned


def test_a_client_that_may_not_say_who_it_is(world):
    found = dry(world, side="client", localid="other.example", remoteid="www.example.com").as_json()
    assert (found["code"], found["outcome"]) == (Code.LOCALID_NOT_DISCLOSED, "refused")
    assert found["trace"]  # and what would have become of the remote is told, too


def test_a_client_without_a_remote(world):
    assert dry(world, side="client", localid="").code is Code.REMOTEID_MISSING


def test_an_identity_that_the_databases_do_not_have_yet(world):
    world.records.identities["new.example", Side.SERVER] = [credential("new.example")]
    assert dry(world, localid="new.example").accepted


@pytest.mark.parametrize(
    "fields",
    [
        {"side": "both"},
        {"side": ["server"]},
        {"flags": "request_remoteid"},
        {"flags": ["fork"]},
        {"flags": [1]},
        {"localid": 7},
        {"localid": "x" * 128},
        {"localid": "a\nb"},
        {"service": "\ud800"},
        {"remoteid": "@"},
        {"remote": []},
        {"remote": {"nonsense": 1}},
        {"remote": {"chain": []}},
        {"remote": {"tls_version": -1}},
        {"remote": {"tls_version": 1 << 16}},
        {"remote": {"tls_version": True}},
        {"remote": {"names": "x"}},
        {"remote": {"names": ["x" * 1000]}},
        {"remote": {"names": ["x"] * 1000}},
        {"remote": {"names": ["\ud800"]}},
        {"remote": {"leaf_sha256": "xy"}},
        {"remote": {"leaf_sha256": "00" * 33}},
        {"remote": {"stapled": "maybe"}},
        {"remote": {"subject": None}},
        {"findings": []},
        {"findings": {"crl": 1}},
        {"findings": {"crl": "perhaps"}},
        {"remote": None, "tls_version": "1.3"},
        {"remote": None, "group": 1},
    ],
)
def test_questions_that_are_none(world, fields):
    with pytest.raises(PoolError) as caught:
        dry(world, **fields)
    assert caught.value.code in (Code.FIELD_MALFORMED, Code.IDENTITY_MALFORMED)
    assert caught.value.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
QUIET = World(workers=None, keyd=False)
WORDS = {"side": ["server", "client"], "localid": ["localhost", ""], "remoteid": ["www.example.com", ""]}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **{name: st.sampled_from(words) | JSON for name, words in WORDS.items()},
            "service": JSON,
            "flags": JSON,
            "remote": JSON | st.dictionaries(st.sampled_from(explain._TOLD), JSON, max_size=5),
            "findings": JSON,
            "tls_version": JSON,
        },
    )
)
def test_anything_is_answered_or_refused(fields):
    """Invariant: whatever is asked, there is an account that programs can read, or one PoolError."""
    try:
        json.dumps(dryrun.run(QUIET.core.judging, QUIET.core.snapshots, fields, 1.0).as_json()).encode()
    except PoolError as error:
        assert error.code // 100 == 1


def test_the_operator_asks(world):
    control = Control(world.core, world.records, world.settings, world.happen, Log("test", "error"))
    with pytest.raises(PoolError):
        control.handle({"cmd": "explain", "args": []})
    session_id = world.relaying(world.app())
    for request in ({"args": []}, {"args": ["last"]}, {"args": [str(session_id)]}, {"session": session_id}):
        assert control.handle({"cmd": "explain", **request})["session"] == session_id
    assert len(control.handle({"cmd": "explain", "args": ["list", "1"]})["accounts"]) == 1
    for wrong in (["x"], ["-1"], ["list", "x"], ["99"]):
        with pytest.raises(PoolError):
            control.handle({"cmd": "explain", "args": wrong})
    answer = control.handle({"cmd": "explain.dry", "side": "server", "localid": "localhost", "remote": remote()})
    assert answer["outcome"] == "accepted"
    assert control.handle({"cmd": "status"})["helper"]["state"] == "absent"
