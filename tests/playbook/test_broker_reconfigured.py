"""The configuration is read again while sessions are there: what begins from now on goes by the new one."""

import pytest

from tests.playbook.broker import World
from tlspool_broker.events import (
    Began,
    Clock,
    Disarm,
    HelperKind,
    HelperNumber,
    Reconfigured,
    SendHelper,
    SendMaster,
    StartHelper,
    StopHelper,
    Timer,
    TimerFired,
)
from tlspool_broker.helper import PAUSE_MS
from tlspool_broker.online import Online
from tlspool_broker.out import Out
from tlspool_common.messages import PROTOCOL, AskRevocation, Finding, OnlineHello, RevocationTold, SpawnWorkers
from tlspool_common.settings import Part, parse_untrusted


def reconfigure(world, text):
    return world.happen(Reconfigured(parse_untrusted(text, Part.BROKER)))


def world_of(text=""):
    return World(text)


def test_all_parts_see_the_new_settings_and_what_needs_a_restart_stays():
    world = world_of("max_sessions 5\n")
    settings = world.settings
    object.__setattr__(settings, "part", Part.BROKER)
    reconfigure(world, "max_sessions 6\ndbenv_dir /other\naccess a deny\nworkers_per_application 7\n")
    assert settings.max_sessions == 6
    assert str(settings.dbenv_dir) == "/var/lib/tlspool/db"
    assert [row["rule"] for row in world.core.access.rows()] == ["a", "-"]
    assert world.core.workers._per_owner == 7


def test_more_warm_workers_are_asked_for_at_once():
    world = world_of("workers 2\n")
    world.happen(TimerFired(Timer(Clock.SPAWN)))  # it has waited for the workers of a new master
    reconfigure(world, "workers 5\n")
    [wanted] = [effect.message for effect in world.effects if isinstance(effect, SendMaster)]
    assert wanted == SpawnWorkers(count=3)


SETTINGS = "online yes\n"
ASK = AskRevocation(wants=1, chain=(b"x",), crl_urls=(), ocsp_urls=(), deadline_ms=1000)
TOLD = RevocationTold(crl=Finding.GOOD, ocsp=Finding.NONE, detail="")


@pytest.fixture
def helper():
    """Online, with what comes out of it; ``helper.take()``."""
    out = Out()
    out.now_ms = 1_000_000
    online = Online(out, parse_untrusted(SETTINGS), lambda: 1_700_000_000.0)
    online.take = lambda: [effect for effect in out.take() if not isinstance(effect, Disarm)]
    return online


def started(helper, told=lambda _told: None):
    number = helper.ask(ASK, told)
    start = next(effect for effect in helper.take() if isinstance(effect, StartHelper))
    helper.said(start.helper, 0, OnlineHello(protocol=PROTOCOL, pid=1))
    assert any(isinstance(effect, SendHelper) for effect in helper.take())
    return start.helper, number


def test_an_idle_helper_is_replaced(helper):
    first, number = started(helper)
    helper.said(first, number, TOLD)
    helper.reconfigured(parse_untrusted("online_private yes\n"))
    stopped, begun, _ = helper.take()
    assert (stopped, begun) == (StopHelper(first), StartHelper(HelperNumber(HelperKind.ONLINE, first.number + 1)))


def test_one_that_nobody_wanted_is_not_started_for_that(helper):
    helper.reconfigured(parse_untrusted("online_private yes\n"))
    assert helper.take() == []
    helper.reconfigured(parse_untrusted("crl_file /a\n"))
    assert helper.take()[0] == StartHelper(HelperNumber(HelperKind.ONLINE, 1))  # a file is there to be used


@pytest.mark.parametrize(
    ("config", "starts"),
    [
        ("", False),
        ("validation T\n", False),
        ("validation TR&\n", True),
        ("validation To&\nonline no\n", False),
        ("crl_file /a\n", True),
        ("crl_file /a\nonline no\n", True),
    ],
)
def test_it_starts_with_the_broker_where_it_will_be_asked(config, starts):
    world = world_of(config)
    world.happen(Began())
    assert bool(world.of(StartHelper)) == starts
    assert world.core.online.describe()["started"] == starts


def test_it_is_started_again_without_a_question(no_leaks):
    world = World("crl_file /a\n")
    world.happen(Began())
    world.helper_comes()
    world.helper_goes()
    assert [one for one in world.later(PAUSE_MS[0]) if isinstance(one, StartHelper)] == [
        StartHelper(HelperNumber(HelperKind.ONLINE, 2))
    ]
    told = world.core.online.describe()
    assert (told["state"], told["started"], told["failed"]) == ("starting", 2, 1)
    world.close()


def test_a_busy_one_answers_first(helper):
    answers = []
    first, number = started(helper, answers.append)
    helper.reconfigured(parse_untrusted("online_private yes\n"))
    assert helper.take() == []
    helper.said(first, number, TOLD)
    assert answers == [TOLD]
    stopped, begun, _ = helper.take()
    assert stopped == StopHelper(first)
    second = begun.helper
    helper.said(second, 0, OnlineHello(protocol=PROTOCOL, pid=1))
    number = helper.ask(ASK, answers.append)
    helper.said(second, number, TOLD)
    assert not any(isinstance(effect, StopHelper) for effect in helper.take())


def test_nobody_is_asked_when_the_network_is_off(helper):
    helper.reconfigured(parse_untrusted("online no\n"))
    assert helper.ask(ASK, lambda _told: None) == 0
    helper.reconfigured(parse_untrusted("online no\ncrl_file /a\n"))
    assert helper.ask(ASK, lambda _told: None) != 0


def test_the_core_replaces_the_helper_only_for_its_own_settings(monkeypatch):
    world = world_of("")
    seen = []
    monkeypatch.setattr(world.core.online, "reconfigured", seen.append)
    reconfigure(world, "max_sessions 9\n")
    assert seen == []
    reconfigure(world, "max_sessions 9\nonline_ports 80 8080\n")
    assert len(seen) == 1
