"""A worker whose broker dies, and another one that asks it: what goes on, what fails, and what is told."""

import pytest

from tests.playbook.test_worker_sessions import Play, fd, traffic
from tlspool_common.messages import (
    AskedByRemote,
    BrokerAway,
    EndKept,
    EndReason,
    KeepRecord,
    PlainConnected,
    SessionEnded,
    SessionHere,
    SessionsTold,
    TellSessions,
    TrustBegin,
)
from tlspool_worker.effects import Answer, Drop, EndRelay, Finish, ForgetQuestions, Note, Say, Wait
from tlspool_worker.exits import Exit
from tlspool_worker.session import State
from tlspool_worker.sessions import BrokenBroker
from tlspool_worker.telling import PORTION, UNSAID, UNSAID_MS, Telling, end_of

SETTING_UP = [state for state in State if state not in (State.RELAYING, State.OVER)]


@pytest.fixture
def play():
    return Play()


def said(play):
    return [effect.message for effect in play.take() if isinstance(effect, Say)]


def kept(play):
    """A session that relays, with its record."""
    number = play.done()
    play.core.broker_said(KeepRecord(session_id=number, record=b"record %d" % number))
    play.core.broker_said(PlainConnected(session_id=number), fd())
    play.take()
    return number


def ask(play, nonce=77, after=0):
    play.core.broker_said(TellSessions(nonce=nonce, after=after))


def here(number, nonce=77):
    return SessionHere(nonce=nonce, session_id=number, record=b"record %d" % number)


def end(play, number, reason=EndReason.CLEAN):
    play.core.relay_ended(reason, traffic(number, 5, 6), "")


def test_what_relays_is_told_in_order(play):
    numbers = [kept(play) for _ in range(3)]
    ask(play)
    assert said(play) == [*map(here, numbers), SessionsTold(nonce=77, last=numbers[-1], more=False)]


def test_portions(play):
    numbers = [kept(play) for _ in range(PORTION + 2)]
    ask(play)
    first = said(play)
    assert first[:-1] == [here(number) for number in numbers[:PORTION]]
    assert first[-1] == SessionsTold(nonce=77, last=numbers[PORTION - 1], more=True)
    end(play, numbers[-1])  # which nobody has heard of yet
    end(play, numbers[0])
    assert [message.session_id for message in said(play)] == [numbers[0]]
    ask(play, after=numbers[PORTION - 1])
    *rest, told = said(play)
    assert told == SessionsTold(nonce=77, last=numbers[-1], more=False)
    assert rest[:2] == [here(numbers[-2]), here(numbers[-1])]
    assert [type(message) for message in rest[2:]] == [SessionEnded]


@pytest.mark.parametrize("away_first", [True, False])
@pytest.mark.parametrize("state", SETTING_UP)
def test_what_is_being_set_up_fails_without_a_word_and_what_relays_goes_on(play, state, away_first):
    relaying = kept(play)
    number = play.in_state(state)
    if away_first:
        play.core.broker_said(BrokerAway())
    else:
        ask(play)
    effects = play.take()
    gone = [effect for effect in effects if isinstance(effect, Drop | EndRelay)]
    assert [effect.session_id for effect in gone] == [number]
    assert len(play.core) == 1
    assert not any(isinstance(effect, Finish) for effect in effects)
    words = [effect.message for effect in effects if isinstance(effect, Say)]
    assert words == ([] if away_first else [here(relaying), SessionsTold(nonce=77, last=relaying, more=False)])


def test_an_idle_worker_ends_with_its_broker(play):
    play.core.broker_said(BrokerAway())
    assert [effect for effect in play.take() if not isinstance(effect, Note)] == [Finish(Exit.OK)]


def test_nothing_is_said_while_there_is_no_broker_and_ends_are_told_later(play):
    one, other = kept(play), kept(play)
    play.core.broker_said(BrokerAway())
    play.take()
    end(play, one)
    assert not play.take()
    ask(play)
    ended = end_of(EndReason.CLEAN, traffic(one, 5, 6), "")
    assert said(play) == [here(one), ended, here(other), SessionsTold(nonce=77, last=other, more=False)]
    end(play, other)
    assert [message.session_id for message in said(play)] == [other]


def test_two_brokers_one_after_the_other(play):
    number = kept(play)
    for nonce in (1, 2):
        ask(play, nonce)
        assert said(play) == [here(number, nonce), SessionsTold(nonce=nonce, last=number, more=False)]
        play.core.broker_said(BrokerAway())
        play.take()


def test_the_last_end_waits_for_a_broker_and_not_for_ever(play):
    number = kept(play)
    play.core.broker_said(BrokerAway())
    play.take()
    end(play, number)
    assert play.take() == [Wait(0, UNSAID_MS)]
    play.core.waited(0)
    assert play.take() == [Finish(Exit.OK)]


def test_the_last_end_is_told_and_the_worker_stays_until_its_channel_ends(play):
    number = kept(play)
    play.core.broker_said(BrokerAway())
    end(play, number)
    play.take()
    ask(play)
    effects = play.take()
    assert not any(isinstance(effect, Finish) for effect in effects)
    words = [type(effect.message) for effect in effects if isinstance(effect, Say)]
    assert words == [SessionHere, SessionEnded, SessionsTold]
    play.core.waited(0)
    assert not play.take()
    play.core.broker_gone()
    assert play.take() == [Finish(Exit.OK)]


def test_a_worker_that_was_retired_still_tells(play):
    number = kept(play)
    play.core.broker_said(BrokerAway())
    play.core.retire()
    end(play, number)
    effects = play.take()
    assert Wait(0, UNSAID_MS) in effects
    assert not any(isinstance(effect, Finish) for effect in effects)


def test_a_channel_that_ends_lets_everything_go_on_and_nothing_be_told(play):
    number = kept(play)
    play.core.broker_gone()
    play.take()
    end(play, number)
    assert play.take() == [Finish(Exit.OK)]


def test_an_end_that_the_broker_that_died_did_not_wait_for(play):
    """A session that never relayed is none for another broker, record or not."""
    number = play.done()
    play.core.broker_said(KeepRecord(session_id=number, record=b"r"))
    other = kept(play)
    ask(play)
    assert said(play) == [here(other), SessionsTold(nonce=77, last=other, more=False)]
    assert number != other


def test_a_session_without_a_record_goes_on_and_is_not_told(play):
    number = play.relaying()
    ask(play)
    assert said(play) == [SessionsTold(nonce=77, last=0, more=False)]
    end(play, number)
    assert not said(play)


def test_a_new_record_takes_the_place_of_the_old_one(play):
    number = kept(play)
    play.core.broker_said(KeepRecord(session_id=number, record=b"newer"))
    ask(play)
    assert said(play)[0].record == b"newer"


def test_a_record_for_what_does_not_relay_breaks_the_table(play):
    number = play.started()
    with pytest.raises(BrokenBroker):
        play.core.broker_said(KeepRecord(session_id=number, record=b"r"))
    with pytest.raises(BrokenBroker):
        play.core.broker_said(KeepRecord(session_id=number + 1, record=b"r"))


def test_remotes_that_ask_meanwhile_hear_that_nobody_is_there(play):
    asked, later = kept(play), kept(play)
    play.core.remote_asks(asked)
    assert said(play) == [AskedByRemote(session_id=asked)]
    play.core.broker_said(BrokerAway())
    assert Answer(asked, ()) in play.take()
    play.core.remote_asks(later)
    assert play.take() == [Answer(later, ())]
    ask(play)
    play.take()
    play.core.remote_asks(later)
    assert said(play) == [AskedByRemote(session_id=later)]


def test_another_broker_counts_questions_and_generations_from_the_beginning(play):
    kept(play)
    ask(play)
    assert ForgetQuestions() in play.take()
    play.core.broker_said(TrustBegin(generation=1))
    ask(play, after=1)
    assert ForgetQuestions() not in play.take()
    with pytest.raises(BrokenBroker):
        play.core.broker_said(TrustBegin(generation=1))


def test_ends_that_nobody_hears_are_bounded():
    out = []
    telling = Telling(out.append)
    numbers = range(1, UNSAID + 11)
    for number in numbers:
        telling.keep(number, b"r", accounted=number % 2 == 0)
    telling.broker_away(set(numbers))
    for number in numbers:
        telling.ended(
            SessionEnded(session_id=number, reason=EndReason.CLEAN, from_remote_b=0, to_remote_b=0, detail="")
        )
    assert (telling.unsaid, out) == (UNSAID, [])
    telling.tell(TellSessions(nonce=1, after=0))
    assert out[0].message.session_id == 11
    assert telling.unsaid == UNSAID - PORTION // 2  # those that are accounted for stay


# --- sessions that are accounted for ----------------------------------------------------------------


def accounted(play):
    number = kept(play)
    play.core.broker_said(KeepRecord(session_id=number, record=b"record %d" % number, accounted=True))
    return number


def test_the_end_of_what_is_accounted_for_is_told_until_it_is_on_record(play):
    number, other = accounted(play), kept(play)
    end(play, number)
    end(play, other)
    ended = end_of(EndReason.CLEAN, traffic(number, 5, 6), "")
    assert said(play)[0] == ended
    for nonce in (1, 2):
        play.core.broker_said(BrokerAway())
        play.take()
        ask(play, nonce)
        assert said(play) == [here(number, nonce), ended, SessionsTold(nonce=nonce, last=number, more=False)]
    play.core.broker_said(EndKept(session_id=number))
    ask(play, 3)
    assert said(play) == [SessionsTold(nonce=3, last=0, more=False)]


def test_a_retired_worker_stays_until_the_last_end_is_on_record(play):
    numbers = [accounted(play) for _ in range(2)]
    play.core.retire()
    for number in numbers:
        end(play, number)
    assert not any(isinstance(effect, Finish) for effect in play.take())
    play.core.broker_said(EndKept(session_id=numbers[0]))
    assert play.take() == []
    play.core.broker_said(EndKept(session_id=numbers[1]))
    assert play.take() == [Finish(Exit.OK)]


def test_a_retired_worker_does_not_stay_for_ever(play):
    number = accounted(play)
    play.core.retire()
    end(play, number)
    assert Wait(0, UNSAID_MS) in play.take()
    play.core.waited(0)
    assert play.take() == [Finish(Exit.OK)]


def test_nobody_will_come_to_record_anything(play):
    number = accounted(play)
    end(play, number)
    play.take()
    play.core.broker_gone()
    assert play.take() == [Finish(Exit.OK)]


def test_a_session_may_stop_being_accounted_for(play):
    number = accounted(play)
    play.core.broker_said(KeepRecord(session_id=number, record=b"r"))
    end(play, number)
    play.take()
    ask(play)
    assert said(play) == [SessionsTold(nonce=77, last=0, more=False)]


def test_an_end_on_record_of_what_has_not_ended_breaks_the_table(play):
    with pytest.raises(BrokenBroker, match="has not ended"):
        play.core.broker_said(EndKept(session_id=accounted(play)))


def test_an_end_on_record_that_is_forgotten_already(play):
    play.core.broker_said(EndKept(session_id=5))
    assert play.take() == []
