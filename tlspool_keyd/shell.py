"""keyd's hands: sockets, token processes, timers, signals and the log.  What for, core.py decides.

One thread on asyncio's loop.  All that is done here is done at once: sends queue up to a bound, a token is in
another process, and nothing waits for the broker, a worker or a token.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, assert_never

from tlspool_common import control, limits, sandbox, sandbox_profiles, systemd
from tlspool_common.auditor import Auditor
from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed, Received, from_fd
from tlspool_common.dial import dial_broker
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd, open_fds
from tlspool_common.line import Line
from tlspool_common.log import Log
from tlspool_common.messages import (
    PROTOCOL,
    KeyChannel,
    KeyQuestion,
    Party,
    PinService,
    SignHandshake,
    TokenFound,
    TokenListed,
    TokenOpen,
    TokenOpened,
    TokenSigned,
)
from tlspool_common.metrics import Metrics
from tlspool_common.reloading import Reloading
from tlspool_common.settings import Settings
from tlspool_common.title import Title
from tlspool_keyd import events as e
from tlspool_keyd import locks
from tlspool_keyd.children import Children
from tlspool_keyd.core import KeydCore
from tlspool_keyd.pin import Origin, PinSource, Wallet
from tlspool_keyd.readings import readings
from tlspool_keyd.services import Services

EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an exception nobody expected; a trace is on standard error."""

_AUTHOR = 100
"""Characters of the name that an operator gives, in the log; nobody but its reader believes it."""

_STOP_S = 2.0
"""For token processes to log out; each is killed before that if it hangs."""


def _now_ms() -> float:
    """Return the time grants are stamped with (tlspool_common.grants.now_ms), with its fraction."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) / 1_000_000


class Sockets(NamedTuple):
    """Listening sockets that systemd has passed, in place of our own."""

    control: socket.socket | None = None
    pin: socket.socket | None = None


class Shell:
    """The process.  Make it on a running loop."""

    def __init__(
        self,
        settings: Settings,
        pin: PinSource,
        log: Log,
        grant_secret: bytes,
        reloading: Reloading | None = None,
        passed: Sockets | None = None,
        metrics: Metrics | None = None,
        auditor: Auditor | None = None,
    ) -> None:
        self._passed = passed or Sockets()
        self._settings = settings
        self._metrics = metrics or Metrics("K")
        self._auditor = auditor or Auditor(settings, "keyd", log, time.time)  # noqa: TID251 - a record says when
        self._reloading = reloading
        self._pin = pin
        self._log = log
        self._loop = asyncio.get_running_loop()
        asks_for_pins = pin.origin is Origin.NONE
        self._core = KeydCore(settings, grant_secret, os.getpid(), asks_for_pins=asks_for_pins, witness=self._auditor)
        self._wallet = Wallet()
        self._services = Services(self._happened)
        self._children = Children(
            self._token_said,
            lambda number, how: self._happened(e.TokenLost(number, how)),
            sandbox_profiles.token_words(settings),
        )
        self._broker: Line | None = None
        self._workers: dict[int, Line] = {}
        self._offered: dict[int, OwnedFd] = {}  # of the KeyChannel being handled
        self._answers: dict[int, Channel] = {}  # by ticket
        self._listings: dict[int, asyncio.Future[control.Answer]] = {}
        self._last_ticket = 0
        self._queue: deque[e.Event] = deque()
        self._handling = False
        self._title = Title("tlspool-keyd", lambda: self._core.title)
        self._stop = asyncio.Event()
        self._ending = False
        self._exit_code = 0

    async def run(self) -> int:
        """Serve until told to stop; return the exit code.

        Raises:
            PoolError: SETTING_INVALID, the control socket cannot be had.
        """
        path = self._settings.run_dir / "keyd.sock"
        server = await control.serve(path, self._answer, passed=self._passed.control)
        self._services.listen(self._settings.pin_socket, self._passed.pin)
        systemd.Heart().beat_on(self._loop)
        self._loop.set_exception_handler(self._bug)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._look_again)
        keeping = self._loop.create_task(self._auditor.keep())
        try:
            self._carry_out(self._core.begin(_now_ms()))
            self._title.changed()
            await self._stop.wait()
            systemd.notify("STOPPING=1")
        finally:
            server.close()
            for made, passed in ((path, self._passed.control), (self._settings.pin_socket, self._passed.pin)):
                if passed is None:
                    made.unlink(missing_ok=True)
            keeping.cancel()
            await self._end()
        return self._exit_code

    async def _end(self) -> None:
        self._ending = True  # nothing is started for what is ended now
        self._carry_out(self._core.stop())
        self._title.close()
        self._services.close()
        self._wallet.close()
        for line in (self._broker, *self._workers.values()):
            if line is not None:
                line.close()
        for channel in self._answers.values():
            channel.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._children.end_all(), _STOP_S)
        self._log.info("keyd.stopped")
        self._auditor.close()

    def _bug(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody expected came out of a call of the loop: nothing can be relied on any more."""
        if (short := control.paused(context)) is not None:
            self._log.error("listener.paused", detail=short.strerror or str(short))
            return
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if error else context.get("message", "")
        sys.stderr.write(trace)
        self._log.error("internal", code=int(Code.INTERNAL), detail=type(error).__name__)
        self._exit_code = EXIT_BUG
        self._stop.set()

    # --- events and effects -----------------------------------------------------------------------------

    def _happened(self, event: e.Event) -> None:
        self._queue.append(event)
        if self._handling or self._ending:
            return
        self._handling = True
        try:
            while self._queue:
                self._carry_out(self._core.handle(self._queue.popleft(), _now_ms()))
        finally:
            self._handling = False
        self._title.changed()

    def _carry_out(self, effects: list[e.Effect]) -> None:
        for effect in effects:
            match effect:
                case e.Note(level, event, fields):
                    self._log.note(level, event, **fields)
                case e.AnswerWorker(ticket, message, exchange):
                    if channel := self._answers.pop(ticket, None):
                        with suppress(ChannelClosed):  # the worker does not wait any more
                            channel.send(message, exchange=exchange)
                        channel.close()
                case e.SendToken(generation, request, exchange):
                    self._children.send(generation, request, exchange)
                case e.StartToken():
                    self._start_token(effect)
                case e.KillToken(generation):
                    self._children.end(generation)
                case e.Arm(timer, delay_ms):
                    self._loop.call_later(delay_ms / 1000, self._happened, e.TimerFired(timer))
                case e.ConnectBroker():
                    self._connect()
                case e.SendBroker(answer, exchange):
                    if self._broker is not None:
                        self._broker.send(answer, exchange)
                case e.AdoptWorker(worker_id):
                    self._adopt(worker_id)
                case e.LookAtPin():
                    self._look_at_pin()
                case e.AnswerKey(ticket, code, detail, spki):
                    self._listings.pop(ticket).set_result(_key_answer(code, detail, spki))
                case e.AnswerKeys(ticket, keys, troubles):
                    self._listings.pop(ticket).set_result({"keys": list(keys), "troubles": list(troubles)})
                case e.SendService(service, frame):
                    self._services.send(service, frame)
                case e.CloseService(service):
                    self._services.drop(service)
                case e.KeepPin(_, module, token_uri):
                    self._wallet.keep(module, token_uri, self._services.take_pin())
                case e.ForgetPin(module, token_uri):
                    self._wallet.forget(module, token_uri)
                case e.SayReady():
                    systemd.notify("READY=1")
                case _:
                    assert_never(effect)

    # --- the broker -------------------------------------------------------------------------------------

    def _connect(self) -> None:
        try:
            channel = dial_broker(self._settings, Party.KEYD)
        except ChannelClosed as error:
            self._happened(e.BrokerLost(str(error)))
            return
        self._broker = Line(channel, self._broker_said, self._broker_lost)
        self._happened(e.BrokerConnected())

    def _broker_lost(self, error: ChannelClosed) -> None:
        self._broker = None
        self._happened(e.BrokerLost(str(error)))

    def _broker_said(self, received: Received) -> None:
        message = received.message
        if isinstance(message, KeyChannel):
            self._offered[message.worker_id] = received.take_fd()
        if isinstance(message, (KeyChannel, KeyQuestion)):
            self._happened(e.BrokerSaid(message, received.exchange))
        if isinstance(message, PinService):
            try:
                self._services.adopt_untrusted(received.take_fd(), message)
            except (PoolError, OSError) as error:
                self._log.error("pin.service_broken", detail=str(error))

    # --- workers ----------------------------------------------------------------------------------------

    def _adopt(self, worker_id: int) -> None:
        if older := self._workers.pop(worker_id, None):
            older.close()
        try:
            channel = from_fd(self._offered.pop(worker_id), Party.KEYD, Party.WORKER)
        except ChannelBroken as error:
            self._happened(e.WorkerLost(worker_id, str(error), broken=True))
            return
        self._workers[worker_id] = Line(
            channel,
            lambda received: self._worker_said(worker_id, received),
            lambda error: self._worker_lost(worker_id, str(error), broken=isinstance(error, ChannelBroken)),
        )

    def _worker_said(self, worker_id: int, received: Received) -> None:
        """Take a request of a worker.  Whatever it is, it costs at most this worker its channel."""
        message = received.message
        try:
            if isinstance(message, SignHandshake):
                self._last_ticket += 1
                self._answers[self._last_ticket] = from_fd(received.take_fd(), Party.KEYD, Party.WORKER)
                self._happened(e.WorkerAsked(worker_id, message, received.exchange, self._last_ticket))
        except ChannelBroken as error:
            self._drop_worker(worker_id, str(error))
        except Exception:  # a bug that a worker found must not let it stop us for all others
            sys.stderr.write(traceback.format_exc())
            self._log.error("internal", code=int(Code.INTERNAL), worker=worker_id)
            if channel := self._answers.pop(self._last_ticket, None):
                channel.close()
            self._drop_worker(worker_id, "its request met a bug")

    def _drop_worker(self, worker_id: int, reason: str) -> None:
        self._workers[worker_id].close()
        self._worker_lost(worker_id, reason, broken=True)

    def _worker_lost(self, worker_id: int, reason: str, broken: bool) -> None:
        del self._workers[worker_id]
        self._happened(e.WorkerLost(worker_id, reason, broken))

    # --- token processes and the PIN --------------------------------------------------------------------

    def _start_token(self, effect: e.StartToken) -> None:
        opening = TokenOpen(
            module=effect.module,
            token_uri=effect.token_uri,
            pin_secret=self._pin.pin_secret,
            pin_refused_by=effect.pin_refused_by,
            typed_pin_tokens=effect.typed,
            typed_pin_secrets=tuple(self._wallet.get(effect.module, uri) for uri in effect.typed),
            sessions=self._settings.pkcs11_sessions,
        )
        self._children.start(effect.generation, opening)

    def _token_said(self, generation: int, received: Received) -> None:
        message = received.message
        if isinstance(message, (TokenOpened, TokenSigned, TokenFound, TokenListed)):
            self._happened(e.TokenSaid(generation, message, received.exchange))

    def _look_again(self) -> None:
        """SIGHUP: the same as the command ``reload``."""
        if self._reloading is not None:
            self._reloading.on_signal()
        self._look_at_pins()

    def _look_at_pins(self) -> None:
        self._look_at_pin()
        self._happened(e.PinForgiven())

    def _look_at_pin(self) -> None:
        try:
            changed = self._pin.look()
        except PoolError as error:
            self._log.error("pin.refused", code=int(error.code), detail=str(error))
            return
        if changed:
            self._happened(e.PinChanged())

    # --- operators --------------------------------------------------------------------------------------

    async def _ask_core(self, event: Callable[[int], e.Event]) -> control.Answer:
        asked = event(self._last_ticket + 1)  # raises before anything is remembered
        self._last_ticket += 1
        answer: asyncio.Future[control.Answer] = self._loop.create_future()
        self._listings[self._last_ticket] = answer
        self._happened(asked)
        return await answer

    async def _answer(self, request: control.Request) -> control.Answer:
        match request["cmd"]:
            case "status":
                status = self._core.status(self._children.pids)
                more = {
                    "protocol": PROTOCOL,
                    "sandbox": sandbox.in_force(),
                    "pin": self._pin.origin.value,
                    "descriptors": len(open_fds()),
                }
                return {**status, **more, "audit": self._auditor.describe()}
            case "metrics":
                return {"text": self._metrics.text([*readings(self._core), *self._auditor.readings()])}
            case "keys":
                return await self._ask_core(e.KeysAsked)
            case "key":
                return await self._ask_core(lambda ticket: e.KeyAsked(ticket, _uri_untrusted(request)))
            case "tokens":
                return self._core.tokens()
            case "grants":
                return self._core.grants()
            case "queue":
                return self._core.queue(_now_ms())
            case "lock" | "unlock" as what:
                return self._lock(request, locked=what == "lock")
            case "pin.again":
                self._happened(e.PinForgiven())
                return {}
            case "config" if self._reloading is not None:
                return self._reloading.describe()
            case "reload" if self._reloading is not None:
                return self._reload(self._reloading)
            case other:
                known = "status, tokens, keys, key, grants, queue, lock, unlock, metrics, pin.again, config, reload"
                raise PoolError(Code.COMMAND_UNKNOWN, f"{other!r}; known: {known}")

    def _reload(self, reloading: Reloading) -> control.Answer:
        """As on SIGHUP: read the configuration, look for another PIN, and let people be asked for theirs again."""
        try:
            return reloading.reload()
        finally:
            self._look_at_pins()  # however wrong the configuration is, a PIN may be right now

    def _lock(self, request: control.Request, *, locked: bool) -> control.Answer:
        """Lock tokens, or unlock them; a person who finds that a key was stolen does not wait for anything."""
        uri = locks.asked_untrusted(request)
        self._core.check_lock(uri, locked=locked)
        peer = request.get(control.PEER_UID)
        uid, author = peer if isinstance(peer, int) else os.getuid(), str(request.get("author", ""))[:_AUTHOR]
        if uid in {self._settings.broker_uid} - {os.getuid()}:
            # It is in our group.  XXX So are workers, whose user we do not know; what stops these is their sandbox.
            raise PoolError(Code.ACCESS_DENIED, "locks are for operators, not for the user of the broker")
        self._happened(e.LockAsked(uri, locked, uid, author))
        return {"token": uri, **self._core.tokens()}


def _uri_untrusted(request: control.Request) -> str:
    """Return the URI that an operator asks about; what it says is for the core to judge.

    Raises:
        PoolError: FIELD_MALFORMED.
    """
    args = request.get("args")
    value = request.get("uri", args[0] if isinstance(args, list) and args else None)
    if not isinstance(value, str) or len(value.encode("utf-8", "replace")) > limits.KEY_URI_B:
        raise PoolError(Code.FIELD_MALFORMED, f"uri must be text of at most {limits.KEY_URI_B} bytes")
    return value


def _key_answer(code: Code, detail: str, spki: bytes) -> control.Answer:
    if code is not Code.OK:
        return {"ok": False, "code": int(code), "error": str(PoolError(code, detail))}
    return {"spki": base64.b64encode(spki).decode()}
