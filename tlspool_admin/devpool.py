"""A complete pool in one directory, run by an ordinary user: for demos, tests, benchmarks and applications.

    DIR/tlspool.conf  softhsm2.conf  tokens/  pin     configuration, a SoftHSM2 token and its PIN
    DIR/ca.pem  ca.key  certs/                        a CA, and a certificate for each demo identity
    DIR/db/  run/  log/                               databases, sockets, one log a daemon
    DIR/pool.json                                     what was started; a directory without it is left alone

``up`` may be repeated: it starts what does not run and makes what is missing.  ``down`` stops what ``up``
started, found by process id *and* start time, and removes what ``up`` made.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess  # starts our own daemons
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tlspool_admin.client import ask
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import await_ready

IDENTITIES = (
    "testsrv@tlspool.arpa2.lab",
    "testcli@tlspool.arpa2.lab",
    "tlspool.arpa2.lab",
    "playground.arpa2.lab",
    "localhost",
)
DISCLOSED = {"@.arpa2.lab": ["testcli@tlspool.arpa2.lab"], ".": ["tlspool.arpa2.lab"]}
KEY_TYPES = ("ec", "rsa", "ed25519", "ec384")
SOFTHSM_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)
DAEMONS = ("broker", "keyd", "worker")
TOKEN_LABEL = "tlspool-dev"  # noqa: S105 - a name

_START_S = 30.0
"""How long a daemon may take to say READY: importing cryptography on a loaded machine takes seconds."""

_STOP_S = 5.0
_MADE = ("tlspool.conf", "softhsm2.conf", "pin", "ca.pem", "ca.key", "tokens", "certs", "db", "run", "log")

Report = Callable[[str], None]


def softhsm_module() -> str:
    """Find SoftHSM2's library.

    Raises:
        PoolError: it is not installed.
    """
    for path in (os.environ.get("SOFTHSM2_MODULE", ""), *SOFTHSM_MODULES):
        if path and Path(path).exists():
            return path
    raise PoolError(Code.SETTING_INVALID, "SoftHSM2 is not installed; apt-get install softhsm2")


def _start_ticks(pid: int) -> int:
    """Return when a process started, in ticks since boot (proc_pid_stat(5), field 22); 0: it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


class DevPool:
    """One development pool; ``directory`` is made when it is not there."""

    def __init__(self, directory: Path, report: Report = lambda _text: None) -> None:
        self.directory = directory.absolute()
        self._report = report

    @property
    def config(self) -> Path:
        """The configuration file of the daemons, which libtlspool reads too."""
        return self.directory / "tlspool.conf"

    @property
    def run_dir(self) -> Path:
        """Where the sockets are."""
        return self.directory / "run"

    @property
    def socket(self) -> Path:
        """The application socket."""
        return self.run_dir / "tlspool.sock"

    @property
    def environment(self) -> dict[str, str]:
        """What an application needs to find the pool."""
        return {"TLSPOOL_SOCKET": str(self.socket), "TLSPOOL_CONFIG_FILE": str(self.config)}

    # --- state ----------------------------------------------------------------------------------------

    @property
    def _state_path(self) -> Path:
        return self.directory / "pool.json"

    def _state(self) -> dict[str, dict[str, int]]:
        try:
            loaded = json.loads(self._state_path.read_text())
        except (OSError, ValueError):
            return {}
        return {name: loaded[name] for name in DAEMONS if name in loaded}

    def running(self) -> dict[str, int]:
        """Return {daemon: pid} of what runs."""
        return {
            name: record["pid"]
            for name, record in self._state().items()
            if record["ticks"] and _start_ticks(record["pid"]) == record["ticks"]
        }

    def _check_ours(self) -> None:
        """See that nobody else writes where our daemons are told what to load, and we whom to end.

        Raises:
            PoolError: SETTING_INVALID.
        """
        found = self.directory.stat()
        if found.st_uid != os.geteuid():
            raise PoolError(
                Code.SETTING_INVALID, f"{self.directory} belongs to user {found.st_uid}; name a directory of your own"
            )
        if found.st_mode & 0o022:
            raise PoolError(
                Code.SETTING_INVALID, f"{self.directory} can be written by others; chmod go-w it, or name another"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let two invocations for one directory take turns."""
        lock_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock_fd)

    # --- up -------------------------------------------------------------------------------------------

    def up(
        self, key_type: str = "ec", extra: list[str] | None = None, module: str = "", *, knows_pin: bool = True
    ) -> bool:
        """Start the pool, or what of it does not run; return False when it was up already.  Ready when this returns.

        ``extra`` are lines for the configuration.  ``module`` is another PKCS #11 library than SoftHSM2's.  A pool
        that does not know the PIN, though it is in DIR/pin, has to be told (`tlspool pin`).

        Raises:
            PoolError: something is missing, or a daemon did not start; the text ends with its log.
        """
        if len(str(self.run_dir / "private" / "broker.sock")) > 100:
            raise PoolError(Code.SETTING_INVALID, f"{self.directory} is too long a path for sockets (unix(7))")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_ours()
        foreign = [entry.name for entry in self.directory.iterdir()]
        if foreign and not self._state_path.exists():
            raise PoolError(Code.SETTING_INVALID, f"{self.directory} holds other files; name a new directory")
        with self._locked():
            running = self.running()
            if len(running) == len(DAEMONS):
                return False
            self._state_path.touch(mode=0o600)
            if not running:
                self._stop()
            module = module or softhsm_module()
            self._report("making the token, its keys and certificates")
            self._configure(module, extra or [], knows_pin)
            certificates = self._make_keys(module, key_type)
            for name in DAEMONS:
                if name not in running:
                    self._report(f"starting {name}")
                    self._start(name)
            self._await_connected()
            self._report("writing the databases")
            self._fill(certificates)
        return True

    def _configure(self, module: str, extra: list[str], knows_pin: bool) -> None:
        for name in ("tokens", "certs", "db", "run", "log"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        pin_path = self.directory / "pin"
        if not pin_path.exists():
            pin_path.touch(mode=0o600)
            pin_path.write_text(f"{secrets.randbelow(10**8):08d}\n")
        (self.directory / "softhsm2.conf").write_text(
            f"directories.tokendir = {self.directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.config.write_text(
            "\n".join(
                [
                    f"run_dir {self.run_dir}",
                    "socket_mode 0600",
                    f"socket_name {self.socket}",
                    f"dbenv_dir {self.directory}/db",
                    *([f"pkcs11_pin_file {pin_path}"] if knows_pin else []),
                    f"pkcs11_path {module}",
                    f"pkcs11_token pkcs11:token={TOKEN_LABEL}",
                    *extra,
                    "",
                ]
            )
        )

    def _child_environment(self) -> dict[str, str]:
        dropped = ("OPENSSL_CONF", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return {**kept, **self.environment, "SOFTHSM2_CONF": str(self.directory / "softhsm2.conf")}

    def _make_keys(self, module: str, key_type: str) -> dict[str, tuple[str, Path]]:
        # `tlspool dev env` need not wait for these.
        from cryptography.hazmat.primitives.serialization import Encoding

        from tlspool_admin.devca import DevCa

        command = [sys.executable, "-m", "tlspool_keyd.token_keys", "--module", module, "--label", TOKEN_LABEL]
        command += ["--pin-file", str(self.directory / "pin"), "--key-type", key_type, *IDENTITIES]
        done = subprocess.run(command, env=self._child_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise PoolError(Code.TOKEN_FAILED, f"no keys were made: {done.stderr.strip()[-400:]}")
        authority = DevCa(self.directory)
        found = {}
        for name, key in json.loads(done.stdout).items():
            path = self.directory / "certs" / f"{name}.pem"
            if not path.exists():
                path.write_bytes(authority.issue(name, bytes.fromhex(key["spki"])).public_bytes(Encoding.PEM))
            found[name] = (key["uri"], path)
        return found

    def _start(self, name: str) -> None:
        """Start a daemon and wait until it says READY=1."""
        log_path = self.directory / "log" / f"{name}.log"
        address = str(self.run_dir / "notify.sock")
        with suppress(FileNotFoundError):
            Path(address).unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log_path.open("ab") as log:
            ready.bind(address)
            process = subprocess.Popen(
                [sys.executable, "-m", f"tlspool_{name}", "--config", str(self.config)],
                env={**self._child_environment(), "NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
            # The object is dropped on purpose: the daemon outlives this command.
            process.returncode = 0
            pid = process.pid
            state = {**self._state(), name: {"pid": pid, "ticks": _start_ticks(pid)}}
            self._state_path.write_text(json.dumps(state))
            pid_fd = os.pidfd_open(pid)
            try:
                deadline = time.monotonic() + _START_S
                while (left := deadline - time.monotonic()) > 0:
                    readable = await_ready([ready.fileno(), pid_fd], left)
                    if ready.fileno() in readable and b"READY=1" in ready.recv(4096):
                        return
                    if pid_fd in readable:
                        break
            finally:
                os.close(pid_fd)
        tail = log_path.read_text(errors="replace").strip().splitlines()[-5:]
        raise PoolError(Code.SETTING_INVALID, f"tlspool-{name} did not start: " + " | ".join(tail))

    def _await_connected(self) -> None:
        """Wait until the broker has keyd and a worker."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            status = ask(self.run_dir / "broker.sock", {"cmd": "status"})
            if status.get("keyd") and status.get("workers"):
                return
            time.sleep(0.02)
        raise PoolError(Code.NO_WORKER, f"keyd and workers did not connect; see {self.directory}/log")

    def _fill(self, certificates: dict[str, tuple[str, Path]]) -> None:
        broker = self.run_dir / "broker.sock"

        def tell(command: str, **fields: object) -> None:
            ask(broker, {"cmd": command, "author": "tlspool dev", **fields})

        for identity, (uri, path) in certificates.items():
            der = base64.b64encode(_der(path)).decode()
            flags = ["x509", "client", "server"]
            tell("localid.set", id=identity, flags=flags, records=[{"uri": uri, "chain": [der]}])
        for selector, identities in DISCLOSED.items():
            tell("disclose.set", selector=selector, ids=identities)
        root = base64.b64encode(_der(self.directory / "ca.pem")).decode()
        tell("trust.set", flags=["x509", "client", "server"], valexp="1", data=root)

    # --- down -----------------------------------------------------------------------------------------

    def down(self) -> bool:
        """Stop the pool and remove what ``up`` made; return False when there was none.

        Raises:
            PoolError: SETTING_INVALID, the directory is not ours alone.
        """
        if not self._state_path.exists():
            return False
        self._check_ours()
        with self._locked():
            self._stop()
            for name in _MADE:
                path = self.directory / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            self._state_path.unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()
        return True

    def _stop(self) -> None:
        workers: list[tuple[int, int]] = []
        with suppress(PoolError, OSError):
            answer = ask(self.run_dir / "worker.sock", {"cmd": "status"})
            listed = answer.get("workers")
            for worker in listed if isinstance(listed, list) else []:
                workers.append((worker["pid"], _start_ticks(worker["pid"])))
        daemons = [(record["pid"], record["ticks"]) for record in self._state().values()]
        # Workers outlive their master to finish sessions; here they are to end with it.
        for pid, ticks in [*reversed(daemons), *workers]:
            _terminate(pid, ticks)


def _terminate(pid: int, ticks: int) -> None:
    """End exactly this process: politely, then not."""
    try:
        pid_fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if not ticks or _start_ticks(pid) != ticks:
            return
        for number, wait_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
            signal.pidfd_send_signal(pid_fd, number)
            if await_ready([pid_fd], wait_s):
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                return
    except ProcessLookupError:
        return
    finally:
        os.close(pid_fd)


def _der(path: Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
