"""What the helper that speaks RADIUS is given to keep: order, what is said again, what is refused, what is settled."""

from dataclasses import replace

import pytest

from tlspool_broker import radius as module
from tlspool_broker.events import HelperKind, HelperNumber, Note, SendHelper, StartHelper, StopHelper
from tlspool_broker.helper import PAUSE_MS
from tlspool_broker.out import Out
from tlspool_broker.radius import AGAIN_MS, AT_ONCE, RECORDS, Radius
from tlspool_common.errors import Code
from tlspool_common.messages import (
    PROTOCOL,
    Access,
    AccessTold,
    Account,
    Accounted,
    AccountSettled,
    AskAccess,
    AskRadius,
    DynamicAsked,
    DynamicTold,
    Purpose,
    RadiusHello,
    RadiusTold,
    Status,
)
from tlspool_common.messages_radius import Dynamic
from tlspool_common.settings import parse_untrusted

CONFIG = "radius_secret_file /x\nradius_acct 192.0.2.3\n"
QUESTION = AskAccess(purpose=Purpose.AUTHORIZE, attributes=("User-Name=a",), state=b"", deadline_ms=900, password=b"pw")
TOLD = AccessTold(
    access=Access.ACCEPTED, detail="", message="", user_name="", classes=(), tags=(), state=b"", session_timeout_s=0,
    idle_timeout_s=0, interim_s=0, terminate=0, server="192.0.2.1:1812", elapsed_ms=5,
)  # fmt: skip
DYNAMIC = DynamicAsked(
    dynamic=Dynamic.DISCONNECT, server="192.0.2.1:3799", acct_id="A-1", attributes=(), changes=0,
    session_timeout_s=0, idle_timeout_s=0, tags=(),
)  # fmt: skip


def record(acct_id="A-1", status=Status.START, at_ms=0):
    return Account(
        status=status, acct_id=acct_id, at_ms=at_ms, attributes=(), classes=(), from_remote_b=0, to_remote_b=0,
        from_remote_records=0, to_remote_records=0, session_s=0, items=0, has_items=False, cause=0,
    )  # fmt: skip


class World:
    """The broker's side of the helper, with the helper played by the test."""

    def __init__(self, config=CONFIG, *, there=True):
        self.out = Out()
        self.out.now_ms = 1_000_000
        self.settings = parse_untrusted(config)
        self.radius = Radius(self.out, self.settings, lambda: 1_700_000_000.5)
        self.helper = None
        self.given = []
        self.took = []
        self.radius.helper.began()
        self.take()
        if there:
            self.comes()

    def take(self):
        self.took = self.out.take()
        for effect in self.took:
            if isinstance(effect, StartHelper):
                self.helper = effect.helper
            elif isinstance(effect, SendHelper):
                self.given.append(effect)
        return self.took

    def comes(self):
        self.given.clear()
        self.says(RadiusHello(protocol=PROTOCOL, pid=5))

    def goes(self, *, back=True):
        self.radius.helper.lost(self.helper, "it has closed its end")
        self.take()
        if back:
            self.out.now_ms += PAUSE_MS[0]
            self.radius.helper.timed_out()
            self.take()

    def says(self, message, exchange=0):
        self.radius.said(self.helper, exchange, message)
        self.take()

    def account(self, *arguments, told=None, **fields):
        self.radius.account(record(*arguments, **fields), told)
        self.take()

    def records(self):
        return [one.message for one in self.given if isinstance(one.message, Account)]

    def keeps(self, count=None, code=0):
        """The helper keeps what it was given, the oldest first; or cannot."""
        waiting = [one for one in self.given if isinstance(one.message, Account)][:count]
        for one in waiting:
            self.given.remove(one)
            self.says(Accounted(code=int(code), detail="no space left" if code else ""), one.exchange)


@pytest.fixture
def world():
    return World()


def names(messages):
    return [f"{one.acct_id} {one.status.name}" for one in messages]


def test_a_record_is_kept(world):
    heard = []
    world.account("A-1", told=heard.append)
    assert names(world.records()) == ["A-1 START"]
    assert world.radius.records == 1
    world.keeps()
    assert heard == [Accounted(code=0, detail="")]
    assert world.radius.records == 0


def test_records_wait_for_the_helper_and_go_out_in_their_order():
    world = World(there=False)
    for status in (Status.START, Status.STOP):
        world.account("A-1", status)
    world.account("A-2")
    assert world.records() == []
    world.comes()
    assert names(world.records()) == ["A-1 START", "A-1 STOP", "A-2 START"]


def test_they_are_said_again_to_the_next_helper_in_their_order(world):
    heard = []
    for number in range(4):
        world.account(f"A-{number}", told=heard.append)
    world.keeps(1)
    world.goes()
    assert heard == [Accounted(code=0, detail="")]  # who waits for the others goes on waiting
    world.account("A-9")
    world.comes()
    assert names(world.records()) == ["A-1 START", "A-2 START", "A-3 START", "A-9 START"]
    world.keeps()
    assert len(heard) == 4
    assert world.radius.records == 0


def test_so_many_at_a_time(world):
    for number in range(AT_ONCE + 10):
        world.account(f"A-{number}")
    assert len(world.records()) == AT_ONCE
    world.keeps(3)
    assert len(world.records()) == AT_ONCE
    world.goes()
    world.comes()
    assert names(world.records())[:2] == ["A-3 START", "A-4 START"]
    while world.records():
        world.keeps()
    assert world.radius.records == 0


def test_an_update_takes_the_place_of_the_one_that_waits():
    world = World(there=False)
    for at_ms in (1, 2, 3):
        world.account("A-1", Status.INTERIM, at_ms)
    world.account("A-2", Status.INTERIM, 4)
    world.comes()
    assert [(one.acct_id, one.at_ms) for one in world.records()] == [("A-1", 3), ("A-2", 4)]
    world.account("A-1", Status.INTERIM, 5)  # one that was sent is not changed any more
    assert [one.at_ms for one in world.records()] == [3, 4, 5]


def test_what_somebody_waits_for_is_refused_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "RECORDS", 3)
    world = World(there=False)
    heard = []
    for number in range(3):
        world.account(f"A-{number}", told=heard.append)
    assert heard == []
    world.account("A-4", told=heard.append)
    assert [one.code for one in heard] == [Code.ACCOUNT_SPOOL_FULL]
    world.account("A-1", Status.STOP)
    assert world.radius.records == 4
    assert RECORDS > 10_000


def test_a_record_that_cannot_be_kept_is_told(world):
    heard = []
    world.account("A-1", told=heard.append)
    world.keeps(code=Code.ACCOUNT_UNKEPT)
    assert [one.code for one in heard] == [Code.ACCOUNT_UNKEPT]
    assert world.radius.records == 0


def test_an_update_that_cannot_be_kept_is_lost(world):
    world.account("A-1", Status.INTERIM)
    world.keeps(code=Code.ACCOUNT_UNKEPT)
    assert world.radius.records == 0
    [note] = [one for one in world.took if isinstance(one, Note)]
    assert (note.event, note.fields["status"], note.fields["detail"]) == ("radius.unkept", "interim", "no space left")


def test_an_end_that_cannot_be_kept_is_said_again_later(world):
    world.account("A-1", Status.STOP)
    world.keeps(code=Code.ACCOUNT_UNKEPT)
    world.account("A-2")
    assert names(world.records()) == ["A-2 START"]
    world.out.now_ms += AGAIN_MS
    world.keeps()
    assert names(world.records()) == ["A-1 STOP"]
    world.keeps()
    assert world.radius.records == 0


def test_where_nobody_keeps_records():
    world = World("", there=False)
    heard = []
    world.account("A-1", told=heard.append)
    world.account("A-1")
    assert heard == [None]
    assert world.radius.records == 0
    assert world.took == []


# --- settled --------------------------------------------------------------------------------------------


def settled(world):
    return [one.message for one in world.given if isinstance(one.message, AccountSettled)]


def test_settled_is_said_behind_every_record(world):
    for number in range(AT_ONCE + 1):
        world.account(f"A-{number}")
    world.radius.settled()
    world.take()
    assert settled(world) == []
    world.keeps()
    assert settled(world) == [AccountSettled(at_ms=1_700_000_000_500)]
    assert isinstance(world.given[-1].message, AccountSettled)
    assert names(world.records()) == [f"A-{AT_ONCE} START"]


def test_settled_waits_for_the_helper():
    world = World(there=False)
    world.account("A-1")
    world.radius.settled()
    world.take()
    world.comes()
    assert [type(one.message) for one in world.given] == [Account, AccountSettled]


def test_the_next_helper_is_told_by_who_accounts(world):
    """It knows of no session: settled means nothing to it before they are all named."""
    for number in range(AT_ONCE + 1):
        world.account(f"A-{number}")
    world.radius.settled()
    ready = []
    world.radius.on_ready = lambda: ready.append(1)
    world.goes()
    world.comes()
    while world.records():
        world.keeps()
    assert ready == [1]
    assert settled(world) == []
    world.radius.settled()
    world.take()
    assert len(settled(world)) == 1


# --- questions, and what the helper asks ----------------------------------------------------------------


def test_questions(world):
    heard = []
    number = world.radius.ask(QUESTION, heard.append)
    world.take()
    assert world.given[-1].message == QUESTION
    world.says(TOLD, number)
    assert heard == [TOLD]
    [note] = [one for one in world.took if isinstance(one, Note)]
    assert note.fields == {
        "purpose": "authorize",
        "access": "accepted",
        "server": "192.0.2.1:1812",
        "detail": "",
        "ms": 5,
    }
    assert "pw" not in repr(QUESTION)


def asked(world):
    return [one.message for one in world.given if isinstance(one.message, AskAccess)]


def test_a_question_goes_to_the_next_helper_with_what_is_left_of_its_time(world):
    question, heard = replace(QUESTION, password=b"", deadline_ms=8000), []
    number = world.radius.ask(question, heard.append)
    world.goes()
    world.comes()
    assert asked(world) == [replace(question, deadline_ms=8000 - PAUSE_MS[0])]
    assert heard == []
    world.says(TOLD, number)
    assert heard == [TOLD]


def test_a_password_that_was_sent_is_not_sent_by_the_next_helper(world):
    """Its answer may have counted.  One that was not sent waits until it can be."""
    heard, later = [], []
    assert world.radius.ask(replace(QUESTION, deadline_ms=8000), heard.append)
    world.goes(back=False)
    assert heard == [None]
    number = world.radius.ask(QUESTION, later.append)
    world.out.now_ms += PAUSE_MS[0]
    world.radius.helper.timed_out()
    world.take()
    world.comes()
    assert asked(world) == [QUESTION]
    world.says(TOLD, number)
    assert later == [TOLD]


def test_when_two_helpers_have_failed_nobody_is_asked(world):
    heard = []
    assert world.radius.ask(replace(QUESTION, password=b""), heard.append)
    world.goes()
    world.goes(back=False)
    assert heard == [None]
    assert world.radius.ask(QUESTION, heard.append) == 0
    world.take()
    assert [one.fields["access"] for one in world.took] == ["not_asked"]


def test_a_question_goes_to_two_helpers_only(world):
    """Though they are well otherwise: it may be what ends them."""
    heard = []
    assert world.radius.ask(replace(QUESTION, password=b"", deadline_ms=60_000), heard.append)
    for number in (1, 2):
        assert heard == []
        world.account(f"A-{number}")
        world.keeps()
        world.goes()
        world.comes()
    assert heard == [None]
    assert asked(world) == []


def test_records_and_questions_go_to_the_next_helper(world):
    """Each in their order; records are said by this one, which knows which are on the disk."""
    for number in (1, 2):
        world.account(f"A-{number}")
        assert world.radius.ask(replace(QUESTION, password=b"", deadline_ms=8000), lambda _told: None)
    world.keeps(1)
    world.goes()
    assert (world.radius.records, world.radius.open_questions) == (1, 2)
    world.comes()
    assert [type(one.message) for one in world.given] == [AskAccess, AskAccess, Account]
    assert names(world.records()) == ["A-2 START"]


def test_status(world):
    heard = []
    told = RadiusTold(waiting=1, oldest_s=2, open=3, sent=4, refused=5, servers=("a=b",), records=())
    number = world.radius.status(AskRadius(after=0, count=1, retry=False), heard.append)
    world.take()
    assert world.radius.open_questions == 1
    world.says(told, number)
    assert heard == [told]
    assert world.radius.counters.asked == 0


def test_requests_of_servers_are_answered(world):
    world.says(DYNAMIC, 77)
    assert world.given[-1] == SendHelper(world.helper, 77, DynamicTold(sessions=0, error_cause=503))
    seen = []

    def ends(asked):
        seen.append(asked)
        return DynamicTold(sessions=2, error_cause=0)

    world.radius.on_dynamic = ends
    world.says(DYNAMIC, 78)
    assert world.given[-1].message.sessions == 2
    assert seen == [DYNAMIC]


def test_one_that_is_not_believed_is_not_answered(world):
    world.radius.said(HelperNumber(HelperKind.RADIUS, 99), 1, DYNAMIC)
    assert world.take() == []


def test_what_it_serves():
    world = World("radius_secret_file /x\nradius_authn a.example\n")
    assert world.radius.serves(Purpose.AUTHENTICATE)
    assert not world.radius.serves(Purpose.AUTHORIZE)
    assert not world.radius.accounts
    told = world.radius.describe()
    assert (told["state"], told["authn"], told["authz"], told["records"]) == ("ready", ["a.example:1812"], [], 0)


# --- other settings -------------------------------------------------------------------------------------


def reconfigure(world, config):
    world.settings.adopt(parse_untrusted(config))
    world.radius.reconfigured()
    world.take()


def test_other_servers_replace_it_and_nothing_is_lost(world):
    heard = []
    world.account("A-1", told=heard.append)
    world.radius.ask(QUESTION, heard.append)
    world.take()
    reconfigure(world, CONFIG + "radius_authz 192.0.2.9\n")
    assert [type(one) for one in world.took if isinstance(one, StopHelper | StartHelper)] == [StopHelper, StartHelper]
    world.account("A-2")
    world.comes()
    assert [type(one.message) for one in world.given] == [Account, AskAccess, Account]
    assert heard == []
    world.keeps()
    assert len(heard) == 1


def test_no_servers_any_more(world):
    heard = []
    world.account("A-1", told=heard.append)
    world.account("A-1", Status.STOP)
    reconfigure(world, "")
    assert heard == [None]
    assert world.radius.records == 0
    assert world.radius.describe()["state"] == "not used"
    reconfigure(world, CONFIG)
    world.comes()
    assert world.records() == []
