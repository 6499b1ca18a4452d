"""The life of token processes: what happens to a seat, and what keyd does about it."""

import pytest

from tests.fixtures.seats_play import OK, T1, TIMEOUT_MS, Play
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import TokenFind, TokenFound, TokenList, TokenListed, TokenSign, TokenSigned
from tlspool_keyd import seats as module
from tlspool_keyd.events import Arm, Clock, KillToken, SendToken, StartToken, Timer
from tlspool_keyd.seats import Outcome

# --- the usual ----------------------------------------------------------------------------------------


def test_a_request_is_sent_and_answered():
    play = Play()
    start, arm = play(play.seats.start_all(play.now_ms))
    assert start == StartToken(1, "/lib/m.so", "pkcs11:token=t1", ())
    assert arm == Arm(Timer(Clock.OPENING, 1), 3 * TIMEOUT_MS)
    assert play.seats.opening
    play.opened(1)
    assert play.notes() == ["token.opened"]
    assert not play.seats.opening
    send = play.sent("a")
    assert play.only(Arm) == [Arm(Timer(Clock.DEADLINE), TIMEOUT_MS)]
    assert play.seats.waiting == 1
    play.answer(send)
    assert play.outcomes == {"a": OK}
    assert play.seats.waiting == 0


def test_requests_that_come_while_it_opens_wait_for_it():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    play.submit("a")
    assert not play.only(SendToken)
    assert not play.only(StartToken)
    play.opened(1)
    assert [send.message.uri for send in play.only(SendToken)] == [f"{T1};object=a"]


def test_requests_beyond_the_room_wait_here():
    play = Play(sessions=2).begin()
    room = 2 + module.LOOK_AHEAD
    sends = [play.sent(str(number)) for number in range(room)]
    play.submit("more")
    assert not play.only(SendToken)
    play.answer(sends[0])
    assert [send.message.uri for send in play.only(SendToken)] == [f"{T1};object=more"]


def test_workers_take_turns_where_requests_wait():
    """One worker wants a hundred signatures; that of another one is next, not last."""
    play = Play(sessions=1).begin()
    sends = []
    for number in range(100):
        play.submit(f"flood{number}", owner=7)
        sends += play.only(SendToken)
    play.submit("quiet", owner=8)
    play.submit("quiet too", owner=8)
    order = []
    while sends:
        play.answer(sends.pop(0))
        order += [send.message.uri.rpartition("=")[2] for send in play.only(SendToken)]
        sends += play.only(SendToken)
    assert order[:5] == ["flood5", "quiet", "flood6", "quiet too", "flood7"]
    assert len(play.outcomes) == 102
    assert not play.seat.waiting


def test_bytes_in_flight_are_bounded():
    play = Play(sessions=256).begin()
    big = TokenSign(uri=T1, scheme=0x0403, spki_sha256=b"", content=bytes(65_535))
    sent, sends = 0, []
    for number in range(100):
        play.submit(str(number), message=big)
        sent += len(play.only(SendToken))
        sends = play.only(SendToken) or sends
    assert sent == module.IN_FLIGHT_B // 65_535 + 1
    play.answer(sends[0])
    assert len(play.only(SendToken)) == 1


def test_answers_fit_their_questions():
    play = Play().begin()
    play.submit("find", message=TokenFind(uri=T1))
    (find,) = play.only(SendToken)
    play.answer(find, message=TokenFound(code=Code.OK, detail="", spki=b"spki"))
    play.submit("list", message=TokenList(skip=0))
    (listed,) = play.only(SendToken)
    play.answer(listed, message=TokenListed(code=Code.OK, detail="", keys=("k",), more=True))
    assert play.outcomes == {"find": Outcome(Code.OK, "", b"spki"), "list": Outcome(Code.OK, keys=("k",), more=True)}


@pytest.mark.parametrize("message", [TokenFound(code=0, detail="", spki=b""), None])
def test_an_answer_to_nothing_is_a_bug_of_the_process(message):
    play = Play().begin()
    send = play.sent("a")
    if message is None:
        play.answer(send)
    with pytest.raises(PoolError) as raised:
        play.answer(send, message=message)
    assert raised.value.code is Code.INTERNAL


def test_a_signature_that_is_empty_is_a_failure():
    play = Play().begin()
    play.answer(play.sent("a"), message=TokenSigned(code=Code.OK, detail="", signature=b""))
    assert play.outcomes["a"].code is Code.TOKEN_FAILED


def test_an_unknown_code_is_internal():
    play = Play().begin()
    play.answer(play.sent("a"), message=TokenSigned(code=777, detail="", signature=b""))
    assert play.outcomes["a"].code is Code.INTERNAL


def test_words_of_a_process_that_is_gone_are_not_heard():
    play = Play().begin()
    send = play.sent("a")
    play.lost(1)
    assert play.answer(send) == []
    assert play.opened(1) == []
    assert play.lost(1) == []


# --- a token that comes and goes ------------------------------------------------------------------------


def test_a_token_that_was_gone_and_is_back():
    play = Play().begin()
    send = play.sent("a")
    play.wait(2_000)
    play.answer(send, Code.TOKEN_GONE, "CKR_DEVICE_REMOVED")
    assert play.notes() == ["token.again"]
    assert play.only(StartToken) == [StartToken(2, "/lib/m.so", "pkcs11:token=t1", ())]
    assert play.outcomes == {}
    play.opened(2)
    assert play.only(KillToken) == [KillToken(1)]  # it had nothing more to do
    (again,) = play.only(SendToken)
    assert (again.generation, again.message) == (2, send.message)
    play.answer(again)
    assert play.outcomes == {"a": OK}


def test_a_token_that_is_gone_for_good():
    play = Play().begin()
    play.wait(2_000)
    play.answer(play.sent("a"), Code.TOKEN_GONE)
    play.opened(2, Code.TOKEN_GONE, (), "no token matches")
    assert play.outcomes["a"] == Outcome(Code.TOKEN_GONE, "no token matches")
    assert set(play.only(KillToken)) == {KillToken(1), KillToken(2)}
    # not more than one start in a second, and the answer is known meanwhile
    play.submit("b")
    assert play.outcomes["b"].code is Code.TOKEN_GONE
    play.wait(module.START_INTERVAL_MS)
    play.submit("c")
    assert [start.generation for start in play.only(StartToken)] == [3]


def test_a_second_absence_is_the_answer():
    play = Play().begin()
    play.wait(2_000)
    play.answer(play.sent("a"), Code.TOKEN_GONE)
    play.opened(2)
    play.wait(2_000)
    play.answer(play.only(SendToken)[0], Code.TOKEN_GONE, "still")
    assert play.outcomes["a"] == Outcome(Code.TOKEN_GONE, "still")
    assert not play.only(StartToken)


def test_a_key_not_found_is_believed_of_a_fresh_process_only():
    play = Play().begin()
    play.wait(2_000)
    play.answer(play.sent("a"), Code.KEY_NOT_FOUND)
    assert play.outcomes["a"].code is Code.KEY_NOT_FOUND
    play.wait(module.FRESH_MS)
    play.answer(play.sent("b"), Code.KEY_NOT_FOUND)
    assert "b" not in play.outcomes
    assert play.only(StartToken)


def test_the_old_process_finishes_what_it_has():
    play = Play().begin()
    first, second = play.sent("a"), play.sent("b")
    play.wait(2_000)
    play.answer(first, Code.TOKEN_GONE)
    play.opened(2)
    assert not play.only(KillToken)
    play.answer(second)
    assert play.outcomes["b"] == OK
    assert play.only(KillToken) == [KillToken(1)]


def test_after_a_failure_the_next_request_gets_a_fresh_process():
    play = Play().begin()
    play.wait(2_000)
    play.answer(play.sent("a"), Code.TOKEN_FAILED, "CKR_GENERAL_ERROR")
    assert play.outcomes["a"] == Outcome(Code.TOKEN_FAILED, "CKR_GENERAL_ERROR")
    play.submit("b")
    assert play.only(StartToken)
    assert not play.only(SendToken)
    play.opened(2)
    assert [send.generation for send in play.only(SendToken)] == [2]


def test_a_failing_token_gets_no_more_than_a_process_a_second():
    play = Play().begin()
    play.wait(2_000)
    play.answer(play.sent("a"), Code.TOKEN_FAILED)
    play.submit("b")
    play.opened(2)
    play.answer(play.only(SendToken)[0], Code.TOKEN_FAILED)
    play.submit("c")  # within the second: to the doubtful one rather than nowhere
    assert [send.generation for send in play.only(SendToken)] == [2]
    assert not play.only(StartToken)


# --- a process that dies, hangs or does not open ----------------------------------------------------------


def test_a_process_that_dies_costs_what_it_had():
    play = Play(sessions=1).begin()
    names = [str(number) for number in range(1 + module.LOOK_AHEAD)]
    for name in names:
        play.sent(name)
    play.submit("waiting")
    play.wait(2_000)
    play.lost(1)
    assert play.notes() == ["token.died"]
    assert {play.outcomes[name].code for name in names} == {Code.TOKEN_FAILED}
    assert "signal SIGSEGV" in play.outcomes["0"].detail
    assert "waiting" not in play.outcomes  # it never reached the module
    assert [start.generation for start in play.only(StartToken)] == [2]
    play.opened(2)
    assert [send.message.uri for send in play.only(SendToken)] == [f"{T1};object=waiting"]


def test_an_idle_process_that_dies_is_replaced_when_needed():
    play = Play().begin()
    play.wait(2_000)
    play.lost(1)
    assert not play.only(StartToken)
    play.submit("a")
    assert play.only(StartToken)


def test_a_process_that_dies_while_opening_gets_a_second_chance():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    play.submit("a")
    play.lost(1, "signal SIGABRT")
    assert play.notes() == ["token.died"]
    assert [start.generation for start in play.only(StartToken)] == [2]
    play.opened(2)
    play.answer(play.only(SendToken)[0])
    assert play.outcomes == {"a": OK}
    play.wait(2_000)
    play.lost(2)
    play.submit("b")
    play.lost(3)  # each has one
    assert [start.generation for start in play.only(StartToken)] == [4]


def test_a_process_that_dies_while_opening_again_and_again():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    play.submit("a")
    play.lost(1, "exit 70")
    play.lost(2, "exit 70")
    assert play.outcomes["a"] == Outcome(Code.TOKEN_FAILED, "the module's process ended: exit 70")
    play.submit("b")
    assert play.outcomes["b"].code is Code.TOKEN_FAILED
    play.wait(module.START_INTERVAL_MS)
    play.submit("c")
    assert play.only(StartToken)


def test_a_process_that_was_ended_is_no_surprise():
    play = Play().begin()
    play.wait(2_000)
    play.answer(play.sent("a"), Code.TOKEN_GONE)
    play.opened(2)
    play.lost(1, "exit 0")
    assert play.last == []


def test_a_request_without_an_answer():
    play = Play().begin()
    send = play.sent("a")
    play.wait(TIMEOUT_MS)
    play.expire()
    assert play.outcomes["a"] == Outcome(Code.TOKEN_SLOW, "no answer in 10 s")
    assert not play.only(KillToken)
    play.answer(send)  # late, and for nobody
    assert play.outcomes["a"].code is Code.TOKEN_SLOW


def test_the_timer_is_for_the_oldest_request():
    play = Play().begin()
    play.sent("a")
    play.wait(4_000)
    send = play.sent("b")
    assert not play.only(Arm)
    play.wait(6_000)
    play.expire()
    assert play.only(Arm) == [Arm(Timer(Clock.DEADLINE), 4_000)]
    play.answer(send)
    play.wait(4_000)
    play.expire()
    assert play.last == []
    play.sent("c")
    assert play.only(Arm) == [Arm(Timer(Clock.DEADLINE), TIMEOUT_MS)]


def test_a_process_that_hangs_is_killed():
    play = Play(sessions=1).begin()
    for name in ("a", "b", "c"):
        play.sent(name)
    play.wait(TIMEOUT_MS)
    play.expire()
    assert play.notes() == ["token.slow"]
    assert play.only(KillToken) == [KillToken(1)]
    play.submit("d")
    assert play.only(StartToken)
    play.lost(1, "signal SIGKILL")
    assert play.last == []
    play.opened(2)
    play.answer(play.only(SendToken)[0])
    assert play.outcomes["d"] == OK


def test_a_process_that_is_only_overloaded_is_not_killed():
    """Twenty requests came at once, and one a second is answered: some are late, but the token works."""
    play = Play(sessions=1).begin()
    for number in range(20):
        play.submit(str(number))
    sends = list(play.seats._processes[1][1].pending)
    for turn in range(10):
        play.wait(990)
        exchange = sends[turn]
        message = TokenSigned(code=0, detail="", signature=b"s")
        effects = play(play.seats.answered(1, exchange, message, play.now_ms))
        sends += [effect.exchange for effect in effects if isinstance(effect, SendToken)]
    play.wait(100)
    play.expire()
    assert sum(outcome.code is Code.TOKEN_SLOW for outcome in play.outcomes.values()) == 10
    assert not play.only(KillToken)


def test_calls_that_never_return_do_not_fill_a_process_for_ever():
    """Now and then a call hangs, and others do not; when no room is left, the process is replaced."""
    play = Play(sessions=1).begin()
    room = 1 + module.LOOK_AHEAD
    for number in range(room):
        play.sent(f"hangs {number}")
        if number + 1 < room:
            play.answer(play.sent(f"works {number}"))
        play.wait(TIMEOUT_MS)
        play.expire()
    assert not play.only(KillToken)
    for number in range(3):
        play.submit(f"waits {number}")
        assert not play.only(SendToken)
    play.wait(TIMEOUT_MS)
    play.expire()
    assert play.only(KillToken) == [KillToken(1)]


def test_a_module_that_does_not_open_in_time():
    play = Play()
    play(play.seats.start_all(play.now_ms))
    play.submit("a")
    play.wait(3 * TIMEOUT_MS)
    play(play.seats.opening_expired(1, play.now_ms))
    assert play.outcomes["a"] == Outcome(Code.TOKEN_SLOW, "the module did not open in time")
    assert play.only(KillToken) == [KillToken(1)]
    assert play(play.seats.opening_expired(1, play.now_ms)) == []


def test_the_opening_timer_of_a_process_that_opened():
    play = Play().begin()
    assert play(play.seats.opening_expired(1, play.now_ms)) == []


def test_keyd_is_busy():
    play = Play().begin()
    for number in range(module.JOBS):
        play.submit(str(number))
    play.submit("one too many")
    assert play.outcomes == {"one too many": Outcome(Code.TOKEN_SLOW, f"{module.JOBS} requests wait already")}


def test_one_old_request_does_not_make_keyd_busy():
    """The bound is on requests without an answer, not on those since the oldest one."""
    play = Play("pkcs11:token=t1", "pkcs11:token=t2").begin()
    play.sent("hangs")
    for number in range(module.JOBS + 10):
        play.submit(str(number), play.seats.seats[1])
        play.answer(play.only(SendToken)[0])
    assert play.seats.waiting == 1
    assert all(outcome == OK for outcome in play.outcomes.values())
