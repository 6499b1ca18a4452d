"""The life of a helper process: questions, hellos, ends, pauses, other settings."""

from dataclasses import replace

import pytest

from tlspool_broker.events import (
    Arm,
    Clock,
    Disarm,
    HelperKind,
    HelperNumber,
    Note,
    SendHelper,
    StartHelper,
    StopHelper,
    Timer,
)
from tlspool_broker.helper import HELLO_MS, HUNG_MS, PAUSE_MS, WELL_MS, Helper
from tlspool_broker.out import Out
from tlspool_common.messages import (
    PROTOCOL,
    Access,
    AccessTold,
    Accounted,
    AskAccess,
    AskRadius,
    AskRevocation,
    DynamicTold,
    Finding,
    OnlineHello,
    Purpose,
    RadiusTold,
    RevocationTold,
)

KIND = HelperKind.ONLINE
ASK = AskRevocation(wants=1, chain=(), crl_urls=(), ocsp_urls=(), deadline_ms=1000)
TOLD = RevocationTold(crl=Finding.GOOD, ocsp=Finding.NONE, detail="")
HELLO = OnlineHello(protocol=PROTOCOL, pid=44)


class World:
    """A helper, with what comes out of it."""

    def __init__(self, most=10, *, used=True, always=False, **fields):
        self.out = Out()
        self.out.now_ms = 1_000_000
        self.greeted = 0
        self.helper = Helper(self.out, KIND, most, greeted=self.greet, **fields)
        self.helper.configure(used=used, always=always)
        self.heard = []

    def greet(self):
        self.greeted += 1

    def ask(self, message=ASK, **fields):
        number = self.helper.ask(message, self.heard.append, getattr(message, "deadline_ms", 1000), **fields)
        self.took = self.out.take()
        return number

    def say(self, message, exchange=0, number=1):
        self.helper.said(HelperNumber(KIND, number), exchange, message)
        self.took = self.out.take()

    def take(self, *kinds):
        self.took = self.out.take()
        return self.of(*kinds)

    def of(self, *kinds):
        return [one for one in self.took if not kinds or isinstance(one, kinds)]


@pytest.fixture
def world():
    return World()


def one(number):
    return HelperNumber(KIND, number)


def test_it_is_started_by_the_first_question_and_then_stays(world):
    first = world.ask()
    assert world.took == [StartHelper(one(1)), Arm(Timer(Clock.HELPER, KIND.value), HELLO_MS)]
    assert (world.helper.state, world.helper.ready, world.helper.start_left_ms) == ("starting", False, HELLO_MS)
    second = world.ask()
    assert world.took == []
    world.say(HELLO)
    assert [effect.exchange for effect in world.of(SendHelper)] == [first, second]
    assert world.of(Disarm)
    assert (world.helper.state, world.helper.start_left_ms, world.greeted) == ("ready", 0, 1)
    third = world.ask()
    assert world.took == [SendHelper(one(1), third, ASK)]
    world.say(TOLD, second)
    assert world.heard == [TOLD]
    assert len(world.helper) == 2


def test_it_is_not_started_where_it_is_not_used():
    world = World(used=False)
    assert world.ask() == 0
    world.helper.want()
    world.helper.began()
    assert world.take() == []
    assert (world.helper.state, world.helper.used) == ("not used", False)
    assert world.helper.counters.not_asked == 1


@pytest.mark.parametrize("how", ["began", "want"])
@pytest.mark.parametrize("always", [False, True])
def test_it_is_started_before_a_question_where_it_is_wanted(how, always):
    world = World(always=always)
    getattr(world.helper, how)()
    assert bool(world.take(StartHelper)) == (always or how == "want")


def test_who_asks_hears_when_it_was_sent(world):
    sent = []
    world.ask(sent=lambda: sent.append(1))
    assert sent == []
    world.say(HELLO)
    assert sent == [1]
    world.ask(sent=lambda: sent.append(2))
    assert sent == [1]  # at once is not told


def test_there_are_so_many_questions():
    world = World(most=2)
    assert world.ask()
    assert world.ask()
    assert world.ask() == 0
    assert world.ask(quiet=True) == 0
    assert (world.helper.counters.asked, world.helper.counters.not_asked) == (2, 1)


def test_a_question_that_is_forgotten(world):
    number = world.ask()
    world.say(HELLO)
    world.helper.forget(number)
    world.helper.forget(number)
    world.helper.forget(4711)
    assert len(world.helper) == 1
    world.say(TOLD, number)
    assert world.heard == []
    assert (world.helper.counters.given_up, world.helper.counters.answered, len(world.helper)) == (1, 1, 0)


def test_quiet_questions_are_not_counted(world):
    world.ask(quiet=True)
    number = world.ask(quiet=True)
    world.say(HELLO)
    world.say(TOLD, number)
    world.helper.forget(1)
    world.helper.lost(one(1), "gone")
    counters = world.helper.counters
    assert (counters.asked, counters.answered, counters.unanswered, counters.given_up) == (0, 0, 0, 0)


@pytest.mark.parametrize("message", [Accounted(code=0, detail=""), HELLO])
def test_what_it_may_not_say_ends_it(world, message):
    number = world.ask()
    if message is HELLO:
        message = OnlineHello(protocol=PROTOCOL + 1, pid=1)
    else:
        world.say(HELLO)
    world.say(message, number)
    assert world.of(StopHelper) == [StopHelper(one(1))]
    assert world.heard == [None]
    assert world.helper.state == "absent"


def test_an_answer_to_nothing_ends_it(world):
    world.ask()
    world.say(HELLO)
    world.say(TOLD, 99)
    assert world.of(StopHelper)
    assert world.heard == [None]


def test_an_answer_before_its_hello_ends_it(world):
    number = world.ask()
    world.say(TOLD, number)
    assert world.of(StopHelper)
    assert world.heard == [None]


def test_pauses_grow_and_an_answer_ends_them(world):
    world.ask()
    for number, pause_ms in enumerate((*PAUSE_MS, PAUSE_MS[-1]), 1):
        world.helper.lost(one(number), "cannot be started")
        [note] = world.take(Note)
        assert note.fields == {
            "helper": "online",
            "detail": "cannot be started",
            "questions": int(number == 1),
            "pause_ms": pause_ms,
        }
        assert world.of(Arm) == [Arm(Timer(Clock.HELPER, KIND.value), pause_ms)]
        world.out.now_ms += pause_ms - 1
        world.helper.timed_out()
        assert world.take() == []
        assert world.ask() == 0
        world.out.now_ms += 1
        world.helper.timed_out()
        assert world.take(StartHelper) == [StartHelper(one(number + 1))]
    last = len(PAUSE_MS) + 2
    number = world.ask()
    world.say(HELLO, number=last)
    world.say(TOLD, number, last)
    world.helper.lost(one(last), "gone")
    assert world.take(Note)[0].fields["pause_ms"] == PAUSE_MS[0]


def test_one_that_is_not_believed_any_more(world):
    world.ask()
    world.helper.lost(one(9), "another")
    assert world.take() == []
    assert world.helper.is_current(one(1))
    assert not world.helper.is_current(one(9))


def test_a_hello_that_does_not_come(world):
    world.ask()
    world.out.now_ms += HELLO_MS
    world.helper.timed_out()
    assert world.take(StopHelper)
    assert world.of(Note)[0].fields["detail"] == "it does not say hello"
    assert world.heard == [None]


def test_a_timer_that_fires_when_it_is_ready_means_nothing(world):
    world.ask()
    world.say(HELLO)
    world.helper.timed_out()
    assert world.take() == []


def test_one_that_hangs(world):
    world.ask()
    world.say(HELLO)
    world.out.now_ms += 1000 + HUNG_MS - 1
    assert world.ask()
    world.out.now_ms += 1
    assert world.ask() == 0
    assert world.of(StopHelper)
    assert world.of(Note)[0].fields["detail"] == "it does not answer"
    assert world.heard == [None, None]


def test_it_is_told_things_when_it_is_ready(world):
    told = DynamicTold(sessions=1, error_cause=0)
    world.helper.tell(told, 7)
    assert world.take() == []
    world.ask()
    world.say(HELLO)
    world.helper.tell(told, 7)
    assert world.take() == [SendHelper(one(1), 7, told)]


def test_the_broker_ends(world):
    world.ask()
    world.helper.stop()
    assert world.take(StopHelper)
    world.helper.stop()
    assert world.take() == []
    assert world.ask() == 0


# --- waiting for the next one ---------------------------------------------------------------------------

ACCESS = AskAccess(purpose=Purpose.AUTHORIZE, attributes=(), state=b"", deadline_ms=1000, password=b"secret")
ACCEPTED = AccessTold(
    access=Access.ACCEPTED, detail="", message="", user_name="", classes=(), tags=(), state=b"", session_timeout_s=0,
    idle_timeout_s=0, interim_s=0, terminate=0, server="192.0.2.1:1812", elapsed_ms=5,
)  # fmt: skip


@pytest.fixture
def waiting():
    """A helper that questions wait for."""
    world = World(always=True, asks_again=True)
    world.helper.began()
    world.say(HELLO)
    return world


def goes(world, number, pause_ms=PAUSE_MS[0], *, back=True):
    """One goes, and the next one is started; what was sent to that one is returned, if it says hello."""
    world.helper.lost(one(number), "gone")
    assert not world.take(StartHelper)
    world.out.now_ms += pause_ms
    world.helper.timed_out()
    assert world.take(StartHelper)
    if back:
        world.say(HELLO, number=number + 1)
    return [(effect.exchange, effect.message.deadline_ms) for effect in world.of(SendHelper)]


def test_what_was_asked_is_asked_once_more_with_what_is_left_of_its_time(waiting):
    sent = []
    number = waiting.ask(replace(ACCESS, deadline_ms=5000), tries=2, sent=lambda: sent.append(1))
    waiting.out.now_ms += 300
    assert goes(waiting, 1) == [(number, 4700 - PAUSE_MS[0])]
    assert (waiting.heard, sent) == ([], [])
    waiting.say(ACCEPTED, number, 2)
    assert waiting.heard == [ACCEPTED]
    assert (waiting.helper.counters.answered, waiting.helper.counters.unanswered) == (1, 0)


def test_what_has_no_time_left_is_not_asked_once_more(waiting):
    waiting.ask(ACCESS, tries=2)
    assert goes(waiting, 1, back=False) == []
    assert waiting.heard == []
    waiting.say(HELLO, number=2)
    assert not waiting.of(SendHelper)
    assert waiting.heard == [None]
    assert (len(waiting.helper), waiting.helper.counters.unanswered) == (0, 1)


def test_what_is_asked_meanwhile_has_all_its_time(waiting):
    waiting.helper.lost(one(1), "gone")
    assert waiting.helper.away_left_ms == PAUSE_MS[0] + HELLO_MS
    waiting.out.now_ms += 400
    assert waiting.helper.away_left_ms == PAUSE_MS[0] + HELLO_MS - 400
    sent = []
    number = waiting.ask(ACCESS, tries=1, sent=lambda: sent.append(1))
    assert number
    assert not waiting.of(StartHelper)  # the pause is not over
    waiting.out.now_ms += PAUSE_MS[0] - 400
    waiting.helper.timed_out()
    assert waiting.take(StartHelper)
    assert waiting.helper.away_left_ms == HELLO_MS
    assert sent == []
    waiting.say(HELLO, number=2)
    assert waiting.of(SendHelper) == [SendHelper(one(2), number, ACCESS)]
    assert sent == [1]
    assert waiting.helper.away_left_ms == 0


def test_what_may_be_asked_once_only_is(waiting):
    waiting.ask(ACCESS, tries=1)
    waiting.helper.lost(one(1), "gone")
    assert waiting.heard == [None]
    assert len(waiting.helper) == 0


def test_a_question_goes_to_two_helpers_even_if_others_are_answered_meanwhile(waiting):
    waiting.ask(replace(ACCESS, deadline_ms=100_000), tries=2)
    for number in (1, 2):
        assert waiting.heard == []
        waiting.say(ACCEPTED, waiting.ask(ACCESS, tries=2), number)
        waiting.heard.clear()
        goes(waiting, number)
    assert waiting.heard == [None]
    assert waiting.helper.ready


def test_its_time_runs_from_when_the_first_helper_had_it(waiting):
    number = waiting.ask(replace(ACCESS, deadline_ms=9000), tries=3)
    for helper in (1, 2):
        waiting.say(ACCEPTED, waiting.ask(ACCESS, tries=1), helper)
        assert goes(waiting, helper) == [(number, 9000 - helper * PAUSE_MS[0])]


def test_nobody_waits_where_another_one_does_not_answer_as_well(world):
    world.ask(tries=2)
    world.helper.lost(one(1), "gone")
    assert (world.heard, world.helper.away_left_ms) == ([None], 0)
    assert world.ask(tries=2) == 0


@pytest.mark.parametrize("hello", [False, True])
def test_nobody_waits_for_the_third_in_a_row(waiting, hello):
    waiting.helper.lost(one(1), "gone")
    waiting.ask(ACCESS, tries=2)
    waiting.out.now_ms += PAUSE_MS[0]
    waiting.helper.timed_out()
    if hello:
        waiting.say(HELLO, number=2)
    waiting.helper.lost(one(2), "gone, too")
    assert waiting.heard == [None]
    assert waiting.helper.away_left_ms == 0
    assert waiting.ask(ACCESS, tries=2) == 0
    waiting.out.now_ms += PAUSE_MS[1]
    waiting.helper.timed_out()  # while that one starts it is waited for, as any is
    assert waiting.ask(ACCESS, tries=2)
    waiting.helper.lost(one(3), "and that")
    assert waiting.heard == [None, None]


@pytest.mark.parametrize(("well_ms", "waits"), [(WELL_MS - 1, False), (WELL_MS, True)])
def test_one_that_was_well_for_long_has_not_failed_in_a_row(waiting, well_ms, waits):
    goes(waiting, 1)
    waiting.out.now_ms += well_ms
    waiting.ask(ACCESS, tries=2)
    waiting.helper.lost(one(2), "gone")
    assert waiting.heard == ([] if waits else [None])
    assert bool(waiting.ask(ACCESS, tries=1)) == waits


def test_who_does_not_wait_is_told_at_once(waiting):
    waiting.ask(quiet=True)
    waiting.helper.lost(one(1), "gone")
    assert waiting.heard == [None]
    assert waiting.ask(quiet=True) == 0


def test_a_question_that_is_forgotten_while_it_waits_is_gone(waiting):
    """So is its password."""
    first, second = waiting.ask(ACCESS, tries=2), waiting.ask(replace(ACCESS, deadline_ms=5000), tries=2)
    waiting.helper.lost(one(1), "gone")
    third = waiting.ask(ACCESS, tries=1)
    for number in (first, third):
        waiting.helper.forget(number)
    assert list(waiting.helper._open) == [second]
    counters = waiting.helper.counters
    assert (counters.asked, counters.given_up, counters.unanswered) == (3, 2, 2)
    waiting.helper.forget(second)
    waiting.out.now_ms += PAUSE_MS[0]
    waiting.helper.timed_out()
    waiting.say(HELLO, number=2)
    assert not waiting.of(SendHelper)
    assert waiting.heard == []


def test_a_question_that_was_forgotten_before_waits_for_nobody(waiting):
    waiting.helper.forget(waiting.ask(ACCESS, tries=2))
    waiting.helper.lost(one(1), "gone")
    assert (len(waiting.helper), waiting.heard) == (0, [])


def test_those_that_wait_are_bounded():
    world = World(most=2, always=True, asks_again=True)
    world.helper.began()
    world.helper.lost(one(1), "it cannot be started")
    assert world.ask(ACCESS, tries=2)
    assert world.ask(ACCESS, tries=2)
    assert world.ask(ACCESS, tries=2) == 0


def test_other_settings_bring_one_at_once_and_what_waits_has_all_its_time(waiting):
    number = waiting.ask(ACCESS, tries=2)
    waiting.helper.lost(one(1), "gone")
    waiting.out.now_ms += 300
    waiting.helper.reconfigured()
    assert waiting.take(StartHelper) == [StartHelper(one(2))]
    waiting.say(HELLO, number=2)
    assert waiting.of(SendHelper) == [SendHelper(one(2), number, replace(ACCESS, deadline_ms=700))]
    waiting.helper.reconfigured()
    waiting.say(HELLO, number=3)
    assert waiting.of(SendHelper) == [SendHelper(one(3), number, ACCESS)]


def test_where_none_is_used_any_more_nobody_waits(waiting):
    waiting.ask(ACCESS, tries=2)
    waiting.helper.lost(one(1), "gone")
    waiting.helper.configure(used=False, always=False)
    waiting.helper.reconfigured()
    assert waiting.heard == [None]
    assert not waiting.take(StartHelper)
    assert waiting.ask(ACCESS, tries=2) == 0


def test_the_broker_ends_while_questions_wait(waiting):
    waiting.ask(ACCESS, tries=2)
    waiting.helper.lost(one(1), "gone")
    waiting.take()
    waiting.helper.stop()
    waiting.out.now_ms += PAUSE_MS[0]
    waiting.helper.timed_out()
    assert waiting.take() == []
    assert waiting.ask(ACCESS, tries=2) == 0


# --- other settings -------------------------------------------------------------------------------------


def test_an_idle_one_is_replaced_at_once(world):
    number = world.ask()
    world.say(HELLO)
    world.say(TOLD, number)
    world.helper.reconfigured()
    assert world.take(StopHelper, StartHelper) == [StopHelper(one(1)), StartHelper(one(2))]


def test_a_busy_one_answers_first(world):
    first, second = world.ask(), world.ask()
    world.say(HELLO)
    world.helper.reconfigured()
    assert world.take() == []
    world.say(TOLD, first)
    assert not world.of(StopHelper)
    world.say(TOLD, second)
    assert world.of(StopHelper, StartHelper) == [StopHelper(one(1)), StartHelper(one(2))]
    assert world.heard == [TOLD, TOLD]


def test_or_is_replaced_at_once_and_its_questions_are_asked_again():
    world = World(asks_again=True)
    first, second = world.ask(), world.ask()
    world.say(HELLO)
    world.helper.forget(first)
    world.helper.reconfigured()
    assert world.take(StopHelper, StartHelper) == [StopHelper(one(1)), StartHelper(one(2))]
    assert world.heard == []
    third = world.ask()
    world.say(HELLO, number=2)
    assert [effect.exchange for effect in world.of(SendHelper)] == [second, third]  # nobody wants to know the first
    for number in (second, third):
        world.say(TOLD, number, 2)
    assert world.heard == [TOLD, TOLD]
    assert len(world.helper) == 0


def test_one_that_is_not_used_any_more():
    world = World(asks_again=True)
    world.ask()
    world.say(HELLO)
    world.helper.configure(used=False, always=False)
    world.helper.reconfigured()
    assert world.take(StopHelper)
    assert not world.of(StartHelper)
    assert world.heard == [None]


def test_one_that_is_not_there_is_started_if_it_is_wanted_now(world):
    world.helper.reconfigured()
    assert world.take() == []
    world.helper.configure(used=True, always=True)
    world.helper.reconfigured()
    assert world.take(StartHelper) == [StartHelper(one(1))]


def test_answers_fit_their_questions():
    world = World()
    number = world.ask(AskRadius(after=0, count=0, retry=False))
    world.say(HELLO)
    told = RadiusTold(waiting=0, oldest_s=0, open=0, sent=0, refused=0, servers=(), records=())
    world.say(told, number)
    assert world.heard == [told]


def test_other_settings_end_the_pause(world):
    world.ask()
    world.helper.lost(one(1), "it cannot be started")
    assert world.ask() == 0
    world.helper.reconfigured()
    assert world.take(StartHelper) == [StartHelper(one(2))]
    world.helper.lost(one(2), "neither can this")
    assert world.take(Note)[0].fields["pause_ms"] == PAUSE_MS[0]
