"""PINs that people type: who may ask them, for what, how often, and what the sessions get meanwhile."""

import pytest

from tests.fixtures.keyd_play import KEY, T1, Play
from tests.fixtures.seats_play import PIN_WAIT_MS
from tlspool_common.appwire import Cmd, ErrorReply
from tlspool_common.errors import Code, ComErr
from tlspool_common.messages import Signed
from tlspool_common.servicewire import Pinentry
from tlspool_keyd import events as e
from tlspool_keyd import post as module

MODULE = "/lib/m.so"
ME, OTHER, STRANGER = 1, 2, 3
T2 = "pkcs11:model=m;manufacturer=f;serial=2;token=t2"
MISSING, WRONG, READY = (f"{T1} PIN_MISSING",), (f"{T1} PIN_WRONG",), (f"{T1} ready",)
MINUTE_US = 60_000_000


class PinPlay(Play):
    """A keyd without a PIN, and the programs that may ask people for it."""

    def __init__(self, *lines, tokens=MISSING):
        super().__init__(*lines, opened=False, asks_for_pins=True)
        (start,) = self.only(e.StartToken)
        self.opened(start.generation, Code.PIN_MISSING, tokens)
        for number, uid in ((ME, 0), (OTHER, 0), (STRANGER, 4711)):
            self(e.ServiceArrived(number, uid, (uid,), f"pinentry[{number}]"))

    def say(self, service=ME, *, reqid=0, cbid=0, cmd=Cmd.PINENTRY, flags=0, timeout_us=MINUTE_US, pin=False):
        return self(e.ServiceSaid(service, e.ServiceFrame(reqid, cbid, cmd, flags, timeout_us, pin)))

    def asked(self, service=ME):
        """Return the one question that a program got, and what is in it."""
        (sent,) = self.only(e.SendService)
        assert (sent.service, sent.frame.cmd) == (service, Cmd.PINENTRY), sent
        assert sent.frame.cbid
        return sent.frame, Pinentry.from_payload_untrusted(sent.frame.payload)

    def refusal(self, service):
        """Return (request id, code) of the one ERROR that a program got."""
        (sent,) = self.only(e.SendService)
        assert (sent.service, sent.frame.cmd, sent.frame.cbid) == (service, Cmd.ERROR, 0), sent
        reply = ErrorReply.from_payload_untrusted(sent.frame.payload)
        return sent.frame.reqid, int(reply.message[1:4]), reply.tlserrno

    def type(self, frame, service=ME, **fields):
        return self.say(service, **{"reqid": frame.reqid, "cbid": frame.cbid, "pin": True, **fields})

    def try_it(self, code=Code.OK, tokens=READY):
        """Let the process that was started for a PIN open."""
        (start,) = self.only(e.StartToken)
        return self.opened(start.generation, code, tokens)

    def code(self):
        """Return the code that the worker got."""
        (answer,) = self.only(e.AnswerWorker)
        return Code(answer.message.code)

    def waits(self):
        """Ask for a signature that has to wait."""
        self.ask(self.grant())
        assert not self.only(e.AnswerWorker)

    def later(self, milliseconds):
        self.now_ms += milliseconds


# --- the way of a PIN -----------------------------------------------------------------------------------


def test_whoever_registers_is_asked_at_once_for_a_token_that_wants_its_pin():
    play = PinPlay()
    assert not play.only(e.SendService)
    play.say(reqid=5, flags=0x80, timeout_us=7)
    frame, question = play.asked()
    assert (frame.reqid, question.flags, question.timeout_us) == (5, 0x80, 7)
    assert (question.attempt, question.prompt, question.pin_secret) == (0, "Enter PIN: ", "")
    described = question.token_manuf, question.token_model, question.token_serial, question.token_label
    assert described == ("f", "m", "1", "t1")
    assert play.notes() == ["pin.service_registered", "pin.asked"]


def test_a_session_waits_for_the_pin_and_is_served():
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.waits()
    play.type(frame)
    assert play.only(e.KeepPin) == [e.KeepPin(ME, MODULE, T1)]
    (start,) = play.only(e.StartToken)
    assert (start.typed, start.pin_refused_by) == ((T1,), ())
    play.try_it()
    assert "pin.accepted" in play.notes()
    play.answer()
    assert play.only(e.AnswerWorker) == [e.AnswerWorker(1, Signed(code=Code.OK, signature=b"signature"), 0)]
    assert play.core.status({})["pin_service"] == {"service": "pinentry[1]", "asked_for": "", "tokens": []}


def test_the_order_of_effects_keeps_the_pin_before_it_is_used():
    play = PinPlay()
    play.say()
    play.type(play.asked()[0])
    kinds = [type(effect) for effect in play.last]
    assert kinds.index(e.KeepPin) < kinds.index(e.StartToken)


def test_a_wrong_pin_is_forgotten_and_asked_for_again_with_its_number():
    play = PinPlay("pin_tries 3", "pkcs11_path /lib/m.so", "pkcs11_token pkcs11:token=t1")
    play.say()
    frame, _ = play.asked()
    play.waits()
    play.type(frame)
    play.try_it(Code.PIN_WRONG, WRONG)
    assert play.only(e.ForgetPin) == [e.ForgetPin(MODULE, T1)]
    assert not play.only(e.StartToken)  # it is not tried again
    again, question = play.asked()
    assert (question.attempt, again.cbid != frame.cbid) == (1, True)
    assert not play.only(e.AnswerWorker)
    play.type(again)
    (start,) = play.only(e.StartToken)
    assert start.pin_refused_by == ()
    play.try_it(Code.PIN_WRONG, WRONG)
    last, question = play.asked()
    assert (question.attempt, "last try" in question.prompt) == (2, True)
    play.type(last)
    play.try_it()
    play.answer()
    assert play.code() is Code.OK


def test_after_so_many_wrong_pins_nobody_is_asked_any_more():
    play = PinPlay()
    play.say()
    play.waits()
    for attempt in range(2):
        if attempt == 0:
            play.say(OTHER)  # a second program changes nothing
            assert play.refusal(OTHER)[1] == Code.PINENTRY_TAKEN
            play.say(ME)  # withdraws the question, and is asked anew
        frame, question = play.asked()
        assert question.attempt == attempt
        play.type(frame)
        play.try_it(Code.PIN_WRONG, WRONG)
    assert "pin.stopped" in play.notes()
    assert not play.only(e.SendService)
    assert play.code() is Code.PIN_WRONG
    play.later(module.QUIET_MS)
    play.ask(play.grant())
    assert play.code() is Code.PIN_WRONG
    play(e.ServiceGone(ME, "closed"))
    play.say(OTHER)
    assert not play.only(e.SendService)
    play(e.PinForgiven())
    _, question = play.asked(OTHER)
    assert question.attempt == 0


@pytest.mark.parametrize("state", [Code.PIN_LOCKED, Code.PIN_LAST_TRY])
def test_a_token_near_its_lock_is_left_alone(state):
    play = PinPlay(tokens=(f"{T1} {state.name}",))
    play.say()
    assert not play.only(e.SendService)
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.waits()
    play.type(frame)
    play.try_it(state, (f"{T1} {state.name}",))
    assert not play.only(e.SendService)
    assert play.only(e.ForgetPin)
    assert play.code() is state


def test_two_tokens_are_asked_for_one_after_the_other_and_each_pin_goes_to_its_own():
    tokens = (f"{T1} PIN_MISSING", f"{T2} PIN_MISSING")
    play = PinPlay("pkcs11_path /lib/m.so", "pkcs11_token pkcs11:", tokens=tokens)
    play.say()
    frame, question = play.asked()
    assert question.token_label == "t1"
    play.type(frame)
    frame, question = play.asked()
    assert question.token_label == "t2"
    (start,) = play.only(e.StartToken)
    assert start.typed == (T1,)
    play.waits()  # a key of t1
    play.type(frame)  # while the process for t1 opens
    assert play.only(e.KeepPin) == [e.KeepPin(ME, MODULE, T2)]
    assert not play.only(e.StartToken)
    play.opened(start.generation, Code.OK, (f"{T1} ready", f"{T2} PIN_MISSING"))
    (second,) = play.only(e.StartToken)
    assert second.typed == (T1, T2)
    play.opened(second.generation, Code.OK, (f"{T1} ready", f"{T2} ready"))
    assert play.core.status({})["pin_service"]["tokens"] == []


# --- nobody types it ------------------------------------------------------------------------------------


def test_nobody_is_registered():
    play = PinPlay()
    play.ask(play.grant())
    assert play.code() is Code.PIN_MISSING


@pytest.mark.parametrize("answer", [{"pin": False}, {"cmd": Cmd.ERROR}, {"cmd": Cmd.PING, "pin": False}])
def test_declined(answer):
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.waits()
    play.type(frame, **answer)
    assert play.code() is Code.PIN_MISSING
    assert not play.only(e.KeepPin)
    assert not play.only(e.SendService)  # an answer, ERROR too, is the next registration
    play.ask(play.grant())
    assert play.code() is Code.PIN_MISSING  # not asked again at once
    play.later(module.QUIET_MS)
    play.waits()
    assert play.asked()[1].attempt == 0


def test_whoever_registers_after_somebody_declined_is_asked_at_once():
    play = PinPlay()
    play.say()
    play.type(play.asked()[0], pin=False)
    play(e.ServiceGone(ME, "closed"))
    play.say(OTHER)
    play.asked(OTHER)


def test_vanished_in_the_middle_of_the_question():
    play = PinPlay()
    play.say()
    play.asked()
    play.waits()
    play(e.ServiceGone(ME, "it closed its connection"))
    assert play.code() is Code.PIN_MISSING
    assert "pin.service_gone" in play.notes()
    play.say(OTHER)
    play.asked(OTHER)


def test_a_session_does_not_wait_for_ever_and_the_question_stays_open():
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.waits()
    play.later(PIN_WAIT_MS)
    play(e.TimerFired(e.Timer(e.Clock.PIN)))
    assert play.code() is Code.PIN_MISSING
    play.type(frame)
    (start,) = play.only(e.StartToken)
    play.waits()
    play.opened(start.generation)
    play.answer()
    assert play.code() is Code.OK


def test_a_pin_that_is_typed_while_a_process_opens_without_it():
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.later(30_000)
    play.waits()
    (without,) = play.only(e.StartToken)
    play.type(frame)
    assert not play.only(e.StartToken)
    play.opened(without.generation, Code.PIN_MISSING, MISSING)
    assert not play.only(e.SendService)  # that says nothing about the PIN
    (start,) = play.only(e.StartToken)
    assert start.typed == (T1,)
    play.opened(start.generation)
    play.answer()
    assert play.code() is Code.OK


def test_waiting_for_the_pin_does_not_count_as_waiting_for_the_token():
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.waits()
    play.later(PIN_WAIT_MS - 1)
    play(e.TimerFired(e.Timer(e.Clock.DEADLINE)))
    assert not play.only(e.AnswerWorker)
    play.type(frame)
    play.try_it()
    play.later(9_000)
    play(e.TimerFired(e.Timer(e.Clock.DEADLINE)))
    assert not play.only(e.AnswerWorker)


def test_the_process_that_tries_a_pin_dies():
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.waits()
    play.type(frame)
    for _ in range(2):
        (start,) = play.only(e.StartToken)
        assert start.typed == (T1,)
        play(e.TokenLost(start.generation, "signal SIGSEGV"))
    assert play.code() is Code.TOKEN_FAILED


def test_the_token_is_taken_out_while_somebody_types():
    play = PinPlay()
    play.say()
    frame, _ = play.asked()
    play.later(30_000)
    play.ask(play.grant())
    (start,) = play.only(e.StartToken)
    play.opened(start.generation, Code.TOKEN_GONE, ())
    assert play.code() is Code.TOKEN_GONE
    play.type(frame)
    assert not play.only(e.KeepPin)
    assert play.notes() == ["pin.unused"]


def test_a_token_that_was_typed_for_needs_no_second_answer_when_its_process_dies():
    play = PinPlay()
    play.say()
    play.type(play.asked()[0])
    (start,) = play.only(e.StartToken)
    play.try_it()
    play.ask(play.grant())
    play(e.TokenLost(start.generation, "signal SIGSEGV"))
    assert play.code() is Code.TOKEN_FAILED
    play.later(1_000)
    play.ask(play.grant())
    (start,) = play.only(e.StartToken)
    assert start.typed == (T1,)
    assert not play.only(e.SendService)


# --- the post -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", [ME, OTHER])
def test_one_registration_at_a_time(service):
    play = PinPlay(tokens=READY)
    play.say(ME)
    assert not play.only(e.SendService)  # no reply
    play.say(service, reqid=9)
    assert play.refusal(service) == (9, Code.PINENTRY_TAKEN, ComErr.PINENTRY_NOT_VACANT.number)
    play(e.ServiceGone(ME, "closed"))
    if service == OTHER:
        play.say(OTHER)
        assert not play.only(e.SendService)


def test_while_it_is_asked_others_have_to_wait_for_its_timeout():
    play = PinPlay()
    play.say(ME, timeout_us=2_000_000)
    frame, _ = play.asked()
    play.later(1_999)
    play.say(OTHER)
    assert play.refusal(OTHER)[1] == Code.PINENTRY_TAKEN
    play.later(1)
    play.say(OTHER)
    taken_over, _ = play.asked(OTHER)
    assert taken_over.cbid != frame.cbid
    play.type(frame)  # it answers nothing any more, so it is a registration
    assert play.refusal(ME)[1] == Code.PINENTRY_TAKEN
    assert not play.only(e.KeepPin)


def test_the_answer_to_another_callback_or_of_another_program_brings_no_pin():
    play = PinPlay()
    play.say(ME)
    frame, _ = play.asked()
    play.say(OTHER, cbid=frame.cbid, pin=True)
    assert play.refusal(OTHER)[1] == Code.PINENTRY_TAKEN
    assert not play.only(e.KeepPin)
    play.say(ME, cbid=frame.cbid + 1, pin=True)
    assert not play.only(e.KeepPin)
    again, _ = play.asked(ME)  # it registered again, which withdrew the question
    assert again.cbid != frame.cbid


def test_the_answer_names_the_request_id_and_the_timeout_of_the_next_question():
    play = PinPlay()
    play.say(ME, reqid=1, timeout_us=5)
    frame, _ = play.asked()
    play.type(frame, reqid=77, timeout_us=6, flags=2)
    play.try_it(Code.PIN_WRONG, WRONG)
    frame, question = play.asked()
    assert (frame.reqid, question.timeout_us, question.flags) == (77, 6, 2)


def test_who_may_not_serve_pins():
    play = PinPlay()
    play.say(STRANGER, reqid=3)
    assert play.refusal(STRANGER) == (3, Code.SERVICE_DENIED, ComErr.FACILITY_STARTTLS.number)
    assert play.only(e.CloseService) == [e.CloseService(STRANGER)]
    play.say(ME)
    play.asked(ME)


@pytest.mark.parametrize("line", ["pin_services 4711", "pin_services @4711", "pin_services 1,@2 4711"])
def test_who_may_by_configuration(line):
    play = PinPlay(line, "pkcs11_path /lib/m.so", "pkcs11_token pkcs11:token=t1")
    play.say(STRANGER)
    play.asked(STRANGER)


def test_a_command_that_is_not_for_keyd():
    play = PinPlay()
    play.say(ME, cmd=Cmd.STARTTLS, reqid=8)
    assert play.refusal(ME)[:2] == (8, Code.COMMAND_UNKNOWN)


def test_a_pin_in_the_configuration_comes_first():
    play = Play(opened=False)
    play.opened(1, Code.PIN_MISSING, MISSING)
    play(e.ServiceArrived(ME, 0, (0,), "pinentry[1]"))
    play(e.ServiceSaid(ME, e.ServiceFrame(0, 0, Cmd.PINENTRY)))
    assert not play.only(e.SendService)
    play.ask(play.grant())
    assert not play.only(e.SendService)


def test_connections_are_few():
    play = PinPlay()
    for number in range(10, 10 + module.SERVICES):
        play(e.ServiceArrived(number, 0, (0,), "x[1]"))
    assert play.only(e.CloseService) == [e.CloseService(number)]


def test_at_the_end_the_service_is_told_before_its_connection_is_closed():
    play = PinPlay(tokens=READY)
    play.say(ME, reqid=6)
    play.last = play.core.stop()
    assert play.refusal(ME)[:2] == (6, Code.STOPPING)
    assert [effect.service for effect in play.only(e.CloseService)] == [ME, OTHER, STRANGER]
    assert isinstance(play.last[0], e.SendService)


def test_a_search_behind_several_lines_is_not_held_up_by_one_that_wants_its_pin():
    play = Play(
        *("pkcs11_path /lib/a.so", "pkcs11_token pkcs11:", "pkcs11_path /lib/b.so", "pkcs11_token pkcs11:"),
        opened=False,
        asks_for_pins=True,
    )
    first, second = play.only(e.StartToken)
    play.opened(first.generation, Code.PIN_MISSING, (f"{T2} PIN_MISSING",))
    play.opened(second.generation)
    play(e.ServiceArrived(ME, 0, (0,), "pinentry[1]"))
    play(e.ServiceSaid(ME, e.ServiceFrame(0, 0, Cmd.PINENTRY)))
    play.ask(play.grant(key_uri=KEY))
    (find,) = play.only(e.SendToken)
    assert find.generation == second.generation
