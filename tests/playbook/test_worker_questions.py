"""The worker's core: questions to relays, remotes that ask, and peers that find their role."""

import pytest

from tests.playbook.test_symmetry import ALERT, SERVER_HELLO, hello
from tests.playbook.test_worker_sessions import HELLO, Play, facts, fd, traffic
from tlspool_common.errors import Code
from tlspool_common.messages import (
    AskedByRemote,
    AskExport,
    AskFact,
    AskRemote,
    AskTraffic,
    ClientHelloSeen,
    EndReason,
    EndSession,
    Fact,
    HandshakeFailed,
    KeyKind,
    PlainConnected,
    Proceed,
    Side,
    TrustBegin,
    UseCredential,
)
from tlspool_worker.effects import Answer, Ask, Attach, Begin, Drop, Finish, GoOn, Listen, Say, SendCipher, Wait
from tlspool_worker.exits import Exit
from tlspool_worker.session import State, alert_record
from tlspool_worker.sessions import BrokenBroker
from tlspool_worker.tls import Step


@pytest.fixture
def play(no_leaks):
    made = Play()
    yield made
    made.wanted.clear()


def export(number, question=1):
    return AskExport(
        session_id=number, question=question, label=b"EXPERIMENTAL-x", has_context=False, context=b"", size_b=16
    )


def fact(number, question=1):
    return AskFact(session_id=number, question=question, fact=Fact.REMOTE_SUBJECT, name=b"")


def moved(number):
    return AskTraffic(session_id=number)


def remote(number, question=1, generation=1):
    return AskRemote(
        session_id=number, question=question, trust_generation=generation, sigalgs="", remote_name="",
        domain_represents_user=False,
    )  # fmt: skip


# --- the broker asks --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [export, fact])
def test_a_question_goes_to_the_relay(play, make):
    number = play.relaying()
    play.core.broker_said(make(number))
    assert play.take() == [Ask(make(number), None)]


def test_a_question_to_the_remote_comes_with_anchors(play):
    number = play.relaying()
    play.core.broker_said(remote(number))
    [ask] = play.take()
    assert ask.message == remote(number)
    assert (ask.trust.number, ask.trust.frozen) == (1, True)


@pytest.mark.parametrize("make", [export, fact, remote, moved])
@pytest.mark.parametrize("state", [state for state in State if state not in (State.RELAYING, State.OVER)])
def test_a_question_about_a_session_that_does_not_relay(play, make, state):
    number = play.in_state(state)
    with pytest.raises(BrokenBroker):
        play.core.broker_said(make(number))


@pytest.mark.parametrize("make", [export, fact, remote, moved])
def test_a_question_that_crosses_the_end(play, make):
    number = play.relaying()
    play.core.relay_ended(EndReason.CLEAN, traffic(number, 0, 0), "")
    play.take()
    play.core.broker_said(make(number))
    assert play.take() == []


@pytest.mark.parametrize("make", [export, fact, remote, moved])
def test_a_question_about_no_session(play, make):
    with pytest.raises(BrokenBroker):
        play.core.broker_said(make(5))


def test_anchors_that_are_not_there(play):
    number = play.relaying()
    with pytest.raises(BrokenBroker):
        play.core.broker_said(remote(number, generation=2))


# --- the remote asks --------------------------------------------------------------------------------


def use(number, kind=KeyKind.EC_P256):
    return UseCredential(session_id=number, key_kind=kind, chain=(b"leaf",), grant=b"grant")


@pytest.mark.parametrize("state", [State.RELAYING, State.EXPECT_PLAINTEXT])
def test_a_remote_that_asks(play, state):
    number = play.in_state(state)
    play.core.remote_asks(number)
    assert play.take() == [Say(AskedByRemote(session_id=number))]
    play.core.broker_said(use(number))
    play.core.broker_said(use(number, KeyKind.RSA))
    assert play.take() == []
    play.core.broker_said(Proceed(session_id=number))
    assert play.take() == [Answer(number, (use(number), use(number, KeyKind.RSA)))]
    with pytest.raises(BrokenBroker):  # that was the answer
        play.core.broker_said(Proceed(session_id=number))


def test_a_remote_that_is_told_nothing(play):
    number = play.relaying()
    play.core.remote_asks(number)
    play.take()
    play.core.broker_said(Proceed(session_id=number))
    assert play.take() == [Answer(number, ())]


def test_another_policy_comes_too_late(play):
    number = play.relaying()
    play.core.remote_asks(number)
    with pytest.raises(BrokenBroker, match="another policy"):
        play.core.broker_said(Proceed(session_id=number, tls_min=0x0304, tls_max=0x0304))


@pytest.mark.parametrize("message", [use, lambda number: Proceed(session_id=number)])
def test_credentials_that_nobody_asked_for(play, message):
    number = play.relaying()
    with pytest.raises(BrokenBroker):
        play.core.broker_said(message(number))


def test_two_credentials_of_a_kind(play):
    number = play.relaying()
    play.core.remote_asks(number)
    play.core.broker_said(use(number))
    with pytest.raises(BrokenBroker):
        play.core.broker_said(use(number))


def test_the_plaintext_end_comes_meanwhile(play):
    number = play.done()
    play.core.remote_asks(number)
    play.take()
    play.core.broker_said(PlainConnected(session_id=number), fd())
    assert isinstance(play.take()[0], Attach)
    play.core.broker_said(Proceed(session_id=number))
    assert play.take() == [Answer(number, ())]


def test_a_session_that_ends_meanwhile(play):
    number = play.relaying()
    play.core.remote_asks(number)
    play.core.relay_ended(EndReason.CLEAN, traffic(number, 0, 0), "")
    play.take()
    play.core.broker_said(use(number))
    play.core.broker_said(Proceed(session_id=number))
    assert play.take() == []


def test_a_broker_that_goes_away_meanwhile(play):
    """Nobody can say who we are: the remote hears that, and the session goes on."""
    number = play.relaying()
    play.core.remote_asks(number)
    play.take()
    play.core.broker_gone()
    assert play.take() == [Answer(number, ())]
    play.core.remote_asks(number)
    assert play.take() == [Answer(number, ())]
    play.core.relay_ended(EndReason.CLEAN, traffic(number, 0, 0), "")
    assert play.take() == [Finish(Exit.OK)]


# --- peers ------------------------------------------------------------------------------------------


def hello_of(effects):
    [message] = [effect.message for effect in effects if isinstance(effect, Say)]
    assert isinstance(message, ClientHelloSeen)
    return message


def test_a_peer_listens_first(play):
    number = play.started(Side.CLIENT, peer=True, listen_ms=250)
    play.core.broker_said(Proceed(session_id=number))
    assert play.take() == [Listen(number), Wait(number, 250)]


def test_a_peer_that_hears_a_client_is_the_server(play):
    number = play.listening()
    play.core.cipher_came(number, HELLO[:200])
    assert play.take() == [Listen(number)]
    play.core.waited(number)
    assert play.take() == []  # somebody speaks: we do not
    play.core.cipher_came(number, HELLO[200:])
    assert hello_of(play.take()) == ClientHelloSeen(session_id=number, sni="www.example.com", alpn=b"\2h2\x08http/1.1")
    play.core.broker_said(use(number))
    play.core.broker_said(Proceed(session_id=number))
    [begin] = play.take()
    assert isinstance(begin, Begin)
    assert (begin.start.side, begin.start.peer) == (Side.SERVER, False)
    assert (begin.credentials, begin.data) == ((use(number),), HELLO)
    play.core.stepped(number, Step(b"flight"))
    play.core.cipher_came(number, b"finished")
    assert play.take()[-1] == GoOn(number, b"finished")
    play.core.waited(number)
    assert play.take() == []


def spoken(play, fill=7):
    """A peer that has sent its own ClientHello."""
    number = play.listening()
    play.core.waited(number)
    [begin] = play.take()
    assert isinstance(begin, Begin)
    assert (begin.start.side, begin.data) == (Side.CLIENT, b"")
    play.core.stepped(number, Step(hello(fill)))
    assert play.take() == [SendCipher(number, hello(fill)), Listen(number)]
    return number


@pytest.mark.parametrize("answer", [SERVER_HELLO, ALERT])
def test_a_peer_that_is_answered_is_the_client(play, answer):
    number = spoken(play)
    play.core.cipher_came(number, answer[:3])
    play.core.cipher_came(number, answer[3:])
    wanted = play.take()
    # an alert is OpenSSL's from its first octet on
    assert b"".join(effect.data for effect in wanted if isinstance(effect, GoOn)) in (answer, answer[:3])


def test_two_that_cross_the_smaller_serves(play):
    number = spoken(play, 3)
    play.core.cipher_came(number, hello(4))
    assert hello_of(play.take()).session_id == number
    play.core.broker_said(use(number))
    play.core.broker_said(Proceed(session_id=number))
    [begin] = play.take()
    assert (begin.start.side, begin.data, begin.credentials) == (Side.SERVER, hello(4), (use(number),))


def test_two_that_cross_the_greater_waits_for_its_answer(play):
    number = spoken(play, 4)
    play.core.cipher_came(number, hello(3))
    assert play.take() == [Listen(number)]
    play.core.cipher_came(number, SERVER_HELLO)
    assert play.take() == [GoOn(number, SERVER_HELLO)]


def test_two_that_cross_with_the_answer_close_behind(play):
    number = spoken(play, 4)
    play.core.cipher_came(number, hello(3) + SERVER_HELLO)
    assert play.take() == [GoOn(number, SERVER_HELLO)]


def test_a_client_that_speaks_while_openssl_makes_our_own_hello(play):
    """What comes then is not lost."""
    number = play.listening()
    play.core.waited(number)
    play.take()
    play.core.cipher_came(number, hello(9))
    assert play.take() == []
    play.core.stepped(number, Step(hello(3)))
    wanted = play.take()
    assert wanted[0] == SendCipher(number, hello(3))
    assert hello_of(wanted).session_id == number


def test_a_mirror_is_refused(play):
    number = spoken(play)
    play.core.cipher_came(number, hello(7))
    sent, dropped, said = play.take()
    assert (sent, dropped) == (SendCipher(number, alert_record(47)), Drop(number))
    assert isinstance(said.message, HandshakeFailed)
    assert (said.message.code, said.message.alert) == (Code.REMOTE_PROTOCOL, 47)


def test_plaintext_to_a_peer(play):
    number = play.listening()
    play.core.cipher_came(number, b"SSH-2.0-OpenSSH\r\n")
    assert play.take()[-1].message.code == Code.REMOTE_NOT_TLS


def test_a_remote_that_closes_while_a_peer_listens(play):
    number = play.listening()
    play.core.cipher_ended(number)
    assert play.take()[-1].message.code == Code.REMOTE_CLOSED
    play.core.waited(number)
    assert play.take() == []


def test_a_peer_that_is_ended_while_it_listens(play):
    number = play.listening()
    play.core.broker_said(EndSession(session_id=number, alert=255))
    play.take()
    play.core.waited(number)
    assert play.take() == []


def test_a_new_generation_of_anchors_meanwhile(play):
    """The session keeps the one that it began with, in either role."""
    number = play.listening()
    play.core.broker_said(TrustBegin(generation=2))
    play.core.cipher_came(number, HELLO)
    play.core.broker_said(Proceed(session_id=number))
    assert play.take()[-1].trust.number == 1


def test_facts_end_the_search_for_a_role(play):
    number = spoken(play)
    play.core.cipher_came(number, SERVER_HELLO)
    play.core.stepped(number, Step(b"finished", facts=facts(number)))
    play.core.broker_said(PlainConnected(session_id=number), fd())
    assert isinstance(play.take()[-1], Attach)
