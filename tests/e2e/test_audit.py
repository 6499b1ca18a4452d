"""The audit trails of a whole pool: what happens is in them, before it does; and nothing does where that is wanted."""

import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

import libstub
from tests.e2e.conftest import await_log, connect, log_of, make_pool, tlspool
from tlspool_admin.client import Refused, ask
from tlspool_common.errors import Code

CTLKEYS = []
REASON = "canary-reason-4711"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    made = make_pool(tmp_path_factory, "audited", "ec", f"audit_dir {tmp_path_factory.mktemp('trail')}")
    yield made
    made.down()


@pytest.fixture
def strict_pool(tmp_path_factory, tmp_path):
    made = make_pool(tmp_path_factory, "strict", "ec", f"audit_dir {tmp_path / 'trail'}", "audit_required yes")
    yield made
    made.down()


def directory(pool):
    return re.search(r"(?m)^audit_dir (.*)$", pool.config.read_text())[1]


def records(pool, **wanted):
    """Return the records that have these fields."""
    shown = tlspool(pool, "audit", "show", "--json").stdout.splitlines()
    found = [json.loads(line) for line in shown]
    return [one for one in found if all(one["fields"].get(name) == value for name, value in wanted.items())]


def await_records(pool, event, count=1, seconds=20, **wanted):
    deadline = time.monotonic() + seconds
    while len(found := [one for one in records(pool, **wanted) if one["event"] == event]) < count:
        assert time.monotonic() < deadline, f"no {event} in {records(pool)}"
        time.sleep(0.05)
    return found


def session(pool, server, text=b"hello", **options):
    """Have a session between two applications of the pool; return the client's and the server's number."""
    options = {"localid": "tlspool.arpa2.lab", "remoteid": "localhost", **options}
    with (
        libstub.Pool(str(pool.socket)) as client_pool,
        connect(server.port) as sock,
        libstub.starttls_client(sock, pool=client_pool, **options) as client,
    ):
        client.sock.sendall(text)
        assert client.sock.recv(100) == text
        CTLKEYS.append(client.ctlkey.hex())
        return client.session_id


def test_sessions_keys_changes_and_refusals_are_in_both_trails_under_one_number(pool, echo_server):
    server = echo_server(pool, remote_auth="require")
    text = b"canary-plaintext-4711"
    session(pool, server, text)
    served = server.await_session()
    end = await_records(pool, "session.end", 2)
    numbers = {one["fields"]["session"] for one in end}
    assert len(numbers) == 2
    for number in numbers:
        mine = records(pool, session=number)
        assert [(one["daemon"], one["event"]) for one in mine] == [
            ("keyd", "sign.done"),
            ("broker", "session.start"),
            ("broker", "session.end"),
        ]
        start = mine[1]["fields"]
        assert {"caller", "unit", "uid", "localid", "remoteid", "generation", "version", "group"} <= set(start)
        assert mine[2]["fields"]["from_remote_b"] == mine[2]["fields"]["to_remote_b"] == len(text)
    assert served is not None

    # a remote that expects somebody else
    with pytest.raises(libstub.PoolError):
        session(pool, server, remoteid="playground.arpa2.lab")
    (refused,) = await_records(pool, "session.refused", rule="sni_mismatch")
    assert refused["fields"]["session"] > max(numbers)

    before = ask(pool.run_dir / "broker.sock", {"cmd": "status"})["generation"]
    tlspool(pool, "disclose", "set", ".example", "testcli@tlspool.arpa2.lab", "--reason", REASON)
    (change,) = await_records(pool, "database.changed", cmd="disclose.set", generation=before + 1)
    assert (change["fields"]["what"], change["fields"]["uid"]) == (".example", os.getuid())
    assert change["fields"]["author"]

    tlspool(pool, "reload")
    await_records(pool, "reload.done", 2)
    verified = tlspool(pool, "audit", "verify")
    assert re.search(r"(?m)^broker: whole: \d+ records in 1 file, ", verified.stdout)
    assert re.search(r"(?m)^keyd: whole: ", verified.stdout)

    # nothing secret is in any of them
    pin = (pool.directory / "pin").read_text().strip()
    told = "".join(log_of(pool, name) for name in ("broker", "keyd", "worker")) + tlspool(pool, "metrics").stdout
    for path in sorted(os.scandir(directory(pool)), key=lambda entry: entry.name):
        with open(path) as file:
            told += file.read()
    assert "session.start" in told
    assert CTLKEYS
    for canary in (pin, text.decode(), text.hex(), *CTLKEYS):
        assert canary not in told


def test_a_killed_session_and_who_did_it(pool, echo_server):
    server = echo_server(pool)
    with libstub.Pool(str(pool.socket)) as client_pool, connect(server.port) as sock:
        options = {"localid": "tlspool.arpa2.lab", "remoteid": "localhost"}
        with libstub.starttls_client(sock, pool=client_pool, **options) as client:
            number = client.session_id
            tlspool(pool, "sessions", "kill", str(number))
            (kill,) = await_records(pool, "session.kill", session=number)
            (end,) = await_records(pool, "session.end", session=number)
            assert (kill["fields"]["author"], end["fields"]["by"]) != ("", "")


def test_many_at_once_are_all_in_it_and_in_order(pool, echo_server):
    server, known = echo_server(pool), len(CTLKEYS)
    threads = [threading.Thread(target=lambda: [session(pool, server) for _ in range(4)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(CTLKEYS) == known + 32
    numbers = {made.session_id for made in server.sessions}
    assert len(numbers) == 32
    deadline = time.monotonic() + 20
    while not numbers <= {one["fields"]["session"] for one in records(pool) if one["event"] == "session.end"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    order = [one["fields"]["session"] for one in records(pool) if one["event"] in ("session.start", "session.end")]
    assert all(order.count(number) == 2 for number in numbers)
    signed = [one["fields"]["session"] for one in records(pool) if one["event"] == "sign.done"]
    assert all(signed.count(number) == 1 for number in numbers)
    assert tlspool(pool, "audit", "verify").stdout.count(": whole: ") == 2


def test_show(pool):
    everything = tlspool(pool, "audit", "show").stdout.splitlines()
    assert len(everything) >= 15
    assert everything == sorted(everything, key=lambda line: line[:24])
    only = tlspool(pool, "audit", "show", "--event", "database.*", "-n", "2").stdout.splitlines()
    assert len(only) == 2
    assert all("  database.changed " in line for line in only)
    assert tlspool(pool, "audit", "show", "--since", "1h").stdout.splitlines() == everything
    assert tlspool(pool, "audit", "show", "--since", "2999-01-01").stdout == ""


def test_what_is_done_to_a_trail_is_found(pool, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(directory(pool), copy)
    path = copy / "broker-000001.jsonl"
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    assert tlspool(pool, "audit", "verify", str(copy)).returncode == 0
    path.write_bytes(data.replace(b'"uid":', b'"uie":', 1))
    place = next(number for number, line in enumerate(lines, 1) if b'"uid":' in line)
    done = tlspool(pool, "audit", "verify", str(copy), check=False)
    assert done.returncode == 1
    assert f"broker: BROKEN: {path} line {place}: its hash is another one" in done.stdout
    assert "keyd: whole" in done.stdout
    # the end is gone: only a head that was told elsewhere shows it
    head = json.loads(lines[-1])
    path.write_bytes(b"".join(lines[:-2]))
    assert tlspool(pool, "audit", "verify", str(copy)).returncode == 0
    told = f"broker:{head['seq']}:{head['hash']}"
    done = tlspool(pool, "audit", "verify", str(copy), "--head", told, "--json", check=False)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["code"]) == (1, False, Code.AUDIT_BROKEN)
    assert "the end is missing" in answer["trails"][0]["why"]
    log = tmp_path / "log"
    log.write_text(f"INFO broker: event=audit.head head={told} file=x\n")
    done = tlspool(pool, "audit", "verify", str(copy), "--heads", str(log), check=False)
    assert "the end is missing" in done.stdout


# --- a trail that cannot be written -----------------------------------------------------------------------------


def lose(path):
    """Take a trail away, in a manner that root's permissions do not help against."""
    path.rename(path.with_suffix(".away"))
    path.touch()


def find_again(path):
    path.unlink()
    path.with_suffix(".away").rename(path)


def test_no_session_and_no_signature_unrecorded(strict_pool, echo_server):
    pool, place = strict_pool, Path(directory(strict_pool))
    server = echo_server(pool)
    session(pool, server)
    start = len(log_of(pool, "broker"))
    lose(place)
    await_log(pool, "broker", r"event=audit\.lost .* refuses=yes", start)
    await_log(pool, "keyd", r"event=audit\.lost ")
    with pytest.raises(libstub.PoolError) as caught:
        session(pool, server)
    assert caught.value.code in (Code.AUDIT_LOST, Code.REMOTE_CLOSED)
    assert server.await_error().code == Code.AUDIT_LOST
    with pytest.raises(Refused) as refused:
        ask(
            pool.run_dir / "broker.sock", {"cmd": "disclose.set", "selector": ".x", "ids": ["localhost"], "author": "t"}
        )
    assert refused.value.code is Code.AUDIT_LOST
    assert ask(pool.run_dir / "broker.sock", {"cmd": "status"})["audit"]["state"] == "lost"
    find_again(place)
    await_log(pool, "broker", r"event=audit\.back ", start)
    await_log(pool, "keyd", r"event=audit\.back ")
    session(pool, server)
    await_records(pool, "session.start", 4)
    recovered = [one for one in records(pool) if one["event"] == "audit.recovered"]
    assert {one["daemon"] for one in recovered} == {"broker", "keyd"}
    verified = tlspool(pool, "audit", "verify")
    assert verified.stdout.count(": whole: ") == 2
    assert "goes on after a break" in verified.stderr


def test_where_it_is_not_required_sessions_go_on(pool, echo_server):
    server, place, start = echo_server(pool), Path(directory(pool)), len(log_of(pool, "broker"))
    lose(place)
    await_log(pool, "broker", r"event=audit\.lost .* refuses=no", start)
    await_log(pool, "keyd", r"event=audit\.lost ")
    session(pool, server)
    find_again(place)
    back = await_log(pool, "broker", r"event=audit\.back missed=\d+", start)
    assert int(back.rpartition("=")[2]) >= 2
    await_log(pool, "keyd", r"event=audit\.back ")
    assert tlspool(pool, "audit", "verify").stdout.count(": whole: ") == 2


def test_daemons_that_are_killed_go_on_where_they_were_and_know_their_end(pool):
    """The last test of this pool: its trail is broken afterwards."""
    running = pool.running()
    for name in ("broker", "keyd"):
        os.kill(running[name], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while len(pool.running()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    path = Path(directory(pool)) / "broker-000001.jsonl"
    with path.open("ab") as file:
        file.write(b'{"seq":')  # as if the broker had been killed in the middle of a line
    assert "BROKEN" in tlspool(pool, "audit", "verify", check=False).stdout
    pool.up("ec", pool.config.read_text().splitlines()[-2:])
    verified = tlspool(pool, "audit", "verify")
    assert verified.stdout.count(": whole: ") == 2
    assert "7 bytes lost" in verified.stderr
    # Somebody takes the last line away, from the very file that the broker writes: the broker knows better.
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(data.rindex(b"\n", 0, len(data) - 1) + 1)
    done = tlspool(pool, "audit", "verify", check=False)
    assert done.returncode == 1
    assert "the end is missing" in done.stdout or "other" in done.stdout
    await_log(pool, "broker", r"event=audit\.lost .*was changed")
