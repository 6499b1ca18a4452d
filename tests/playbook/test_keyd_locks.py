"""Tokens that an operator locks: what waited is refused, nobody stays logged in, and who unlocks gets them back."""

import pytest

from tests.fixtures.keyd_play import KEY, ONE, T1, TWO, Play
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Signed
from tlspool_keyd import events as e
from tlspool_keyd import seats as module

T2 = T1.replace("t1", "t2")
LOCK, UNLOCK = e.LockAsked("pkcs11:token=t1", True, 0, "jane"), e.LockAsked("pkcs11:token=t1", False, 0, "jane")


def answered(play):
    return [effect.message for effect in play.only(e.AnswerWorker)]


def test_what_is_under_way_is_refused_and_the_process_ends():
    play = Play()
    play.ask(play.grant())
    (sent,) = play.only(e.SendToken)
    play(LOCK)
    assert answered(play) == [Signed(code=Code.TOKEN_LOCKED, signature=b"")]
    assert play.only(e.KillToken) == [e.KillToken(sent.generation)]
    (start,) = play.only(e.StartToken)
    assert start.pin_refused_by == (T1,)
    note = play.note("token.locked")
    assert (note.level, note.fields) == ("warning", {"token": "pkcs11:token=t1", "uid": 0, "author": "jane"})
    assert play.core.title == "1 token, 1 locked, no broker"


def test_a_locked_token_signs_nothing_whatever_becomes_of_its_process():
    play = Play()
    play(LOCK)
    (start,) = play.only(e.StartToken)
    play.ask(play.grant())
    assert play.refused(Code.TOKEN_LOCKED)["detail"] == "an operator has locked it"
    play.opened(start.generation, Code.PIN_WRONG, (f"{T1} PIN_WRONG",))
    assert play.core.status({})["modules"][0]["state"] == "TOKEN_LOCKED"
    play.now_ms += module.PIN_INTERVAL_MS + 1
    play.ask(play.grant())
    play.refused(Code.TOKEN_LOCKED)
    play(e.PinChanged())
    for start in play.only(e.StartToken):
        assert start.pin_refused_by == (T1,)
        play.opened(start.generation)  # a token that wants no login
    play.ask(play.grant())
    play.refused(Code.TOKEN_LOCKED)
    assert play.core.tokens()["tokens"] == [
        {"token": T1, "state": "TOKEN_LOCKED", "locked": True, "module": "/lib/m.so"}
    ]


def test_unlocking_logs_in_again():
    play = Play()
    play(LOCK)
    (start,) = play.only(e.StartToken)
    play.opened(start.generation, Code.PIN_WRONG, (f"{T1} PIN_WRONG",))
    play(UNLOCK)
    assert play.notes()[0] == "token.unlocked"
    (start,) = play.only(e.StartToken)
    assert start.pin_refused_by == ()
    play.ask(play.grant())
    play.opened(start.generation)
    play.answer()
    assert play.notes() == ["sign.done"]
    assert play.core.title == "1 token, no broker"


def test_a_process_that_is_opening_when_it_is_locked_is_replaced():
    play = Play(opened=False)
    (first,) = play.only(e.StartToken)
    play.opened(first.generation)
    play(e.TokenLost(first.generation, "signal SIGSEGV"))
    play.now_ms += module.START_INTERVAL_MS
    play.ask(play.grant())
    (opening,) = play.only(e.StartToken)
    play(LOCK)
    assert answered(play) == [Signed(code=Code.TOKEN_LOCKED, signature=b"")]
    assert e.KillToken(opening.generation) in play.last
    (start,) = play.only(e.StartToken)
    assert start.pin_refused_by == (T1,)
    assert play.opened(opening.generation) == []  # what it still says counts for nothing
    play(e.TokenLost(opening.generation, "exit 0"))
    assert play.notes() == []


def test_other_tokens_go_on():
    play = Play(*TWO, opened=False)
    one, two = play.only(e.StartToken)
    play.opened(one.generation, tokens=(f"{T1} ready",))
    play.opened(two.generation, tokens=(f"{T2} ready",))
    play(LOCK)
    one, two = play.only(e.StartToken)
    assert (one.pin_refused_by, two.pin_refused_by) == ((T1,), ())
    play.opened(two.generation, tokens=(f"{T2} ready",))
    play.opened(one.generation, Code.PIN_WRONG, (f"{T1} PIN_WRONG",))
    play.ask(play.grant(key_uri="pkcs11:token=t2;object=web"))
    assert [send.generation for send in play.only(e.SendToken)] == [two.generation] or not play.only(e.AnswerWorker)
    # a key that does not say on which token it is may be on the locked one
    play.ask(play.grant(key_uri="pkcs11:object=web"))
    play.refused(Code.TOKEN_LOCKED)


def test_a_token_that_comes_back_is_locked_still():
    """It was not there when it was locked, so the process did log in to it: that ends, and another does not."""
    play = Play(*TWO, opened=False)
    one, two = play.only(e.StartToken)
    play.opened(one.generation, Code.TOKEN_GONE, ())
    play.opened(two.generation, tokens=(f"{T2} ready",))
    play(e.LockAsked("pkcs11:", True, 0))
    one, two = play.only(e.StartToken)
    play.opened(one.generation)
    assert e.KillToken(one.generation) in play.last
    (again,) = play.only(e.StartToken)
    assert again.pin_refused_by == (T1,)
    play.opened(again.generation, Code.PIN_WRONG, (f"{T1} PIN_WRONG",))
    assert not play.only(e.StartToken)


def test_what_waits_for_a_pin_is_refused_too():
    play = Play(*ONE, opened=False, asks_for_pins=True)
    (start,) = play.only(e.StartToken)
    play(e.ServiceArrived(1, 0, (), "pin.service"))
    play(e.ServiceSaid(1, e.ServiceFrame(1, 0, 0x28)))
    play.opened(start.generation, Code.PIN_MISSING, (f"{T1} PIN_MISSING",))
    play.now_ms += module.PIN_INTERVAL_MS
    play.ask(play.grant())
    waiting = play.core.status({})["waiting"]
    play(LOCK)
    assert answered(play) == [Signed(code=Code.TOKEN_LOCKED, signature=b"")] * waiting
    assert play.core.status({})["waiting"] == 0


@pytest.mark.parametrize(
    ("uri", "locked", "code"),
    [
        ("pkcs11:token=t9", True, Code.TOKEN_GONE),
        ("pkcs11:token=t1", False, Code.TOKEN_GONE),
        ("pkcs11:token=t1", True, None),
        ("pkcs11:", True, None),
        ("pkcs11:", False, None),
    ],
)
def test_a_slip_of_the_pen_is_no_lock(uri, locked, code):
    play = Play()
    if code is None:
        play.core.check_lock(uri, locked=locked)
    else:
        with pytest.raises(PoolError) as caught:
            play.core.check_lock(uri, locked=locked)
        assert caught.value.code is code
    assert play.core.status({})["locked"] == []


def test_questions_about_keys_are_refused():
    play = Play()
    play(LOCK)
    play(e.KeyAsked(9, KEY))
    (answer,) = play.only(e.AnswerKey)
    assert answer.code is Code.TOKEN_LOCKED


def test_what_an_operator_sees():
    play = Play()
    play.ask(play.grant())
    play.now_ms += 40
    (row,) = play.core.queue(play.now_ms)["queue"]
    assert (row["waiting"], row["in_work"], row["oldest_ms"], row["answers"]) == (0, 1, 40.0, 0)
    (sent,) = [effect for effect in play.last if isinstance(effect, e.SendToken)]
    play.answer()
    (row,) = play.core.queue(play.now_ms)["queue"]
    assert (row["in_work"], row["answers"], row["queue_p50_ms"], row["token_p50_ms"]) == (0, 1, 0.0, 40.0)
    play.ask(b"forged")
    grant = play.grant()
    play.ask(grant)
    play.answer()
    play.ask(grant)
    told = play.core.grants()
    assert (told["seen"], told["spent"], told["signed"], told["remembered"]) == (4, 2, 2, 2)
    assert told["refused_by"] == {"grant_refused": 1, "grant_used": 1}
    assert sent.generation == 1
