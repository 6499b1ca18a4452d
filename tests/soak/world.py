"""The pool of the soak, its second token, its neighbours and its applications; and starting again what was killed."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fixtures import slowtoken
from tests.fixtures.freeradius import FreeRadius
from tests.fixtures.pki import Pki
from tests.fixtures.ports import free_port
from tests.soak.app import CLOSED, CUSTOMERS, OPEN, Plan, Told
from tlspool_admin.client import NotReachable, ask
from tlspool_admin.devca import DevCa
from tlspool_admin.devpool import DevPool, softhsm_module

SLOW, SLOW_TOKEN = "slow.arpa2.lab", "soak-slow"
FAST = ["localhost", "tlspool.arpa2.lab", "playground.arpa2.lab"]
PEOPLE = 'DEFAULT\n\tClass = "soak"\n'
RESOURCES = "".join(f"{name}/*/{CUSTOMERS}\n" for name in FAST)
RADIUS = ("radius_dead_s 2", f"radius closed service={CLOSED}", f"radius open service={OPEN} unanswered=accept",
          "radius others authn=no authz=no acct=no")  # fmt: skip
DAEMONS = {"broker": "broker", "master": "worker", "keyd": "keyd"}
RECOVER_S = 40.0
"""For a daemon to end, and for a pool to be whole again; a machine that does other things takes its time."""


def ticks(pid: int) -> int:
    """Return when a process started, in ticks since boot; 0: it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return [one for one in found if ticks(one)]


class Application:
    """An application, and what it tells."""

    def __init__(self, plan: Plan, told: Callable[[Told], None]) -> None:
        self.plan = plan
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.app"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._told = told
        self.say(json.dumps(dataclasses.asdict(plan)))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Tell it something, if it is there."""
        with suppress(OSError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with suppress(ValueError, TypeError):  # the last line of one that was killed
                self._told(Told(**json.loads(line)))

    def close(self, seconds: float) -> bool:
        """Let it end; return whether it did by itself."""
        with suppress(OSError, ValueError):
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            self._reader.join(10)
            if self._process.stdout:
                self._process.stdout.close()
        return True


class World:
    """All of it."""

    def __init__(self, directory: Path, seed: int, *, apps: int, threads: int, long_s: float) -> None:
        self.directory = directory
        self.pool = DevPool(directory / "p")
        self.control = self.pool.run_dir / "broker.sock"
        self.order = directory / "order"
        self.told: list[Told] = []
        self.apps: list[Application] = []
        self._sizes = seed, apps, threads, long_s
        self._neighbours: list[subprocess.Popen[bytes]] = []
        self._known: dict[int, int] = {}  # workers that were seen, by process id: when they started
        self.pki = Pki(directory, "", "Soak")
        self.revoked = self.pki.leaf("revoked.example.com")
        self.radius = FreeRadius(PEOPLE, RESOURCES)

    # --- begin and end ----------------------------------------------------------------------------------

    def up(self) -> None:
        """Start everything."""
        os.environ.update(slowtoken.environment(0, self.order))
        module = slowtoken.build(self.directory)
        self.radius.start()
        self.pool.up("ec", ["log_level info", "handshake_timeout_s 30", *self._radius_settings()])
        self._second_token(module)
        root = base64.b64encode(self.pki.root_der).decode()
        self.tell({"cmd": "trust.set", "flags": "x509,client,server", "valexp": "1", "data": root})
        plan = self._plan()
        server = self.pki.leaf("www.example.com")
        plan.certificate, plan.key = str(server.path), str(server.key_path)
        neighbours = (
            (plan.openssl_port, ["openssl", "s_server", "-rev", "-quiet", "-accept", f"127.0.0.1:{plan.openssl_port}"]
             + ["-cert", plan.certificate, "-cert_chain", plan.certificate, "-key", plan.key]),
            (plan.gnutls_port, ["gnutls-serv", "--echo", "--quiet", "-p", str(plan.gnutls_port)]
             + [f"--x509certfile={plan.certificate}", f"--x509keyfile={plan.key}", "--disable-client-cert"]),
        )  # fmt: skip
        for _, command in neighbours:
            with (self.directory / f"{command[0]}.log").open("wb") as log:
                self._neighbours.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory)
                )
        self.until(lambda: all(_listens(port) for port, _ in neighbours), "neighbours that listen")
        for number in range(self._sizes[1]):
            self.apps.append(Application(dataclasses.replace(plan, number=number), self.told.append))

    def _second_token(self, module: Path) -> None:
        """Make the token that is slow now and then, behind a module of its own, and an identity in it."""
        names = ["--label", SLOW_TOKEN, "--pin-file", str(self.pool.directory / "pin"), SLOW]
        done = subprocess.run(
            [sys.executable, "-m", "tlspool_keyd.token_keys", "--module", softhsm_module(), *names],
            env={**os.environ, "SOFTHSM2_CONF": str(self.pool.directory / "softhsm2.conf")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        key = json.loads(done.stdout)[SLOW]
        lines = f"pkcs11_path {module}\npkcs11_token pkcs11:token={SLOW_TOKEN}\n"
        self.pool.config.write_text(self.pool.config.read_text() + lines)
        self.end("keyd", signal.SIGTERM)
        self.start("keyd")
        der = DevCa(self.pool.directory).issue(SLOW, bytes.fromhex(key["spki"])).public_bytes(Encoding.DER)
        record = {"uri": key["uri"], "chain": [base64.b64encode(der).decode()]}
        self.tell({"cmd": "localid.set", "id": SLOW, "flags": "x509,client,server", "records": [record]})

    def _radius_settings(self) -> list[str]:
        secrets = self.directory / "secrets"
        secrets.touch(0o600)
        places = (self.radius.auth, self.radius.acct)
        secrets.write_text("".join(f"{place} {self.radius.secret}\n" for place in places))
        asked = [f"radius_{purpose} {self.radius.auth}" for purpose in ("authn", "authz")]
        kept = [f"radius_acct {self.radius.acct}", f"radius_spool_dir {self.directory}/spool", "radius_interim_s 60"]
        return [f"radius_secret_file {secrets}", *asked, *kept, *RADIUS]

    def _issuer(self) -> Path:
        """Write down who certifies remotes."""
        path = self.directory / "issuer.pem"
        path.touch(0o600)
        key = self.pki.issuer_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(self.pki.issuer.public_bytes(Encoding.PEM) + key)
        return path

    def _plan(self) -> Plan:
        seed, _, threads, long_s = self._sizes
        return Plan(
            socket=str(self.pool.socket),
            ca=str(self.pool.directory / "ca.pem"),
            remote_ca="",
            certificate="",
            key="",
            revoked_certificate=str(self.revoked.path),
            revoked_key=str(self.revoked.key_path),
            openssl_port=free_port(),
            gnutls_port=free_port(),
            identities=FAST,
            slow_identity=SLOW,
            issuer=str(self._issuer()),
            seed=seed,
            number=0,
            threads=threads,
            long_s=long_s,
        )

    def renew(self, app: Application) -> None:
        """Start an application in the place of one that was killed."""
        app.close(10)
        plan = dataclasses.replace(app.plan, number=app.plan.number + 100)
        self.apps[self.apps.index(app)] = Application(plan, self.told.append)

    def end_apps(self) -> list[str]:
        """Let applications end, and with them all sessions; return what did not end by itself."""
        apps, self.apps = self.apps, []
        return [f"application {app.plan.number} did not end" for app in apps if not app.close(60)]

    def all_told(self) -> None:
        """Wait until everything is told that is accounted for.

        Raises:
            TimeoutError: something still waits.
        """
        self.tell({"cmd": "radius.spool", "retry": True})
        self.until(lambda: self.tell({"cmd": "radius"}).get("waiting") == 0, "empty spool", 120)

    def down(self) -> list[str]:
        """End everything; return what did not end by itself."""
        left = self.end_apps()
        for process in self._neighbours:
            process.terminate()
            process.wait()
        shutil.copytree(self.pool.directory / "log", self.directory / "log", dirs_exist_ok=True)
        self.pool.down()
        self.radius.close()
        for name in slowtoken.environment(0, self.order):
            os.environ.pop(name, None)
        return left

    # --- processes --------------------------------------------------------------------------------------

    def tell(self, request: dict[str, object], timeout_s: float = 30) -> dict[str, object]:
        """Ask the broker's control socket."""
        return ask(self.control, {"author": "soak", **request}, timeout_s)

    def status(self) -> dict[str, object]:
        """Return how the broker is; {}: it does not answer."""
        try:
            return self.tell({"cmd": "status"}, 5)
        except (NotReachable, OSError):
            return {}

    def log(self) -> str:
        """Return what the broker has written."""
        return (self.pool.directory / "log" / "broker.log").read_text(errors="replace")

    def pids(self, role: str) -> list[int]:
        """Return the processes of a role."""
        if role == "app":
            return [app.pid for app in self.apps]
        if role in DAEMONS:
            pid = self.pool.running().get(DAEMONS[role])
            return [pid] if pid else []
        if role == "server":
            process = self.radius.process
            return [process.pid] if process is not None and process.poll() is None else []
        if role in ("token", "helper", "radius"):
            parents = self.pids("keyd" if role == "token" else "broker")
            found = [pid for parent in parents for pid in children(parent)]
            return [pid for pid in found if role == "token" or _speaks_radius(pid) == (role == "radius")]
        with suppress(NotReachable, OSError):
            rows = self.tell({"cmd": "workers"}, 5)["workers"]
            for row in rows if isinstance(rows, list) else ():
                self._known.setdefault(row["pid"], ticks(row["pid"]))
        self._known = {pid: at for pid, at in self._known.items() if at and ticks(pid) == at}
        return list(self._known)

    def everything(self) -> Iterator[tuple[str, int]]:
        """Yield each process of the pool with its role."""
        for role in ("broker", "master", "worker", "keyd", "token", "helper", "radius"):
            for pid in self.pids(role):
                yield role, pid

    def end(self, daemon: str, number: signal.Signals) -> bool:
        """Send a signal to a daemon and wait for its end; return whether it ended by that."""
        pid = self.pool.running()[DAEMONS.get(daemon, daemon)]
        at = ticks(pid)
        os.kill(pid, number)
        deadline = time.monotonic() + RECOVER_S
        while ticks(pid) == at and time.monotonic() < deadline:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        ended = ticks(pid) != at
        if not ended:
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0 if not ended else os.WNOHANG)
        return ended

    def start(self, daemon: str) -> None:
        """Start a daemon again, and wait until the pool is whole."""
        self.pool._start(DAEMONS.get(daemon, daemon))
        self.whole()

    def whole(self) -> None:
        """Wait until the broker has keyd, a master, a worker, and the helper that speaks RADIUS."""
        self.until(self._is_whole, "a whole pool")

    def _is_whole(self) -> bool:
        status = self.status()
        radius = status.get("radius")
        ready = isinstance(radius, dict) and radius.get("state") == "ready"
        return ready and all(status.get(name) for name in ("keyd", "master", "workers"))

    @staticmethod
    def until(condition: Callable[[], object], what: str, seconds: float = RECOVER_S) -> None:
        """Wait for something.

        Raises:
            TimeoutError: it does not come.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} in {seconds:g} s")
            time.sleep(0.05)


def _speaks_radius(pid: int) -> bool:
    """Whether a helper of the broker is the one that speaks RADIUS."""
    try:
        return b"radius" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _listens(port: int) -> bool:
    wanted = f":{port:04X} "
    lines = [line for path in ("tcp", "tcp6") for line in Path(f"/proc/net/{path}").read_text().splitlines()[1:]]
    return any(wanted in line.split(":", 1)[1][:20] and " 0A " in line for line in lines)
