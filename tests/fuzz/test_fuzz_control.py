"""Operators' questions about sessions, and ending these.  Invariant: any request is answered or refused with PoolError;
the answer can be written for people and for programs, and is the same; nobody's session ends but those that are meant.
"""

from __future__ import annotations

import asyncio
import inspect
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.playbook.broker import World
from tlspool_broker.control import Control
from tlspool_broker.databases import Databases
from tlspool_broker.views import WORDS, filter_untrusted
from tlspool_common.control import render, request_untrusted
from tlspool_common.errors import PoolError

LOOKS = ("status", "sessions", "session", "workers", "callers", "grants", "loads", "kill", "explain", "help")
WORDS_ = st.sampled_from(
    ["all", "1", "2", "99", "-1", "caller=postfix", "uid=1000", "state=relaying", "state=", "remote=.", "local=@", "=",
     "limit=3", "limit=999999999", "after=1", "after=x", "worker=1", "relaying", "\ud800", "\0", "é", "\u0661"]
)  # fmt: skip
values = WORDS_ | st.integers(-5, 2**70) | st.booleans() | st.none() | st.text(max_size=5) | st.floats(allow_nan=False)
requests = st.dictionaries(
    st.sampled_from([*WORDS, "session", "all", "limit", "after", "args", "author", "peer_uid", "count"]),
    values | st.lists(values, max_size=3),
    max_size=4,
)


class Silent:
    def info(self, _event, **_fields):
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    world, databases = World(workers=4), Databases(tmp_path_factory.mktemp("db"))
    world.relaying(world.app(), reqid=1)
    world.starttls_client(world.app(uid=1001, unit="", command="x\x1b"), reqid=1)
    yield world, Control(world.core, databases, world.settings, world.happen, Silent())
    databases.close()
    world.close()


def answered(control, request):
    result = control.handle(request)

    async def later():
        return await result

    return asyncio.run(later()) if inspect.isawaitable(result) else result


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(LOOKS), requests)
def test_any_question(made, command, request):
    world, control = made
    before = {session.session_id: session.state for session in world.core.sessions}
    try:
        answer = answered(control, {**request, "cmd": command})
    except PoolError:
        answer = None
    else:
        assert json.loads(render(answer, for_people=True)) == json.loads(render(answer, for_people=False))
    after = {session.session_id: session.state for session in world.core.sessions}
    if command != "kill" or answer is None:
        assert after == before
    elif "session" not in answer and request.get("all") is not True and request.get("args") != ["all"]:
        picked, _ = filter_untrusted(request)
        assert picked  # somebody in particular


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=60) | st.text().map(str.encode) | st.lists(st.sampled_from(LOOKS)).map(" ".join).map(str.encode)
)
def test_any_line(made, line):
    _, control = made
    try:
        request, for_people = request_untrusted(line)
        answer = answered(control, request)
    except PoolError:
        return
    assert json.loads(render(answer, for_people))
