"""What is done to the pool of a soak: processes killed and stopped, slow remotes, a slow token, edits of policy."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.x509 import SubjectKeyIdentifier as _KeyIdentifier

import libstub
from tests.fixtures.flooding import Silent
from tests.soak.app import App, Told, _being_server
from tests.soak.world import DAEMONS, World
from tlspool_admin.client import NotReachable
from tlspool_common.errors import PoolError

TARGETS = {"worker": 5, "app": 2, "token": 3, "keyd": 3, "master": 3, "broker": 2, "helper": 1}
TARGETS |= {"radius": 1, "server": 2}
"""Which process, and how often; ``radius`` is the helper that speaks RADIUS, ``server`` is the server that it asks."""

AWAY_S = 4.0, 10.0
"""For how long that is away, or says nothing: questions are given up after four seconds."""

SIGNALS = {signal.SIGKILL: 4, signal.SIGTERM: 3, signal.SIGSTOP: 4}

HALF_OPEN = 1000
SLOW_PEERS = 4
SIGNATURE_MS = 1000


@dataclass
class Disturbance:
    """Something that was done, from when to when it was over; ``what`` is a key of verdict.EXPLAINS."""

    what: str
    begun: float
    ended: float = math.inf
    pid: int = 0


class Trouble:
    """Does it, and keeps a record."""

    def __init__(self, world: World, seed: int, only: Sequence[str] = ()) -> None:
        """``only`` are the roles of TARGETS that something is done to; () is all of them."""
        self._world = world
        self._targets = {role: TARGETS[role] for role in only or TARGETS}
        self._chance = random.Random(f"{seed} trouble")
        self.record: list[Disturbance] = []
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self.revocations: list[tuple[float, float, bool]] = [(0.0, 0.0, False)]
        """When something was asked to be so, when that was answered, and whether the certificate was revoked then."""
        self.edits = 0
        self._over = threading.Event()
        self._editor = threading.Thread(target=self._edit, daemon=True)
        self._absence = threading.Thread()

    @contextlib.contextmanager
    def _doing(self, what: str, pid: int = 0):
        one = Disturbance(what, time.monotonic(), pid=pid)
        self.record.append(one)
        self.done[what] += 1
        try:
            yield one
        finally:
            one.ended = time.monotonic()

    # --- rough ------------------------------------------------------------------------------------------

    def rough(self, until_s: float) -> None:
        """Kill and stop processes until then."""
        while time.monotonic() < until_s:
            self.strike()
            self._over.wait(self._chance.uniform(0.5, 2.5))
        if self._absence.is_alive():
            self._absence.join(60)

    def strike(self) -> None:
        """Do something to one process."""
        role = self._chance.choices(list(self._targets), list(self._targets.values()))[0]
        number = self._chance.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        pids = self._world.pids(role)
        if not pids:
            return
        pid = self._chance.choice(pids)
        if role == "server":
            self._send_away(number)
            return
        with self._doing(f"{'stop' if number == signal.SIGSTOP else 'end'} {role}", pid) as one:
            if number == signal.SIGSTOP:
                self._stop(pid)
            elif role in DAEMONS:
                one.what = f"end {role}"
                if not self._world.end(role, number):
                    self.faults.append(f"{role} did not end by {number.name}")
                self._world.start(role)
            elif role == "app":
                app = next(app for app in self._world.apps if app.pid == pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                self._world.renew(app)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                self._over.wait(0.3)
                self._world.whole()

    def _send_away(self, number: signal.Signals) -> None:
        """Have the RADIUS server be away for a while, during which other things happen, unless it is away already."""
        seconds = self._chance.uniform(*AWAY_S)
        if not self._absence.is_alive():
            self._absence = threading.Thread(target=self._away, args=(number, seconds), daemon=True)
            self._absence.start()

    def _away(self, number: signal.Signals, seconds: float) -> None:
        server = self._world.radius
        try:
            with self._doing(f"{'stop' if number == signal.SIGSTOP else 'end'} server"):
                if number == signal.SIGSTOP:
                    server.silence()
                    self._over.wait(seconds)
                    server.speak()
                else:
                    server.stop(number)
                    self._over.wait(seconds)
                    server.start()
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            self.faults.append(f"the RADIUS server did not end or begin: {error!r}"[:2000])

    def _stop(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._over.wait(self._chance.uniform(0.1, 0.8))
            os.kill(pid, signal.SIGCONT)

    # --- slow -------------------------------------------------------------------------------------------

    def slow(self, until_s: float, app: App, told: list[Told]) -> None:
        """Have slow remotes, silent ones, and a slow token, until then."""
        path = str(self._world.pool.socket)
        over = threading.Event()
        with self._doing("slow token"):
            self._world.order.write_text(f"slow {SIGNATURE_MS}")
            peers = [threading.Thread(target=_peer, args=(app, told, over), daemon=True) for _ in range(SLOW_PEERS)]
            for thread in peers:
                thread.start()
            with self._doing("silent remotes"):
                silent = [Silent(path, HALF_OPEN // 4) for _ in range(4)]
                hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400)
                sent = 0
                while time.monotonic() < until_s:
                    for one in silent:
                        for number, remote in one.remotes.items():
                            if number % 2:
                                with contextlib.suppress(OSError):
                                    remote.send(hello[sent : sent + 1], socket.MSG_DONTWAIT)
                    sent += 1
                    over.wait(min(1.0, max(0.0, until_s - time.monotonic())))
                for one in silent:
                    errors = one.hear(0.01)
                    self.faults += [f"a silent remote's handshake ended with {text}" for text in errors.values()][:1]
                    one.close()
            over.set()
            self._world.order.unlink()
            for thread in peers:
                thread.join(60)

    # --- all the time -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin to edit policy."""
        self._editor.start()

    def end(self) -> None:
        """End it."""
        self._over.set()
        self._editor.join(60)

    def _edit(self) -> None:
        serial = f"{self._world.revoked.serial:x}"
        serial = serial.rjust(len(serial) + len(serial) % 2, "0")
        issuer = self._world.pki
        key = issuer.issuer.extensions.get_extension_for_class(_KeyIdentifier).value.digest.hex()
        revoked = False
        while not self._over.wait(0.4):
            self.edits += 1
            begun = time.monotonic()
            if self.edits % 5 == 0:
                revoked = not revoked
                request: dict[str, object] = {"cmd": "trust.revoke", "key": key, "serials": [serial]}
                if not revoked:
                    request = {"cmd": "trust.unrevoke", "key": key, "serials": [serial]}
            else:
                ids = [["tlspool.arpa2.lab"], ["playground.arpa2.lab"]][self.edits % 2]
                request = {"cmd": "disclose.set", "selector": ".", "ids": ids}
            try:
                self._world.tell(request)
            except (NotReachable, OSError):
                # Nobody knows whether it was done; it is asked again, until it was.
                while not self._over.wait(0.2):
                    with contextlib.suppress(NotReachable, OSError):
                        self._world.tell(request)
                        break
            except PoolError as error:
                self.faults.append(f"an edit was refused: {error}")
            if self.edits % 5 == 0:
                self.revocations.append((begun, time.monotonic(), revoked))


def _peer(app: App, told: list[Told], over: threading.Event) -> None:
    """Have sessions whose remotes read slowly."""
    chance = random.Random(id(over))
    while not over.is_set():
        one = Told(-1, "slow peer", time.monotonic(), 0.0, 0.0)
        data = chance.randbytes(200_000)

        def read(tls, data=data) -> None:
            for at in range(0, len(data), 4096):
                tls.sendall(data[at : at + 4096])
            got = b""
            while len(got) < len(data) and (more := tls.recv(4096)):
                got += more
                over.wait(0.02)
            if got != data:
                raise AssertionError("other bytes")

        try:
            _being_server(app, chance, one, "localhost", read)
        except libstub.PoolError as error:
            one.outcome, one.code, one.text = "control" if one.set_up else "setup", error.code, str(error)
        except AssertionError as error:
            one.outcome, one.text = "wrong", str(error)
        except Exception as error:
            one.outcome, one.text = "relay" if one.set_up else "remote", repr(error)
        one.ended = time.monotonic()
        one.size_b = len(data)
        told.append(one)
