"""What the broker answers operators, without a socket."""

import asyncio
import base64
import os

import pytest

from tests.fixtures import certs
from tests.playbook.broker import World
from tlspool_broker.control import Control
from tlspool_broker.databases import Databases
from tlspool_broker.events import KillAsked
from tlspool_broker.keyquestions import KeyQuestions
from tlspool_common.control import PEER_UID
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyAnswer


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
    [row] = asyncio.run(control.handle({"cmd": "sessions"}))["sessions"]
    assert row["session"] == session_id
    assert "ctlkey" not in row
    assert [row["sessions"] for row in control.handle({"cmd": "workers"})["workers"]] == [1, 0]
    assert {"status", "kill", "trust.del"} <= set(control.handle({"cmd": "help"})["commands"])


@pytest.mark.parametrize("fields", [{"session": 1}, {"session": "1"}, {"args": ["1"]}])
def test_kill(made, fields):
    world, log, control = made
    session_id = world.relaying(world.app())
    assert asyncio.run(control.handle({"cmd": "kill", "author": "a" * 500, **fields})) == {"session": session_id}
    assert world.state(session_id) == "EXPECT_END"
    assert log.lines == [("session.kill", {"session": session_id, "uid": os.getuid(), "author": "a" * 100})]
    assert KillAsked(session_id)


@pytest.mark.parametrize(
    "request_", [{"cmd": "kill", "session": 1}, {"cmd": "kill", "args": ["all"]}, {"cmd": "drain"}]
)
def test_who_it_was_is_by_word_of_the_kernel(made, request_):
    """The author is what a program says of its user; two operators must not be able to take each other's name."""
    world, log, control = made
    world.relaying(world.app())
    answer = control.handle({**request_, "author": "somebody else", PEER_UID: 4711})
    if not isinstance(answer, dict):
        asyncio.run(answer)
    assert log.lines[-1][1]["uid"] == 4711


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
        asyncio.run(made[2].handle({"cmd": "kill", **fields}))
    assert caught.value.code is code


def test_drain(made):
    world, log, control = made
    for request, on in [
        ({"cmd": "drain"}, True),
        ({"cmd": "drain", "args": ["off"]}, False),
        ({"cmd": "drain", "state": "on"}, True),
        ({"cmd": "resume"}, False),
    ]:
        assert control.handle(request)["draining"] is on
        assert control.handle({"cmd": "status"})["draining"] is on
    assert [fields["state"] for event, fields in log.lines if event == "pool.drain"] == ["on", "off", "on", "off"]
    [first, second] = world.core.workers
    control.handle({"cmd": "drain", "worker": first.worker_id})
    assert log.lines[-1][0] == "worker.drain"
    assert all(fields["uid"] == os.getuid() for _, fields in log.lines)
    assert [worker.worker_id for worker in world.core.workers] == [second.worker_id]


@pytest.mark.parametrize("args", [["worker"], ["worker", "x"], ["worker", "4711"], ["sometimes"], ["off", "off"]])
def test_drain_that_cannot_be(made, args):
    _, log, control = made
    with pytest.raises(PoolError) as caught:
        control.handle({"cmd": "drain", "args": args})
    assert caught.value.code is Code.FIELD_MALFORMED
    assert not log.lines


def test_only_changes_are_logged(made):
    _, log, control = made
    control.handle({"cmd": "localid.list"})
    asyncio.run(control.handle({"cmd": "disclose.del", "selector": "x.example"}))
    assert log.lines == []
    fields = {"flags": "valexp,server", "records": [{"uri": "1"}], "author": "me", "peer_uid": 7}
    answer = asyncio.run(control.handle({"cmd": "localid.set", "id": "x.example", **fields}))
    assert answer == {"generation": 2, "id": "x.example", "records": 1}
    what = {"cmd": "localid.set", "what": "x.example", "uid": 7, "author": "me", "generation": 2}
    assert log.lines == [("database.changed", what)]
    assert control.handle({"cmd": "history"})["history"][0]["uid"] == 7


# --- changes, and the keys they name ------------------------------------------------------------------


def credential_request(**fields):
    chain = [base64.b64encode(certs.leaf().der).decode()]
    records = [{"uri": "pkcs11:object=web", "chain": chain}]
    return {"cmd": "localid.set", "id": "example.com", "flags": "x509,server", "records": records, **fields}


def asking(made, answer):
    """Run a request with a keyd that answers as it is told."""
    world, log, _ = made
    questions = KeyQuestions(lambda event: questions.told(event.number, answer))
    databases = made[2]._databases
    return Control(world.core, databases, world.settings, world.happen, log, questions=questions)


@pytest.mark.parametrize(
    ("answer", "strict", "result"),
    [
        (KeyAnswer(code=0, detail="", spki=certs.spki(certs.leaf().private)), True, None),
        (KeyAnswer(code=502, detail="nothing there", spki=b""), False, "502"),
        (KeyAnswer(code=502, detail="nothing there", spki=b""), True, 502),
        (KeyAnswer(code=0, detail="", spki=certs.spki(certs.root().private)), False, Code.KEY_UNFIT),
        (None, False, "608"),
        (None, True, Code.KEY_UNCHECKED),
    ],
)
def test_keyd_is_asked_about_keys(made, answer, strict, result):
    made[0].keyd_comes()
    control = asking(made, answer)
    if isinstance(result, int):
        with pytest.raises(PoolError) as caught:
            asyncio.run(control.handle(credential_request(strict=strict)))
        assert caught.value.code == result
        assert made[2].handle({"cmd": "localid.list"})["identities"] == []
        return
    answered = asyncio.run(control.handle(credential_request(strict=strict)))
    assert answered["generation"] == 2
    warnings = answered.get("warnings", [])
    assert not warnings if result is None else result in warnings[0]


def test_without_keyd_nothing_is_asked(made):
    made[0].keyd_goes()
    answered = asyncio.run(asking(made, None).handle(credential_request()))
    assert "warnings" not in answered
    with pytest.raises(PoolError) as caught:
        asyncio.run(asking(made, None).handle(credential_request(strict=True)))
    assert caught.value.code is Code.KEY_UNCHECKED


def test_an_answer_that_comes_too_late(made, monkeypatch):
    monkeypatch.setattr("tlspool_broker.keyquestions.WAIT_S", 0.01)
    events = []

    async def ask():
        questions = KeyQuestions(events.append)
        answers = await questions.ask(["pkcs11:a", "pkcs11:a", "pkcs11:b"])
        questions.told(events[0].number, KeyAnswer(code=0, detail="", spki=b""))
        return answers

    assert asyncio.run(ask()) == {"pkcs11:a": None, "pkcs11:b": None}
    assert [event.uri for event in events] == ["pkcs11:a", "pkcs11:b"]


def test_many_changes_at_a_time_are_one_after_the_other(made):
    control = made[2]

    async def write():
        names = [f"n{number}.example" for number in range(50)]
        requests = [
            {"cmd": "localid.set", "id": name, "flags": "valexp,server", "records": [{"uri": "1"}]} for name in names
        ]
        return await asyncio.gather(*(control.handle(request) for request in requests))

    answers = asyncio.run(write())
    assert sorted(answer["generation"] for answer in answers) == list(range(2, 52))
