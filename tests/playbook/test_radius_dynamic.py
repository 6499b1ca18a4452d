"""Requests of RFC 5176 in the helper: who is heard, what the broker is asked, what is answered."""

import pytest

from tests.fixtures import radius_codec as codec
from tests.fixtures.radius_server import SECRET
from tests.playbook.radius import WALL_MS, World
from tlspool_common.messages import DynamicTold
from tlspool_common.messages_radius import Dynamic
from tlspool_radius import bounds
from tlspool_radius import events as e

SOURCE = ("192.0.2.9", 4000)


class Client:
    """Somebody who sends requests, and reads answers."""

    def __init__(self):
        self.world = World(authz=1, dynamic={SOURCE[0]: SECRET, "192.0.2.10": b""})

    def now_s(self):
        return self.world.now.wall_ms // 1000

    def make(self, code, *pairs, number=5, secret=SECRET, at_s=None, signed=False):
        stamp = ((codec.EVENT_TIMESTAMP, self.now_s() if at_s is None else at_s),)
        return codec.keyed(code, number, secret, [*pairs, *stamp], signed=signed)

    def send(self, data, source=SOURCE):
        """Send a datagram; return the broker's question, or the answer, or None."""
        questions, replies = len(self.world.questions), len(self.world.replies)
        self.world.happened(e.Requested(source, data))
        if len(self.world.questions) > questions:
            return self.world.questions[-1]
        if len(self.world.replies) > replies:
            assert self.world.replies[-1][0] == source
            return codec.parse(self.world.replies[-1][1])
        return None

    def answer(self, question, sessions, error_cause=0):
        self.world.happened(e.BrokerSaid(DynamicTold(sessions=sessions, error_cause=error_cause), question.exchange))
        return codec.parse(self.world.replies[-1][1])


@pytest.fixture
def client():
    return Client()


ONE = (codec.ACCT_SESSION_ID, "s1")


def test_a_session_is_ended(client):
    request = client.make(codec.DISCONNECT, ONE, (codec.PROXY_STATE, b"\0p1"), (codec.PROXY_STATE, b"p2"))
    question = client.send(request)
    assert question.message.dynamic is Dynamic.DISCONNECT
    assert (question.message.acct_id, question.message.attributes, question.message.changes) == ("s1", (), 0)
    assert question.message.server == "192.0.2.9:4000"
    answer = client.answer(question, 1)
    assert (answer.code, answer.id) == (codec.DISCONNECT_ACK, 5)
    assert codec.is_answer(answer, request, SECRET)
    assert answer.all(codec.PROXY_STATE) == [b"\0p1", b"p2"]
    assert answer.all(codec.ERROR_CAUSE) == answer.all(codec.SIGNATURE) == []


def test_a_signed_request_gets_a_signed_answer(client):
    request = client.make(codec.DISCONNECT, ONE, signed=True)
    answer = client.answer(client.send(request), 1)
    assert codec.is_signed(answer, SECRET, request[4:20])
    assert codec.is_answer(answer, request, SECRET)


def test_a_session_is_changed(client):
    pairs = [
        (codec.USER_NAME, "carol@example.net"),
        (codec.NAS_IDENTIFIER, "example.com"),
        (4, bytes([192, 0, 2, 1])),
        (5, 17),
        (95, bytes(15) + b"\1"),
        (codec.SESSION_TIMEOUT, 60),
        (codec.FILTER_ID, "staff"),
        (codec.FILTER_ID, "imap"),
    ]
    question = client.send(client.make(codec.COA, *pairs))
    message = question.message
    assert message.dynamic is Dynamic.CHANGE
    assert message.attributes == (
        "User-Name=carol@example.net",
        "NAS-Identifier=example.com",
        "NAS-IP-Address=192.0.2.1",
        "NAS-Port=17",
        "NAS-IPv6-Address=::1",
    )
    assert (message.changes, message.session_timeout_s, message.idle_timeout_s) == (5, 60, 0)
    assert message.tags == ("staff", "imap")
    assert client.answer(question, 2).code == codec.COA_ACK


@pytest.mark.parametrize(("told", "cause"), [((0, 503), 503), ((0, 0), 503), ((0, 403), 403)])
def test_no_session_was_found(client, told, cause):
    answer = client.answer(client.send(client.make(codec.DISCONNECT, ONE)), *told)
    assert (answer.code, answer.number(codec.ERROR_CAUSE)) == (codec.DISCONNECT_NAK, cause)


@pytest.mark.parametrize(
    ("code", "pairs", "cause"),
    [
        (codec.DISCONNECT, [], 402),
        (codec.COA, [ONE], 402),
        (codec.COA, [(codec.IDLE_TIMEOUT, 5)], 402),
        (codec.DISCONNECT, [ONE, (codec.SESSION_TIMEOUT, 5)], 401),
        (codec.DISCONNECT, [ONE, (99, b"x")], 401),
        (codec.DISCONNECT, [ONE, (26, b"\0\0\0\x09\1\5abc")], 401),
        (codec.DISCONNECT, [ONE, ((codec.VENDOR, 3), b"imap")], 401),
        (codec.COA, [ONE, (codec.SERVICE_TYPE, 17), (codec.STATE, b"x")], 405),
        (codec.COA, [ONE, (codec.IDLE_TIMEOUT, b"abc")], 407),
        (codec.COA, [ONE, (codec.IDLE_TIMEOUT, 1), (codec.IDLE_TIMEOUT, 2)], 407),
        (codec.DISCONNECT, [(codec.USER_NAME, b"\xff\xfe")], 407),
        (codec.DISCONNECT, [(codec.USER_NAME, b"a\nb")], 407),
        (codec.DISCONNECT, [(codec.USER_NAME, b"")], 407),
        (codec.DISCONNECT, [(codec.ACCT_SESSION_ID, "s" * 65)], 407),
        (codec.DISCONNECT, [(4, b"\1\2\3")], 407),
        (codec.COA, [ONE, *[(codec.FILTER_ID, f"tag{number}") for number in range(17)]], 407),
    ],
)
def test_what_is_refused_without_asking_the_broker(client, code, pairs, cause):
    request = client.make(code, *pairs)
    answer = client.send(request)
    assert answer.number(codec.ERROR_CAUSE) == cause
    assert answer.code == code + 2
    assert codec.is_answer(answer, request, SECRET)
    assert client.world.questions == []
    assert client.world.said("radius.dynamic")[-1]["error_cause"] == cause


# --- what is dropped --------------------------------------------------------------------------------------------


def counters(client):
    line = client.world.look().servers[-1]
    assert line.startswith("purpose=dynamic ")
    return {name: int(value) for name, _, value in (word.partition("=") for word in line.split()[1:])}


def test_strangers(client):
    request = client.make(codec.DISCONNECT, ONE)
    assert client.send(request, ("192.0.2.77", 4000)) is None
    assert client.send(request, ("192.0.2.10", 4000)) is None  # configured, without a secret
    assert counters(client)["foreign"] == 2


def test_who_does_not_know_the_secret(client):
    assert client.send(client.make(codec.DISCONNECT, ONE, secret=b"guessed")) is None
    signed = bytearray(client.make(codec.DISCONNECT, ONE, signed=True))
    signed[23] ^= 1
    signed[4:20] = codec.md5(bytes(signed[:4]) + bytes(16) + bytes(signed[20:]) + SECRET).digest()
    assert client.send(bytes(signed)) is None
    assert counters(client)["authenticator"] == 2


@pytest.mark.parametrize("data", [b"", b"\x28", bytes(20), bytes(5000), bytes([1, 1, 0, 20]) + bytes(16)])
def test_garbage(client, data):
    assert client.send(data) is None
    assert counters(client)["malformed"] == 1


@pytest.mark.parametrize("off_s", [-bounds.EVENT_S - 1, bounds.EVENT_S + 1, -WALL_MS // 1000])
def test_requests_of_another_time(client, off_s):
    assert client.send(client.make(codec.DISCONNECT, ONE, at_s=client.now_s() + off_s)) is None
    assert counters(client)["stale"] == 1


def test_requests_of_no_time(client):
    assert client.send(codec.keyed(codec.DISCONNECT, 1, SECRET, [ONE])) is None
    assert counters(client)["stale"] == 1
    assert "no Event-Timestamp" in client.world.said("radius.dynamic_dropped")[0]["detail"]


@pytest.mark.parametrize("off_s", [-bounds.EVENT_S, bounds.EVENT_S])
def test_clocks_may_differ(client, off_s):
    assert client.send(client.make(codec.DISCONNECT, ONE, at_s=client.now_s() + off_s)).message.acct_id == "s1"


# --- again ---------------------------------------------------------------------------------------------------------


def test_a_request_that_comes_again_gets_the_same_answer_and_is_done_once(client):
    request = client.make(codec.DISCONNECT, ONE)
    question = client.send(request)
    assert client.send(request) is None  # the broker has it
    answer = client.answer(question, 1)
    again = client.send(request)
    assert again.raw == answer.raw
    assert len(client.world.questions) == 1
    assert counters(client)["repeated"] == 2
    # The same identifier in another request is another request.
    assert client.send(client.make(codec.DISCONNECT, (codec.ACCT_SESSION_ID, "s2"))).message.acct_id == "s2"


def test_answers_are_forgotten_after_a_while(client):
    request = client.make(codec.DISCONNECT, ONE)
    client.answer(client.send(request), 1)
    client.world.advance(bounds.DYNAMIC_KEPT_MS + bounds.SWEEP_MS)
    assert len(client.world.core._requests._answers) == 0
    # And a request that was kept by somebody is of another time by then.
    assert client.send(request) is None
    assert counters(client)["stale"] == 1


@pytest.mark.parametrize("off_s", [0, bounds.EVENT_S])
def test_what_somebody_has_kept_is_not_done_again(client, off_s):
    """CoA that a later one has taken back, say: as long as its time is right, and from whatever port."""
    at_s = client.now_s() + off_s
    request = client.make(codec.COA, (codec.USER_NAME, "carol"), (codec.FILTER_ID, "staff"), at_s=at_s)
    client.answer(client.send(request), 1)
    client.answer(client.send(client.make(codec.COA, (codec.USER_NAME, "carol"), (codec.FILTER_ID, "guest"))), 1)
    other_port = (SOURCE[0], SOURCE[1] + 1)
    for _ in range((off_s + bounds.EVENT_S) // 20 + 2):
        client.send(request)
        client.send(request, other_port)
        client.world.advance(20_000)
    assert [question.message.tags for question in client.world.questions] == [("staff",), ("guest",)]


def test_the_broker_does_not_answer(client):
    request = client.make(codec.DISCONNECT, ONE)
    question = client.send(request)
    client.world.advance(bounds.DYNAMIC_MS)
    assert client.world.replies == []
    client.world.happened(e.BrokerSaid(DynamicTold(sessions=1, error_cause=0), question.exchange))
    assert client.world.replies == []
    assert client.send(request).exchange != question.exchange


def test_there_are_so_many_at_a_time(client):
    for number in range(bounds.DYNAMIC):
        assert client.send(client.make(codec.DISCONNECT, ONE, number=number)) is not None
    assert client.send(client.make(codec.DISCONNECT, ONE, number=200)) is None
    assert counters(client)["too_many"] == 1
    client.answer(client.world.questions[0], 1)
    assert client.send(client.make(codec.DISCONNECT, ONE, number=200)) is not None


def test_answers_that_are_kept_are_bounded(client, monkeypatch):
    monkeypatch.setattr(bounds, "DYNAMIC_KEPT", 10)
    for number in range(50):
        client.answer(client.send(client.make(codec.DISCONNECT, ONE, number=number)), 1)
    assert len(client.world.core._requests._answers) == 10
