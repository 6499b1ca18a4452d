"""keyd's core: what is asked of it, and what it wants done."""

import pytest

from tests.fixtures.keyd_play import CONTENT, KEY, ONE, P256, SECRET, T1, TWO, Play
from tests.fixtures.keyd_world import tls12_server_content, tls13_content
from tlspool_common import limits
from tlspool_common.errors import Code
from tlspool_common.messages import (
    PROTOCOL,
    KeyAnswer,
    KeyChannel,
    KeydHello,
    KeyQuestion,
    Side,
    Signed,
    TokenFind,
    TokenFound,
    TokenSign,
)
from tlspool_keyd import core as module
from tlspool_keyd import events as e

# --- signatures -----------------------------------------------------------------------------------------


def test_a_signature():
    play = Play()
    play.ask(play.grant(session_id=815), exchange=3)
    assert play.only(e.SendToken) == [
        e.SendToken(1, TokenSign(uri=KEY, scheme=P256, spki_sha256=b"k" * 32, content=CONTENT), 1)
    ]
    play.now_ms += 2.5
    play.answer()
    # the line comes before the answer: no signature leaves without one
    note, answer = play.last
    assert answer == e.AnswerWorker(1, Signed(code=0, signature=b"signature"), 3)
    assert note == e.Note(
        "info",
        "sign.done",
        {
            "session": 815,
            "worker": 1,
            "side": "server",
            "what": "tls13-certificate-verify",
            "scheme": "ecdsa_secp256r1_sha256",
            "key": KEY,
            "token": "pkcs11:token=t1",
            "ms": 2.5,
            "queue_ms": 0.0,
            "token_ms": 2.5,
        },
    )
    assert play.core.status({})["signed"] == 1


def test_a_client_signature():
    play = Play()
    play.ask(play.grant(side=Side.CLIENT), tls13_content(Side.CLIENT))
    play.answer()
    assert play.note("sign.done").fields["side"] == "client"


def test_tls12():
    play = Play()
    play.ask(play.grant(), tls12_server_content())
    play.answer()
    assert play.note("sign.done").fields["what"] == "tls12-server-key-exchange"


@pytest.mark.parametrize(
    ("line", "content", "code"),
    [
        ("tls_min_version 1.3", tls12_server_content(), Code.CONTENT_REFUSED),
        ("tls_min_version 1.3", CONTENT, None),
        ("tls_max_version 1.2", CONTENT, Code.CONTENT_REFUSED),
        ("tls_max_version 1.2", tls12_server_content(), None),
    ],
    ids=["1.2 where 1.3 is least", "1.3 where 1.3 is least", "1.3 where 1.2 is most", "1.2 where 1.2 is most"],
)
def test_content_of_a_version_that_policy_does_not_have(line, content, code):
    play = Play(line, *ONE)
    play.ask(play.grant(), content)
    if code is None:
        play.answer()
        assert play.notes() == ["sign.done"]
    else:
        assert "policy allows TLS" in play.refused(code)["detail"]


@pytest.mark.parametrize(
    ("changes", "request_", "code"),
    [
        ({}, {"secret": b"x" * 32}, Code.GRANT_REFUSED),
        ({}, {"worker_id": 2}, Code.GRANT_REFUSED),
        ({"expires_ms": 1_000_000}, {}, Code.GRANT_EXPIRED),
        ({"expires_ms": 1_000_000 + limits.GRANT_LIFE_S * 1000 + 1_001}, {}, Code.GRANT_REFUSED),
        ({"side": Side.CLIENT}, {}, Code.CONTENT_REFUSED),
        ({}, {"content": tls13_content(Side.CLIENT)}, Code.CONTENT_REFUSED),
        ({}, {"content": b"d" * 32}, Code.CONTENT_REFUSED),
        ({}, {"content": b""}, Code.CONTENT_REFUSED),
        ({}, {"scheme": 0x0401}, Code.CONTENT_REFUSED),
        ({}, {"scheme": 0}, Code.CONTENT_REFUSED),
        ({"key_uri": "pkcs11:token=other;object=web"}, {}, Code.KEY_NOT_FOUND),
        ({"key_uri": "pkcs11:token=t1"}, {}, Code.KEY_URI_MALFORMED),
        ({"key_uri": "pkcs11:token=t1;object=web;type=cert"}, {}, Code.KEY_URI_MALFORMED),
        ({"key_uri": "file:/key"}, {}, Code.KEY_URI_MALFORMED),
    ],
)
def test_refusals(changes, request_, code):
    play = Play()
    play.ask(play.grant(**changes), **request_)
    play.refused(code)
    assert play.core.status({})["refused"] == 1


@pytest.mark.parametrize("sealed", [b"", b"x", bytes(limits.GRANT_B), SECRET])
def test_what_is_no_grant(sealed):
    play = Play()
    play.ask(sealed)
    fields = play.refused(Code.GRANT_REFUSED)
    assert (fields["session"], fields["side"], fields["key"], fields["worker"]) == (None, None, None, 1)


def test_what_a_broken_seal_covers_is_not_believed():
    play = Play()
    play.ask(play.grant(session_id=815), secret=b"x" * 32)
    assert play.refused(Code.GRANT_REFUSED)["session"] is None


def test_a_grant_is_good_once():
    play = Play()
    grant = play.grant()
    play.ask(grant)
    play.answer()
    play.ask(grant)
    play.refused(Code.GRANT_USED)
    play.ask(play.grant())
    play.answer()
    assert play.notes() == ["sign.done"]


@pytest.mark.parametrize("content", [b"d" * 32, CONTENT])
def test_a_grant_is_spent_whatever_comes_of_it(content):
    play = Play()
    grant = play.grant()
    play.ask(grant, content)
    if content is CONTENT:
        play.answer(Code.TOKEN_FAILED, "CKR_GENERAL_ERROR")
        assert play.note("sign.refused").fields["detail"] == "CKR_GENERAL_ERROR"
    play.ask(grant)
    play.refused(Code.GRANT_USED)


def test_a_foreign_worker_does_not_spoil_a_grant():
    play = Play()
    grant = play.grant()
    play.ask(grant, worker_id=2)
    play.refused(Code.GRANT_REFUSED)
    play.ask(grant)
    play.answer()
    assert play.notes() == ["sign.done"]


def test_a_grant_expires_while_it_waits():
    play = Play()
    grant = play.grant(expires_ms=int(play.now_ms) + 1)
    play.now_ms += 1
    play.ask(grant)
    play.refused(Code.GRANT_EXPIRED)


def test_a_token_that_refuses():
    play = Play()
    play.ask(play.grant())
    play.answer(Code.KEY_MISMATCH, "another key")
    assert play.only(e.AnswerWorker) == [e.AnswerWorker(1, Signed(code=Code.KEY_MISMATCH, signature=b""), 0)]
    assert play.note("sign.refused").fields["session"] == 7


def test_a_token_that_is_slow():
    play = Play()
    play.ask(play.grant())
    play.now_ms += 10_000
    play(e.TimerFired(e.Timer(e.Clock.DEADLINE)))
    assert play.only(e.AnswerWorker) == [e.AnswerWorker(1, Signed(code=Code.TOKEN_SLOW, signature=b""), 0)]


def test_a_token_process_that_dies():
    play = Play()
    play.ask(play.grant())
    play(e.TokenLost(1, "signal SIGSEGV"))
    assert play.notes() == ["token.died", "sign.refused"]
    assert play.only(e.AnswerWorker) == [e.AnswerWorker(1, Signed(code=Code.TOKEN_FAILED, signature=b""), 0)]


def test_a_token_process_that_answers_what_nobody_asked():
    play = Play()
    play.ask(play.grant())
    (send,) = play.only(e.SendToken)
    play(e.TokenSaid(1, TokenFound(code=0, detail="", spki=b""), send.exchange))
    assert play.notes()[0] == "token.broken"
    assert e.KillToken(1) in play.last
    play.ask(play.grant())
    play.now_ms += module.STABLE_MS
    play.ask(play.grant())
    assert play.only(e.StartToken)


def test_a_wrong_pin():
    play = Play(opened=False)
    play.ask(play.grant())
    assert not play.only(e.AnswerWorker)
    play.opened(1, Code.PIN_WRONG, (f"{T1} PIN_WRONG",), "C_Login: CKR_PIN_INCORRECT")
    assert play.only(e.AnswerWorker) == [e.AnswerWorker(1, Signed(code=Code.PIN_WRONG, signature=b""), 0)]
    assert play.only(e.LookAtPin)
    play(e.PinChanged())
    assert play.only(e.StartToken)


def test_a_flood_of_refusals_does_not_fill_the_log():
    play = Play()
    lines = 0
    for _ in range(module.REFUSALS_LOGGED + 500):
        play.ask(b"")
        assert play.only(e.AnswerWorker)
        lines += play.notes().count("sign.refused")
    assert lines == module.REFUSALS_LOGGED
    play.now_ms += 1000
    play.ask(b"")
    assert play.notes() == ["sign.refusals_withheld", "sign.refused"]
    assert play.note("sign.refusals_withheld").fields == {"count": 500}
    play.now_ms += 1000
    play.ask(b"")
    assert play.notes() == ["sign.refused"]


# --- the broker -------------------------------------------------------------------------------------------


def test_the_broker_gets_the_secret():
    play = Play()
    play(e.BrokerConnected())
    assert play.only(e.SendBroker) == [e.SendBroker(KeydHello(protocol=PROTOCOL, pid=4711, grant_secret=SECRET))]
    assert "s" * 32 not in repr(play.last)
    assert play.core.title == "1 token"


def test_a_broker_that_was_started_anew_gets_the_same():
    play = Play()
    grant = play.grant()
    (first,) = [effect for effect in play(e.BrokerConnected()) if isinstance(effect, e.SendBroker)]
    play.now_ms += 5_000
    play(e.BrokerLost("it has closed its end"))
    assert play.notes() == ["broker.lost"]
    assert play.only(e.Arm) == [e.Arm(e.Timer(e.Clock.BROKER), module.BACKOFF_MS[0])]
    assert play(e.TimerFired(e.Timer(e.Clock.BROKER))) == [e.ConnectBroker()]
    (second,) = [effect for effect in play(e.BrokerConnected()) if isinstance(effect, e.SendBroker)]
    assert first == second
    play.ask(grant)
    play.answer()
    assert play.notes() == ["sign.done"]
    play.ask(grant)
    play.refused(Code.GRANT_USED)


def test_a_broker_that_does_not_come_is_tried_ever_less_often_and_named_once():
    play = Play()
    delays, names = [], []
    for _ in range(8):
        play(e.BrokerLost("No such file or directory"))
        delays += [arm.delay_ms for arm in play.only(e.Arm)]
        names += play.notes()
    assert delays == [*module.BACKOFF_MS, module.BACKOFF_MS[-1], module.BACKOFF_MS[-1]]
    assert names == ["broker.unreachable"]


def test_a_broker_that_throws_us_out_is_not_stormed():
    play = Play()
    delays = []
    for _ in range(3):
        play(e.BrokerConnected())
        play(e.BrokerLost("it has closed its end"))
        delays += [arm.delay_ms for arm in play.only(e.Arm)]
    assert delays == list(module.BACKOFF_MS[:3])
    play(e.BrokerConnected())
    play.now_ms += module.STABLE_MS
    play(e.BrokerLost("it has closed its end"))
    assert play.only(e.Arm) == [e.Arm(e.Timer(e.Clock.BROKER), module.BACKOFF_MS[0])]


def test_workers_come_and_go():
    play = Play()
    play(e.BrokerSaid(KeyChannel(worker_id=5), 0))
    assert play.only(e.AdoptWorker) == [e.AdoptWorker(5)]
    assert play.core.status({})["workers"] == 1
    play(e.WorkerLost(5, "it has closed its end", broken=False))
    assert [(note.level, note.event) for note in play.only(e.Note)] == [("debug", "worker.lost")]
    assert play.core.status({})["workers"] == 0
    play(e.BrokerSaid(KeyChannel(worker_id=6), 0))
    play(e.WorkerLost(6, "a second something", broken=True))
    assert [(note.level, note.event) for note in play.only(e.Note)] == [("error", "worker.broken")]


@pytest.mark.parametrize("code", [Code.OK, Code.KEY_AMBIGUOUS])
def test_questions(code):
    play = Play()
    play(e.BrokerSaid(KeyQuestion(uri=KEY), 42))
    (send,) = play.only(e.SendToken)
    assert send.message == TokenFind(uri=KEY)
    play(e.TokenSaid(1, TokenFound(code=code, detail="d", spki=b"spki"), send.exchange))
    spki = b"spki" if code is Code.OK else b""
    assert play.only(e.SendBroker) == [e.SendBroker(KeyAnswer(code=code, detail="d", spki=spki), 42)]


def test_a_question_without_sense():
    play = Play()
    play(e.BrokerSaid(KeyQuestion(uri="pkcs11:token=t1?pin-value=1234"), 42))
    ((answer),) = play.only(e.SendBroker)
    assert answer.message.code == Code.KEY_URI_MALFORMED
    assert "1234" not in answer.message.detail


# --- start ------------------------------------------------------------------------------------------------


def test_ready_when_all_tokens_have_opened_or_failed():
    play = Play(*TWO, opened=False)
    assert e.ConnectBroker() in play.begun
    assert len(play.only(e.StartToken)) == 2
    assert not play.only(e.SayReady)
    play.opened(1)
    assert not play.only(e.SayReady)
    play(e.BrokerLost("not there"))  # is not waited for
    play.opened(2, Code.PIN_WRONG, (f"{T1} PIN_WRONG",))
    assert play.only(e.SayReady)
    assert play.note("keyd.ready").fields == {"modules": 2, "open": 1}
    play.now_ms += 5_000
    play(e.TimerFired(e.Timer(e.Clock.READY)))
    assert play.last == []


def test_ready_although_a_module_hangs():
    play = Play(opened=False)
    play.now_ms += module.READY_MS
    play(e.TimerFired(e.Timer(e.Clock.READY)))
    assert play.only(e.SayReady)
    play.opened(1)
    assert not play.only(e.SayReady)


def test_a_module_that_does_not_open():
    play = Play(opened=False)
    play.now_ms += 30_000
    play(e.TimerFired(e.Timer(e.Clock.OPENING, 1)))
    assert play.only(e.KillToken) == [e.KillToken(1)]
    assert "token.slow" in play.notes()


def test_ready_at_once_without_tokens():
    play = Play("log_level info")
    assert [effect for effect in play.begun if isinstance(effect, e.SayReady)]
    play.ask(play.grant())
    play.refused(Code.KEY_NOT_FOUND)
