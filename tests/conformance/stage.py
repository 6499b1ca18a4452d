"""Where a case is played: applications on the real socket of a real pool, remotes with a TLS library of their own."""

from __future__ import annotations

import array
import json
import os
import re
import select
import socket
import ssl
import time

from tests.conformance import script
from tests.conformance.layout import COMMANDS, ERRORS, FRAME_B, FREE, Value, build, describe, field, size_of
from tests.conformance.script import Act, Frame
from tests.conformance.wires import WAIT_S, Identities, Wire
from tlspool_admin.client import ask
from tlspool_admin.devpool import DevPool

_FACT = re.compile(r"@(pin$|subject:|issuer:|san:|end-point:|tls-unique:)")
BARRIER = 64999
"""The request id of the PING that shows that nothing else has come."""


class App:
    """A connection to the application socket."""

    def __init__(self, pool: DevPool) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(str(pool.socket))
        self.held = b""
        self.open = True
        self.service = False

    def send(self, data: bytes, fds: list[int]) -> None:
        """Send bytes in one call, with descriptors."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self.sock.sendmsg([data], rights) == len(data)

    def receive(self) -> bytes:
        """Return one frame, which must come in one piece, and without a descriptor."""
        data, control, flags, _ = self.sock.recvmsg(FRAME_B, 1024)
        assert (control, flags) == ([], 0), "a descriptor came"
        return data


class Stage:
    """One case: the names it has used so far, and what they stand for."""

    def __init__(self, pool: DevPool, identities: Identities) -> None:
        self._pool = pool
        self._identities = identities
        self._apps: dict[str, App] = {}
        self._wires: dict[str, Wire] = {}
        self._values: dict[str, int | bytes] = {}
        self._frames: dict[str, bytes] = {}
        self._log = pool.directory / "log" / "broker.log"
        self._log_start = self._log.stat().st_size

    def play(self, text: str) -> None:
        """Play a script; a failure names the line."""
        for line, step in script.parse(text):
            try:
                if isinstance(step, Frame):
                    self._send(step) if step.sent else self._expect(step)
                else:
                    self._act(step)
            except (AssertionError, OSError, KeyError, TypeError, ValueError) as error:
                raise AssertionError(f"at: {line}\n{type(error).__name__}: {error}\n{self._tail()}") from None

    def _tail(self) -> str:
        with self._log.open(errors="replace") as log:
            log.seek(self._log_start)
            lines = [line for line in log.read().splitlines() if "border.message" not in line]
        return "the broker's log:\n" + "\n".join(lines[-8:])

    def wire(self, name: str) -> Wire:
        """Return a socket of the case."""
        return self._wires[name]

    # --- frames ---------------------------------------------------------------------------------------

    def _app(self, name: str) -> App:
        if name not in self._apps:
            self._apps[name] = App(self._pool)
        return self._apps[name]

    def _send(self, step: Frame) -> None:
        fields = dict(step.fields)
        name, like, part = fields.pop("as", ""), fields.pop("like", ""), fields.pop("bytes", "")
        cmd = step.cmd if step.cmd in COMMANDS else int(step.cmd, 16)
        values: dict[str, Value] = {key: self._value(step.cmd, key, text) for key, text in fields.items()}
        reqid, cbid = self._number(step.reqid), self._number(step.cbid)
        frame, _ = build(cmd, reqid, cbid, values, self._frames.get(like, b""))
        if name:
            self._frames[name] = frame
        if part:
            start, _, end = part.partition(":")
            frame = frame[int(start or 0) : int(end or FRAME_B)]
        app = self._app(step.actor)
        if step.held:
            assert not step.fds
            app.held += frame
            return
        data, app.held = app.held + frame, b""
        app.send(data, [self._descriptor(word) for word in step.fds])
        for word in step.fds:
            self._let_go(word)

    def _descriptor(self, word: str) -> int:
        name, _, end = word.strip("+").partition(".")
        if name in self._apps:
            return self._apps[name].sock.fileno()
        wire = self._wires[name]
        return (wire.ours if end == "far" else wire.theirs).fileno()

    def _let_go(self, word: str) -> None:
        """Close our copy of what was passed, unless the case wants to keep it: [s+]."""
        name, _, end = word.partition(".")
        if word.endswith("+") or name in self._apps:
            return
        wire = self._wires[name]
        wire.far_passed() if end == "far" else wire.passed()

    def _expect(self, step: Frame) -> None:
        received = self._app(step.actor).receive()
        assert len(received) == FRAME_B, f"{len(received)} bytes came instead of a frame"
        if step.cmd == "SAME":
            sent = self._frames[step.fields["like"]]
            expected = sent[:2] + b"\0\0" + sent[4:]
            assert received == expected, f"expected:\n{describe(expected)}\nreceived:\n{describe(received)}"
            return
        fields = dict(step.fields)
        name, like = fields.pop("as", ""), fields.pop("like", "")
        wanted_code, errno = fields.pop("code", ""), fields.pop("errno", "")
        cbid = self._cbid(step.cbid, received)
        kept: dict[str, str] = {}
        values: dict[str, Value] = {}
        for key, text in fields.items():
            values[key] = self._expected(step.cmd, key, text, received, kept)
        if step.cmd == "ERROR":
            values |= {"tlserrno": ERRORS[errno], "message": self._text(received, wanted_code)}
        frame, mask = build(step.cmd, self._number(step.reqid), cbid, values, self._frames.get(like, b""))
        same = all(one == other or not bit for one, other, bit in zip(frame, received, mask, strict=True))
        assert same, f"expected:\n{describe(frame, mask)}\nreceived:\n{describe(received)}{_words(received)}"
        for variable, key in kept.items():
            self._values[variable] = field(step.cmd, received, key)
        if name:
            self._frames[name] = received

    def _cbid(self, text: str, received: bytes) -> int:
        """Return the callback id to be expected; a new name takes the one that came, which must not be zero."""
        if text.startswith("$") and text[1:] not in self._values:
            came = int.from_bytes(received[2:4], "little")
            assert came != 0, f"a callback without an id:\n{describe(received)}{_words(received)}"
            self._values[text[1:]] = came
        return self._number(text)

    @staticmethod
    def _text(received: bytes, code: str) -> bytes:
        """Return the text of an ERROR as it came, if it is as it must be: a code, and NUL within the field."""
        text = received[12:140]
        found = re.match(rb"\[(\d{3})\] [ -~]", text)
        assert found and b"\0" in text, f"not the text of an error: {text!r}"
        assert not code or found.group(1).decode() == code, text.rstrip(b"\0").decode(errors="replace")
        return text

    # --- values ---------------------------------------------------------------------------------------

    def _number(self, text: str) -> int:
        if text.startswith("@len:"):
            return len(self._fact(text[5:]))
        value = self._values[text[1:]] if text.startswith("$") else script.number(text)
        assert isinstance(value, int), text
        return value

    def _value(self, cmd: str, key: str, text: str) -> int | str | bytes:
        """Return a value that is sent."""
        kind = COMMANDS[cmd][1][key][1] if cmd in COMMANDS and key != "payload" else "x380"
        if kind[0] not in "sx":
            return self._number(text)
        parts = [self._part(part) for part in re.split(r"\+(?=[$@:]|hex:|')|(?<=')\+", text)]
        return b"".join(parts)

    def _part(self, text: str) -> bytes:
        if text.startswith("hex:"):
            body, _, times = text[4:].partition("*")
            return bytes.fromhex(body) * int(times or 1)
        if _FACT.match(text):
            return self._fact(text[1:])
        if text.startswith("$"):
            name = text[1:]
            if name.startswith("k") and name not in self._values:
                self._values[name] = os.urandom(16)
            value = self._values[name]
            assert isinstance(value, bytes), name
            return value
        return text.removeprefix(":").strip("'").encode()

    def _fact(self, name: str) -> bytes:
        what, _, whose = name.partition(":")
        if what == "tls-unique":
            wire = self._wires[whose]
            wire.wait()
            assert wire.tls is not None
            found = wire.tls.get_channel_binding("tls-unique")
            assert found
            return found
        if what == "pin":
            return (self._pool.directory / "pin").read_bytes().strip()
        return self._identities.fact(name)

    def _expected(self, cmd: str, key: str, text: str, received: bytes, kept: dict[str, str]) -> Value:
        """Return what a received field must be."""
        if text == "*":
            return FREE
        name, _, size = text.removeprefix("$").partition(":")
        kind = COMMANDS[cmd][1][key][1]
        if text.startswith("$") and "+" not in text and name not in self._values:
            came = field(cmd, received, key)
            kept[name] = key
            if not size:
                return came
            assert isinstance(came, bytes)
            return came[: int(size)]
        if text.startswith("$") and "+" not in text:
            value = self._values[name]
            return value[: size_of(kind)] if isinstance(value, bytes) else value
        return self._value(cmd, key, text)

    # --- everything else ------------------------------------------------------------------------------

    def _act(self, step: Act) -> None:
        if step.verb in ("socket", "plain"):
            self._wires[step.words[0]] = Wire(self._pool.directory / "ca.pem", *step.words[1:])
        elif step.verb in ("pool", "keyd"):
            self._await_status(step.words[0], step.words[1], "broker" if step.verb == "pool" else "keyd")
        elif step.verb == "soon":
            moment = self._number(step.words[0])
            assert 0 <= time.time() + int(step.words[1]) - moment < WAIT_S, moment
        elif step.verb in ("same", "differ"):
            one, other = (self._values[word.removeprefix("$")] for word in step.words)
            assert (one == other) == (step.verb == "same"), (one, other)
        elif "." in step.verb:
            self._operate(step)
        elif step.actor in self._wires:
            self._wire_act(self._wires[step.actor], step)
        else:
            self._app_act(self._app(step.actor), step)

    def _operate(self, step: Act) -> None:
        fields = {name: json.loads(text) if text[0] in "[{" else text for name, text in step.options.items()}
        ask(self._pool.run_dir / "broker.sock", {"cmd": step.verb, **fields})

    def _await_status(self, path: str, wanted: str, daemon: str = "broker") -> None:
        deadline = time.monotonic() + WAIT_S
        while True:
            found: object = ask(self._pool.run_dir / f"{daemon}.sock", {"cmd": "status"})
            for name in path.split("."):
                assert isinstance(found, dict)
                found = found[name]
            if str(found) == wanted:
                return
            assert time.monotonic() < deadline, f"{name} is {found}"
            select.select([], [], [], 0.01)

    def _app_act(self, app: App, step: Act) -> None:
        match step.verb:
            case "close":
                app.open = False
                app.sock.close()
            case "shut":
                app.sock.shutdown(socket.SHUT_WR)
            case "quiet":
                self._quiet(app)
            case "service":
                app.service = True
            case "hears" if step.words == ("end",):
                assert app.receive() == b"", "more came"
                app.open = False
            case _:
                raise AssertionError(f"no such step: {step}")

    @staticmethod
    def _quiet(app: App) -> None:
        """Nothing has come: the next frame is the answer to this."""
        ping, _ = build("PING", BARRIER, 0, {})
        app.send(app.held + ping, [])
        app.held = b""
        received = app.receive()
        assert received[:8] == ping[:8], f"this had come:\n{describe(received)}{_words(received)}"

    def _wire_act(self, wire: Wire, step: Act) -> None:
        match step.verb, step.words:
            case "tls", (role,):
                identity = step.options.get("cert", "")
                pem = self._identities.remote(identity)[1] if identity else None
                wire.begin(role, pem, step.options.get("sni", ""), step.options.get("version", ""))
            case "done", ():
                wire.wait()
                assert wire.error is None, wire.error
            case "fails", ():
                wire.wait()
                assert wire.error is not None or self._alerted(wire), "the handshake succeeded"
            case "says", words:
                wire.say(" ".join(words).encode())
            case "hears", ("end",):
                assert (found := wire.hear(1)) == b"", found
            case "hears", ("rest",):
                wire.hear(1 << 20)
            case "hears", ("alert",):
                assert self._alerted(wire), "no alert"
            case "asked-for", words:
                wire.wait()
                assert wire.asked_for == " ".join(words), wire.asked_for
            case (("met" | "showed"), (identity,)):
                wire.wait()
                assert (found := wire.met()) == identity, found
            case "reads", ():
                wire.begin_to_read()
            case "has", words:
                wanted = " ".join(words).encode()
                assert (found := wire.has_read(len(wanted))) == wanted, found
            case "notify", ():
                wire.notify()
            case "unwrap", ():
                wire.unwrap()
            case "hears", words:
                wanted = " ".join(words).encode()
                assert (found := wire.hear(len(wanted))) == wanted, found
            case "shut", ():
                wire.ours.shutdown(socket.SHUT_WR)
            case "close", ():
                wire.close()
            case _:
                raise AssertionError(f"no such step: {step}")

    @staticmethod
    def _alerted(wire: Wire) -> bool:
        """Whether the pool refused after our end of the handshake was over, as in TLS 1.3 a server must."""
        wire.wait()
        try:
            wire.hear(1)
        except (ssl.SSLError, OSError):
            return True
        return False

    # --- the end --------------------------------------------------------------------------------------

    def end(self) -> None:
        """See that nothing was said too much, let all go, and see that the pool is as it was."""
        try:
            for app in self._apps.values():
                if app.open and app.sock.fileno() >= 0 and not app.service:
                    self._quiet(app)
                elif app.service and app.sock.fileno() >= 0:
                    assert not select.select([app.sock], [], [], 0)[0], "more came"
        finally:
            self.close()
        self._await_status("sessions", "0")
        self._await_status("connections", "0")
        assert len(self._pool.running()) == 3
        with self._log.open(errors="replace") as log:
            log.seek(self._log_start)
            for line in log:
                assert not re.search(r"internal|border\.broken|Traceback|worker\.condemned|^(?!DEBUG).*\.lost", line), (
                    line
                )

    def close(self) -> None:
        """Close everything that the case opened."""
        for app in self._apps.values():
            app.sock.close()
        for wire in self._wires.values():
            wire.close()


def _words(received: bytes) -> str:
    """Return the text of an ERROR, for people."""
    if received[4:8] != b"\1\0\0\0":
        return ""
    return "\n  " + received[12:140].split(b"\0")[0].decode(errors="replace")
