"""A worker that was taken over lies about the remotes of its sessions.

It can say whatever it likes about those; that is known (docs/worker.md).  It must not get at other sessions, go back
on what it said, slip past the judgement by saying nothing, fill memory, or write lines that others take for facts.
"""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.playbook.broker import DEFAULTS
from tests.playbook.test_broker_judging import LEAF, accepted, begun, demand, shows
from tlspool_admin.commands.explain import account as for_people
from tlspool_broker.events import CloseWorker
from tlspool_broker.explain import KEPT
from tlspool_common import limits
from tlspool_common.appwire import Flag
from tlspool_common.codec import BadFrame, decode_untrusted, encode
from tlspool_common.errors import Code
from tlspool_common.log import line
from tlspool_common.messages import (
    BY_MESSAGE,
    AskRevocation,
    HandshakeDone,
    HandshakeFailed,
    RemoteShown,
    Verdict,
)

SERVER = 0x6


def condemned(world, session_id):
    """The worker is not believed any more: its channel is closed, and its sessions are over."""
    assert world.of(CloseWorker)
    assert world.state(session_id) == "OVER"


# --- what it says about its own ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "later",
    [
        {"remote_sha256": b"x" * 32},
        {"remote_sha256": b""},
        {"remote_names": ("dns:bank.example",)},
        {"remote_names": ("dns:www.example.com", "email:john@example.com", "dns:bank.example")},
        {"remote_names": ()},
    ],
)
def test_it_goes_back_on_what_it_said(world, app, later):
    demand(world, "p")
    session_id = begun(world, app)
    assert shows(world, session_id).code == 0
    world.say(session_id, HandshakeDone, **later)
    condemned(world, session_id)
    assert not world.records.pinned


@pytest.mark.parametrize("flags", [SERVER, SERVER | Flag.REQUEST_REMOTEID])
def test_it_shows_nothing_and_says_that_all_is_well(world, app, flags):
    """Nothing but the end would keep the expressions from being asked."""
    demand(world, "P")
    session_id = begun(world, app, flags=int(flags))
    world.say(session_id, HandshakeDone, remote_sha256=b"", remote_names=())
    condemned(world, session_id)
    session_id = begun(world, app, flags=int(flags))
    world.say(session_id, HandshakeDone, remote_sha256=b"", remote_names=("dns:bank.example",), remote_verified=False)
    condemned(world, session_id)


@pytest.mark.parametrize("anchor", [b"", bytes(32), b"x" * 32])
def test_it_says_that_all_is_well_by_no_anchor(world, app, anchor):
    """The expressions of anchors are not passed by naming none."""
    demand(world, "T")
    session_id = begun(world, app)
    verdict = shows(world, session_id, anchor_sha256=anchor)
    assert verdict.code == Code.VALIDATION_FAILED
    assert "is no anchor" in verdict.detail


def test_it_says_it_twice(world, app):
    demand(world, "T")
    session_id = begun(world, app)
    assert shows(world, session_id).code == 0
    world.say(session_id, RemoteShown)
    condemned(world, session_id)


def test_it_is_refused_and_goes_on(world, app):
    demand(world, "R")
    session_id = begun(world, app)
    shows(world, session_id, fault=int(Code.EXPIRED))
    world.say(session_id, HandshakeDone)
    condemned(world, session_id)


def test_it_finishes_while_the_network_is_asked(world, app):
    demand(world, "R")
    session_id = begun(world, app)
    world.say(session_id, RemoteShown)
    assert world.state(session_id) == "EXPECT_ADVICE"
    world.say(session_id, HandshakeDone)
    condemned(world, session_id)


def test_nobody_has_asked(world, app):
    session_id = begun(world, app)
    world.say(session_id, RemoteShown)
    condemned(world, session_id)


# --- what it says about others' ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RemoteShown, HandshakeDone, HandshakeFailed])
def test_about_a_session_of_another_worker(world, app, kind):
    demand(world, "p")
    mine, theirs = begun(world, app, reqid=1), begun(world, app, reqid=2)
    worker = world.session(theirs).worker.number
    other = next(one.number for one in world.core.workers if one.number != worker)
    world.say(theirs, kind, worker=other)
    assert world.of(CloseWorker) == [CloseWorker(other)]
    assert world.state(theirs) == "EXPECT_HANDSHAKE"
    assert not world.session(theirs).shown
    assert not world.to_worker(Verdict)
    assert mine != theirs


@pytest.mark.parametrize("session_id", [0, 10**9, 2**64 - 1])
def test_about_a_session_that_is_none(world, app, session_id):
    demand(world, "p")
    mine = begun(world, app)
    worker = world.session(mine).worker.number
    world.say(session_id, RemoteShown, worker=worker)
    condemned(world, mine)


# --- memory ------------------------------------------------------------------------------------------------


LARGEST = {
    "chain": (b"c" * 12_000,) * limits.CHAIN_CERTIFICATES,
    "names": (f"dns:{'n' * (limits.IDENTITY_NAME_B - 4)}",) * limits.IDENTITY_NAMES,
    "detail": "d" * limits.PROSE_B,
    "subject": "s" * limits.SUBJECT_B,
    "usages": ("1." * 30,) * limits.USAGES,
    "extensions": ("1." * 30,) * limits.USAGES,
    "strengths": ("x" * limits.CERTIFICATE_LINE_B,) * limits.CHAIN_CERTIFICATES,
    "links": ("y" * limits.CERTIFICATE_LINE_B,) * limits.CHAIN_CERTIFICATES,
    "crl_urls": ("http://" + "u" * 500,) * limits.URLS,
    "ocsp_urls": ("http://" + "u" * 500,) * limits.URLS,
    "stapled_detail": "e" * limits.PROSE_B,
}


def weight(value) -> int:
    """Return about how many bytes of text there are in it, however deep."""
    return len(json.dumps(value, default=repr))


def test_a_session_that_relays_keeps_nothing_of_it(world, app):
    demand(world, "T")
    session_id = begun(world, app, remoteid="")
    assert shows(world, session_id, **LARGEST).code == 0
    assert world.session(session_id).shown.chain == ()
    accepted(world, app, session_id, remote_names=LARGEST["names"])
    session = world.session(session_id)
    assert (session.shown, session.judgement, session.advice) == (None, None, None)


def test_what_can_be_explained_is_bounded(world, app):
    """The largest lies, once more than are kept: some ten KiB each, and not one certificate."""
    demand(world, "TLEUPRO&&&&&&")
    session_id = begun(world, app, remoteid="")
    assert shows(world, session_id, **LARGEST).code != 0
    world.say(session_id, HandshakeFailed, code=int(Code.EXPIRED), detail="x" * limits.PROSE_B)
    kept = world.core.explain.get(session_id)
    assert kept.shown.chain == ()
    assert weight(kept.as_json()) < 50_000
    for number in range(KEPT + 10):
        world.core.explain._accounts.append(replace(kept, session=number))
    assert len(world.core.explain) == KEPT


# --- words ---------------------------------------------------------------------------------------------------

NASTY = '\x1b]0;owned\x07\x1b[31m\r\nevent=session.start verified=yes \u202e\u2066\x9b\0\u2028 "quoted" x=y'

_TEXT = {
    field.name: NASTY
    for field in fields(RemoteShown)
    if isinstance(DEFAULTS[RemoteShown].get(field.name), str) and field.name not in ("cipher", "group")
}
_TEXTS = {
    field.name: (NASTY[:60],)
    for field in fields(RemoteShown)
    if isinstance(DEFAULTS[RemoteShown].get(field.name), tuple) and field.name != "chain"
}


@pytest.mark.parametrize("text", ["T", "I", "LEe&&", "P", "p", "rRoO&&&", "U", "Qq&", "1"])
@pytest.mark.parametrize("fault", [0, 405, 9999, 65535, int(Code.REVOKED)])
def test_words_that_are_no_words(world, app, capsys, text, fault):
    demand(world, text)
    world.records.change(judges=frozenset({1, 2}))
    session_id = begun(world, app)
    shows(world, session_id, fault=fault, group=NASTY[:60], cipher=NASTY[:60], **_TEXT, **_TEXTS)
    if world.state(session_id) == "EXPECT_ADVICE":
        world.later(60_000)
    if world.state(session_id) == "EXPECT_ALERT":
        world.say(session_id, HandshakeFailed, code=fault, detail=NASTY)
    answer = world.core.explain.get(session_id).as_json() if len(world.core.explain) else {}
    json.dumps(answer)
    people = for_people(json.loads(json.dumps(answer)))
    assert all(one.isprintable() for one in people.split("\n"))
    assert "event=session.start" not in [one[:19] for one in people.split("\n")]
    for note in world.notes:
        written = line(note.event, note.fields)
        assert written.isprintable()
        assert written.count("event=") == 1 or '"' in written
    for effect in world.to_worker(Verdict):
        assert effect.detail.isprintable()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3))
def test_frames_that_are_none(data, place):
    """Whatever stands in the place of a description is refused by the border, or is one."""
    good = encode(BY_MESSAGE[RemoteShown].code, 0, RemoteShown(session_id=1, **DEFAULTS[RemoteShown]))
    at = len(good) * place // 4
    for frame in (data, good[:at] + data, good[:at] + data + good[at + len(data) :]):
        try:
            found = decode_untrusted(RemoteShown, frame)
        except BadFrame:
            continue
        assert len(found.names) <= limits.IDENTITY_NAMES
        assert len(found.chain) <= limits.CHAIN_CERTIFICATES


def test_urls_and_chains_go_to_the_helper_unread(world, app):
    """They are bounded by the border, and judged by the helper: what it asks for a liar it would ask for anybody."""
    demand(world, "R")
    session_id = begun(world, app)
    world.say(session_id, RemoteShown, crl_urls=("file:///etc/shadow", NASTY[:40]), chain=(b"garbage",))
    world.helper_comes()
    [question] = world.questions
    assert isinstance(question.message, AskRevocation)
    assert question.message.crl_urls == ("file:///etc/shadow", NASTY[:40])
    assert LEAF != b"garbage"
