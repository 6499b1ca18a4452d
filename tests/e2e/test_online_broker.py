"""The helper at work in a whole pool: it is started, killed, slow, and ends with its broker."""

import os
import re
import select
import signal
import time

import pytest

from tests.fixtures.pki_peers import OpenSsl
from tests.fixtures.pki_world import LOCALID, World

LIST = "/leaf.crl"


def until(condition, wait_s=20.0):
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("w")) as made:
        made.control("localid.set", id=LOCALID["client"], flags=["valexp", "client"], records=[{"uri": "R"}])
        # The first question starts the helper, which on a busy machine takes longer than a session here may wait.
        leaf = made.pki.leaf("www.example.com", crl="/first.crl")
        made.web.answers["/first.crl"] = made.pki.crl()
        until(lambda: made.session("client", OpenSsl(), leaf).code == 0)
        yield made


@pytest.fixture
def peer():
    return OpenSsl()


def helpers(world):
    """Process ids of all helpers there have been, in order."""
    log = (world.pool.directory / "log" / "broker.log").read_text()
    return [int(pid) for pid in re.findall(r"helper\.connected pid=(\d+)", log)]


def ended(pid, wait_s=20.0):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], wait_s)[0])
    finally:
        os.close(fd)


def settled(world, peer, leaf):
    """Return what comes of a session once the helper has had its time, which a busy machine may not give it."""
    end = time.monotonic() + 20
    while (outcome := world.session("client", peer, leaf)).code in (412, 414) and time.monotonic() < end:
        continue
    return outcome


def test_a_list_is_asked_for_over_the_network(world, peer):
    good = world.pki.leaf("www.example.com", crl=LIST)
    bad = world.pki.leaf("www.example.com", crl=LIST)
    world.web.answers[LIST] = world.pki.crl(bad.serial)
    assert settled(world, peer, good).code == 0
    outcome = settled(world, peer, bad)
    assert (outcome.code, outcome.alert) == (409, "certificate_revoked"), outcome
    assert "revoked since" in str(outcome.account), outcome.account
    assert world.web.paths().count(LIST) == 1
    assert len(helpers(world)) == 1


def test_a_host_that_does_not_answer(world, peer):
    leaf = world.pki.leaf("www.example.com", crl="/never.crl")
    world.web.answers["/never.crl"] = world.web.never
    begin = time.monotonic()
    outcome = world.session("client", peer, leaf)
    assert outcome.code in (412, 414), outcome  # undecided, or known to be unknown
    assert time.monotonic() - begin < 10


def test_a_helper_that_is_killed_is_replaced(world, peer):
    leaf = world.pki.leaf("www.example.com", crl=LIST)
    world.web.answers[LIST] = world.pki.crl()
    assert settled(world, peer, leaf).code == 0
    pid = helpers(world)[-1]
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    until(lambda: world.session("client", peer, leaf).code == 0)  # after the pause that a storm is kept off by
    assert helpers(world)[-1] != pid
    assert not os.path.exists(f"/proc/{pid}")  # reaped


def test_it_ends_with_its_broker(world, peer):
    pid = helpers(world)[-1]
    assert os.path.exists(f"/proc/{pid}")
    world.client.close()
    world.pool.down()
    assert ended(pid)
