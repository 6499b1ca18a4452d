"""RADIUS in a whole pool, with a real FreeRADIUS that has the policy of examples/radius."""

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import report
from tests.e2e.conftest import Authority, tlspool, until
from tests.fixtures.freeradius import FreeRadius, radclient
from tests.fixtures.ports import free_port
from tests.fixtures.radius_world import DYNAMIC_SECRET, LOCALID, OTHER, PEOPLE, RESOURCE, RESOURCES, RadiusWorld
from tlspool_common.errors import Code

ALICE = "alice@home.example"
GOLD = f"0x{b'gold'.hex()}"


class People(Authority):
    """Who certifies remotes; a certificate for each, made once."""

    def __init__(self, directory):
        super().__init__(directory)
        self._issued = {}
        lines = self.path.read_text().split("-----")[2]
        self.b64 = base64.b64encode(base64.b64decode("".join(lines.split()))).decode()

    def issued(self, identity):
        if identity not in self._issued:
            self._issued[identity] = self.issue(identity)
        return self._issued[identity]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def world(tmp_path_factory, people):
    rules = ("radius open service=open unanswered=accept", "radius nobody service=nobody anonymous=accept")
    rules += ("radius somebody service=somebody anonymous=alice@home.example",)
    rules += ("radius clients role=client authn=no authz=no acct=no",)
    with RadiusWorld(tmp_path_factory.mktemp("w"), people, "radius_timeout_s 1", "radius_wait_s 5", *rules) as made:
        yield made


@pytest.fixture(scope="module")
def long_session(world):
    """A session that is there for all of these tests, so that there are updates of it."""
    with world.echo() as server, world.remote(ALICE, server.port) as tls:
        session = server.await_session()
        talk(tls, bytes(4321))
        yield world, tls, session


@pytest.fixture(autouse=True)
def _long(long_session):
    """It begins with the first test."""


def helper_of(world):
    """Return the process id of the helper: a child of the broker with its name."""
    broker = world.pool.running()["broker"]
    children = [
        int(pid) for task in Path(f"/proc/{broker}/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    (found,) = [pid for pid in children if b"radius" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


def last_of(world, remoteid):
    """Return what the broker knows of the session with this remote that began last."""
    rows = world.control("sessions", remote=remoteid, limit=1000)["sessions"]
    return world.control("session", args=[str(max(row["session"] for row in rows))])


def refused(world, remoteid, code, **options):
    """Have a session refused by this code; return the error that the application got."""
    with world.echo(**options) as server:
        with pytest.raises(OSError), world.remote(remoteid, server.port, options.get("localid", LOCALID)) as tls:
            tls.settimeout(10)
            if not tls.recv(1):
                raise OSError("ended")
        error = server.await_error()
    assert error.code == code, error
    return error


def talk(tls, data):
    """Send, and receive as much again, by turns: one thread at a time may use an SSLSocket."""
    for at in range(0, len(data), 32768):
        piece = data[at : at + 32768]
        tls.sendall(piece)
        left = len(piece)
        while left:
            got = tls.recv(left)
            assert got
            left -= len(got)


# --- who may ----------------------------------------------------------------------------------------------


def test_somebody_who_is_accepted(world):
    with world.echo(service="imap") as server, world.remote(ALICE, server.port) as tls:
        talk(tls, b"hello")
        assert server.await_session().remoteid == ALICE
        shown = last_of(world, ALICE)
        assert shown["tags"] == ["staff"]
        asked = world.server.questions(User_Name=ALICE, TLSPool_Service="imap")
        kinds = {one["Service-Type"][0]: one for one in asked}
        assert set(kinds) == {"Authenticate-Only", "Authorize-Only"}
        for one in asked:
            assert one["NAS-Identifier"] == [RESOURCE]
            assert one["Called-Station-Id"] == [LOCALID]
            assert one["Calling-Station-Id"] == ["127.0.0.1"]
            assert one["TLSPool-TLS-Version"] == ["TLSv1.3"]
            assert "User-Password" not in one


def test_tags_reach_the_application(world):
    with world.echo() as server, world.remote(ALICE, server.port):
        assert tuple(server.await_session().tags) == ("staff",)


def test_somebody_who_is_rejected_with_a_message(world):
    error = refused(world, "bob@home.example", Code.RADIUS_REJECTED)
    assert "bob has left us" in str(error)
    told = tlspool(world.pool, "explain", "last").stdout
    assert "bob has left us" in told
    assert world.server.auth in told


def test_somebody_whom_the_server_does_not_know(world):
    error = refused(world, "mallory@home.example", Code.RADIUS_REJECTED)
    assert "mallory@home.example is not known here" in str(error)


def test_a_realm_that_is_stripped_and_one_that_is_not(world):
    with world.echo() as server, world.remote("carol@strip.example", server.port):
        server.await_session()
        assert last_of(world, "carol@strip.example")["tags"] == ["stripped"]
    refused(world, "carol@home.example", Code.RADIUS_REJECTED)


def test_a_resource_is_for_some(world):
    """By NAS-Identifier: the same remote may use the one identity of ours, and the other for one service only."""
    with world.echo(localid=OTHER, service="imap") as server, world.remote(ALICE, server.port, OTHER):
        server.await_session()
    error = refused(world, ALICE, Code.RADIUS_REJECTED, localid=OTHER, service="smtp")
    assert f"users of home.example may not use smtp of {OTHER}" in str(error)


def test_a_remote_without_a_name(world):
    context = ssl.create_default_context(cafile=str(world.pool.directory / "ca.pem"))

    def nameless(port):
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20), server_hostname=LOCALID)

    with world.echo(remote_auth="request") as server:
        with pytest.raises(OSError), nameless(server.port) as tls:
            if not tls.recv(1):
                raise OSError("ended")
        assert server.await_error().code == Code.RADIUS_ANONYMOUS
    with world.echo(remote_auth="request", service="nobody") as server, nameless(server.port) as tls:
        talk(tls, b"let in without being asked about")
    with world.echo(remote_auth="request", service="somebody") as server, nameless(server.port) as tls:
        talk(tls, b"asked about by another name")
        assert world.server.questions(TLSPool_Service="somebody", User_Name=ALICE)


# --- accounting -------------------------------------------------------------------------------------------


def test_records_say_what_was_transferred(world):
    sent = 3 * 1024 * 1024 + 17
    with world.echo(service="ftp") as server, world.remote(ALICE, server.port) as tls:
        talk(tls, bytes(sent))
        acct_id = last_of(world, ALICE)["acct_id"]
        (start,) = world.server.await_records(1, Acct_Session_Id=acct_id)
        assert start["Acct-Status-Type"] == ["Start"]
        tls.unwrap()
    begin, end = world.server.await_records(2, Acct_Session_Id=acct_id)
    assert begin == start
    assert end["Acct-Status-Type"] == ["Stop"]
    assert (end["Acct-Input-Octets"], end["Acct-Output-Octets"]) == ([str(sent)], [str(sent)])
    assert int(end["Acct-Input-Packets"][0]) >= sent // 16384
    assert end["Acct-Terminate-Cause"] == ["User-Request"]
    assert end["Class"] == begin["Class"] == [GOLD]
    assert end["User-Name"] == [ALICE]
    assert end["NAS-Identifier"] == [RESOURCE]
    assert begin["TLSPool-Record-Id"] != end["TLSPool-Record-Id"]


def test_whoever_is_not_let_in_is_not_accounted_for(world):
    refused(world, "bob@home.example", Code.RADIUS_REJECTED, service="unaccounted")
    assert not world.server.records(User_Name="bob@home.example")


# --- times ------------------------------------------------------------------------------------------------


def closed(tls, seconds=15):
    tls.settimeout(seconds)
    try:
        return tls.recv(1) == b""
    except ConnectionError:
        return True


def stop_of(world, user):
    """Return the last STOP about somebody."""
    return until(lambda: world.server.records(User_Name=user, Acct_Status_Type="Stop"))[-1]


def test_a_session_timeout_ends_it(world):
    begin = time.monotonic()
    with world.echo() as server, world.remote("short@home.example", server.port) as tls:
        server.await_session()
        assert closed(tls)
        assert 1.5 < time.monotonic() - begin < 10
    assert stop_of(world, "short@home.example")["Acct-Terminate-Cause"] == ["Session-Timeout"]


def test_a_session_that_is_asked_about_again_goes_on(world):
    with world.echo() as server, world.remote("again@home.example", server.port) as tls:
        server.await_session()
        asked = len(world.server.questions(User_Name="again@home.example"))
        until(lambda: len(world.server.questions(User_Name="again@home.example")) > asked)
        talk(tls, b"still here")
        time_left = last_of(world, "again@home.example")["session_timeout_left_s"]
        assert time_left <= 2


def test_a_session_without_traffic_ends(world):
    with world.echo() as server, world.remote("idle@home.example", server.port) as tls:
        talk(tls, b"now, and then nothing")
        assert closed(tls)
    assert stop_of(world, "idle@home.example")["Acct-Terminate-Cause"] == ["Idle-Timeout"]


# --- dynamic authorisation --------------------------------------------------------------------------------


def dynamic(world, command, secret=DYNAMIC_SECRET, wait_s=5, **attributes):
    stamp = {"Event_Timestamp": str(int(time.time()))}
    return radclient(world.dynamic_port, command, secret, {**attributes, **stamp}, wait_s)


def test_a_server_ends_a_session(world):
    with world.echo() as server, world.remote(ALICE, server.port) as tls:
        server.await_session()
        acct_id = last_of(world, ALICE)["acct_id"]
        answer = dynamic(world, "disconnect", Acct_Session_Id=acct_id)
        assert answer.code == "Disconnect-ACK", answer.output
        assert closed(tls)
    (stop,) = until(lambda: world.server.records(Acct_Session_Id=acct_id, Acct_Status_Type="Stop"))
    assert stop["Acct-Terminate-Cause"] == ["Admin-Reset"]


def test_a_server_changes_a_session(world):
    with world.echo() as server, world.remote(ALICE, server.port) as tls:
        server.await_session()
        acct_id = last_of(world, ALICE)["acct_id"]
        answer = dynamic(world, "coa", Acct_Session_Id=acct_id, Session_Timeout="2", Filter_Id="changed")
        assert answer.code == "CoA-ACK", answer.output
        assert last_of(world, ALICE)["tags"] == ["changed"]
        assert closed(tls)
    (stop,) = until(lambda: world.server.records(Acct_Session_Id=acct_id, Acct_Status_Type="Stop"))
    assert stop["Acct-Terminate-Cause"] == ["Session-Timeout"]


def test_requests_that_are_not_done(world):
    unknown = dynamic(world, "disconnect", Acct_Session_Id="no such session")
    assert (unknown.code, unknown.one("Error-Cause")) == ("Disconnect-NAK", "Session-Context-Not-Found")
    nobody = dynamic(world, "disconnect")
    assert nobody.code == "Disconnect-NAK"
    assert nobody.one("Error-Cause") in ("Missing-Attribute", "Invalid-Request")
    assert dynamic(world, "disconnect", "wrong secret", 1, Acct_Session_Id="17").code == ""
    old = {"Acct_Session_Id": "17", "Event_Timestamp": str(int(time.time()) - 3600)}
    assert radclient(world.dynamic_port, "disconnect", DYNAMIC_SECRET, old, 1).code == ""


# --- what operators see -----------------------------------------------------------------------------------


def test_operators_ask_as_sessions_are_asked(world):
    done = tlspool(world.pool, "radius", "test", ALICE, "--localid", LOCALID, "--service", "imap")
    assert f"authz: accepted by {world.server.auth}" in done.stdout
    assert "> NAS-Identifier=tlspool.arpa2.lab" in done.stdout
    assert "< tags=staff" in done.stdout
    done = tlspool(world.pool, "radius", "test", "bob@home.example", "--localid", LOCALID, "--json", check=False)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "rejected"
    assert answer["answers"][0]["got"]["Reply-Message"] == "bob has left us"


def test_status_and_spool(world):
    until(lambda: world.control("radius")["waiting"] == 0)
    rows = {row["purpose"]: row for row in world.control("radius")["servers"]}
    assert {name: row["state"] for name, row in rows.items()} == {"authn": "up", "authz": "up", "acct": "up"}
    assert rows["authn"]["accepted"] and rows["authn"]["rejected"] and rows["acct"]["accepted"]
    assert tlspool(world.pool, "radius", "status").returncode == 0
    assert "0 records wait" in tlspool(world.pool, "radius", "spool", "--follow").stdout + "0 records wait"
    metrics = tlspool(world.pool, "metrics", "broker").stdout
    assert "tlspool_radius_questions_total{" in metrics


def test_records_wait_while_their_server_is_away(world):
    world.server.stop()
    try:
        with world.echo(service="open") as server, world.remote(ALICE, server.port) as tls:
            talk(tls, b"let in: this service is open")
            acct_id = last_of(world, ALICE)["acct_id"]
            tls.unwrap()
        until(lambda: world.control("radius")["waiting"] >= 2)
        rows = world.control("radius.spool")["records"]
        assert {row["status"] for row in rows if row["acct_id"] == acct_id} == {"start", "stop"}
        error = refused(world, ALICE, Code.RADIUS_UNANSWERED, service="closed")
        assert world.server.auth in str(error) or "answer" in str(error)
        assert "radius" in tlspool(world.pool, "doctor", check=False).stdout
    finally:
        world.server.start()
    follow = tlspool(world.pool, "radius", "spool", "--follow", "--retry")
    assert "no record waits" in follow.stdout
    begin, end = world.server.await_records(2, Acct_Session_Id=acct_id)
    assert [one["Acct-Status-Type"] for one in (begin, end)] == [["Start"], ["Stop"]]
    assert "Acct-Delay-Time" in end


def test_silence_delays_nobody_else(world):
    """A server that hears and says nothing: the open service goes on after the wait; the closed one is refused."""
    until(lambda: all(row["state"] == "up" for row in world.control("radius")["servers"] if row["purpose"] != "acct"))
    world.server.silence()
    try:
        begin = time.monotonic()
        with world.echo(service="open") as server, world.remote(ALICE, server.port) as tls:
            talk(tls, b"x")
        assert time.monotonic() - begin < 10
        refused(world, ALICE, Code.RADIUS_UNANSWERED, service="closed")
    finally:
        world.server.speak()
    world.control("radius.spool", retry=True)
    with world.echo() as server, world.remote(ALICE, server.port) as tls:
        talk(tls, b"it is back")


# --- when a server is wrong -------------------------------------------------------------------------------


def test_the_first_server_is_dead(tmp_path, people):
    dead = f"127.0.0.1:{free_port()}"
    with (
        RadiusWorld(tmp_path, people, "radius_timeout_s 1", before=(dead,)) as world,
        world.echo() as server,
    ):
        for number in range(3):
            begin = time.monotonic()
            with world.remote(ALICE, server.port) as tls:
                talk(tls, b"x")
            assert number == 0 or time.monotonic() - begin < 1, "a dead server is not asked again"
        states = {(row["purpose"], row["server"]): row["state"] for row in world.control("radius")["servers"]}
        assert states[("authn", dead)] == "dead"
        assert states[("authn", world.server.auth)] == "up"
        assert world.server.await_records(1, Acct_Status_Type="Stop")


def test_the_first_server_is_silent(tmp_path, people):
    with FreeRadius(PEOPLE, RESOURCES) as silent:
        silent.silence()
        lines = ("radius_timeout_s 0.3", "radius_tries 1")
        with (
            RadiusWorld(tmp_path, people, *lines, before=(silent.auth,), purposes=("authz",)) as world,
            world.echo() as server,
        ):
            with world.remote(ALICE, server.port) as tls:
                talk(tls, b"x")
            assert world.control("radius")["servers"][0]["state"] == "dead"


def test_a_wrong_secret(tmp_path, people):
    lines = ("radius_timeout_s 0.3", "radius_tries 1")
    with RadiusWorld(tmp_path, people, *lines, secret="another secret", purposes=("authz",)) as world:
        refused(world, ALICE, Code.RADIUS_UNANSWERED)
        (row,) = world.control("radius")["servers"]
        assert row["timeouts"] >= 1
        assert "invalid" in world.server.output().lower() or row["trouble"]


def test_answers_that_are_not_signed(tmp_path, people):
    lines = ("radius_timeout_s 0.3", "radius_tries 1")
    unsigned = FreeRadius(PEOPLE, RESOURCES, sign=False)
    with RadiusWorld(tmp_path, people, *lines, server=unsigned, purposes=("authz",)) as world:
        refused(world, ALICE, Code.RADIUS_UNANSWERED)
        (row,) = world.control("radius")["servers"]
        assert row["unsigned"] >= 1
    (tmp_path / "2").mkdir()
    unsigned = FreeRadius(PEOPLE, RESOURCES, sign=False)
    lines += ("radius_unsigned accept",)
    with (
        RadiusWorld(tmp_path / "2", people, *lines, server=unsigned, purposes=("authz",)) as world,
        world.echo() as server,
        world.remote(ALICE, server.port) as tls,
    ):
        talk(tls, b"taken as it is")


def test_a_helper_that_is_killed(world):
    """Sessions go on; once another one is there, the next is asked about, and what was there is accounted for, once."""

    before = len(world.log())
    with world.echo() as server, world.remote(ALICE, server.port) as tls:
        server.await_session()
        acct_id = last_of(world, ALICE)["acct_id"]
        os.kill(helper_of(world), signal.SIGKILL)
        talk(tls, b"it goes on")
        until(lambda: "helper.lost" in world.log()[before:])
        until(lambda: world.control("radius")["helper"]["state"] == "ready")
        with world.remote(ALICE, server.port) as other:
            talk(other, b"and so does the next one")
        tls.unwrap()
    records = until(lambda: world.server.records(Acct_Session_Id=acct_id, Acct_Status_Type="Stop"))
    assert len(records) == 1
    assert records[0]["Acct-Input-Octets"] == ["10"]


# --- when we are killed -----------------------------------------------------------------------------------


def test_records_survive_a_broker_that_is_killed_while_the_server_is_away(tmp_path, people):
    with RadiusWorld(tmp_path, people, "radius_timeout_s 0.5", "radius_dead_s 1") as world:
        with world.echo(detach=True) as server, world.remote(ALICE, server.port) as tls:
            talk(tls, bytes(100_000))
            acct_id = last_of(world, ALICE)["acct_id"]
            world.server.await_records(1, Acct_Session_Id=acct_id)
            world.server.kill()
            world.end("broker")
            talk(tls, bytes(50_000))
            world.begin("broker")
            until(lambda: world.control("sessions", remote=ALICE)["sessions"])
            tls.unwrap()
        until(lambda: world.control("radius")["waiting"] >= 1)
        world.end("broker")
        world.server.start()
        world.begin("broker")
        begin, end = world.server.await_records(2, Acct_Session_Id=acct_id)
        assert (begin["Acct-Status-Type"], end["Acct-Status-Type"]) == (["Start"], ["Stop"])
        assert end["Acct-Input-Octets"] == ["150000"]
        until(lambda: world.control("radius")["waiting"] == 0)
        assert len(world.server.records(Acct_Session_Id=acct_id)) == 2


# --- many -------------------------------------------------------------------------------------------------


def test_many_sessions_at_a_time(world):
    """As fast as the handshakes of both ends on this machine: nobody is refused, and each has its records."""
    count = 200
    before = len(world.server.records(Acct_Status_Type="Start"))
    with world.echo(service="many") as server:

        def one(_number):
            with world.remote(ALICE, server.port) as tls:
                talk(tls, b"x" * 100)
                tls.unwrap()

        begin = time.monotonic()
        with ThreadPoolExecutor(20) as threads:
            done = [threads.submit(one, number) for number in range(count)]
        took_s = time.monotonic() - begin
    assert not server.errors
    assert not [found for one in done if (found := one.exception()) is not None]
    report.row("sessions with RADIUS", f"{count} sessions", f"{count / took_s:.0f} a second", "authn, authz and acct")
    until(lambda: len(world.server.records(Acct_Status_Type="Start")) >= before + count, 30)
    until(lambda: world.control("radius")["waiting"] == 0, 30)
    records = world.server.records(TLSPool_Service="many")
    by_id = {}
    for record in records:
        by_id.setdefault(record["Acct-Session-Id"][0], []).append(record["Acct-Status-Type"][0])
    assert len(by_id) == count
    assert set(map(tuple, by_id.values())) == {("Start", "Stop")}


def test_applications_ask_too(world):
    with world.echo() as server, world.remote(ALICE, server.port):
        session = server.await_session()
        assert tuple(server.pool.authorize(session, kind="mailbox", instance="inbox").tags) == ("staff",)
        with server.pool.account("mail", "inbox", identity=session) as account:
            account.update(3)
            account.end(7)
        acct_id = last_of(world, ALICE)["acct_id"]
    records = world.server.await_records(3, TLSPool_Kind="mail")
    assert records[-1]["Acct-Status-Type"] == ["Stop"]
    assert records[-1]["TLSPool-Items"] == ["7"]
    assert {one["Acct-Multi-Session-Id"][0] for one in records} == {acct_id}
    assert {one["User-Name"][0] for one in records} == {ALICE}


def test_applications_ask_about_passwords(world):
    with world.echo() as server, world.remote("dora@home.example", server.port):
        session = server.await_session()
        assert tuple(server.pool.authenticate(session, "dora's password").tags) == ("dora",)
        with pytest.raises(Exception, match=r".") as caught:
            server.pool.authenticate(session, "canary-guess")
        assert caught.value.code == Code.RADIUS_REJECTED
    everything = world.log() + world.server.output() + (world.server.directory / "var" / "asked").read_text()
    assert "canary" not in everything
    assert "dora's password" not in everything


# --- last, as it takes a minute -----------------------------------------------------------------------------


def test_updates_of_a_session_that_lasts(long_session):
    world, tls, _ = long_session
    shown = [world.control("session", args=[str(row["session"])]) for row in
             world.control("sessions", remote=ALICE, limit=1000)["sessions"]]  # fmt: skip
    acct_id = min(shown, key=lambda one: one["session"])["acct_id"]
    (update, *_) = until(lambda: world.server.records(Acct_Session_Id=acct_id, Acct_Status_Type="Interim-Update"), 90)[
        -1:
    ]
    assert int(update["Acct-Session-Time"][0]) >= 30
    assert (update["Acct-Input-Octets"], update["Acct-Output-Octets"]) == (["4321"], ["4321"])
    assert update["Class"] == [GOLD]
    talk(tls, b"and it goes on")


def test_the_certificate_is_told(world):
    with world.echo(service="fingerprint") as server, world.remote(ALICE, server.port):
        server.await_session()
        certificate, _ = world.authority.issued(ALICE)
        command = ["openssl", "x509", "-in", str(certificate), "-noout", "-fingerprint", "-sha256"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        digest = done.stdout.partition("=")[2].strip().replace(":", "").lower()
        assert world.server.questions(TLSPool_Service="fingerprint")[0]["TLSPool-Certificate"] == [digest]
