"""How the helper asks servers about access: who is asked when, what counts as an answer, what is told in the end."""

import pytest

from tests.fixtures import radius_codec as codec
from tests.playbook.radius import REFUSED, World
from tlspool_common.messages_radius import Access, Purpose
from tlspool_radius import bounds
from tlspool_radius import events as e


def test_accepted_with_everything():
    world = World(authz=1)
    world.server(1).behave = world.manners.accepts(
        (codec.USER_NAME, "carol"),
        (codec.CLASS, b"\x00\xff"),
        (codec.CLASS, b"0x41"),
        (codec.FILTER_ID, "staff"),
        (codec.TAG, "imap"),
        (codec.FILTER_ID, "staff"),
        (codec.STATE, b"0x42"),
        (codec.SESSION_TIMEOUT, 3600),
        (codec.IDLE_TIMEOUT, 60),
        (codec.TERMINATION_ACTION, 1),
        (codec.INTERIM_INTERVAL, 120),
        (codec.REPLY_MESSAGE, "hello"),
    )
    told = world.ask("User-Name=carol@example.net", "NAS-Identifier=example.com", "Service-Type=Authorize-Only")
    assert told.access is Access.ACCEPTED
    assert (told.user_name, told.message, told.detail) == ("carol", "hello", "")
    assert (told.classes, told.tags, told.state) == ((b"\x00\xff", b"0x41"), ("staff", "imap"), b"0x42")
    times = (told.session_timeout_s, told.idle_timeout_s, told.interim_s, told.terminate)
    assert times == (3600, 60, 120, 1)
    assert (told.server, told.elapsed_ms) == ("192.0.2.1:1812", 1)
    (packet,) = world.server(1).heard
    assert codec.is_signed(packet, world.manners.secret)
    assert packet.pairs[1:] == ((1, b"carol@example.net"), (32, b"example.com"), (6, b"\0\0\0\x11"))


def test_rejected_with_a_message():
    world = World(authn=1)
    world.server(1).behave = world.manners.rejects("no\x1b[2J", "", "way")
    told = world.ask(purpose=Purpose.AUTHENTICATE)
    assert (told.access, told.message) == (Access.REJECTED, "no\\x1b[2J way")


def test_a_rejection_counts_whatever_else_is_in_it():
    world = World(authz=1)
    world.server(1).behave = lambda packet: [
        world.manners.answer(packet, codec.ACCESS_REJECT, [(codec.SESSION_TIMEOUT, b"x"), (codec.STATE, b"1")] * 2)
    ]
    assert world.ask().access is Access.REJECTED


def test_a_challenge_is_no_acceptance():
    world = World(authz=1)
    world.server(1).behave = world.manners.challenges()
    told = world.ask()
    assert told.access is Access.REJECTED
    assert "Access-Challenge" in told.detail
    assert told.message == "who are you?"


def test_a_password_and_a_state_go_along():
    world = World(authn=1)
    world.ask(purpose=Purpose.AUTHENTICATE, password=b"p" * 40, state=b"0x77")
    (packet,) = world.server(1).heard
    assert codec.password(packet, world.manners.secret) == b"p" * 40
    assert packet.one(codec.STATE) == b"0x77"


def test_each_purpose_has_its_servers():
    world = World(authn=1, authz=1)
    world.ask(purpose=Purpose.AUTHENTICATE)
    assert [len(world.server(number).heard) for number in (1, 2)] == [1, 0]
    world.ask(purpose=Purpose.AUTHORIZE)
    assert [len(world.server(number).heard) for number in (1, 2)] == [1, 1]


def test_there_is_no_server():
    told = World(authn=1).ask(purpose=Purpose.AUTHORIZE)
    assert (told.access, told.detail, told.server) == (Access.UNASKED, "there is no server for it", "")


@pytest.mark.parametrize(
    ("attribute", "why"),
    [
        ("Nonsense=1", "no attribute that is sent"),
        ("User-Name=", "empty"),
        ("User-Name=" + "x" * 254, "at most 253 bytes"),
        ("NAS-IP-Address=1.2.3", "must be an address"),
        ("Service-Type=What", "must be a number"),
        ("Reply-Message=x", "no attribute that is sent"),
    ],
)
def test_what_cannot_be_asked(attribute, why):
    world = World(authz=1)
    told = world.ask(attribute)
    assert told.access is Access.UNASKED
    assert why in told.detail
    assert world.server(1).heard == []
    assert world.ask().access is Access.ACCEPTED


def test_a_question_that_fits_no_packet():
    told = World(authz=1).ask(*[f"TLSPool-Service={'x' * 240}"] * 20)
    assert told.access is Access.UNASKED
    assert "4096 are allowed" in told.detail


# --- silence --------------------------------------------------------------------------------------------


def test_a_packet_is_repeated_as_it_was_and_then_the_next_server_is_asked():
    world = World(authz=2)
    world.server(1).behave = None
    told = world.ask()
    assert told.access is Access.ACCEPTED
    assert told.server == "192.0.2.2:1812"
    assert told.detail == "192.0.2.1:1812 has not answered in 2 tries"
    first = world.server(1).heard
    assert len(first) == 2
    assert first[0].raw == first[1].raw
    assert world.server(1).times == [1000, 3000]
    (second,) = world.server(2).heard
    assert second.authenticator != first[0].authenticator
    assert world.took_ms == 4001


def test_waiting_times_differ_by_a_tenth():
    world = World(authz=1)
    world.server(1).behave = None
    world.chance = 1.0
    world.ask()
    assert world.server(1).times == [1000, 2800]


def test_nobody_answers():
    world = World(authz=2)
    for number in (1, 2):
        world.server(number).behave = None
    told = world.ask(deadline_ms=8000)
    assert told.access is Access.UNANSWERED
    assert told.detail == "192.0.2.1:1812 has not answered in 2 tries; 192.0.2.2:1812 has not answered in 2 tries"
    assert (world.took_ms, told.elapsed_ms) == (8000, 8000)


def test_the_deadline_is_the_end_of_it():
    world = World(authz=2)
    world.server(1).behave = None
    told = world.ask(deadline_ms=500)
    assert (told.access, world.took_ms) == (Access.UNANSWERED, 500)
    assert world.server(2).heard == []
    # It was not asked for long enough to be called dead.
    assert world.servers[1].state(world.now_ms) == "up"


def test_a_deadline_that_has_passed_already():
    world = World(authz=1)
    assert world.ask(deadline_ms=0).access is Access.UNANSWERED


def test_nobody_waits_for_the_question_of_another():
    world = World(authz=2)
    world.server(1).behave = None
    slow = world.question()
    quick = world.question(purpose=Purpose.AUTHENTICATE)
    assert world.wait(quick).access is Access.UNASKED
    world.server(1).behave = world.manners.accepts()
    quick = world.question()
    assert world.wait(quick).access is Access.ACCEPTED
    assert world.took_ms == 1
    assert slow not in world.told
    assert world.wait(slow).access is Access.ACCEPTED


# --- dead servers -------------------------------------------------------------------------------------------


def test_a_server_that_did_not_answer_is_left_alone_and_probed_by_one_question():
    world = World(authz=2)
    world.server(1).behave = None
    world.ask()
    (note,) = world.said("radius.server_dead")
    assert note["server"] == "192.0.2.1:1812"
    count = len(world.server(1).heard)
    assert world.ask().detail == ""
    assert world.took_ms == 1
    assert len(world.server(1).heard) == count
    world.advance(60_000)
    probe = world.question()
    others = [world.question() for _ in range(5)]
    assert all(world.wait(one).server == "192.0.2.2:1812" for one in others)
    assert world.took_ms == 0
    assert len(world.server(1).heard) == count + 1
    assert world.wait(probe).server == "192.0.2.2:1812"
    assert len(world.server(1).heard) == count + 1  # one try, and it is dead again
    assert world.servers[1].state(world.now_ms) == "dead"
    assert len(world.said("radius.server_dead")) == 1
    world.advance(60_000)
    world.server(1).behave = world.manners.accepts()
    assert world.ask().server == "192.0.2.1:1812"
    assert world.said("radius.server_back") == [{"server": "192.0.2.1:1812", "purpose": "authz"}]
    assert world.servers[1].state(world.now_ms) == "up"


def test_all_are_dead_and_all_are_asked_once():
    world = World(authz=2)
    for number in (1, 2):
        world.server(number).behave = None
    world.ask()
    for number in (1, 2):
        world.server(number).heard.clear()
    world.ask()
    assert [len(world.server(number).heard) for number in (1, 2)] == [1, 1]
    assert world.took_ms == 4000
    world.server(2).behave = world.manners.accepts()
    assert world.ask().server == "192.0.2.2:1812"
    assert world.ask().server == "192.0.2.2:1812"
    assert world.took_ms == 1


def test_a_server_that_answers_others_is_not_dead():
    world = World(authz=1)
    accepts = world.manners.accepts()
    world.server(1).behave = lambda packet: [] if packet.text(1) == "mute" else accepts(packet)
    mute = world.question("User-Name=mute")
    world.advance(1000)
    assert world.ask("User-Name=carol").access is Access.ACCEPTED
    assert world.wait(mute).access is Access.UNANSWERED
    assert world.servers[1].state(world.now_ms) == "up"
    assert world.servers[1].counters.timeouts == 1


def test_nobody_listens():
    world = World(authz=2)
    world.server(1).behave = REFUSED
    told = world.ask()
    assert (told.server, told.detail) == ("192.0.2.2:1812", "192.0.2.1:1812: nobody listens there")
    assert world.took_ms == 1
    assert world.servers[1].counters.refused == 1
    world.server(2).behave = REFUSED
    told = world.ask()
    assert told.access is Access.UNANSWERED
    assert world.took_ms == 0


def test_all_questions_at_a_socket_turn_to_the_next_server():
    world = World(authz=2)
    world.server(1).behave = None
    asked = [world.question() for _ in range(20)]
    world.happened(e.Unreachable(1, 1, "nobody listens there"))
    assert all(world.wait(one).server == "192.0.2.2:1812" for one in asked)
    assert world.took_ms <= 1
    world.happened(e.Unreachable(1, 1, "nobody listens there"))  # nobody waits there any more


def test_a_server_without_a_secret_is_not_asked():
    world = World(authz=1, secrets=b"")
    told = world.ask()
    assert told.access is Access.UNASKED
    assert told.detail == "192.0.2.1:1812 has no line in radius_secret_file"
    assert "state=no-secret" in world.look().servers[0]


def test_servers_are_revived_at_an_operators_wish():
    world = World(authz=2)
    world.server(1).behave = None
    world.ask()
    world.server(1).behave = world.manners.accepts()
    world.look(retry=True)
    assert world.ask().server == "192.0.2.1:1812"


# --- what is no answer ------------------------------------------------------------------------------------------


BAD = {
    "with_wrong_secret": ("authenticator", "is the secret the same"),
    "with_wrong_signature": ("authenticator", "Message-Authenticator is wrong"),
    "unsigned": ("unsigned", "no Message-Authenticator"),
    "oversized": ("malformed", "more than 4096 bytes"),
    "with_overlong_attribute": ("malformed", "wrong length"),
}


@pytest.mark.parametrize("manner", BAD)
def test_what_does_not_count_is_as_good_as_silence(manner):
    world = World(authz=2)
    counter, why = BAD[manner]
    world.server(1).behave = getattr(world.manners, manner)()
    told = world.ask()
    assert (told.access, told.server) == (Access.ACCEPTED, "192.0.2.2:1812")
    assert why in told.detail
    assert "what is no answer in 2 tries" in told.detail
    assert getattr(world.servers[1].counters, counter) == 2
    assert world.took_ms == 4001


@pytest.mark.parametrize("data", [b"", b"x", bytes(20), b"\xff" * 300, bytes([2, 7, 0, 20]) + bytes(16)])
def test_garbage(data):
    world = World(authz=1)
    world.server(1).behave = world.manners.garbage_of(data)
    assert world.ask().access is Access.UNANSWERED
    assert world.servers[1].counters.authenticator + world.servers[1].counters.malformed == 2


def test_garbage_does_not_end_a_question_that_is_answered_rightly():
    world = World(authz=1)
    accepts = world.manners.accepts()
    world.server(1).behave = lambda packet: [b"garbage", bytes([2, packet.id, 0, 20]) + bytes(16), *accepts(packet)]
    told = world.ask()
    assert told.access is Access.ACCEPTED
    assert world.took_ms == 1


def test_an_unsigned_answer_counts_if_the_setting_says_so():
    world = World(authz=1, accepts_unsigned=True)
    world.server(1).behave = world.manners.unsigned()
    assert world.ask().access is Access.ACCEPTED
    world.server(1).behave = world.manners.with_wrong_signature()
    assert world.ask().access is Access.UNANSWERED


def test_answers_to_earlier_questions_are_dropped():
    world = World(authz=1)
    world.ask()
    world.server(1).behave = world.manners.replays()
    told = world.ask()
    assert told.access is Access.UNANSWERED
    assert world.servers[1].counters.late == 3  # each time all that was ever sent
    assert world.servers[1].counters.accepted == 1


def test_the_identifier_of_an_old_answer_is_used_again():
    """An answer to what had the identifier before is late; it is no answer to what has it now."""
    world = World(authz=1)
    world.server(1).behave = None
    old = world.question(deadline_ms=10)
    world.wait(old)
    (packet,) = world.server(1).heard
    answer = world.manners.answer(packet, codec.ACCESS_ACCEPT)
    for _ in range(256):
        world.ask(deadline_ms=1)
    assert world.server(1).places[-1] == world.server(1).places[0]
    world.server(1).behave = lambda _: [answer]
    assert world.ask(deadline_ms=100).access is Access.UNANSWERED
    world.server(1).behave = None
    number = world.question(deadline_ms=100)
    world.happened(e.Heard(1, 1, answer))
    assert number not in world.told
    assert world.servers[1].counters.authenticator + world.servers[1].counters.late == 2


def test_a_late_answer_is_counted_and_changes_nothing():
    world = World(authz=2)
    world.server(1).latency_ms = 5000
    told = world.ask()
    assert told.server == "192.0.2.2:1812"
    world.advance(10_000)
    assert world.servers[1].counters.late == 2
    assert world.servers[1].state(world.now_ms) == "dead"


def test_an_answer_to_the_first_packet_counts_after_the_second():
    world = World(authz=1)
    world.server(1).latency_ms = 2500
    told = world.ask()
    assert (told.access, told.elapsed_ms) == (Access.ACCEPTED, 2500)
    assert world.servers[1].counters.repeated == 1
    assert world.servers[1].rtt_ms == 0.0  # nobody knows which of them was answered


def test_a_proxy_state_that_was_not_sent():
    world = World(authz=1)
    world.server(1).behave = world.manners.accepts((codec.PROXY_STATE, b"x"))
    told = world.ask()
    assert told.access is Access.UNANSWERED
    assert "Proxy-State" in told.detail


@pytest.mark.parametrize(
    "pair", [(codec.SESSION_TIMEOUT, b"abc"), (codec.IDLE_TIMEOUT, b"12345"), (codec.TERMINATION_ACTION, b"")]
)
def test_numbers_of_a_wrong_size(pair):
    world = World(authz=1)
    world.server(1).behave = world.manners.accepts(pair)
    assert world.ask().access is Access.UNANSWERED
    assert world.servers[1].counters.malformed == 2


@pytest.mark.parametrize("key", [codec.SESSION_TIMEOUT, codec.IDLE_TIMEOUT, codec.STATE, codec.USER_NAME])
def test_attributes_that_may_be_there_once(key):
    world = World(authz=1)
    world.server(1).behave = world.manners.accepts((key, b"1234"), (key, b"1234"))
    told = world.ask()
    assert told.access is Access.UNANSWERED
    assert "may be there once" in told.detail


def test_more_classes_and_tags_than_are_kept():
    world = World(authz=1)
    pairs = [(codec.CLASS, bytes([number])) for number in range(20)]
    pairs += [(codec.FILTER_ID, f"tag{number}") for number in range(20)]
    world.server(1).behave = world.manners.accepts(*pairs)
    told = world.ask()
    assert told.access is Access.ACCEPTED
    assert (len(told.classes), len(told.tags)) == (8, 16)
    assert told.detail == "Class: 8 of 20 count; tags: 16 of 20 count"


# --- many ---------------------------------------------------------------------------------------------------


def test_more_than_256_questions_take_more_sockets():
    world = World(authz=1)
    world.server(1).behave = None
    asked = [world.question() for _ in range(600)]
    places = world.server(1).places
    assert len(set(places)) == 600
    assert {port for port, _ in places} == {1, 2, 3}
    for place, packet in zip(places, list(world.server(1).heard), strict=True):
        world.happened(e.Heard(1, place[0], world.manners.answer(packet, codec.ACCESS_ACCEPT)))
    assert all(world.told[number].access is Access.ACCEPTED for number in asked)
    world.advance(bounds.PORT_IDLE_MS + bounds.SWEEP_MS + 1)
    assert world.closed == [(1, 2), (1, 3)]


def test_more_questions_than_a_server_can_have_open():
    world = World(authz=1)
    world.server(1).behave = None
    for _ in range(bounds.PORTS * 256):
        world.question()
    told = world.ask()
    assert "has left 4096 questions open" in told.detail


def test_more_questions_than_there_may_be(monkeypatch):
    monkeypatch.setattr(bounds, "QUESTIONS", 3)
    world = World(authz=1)
    world.server(1).behave = None
    for _ in range(3):
        world.question()
    told = world.ask()
    assert (told.access, told.detail) == (Access.UNASKED, "3 questions wait already")


def test_a_server_that_comes_and_goes():
    world = World(authz=2, dead_ms=5000)
    manners = world.manners
    world.server(1).behave = manners.flaps(manners.accepts(), manners.silent(), manners.garbage_of(b"?"))
    outcomes = []
    for _ in range(60):
        outcomes.append(world.ask().access)
        assert world.took_ms <= 4001
        world.advance(1000)
    assert set(outcomes) == {Access.ACCEPTED}
    assert {world.servers[1].counters.accepted > 5, world.servers[2].counters.accepted > 5} == {True}


def test_troubles_are_not_logged_without_end():
    world = World(authz=1)
    world.server(1).behave = lambda packet: [world.manners.answer(packet, 2, secret=b"other")] * 100
    world.ask()
    assert len(world.said("radius.bad_answer")) == bounds.NOTES_A_MINUTE
    assert len(world.said("radius.server_dead")) == 1  # that is said all the same
    world.advance(bounds.SWEEP_MS)
    world.ask()
    assert len(world.said("radius.bad_answer")) == 2 * bounds.NOTES_A_MINUTE


def test_what_an_operator_sees():
    world = World(authz=2, authn=1)
    world.server(2).behave = None
    world.ask()
    lines = world.look().servers
    assert [line.split(" ")[:3] for line in lines] == [
        ["purpose=authn", "server=192.0.2.1:1812", "state=up"],
        ["purpose=authz", "server=192.0.2.1:1812", "state=dead"],
        ["purpose=authz", "server=192.0.2.2:1812", "state=up"],
    ]
    assert "timeouts=1" in lines[1]
    assert 'trouble="192.0.2.1:1812 has not answered in 2 tries"' in lines[1]
    assert world.core.title == "0 questions"
    world.question()
    world.server(3).behave = None
    world.question()
    assert world.core.title.startswith("2 questions")
    world.advance(bounds.SWEEP_MS)
    (counters,) = world.said("radius.counters")
    assert counters["questions"] == 3
