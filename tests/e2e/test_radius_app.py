"""The AAA of applications, through libstub and through a program in C: a whole pool, and a real FreeRADIUS."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

import libstub
import libstub.aio
from tests.e2e.conftest import await_log, log_of
from tests.e2e.examples import Running, example
from tests.fixtures.freeradius import FreeRadius
from tests.fixtures.living import kill, status_until
from tests.fixtures.native import compile_c
from tlspool_admin.devpool import DevPool
from tlspool_common.errors import Code

CLIENT, SERVER = "testcli@tlspool.arpa2.lab", "testsrv@tlspool.arpa2.lab"
EXAMPLES = Path(__file__).parents[2] / "examples"

PEOPLE = f"""alice@home.example	Cleartext-Password := "correct horse"
	Filter-Id = "gold", Filter-Id += "staff", Session-Timeout = 3600, Reply-Message = "hello"

dave@home.example	Cleartext-Password := "battery staple"
	Class = "tariff-9"

bob@home.example	Auth-Type := Reject
	Reply-Message = "no more credit"

many@home.example
	Filter-Id = "{"a" * 200}", Filter-Id += "{"b" * 200}", Filter-Id += "{"c" * 200}"

{CLIENT}
	Filter-Id = "member", Class = "tariff-7"
"""
RESOURCES = """/imap/home.example

print.example/*/*

tlspool.arpa2.lab/*/*

localhost/*/*
"""


class Site:
    """A pool, and the RADIUS server that it asks."""

    def __init__(self, directory, server):
        self.server = server
        self.pool = DevPool(directory / "p")
        secrets = directory / "radius.secrets"
        secrets.write_text(f"127.0.0.1 {server.secret}\n")
        secrets.chmod(0o600)
        self.pool.up(
            "ec",
            [
                "log_level debug",
                f"radius_authn {server.auth}",
                f"radius_authz {server.auth}",
                f"radius_acct {server.acct}",
                f"radius_secret_file {secrets}",
                f"radius_spool_dir {directory}/spool",
                "radius_timeout_s 0.5",
                "radius_tries 2",
                "radius_wait_s 3",
                "radius plain service=plain authn=no authz=no acct=no",
                "account mine allow remoteid=@home.example",
                "account none deny remoteid=root@elsewhere.example",
            ],
        )

    def restart(self):
        """Kill the broker, its helper dies with it, and start another."""
        kill(self.pool, "broker")
        self.pool._start("broker")
        status_until(self.pool, lambda status: status["keyd"] and status["workers"])


@pytest.fixture(scope="module")
def server():
    with FreeRadius(people=PEOPLE, resources=RESOURCES) as made:
        yield made


@pytest.fixture(scope="module")
def site(server, tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"), server)
    yield made
    made.pool.down()


@pytest.fixture
def pool(site, no_leaks):
    with libstub.Pool(str(site.pool.socket)) as made:
        yield made


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The example in C: a warning is an error."""
    return compile_c(tmp_path_factory.mktemp("aaa") / "aaa", EXAMPLES / "c" / "aaa.c")


@contextlib.contextmanager
def session(pool, service="plain", remote_auth="require"):
    """A session through the pool at both ends; ours is the server's."""
    one, other = socket.socketpair()
    made = {}

    def client():
        made["client"] = libstub.starttls_client(other, SERVER, localid=CLIENT, service="plain", pool=pool)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        with libstub.starttls_server(one, SERVER, service=service, remote_auth=remote_auth, pool=pool) as tls:
            thread.join(20)
            with made["client"]:
                yield tls
    finally:
        thread.join(20)


# --- questions ------------------------------------------------------------------------------------------


def test_a_password(pool, server):
    access = pool.authenticate("Alice@Home.Example", "correct horse", localid="imap.home.example", service="imap")
    assert access == libstub.Access("hello", ("gold", "staff"), 3600, 0)
    for wrong in ("wrong horse", b"\0\xff", "x" * 128):
        with pytest.raises(libstub.AccessRejected) as caught:
            pool.authenticate("alice@home.example", wrong)
        assert caught.value.code == Code.RADIUS_REJECTED
    asked = server.questions(User_Name="alice@home.example")[0]
    assert asked["NAS-Identifier"] == ["imap.home.example"]
    assert asked["Service-Type"] == ["Authenticate-Only"]
    assert asked["TLSPool-Service"] == ["imap"]


def test_words_of_a_server_that_rejects(pool):
    with pytest.raises(libstub.AccessRejected, match="no more credit"):
        pool.authorize("bob@home.example", service="imap")


def test_a_permission(pool, server):
    access = pool.authorize("alice@home.example", kind="mailbox", instance="Sent = all", service="imap")
    assert access.tags == ("gold", "staff")
    asked = server.questions(TLSPool_Kind="mailbox")[-1]
    assert asked["TLSPool-Instance"] == ["Sent = all"]
    assert asked["Service-Type"] == ["Authorize-Only"]
    with pytest.raises(libstub.AccessRejected, match="may not use ftp"):
        pool.authorize("alice@home.example", service="ftp")


def test_more_tags_than_a_frame_has(pool):
    assert pool.authorize("many@home.example", service="imap").tags == ("a" * 200, "b" * 200, "c" * 200)


@pytest.mark.parametrize("name", ["somebody@elsewhere.example", "root@elsewhere.example", SERVER])
def test_of_whom_the_pool_does_not_let_us_ask(pool, server, name):
    before = len(server.questions())
    for act in (
        lambda: pool.authenticate(name, "guess"),
        lambda: pool.authorize(name),
        lambda: pool.account("print", "job-x", identity=name),
    ):
        with pytest.raises(libstub.Refused) as caught:
            act()
        assert caught.value.code == Code.ACCOUNT_FOREIGN
    assert len(server.questions()) == before


def test_passwords_are_in_no_log(site, pool):
    with pytest.raises(libstub.AccessRejected):
        pool.authenticate("alice@home.example", "canary-4711")
    for name in ("broker", "keyd", "worker"):
        assert "canary-4711" not in log_of(site.pool, name)
    await_log(site.pool, "broker", r"event=aaa\.rejected[^\n]*alice@home\.example")


def test_the_remote_of_a_session(pool, server):
    with session(pool) as tls:
        assert (tls.remoteid, tls.tags) == (CLIENT, ())  # nobody was asked when it began
        assert pool.authorize(tls, kind="print").tags == ("member",)
        asked = server.questions(TLSPool_Kind="print")[-1]
        assert asked["User-Name"] == [CLIENT]
        assert asked["NAS-Identifier"] == ["tlspool.arpa2.lab"]
        assert asked["TLSPool-TLS-Version"] == ["TLSv1.3"]


def test_tags_of_a_session(pool):
    with session(pool, service="imap") as tls:
        assert tls.tags == ("member",)


def test_asyncio(site, server):
    async def play():
        pool = libstub.aio.AsyncPool(str(site.pool.socket))
        access, rejected = await asyncio.gather(
            pool.authenticate("alice@home.example", "correct horse"),
            pool.authorize("bob@home.example", service="imap"),
            return_exceptions=True,
        )
        assert access.tags == ("gold", "staff")
        assert isinstance(rejected, libstub.AccessRejected)
        async with pool.account("scan", "page-1", identity="alice@home.example") as account:
            await account.update(items=2)
        again = await pool.account("scan", "page-2", identity="alice@home.example")
        await again.end(items=5)
        pool.close()
        return account, again

    one, other = asyncio.run(play())
    server.await_records(3, Acct_Session_Id=one.acct_id)
    assert server.await_records(2, Acct_Session_Id=other.acct_id)[-1]["TLSPool-Items"] == ["5"]


# --- accounting -------------------------------------------------------------------------------------------


def statuses(records):
    return [one["Acct-Status-Type"][0] for one in records]


def test_an_account(pool, server):
    began_s = time.time() - 60
    with pool.account("print", "job-1", identity="alice@home.example", at_s=began_s, service="ipp") as account:
        account.update(items=3)
        with pytest.raises(libstub.Misuse, match="already"):
            pool.account("print", "job-1", identity="alice@home.example")
        account.end(items=2**40 + 7)
    records = server.await_records(3, Acct_Session_Id=account.acct_id)
    assert statuses(records) == ["Start", "Interim-Update", "Stop"]
    for one in records:
        assert one["User-Name"] == ["alice@home.example"]
        assert (one["TLSPool-Kind"], one["TLSPool-Instance"]) == (["print"], ["job-1"])
        assert one["TLSPool-Service"] == ["ipp"]
    stop = records[-1]
    assert (stop["TLSPool-Items"], stop["TLSPool-Items-Gigawords"]) == (["7"], ["256"])
    assert stop["Acct-Terminate-Cause"] == ["User-Request"]
    assert 59 <= int(stop["Acct-Session-Time"][0]) <= 75
    with pytest.raises(libstub.Misuse):
        account.end()


def test_an_account_of_a_session_is_of_its_remote(pool, server):
    with session(pool, service="imap") as tls, pool.account("mail", "box", identity=tls) as account:
        number = account.acct_id
    start = server.await_records(2, Acct_Session_Id=number)[0]
    assert start["User-Name"] == [CLIENT]
    assert start["Class"] == [f"0x{b'tariff-7'.hex()}"]
    [of_session] = server.await_records(1, Acct_Session_Id=start["Acct-Multi-Session-Id"][0])[:1]
    assert of_session["User-Name"] == [CLIENT]


def test_class_of_an_answer_goes_with_what_is_billed(pool, server):
    access = pool.authenticate("dave@home.example", "battery staple", service="imap")
    with pool.account("mail", "dave", identity=access) as account:
        account.end(items=3)
    for one in server.await_records(2, Acct_Session_Id=account.acct_id):
        assert one["User-Name"] == ["dave@home.example"]
        assert one["Class"] == [f"0x{b'tariff-9'.hex()}"]
        assert one["TLSPool-Service"] == ["imap"]


def test_going_on_with_an_account(site, pool, server):
    account = pool.account("print", "job-2", identity="alice@home.example")
    with libstub.Pool(str(site.pool.socket)) as other:
        again = other.account("print", "job-2", identity="alice@home.example", resume=True)
        again.end(items=4)
        assert again.acct_id == account.acct_id
    assert server.await_records(2, Acct_Session_Id=account.acct_id)[-1]["TLSPool-Items"] == ["4"]


def test_records_survive_the_broker_and_arrive_once(site, server):
    """The server is down, the broker is killed after each step: nothing is lost, nothing comes twice."""
    server.kill()
    numbers = []
    try:
        with libstub.Pool(str(site.pool.socket)) as pool:
            for job in range(5):
                account = pool.account("fax", f"job-{job}", identity="alice@home.example")
                numbers.append(account.acct_id)
        site.restart()
        with libstub.Pool(str(site.pool.socket)) as pool:
            for job in range(4):
                pool.account("fax", f"job-{job}", identity="alice@home.example", resume=True).end(items=job)
        site.restart()
        with libstub.Pool(str(site.pool.socket)) as pool, pytest.raises(libstub.Misuse):
            libstub.Account(pool, "fax", "job-0").end(items=99)
        assert len(set(numbers)) == 5
    finally:
        server.start()
    for job, number in enumerate(numbers[:4]):
        records = server.await_records(2, Acct_Session_Id=number, seconds=40)
        assert statuses(records) == ["Start", "Stop"]
        assert records[-1]["TLSPool-Items"] == [str(job)]
    site.restart()
    with libstub.Pool(str(site.pool.socket)) as pool:
        libstub.Account(pool, "fax", "job-4").end(items=4)
    assert statuses(server.await_records(2, Acct_Session_Id=numbers[4])) == ["Start", "Stop"]
    for number in numbers:
        assert statuses(server.records(Acct_Session_Id=number)) == ["Start", "Stop"]


def test_brokers_that_are_killed_in_the_middle(site, server):
    """At any moment, with the server up: each item that a program was told of has one start and one end, and no more.

    A record may come twice, with its own number, when the helper dies between the server's word and its own note.
    """
    chance = random.Random(6)
    told: dict[str, int] = {}
    for number in range(4):
        over = threading.Event()
        worker = threading.Thread(target=bill, args=(site.pool.socket, f"round-{number}", told, over))
        worker.start()
        enough, deadline = len(told) + chance.randint(1, 12), time.monotonic() + 20
        while len(told) < enough:
            assert time.monotonic() < deadline, told
            time.sleep(chance.uniform(0.001, 0.01))  # the moment is what is tried here
        kill(site.pool, "broker")
        over.set()
        worker.join(60)
        assert not worker.is_alive()
        site.pool._start("broker")
        with libstub.Pool(str(site.pool.socket)) as pool:
            for instance in [one for one in told if told[one] < 0]:  # whose end was not acknowledged
                finish(pool, instance)
                told[instance] = 0
    assert len(told) >= 4
    for instance in told:
        server.await_records(2, TLSPool_Instance=instance, seconds=60)
    seen = server.records(TLSPool_Kind="round")
    unique = {one["TLSPool-Record-Id"][0]: one for one in seen}
    for instance in told:
        of_it = [one for one in unique.values() if one["TLSPool-Instance"] == [instance]]
        assert statuses(of_it) == ["Start", "Stop"], (instance, of_it)
        assert len({one["Acct-Session-Id"][0] for one in of_it}) == 1


def bill(path, name, told, over):
    """Start and end items until the pool goes away; those that began are in ``told``, -1 until their end is kept."""
    try:
        with libstub.Pool(str(path)) as pool:
            for number in itertools.count():
                instance = f"{name}-{number}"
                if over.is_set():
                    return
                account = pool.account("round", instance, identity="alice@home.example")
                told[instance] = -1
                account.end(items=number)
                told[instance] = number
    except libstub.PoolUnavailable:
        return


def finish(pool, instance):
    """End an item whose end may have been kept already."""
    try:
        libstub.Account(pool, "round", instance).end(items=0)
    except libstub.Misuse as error:
        assert error.code == Code.ACCOUNT_UNKNOWN


def test_a_server_that_is_silent_is_waited_for_a_bounded_time(site, pool, server):
    server.silence()
    try:
        begun_s = time.monotonic()
        with pytest.raises(libstub.PoolUnavailable) as caught:
            pool.authenticate("alice@home.example", "correct horse", timeout_s=1)
        assert caught.value.code == Code.RADIUS_UNANSWERED
        assert time.monotonic() - begun_s < 5
        assert pool.ping().facilities is not None  # nobody else waits
        account = pool.account("print", "job-9", identity="alice@home.example")
        account.end(items=1)
    finally:
        server.speak()
    assert statuses(server.await_records(2, Acct_Session_Id=account.acct_id, seconds=40)) == ["Start", "Stop"]


# --- programs ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(program, site, no_leaks):
    def go(*words, status=0, text=""):
        done = subprocess.run(
            [program, site.pool.socket, *words], input=text, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == status, done
        return done.stdout.splitlines()

    return go


def test_a_program_in_c(run, server):
    alice = "alice@home.example"
    assert run("authenticate", alice, text="correct horse\n") == [
        "accepted session_timeout_s=3600 hello", "tag gold", "tag staff",
    ]  # fmt: skip
    assert run("authenticate", alice, text="wrong\n", status=1)[0].startswith("rejected session_timeout_s=0")
    [said] = run("authorize", "bob@home.example", "print", "colour", status=1)
    assert said.endswith("no more credit") or "may not use" in said
    [refused] = run("authorize", "x@elsewhere.example", "print", "colour", status=2)
    assert refused.startswith("[807]")
    [began] = run("start", alice, "copy", "job-1")
    [exists] = run("start", alice, "copy", "job-1", status=2)
    assert exists.startswith("[809]")
    assert run("update", "copy", "job-1", "3") == run("end", "copy", "job-1", "12") == [began]
    [unknown] = run("end", "copy", "job-1", "12", status=2)
    assert unknown.startswith("[808]")
    records = server.await_records(3, Acct_Session_Id=began.removeprefix("kept "))
    assert statuses(records) == ["Start", "Interim-Update", "Stop"]
    assert records[-1]["TLSPool-Items"] == ["12"]


def test_the_print_server(site, server, tmp_path, no_leaks):
    program = Running(
        site.pool, tmp_path, example("print_server.py", "--listen", "127.0.0.1:0", "--localid", SERVER, "--once")
    )
    try:
        with libstub.Pool(str(site.pool.socket)) as pool:
            sock = socket.create_connection(("127.0.0.1", program.port))
            with libstub.starttls_client(sock, SERVER, localid=CLIENT, service="plain", pool=pool) as tls:
                tls.sock.sendall(b"one\ntwo\n")
                tls.sock.shutdown(socket.SHUT_WR)
                assert tls.sock.makefile("rb").read() == b"page 1\npage 2\n"
        number = program.await_output(r"has printed 2 pages: (\S+)").group(1)
    finally:
        program.stop()
    records = server.await_records(4, Acct_Session_Id=number)
    assert statuses(records) == ["Start", "Interim-Update", "Interim-Update", "Stop"]
    assert records[-1]["TLSPool-Items"] == ["2"]


def test_the_helper_is_killed(site, pool, server):
    """It is started again, and knows what it has on its disk."""
    [helper] = [pid for pid in children(site.pool.running()["broker"]) if "radius" in title(pid)]
    account = pool.account("print", "job-11", identity="alice@home.example")
    os.kill(helper, signal.SIGKILL)
    await_log(site.pool, "broker", r"event=helper\.lost")
    deadline = time.monotonic() + 20
    while True:
        try:
            account.end(items=11)
            break
        except libstub.PoolUnavailable:
            assert time.monotonic() < deadline
    while True:
        # A record that the server took a moment before the helper was killed comes again, with the same number.
        records = {one["TLSPool-Record-Id"][0]: one for one in server.records(Acct_Session_Id=account.acct_id)}
        if len(records) == 2:
            break
        assert time.monotonic() < deadline, records
        time.sleep(0.02)
    assert statuses(records.values()) == ["Start", "Stop"]


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def title(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
