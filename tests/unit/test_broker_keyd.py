"""Grants: what each is good for, and for how long."""

import itertools

import pytest

from tests.playbook.broker import credential
from tlspool_broker.events import AskKeyd, ClosePeer, KeyTold, PeerId, WorkerNumber
from tlspool_broker.keyd import Keyd
from tlspool_broker.out import Out
from tlspool_broker.workers import Worker, Workers
from tlspool_common import grants, limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import PROTOCOL, KeyAnswer, KeydHello, KeyQuestion, Side
from tlspool_common.settings import parse_untrusted

SECRET = b"s" * 32


@pytest.fixture
def out():
    made = Out()
    made.now_ms = 1_000_000
    return made


@pytest.fixture
def keyd(out):
    counter = itertools.count()
    made = Keyd(out, lambda count: next(counter).to_bytes(count))
    hello = KeydHello(protocol=PROTOCOL, pid=1, grant_secret=SECRET)
    assert made.said(PeerId(1), hello, Workers(out, parse_untrusted("")))
    return made


WORKER = Worker(WorkerNumber(9), 4, 100, PeerId(2), 0, 0)


@pytest.mark.parametrize(
    ("deadline_ms", "expires_ms"),
    [
        (None, 1_000_000 + limits.GRANT_LIFE_S * 1000),
        (1_005_000.5, 1_005_001),
        (9_000_000, 1_000_000 + limits.GRANT_LIFE_S * 1000),
    ],
)
def test_a_grant_is_for_one_signature_of_one_session(keyd, deadline_ms, expires_ms):
    sealed = keyd.grant(7, Side.CLIENT, WORKER, credential("web"), deadline_ms)
    grant = grants.unseal_untrusted(SECRET, sealed)
    assert (grant.worker_id, grant.session_id, grant.side) == (4, 7, Side.CLIENT)
    assert (grant.key_uri, grant.spki_sha256) == ("pkcs11:object=web", bytes(32))
    assert grant.expires_ms == expires_ms
    again = grants.unseal_untrusted(SECRET, keyd.grant(7, Side.CLIENT, WORKER, credential("web"), deadline_ms))
    assert again.grant_id != grant.grant_id


def test_the_secret_goes_with_keyd(keyd, out):
    keyd.lost(PeerId(99), "another one")
    assert keyd.present
    keyd.lost(PeerId(1), "gone")
    assert not keyd.present
    with pytest.raises(PoolError) as caught:
        grants.unseal_untrusted(SECRET, keyd.grant(1, Side.CLIENT, WORKER, credential(), None))
    assert caught.value.code is Code.GRANT_REFUSED
    assert [effect.event for effect in out.take() if hasattr(effect, "event")] == ["keyd.connected", "keyd.lost"]


# --- questions of operators ---------------------------------------------------------------------------

ANSWER = KeyAnswer(code=0, detail="", spki=b"spki")


def of(out, *kinds):
    return [effect for effect in out.take() if isinstance(effect, kinds)]


def test_questions_are_answered_in_any_order(keyd, out):
    workers = Workers(out, parse_untrusted(""))
    out.take()
    keyd.ask(5, "pkcs11:object=a")
    keyd.ask(6, "pkcs11:object=b")
    assert of(out, AskKeyd) == [
        AskKeyd(PeerId(1), 5, KeyQuestion(uri="pkcs11:object=a")),
        AskKeyd(PeerId(1), 6, KeyQuestion(uri="pkcs11:object=b")),
    ]
    assert not keyd.said(PeerId(1), ANSWER, workers, 6)
    assert not keyd.said(PeerId(1), ANSWER, workers, 5)
    assert of(out, KeyTold) == [KeyTold(6, ANSWER), KeyTold(5, ANSWER)]
    assert keyd.present


def test_nobody_waits_for_a_keyd_that_is_gone(keyd, out):
    workers = Workers(out, parse_untrusted(""))
    keyd.ask(5, "pkcs11:object=a")
    keyd.lost(PeerId(1), "gone")
    keyd.ask(6, "pkcs11:object=a")
    assert of(out, KeyTold) == [KeyTold(5, None), KeyTold(6, None)]
    hello = KeydHello(protocol=PROTOCOL, pid=1, grant_secret=SECRET)
    assert keyd.said(PeerId(2), hello, workers)
    keyd.ask(7, "pkcs11:object=a")
    assert keyd.said(PeerId(3), hello, workers)
    assert of(out, KeyTold) == [KeyTold(7, None)], "its successor was not asked"


def test_a_keyd_that_answers_what_nobody_asked_is_sent_away(keyd, out):
    workers = Workers(out, parse_untrusted(""))
    keyd.ask(5, "pkcs11:object=a")
    assert not keyd.said(PeerId(1), ANSWER, workers, 4)
    assert not keyd.present
    assert of(out, ClosePeer, KeyTold) == [ClosePeer(PeerId(1)), KeyTold(5, None)]


def test_there_are_not_too_many_questions(keyd, out, monkeypatch):
    monkeypatch.setattr("tlspool_broker.keyd._QUESTIONS", 2)
    out.take()
    for number in range(3):
        keyd.ask(number, "pkcs11:object=a")
    keyd.ask(9, "pkcs11:object=" + "a" * limits.KEY_URI_B)
    assert of(out, KeyTold) == [KeyTold(2, None), KeyTold(9, None)]
