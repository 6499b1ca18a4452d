"""What the broker answers operators, without a socket."""

import os

import pytest

from tests.playbook.broker import World
from tlspool_broker.control import Control
from tlspool_broker.databases import Databases
from tlspool_broker.events import KillAsked
from tlspool_common.errors import Code, PoolError


class Lines:
    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))


@pytest.fixture
def made(tmp_path, no_leaks):
    world, log = World(), Lines()
    databases = Databases(tmp_path / "db")
    yield world, log, Control(world.core, databases, world.settings, world.happen, log)
    databases.close()
    world.close()


def test_status(made):
    world, _, control = made
    app = world.app()
    world.relaying(app, reqid=1)
    world.starttls(app, reqid=2)
    status = control.handle({"cmd": "status"})
    assert status["states"] == {"relaying": 1, "expect_client_hello": 1}
    assert (status["sessions"], status["workers"], status["connections"], status["spares"]) == (2, 2, 1, 0)
    assert status["keyd"] is status["master"] is True
    world.keyd_goes()
    world.master_goes()
    status = control.handle({"cmd": "status"})
    assert status["keyd"] is status["master"] is False


def test_sockets_and_rules(tmp_path, no_leaks):
    world, databases = World("access mail allow user=0\n"), Databases(tmp_path / "db")
    path = tmp_path / "s"
    path.touch(0o640)
    control = Control(world.core, databases, world.settings, world.happen, Lines(), [str(path), "/nowhere"])
    world.starttls(world.app())
    status = control.handle({"cmd": "status"})
    assert status["sockets"] == [
        {"path": str(path), "mode": "0640", "uid": os.getuid(), "gid": path.stat().st_gid},
        {"path": "/nowhere", "error": "No such file or directory"},
    ]
    assert status["access"][0] == {"rule": "mail", "does": "allow user=0", "used": 0}
    assert status["access"][1]["used"] == 1
    databases.close()
    world.close()


def test_lists(made):
    world, _, control = made
    session_id = world.relaying(world.app())
    [row] = control.handle({"cmd": "sessions"})["sessions"]
    assert row["session"] == session_id
    assert "ctlkey" not in row
    assert [row["sessions"] for row in control.handle({"cmd": "workers"})["workers"]] == [1, 0]
    assert {"status", "kill", "trust.del"} <= set(control.handle({"cmd": "help"})["commands"])


@pytest.mark.parametrize("fields", [{"session": 1}, {"session": "1"}, {"args": ["1"]}])
def test_kill(made, fields):
    world, log, control = made
    session_id = world.relaying(world.app())
    assert control.handle({"cmd": "kill", "author": "a" * 500, **fields}) == {"session": session_id}
    assert world.state(session_id) == "EXPECT_END"
    assert log.lines == [("session.kill", {"session": session_id, "author": "a" * 100})]
    assert KillAsked(session_id)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, Code.FIELD_MALFORMED),
        ({"session": "\u0661"}, Code.FIELD_MALFORMED),
        ({"session": "-1"}, Code.FIELD_MALFORMED),
        ({"session": [1]}, Code.FIELD_MALFORMED),
        ({"args": []}, Code.FIELD_MALFORMED),
        ({"session": 99}, Code.SESSION_UNKNOWN),
    ],
)
def test_kill_that_cannot_be(made, fields, code):
    with pytest.raises(PoolError) as caught:
        made[2].handle({"cmd": "kill", **fields})
    assert caught.value.code is code


def test_only_changes_are_logged(made):
    _, log, control = made
    control.handle({"cmd": "localid.list"})
    control.handle({"cmd": "disclose.del", "selector": "x.example"})
    assert log.lines == []
    control.handle(
        {
            "cmd": "localid.set",
            "id": "x.example",
            "flags": "valexp,server",
            "records": [{"uri": "1"}],
            "author": "me",
        }
    )
    assert log.lines == [
        ("database.changed", {"cmd": "localid.set", "what": "x.example", "author": "me", "generation": 2})
    ]
