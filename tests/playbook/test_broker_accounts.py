"""What applications account for: records, replies, limits, and what another broker goes on with."""

import pytest

from tests.playbook import aaa
from tests.playbook.aaa import (
    KEY,
    REMOTE,
    RULE,
    SERVERS,
    attributes,
    authenticate,
    count,
    kept,
    records,
    start,
    subject,
)
from tests.playbook.broker import ClientHelloSeen, HandshakeDone
from tlspool_broker.aaa import KEEP_MS
from tlspool_broker.events import Clock, Reconfigured, Timer
from tlspool_broker.items import NAS_ERROR
from tlspool_broker.shelf import InMemory
from tlspool_common import limits
from tlspool_common.aaawire import AccountKept, Tags
from tlspool_common.appwire import Cmd, ErrorReply
from tlspool_common.errors import Code
from tlspool_common.messages_radius import Status
from tlspool_common.settings import Part, parse_untrusted

make, world, app, session = aaa.make, aaa.world, aaa.app, aaa.session


def test_an_account_from_start_to_end(world, app):
    subject(world, app, "john@example.org", "print.example.net", "ipp")
    start(world, app, at_ms=1_700_000_000_000)
    assert world.frames(app) == []
    [record] = records(world)
    found = attributes(record)
    assert (record.status, record.at_ms, record.has_items) == (Status.START, 1_700_000_000_000, False)
    assert (found["User-Name"], found["NAS-Identifier"]) == ("john@example.org", "print.example.net")
    assert (found["TLSPool-Kind"], found["TLSPool-Instance"]) == ("print", "job-1")
    world.radius_keeps()
    assert kept(world, app, Cmd.LOCAL_ACCOUNT_START, 9) == AccountKept(1_700_000_000_000, record.acct_id)
    count(world, app, 3, ends=False)
    world.radius_keeps()
    assert kept(world, app, Cmd.LOCAL_ACCOUNT_UPDATE, 10).acct_id == record.acct_id
    count(world, app, 2**64 - 1, 1_700_000_000_400)
    [stop] = records(world)
    assert (stop.status, stop.items, stop.acct_id) == (Status.STOP, 2**64 - 1, record.acct_id)
    assert stop.attributes == record.attributes
    world.radius_keeps()
    assert kept(world, app, Cmd.LOCAL_ACCOUNT_END, 10).acct_id == record.acct_id
    count(world, app, 1)
    assert world.error(app)[1] == Code.ACCOUNT_UNKNOWN


def test_an_account_of_a_session_outlives_it(world, app, session):
    start(world, app, KEY)
    [record] = records(world)
    assert attributes(record)["User-Name"] == REMOTE
    world.radius_keeps()
    world.gone(app)
    again = world.app()
    count(world, again, 5)
    assert records(world)[0].items == 5
    world.radius_keeps()
    assert kept(world, again, Cmd.LOCAL_ACCOUNT_END, 10)


def test_the_session_that_an_item_belongs_to(make):
    """Accounting of sessions and of items hang together by Acct-Multi-Session-Id, and share Class."""
    world = make(SERVERS.replace("authn=no authz=no", "authn=no authz=yes"))
    app = world.app()
    number = world.starttls(app, ctlkey=KEY, remoteid=REMOTE)
    world.say(number, ClientHelloSeen)
    world.say(number, HandshakeDone)
    world.radius_says(classes=(b"a", b"b"), tags=("gold",))
    frame, _ = world.callback(app)
    world.answer(app, frame)
    start(world, app, KEY)
    [record] = records(world)
    assert record.classes == (b"a", b"b")
    acct_id = world.session(number).access.acct_id
    assert attributes(record)["Acct-Multi-Session-Id"] == acct_id != record.acct_id
    world.send(app, Cmd.LOCAL_TAGS, Tags(KEY).to_payload(), reqid=30)
    [frame] = world.frames(app)
    assert Tags.from_payload_untrusted(frame.payload.ljust(380, b"\0")) == Tags(KEY, 0, 1, ("gold",))
    assert world.session(number).details(KEY).tags == 1


def test_class_of_an_answer_goes_with_what_is_accounted_for(world, app, session):
    subject(world, app)
    authenticate(world, app)
    world.radius_says(classes=(b"tariff", b"7"))
    start(world, app)
    assert (records(world)[0].classes, attributes(records(world)[0])["User-Name"]) == (
        (b"tariff", b"7"),
        "john@example.org",
    )
    world.radius_keeps()
    authenticate(world, app, KEY)
    world.radius_says(classes=(b"mail",))
    start(world, app, KEY, instance="job-2")
    assert (records(world)[0].classes, attributes(records(world)[0])["User-Name"]) == ((b"mail",), REMOTE)


def test_other_users_items_are_unknown(world, app):
    subject(world, app)
    start(world, app)
    world.radius_keeps()
    stranger = world.app(uid=1001)
    count(world, stranger, 99)
    assert world.error(stranger)[1] == Code.ACCOUNT_UNKNOWN
    subject(world, app)
    start(world, app, reqid=12)
    assert world.error(app)[:2] == (12, Code.ACCOUNT_EXISTS)


def test_the_spool_is_full(world, app):
    subject(world, app)
    start(world, app)
    world.radius_keeps(Code.ACCOUNT_SPOOL_FULL, "100 wait")
    assert world.error(app)[:2] == (9, Code.ACCOUNT_SPOOL_FULL)
    assert len(world.core.items) == 0


def test_a_start_that_nobody_keeps_in_time(world, app):
    subject(world, app)
    start(world, app)
    world.later(KEEP_MS)
    assert world.error(app)[:2] == (9, Code.ACCOUNT_UNKEPT)
    begun, stop = records(world)
    assert (stop.status, stop.items, stop.cause, stop.acct_id) == (Status.STOP, 0, NAS_ERROR, begun.acct_id)
    world.radius_keeps()
    assert world.frames(app) == []
    assert len(world.core.items) == 0


def test_a_start_whose_application_went_away_goes_on(world, app):
    subject(world, app)
    start(world, app)
    world.gone(app)
    world.radius_keeps()
    assert [item.instance for item in world.core.items] == ["job-1"]


@pytest.mark.parametrize(
    ("at_ms", "said"),
    [
        (1_700_000_000_500 + 300_001, "ahead of the pool's clock"),
        (1_700_000_000_500 - 7 * 86_400_000 - 1, "more than a week ago"),
    ],
)
def test_times_that_cannot_be(world, app, at_ms, said):
    subject(world, app)
    start(world, app, at_ms=at_ms)
    _, code, text = world.error(app)
    assert (code, said in text) == (Code.FIELD_MALFORMED, True)
    assert len(world.core.aaa) == 0


def test_nothing_ends_before_it_began(world, app):
    subject(world, app)
    start(world, app)
    world.radius_keeps()
    count(world, app, 1, 1_700_000_000_499)
    assert "before the start" in world.error(app)[2]


def test_another_broker_has_the_items(make):
    shelf = InMemory()
    world = make(SERVERS + RULE, shelf=shelf)
    app = world.app()
    for number in (1, 2):
        subject(world, app)
        start(world, app, instance=f"job-{number}")
        world.radius_keeps()
    count(world, app, 7, instance="job-2")  # the broker is killed before the helper has answered
    after = make(SERVERS + RULE, shelf=shelf)
    assert [(one.status, one.items) for one in records(after)] == [(Status.START, 0), (Status.STOP, 7)]
    after.radius_keeps()
    app = after.app()
    count(after, app, 8)
    after.radius_keeps()
    assert kept(after, app, Cmd.LOCAL_ACCOUNT_END, 10)
    assert shelf.load() == {}


def test_servers_that_come_later(make):
    """Items wait on the shelf while the configuration has no server for them."""
    shelf = InMemory()
    world = make(SERVERS + RULE, shelf=shelf)
    app = world.app()
    subject(world, app)
    start(world, app)
    world.radius_keeps()
    without = "".join(line for line in SERVERS.splitlines(keepends=True) if not line.startswith("radius_acct"))
    after = make(without + RULE, shelf=shelf)
    assert (len(after.core.items), len(shelf.load())) == (0, 1)
    after.happen(Reconfigured(parse_untrusted(SERVERS + RULE, Part.BROKER)))
    after.radius_comes()
    assert [one.status for one in records(after)] == [Status.START]
    assert len(after.core.items) == 1


def test_somebody_looks_for_items_that_are_forgotten(world, app):
    subject(world, app)
    start(world, app)
    world.radius_keeps()
    world.unix_time_s += limits.RADIUS_ITEM_S
    world.later(600_000)
    assert [one.status for one in records(world)] == [Status.STOP]
    assert Timer(Clock.ITEMS) in world.timers


def test_a_pool_without_servers_has_no_items(make):
    world = make("")
    app = world.app()
    subject(world, app)
    start(world, app)
    assert ErrorReply.from_payload_untrusted(world.frames(app)[0].payload).message.startswith("[807]")
