"""RADIUS in a whole pool: helpers that are killed and replaced, and remotes that become somebody else."""

import contextlib
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import libstub
from tests.e2e.test_questions import CLIENT, both_ends
from tests.e2e.test_radius import ALICE, People, last_of, talk, until
from tests.fixtures.freeradius import FreeRadius
from tests.fixtures.radius_world import PEOPLE, RESOURCE, RESOURCES, RadiusWorld
from tlspool_common.errors import Code


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return People(tmp_path_factory.mktemp("people"))


def helper_pid(world, number=1):
    """Return the process id of the helper that came as the so many-th."""
    found = until(lambda: re.findall(r"event=helper.connected helper=radius pid=(\d+)", world.log())[number - 1 :])
    return int(found[0])


def configure(world, old, new):
    """Change the configuration of the pool, and have the broker read it again."""
    path = world.pool.config
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return world.control("reload")


def test_a_helper_that_is_killed(tmp_path, people):
    """Sessions go on, others begin as soon as it is back, and each has one START and one STOP."""
    with RadiusWorld(tmp_path, people) as world, world.echo() as server:
        with world.remote(ALICE, server.port) as tls:
            server.await_session()
            acct_id = last_of(world, ALICE)["acct_id"]
            for number in range(1, 4):
                os.kill(helper_pid(world, number), signal.SIGKILL)
                until(lambda number=number: world.log().count("event=helper.lost") >= number)
                talk(tls, bytes(20_000))
                helper_pid(world, number + 1)
            tls.unwrap()
        with world.remote(ALICE, server.port) as tls:
            talk(tls, b"x")
            second = last_of(world, ALICE)["acct_id"]
            tls.unwrap()
        for one, octets in ((acct_id, "60000"), (second, "1")):
            begin, end = world.server.await_records(2, Acct_Session_Id=one)
            assert (begin["Acct-Status-Type"], end["Acct-Status-Type"]) == (["Start"], ["Stop"])
            assert end["Acct-Input-Octets"] == [octets]
        until(lambda: world.control("radius")["waiting"] == 0)
        assert len(world.server.records()) == 4


def test_a_helper_that_is_killed_under_sessions_refuses_none(tmp_path, people):
    """Some are asked about while it is killed, some come before there is another one: all are let in by that one."""
    lines = ("radius_timeout_s 20", "radius_wait_s 60")
    with RadiusWorld(tmp_path, people, *lines) as world, world.echo() as server, ThreadPoolExecutor(8) as threads:
        world.server.silence()
        remotes = [threads.submit(world.remote, ALICE, server.port, wait_s=60) for _ in range(4)]
        until(lambda: world.control("status")["states"].get("expect_radius") == 4)
        until(lambda: world.log().count("event=helper.connected helper=radius"))
        os.kill(helper_pid(world), signal.SIGKILL)
        until(lambda: "event=helper.lost" in world.log())
        world.server.speak()
        remotes += [threads.submit(world.remote, ALICE, server.port, wait_s=60) for _ in range(4)]
        server.await_session(8, 60)
        for one in remotes:
            with one.result() as tls:
                talk(tls, b"let in")
        helper_pid(world, 2)
        assert world.log().count("event=helper.lost") == 1
        assert not re.search("event=(radius.unanswered|session.failed)", world.log())
        assert (server.errors, world.control("status")["radius"]["unanswered"]) == ([], 0)


def test_a_reload_gets_sessions_out_that_wait_for_a_silent_server(tmp_path, people):
    """Another server is named: who waits is asked about there, and nobody has waited for the first one's time."""
    wait_s = 30
    with FreeRadius(PEOPLE, RESOURCES) as silent:
        lines = (f"radius_timeout_s {wait_s}", f"radius_wait_s {wait_s}")
        with RadiusWorld(tmp_path, people, *lines, before=(silent.auth,), purposes=("authn", "authz")) as world:
            silent.silence()
            with world.echo() as server, ThreadPoolExecutor(8) as threads:
                begin = time.monotonic()
                remotes = [threads.submit(world.remote, ALICE, server.port) for _ in range(8)]
                until(lambda: world.control("status")["states"].get("expect_radius") == 8)
                first = helper_pid(world)
                answer = configure(world, f"{silent.auth}\n", f"{world.server.auth}\n")
                assert answer["ok"] is True
                server.await_session(8)
                assert time.monotonic() - begin < wait_s / 2
                assert helper_pid(world, 2) != first
                for remote in remotes:
                    remote.result().close()
            assert "event=helper.lost" not in world.log()


def test_the_first_server_takes_a_reload(tmp_path, people):
    """A session that is there goes on, unasked and unbilled; the next one is asked about and has its bill."""
    with RadiusWorld(tmp_path, people, later=True) as world, world.echo() as server:
        with world.remote(ALICE, server.port) as early:
            talk(early, b"nobody asks")
            broker = world.pool.running()["broker"]
            assert world.control("status")["radius"]["state"] == "not used"
            assert (
                configure(world, "radius_spool_dir", "\n".join([*world.servers, "radius_spool_dir"]))["restart"] == []
            )
            until(lambda: world.control("status")["radius"]["state"] == "ready")
            with world.remote(ALICE, server.port) as tls:
                server.await_session(2)
                talk(tls, bytes(1000))
                acct_id = last_of(world, ALICE)["acct_id"]
                talk(early, b"still nobody")
                tls.unwrap()
            early.unwrap()
        begin, end = world.server.await_records(2, Acct_Session_Id=acct_id)
        assert (begin["Acct-Status-Type"], end["Acct-Status-Type"]) == (["Start"], ["Stop"])
        assert end["Acct-Input-Octets"] == ["1000"]
        with contextlib.suppress(OSError), world.remote("bob@home.example", server.port) as tls:
            tls.recv(1)
        assert server.await_error().code == Code.RADIUS_REJECTED
        until(lambda: world.control("radius")["waiting"] == 0)
        assert len(world.server.records()) == 2
        assert world.pool.running()["broker"] == broker


def test_a_secret_that_is_another_one_from_now_on(tmp_path, people):
    """The file alone has changed: a reload has it read again."""
    lines = ("radius_timeout_s 0.3", "radius_tries 1")
    with RadiusWorld(tmp_path, people, *lines, secret="a wrong secret", purposes=("authz",)) as world:
        with world.echo() as server:
            with contextlib.suppress(OSError), world.remote(ALICE, server.port) as tls:
                tls.recv(1)
            assert server.await_error().code == Code.RADIUS_UNANSWERED
        secrets = world.directory / "secrets"
        secrets.write_text(secrets.read_text().replace("a wrong secret", world.server.secret))
        assert world.control("reload")["ok"] is True
        with world.echo() as server, world.remote(ALICE, server.port) as tls:
            talk(tls, b"let in")


def test_a_reload_that_cannot_be_gone_by_changes_nothing(tmp_path, people):
    with RadiusWorld(tmp_path, people) as world, world.echo() as server:
        with pytest.raises(Exception, match="radius_authz"):
            configure(world, f"radius_authz {world.server.auth}", "radius_authz not:a:server")
        with world.remote(ALICE, server.port) as tls:
            talk(tls, b"as before")


def test_somebody_who_proves_later_who_it_is(tmp_path, people):
    """It is asked about then: until it is accepted it is nobody, and so is whoever is refused."""
    realm = CLIENT.partition("@")[2]
    known = f'{PEOPLE}{CLIENT}\n\tFilter-Id = "late"\n'
    resources = f"{RESOURCES}{RESOURCE}/*/{realm}\n"
    rules = ("radius all role=server anonymous=accept", "radius clients authn=no authz=no acct=no")
    ignoring = {"remote_auth": "ignore"}
    with (
        RadiusWorld(tmp_path, people, *rules, server=FreeRadius(known, resources)) as world,
        both_ends(world.pool, world.pool, server=ignoring) as (client, server),
    ):
        assert server.remoteid == ""
        assert server.reauthenticate(CLIENT) == CLIENT
        assert server.remoteid == CLIENT
        assert world.server.questions(User_Name=CLIENT)
        assert last_of(world, CLIENT)["tags"] == ["late"]
        server.sock.sendall(b"on")
        assert client.sock.recv(9) == b"on"
    (tmp_path / "2").mkdir()
    with (
        RadiusWorld(tmp_path / "2", people, *rules) as world,
        both_ends(world.pool, world.pool, server=ignoring) as (client, server),
    ):
        with pytest.raises(libstub.PoolError) as caught:
            server.reauthenticate(CLIENT)
        assert caught.value.code == Code.RADIUS_REJECTED
        assert (server.remoteid, server.verified) == ("", False)
        server.sock.sendall(b"on")
        assert client.sock.recv(9) == b"on"


def remote(world, port):
    """Connect, and be refused; when that is found out depends on what comes first."""
    with contextlib.suppress(OSError), world.remote(ALICE, port, wait_s=60) as tls:
        tls.recv(1)


def test_a_caller_that_goes_away_while_servers_are_asked(tmp_path, people):
    """Nothing is left of its session, and nothing was accounted for."""
    with RadiusWorld(tmp_path, people, "radius_timeout_s 30", "radius_wait_s 30") as world:
        world.server.silence()
        with world.echo() as server:
            thread = threading.Thread(target=remote, args=(world, server.port))
            thread.start()
            until(lambda: world.control("status")["states"].get("expect_radius", 0) == 1)
            server.pool.close()
            until(lambda: not world.control("sessions")["sessions"])
        world.server.speak()
        thread.join(60)
        assert world.control("radius")["waiting"] == 0
        assert not world.server.records()
