"""What an operator sees of sessions, and how they are picked out and ended."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbook.broker import World
from tlspool_broker import views as module
from tlspool_broker.loads import Loads
from tlspool_broker.views import WORDS, Views, filter_untrusted
from tlspool_common.appwire import Flag
from tlspool_common.control import render
from tlspool_common.errors import Code, PoolError


@pytest.fixture
def made(no_leaks):
    world = World("max_sessions_per_caller 30000\nmax_sessions 30000\n", workers=4)
    loads = Loads()

    def happened(event):
        for effect in world.happen(event):
            if hasattr(effect, "event"):
                loads.noted(effect.event, effect.fields)

    yield world, Views(world.core, happened, loads)
    world.close()


def listed(views, **fields):
    answer = asyncio.run(views.sessions(fields))
    return [row["session"] for row in answer["sessions"]], answer


def test_filters(made):
    world, views = made
    mail, web = world.app(), world.app(uid=33, unit="nginx.service", command="nginx", exe="/usr/sbin/nginx")
    first = world.relaying(mail, reqid=1)
    second = world.starttls(web, reqid=2)
    third = world.starttls_client(web, reqid=3)
    for fields, wanted in [
        ({}, [first, second, third]),
        ({"caller": "postfix"}, [first]),
        ({"caller": "postfix.service"}, [first]),
        ({"caller": "nginx.service[815]"}, [second, third]),
        ({"caller": "/usr/sbin/nginx"}, [second, third]),
        ({"caller": "ngin"}, []),
        ({"uid": 33}, [second, third]),
        ({"uid": "1000"}, [first]),
        ({"state": "relaying"}, [first]),
        ({"side": "client"}, [third]),
        ({"local": "LOCALHOST"}, [first, second]),
        ({"remote": "www.example.com"}, [third]),
        ({"remote": ".example.com"}, [third]),
        ({"remote": "@example.com", "side": "client"}, []),
        ({"worker": 1}, [first]),
        ({"args": ["side=server", "uid=33"]}, [second]),
        ({"after": first}, [second, third]),
    ]:
        assert listed(views, **fields)[0] == wanted, fields


@pytest.mark.parametrize(
    "fields",
    [
        {"args": ["postfix"]},
        {"args": ["colour=red"]},
        {"args": ["caller="]},
        {"caller": ["x"]},
        {"caller": True},
        {"state": "asleep"},
        {"limit": "-1"},
        {"limit": module.MOST + 1},
        {"after": "x"},
        {"remote": "x" * 1001},
    ],
)
def test_what_is_no_filter(made, fields):
    with pytest.raises(PoolError) as caught:
        listed(made[1], **fields)
    assert caught.value.code is Code.FIELD_MALFORMED


_JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=9), max_size=3)


@given(st.dictionaries(st.sampled_from([*WORDS, "limit", "after", "args"]), _JSON))
def test_any_filter_is_read_or_refused(request_):
    try:
        picked, _ = filter_untrusted(request_, ("limit", "after"))
    except PoolError as error:
        assert error.code is Code.FIELD_MALFORMED
    else:
        assert isinstance(str(picked), str)


def test_pages(made):
    world, views = made
    app = world.app()
    numbers = [world.starttls(app, reqid=number) for number in range(1, 8)]
    seen, after = [], 0
    while True:
        page, answer = listed(views, limit=3, after=after)
        seen += page
        assert answer["total"] == 7
        if not answer["more"]:
            assert "next" not in answer
            break
        after = answer["next"]
    assert seen == numbers
    assert listed(views, limit=0)[1] == {"sessions": [], "total": 7, "more": 7}


def test_everything_about_one(made):
    world, views = made
    number = world.relaying(world.app(exe="/usr/sbin/smtpd"), ctlkey=b"SECRETSECRETSECR", flags=0x6 | Flag.FORK)
    told = views.session({"args": [str(number)]})
    assert told["who"]["exe"] == "/usr/sbin/smtpd"
    assert (told["state"], told["version"], told["generation"]) == ("relaying", "TLSv1.3", 7)
    assert told["verified_how"]
    assert (told["controlled"], told["forks"], told["explain"]) == (True, True, f"tlspool explain {number}")
    text = render(told, for_people=True)
    assert b"SECRET" not in text
    assert b"SECRET".hex().encode() not in text
    assert json.loads(text) == told
    setting_up = module.describe(world.session(world.starttls(world.app(), reqid=2)), world.now_ms)
    assert setting_up["deadline_s"] > 0
    assert setting_up["version"] == setting_up["verified_how"] == ""
    with pytest.raises(PoolError) as caught:
        views.session({"session": 99})
    assert caught.value.code is Code.SESSION_UNKNOWN


def test_ending_some(made):
    world, views = made
    mail, web = world.app(), world.app(uid=33, unit="nginx.service")
    mine = [world.relaying(mail, reqid=1), world.starttls(mail, reqid=2)]
    other = world.relaying(web, reqid=3)
    picked, count = asyncio.run(views.kill_matching({"caller": "postfix"}))
    assert (str(picked), count) == ("caller=postfix", 2)
    assert [world.state(number) for number in mine] == ["EXPECT_END", "EXPECT_END"]
    assert world.state(other) == "RELAYING"
    assert asyncio.run(views.kill_matching({"args": ["all"]}))[1] == 3
    assert world.state(other) == "EXPECT_END"
    for nobody in ({}, {"all": True, "caller": "postfix"}, {"all": "yes"}):
        with pytest.raises(PoolError) as caught:
            asyncio.run(views.kill_matching(nobody))
        assert caught.value.code is Code.FIELD_MALFORMED


def test_callers_grants_and_loads(made):
    world, views = made
    app = world.app()
    number = world.relaying(app, reqid=1)
    world.starttls(app, reqid=2)
    asyncio.run(views.kill_matching({"state": "expect_client_hello"}))
    [row] = asyncio.run(views.callers({}))["callers"]
    assert (row["uid"], row["caller"], row["sessions"], row["being_set_up"]) == (1000, "postfix.service", 2, 0)
    assert (row["refused"] + row["failed"], row["last_code"]) == (1, Code.SESSION_KILLED)
    assert views.grants({}) == {"keyd": True, "issued": 1, "by_role": {"server": 1}}
    world.starttls(app, reqid=3)
    told = views.loads({})
    assert (told["in_flight"], told["sessions"], told["states"]["expect_client_hello"]) == (1, 3, 1)
    assert world.session(number)


def test_twenty_thousand_sessions_hold_up_nobody(no_leaks):
    """A list of them all is made in portions of some milliseconds."""
    world = World()
    one = world.session(world.relaying(world.app()))
    # A real one costs a descriptor, which a test has not 20 000 of.
    others = {number: replace(one, session_id=number) for number in range(2, 20_001)}
    world.core.sessions._by_id.update(others)
    views = Views(world.core, world.happen, Loads())
    worst = 0.0

    async def watch():
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            worst = max(worst, time.perf_counter() - before)

    async def ask():
        task = asyncio.create_task(watch())
        started = time.perf_counter()
        answer = await views.sessions({"remote": "nobody.example"})
        page = await views.sessions({"args": []})
        task.cancel()
        return answer, page, time.perf_counter() - started

    answer, page, took_s = asyncio.run(ask())
    assert (answer["total"], answer["more"], answer["sessions"]) == (20_000, 0, [])
    assert (len(page["sessions"]), page["more"]) == (module.LIMIT_PEOPLE, 20_000 - module.LIMIT_PEOPLE)
    assert len(render(page, for_people=True)) < 40_000
    assert took_s < 5
    assert worst < 1
    world.close()
