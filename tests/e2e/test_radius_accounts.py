"""Whatever dies, every session that has begun to be accounted for is accounted for to its end, once, with its octets.

Clients send and receive all the time, while the worker's processes, the helper, the broker, and all of them are
killed at random moments.  In the end a server has, for each Acct-Session-Id, one START and one STOP; and where a worker
lived to tell what was moved, and somebody could hear it, the octets are those that were moved.
"""

import contextlib
import os
import random
import signal
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

import libstub
from tests import report
from tests.fixtures import radius_codec as codec
from tests.fixtures.living import broker_says, context_for, kill, status_until
from tests.fixtures.radius_server import SECRET, Server
from tlspool_admin.devpool import DevPool

ROUNDS = int(os.environ.get("TLSPOOL_CRASH_ROUNDS", "4"))
CLIENTS = 6
INPUT, OUTPUT, INPUT_PACKETS, OUTPUT_PACKETS, CAUSE = 42, 43, 47, 48, 49
START, STOP, UPDATE = 1, 2, 3

LOSES = {"workers", "all"}
"""What is killed of which nobody lives to tell."""


class Counting:
    """A server program behind the pool: echoes, and keeps by session number what it has moved."""

    def __init__(self, pool):
        self.pool = libstub.Pool(str(pool.socket))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.moved = {}
        self.threads = []
        self.main = threading.Thread(target=self._accept)
        self.main.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                thread = threading.Thread(target=self._serve, args=(sock,))
                thread.start()
                self.threads.append(thread)

    def _serve(self, sock):
        moved = 0
        try:
            session = libstub.starttls_server(sock, pool=self.pool, localid="localhost", remote_auth="ignore")
        except libstub.PoolError:
            return
        with session, contextlib.suppress(OSError):
            while data := session.sock.recv(65536):
                session.sock.sendall(data)
                moved += len(data)
            session.sock.shutdown(socket.SHUT_WR)
            self.moved[session.session_id] = moved

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.main.join()
        for thread in self.threads:
            thread.join(60)
        self.pool.close()


class Client(threading.Thread):
    """Connects, sends, has it back, says goodbye, and again."""

    def __init__(self, load, seed):
        super().__init__()
        self.load = load
        self.chance = random.Random(seed)

    def run(self):
        while not self.load.stopping.is_set():
            ledger = self.load.ledger
            try:
                sent = self._once()
            except (OSError, ssl.SSLError):
                continue
            ledger.append(sent)

    def _once(self):
        sock = socket.create_connection(("127.0.0.1", self.load.server.port), timeout=30)
        with self.load.context.wrap_socket(sock, server_hostname="localhost") as tls:
            total = 0
            for _ in range(self.chance.randint(1, 12)):
                data = self.chance.randbytes(self.chance.choice((1, 700, 16_384, 40_000)))
                tls.sendall(data)
                left = len(data)
                while left:
                    back = tls.recv(left)
                    if not back:
                        raise OSError("dropped")
                    left -= len(back)
                total += len(data)
                self.load.stopping.wait(self.chance.uniform(0, 0.05))
            tls.unwrap().close()
        return total


class Load:
    """Clients, and what they have moved: sums of those that came to a good end, by the round in which they did."""

    def __init__(self, pool, server, seed):
        self.server = server
        self.context = context_for(pool)
        self.stopping = threading.Event()
        self.ledger = []
        self.clients = [Client(self, f"{seed} {number}") for number in range(CLIENTS)]
        for client in self.clients:
            client.start()

    def stop(self):
        self.stopping.set()
        for client in self.clients:
            client.join(60)
            assert not client.is_alive()


@pytest.fixture
def accounted(tmp_path):
    """A pool that accounts for its sessions, at a server of ours."""
    with Server() as radius:
        secrets = tmp_path / "secrets"
        secrets.touch(0o600)
        secrets.write_text(f"127.0.0.1:{radius.port} {SECRET.decode()}\n")
        pool = DevPool(tmp_path / "p")
        lines = [f"radius_acct 127.0.0.1:{radius.port}", f"radius_secret_file {secrets}", "log_level debug"]
        lines += [f"radius_spool_dir {tmp_path}/spool", "radius_timeout_s 0.5", "radius_interim_s 60"]
        pool.up("ec", lines)
        yield pool, radius
        pool.down()


def helper_of(pool):
    """Return the number of the process that speaks RADIUS, or None."""
    broker = pool.running().get("broker")
    for task in Path(f"/proc/{broker}/task").iterdir() if broker else ():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                if b"radius" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
    return None


def numbers_of(pool):
    return {row["session"] for row in broker_says(pool, "sessions")["sessions"]}


def workers_of(pool):
    return {row["worker"] for row in broker_says(pool, "sessions")["sessions"] if row["worker"]}


def strike(pool, what):
    """Kill, and start again what a service manager would."""
    match what:
        case "helper":
            if (pid := helper_of(pool)) is not None:
                os.kill(pid, signal.SIGKILL)
        case "workers":
            for pid in workers_of(pool):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        case "broker":
            kill(pool, "broker")
        case "all":
            for name in ("broker", "worker", "keyd"):
                kill(pool, name)
    for name in ("keyd", "broker", "worker"):
        if name not in pool.running():
            pool._start(name)
    status_until(pool, lambda status: status["keyd"] and status["master"], 60)


def settled(pool):
    told = broker_says(pool, "radius.spool", retry=True)
    return told.get("waiting") == 0 and told.get("open") == 0


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def by_session(packets):
    """Return for each Acct-Session-Id its different records: {id: {(status, record id): packet}}."""
    found = {}
    for packet in packets:
        key = packet.number(codec.STATUS_TYPE), packet.text(codec.RECORD_ID)
        found.setdefault(packet.text(codec.ACCT_SESSION_ID), {})[key] = packet
    return found


def octets(packet):
    return packet.number(INPUT), packet.number(OUTPUT)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_session_has_one_start_and_one_stop(accounted, seed):
    pool, radius = accounted
    chance = random.Random(seed)
    turns = ["broker", "helper", "workers", "all"]
    turns = [*turns, *chance.choices(["broker", "helper", "workers"], k=max(0, ROUNDS - len(turns)))][:ROUNDS]
    chance.shuffle(turns)
    begin_s = time.monotonic()
    server = Counting(pool)
    load = Load(pool, server, seed)
    exempt = set()
    try:
        for turn in turns:
            before = len(load.ledger)
            until(lambda before=before: len(load.ledger) >= before + 3 * CLIENTS)
            load.stopping.wait(chance.uniform(0, 0.5))
            radius.behave = chance.choice([radius.accepts(), radius.silent()])
            known = numbers_of(pool)
            strike(pool, turn)
            if turn in LOSES:
                exempt |= known | set(range(max(known, default=0), max(numbers_of(pool), default=0) + 1))
    finally:
        load.stop()
        server.close()
    radius.behave = radius.accepts()
    status_until(pool, lambda status: not status["sessions"], 60)
    until(lambda: settled(pool))
    sessions = by_session(radius.heard)
    judge(sessions, server.moved, exempt, load)
    compared = len([one for one in server.moved if one not in exempt])
    cells = (" ".join(turns), f"{len(sessions)} sessions", f"octets of {compared} compared")
    report.row("accounting, whatever dies", *cells, f"{time.monotonic() - begin_s:.0f} s")


def judge(sessions, moved, exempt, load):
    numbers = {int(acct_id.rpartition("-")[2], 16): records for acct_id, records in sessions.items()}
    assert len(numbers) == len(sessions)
    for number, records in numbers.items():
        kinds = sorted(status for status, _ in records)
        assert kinds == [START, STOP], (number, kinds)
    compared = 0
    for number, total in moved.items():
        assert number in numbers, f"session {number} has moved {total} octets and was not accounted for"
        if number not in exempt:
            [stop] = [packet for (status, _), packet in numbers[number].items() if status == STOP]
            assert octets(stop) == (total, total), (number, total, stop.number(CAUSE))
            compared += 1
    assert compared > len(load.ledger) / 4
