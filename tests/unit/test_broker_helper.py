"""The life of a helper process: questions, hellos, ends, pauses, other settings."""

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
from tlspool_broker.helper import HELLO_MS, HUNG_MS, PAUSE_MS, Helper
from tlspool_broker.out import Out
from tlspool_common.messages import (
    PROTOCOL,
    Accounted,
    AskRadius,
    AskRevocation,
    DynamicTold,
    Finding,
    OnlineHello,
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
        number = self.helper.ask(message, self.heard.append, 1000, **fields)
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
    assert [effect.exchange for effect in world.of(SendHelper)] == [first, second, third]
    for number in (first, second, third):
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
