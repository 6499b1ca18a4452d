"""The worker's core: what it wants done for each thing that happens, and what it does not stand for."""

import itertools
import os

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_worker import WORKER_ID
from tests.fixtures.software_handshakes import credential, start
from tests.unit.test_client_hello import load
from tlspool_common.errors import Code
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import (
    ClientHelloSeen,
    EndReason,
    EndSession,
    HandshakeDone,
    HandshakeFailed,
    PlainConnected,
    Proceed,
    SessionEnded,
    Side,
    Traffic,
    TrustAnchor,
    TrustBegin,
    UseCredential,
    UseKeyChannel,
    Verdict,
)
from tlspool_worker.effects import (
    Adopt,
    Attach,
    Begin,
    Drop,
    EndRelay,
    Finish,
    GoOn,
    Judge,
    Listen,
    Note,
    OpenRelay,
    Say,
    SendCipher,
    UseKeys,
)
from tlspool_worker.exits import Exit
from tlspool_worker.session import TABLE, State, alert_record
from tlspool_worker.sessions import BrokenBroker, Sessions
from tlspool_worker.shown import Chain, Wire, describe_untrusted
from tlspool_worker.telling import end_of
from tlspool_worker.tls import Step
from tlspool_worker.tls_errors import Fault

HELLO = load("openssl-1.3")


def fd():
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    return OwnedFd(read_fd)


def traffic(session_id, from_remote_b, to_remote_b):
    """What has been moved: of each record some bytes."""
    return Traffic(
        session_id=session_id,
        from_remote_b=from_remote_b,
        to_remote_b=to_remote_b,
        from_remote_records=from_remote_b // 5,
        to_remote_records=to_remote_b // 5,
        idle_ms=7,
    )


class Play:
    """A core, and what it wanted."""

    def __init__(self):
        self.wanted = []
        self.core = Sessions(WORKER_ID, self._want)
        self.numbers = itertools.count(1)
        self.core.broker_said(TrustBegin(generation=1))
        self.core.broker_said(TrustAnchor(generation=1, for_sides=3, certificate=certs.root().der))

    def _want(self, effect):
        self.wanted.append(effect)
        if isinstance(effect, EndRelay):  # the relay reports its end before the effect is done
            self.core.relay_ended(EndReason.ORDERED, traffic(effect.session_id, 1, 2), "")

    def take(self):
        found, self.wanted = self.wanted, []
        return found

    def started(self, side=Side.SERVER, **fields):
        number = next(self.numbers)
        self.core.broker_said(start(side, session_id=number, **fields), fd())
        self.take()
        return number

    def proceeding(self, side=Side.SERVER):
        """A session whose first step is being done."""
        number = self.started(side)
        if side is Side.SERVER:
            self.core.cipher_came(number, HELLO)
        self.core.broker_said(Proceed(session_id=number))
        self.take()
        return number

    def asking(self, side=Side.SERVER):
        """A session whose thread waits for a verdict."""
        number = self.proceeding(side)
        self.core.remote_shown(shown(number))
        self.take()
        return number

    def listening(self):
        """A peer that lets its remote begin."""
        number = self.started(Side.CLIENT, peer=True, listen_ms=200)
        self.core.broker_said(Proceed(session_id=number))
        self.take()
        return number

    def waiting(self, side=Side.SERVER):
        """A session that waits for its remote in the handshake."""
        number = self.proceeding(side)
        self.core.stepped(number, Step(b"flight"))
        self.take()
        return number

    def done(self):
        """A session that waits for its plaintext end."""
        number = self.proceeding()
        self.core.stepped(number, Step(b"", facts=facts(number)))
        self.take()
        return number

    def relaying(self):
        number = self.done()
        self.core.broker_said(PlainConnected(session_id=number), fd())
        self.take()
        return number

    def in_state(self, state):
        return {
            State.EXPECT_CLIENT_HELLO: self.started,
            State.EXPECT_PROCEED: lambda: self.started(Side.CLIENT),
            State.EXPECT_ROLE: self.listening,
            State.EXPECT_STEP: self.proceeding,
            State.EXPECT_VERDICT: self.asking,
            State.EXPECT_REMOTE: self.waiting,
            State.EXPECT_PLAINTEXT: self.done,
            State.RELAYING: self.relaying,
        }[state]()


@pytest.fixture
def play(no_leaks):
    made = Play()
    yield made
    made.wanted.clear()


def facts(number):
    return HandshakeDone(
        session_id=number,
        tls_version=0x0304,
        cipher="",
        group="",
        alpn=b"",
        sni="",
        remote_verified=False,
        remote_names=(),
        remote_subject="",
        remote_sha256=b"",
    )


def shown(number):
    chain = Chain(ders=(certs.leaf().der, certs.intermediate().der), anchored=False)
    return describe_untrusted(chain, Wire(session_id=number))


def verdict(number, code=Code.OK):
    return Verdict(session_id=number, code=int(code), detail="")


LIVING = [state for state in State if state is not State.OVER]


# --- stories ---------------------------------------------------------------------------------------------


def test_a_client_hello_in_pieces(play):
    play.core.broker_said(start(session_id=7), fd())
    adopted, listens = play.take()
    assert isinstance(adopted, Adopt)
    assert listens == Listen(7)
    play.core.cipher_came(7, HELLO[:100])
    assert play.take() == [Listen(7)]
    play.core.cipher_came(7, HELLO[100:] + b"early")
    assert play.take() == [Say(ClientHelloSeen(session_id=7, sni="www.example.com", alpn=b"\2h2\x08http/1.1"))]


def test_credentials_and_first_step(play):
    number = play.started()
    assert number == credential().session_id
    play.core.cipher_came(number, HELLO)
    play.take()
    play.core.broker_said(credential())
    play.core.broker_said(Proceed(session_id=number))
    (begin,) = play.take()
    assert isinstance(begin, Begin)
    assert begin.data == HELLO
    assert begin.credentials == (credential(),)
    assert begin.trust.number == 1
    play.core.stepped(number, Step(b"flight"))
    assert play.take() == [SendCipher(number, b"flight"), Listen(number)]
    play.core.cipher_came(number, b"finished")
    assert play.take() == [GoOn(number, b"finished")]
    play.core.stepped(number, Step(b"tickets", facts=facts(number)))
    assert play.take() == [SendCipher(number, b"tickets"), Say(facts(number)), OpenRelay(number)]
    play.core.broker_said(PlainConnected(session_id=number), fd())
    (attach,) = play.take()
    assert isinstance(attach, Attach)
    play.core.relay_ended(EndReason.CLEAN, traffic(number, 10, 20), "")
    ended = end_of(EndReason.CLEAN, traffic(number, 10, 20), "")
    assert (ended.from_remote_b, ended.from_remote_records, ended.to_remote_records, ended.idle_ms) == (10, 2, 4, 7)
    assert play.take() == [Say(ended)]
    assert len(play.core) == 0


def test_a_client_begins_at_once(play):
    number = play.started(Side.CLIENT)
    play.core.broker_said(Proceed(session_id=number))
    (begin,) = play.take()
    assert (begin.data, begin.credentials) == (b"", ())
    play.core.stepped(number, Step(b"hello"))
    assert play.take() == [SendCipher(number, b"hello"), Listen(number)]
    play.core.cipher_came(number, b"\x16\x03\x03flight")
    assert play.take() == [GoOn(number, b"\x16\x03\x03flight")]


def test_the_broker_is_asked_in_the_middle_of_a_step(play):
    number = play.proceeding()
    play.core.remote_shown(shown(number))
    assert play.take() == [Say(shown(number))]
    play.core.broker_said(verdict(number))
    assert play.take() == [Judge(verdict(number))]
    play.core.stepped(number, Step(b"finished", facts=facts(number)))
    assert play.take() == [SendCipher(number, b"finished"), Say(facts(number)), OpenRelay(number)]


def test_a_refusal_comes_back_as_a_fault(play):
    number = play.asking(Side.CLIENT)
    play.core.broker_said(verdict(number, Code.REVOKED))
    assert play.take() == [Judge(verdict(number, Code.REVOKED))]
    play.core.stepped(number, Step(b"alert", fault=Fault(Code.REVOKED, 44, "")))
    failed = HandshakeFailed(session_id=number, code=int(Code.REVOKED), alert=44, detail="")
    assert play.take() == [SendCipher(number, b"alert"), Drop(number), Say(failed)]


def test_a_thread_that_has_waited_long_enough(play):
    number = play.asking()
    play.core.stepped(number, Step(b"alert", fault=Fault(Code.VALIDATION_UNDECIDED, 46, "")))
    assert play.take()[:2] == [SendCipher(number, b"alert"), Drop(number)]
    play.core.broker_said(verdict(number))  # crosses that
    assert play.take() == []


@pytest.mark.parametrize("step", [Step(b"flight"), Step(b"", facts=None)])
def test_nothing_goes_on_without_a_verdict(play, step):
    number = play.asking()
    play.core.stepped(number, step)
    assert play.take()[-1].message.code == Code.INTERNAL
    assert len(play.core) == 0


def test_what_is_shown_too_late(play):
    number = play.proceeding()
    play.core.broker_said(EndSession(session_id=number, alert=255))
    play.take()
    play.core.remote_shown(shown(number))
    play.core.broker_said(verdict(number))
    assert play.take() == []


@pytest.mark.parametrize("state", [state for state in State if state not in (State.OVER, State.EXPECT_VERDICT)])
def test_a_verdict_that_nobody_asked_for(play, state):
    number = play.in_state(state)
    with pytest.raises(BrokenBroker, match=state.name):
        play.core.broker_said(verdict(number))
    with pytest.raises(BrokenBroker, match="not started"):
        play.core.broker_said(verdict(99))


def test_a_thread_that_has_told_the_broker_itself(play):
    number = play.proceeding()
    play.core.remote_told(number)
    assert play.take() == []
    play.core.broker_said(verdict(number))
    assert play.take() == [Judge(verdict(number))]
    with pytest.raises(BrokenBroker):
        play.core.broker_said(verdict(number))


def test_it_may_have_told_of_a_session_that_is_over(play):
    number = play.proceeding()
    play.core.broker_said(EndSession(session_id=number, alert=255))
    play.take()
    play.core.remote_told(number)
    play.core.broker_said(verdict(number))  # crosses that
    assert play.take() == []


def test_a_handshake_does_not_go_on_because_the_broker_was_told(play):
    number = play.proceeding()
    play.core.remote_told(number)
    play.core.stepped(number, Step(b"finished", facts=facts(number)))
    assert play.take()[-1].message.code == Code.INTERNAL


def test_a_second_verdict(play):
    number = play.asking()
    play.core.broker_said(verdict(number))
    with pytest.raises(BrokenBroker):
        play.core.broker_said(verdict(number))


def test_a_fault_is_reported_with_the_alert_on_its_way(play):
    number = play.proceeding()
    play.core.stepped(number, Step(b"alert", fault=Fault(Code.EXPIRED, 45, "the leaf")))
    failed = HandshakeFailed(session_id=number, code=int(Code.EXPIRED), alert=45, detail="the leaf")
    assert play.take() == [SendCipher(number, b"alert"), Drop(number), Say(failed)]


def test_a_fault_before_openssl_has_said_a_word_has_an_alert_too(play):
    number = play.proceeding()
    play.core.stepped(number, Step(b"", fault=Fault(Code.KEYD_UNREACHABLE, 80, "")))
    assert play.take()[0] == SendCipher(number, alert_record(80))
    number = play.proceeding()
    play.core.could_not_step(number, Code.SETTING_INVALID, "groups")
    assert play.take()[0] == SendCipher(number, alert_record(80))
    number = play.proceeding(Side.CLIENT)
    play.core.stepped(number, Step(b"", fault=Fault(Code.KEYD_UNREACHABLE, 80, "")))
    assert play.take()[0] == Drop(number)  # a server that was told nothing needs no alert


def test_a_received_alert_is_not_answered(play):
    number = play.proceeding()
    play.core.stepped(number, Step(b"", fault=Fault(Code.REMOTE_ALERT, 48, "", received=True)))
    assert play.take()[0] == Drop(number)
    number = play.started()
    play.core.cipher_came(number, b"\x15\x03\x01\x00\x02\x02\x30")
    dropped, said = play.take()
    assert dropped == Drop(number)
    assert (said.message.code, said.message.alert) == (Code.REMOTE_ALERT, 48)


@pytest.mark.parametrize("side", Side)
def test_plaintext_remotes(play, side):
    number = play.started() if side is Side.SERVER else play.waiting(Side.CLIENT)
    play.core.cipher_came(number, b"HTTP/1.0 400 Bad Request\r\n")
    dropped, said = play.take()
    assert dropped == Drop(number)
    assert said.message.code == Code.REMOTE_NOT_TLS


def test_later_bytes_of_a_client_s_remote_are_openssl_s_business(play):
    number = play.waiting(Side.CLIENT)
    play.core.cipher_came(number, b"\x16\x03\x03first")
    play.core.stepped(number, Step(b""))
    play.take()
    play.core.cipher_came(number, b"HTTP/ in the middle of a record")
    assert play.take() == [GoOn(number, b"HTTP/ in the middle of a record")]


@pytest.mark.parametrize("state", [State.EXPECT_CLIENT_HELLO, State.EXPECT_REMOTE])
@pytest.mark.parametrize(("reset", "code"), [("", Code.REMOTE_CLOSED), ("Connection reset", Code.REMOTE_RESET)])
def test_remotes_that_go_away(play, state, reset, code):
    number = play.in_state(state)
    play.core.cipher_ended(number, reset)
    dropped, said = play.take()
    assert dropped == Drop(number)
    assert said.message.code == code


def test_key_channels(play):
    play.core.broker_said(UseKeyChannel(worker_id=WORKER_ID), fd())
    (effect,) = play.take()
    assert isinstance(effect, UseKeys)


def test_an_anchor_that_cannot_be_read_is_noted(play):
    play.core.broker_said(TrustBegin(generation=2))
    play.core.broker_said(TrustAnchor(generation=2, for_sides=3, certificate=b"garbage"))
    (note,) = play.take()
    assert isinstance(note, Note)
    assert note.event == "trust.anchor_unreadable"


def test_details_fit_their_message(play):
    number = play.proceeding()
    play.core.stepped(number, Step(b"", fault=Fault(Code.NAME_MISMATCH, 42, "\u00fc" * 5000 + "\ud800")))
    assert len(play.take()[-1].message.detail.encode()) <= 512


# --- the broker ends a session ---------------------------------------------------------------------------


@pytest.mark.parametrize("state", LIVING)
def test_end_session_in_every_state(play, state):
    number = play.in_state(state)
    play.core.broker_said(EndSession(session_id=number, alert=112))
    wanted = play.take()
    said = [effect.message for effect in wanted if isinstance(effect, Say)]
    assert [type(message) for message in said] == [SessionEnded]
    assert said[0].reason is EndReason.ORDERED
    if state in (State.EXPECT_PLAINTEXT, State.RELAYING):
        assert wanted[0] == EndRelay(number)
    else:
        assert Drop(number) in wanted
    alerts = [effect.data for effect in wanted if isinstance(effect, SendCipher)]
    # Once OpenSSL has encrypted, an alert of ours would be garbage.
    unencrypted = state in (State.EXPECT_CLIENT_HELLO, State.EXPECT_PROCEED, State.EXPECT_ROLE)
    assert alerts == ([alert_record(112)] if unencrypted else [])
    assert len(play.core) == 0


def test_an_alert_to_a_server_that_has_not_answered(play):
    number = play.waiting(Side.CLIENT)
    play.core.broker_said(EndSession(session_id=number, alert=80))
    assert play.take()[0] == SendCipher(number, alert_record(80))


def test_no_alert(play):
    number = play.started()
    play.core.broker_said(EndSession(session_id=number, alert=255))
    assert play.take()[0] == Drop(number)


def test_a_step_that_comes_too_late(play):
    number = play.proceeding()
    play.core.broker_said(EndSession(session_id=number, alert=255))
    play.take()
    play.core.stepped(number, Step(b"flight"))
    play.core.could_not_step(number, Code.INTERNAL, "")
    assert play.take() == []


def messages_for(number):
    return [
        (UseCredential(session_id=number, key_kind=credential().key_kind, chain=(b"x",), grant=b""), None),
        (Proceed(session_id=number), None),
        (EndSession(session_id=number, alert=80), None),
        (PlainConnected(session_id=number), fd),
    ]


@pytest.mark.parametrize("which", range(4))
def test_messages_that_cross_the_end_are_dropped(play, which):
    number = play.started()
    play.core.cipher_ended(number)
    play.take()
    message, with_fd = messages_for(number)[which]
    play.core.broker_said(message, with_fd() if with_fd else None)
    assert play.take() == []


# --- another policy, for a server that its client has named ---------------------------------------------

OTHER = {
    "tls_min": 0x0304,
    "tls_max": 0x0304,
    "groups": "X25519",
    "ciphers_tls12": "ECDHE",
    "ciphersuites_tls13": "TLS_AES_128_GCM_SHA256",
    "sigalgs": "ed25519",
}


@pytest.mark.parametrize("names_anchors", [True, False])
def test_a_server_goes_on_under_another_policy(play, names_anchors):
    number = play.started()
    play.core.cipher_came(number, HELLO)
    play.take()
    play.core.broker_said(Proceed(session_id=number, names_anchors=names_anchors, **OTHER))
    (begin,) = play.take()
    assert begin.start == start(session_id=number, names_anchors=names_anchors, **OTHER)


def test_or_under_the_one_it_was_started_with(play):
    number = play.started(**OTHER)
    play.core.cipher_came(number, HELLO)
    play.core.broker_said(Proceed(session_id=number))
    assert play.take()[-1].start == start(session_id=number, **OTHER)


def test_a_peer_gets_another_policy_with_another_role(play):
    number = play.listening()
    play.core.cipher_came(number, HELLO)
    play.take()
    play.core.broker_said(Proceed(session_id=number, **OTHER))
    begin = play.take()[-1]
    assert (begin.start.side, begin.start.groups, begin.start.names_anchors) == (Side.SERVER, "X25519", False)


def test_a_client_gets_none(play):
    for fields in ({}, {"peer": True, "listen_ms": 200}):
        number = play.started(Side.CLIENT, **fields)
        with pytest.raises(BrokenBroker, match="not the handshake of a server"):
            play.core.broker_said(Proceed(session_id=number, **OTHER))


@pytest.mark.parametrize(
    "fields",
    [
        {"groups": "X25519"},
        {"ciphers_tls12": "ECDHE"},
        {"ciphersuites_tls13": "TLS_AES_128_GCM_SHA256"},
        {"sigalgs": "ed25519"},
        {"names_anchors": True},
        {"tls_min": 0x0303},
        {"tls_max": 0x0304},
        {"tls_min": 0x0301, "tls_max": 0x0304},
        {"tls_min": 0x0304, "tls_max": 0x0303},
        {"tls_min": 0xFFFF, "tls_max": 0xFFFF},
    ],
)
def test_half_a_policy_is_none(play, fields):
    number = play.started()
    play.core.cipher_came(number, HELLO)
    with pytest.raises(BrokenBroker, match="another policy"):
        play.core.broker_said(Proceed(session_id=number, **fields))


@pytest.mark.parametrize("state", [state for state in LIVING if state is not State.EXPECT_PROCEED])
def test_another_policy_in_the_wrong_state(play, state):
    with pytest.raises(BrokenBroker, match=state.name):
        play.core.broker_said(Proceed(session_id=play.in_state(state), **OTHER))


@pytest.mark.parametrize("state", [State.EXPECT_CLIENT_HELLO, State.EXPECT_ROLE, State.EXPECT_REMOTE])
def test_a_remote_that_goes_is_told_of_without_a_word_about_our_states(play, state):
    number = play.in_state(state)
    play.core.cipher_ended(number)
    failed = play.take()[-1].message
    assert (failed.code, failed.detail) == (Code.REMOTE_CLOSED, "")


# --- a broker that cannot be trusted ---------------------------------------------------------------------


@pytest.mark.parametrize("which", range(4))
def test_messages_for_sessions_that_never_were(play, which):
    message, with_fd = messages_for(99)[which]
    with pytest.raises(BrokenBroker):
        play.core.broker_said(message, with_fd() if with_fd else None)


@pytest.mark.parametrize("state", LIVING)
@pytest.mark.parametrize("which", [0, 1, 3])
def test_messages_in_the_wrong_state(play, state, which):
    number = play.in_state(state)
    message, with_fd = messages_for(number)[which]
    right = State.EXPECT_PLAINTEXT if which == 3 else State.EXPECT_PROCEED
    if state is right:
        play.core.broker_said(message, with_fd() if with_fd else None)
    else:
        with pytest.raises(BrokenBroker, match=state.name):
            play.core.broker_said(message, with_fd() if with_fd else None)


def test_sessions_that_waited_for_something_come_after_others_with_higher_numbers(play):
    for number in (7, 3, 5):
        play.core.broker_said(start(session_id=number), fd())
        assert any(isinstance(effect, Adopt) for effect in play.take())
    with pytest.raises(BrokenBroker):
        play.core.broker_said(Proceed(session_id=8))


def test_a_session_is_started_once_and_with_trust_that_is_there(play):
    play.started()
    for fields in ({"session_id": 1}, {"session_id": 50, "trust_generation": 9}):
        with pytest.raises(BrokenBroker):
            play.core.broker_said(start(**fields), fd())


def test_the_same_kind_of_credential_twice(play):
    number = play.started()
    play.core.cipher_came(number, HELLO)
    play.core.broker_said(credential())
    with pytest.raises(BrokenBroker):
        play.core.broker_said(credential())


def test_a_credential_without_a_chain(play):
    number = play.started(Side.CLIENT)
    empty = UseCredential(session_id=number, key_kind=credential().key_kind, chain=(), grant=b"")
    with pytest.raises(BrokenBroker):
        play.core.broker_said(empty)


def test_foreign_messages(play):
    with pytest.raises(BrokenBroker):
        play.core.broker_said(facts(1))
    with pytest.raises(BrokenBroker):
        play.core.broker_said(UseKeyChannel(worker_id=WORKER_ID + 1), fd())


# --- ends of the worker ----------------------------------------------------------------------------------


def test_without_broker_what_relays_goes_on(play):
    numbers = {state: play.in_state(state) for state in LIVING}
    play.core.broker_gone()
    wanted = play.take()
    dropped = {effect.session_id for effect in wanted if isinstance(effect, (Drop, EndRelay))}
    assert dropped == {number for state, number in numbers.items() if state is not State.RELAYING}
    assert not [effect for effect in wanted if isinstance(effect, (Say, Finish))]
    play.core.relay_ended(EndReason.CLEAN, traffic(numbers[State.RELAYING], 0, 0), "")
    assert play.take() == [Finish(Exit.OK)]


def test_without_broker_and_sessions_it_ends(play):
    play.core.broker_gone()
    assert play.take() == [Finish(Exit.OK)]


def test_retirement(play):
    number = play.relaying()
    failing = play.waiting()
    play.core.retire()
    assert play.take() == []
    play.core.cipher_ended(failing)
    assert not any(isinstance(effect, Finish) for effect in play.take())
    play.core.relay_ended(EndReason.CLEAN, traffic(number, 0, 0), "")
    assert play.take()[-1] == Finish(Exit.OK)


def test_termination(play):
    for state in LIVING:
        play.in_state(state)
    play.core.terminate()
    wanted = play.take()
    assert wanted[-1] == Finish(Exit.OK)
    assert len(play.core) == 0
    assert sum(isinstance(effect, EndRelay) for effect in wanted) == 2
    assert sum(isinstance(effect, Drop) for effect in wanted) == 6


# --- the table -------------------------------------------------------------------------------------------


def test_every_state_can_be_reached_and_left():
    reached = set().union(*TABLE.values())
    assert reached == set(State) - {State.EXPECT_CLIENT_HELLO}
    assert [state for state, following in TABLE.items() if not following] == [State.OVER]
    assert all(State.OVER in following for state, following in TABLE.items() if state is not State.OVER)


def test_a_way_that_is_not_in_the_table_is_a_bug(play):
    number = play.relaying()
    with pytest.raises(AssertionError):
        play.core._sessions[number].move(State.EXPECT_REMOTE)
