"""The helper at work in a whole pool: it is started, killed, slow, and ends with its broker."""

import base64
import os
import re
import select
import signal
import time

import pytest

import libstub
from tests.e2e.conftest import until
from tests.fixtures.authority import Web
from tests.fixtures.pki import ROOT_LIST, Pki
from tests.fixtures.pki_peers import OpenSsl, tcp
from tests.fixtures.pki_world import LOCALID, World
from tlspool_admin.client import ask
from tlspool_admin.devpool import DevPool

LIST = "/leaf.crl"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("w")) as made:
        made.control("localid.set", id=LOCALID["client"], flags=["valexp", "client"], records=[{"uri": "R"}])
        yield made


@pytest.fixture
def peer():
    return OpenSsl()


def helpers(world):
    """Process ids of all helpers there have been, in order."""
    log = (world.pool.directory / "log" / "broker.log").read_text()
    return [int(pid) for pid in re.findall(r"helper\.connected helper=online pid=(\d+)", log)]


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


SLOW_START = """
import sys, time
if "tlspool_online" in sys.orig_argv:
    time.sleep(4)
"""


def test_the_first_session_of_all_does_not_pay_for_the_start_of_the_helper(tmp_path, monkeypatch, peer):
    """Not even where nothing but its own expression wants the helper, and that takes longer to start than to answer."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Web() as web:
        pki = Pki(tmp_path, web.url)
        web.answers[ROOT_LIST], web.answers[LIST] = pki.crl(by_root=True), pki.crl()
        pool = DevPool(tmp_path / "p")
        pool.up(
            "ec",
            ["log_level debug", "online_private yes", f"online_ports {web.port}", "validation_wait_s 3", "sandbox off"],
        )
        try:
            control = pool.run_dir / "broker.sock"
            assert ask(control, {"cmd": "status"})["helper"]["state"] == "absent"
            anchor = base64.b64encode(pki.root_der).decode()
            ask(control, {"cmd": "trust.set", "flags": ["x509", "client"], "valexp": "R", "data": anchor})
            with peer.server(pki.leaf("localhost", crl=LIST)) as remote, libstub.Pool(str(pool.socket)) as client:
                begin = time.monotonic()
                with libstub.starttls_client(tcp(remote.port), "localhost", pool=client) as session:
                    assert session.remoteid == "localhost"
                assert time.monotonic() - begin > 3
            helper = ask(control, {"cmd": "status"})["helper"]
            assert (helper["state"], helper["asked"], helper["answered"], helper["given_up"]) == ("ready", 1, 1, 0)
        finally:
            pool.down()


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


def test_what_became_of_the_questions_is_in_the_status(world, peer):
    helper = world.control("status")["helper"]
    assert helper["asked"] >= 3
    assert helper["asked"] == helper["answered"] + helper["unanswered"] + helper["questions"]
    assert (helper["started"], helper["failed"], helper["not_asked"]) == (1, 0, 0)


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
