"""Seats and the PIN, and seats beside each other."""

import pytest

from tests.fixtures.seats_play import OK, READY, T1, Play
from tlspool_common.errors import Code
from tlspool_keyd import seats as module
from tlspool_keyd import views
from tlspool_keyd.events import KillToken, LookAtPin, SendToken, StartToken
from tlspool_keyd.seats import overlap

# --- the PIN ------------------------------------------------------------------------------------------


def refuse(play, generation):
    play.opened(generation, Code.PIN_WRONG, (f"{T1} PIN_WRONG",), f"{T1}: C_Login: CKR_PIN_INCORRECT")


def test_a_wrong_pin_is_not_tried_again():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    play.submit("a")
    refuse(play, 1)
    assert play.outcomes["a"].code is Code.PIN_WRONG
    assert "CKR_PIN_INCORRECT" not in play.outcomes["a"].detail  # one line in the log is one try
    assert play.only(LookAtPin) == [LookAtPin()]
    assert play.only(KillToken) == [KillToken(1)]
    play.wait(module.START_INTERVAL_MS)
    play.submit("b")
    assert play.outcomes["b"].code is Code.PIN_WRONG
    assert not play.only(StartToken)
    play.wait(module.PIN_INTERVAL_MS)
    play.submit("c")
    assert play.only(StartToken) == [StartToken(2, "/lib/m.so", "pkcs11:token=t1", (T1,))]


def test_the_source_of_the_pin_is_looked_at_once_a_second():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    refuse(play, 1)
    play.submit("a")
    assert play.only(LookAtPin)
    play.submit("b")
    assert not play.only(LookAtPin)
    play.wait(module.PIN_LOOK_MS)
    play.submit("c")
    assert play.only(LookAtPin)


def test_another_pin_is_tried_at_once():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    refuse(play, 1)
    play.lost(1, "exit 0")
    play(play.seats.pin_changed(play.now_ms))
    assert play.notes() == ["pin.changed"]
    assert play.only(StartToken) == [StartToken(2, "/lib/m.so", "pkcs11:token=t1", ())]
    play.submit("a")
    play.opened(2)
    play.answer(play.only(SendToken)[0])
    assert play.outcomes["a"] == OK


def test_a_process_that_had_the_old_pin_says_nothing_about_the_new_one():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    play(play.seats.pin_changed(play.now_ms))
    assert not play.only(StartToken)  # one is opening
    refuse(play, 1)
    play.submit("a")
    assert play.only(StartToken) == [StartToken(2, "/lib/m.so", "pkcs11:token=t1", ())]


def test_a_token_that_the_old_pin_did_not_open_while_the_new_one_came():
    play = Play("pkcs11:")
    play(play.seats.start_all(play.now_ms))
    play(play.seats.pin_changed(play.now_ms))
    play.opened(1, tokens=(*READY, "pkcs11:token=t2 PIN_WRONG"))
    play.submit("a")
    assert play.only(StartToken) == [StartToken(2, "/lib/m.so", "pkcs11:", ())]


def test_another_pin_leaves_tokens_alone_that_have_no_trouble():
    play = Play().begin()
    play(play.seats.pin_changed(play.now_ms))
    assert not play.only(StartToken)
    play.sent("a")


def test_another_pin_for_one_of_two_tokens():
    play = Play("pkcs11:")
    play(play.seats.start_all(play.now_ms))
    play.opened(1, tokens=(*READY, "pkcs11:token=t2 PIN_WRONG"))
    assert views.modules(play.seats, {1: 99})[0]["state"] == "ready"
    play(play.seats.pin_changed(play.now_ms))
    assert [start.pin_refused_by for start in play.only(StartToken)] == [()]
    play.submit("a")
    assert not play.only(SendToken)
    play.opened(2)
    assert [send.generation for send in play.only(SendToken)] == [2]


# --- several seats --------------------------------------------------------------------------------------


def test_seats_do_not_wait_for_one_another():
    play = Play("pkcs11:token=t1", "pkcs11:token=t2")
    play(play.seats.start_all(play.now_ms))
    play.opened(2)
    play.submit("b", play.seats.seats[1])
    assert [send.generation for send in play.only(SendToken)] == [2]
    assert play.seats.opening
    described = views.modules(play.seats, {1: 11, 2: 22})
    assert [(row["state"], row["pids"], row["requests"]) for row in described] == [
        ("opening", [11], 0),
        ("ready", [22], 1),
    ]


@pytest.mark.parametrize(
    ("modules", "both"),
    [
        ([("/a", "pkcs11:token=x"), ("/a", "pkcs11:token=y")], None),
        ([("/a", "pkcs11:"), ("/b", "pkcs11:")], None),
        ([("/a", "pkcs11:token=x"), ("/a", "pkcs11:token=x")], ("pkcs11:token=x", "pkcs11:token=x")),
        ([("/a", "pkcs11:token=x"), ("/a", "pkcs11:")], ("pkcs11:token=x", "pkcs11:")),
        ([("/a", "pkcs11:token=x"), ("/a", "pkcs11:serial=1")], ("pkcs11:token=x", "pkcs11:serial=1")),
        ([("/a", "pkcs11:token=x;serial=2"), ("/a", "pkcs11:serial=1")], None),
    ],
)
def test_two_lines_must_not_mean_the_same_token(modules, both):
    assert overlap(modules) == both
