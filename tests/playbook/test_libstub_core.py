"""libstub's core, driven by events: each state, and pools that say what they must not."""

import errno
import os
from dataclasses import replace

import pytest

from libstub.core import _TABLE, DEAF_S, SILENCE_S, ClientCore, State
from libstub.errors import Misuse, NotInControl, PoolUnavailable, ProtocolError, Refused, RemoteUnverified, Timeout
from libstub.events import (
    Abandoned,
    AskLocalid,
    AskPlain,
    Break,
    BytesReceived,
    CallbackRefused,
    Close,
    CommandAsked,
    ConnectionLost,
    DetailsAsked,
    Established,
    Finish,
    Forked,
    LocalidChosen,
    PingAsked,
    PlainGiven,
    Pong,
    Replied,
    Send,
    Shut,
    StarttlsAsked,
    Ticket,
    TimePassed,
)
from tlspool_common.appwire import (
    IDENTITY,
    Cmd,
    Details,
    ErrorReply,
    Flag,
    Frame,
    Options,
    Ping,
    Starttls,
    frame_untrusted,
)
from tlspool_common.fd import OwnedFd

pytestmark = pytest.mark.usefixtures("no_leaks")

KEY = bytes(range(16))
REQUEST = Starttls(
    flags=Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER, remoteid="www.example.com", ctlkey=KEY, timeout_ms=7
)
ESTABLISHED = Starttls(flags=REQUEST.flags, localid="me@example.com", remoteid="www.example.com", ctlkey=KEY)
DETAILS = Details(KEY, 5, 0x0304, 1, False, "TLS_AES_256_GCM_SHA384", "X25519MLKEM768", b"h2", "CN=x")


def some_fd():
    return OwnedFd(os.open("/dev/null", os.O_RDONLY))


class Play:
    """A core with a clock, and a pool that is played by the test."""

    def __init__(self):
        self.core = ClientCore()
        self.now_s = 1000.0
        self.closed = []

    def do(self, event):
        effects = self.core.handle(event, self.now_s)
        for effect in effects:
            if isinstance(effect, Close):
                assert not effect.fd.closed, "closed twice"
                effect.fd.close()
                self.closed.append(effect.fd)
            elif isinstance(effect, Send) and effect.fd is not None:
                effect.fd.fileno()  # still open when it is sent
        return [effect for effect in effects if not isinstance(effect, Close)]

    def say(self, cmd, payload=b"", reqid=1, cbid=0):
        return self.do(BytesReceived(Frame(reqid, cbid, cmd, payload).to_bytes()))

    def wait(self, seconds):
        self.now_s += seconds
        return self.do(TimePassed())


@pytest.fixture
def play():
    return Play()


def sent(effect):
    assert isinstance(effect, Send), effect
    return frame_untrusted(effect.data)


def finish(effects, kind):
    (effect,) = effects
    assert isinstance(effect, Finish), effects
    assert type(effect.outcome) is kind, effect.outcome
    return effect.outcome


def begin(play, ticket=1, **options):
    """Ask for STARTTLS, and return (descriptor, effects)."""
    crypt = some_fd()
    return crypt, play.do(StarttlsAsked(Ticket(ticket), REQUEST, crypt, **options))


def callback(play, cmd=Cmd.PLAINTEXT_CONNECT, reqid=1, cbid=9, **fields):
    return play.say(cmd, replace(ESTABLISHED, **fields).to_payload(), reqid, cbid)


# --- the stories ------------------------------------------------------------------------------------


def test_ping(play):
    (effect,) = play.do(PingAsked(Ticket(7), facilities=3))
    frame = sent(effect)
    assert (frame.reqid, frame.cbid, frame.cmd) == (1, 0, Cmd.PING)
    assert Ping.from_payload_untrusted(frame.payload) == Ping(IDENTITY, 3)
    assert finish(play.say(Cmd.PING, Ping("20200101x@example.com", 1).to_payload()), Pong) == Pong(
        "20200101x@example.com", 1
    )
    assert play.core.open_count == 0


def test_starttls_to_the_end(play):
    crypt, (effect,) = begin(play)
    assert sent(effect) == Frame(1, 0, Cmd.STARTTLS, REQUEST.to_payload().ljust(380, b"\0"))
    assert effect.fd is crypt
    assert callback(play) == [AskPlain(Ticket(1), "me@example.com", "www.example.com")]
    assert play.closed == [crypt]  # the pool has it, as its message shows
    plain = some_fd()
    (effect,) = play.do(PlainGiven(Ticket(1), plain))
    answer = sent(effect)
    assert (answer.reqid, answer.cbid, answer.cmd) == (1, 9, Cmd.PLAINTEXT_CONNECT)
    assert effect.fd is plain
    assert not plain.closed
    (effect,) = play.say(Cmd.STARTTLS, ESTABLISHED.to_payload())
    assert plain.closed
    assert sent(effect).cmd == Cmd.LOCAL_DETAILS
    assert sent(effect).payload[:16] == KEY
    outcome = finish(play.say(Cmd.LOCAL_DETAILS, DETAILS.to_payload()), Established)
    flags = ESTABLISHED.flags
    assert outcome == Established(KEY, "me@example.com", "www.example.com", DETAILS, flags=flags)
    assert play.core.open_count == 0


def established(play, details):
    """Bring a STARTTLS to the answer about its details; return the effects of that."""
    begin(play)
    callback(play)
    play.do(PlainGiven(Ticket(1), some_fd()))
    play.say(Cmd.STARTTLS, ESTABLISHED.to_payload())
    return play.say(Cmd.LOCAL_DETAILS, details.to_payload())


def test_alpn_goes_first(play):
    crypt, (effect,) = begin(play, alpn=b"\x02h2", details=False)
    assert Options.from_payload_untrusted(sent(effect).payload) == Options(KEY, b"\x02h2")
    (effect,) = play.say(Cmd.SUCCESS)
    assert sent(effect).cmd == Cmd.STARTTLS
    assert effect.fd is crypt
    assert finish(play.say(Cmd.STARTTLS, ESTABLISHED.to_payload()), Established).details is None


def test_a_pool_without_our_options_fails_before_the_socket_is_given(play):
    crypt, _ = begin(play, alpn=b"\x02h2")
    finish(play.say(Cmd.ERROR, ErrorReply(-1167372280, "").to_payload()), Misuse)
    assert crypt.closed


@pytest.mark.parametrize("reply", [Cmd.SUCCESS, Cmd.PRNG, Cmd.LOCAL_IDENTITIES])
def test_a_command_with_one_reply(play, reply):
    [asked] = play.do(CommandAsked(Ticket(1), Cmd.CONTROL_DETACH, b"p" * 380, reply, patience_s=5))
    assert (sent(asked).cmd, sent(asked).cbid, sent(asked).payload) == (Cmd.CONTROL_DETACH, 0, b"p" * 380)
    assert "ppp" not in repr(CommandAsked(Ticket(1), Cmd.CONTROL_DETACH, b"p" * 380, reply))
    assert finish(play.say(reply, b"r" * 380), Replied).payload == b"r" * 380
    assert play.core.open_count == 0


def test_a_command_that_is_refused_given_up_or_late(play):
    play.do(CommandAsked(Ticket(1), Cmd.CONTROL_DETACH, bytes(380), Cmd.SUCCESS, patience_s=5))
    refused = ErrorReply(-1167372271, "[120] the session is detached already").to_payload()
    assert finish(play.say(Cmd.ERROR, refused), NotInControl).code == 120
    play.do(CommandAsked(Ticket(2), Cmd.CONTROL_DETACH, bytes(380), Cmd.SUCCESS, patience_s=5))
    finish(play.wait(6), Timeout)
    assert play.say(Cmd.SUCCESS, reqid=2) == []
    play.do(CommandAsked(Ticket(3), Cmd.PRNG, bytes(380), Cmd.PRNG))
    play.do(Abandoned(Ticket(3)))
    assert play.say(Cmd.PRNG, reqid=3) == []
    assert play.core.open_count == 0


def test_localid_is_chosen_and_accepted(play):
    begin(play, details=False)
    assert callback(play, Cmd.STARTTLS_LOCALID) == [AskLocalid(Ticket(1), "me@example.com", "www.example.com")]
    (effect,) = play.do(LocalidChosen(Ticket(1), "other@example.com"))
    answer = sent(effect)
    assert (answer.cmd, answer.cbid) == (Cmd.STARTTLS_LOCALID, 9)
    assert Starttls.from_payload_untrusted(answer.payload).localid == "other@example.com"
    callback(play, Cmd.STARTTLS_LOCALID, cbid=10)
    plain = some_fd()
    (effect,) = play.do(LocalidChosen(Ticket(1), "me@example.com", plain))
    assert (sent(effect).cbid, effect.fd) == (10, plain)
    finish(play.say(Cmd.STARTTLS, ESTABLISHED.to_payload()), Established)
    assert plain.closed


def test_the_application_refuses(play):
    begin(play)
    callback(play)
    (effect,) = play.do(CallbackRefused(Ticket(1), errno.EMFILE))
    assert (sent(effect).cmd, sent(effect).cbid) == (Cmd.ERROR, 9)
    assert ErrorReply.from_payload_untrusted(sent(effect).payload).tlserrno == errno.EMFILE
    assert finish(play.say(Cmd.ERROR, ErrorReply(1, "[109] refused").to_payload()), Misuse).code == 109


def test_an_error_bears_its_code(play):
    crypt, _ = begin(play)
    outcome = finish(
        play.say(Cmd.ERROR, ErrorReply(1, "[406] the certificate is for another name").to_payload()), RemoteUnverified
    )
    assert outcome.code == 406
    assert crypt.closed


def test_details_that_are_refused_do_not_undo_the_session(play):
    begin(play)
    play.say(Cmd.STARTTLS, ESTABLISHED.to_payload())
    assert finish(play.say(Cmd.ERROR, ErrorReply(1, "[115]").to_payload()), Established).details is None


def test_details_alone(play):
    play.do(DetailsAsked(Ticket(1), KEY))
    assert finish(play.say(Cmd.LOCAL_DETAILS, DETAILS.to_payload()), Details) == DETAILS


def test_many_at_once_in_any_order(play):
    for number in range(1, 101):
        (effect,) = play.do(PingAsked(Ticket(number), facilities=number))
        assert sent(effect).reqid == number
    frames = [
        Frame(number, 0, Cmd.PING, Ping(IDENTITY, number).to_payload()).to_bytes() for number in range(100, 0, -1)
    ]
    data = b"".join(frames)
    outcomes = []
    for at in range(0, len(data), 1000):  # cut anywhere
        outcomes += play.do(BytesReceived(data[at : at + 1000]))
    assert {effect.ticket: effect.outcome.facilities for effect in outcomes} == {n: n for n in range(1, 101)}


def test_request_ids_go_round(play):
    play.core._last_reqid = 0xFFFE
    (one,) = play.do(PingAsked(Ticket(1)))
    (two,) = play.do(PingAsked(Ticket(2)))
    play.core._last_reqid = 0xFFFE
    (three,) = play.do(PingAsked(Ticket(3)))
    assert [sent(effect).reqid for effect in (one, two, three)] == [0xFFFF, 1, 2]


def test_all_request_ids_in_use(play):
    play.core._by_reqid = dict.fromkeys(range(1, 0x10000))
    finish(play.do(PingAsked(Ticket(1))), Misuse)


# --- given up ---------------------------------------------------------------------------------------


def test_given_up_before_the_pool_said_anything(play):
    crypt, _ = begin(play)
    assert play.do(Abandoned(Ticket(1))) == [Shut(crypt)]
    assert crypt.closed
    assert play.core.open_count == 1
    (effect,) = callback(play)  # it did not know yet
    assert (sent(effect).cmd, sent(effect).cbid) == (Cmd.ERROR, 9)
    assert play.say(Cmd.ERROR, ErrorReply(1, "x").to_payload()) == []
    assert play.core.open_count == 0


def test_given_up_while_asked(play):
    begin(play)
    callback(play)
    (effect,) = play.do(Abandoned(Ticket(1)))
    assert (sent(effect).cmd, sent(effect).cbid) == (Cmd.ERROR, 9)
    late = some_fd()
    assert play.do(PlainGiven(Ticket(1), late)) == []
    assert late.closed
    assert play.say(Cmd.STARTTLS, ESTABLISHED.to_payload()) == []
    assert play.core.open_count == 0


def test_given_up_twice_or_never_begun(play):
    assert play.do(Abandoned(Ticket(1))) == []
    assert play.do(CallbackRefused(Ticket(1))) == []
    play.do(PingAsked(Ticket(1)))
    assert play.do(Abandoned(Ticket(1))) == play.do(Abandoned(Ticket(1))) == []
    assert play.say(Cmd.PING, Ping().to_payload()) == []


# --- the end of the connection ----------------------------------------------------------------------


def test_the_connection_is_lost(play):
    crypt, _ = begin(play)
    play.do(PingAsked(Ticket(2)))
    effects = play.do(ConnectionLost("it stopped"))
    assert effects[0] == Shut(crypt)
    assert [(effect.ticket, type(effect.outcome), str(effect.outcome)) for effect in effects[1:]] == [
        (1, PoolUnavailable, "it stopped"),
        (2, PoolUnavailable, "it stopped"),
    ]
    assert crypt.closed
    assert play.do(ConnectionLost("again")) == []
    crypt, effects = begin(play, ticket=3)
    finish(effects, PoolUnavailable)
    assert crypt.closed
    assert play.do(BytesReceived(b"late")) == []


def test_a_forked_child_neither_speaks_nor_shuts_down(play):
    crypt, _ = begin(play)
    begin(play, ticket=2)
    callback(play, reqid=2)
    effects = play.do(Forked())
    assert [type(effect) for effect in effects] == [Finish, Finish]
    assert crypt.closed


# --- time -------------------------------------------------------------------------------------------


def test_patience(play):
    crypt, _ = begin(play, patience_s=5)
    assert play.wait(4.9) == []
    ended, shut = play.wait(0.1)
    assert shut == Shut(crypt)
    finish([ended], Timeout)
    assert play.wait(100) == []  # nobody waits any more


def test_patience_is_counted_anew_and_not_while_the_application_thinks(play):
    begin(play, patience_s=5)
    play.now_s += 4
    callback(play)
    assert play.wait(1000) == []
    play.do(PlainGiven(Ticket(1), some_fd()))
    assert play.wait(4) == []
    finish(play.wait(1), Timeout)


def test_a_silent_pool_is_asked_once_and_then_given_up(play):
    crypt, _ = begin(play)
    assert play.wait(SILENCE_S - 1) == []
    (effect,) = play.wait(1)
    assert (sent(effect).cmd, sent(effect).reqid) == (Cmd.PING, 2)
    assert play.wait(1) == []
    ended, shut = play.wait(DEAF_S - SILENCE_S)
    assert shut == Shut(crypt)
    assert "has said nothing for 31 s" in str(finish([ended], PoolUnavailable))


def test_a_pool_that_answers_the_ping_is_waited_for(play):
    begin(play)
    for _ in range(20):
        (effect,) = play.wait(SILENCE_S)
        assert play.say(Cmd.PING, Ping().to_payload(), sent(effect).reqid) == []
    assert callback(play)


# --- hostile pools ----------------------------------------------------------------------------------


def states():
    """Each state, with what brings a fresh Play into it."""

    def options(play):
        begin(play, alpn=b"\x01x")

    def answer(play):
        begin(play)
        callback(play)

    def details(play):
        begin(play)
        play.say(Cmd.STARTTLS, ESTABLISHED.to_payload())

    def last(play):
        begin(play)
        play.do(Abandoned(Ticket(1)))

    def one(play):
        play.do(CommandAsked(Ticket(1), Cmd.CONTROL_DETACH, bytes(380), Cmd.SUCCESS))

    return {
        State.EXPECT_ONE: one,
        State.EXPECT_PONG: lambda play: play.do(PingAsked(Ticket(1))),
        State.EXPECT_OPTIONS: options,
        State.EXPECT_REPLY: begin,
        State.EXPECT_ANSWER: answer,
        State.EXPECT_DETAILS: details,
        State.EXPECT_TAGS: lambda play: established(play, replace(DETAILS, tags=1)),
        State.EXPECT_LAST: last,
    }


def test_there_is_a_way_into_each_state():
    assert set(states()) == set(_TABLE) == set(State)
    for state, bring in states().items():
        play = Play()
        bring(play)
        assert play.core._by_reqid[1].state is state


SENSELESS = [
    pytest.param(state, cmd, id=f"{state.name}-{cmd:#x}")
    for state in State
    for cmd in [*Cmd, 0x11, 0xFFFFFFFF]
    if cmd not in _TABLE[state] and cmd != Cmd.ERROR and (state, cmd) != (State.EXPECT_ONE, Cmd.SUCCESS)
]


@pytest.mark.parametrize(("state", "cmd"), SENSELESS)
def test_what_makes_no_sense_fails_its_exchange_only(play, state, cmd):
    states()[state](play)
    play.do(PingAsked(Ticket(50)))
    effects = play.say(cmd, b"\xff" * 380, cbid=3)
    outcomes = [effect.outcome for effect in effects if isinstance(effect, Finish)]
    assert [type(outcome) for outcome in outcomes] == ([] if state is State.EXPECT_LAST else [ProtocolError])
    assert play.core._by_reqid[2].state is State.EXPECT_PONG
    finish(play.say(Cmd.PING, Ping().to_payload(), reqid=2), Pong)


@pytest.mark.parametrize(
    ("fields", "text"),
    [({"ctlkey": bytes(16)}, "another session"), ({"localid": "a\n"}, "control characters")],
)
@pytest.mark.parametrize("cmd", [Cmd.PLAINTEXT_CONNECT, Cmd.STARTTLS_LOCALID, Cmd.STARTTLS])
def test_malformed_starttls(play, cmd, fields, text):
    crypt, _ = begin(play)
    effects = callback(play, cmd, **fields)
    assert text in str(finish([one for one in effects if isinstance(one, Finish)], ProtocolError))
    assert crypt.closed
    if cmd == Cmd.STARTTLS:
        assert play.core.open_count == 0
    else:
        refused = next(sent(one) for one in effects if isinstance(one, Send))
        assert (refused.cmd, refused.cbid) == (Cmd.ERROR, 9)


def test_a_callback_without_an_id(play):
    begin(play)
    effects = callback(play, cbid=0)
    finish([one for one in effects if isinstance(one, Finish)], ProtocolError)


def test_a_second_callback_before_the_answer(play):
    begin(play)
    callback(play)
    refusals = [sent(one) for one in callback(play, cbid=10) if isinstance(one, Send)]
    assert {frame.cbid for frame in refusals} == {9, 10}


def test_details_of_another_session(play):
    begin(play)
    play.say(Cmd.STARTTLS, ESTABLISHED.to_payload())
    finish(play.say(Cmd.LOCAL_DETAILS, Details(bytes(16)).to_payload()), ProtocolError)


def test_an_id_that_is_not_open_breaks_the_connection(play):
    crypt, _ = begin(play)
    shut, ended, broken = play.say(Cmd.PING, b"", reqid=40000)
    assert shut == Shut(crypt)
    finish([ended], ProtocolError)
    assert isinstance(broken, Break)


def test_a_policy_refusal_is_told_apart(play):
    begin(play)
    finish(play.say(Cmd.ERROR, ErrorReply(1, "[202] not disclosed").to_payload()), Refused)
