"""Applications that may do anything, against a whole pool: the moves, what is known after each, and the reckoning."""

from __future__ import annotations

import array
import contextlib
import os
import re
import select
import socket
import time
from collections import Counter
from pathlib import Path

from tests.conformance.layout import COMMANDS, FLAGS, FRAME_B, Value, build
from tests.conformance.wires import Identities
from tests.fuzz.accounts import Account, Callback
from tests.fuzz.remotes import Remote
from tlspool_admin.client import ask
from tlspool_admin.devpool import DevPool

WAIT_S = 20.0
KEYS = [bytes([number]) * 16 for number in range(1, 9)]
LOCALIDS = ("localhost", "localhost", "testcli@tlspool.arpa2.lab", "playground.arpa2.lab", "", "nobody.example", "a..b")
REMOTEIDS = ("", "testsrv@tlspool.arpa2.lab", "testcli@tlspool.arpa2.lab", "localhost", "@", "x@example.com")
FREE_FLAGS = (0, 0, 0, FLAGS["LOCALID_CHECK"], FLAGS["FORK"], FLAGS["DETACH"], FLAGS["REQUEST_REMOTEID"])
FREE_FLAGS += (FLAGS["IGNORE_REMOTEID"], FLAGS["RENEGOTIATE"], FLAGS["LOCALID_ONTHEFLY"], FLAGS["DTLS"], 0xFFF80000)
ROLES = (0x6, 0x6, 0x6, 0x9, 0x9, 0xF, 0x0, 0x2)


HEARD: Counter[str] = Counter()
"""What all applications have heard, by command or code: whether the moves get anywhere."""


_FINAL = bytes(2) + COMMANDS["STARTTLS"][0].to_bytes(4, "little")


def _what(frame: bytes) -> str:
    code = int.from_bytes(frame[4:8], "little")
    if code == COMMANDS["ERROR"][0]:
        found = re.match(rb"\[\d{3}\]", frame[12:])
        return found.group().decode() if found else "ERROR, bounced"
    return next((name for name, (number, _) in COMMANDS.items() if number == code), hex(code))


class App:
    """An application: a connection, and its account."""

    def __init__(self, pool: DevPool) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(pool.socket))
        self.sock.setblocking(False)
        self.account = Account()
        self.given_away = False  # to keyd, as a PIN service
        self.over = False
        self.keys: list[bytes] = []  # of sessions that have begun to relay for it

    def send(self, frame: bytes, fds: list[int]) -> None:
        """Send a message; nothing when the pool has hung up, or does not read."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([frame], rights)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return
        assert sent == len(frame)
        self.account.sent(frame)

    def pump(self) -> None:
        """Read what has come."""
        while not self.over:
            try:
                data, control, _, _ = self.sock.recvmsg(FRAME_B, 256)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data, control = b"", []
            assert not control, "a descriptor came"
            if not data:
                self.over = True
                return
            assert len(data) == FRAME_B, f"a frame in pieces: {len(data)} bytes"
            HEARD[_what(data)] += 1
            if data[2:8] == _FINAL:
                self.keys.append(data[276:292])
            if not self.given_away:
                self.account.received(data)

    def close(self) -> None:
        """Go away."""
        self.over = True
        self.sock.close()


class Play:
    """A pool that is shared by many plays, and the applications and remotes of this one."""

    def __init__(self, pool: DevPool, identities: Identities) -> None:
        self.pool = pool
        self.apps: list[App] = []
        self.remotes: list[Remote] = []
        self.plains: list[socket.socket] = []
        self._certificates: dict[str, Path] = {
            "client": identities.remote("testcli@tlspool.arpa2.lab")[1],
            "server": identities.remote("testsrv@tlspool.arpa2.lab")[1],
        }
        self._log = pool.directory / "log"
        self._read = {name: (self._log / f"{name}.log").stat().st_size for name in ("broker", "keyd", "worker")}
        self.pids = pool.running()
        self._half_closed: list[App] = []
        self._others = self.status()["sessions"]
        self.moves = 0

    # --- moves ----------------------------------------------------------------------------------------

    def connect(self) -> None:
        """One more application."""
        self.apps.append(App(self.pool))

    def app(self, number: int) -> App:
        """Return one of the applications that are there."""
        if not self.apps:
            self.connect()
        return self.apps[number % len(self.apps)]

    def leave(self, number: int, *, half: bool) -> None:
        """An application closes its connection, or one half of it."""
        app = self.app(number)
        if half:
            with contextlib.suppress(OSError):
                app.sock.shutdown(socket.SHUT_WR)
            app.given_away = True  # nothing is owed any more
        else:
            app.close()
        self.apps.remove(app)
        if half:
            self._half_closed.append(app)

    def _say(self, app: App, cmd: str | int, reqid: int, cbid: int, fields: dict[str, Value], fds: list[int]) -> None:
        frame, _ = build(cmd, reqid, cbid, fields)
        app.send(frame, fds)
        self.moves += 1

    def starttls(self, number: int, reqid: int, kind: str, choice: dict[str, int]) -> None:
        """STARTTLS, with a remote of some kind or another descriptor."""
        app = self.app(number)
        flags = ROLES[choice["role"] % len(ROLES)] | FREE_FLAGS[choice["flags"] % len(FREE_FLAGS)]
        well = choice["well"] % 4 != 0
        server = bool(flags & 0x2)
        if well:
            localid = "localhost" if server else "testcli@tlspool.arpa2.lab"
            remoteid = "" if server else "testsrv@tlspool.arpa2.lab"
            if flags & FLAGS["LOCALID_CHECK"]:
                localid = ""
            kind = kind if kind not in ("client", "server") else ("client" if server else "server")
        else:
            localid = LOCALIDS[choice["localid"] % len(LOCALIDS)]
            remoteid = REMOTEIDS[choice["remoteid"] % len(REMOTEIDS)]
        remote = self._remote(kind)
        fields: dict[str, Value] = {
            "flags": flags,
            "local": choice["localid"],
            "ipproto": 6,
            "localid": localid,
            "remoteid": remoteid,
            "ctlkey": KEYS[choice["key"] % len(KEYS)],
            "service": "fuzz",
            "timeout": (0, 300, 1000, 5000)[choice["timeout"] % 4],
        }
        fds = [remote.theirs.fileno()]
        if not well and choice["fds"] % 3 == 0:
            fds = []
        if not well and choice["fds"] % 3 == 1:
            fds += fds
        self._say(app, "STARTTLS", reqid, 0, fields, fds)
        remote.theirs.close()

    def session(self, number: int, reqid: int, choice: dict[str, int], *, finish: bool) -> None:
        """A session as it should be: begun, or brought to where it relays if nothing comes in between."""
        kind = "client" if choice["role"] % 5 < 3 else "server"
        app = self.app(number)
        self.starttls(number, reqid, kind, {**choice, "role": choice["role"] % 5, "well": 1, "timeout": 0})
        for _ in range(60 if finish else 0):
            if app.given_away or app.over or not (app.account.debts() or app.account.callbacks):
                return
            for callback in app.account.open_callbacks():
                self._answer(app, callback, "well", reqid)
            self._wait()

    def _remote(self, kind: str) -> Remote:
        certificate = self._certificates["server" if kind == "server" else "client"]
        remote = Remote(kind, certificate, self.pool.directory / "ca.pem")
        self.remotes.append(remote)
        return remote

    def ask(self, number: int, reqid: int, cmd: str, key: int, variant: int) -> None:
        """A request about a session, or PING, well-formed or nearly."""
        ctlkey = KEYS[key % len(KEYS)]
        relaying = [(number, one) for number, app in enumerate(self.apps) for one in app.keys]
        if relaying and key % 4:
            owner, ctlkey = relaying[key % len(relaying)]
            number = owner if variant % 8 else number
        fields: dict[str, Value] = {}
        match cmd:
            case "PING":
                fields = {"producer": "fuzz", "facilities": variant}
            case "CONTROL_DETACH" | "CONTROL_REATTACH":
                fields = {"ctlkey": ctlkey, "flags": variant}
            case "PRNG":
                label = (b"EXPERIMENTAL-fuzz", b"TLS_MK_Extr", b"EXPERIMENTAL", b"key expansion")[variant % 4]
                lengths = (len(label), 0, -1, 334, 32767)[variant % 5]
                fields = {"in1_len": lengths, "in2_len": (-1, 0, 3, -2)[variant % 4], "buffer": ctlkey + label}
                fields["prng_len"] = (16, 350, 0, -1, 351)[variant % 5]
            case "INFO":
                kinds = (0x52800000, 0x52800001, 0x52800002, 0x52800100, 0x52800102, 0x59290000, 0x59290001, 7)
                size = (0xFFFF, 0xFFFF, 0, 5, 333, 334, 335)[variant % 7]
                fields = {"ctlkey": ctlkey, "info_kind": kinds[variant % 8], "len": size}
        self._say(self.app(number), cmd, reqid, 0, fields, [])

    def garbage(self, number: int, reqid: int, cmd: int, cbid: int, payload: bytes, *, fd: bool) -> None:
        """Any command with any payload, perhaps with a descriptor."""
        app = self.app(number)
        if cmd == COMMANDS["PINENTRY"][0] and cbid not in app.account.callbacks:
            return  # a connection that is given away has an account elsewhere: ``serve``
        ours, theirs = socket.socketpair()
        self._say(app, cmd, reqid, cbid, {"payload": payload}, [theirs.fileno()] if fd else [])
        ours.close()
        theirs.close()

    def serve(self, number: int, reqid: int, what: str, timeout: int) -> None:
        """Register as a service."""
        app = self.app(number)
        if what == "PINENTRY":
            app.given_away = True
            self._say(app, what, reqid, 0, {"timeout_us": timeout % 3 * 1_000_000}, [])
        else:
            flags = (0x100, 0x80, 0x86, 0)[timeout % 4]
            self._say(app, "LIDENTRY_REGISTER", reqid, 0, {"flags": flags, "timeout": timeout % 3}, [])

    def callbacks(self) -> list[tuple[App, Callback]]:
        """Return all callbacks that are open."""
        return [(app, callback) for app in self.apps for callback in app.account.open_callbacks()]

    def answer(self, which: int, manner: str, reqid: int) -> None:
        """Answer an open callback, well or not."""
        found = self.callbacks()
        if not found:
            return
        self._answer(*found[which % len(found)], manner, reqid)

    def _answer(self, app: App, callback: Callback, manner: str, reqid: int) -> None:
        own = callback.reqid if callback.reqid is not None else reqid
        ours, theirs = socket.socketpair()
        null_fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        like, fds = callback.frame, [theirs.fileno()]
        if callback.cmd in (COMMANDS["LIDENTRY_CALLBACK"][0], COMMANDS["PINENTRY"][0]):
            fds = []
        if manner == "without":
            fds = []
        elif manner == "unfit":
            fds = [null_fd]
        cmd = {"error": "ERROR", "ping": "PING", "other": "STARTTLS_LOCALID"}.get(manner)
        cmd = cmd or next(name for name, (code, _) in COMMANDS.items() if code == callback.cmd)
        number = reqid if manner == "elsewhere" else own
        names = {"change": {"localid": "playground.arpa2.lab"}, "refuse": {"localid": ""}}
        fields: dict[str, Value] = {}
        if "localid" in COMMANDS[cmd][1]:
            fields = dict(names.get(manner, {}))
            fds = [] if fields else fds
        frame, _ = build(cmd, number, callback.cbid, fields, like)
        if manner == "noise":
            frame = frame[:8] + os.urandom(FRAME_B - 8)
        app.send(frame, fds)
        theirs.close()
        os.close(null_fd)
        ours.setblocking(False)
        self.plains.append(ours)
        while len(self.plains) > 60:
            self.plains.pop(0).close()
        self.moves += 1

    def late(self, number: int, cbid: int, reqid: int) -> None:
        """Answer a callback that is not open, perhaps one that was."""
        app = self.app(number)
        if cbid not in app.account.callbacks:
            self._say(app, "PLAINTEXT_CONNECT", reqid, cbid, {"localid": "localhost"}, [])

    def data(self, which: int, size_b: int, verb: str) -> None:
        """Something happens at a remote, or at a plaintext end."""
        if which % 2 and self.remotes:
            remote = self.remotes[which % len(self.remotes)]
            {"say": lambda: remote.say(b"x" * size_b), "end": remote.notify, "close": remote.close}[verb]()
        elif self.plains:
            plain = self.plains[which % len(self.plains)]
            with contextlib.suppress(OSError):
                if verb == "say":
                    plain.send(b"x" * size_b)
                elif verb == "end":
                    plain.shutdown(socket.SHUT_WR)
                else:
                    plain.close()

    # --- what comes of it -----------------------------------------------------------------------------

    def pump(self) -> None:
        """Let everybody read what has come; the accounts are checked by that."""
        for app in self.apps + self._half_closed:
            app.pump()
            assert app in self._half_closed or app.given_away or not app.over, "the pool has hung up"
        for remote in self.remotes:
            remote.pump()
        for plain in self.plains:
            with contextlib.suppress(OSError):
                plain.recv(1 << 16)

    def until(self, condition, what) -> None:
        """Pump until something is so, within a bound."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, what()
            self._wait()

    def catch_up(self) -> None:
        """Wait a little for what is owed: a callback or a reply, or that a remote has something to do."""
        if any(app.account.debts() for app in self.apps):
            for _ in range(4):
                self._wait()

    def _wait(self) -> None:
        ends = [app.sock for app in self.apps if not app.over]
        ends += [remote.ours for remote in self.remotes if remote.alive]
        select.select(ends, [], [], 0.02)
        self.pump()

    def status(self) -> dict:
        """Return what the broker says of itself."""
        return ask(self.pool.run_dir / "broker.sock", {"cmd": "status"})

    def settle(self) -> None:
        """Everybody else goes away and all callbacks are answered: then nothing may be owed."""
        for remote in self.remotes:
            remote.close()
        for app in [one for one in self.apps if one.given_away]:
            app.close()
            self.apps.remove(app)

        def quiet() -> bool:
            for app, callback in self.callbacks():
                number = callback.reqid if callback.reqid is not None else 60_000 + callback.cbid % 1000
                frame, _ = build("ERROR", number, callback.cbid, {"tlserrno": 5}, callback.frame)
                app.send(frame, [])
            return not any(app.account.debts() for app in self.apps)

        self.until(quiet, self._debts)

    def _debts(self) -> str:
        lines = [f"request {reqid}: {app.account.said}" for app in self.apps for reqid in app.account.debts()]
        return "\n".join(["these never got a reply:", *lines, str(self.status()["states"]), self.tail()])

    def end(self) -> None:
        """All go; the pool must be as it was."""
        for app in self.apps + self._half_closed:
            app.close()
        for plain in self.plains:
            plain.close()
        for remote in self.remotes:
            remote.close_all()
        self.apps, self.plains, self.remotes = [], [], []
        self._half_closed.clear()

        def empty() -> bool:
            status = self.status()
            return (status["sessions"], status["connections"]) == (self._others, 0)

        self.until(empty, lambda: f"stuck: {self.status()}\n{self.tail()}")
        self.check_daemons()

    def check_daemons(self) -> None:
        """They run, and none had a bug or believed that another one had."""
        assert self.pool.running() == self.pids
        for name, start in self._read.items():
            with (self._log / f"{name}.log").open(errors="replace") as log:
                log.seek(start)
                for line in log:
                    # a worker that has done its work goes with a line for debugging
                    assert not re.search(r"internal|Traceback|border\.broken|condemned|\bbug\b", line), line
                    assert not re.search(r"^(?!DEBUG).*\.lost", line), line
                self._read[name] = log.tell()

    def tail(self) -> str:
        """Return the end of the broker's log."""
        text = (self._log / "broker.log").read_text(errors="replace")
        return "\n".join([line for line in text.splitlines() if "border.message" not in line][-15:])


def await_fds(pool: DevPool, wanted: dict[str, int] | None = None) -> dict[str, int]:
    """Return how many descriptors each process of a pool has, when that has come to rest, or is as wanted."""
    deadline = time.monotonic() + WAIT_S
    before: dict[str, int] | None = None
    while (found := _daemon_fds(pool)) != (wanted or before):
        before = found
        if time.monotonic() > deadline:
            break
        select.select([], [], [], 0.2)
    return found


def _daemon_fds(pool: DevPool) -> dict[str, int]:
    workers = ask(pool.run_dir / "worker.sock", {"cmd": "status"})["workers"]
    pids = {**pool.running(), **{f"worker-{one['worker']}": one["pid"] for one in workers}}
    least: dict[str, int] = {}
    for _ in range(5):  # a daemon that has just answered may not have closed that connection yet
        for name, pid in pids.items():
            count = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            least[name] = min(count, least.get(name, count))
        select.select([], [], [], 0.04)
    return least
