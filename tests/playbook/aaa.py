"""Applications that ask for AAA, and a world with RADIUS servers: for playbooks."""

from __future__ import annotations

import pytest

from tests.playbook.broker import World
from tlspool_broker.events import Began
from tlspool_common.aaawire import AccountCount, AccountKept, AccountStart, Authenticate, Authorize, Subject, Verdict
from tlspool_common.appwire import Cmd
from tlspool_common.messages import Account

SERVERS = """radius_secret_file /etc/tlspool/radius.secrets
radius_authn 192.0.2.1
radius_authz 192.0.2.2
radius_acct 192.0.2.3
radius quiet authn=no authz=no acct=no
"""
"""With a rule that has sessions asked about and accounted for not at all: they are others' stories."""

RULE = "account print allow user=1000 remoteid=@example.org,example.net\n"
KEY, NAME = bytes(range(16)), b"n" * 16
REMOTE = "www.example.com"  # of sessions, as DEFAULTS of the world have it


@pytest.fixture
def make(no_leaks):
    made = []

    def world_of(config=SERVERS, **fields):
        world = World(config, **fields)
        made.append(world)
        world.happen(Began())
        if world.radius is not None:
            world.radius_comes()
        return world

    yield world_of
    for world in made:
        world.close()


@pytest.fixture
def world(make):
    return make(SERVERS + RULE)


@pytest.fixture
def app(world):
    return world.app()


@pytest.fixture
def session(world, app):
    return world.relaying(app, ctlkey=KEY, remoteid=REMOTE, service="imap")


def subject(world, app, remoteid="john@example.org", localid="", service="", *, key=NAME, reqid=7):
    world.send(app, Cmd.LOCAL_SUBJECT, Subject(key, remoteid, localid, service).to_payload(), reqid=reqid)
    [frame] = world.frames(app)
    return frame


def authenticate(world, app, key=NAME, password=b"secret", timeout_ms=0, *, reqid=8):
    payload = Authenticate(key, password, timeout_ms).to_payload()
    return world.send(app, Cmd.LOCAL_AUTHENTICATE, payload, reqid=reqid)


def authorize(world, app, key=NAME, kind="", instance="", *, reqid=8):
    return world.send(app, Cmd.LOCAL_AUTHORIZE, Authorize(key, kind, instance).to_payload(), reqid=reqid)


def start(world, app, key=NAME, kind="print", instance="job-1", at_ms=0, *, reqid=9):
    payload = AccountStart(key, kind, instance, at_ms).to_payload()
    return world.send(app, Cmd.LOCAL_ACCOUNT_START, payload, reqid=reqid)


def count(world, app, items=None, at_ms=0, *, ends=True, kind="print", instance="job-1", reqid=10):
    cmd = Cmd.LOCAL_ACCOUNT_END if ends else Cmd.LOCAL_ACCOUNT_UPDATE
    return world.send(app, cmd, AccountCount(kind, instance, items, at_ms).to_payload(), reqid=reqid)


def verdict(world, app, cmd=Cmd.LOCAL_AUTHENTICATE, reqid=8):
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cbid, frame.cmd) == (reqid, 0, cmd)
    return Verdict.from_payload_untrusted(frame.payload.ljust(380, b"\0"))


def kept(world, app, cmd, reqid):
    [frame] = world.frames(app)
    assert (frame.reqid, frame.cbid, frame.cmd) == (reqid, 0, cmd)
    return AccountKept.from_payload_untrusted(frame.payload.ljust(380, b"\0"))


def records(world):
    return [one.message for one in world.asked if isinstance(one.message, Account)]


def attributes(message):
    return dict(one.split("=", 1) for one in message.attributes)
