"""Room for sessions and handshakes: in all, of one caller, and on one connection; and who makes room for others."""

import pytest

from tests.playbook.broker import World
from tlspool_broker.connections import Connection
from tlspool_broker.events import Caller
from tlspool_broker.out import Out
from tlspool_broker.quotas import Quotas
from tlspool_broker.room import SILENT_MS, STALLED_MS, Room
from tlspool_broker.session import State
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import ClientHelloSeen, HandshakeDone, HandshakeFailed, RemoteShown, Side
from tlspool_common.settings import parse_untrusted


class Made:
    """As much of a session as is counted."""

    def __init__(self, number, uid, **caller):
        self.session_id = number
        self.caller = Caller(uid, uid, 1, **caller)
        self.state = State.EXPECT_WORKER
        self.watch = None

    @property
    def being_set_up(self):
        return self.state not in (State.RELAYING, State.EXPECT_END, State.OVER)

    def move(self, state):
        self.state = state
        if self.watch is not None:
            self.watch(self)


class Place:
    """A room, the time, and sessions that were given up."""

    def __init__(self, text):
        self.out = Out()
        self.out.now_ms = 1_000_000
        self.settings = parse_untrusted(text)
        self.quotas = Quotas(self.out, self.settings)
        self.given_up = []
        self.room = Room(self.out, self.settings, self.quotas, self._give_up)
        self._last = 0

    def _give_up(self, session, error):
        self.given_up.append((session.session_id, error.code, error.detail))
        session.move(State.EXPECT_END)

    def enter(self, uid=1, state=None, **caller):
        self.room.check(connection(uid, **caller))
        self._last += 1
        made = Made(self._last, uid, **caller)
        self.room.enter(made)
        if state:
            made.move(state)
        return made

    def leave(self, made):
        made.move(State.OVER)
        self.room.leave(made)

    def refused(self, uid=1, who=None):
        with pytest.raises(PoolError) as caught:
            self.room.check(who or connection(uid))
        return caught.value.code, caught.value.detail

    def later(self, ms):
        self.out.now_ms += ms


def connection(uid, **caller):
    return Connection(uid, Caller(uid, uid, 1, **caller), 0)


def test_sessions_in_all_and_of_one_user():
    place = Place("max_sessions 3\nmax_sessions_per_caller 2\n")
    first, second = place.enter(1), place.enter(1)
    assert place.refused(1) == (Code.TOO_MANY_SESSIONS, "max_sessions_per_caller is 2, user 1")
    third = place.enter(2)
    assert place.refused(2) == (Code.TOO_MANY_SESSIONS, "max_sessions is 3")
    place.leave(first)
    place.room.check(connection(2))
    place.room.check(connection(1))
    assert place.room.users() == [1, 2]
    place.leave(second)
    place.leave(third)
    assert place.room.users() == []
    assert place.room.handshakes == 0
    assert place.quotas.callers() == []


def test_on_one_connection():
    place = Place("max_requests_per_connection 1\n")
    one = connection(1)
    place.room.check(one)
    one.exchanges[1] = object()
    assert place.refused(who=one) == (Code.TOO_MANY_REQUESTS, "max_requests_per_connection is 1")


def test_handshakes_are_those_that_are_being_set_up():
    place = Place("max_handshakes_per_caller 2\nmax_handshakes 3\n")
    one, _two = place.enter(1), place.enter(1)
    assert place.refused(1) == (Code.TOO_MANY_HANDSHAKES, "max_handshakes_per_caller is 2, user 1")
    one.move(State.RELAYING)
    assert place.room.handshakes == 1
    place.enter(1)
    place.enter(2)
    assert place.refused(2) == (Code.TOO_MANY_HANDSHAKES, "max_handshakes is 3")
    place.leave(one)
    assert place.room.handshakes == 3
    assert place.given_up == []


def test_the_oldest_silent_handshake_of_the_same_caller_makes_room():
    place = Place("max_handshakes_per_caller 2\n")
    first = place.enter(1, State.EXPECT_CLIENT_HELLO)
    place.later(SILENT_MS - 1)
    place.enter(1, State.EXPECT_CLIENT_HELLO)
    other = place.enter(2, State.EXPECT_CLIENT_HELLO)
    assert place.refused(1)[0] is Code.TOO_MANY_HANDSHAKES
    place.later(1)
    place.room.check(connection(1))
    assert place.given_up == [], "nobody ends for a request that may still be refused"
    place.enter(1)
    assert place.given_up == [(first.session_id, Code.HANDSHAKE_YIELDED, "max_handshakes_per_caller is 2")]
    assert place.refused(1)[0] is Code.TOO_MANY_HANDSHAKES
    assert other.state is State.EXPECT_CLIENT_HELLO


def test_a_handshake_in_the_middle_of_which_nothing_is_heard_makes_room_later():
    place = Place("max_handshakes_per_caller 2\npkcs11_pin_file /pin\npkcs11_timeout_s 5\n")
    first = place.enter(1, State.EXPECT_HANDSHAKE)
    second = place.enter(1, State.EXPECT_HANDSHAKE)
    place.later(STALLED_MS)
    first.move(State.EXPECT_HANDSHAKE)  # it goes on
    place.later(4_999)
    assert place.refused(1)[0] is Code.TOO_MANY_HANDSHAKES
    place.later(1)
    place.enter(1)
    assert [number for number, *_ in place.given_up] == [second.session_id]


@pytest.mark.parametrize(
    "state", [State.EXPECT_CHOICE, State.EXPECT_LOCALID, State.EXPECT_KEYD, State.EXPECT_PLAINTEXT]
)
def test_who_waits_for_something_else_makes_no_room(state):
    place = Place("max_handshakes_per_caller 1\n")
    place.enter(1, state)
    place.later(1_000_000)
    assert place.refused(1)[0] is Code.TOO_MANY_HANDSHAKES


def test_where_all_have_too_many_the_one_with_the_most_makes_room():
    place = Place("max_handshakes 5\nmax_handshakes_per_caller 4\n")
    flood = [place.enter(1, State.EXPECT_CLIENT_HELLO) for _ in range(4)]
    place.enter(2, State.EXPECT_CLIENT_HELLO)
    assert place.refused(1)[0] is Code.TOO_MANY_HANDSHAKES, "it has the most itself, and they are young"
    place.enter(3)
    assert [number for number, *_ in place.given_up] == [flood[0].session_id]
    place.enter(2)
    assert [number for number, *_ in place.given_up] == [flood[0].session_id, flood[1].session_id]
    # two against two: nobody has more than who asks
    assert place.refused(2)[0] is Code.TOO_MANY_HANDSHAKES


def test_a_rate_with_a_burst():
    place = Place("handshake_rate_per_caller 10\nhandshake_burst_per_caller 3\n")
    for _ in range(3):
        place.enter(1)
    assert place.refused(1) == (Code.TOO_FAST, "handshake_rate_per_caller is 10, user 1")
    place.enter(2)
    place.later(99)
    assert place.refused(1)[0] is Code.TOO_FAST
    place.later(1)
    place.enter(1)
    assert place.refused(1)[0] is Code.TOO_FAST
    place.later(1_000_000)
    for _ in range(3):
        place.enter(1)
    assert place.refused(1)[0] is Code.TOO_FAST


def test_requests_of_all_kinds_have_a_rate_too():
    place = Place("request_rate_per_caller 2\n")
    one = connection(1)
    for _ in range(4):
        place.room.request(one)
    with pytest.raises(PoolError, match=r"\[213\].*request_rate_per_caller is 2"):
        place.room.request(one)
    place.room.request(connection(2))
    place.later(500)
    place.room.request(one)


def test_no_rate():
    place = Place("request_rate_per_caller 0\nhandshake_rate_per_caller 0\nhandshake_burst_per_caller 1\n")
    for _ in range(50):
        place.room.request(connection(1))
        place.enter(1)


def test_rules_count_apart_and_name_themselves():
    place = Place("limit mail unit=postfix.service handshakes=1 rate=600/m burst=2\nmax_handshakes_per_caller 2\n")
    mail = {"unit": "postfix.service"}
    place.enter(1, **mail)
    assert place.refused(who=connection(1, **mail)) == (
        Code.TOO_MANY_HANDSHAKES, "limit mail handshakes is 1, user 1",
    )  # fmt: skip
    assert place.refused(who=connection(1, **mail)) == (Code.TOO_FAST, "limit mail rate is 10, user 1")
    place.enter(1)
    place.enter(1)
    assert place.refused(1) == (Code.TOO_MANY_HANDSHAKES, "max_handshakes_per_caller is 2, user 1")
    place.enter(2, **mail)  # the same rule, and another user
    uncertain = connection(1, **mail, certain=False)
    assert place.refused(who=uncertain)[1] == "max_handshakes_per_caller is 2, user 1"


def test_refusals_are_counted_and_logged_now_and_then():
    place = Place("max_sessions_per_caller 1\n")
    place.enter(1)
    for _ in range(1000):
        place.refused(1)
    place.later(10_000)
    place.refused(1)
    notes = [effect for effect in place.out.take() if effect.event == "limit.reached"]
    assert [(note.fields["before"], note.fields["total"]) for note in notes] == [(0, 1), (999, 1001)]
    assert notes[0].fields["limit"] == "max_sessions_per_caller"
    assert place.quotas.rows() == [{"limit": "max_sessions_per_caller", "refused": 1001}]


def test_accounts_of_users_that_are_gone_are_forgotten(monkeypatch):
    monkeypatch.setattr("tlspool_broker.quotas._ACCOUNTS", 10)
    place = Place("handshake_rate_per_caller 1\nhandshake_burst_per_caller 1\n")
    place.leave(place.enter(1))
    place.later(500)
    stays = place.enter(2)
    for uid in range(3, 30):
        place.room.check(connection(uid))
    assert place.refused(2)[0] is Code.TOO_FAST
    assert len(place.quotas._accounts) >= 20, "they have spent what they may, and that is remembered"
    place.later(100_000)
    place.room.check(connection(99))
    assert len(place.quotas._accounts) == 2
    assert place.quotas.callers()[0]["uid"] == stays.caller.uid


# --- with a whole core ------------------------------------------------------------------------------------


def test_a_silent_remote_ends_for_a_new_one():
    world = World("max_handshakes_per_caller 2\n")
    app, other = world.app(), world.app()
    silent = world.starttls(app)
    world.later(SILENT_MS)
    second = world.starttls(app, reqid=2)
    third = world.starttls(other)
    assert world.error(app)[:2] == (1, 214)
    assert "max_handshakes_per_caller is 2" in world.error(app)[2]
    assert [world.state(one) for one in (silent, second, third)] == [
        "EXPECT_END", "EXPECT_CLIENT_HELLO", "EXPECT_CLIENT_HELLO",
    ]  # fmt: skip
    world.say(silent, HandshakeFailed)
    world.starttls(app, reqid=3)
    assert world.error(app)[:2] == (3, 212)
    for one in (second, third):
        world.say(one, ClientHelloSeen)
        world.say(one, HandshakeDone)
    world.starttls(app, reqid=4)
    assert world.error(app)[:2] == (4, 212), "an application that does not answer has them still"
    world.gone(other)
    assert world.state(world.starttls(app, reqid=5)) == "EXPECT_CLIENT_HELLO"
    world.close()


def test_one_that_is_judged_is_heard_of():
    world = World("max_handshakes_per_caller 1\npkcs11_pin_file /pin\npkcs11_timeout_s 1\n")
    world.records.judges = frozenset({Side.CLIENT})
    app = world.app()
    first = world.starttls_client(app)
    world.later(STALLED_MS + 900)
    world.say(first, RemoteShown)
    assert world.state(first) == "EXPECT_HANDSHAKE"
    world.later(200)
    world.starttls_client(app, reqid=2)
    assert world.error(app)[:2] == (2, 212)
    world.later(STALLED_MS + 800)
    world.starttls_client(app, reqid=3)
    assert world.error(app)[:2] == (1, 214)
    world.close()


def test_limits_are_reloaded_live():
    from tlspool_broker.events import Reconfigured

    world = World()
    app = world.app()
    world.starttls(app)
    world.happen(Reconfigured(parse_untrusted("max_handshakes_per_caller 1\n")))
    world.starttls(app, reqid=2)
    assert world.error(app)[:2] == (2, 212)
    world.happen(Reconfigured(parse_untrusted("limit all handshakes=2\nmax_handshakes_per_caller 1\n")))
    world.starttls(app, reqid=3)
    world.starttls(app, reqid=4)
    world.starttls(app, reqid=5)
    assert world.error(app)[1] == 212
    assert "limit all handshakes is 2" in world.error(app)[2]
    world.close()


def test_a_flood_of_any_kind_is_refused():
    from tlspool_common.appwire import Cmd

    world = World("request_rate_per_caller 3\n")
    app = world.app()
    for number in range(6):
        world.send(app, Cmd.PING, reqid=number + 1)
        assert world.frames(app)[0].cmd == Cmd.PING
    world.starttls(app, reqid=9)
    assert world.error(app)[:2] == (9, 213)
    assert world.dropped() == [False], "its descriptor is closed"
    world.later(1000)
    world.send(app, Cmd.PING, reqid=1)
    assert world.frames(app)[0].cmd == Cmd.PING
    world.close()


def test_no_room_where_nothing_can_be_recorded():
    place = Place("")
    place.enter()
    place.out.witness = type("Deaf", (), {"ready": False})()
    assert place.refused()[0] is Code.AUDIT_LOST
