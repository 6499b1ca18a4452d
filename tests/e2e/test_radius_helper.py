"""The helper that speaks RADIUS as a process in its sandbox, and servers that do what they should not."""

import socket
import time

import pytest

from tests.fixtures import radius_codec as codec
from tests.fixtures.radius_process import Helper, Purpose, Status, account, words
from tests.fixtures.radius_server import SECRET, Server, free_port
from tlspool_common.messages import AskRadius
from tlspool_common.messages_radius import Access, Dynamic

pytestmark = pytest.mark.usefixtures("no_leaks")

NOBODY = "127.0.0.1"


@pytest.fixture
def servers():
    with Server() as one, Server() as other:
        yield one, other


def test_all_purposes_at_once(tmp_path, servers):
    one, other = servers
    with Helper(tmp_path, authn=(one.address,), authz=(other.address,), acct=(one.address,)) as helper:
        one.behave = one.flaps(one.accepts((codec.CLASS, b"c")))
        asked = [
            helper.question("User-Name=carol", purpose=Purpose.AUTHENTICATE, password=b"hunter2"),
            helper.question("User-Name=carol", purpose=Purpose.AUTHORIZE),
            helper.send(account(Status.START, "s1")),
            helper.send(AskRadius(after=0, count=5, retry=False)),
        ]
        authn, authz, accounted, told = [helper.answer(number) for number in asked]
        assert (authn.access, authn.classes, authz.access, accounted.code) == (1, (b"c",), 1, 0)
        assert len(told.servers) == 3
        (first,) = [packet for packet in one.wait(2) if packet.code == codec.ACCESS_REQUEST]
        assert codec.is_signed(first, SECRET)
        assert codec.password(first, SECRET) == b"hunter2"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_servers_by_address_and_by_name(tmp_path, host):
    with (
        Server(host="::1" if host == "::1" else "127.0.0.1") as server,
        Helper(tmp_path, authz=((host, server.port),)) as helper,
    ):
        for _ in range(3):
            told = helper.ask("User-Name=carol")
            assert told.access is Access.ACCEPTED, told


def test_a_name_that_is_none(tmp_path, servers):
    wrong = ("no-such-host.invalid", 1812)
    with Helper(tmp_path, authz=(wrong, servers[0].address)) as helper:
        told = helper.ask("User-Name=carol")
        assert told.access is Access.ACCEPTED
        assert "no-such-host.invalid:1812: its name cannot be looked up" in told.detail


BEHAVIOURS = {
    "silent": ("has not answered", None),
    "with_wrong_secret": ("is the secret the same at both ends", "authenticator"),
    "with_wrong_signature": ("Message-Authenticator is wrong", "authenticator"),
    "unsigned": ("has no Message-Authenticator", "unsigned"),
    "oversized": ("more than 4096 bytes", "malformed"),
    "with_overlong_attribute": ("wrong length", "malformed"),
    "truncated": ("says that it has", "malformed"),
    "garbage": ("what is no answer", "malformed"),
    "replays": ("authenticator", "authenticator"),
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_server_that_misbehaves_costs_its_own_questions_some_time(tmp_path, servers, name):
    bad, good = servers
    why, counter = BEHAVIOURS[name]
    with Helper(tmp_path, authz=(bad.address, good.address), timeout_s=0.2, dead_s=1.0) as helper:
        for _ in range(300):  # more than there are identifiers: an old answer is one to none of them
            assert helper.ask("User-Name=carol").server == f"127.0.0.1:{bad.port}"
        bad.behave = {
            "truncated": lambda: bad.truncated(3),
            "garbage": lambda: bad.garbage_of(b"\x02\x00\x00\x14" + bytes(12)),
        }.get(name, getattr(bad, name, None))()
        began_s = time.monotonic()
        asked = [helper.question(f"User-Name=carol{number}") for number in range(50)]
        told = [helper.answer(number) for number in asked]
        assert {one.access for one in told} == {Access.ACCEPTED}
        assert {one.server for one in told} == {f"127.0.0.1:{good.port}"}
        assert all(why in one.detail for one in told), told[0].detail
        assert time.monotonic() - began_s < 10
        line = words(helper.look().servers[0])
        assert line["state"] in ("dead", "due")
        assert line["timeouts"] == "50"
        if counter:
            assert int(line[counter]) + int(line["late"]) >= 50


def test_nobody_listens_is_known_at_once(tmp_path, servers):
    with Helper(tmp_path, authz=((NOBODY, free_port()), servers[0].address)) as helper:
        told = helper.ask("User-Name=carol")
        assert told.access is Access.ACCEPTED
        assert "nobody listens there" in told.detail
        assert told.elapsed_ms < 1900  # and not radius_timeout_s


def test_a_slow_server_keeps_nobody_else_waiting(tmp_path, servers):
    slow, quick = servers
    slow.behave = slow.silent()
    with Helper(tmp_path, authn=(slow.address,), authz=(quick.address,), timeout_s=30.0) as helper:
        waiting = [helper.question("User-Name=carol", purpose=Purpose.AUTHENTICATE) for _ in range(500)]
        began_s = time.monotonic()
        for _ in range(100):
            assert helper.ask("User-Name=carol").access is Access.ACCEPTED
        assert time.monotonic() - began_s < 10
        slow.wait(500)
        assert not set(waiting) & set(helper._answers)


def test_a_server_that_flaps(tmp_path, servers):
    one, other = servers
    with Helper(tmp_path, authz=(one.address, other.address), timeout_s=0.1, tries=1, dead_s=1.0) as helper:
        one.behave = one.flaps(one.accepts(), one.silent(), one.rejects("no"), one.garbage_of(b"?" * 30))
        found = set()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            told = helper.ask("User-Name=carol")
            assert told.elapsed_ms < 2000  # one server that is silent, and a busy machine
            found.add((told.access.name, told.server == f"127.0.0.1:{one.port}"))
            time.sleep(0.01)
        assert {("ACCEPTED", True), ("ACCEPTED", False)} <= found


def test_more_questions_than_identifiers(tmp_path, servers):
    server, _ = servers
    with Helper(tmp_path, authz=(server.address,), timeout_s=5.0) as helper:
        server.behave = server.silent()
        asked = [helper.question(f"User-Name=carol{number}") for number in range(1000)]
        server.wait(1000)
        assert len(set(server.sources)) == 4
        for packet, source in zip(list(server.heard), list(server.sources), strict=True):
            server.send(server.answer(packet, codec.ACCESS_REJECT, [(codec.REPLY_MESSAGE, packet.text(1))]), source)
        for number, exchange in enumerate(asked):
            assert helper.answer(exchange).message == f"carol{number}"


def test_two_hundred_questions_a_second(tmp_path, servers):
    with Helper(tmp_path, authz=(servers[0].address,), log_level="info") as helper:
        began_s = time.monotonic()
        for _ in range(10):
            asked = [helper.question("User-Name=carol", "NAS-Identifier=example.com") for _ in range(100)]
            assert all(helper.answer(number).access is Access.ACCEPTED for number in asked)
        assert 1000 / (time.monotonic() - began_s) > 200


# --- RFC 5176 ----------------------------------------------------------------------------------------------------


def test_requests_of_servers(tmp_path, servers):
    port = free_port()
    listen = ("127.0.0.1", port)
    with (
        Helper(tmp_path, authz=(servers[0].address,), dynamic=("127.0.0.1",), dynamic_listen=listen) as helper,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        client.settimeout(30)
        stamp = (codec.EVENT_TIMESTAMP, int(time.time()))
        request = codec.keyed(codec.DISCONNECT, 9, SECRET, [(codec.ACCT_SESSION_ID, "s1"), stamp])
        stranger.bind(("127.0.0.3", 0))
        stranger.sendto(request, listen)
        client.sendto(codec.keyed(codec.DISCONNECT, 9, b"guessed", [(codec.ACCT_SESSION_ID, "s0"), stamp]), listen)
        client.sendto(b"garbage", listen)
        client.sendto(request, listen)
        exchange, message = helper.dynamic()
        assert (message.dynamic, message.acct_id) == (Dynamic.DISCONNECT, "s1")
        helper.tell(exchange, 1)
        answer = codec.parse(client.recv(5000))
        assert answer.code == codec.DISCONNECT_ACK
        assert codec.is_answer(answer, request, SECRET)
        client.sendto(request, listen)
        assert client.recv(5000) == answer.raw
        change = codec.keyed(codec.COA, 10, SECRET, [(codec.USER_NAME, "carol"), (codec.SESSION_TIMEOUT, 60), stamp])
        client.sendto(change, listen)
        exchange, message = helper.dynamic()
        assert (message.attributes, message.changes, message.session_timeout_s) == (("User-Name=carol",), 1, 60)
        helper.tell(exchange, 0, 503)
        answer = codec.parse(client.recv(5000))
        assert (answer.code, answer.number(codec.ERROR_CAUSE)) == (codec.COA_NAK, 503)
        assert helper.asked == []
        line = words(helper.look().servers[-1])
        assert (line["foreign"], line["authenticator"], line["malformed"], line["repeated"]) == ("1", "1", "1", "1")
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.recv(100)


# --- accounting ------------------------------------------------------------------------------------------------------


def test_records_wait_for_a_server_and_arrive_once(tmp_path):
    port = free_port()
    address = ("127.0.0.1", port)
    with Helper(tmp_path, acct=(address,)) as helper:
        for status in (Status.START, Status.STOP):
            for number in range(20):
                assert helper.account(status, f"s{number}").code == 0
        assert helper.wait_until(lambda told: told.waiting == 40).sent == 0
        with Server(port=port) as server:
            helper.look(retry=True)
            helper.wait_until(lambda told: not told.waiting)
            ids = [packet.text(codec.RECORD_ID) for packet in server.heard]
            assert len(ids) == len(set(ids)) == 40
            assert all(codec.is_keyed(packet, SECRET) for packet in server.heard)


def test_ten_thousand_records_are_spooled_and_drained(tmp_path, record_property):
    port = free_port()
    with Helper(tmp_path, acct=(("127.0.0.1", port),), log_level="info") as helper:
        began_s = time.monotonic()
        asked = []
        for number in range(5000):
            asked += [helper.send(account(status, f"s{number}")) for status in (Status.START, Status.STOP)]
            if number % 100 == 99:
                assert all(helper.answer(exchange).code == 0 for exchange in asked)
                asked.clear()
        spooled_s = time.monotonic() - began_s
        assert helper.look().waiting == 10_000
        progress = []
        with Server(port=port) as server:
            began_s = time.monotonic()
            helper.look(retry=True)
            helper.wait_until(lambda told: progress.append(told.waiting) or not told.waiting, wait_s=120)
            drained_s = time.monotonic() - began_s
            heard = [(packet.text(codec.ACCT_SESSION_ID), packet.number(codec.STATUS_TYPE)) for packet in server.heard]
        assert sorted(set(heard)) == sorted((f"s{number}", status) for number in range(5000) for status in (1, 2))
        first = {one: place for place, one in reversed(list(enumerate(heard)))}
        assert all(first[f"s{number}", 1] < first[f"s{number}", 2] for number in range(5000))
        assert progress == sorted(progress, reverse=True)
        figures = f"spooled at {10_000 / spooled_s:.0f}/s, drained at {10_000 / drained_s:.0f}/s, sent {len(heard)}"
        record_property("records", figures)
        print(figures)
