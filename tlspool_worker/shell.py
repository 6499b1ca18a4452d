"""Do what the core wants, and tell it what happened: sockets, OpenSSL, threads and the loop.

One thread does everything but handshake steps that may take long.  In each turn of the loop: wait for
descriptors, handle them, do the steps that are quick, look at what needs looking at every second.

    descriptor                    handler
    channel to the broker         _channel_ready        messages -> core
    eventfd of the threads        _steps_ready          steps that are done -> core
    signal pipe                   _signals_ready        SIGTERM, SIGHUP -> core
    socket in a handshake         _Cipher.ready         bytes -> core, one batch for each Listen
    sockets of a relay            relay.Relay           no core involved until it ends
"""

from __future__ import annotations

import heapq
import signal
import socket
import time
from collections import deque
from contextlib import suppress

import setproctitle

from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import NO_LINGER, OwnedFd
from tlspool_common.log import Log
from tlspool_common.messages import EndReason, Traffic, Verdict
from tlspool_common.settings import Settings
from tlspool_worker.contexts import Contexts, fitting
from tlspool_worker.effects import (
    Adopt,
    Answer,
    Ask,
    Attach,
    Begin,
    Drop,
    Effect,
    EndRelay,
    Finish,
    ForgetQuestions,
    GoOn,
    Judge,
    Listen,
    Note,
    OpenRelay,
    Say,
    SendCipher,
    UseKeys,
    Wait,
)
from tlspool_worker.exits import Exit
from tlspool_worker.handshakes import Handshakes, Waiting, Work
from tlspool_worker.inquiry import Inquiry, asks
from tlspool_worker.lingering import Lingering, close_now
from tlspool_worker.poller import IN, OUT, Poller
from tlspool_worker.questions import Questions
from tlspool_worker.reauth import Answering
from tlspool_worker.relay import Relay
from tlspool_worker.relay_native import surroundings
from tlspool_worker.sessions import BrokenBroker, Sessions
from tlspool_worker.tls import Handshake, clear_errors

DRAIN_S = 20.0
"""For what an application had sent before it closed and ended.  The broker waits 30 s for the end of a session."""

TICK_S = 1.0
"""How often things are looked at that need no haste, while there are any: title, lingering sockets, memory."""

KEYD_GRACE_S = 5.0
"""Beyond the time a token may take: what keyd needs to notice, and its queue while a token is slow."""

THREAD_END_S = 0.2
"""At the end, for threads that wait for a signature.  Nobody will use it, and exit does not wait for them."""

_HANDSHAKE_B = 32 * 1024
"""Bytes of a handshake read at a time; a flight with a long chain has some 10 KiB."""

_MESSAGES = 64
"""Messages of the broker taken in one turn."""


class _Cipher:
    """The socket of a session in its handshake."""

    __slots__ = ("handshake", "listening", "sock", "unsent", "waiting", "watched")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.handshake: Handshake | None = None
        self.waiting: Waiting | None = None  # for a handshake that asks the broker
        self.unsent = bytearray()
        self.listening = False
        self.watched = 0


_NOW = int(socket.MSG_DONTWAIT)
"""With each call, as in channel.py: who kept a copy of a socket could take O_NONBLOCK away."""


def _ours(fd: OwnedFd) -> socket.socket:
    """Make a socket that was passed to us one that never makes us wait, nor its data."""
    sock = socket.socket(fileno=fd.detach())
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # close(2) waits on a socket that lingers, non-blocking or not (socket(7))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    return sock


class Shell:
    """A worker's process, around its core."""

    def __init__(self, channel: Channel, worker_id: int, settings: Settings, log: Log, signals: socket.socket) -> None:
        self._log = log
        self._traces = log.wants("debug")
        self._worker_id = worker_id
        self._timeout_ms = int((settings.signature_wait_s + KEYD_GRACE_S) * 1000)
        self._channel = channel
        self._channel_fd = channel.fileno()
        self._channel_mask = IN
        self._lost = ""
        self._signals = signals
        self._keys: OwnedFd | None = None
        self._contexts = Contexts()
        self._aside = channel.aside()
        self._handshakes = Handshakes(settings.handshake_threads, self._aside)
        self._stepping: dict[Work, int] = {}
        self._quick: deque[tuple[int, bytes]] = deque()
        self._ciphers: dict[int, _Cipher] = {}
        self._relays: dict[int, Relay] = {}
        self._draining: dict[int, float] = {}
        self._poller = Poller()
        self._lingering = Lingering(self._poller)
        self._around, why_not = surroundings(settings.relay, self._poller, self._relay_ended)
        if why_not:
            log.warning("relay.python", worker=worker_id, detail=why_not)
        self._around.asked = lambda relay: self._core.remote_asks(relay.session_id)
        self._questions = Questions(self._relays, self._contexts, lambda message: self._say(Say(message)))
        self._waits: list[tuple[float, int]] = []
        self._core = Sessions(worker_id, self._do)
        self._status: Exit | None = None
        self._titled = -1
        self._stirred = True  # something was done, after which there may be chores
        self._next_tick_s = 0.0
        self._poller.watch(self._channel_fd, IN, self._channel_ready, late=True)
        channel.before_close = lambda: self._poller.forget(self._channel_fd)
        self._poller.watch(self._handshakes.fileno(), IN, self._steps_ready)
        self._poller.watch(self._questions.fileno(), IN, self._questions.ready)
        self._poller.watch(signals.fileno(), IN, self._signals_ready)

    # --- loop -----------------------------------------------------------------------------------------

    def run(self) -> Exit:
        """Serve until there is nothing more to do; return how it ended."""
        poll, busy = self._poller.run_once, self._around.busy
        while self._status is None:
            poll(self._chores() if self._stirred or busy else None)
        return self._status

    def _chores(self) -> float | None:
        """Do what is not the relays' business; return how long the next poll may take."""
        while self._quick:
            self._step_now(*self._quick.popleft())
        clear_errors()
        if self._lost:
            self._lose_broker()
        else:
            self._watch_channel()
        now_s = time.monotonic()
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + TICK_S
            self._tick(now_s)
        while self._waits and self._waits[0][0] <= now_s:
            self._core.waited(heapq.heappop(self._waits)[1])
        self._stirred = bool(
            self._quick or self._lingering or self._draining or self._waits or self._titled != len(self._core)
        )
        if self._quick or self._status is not None:
            return 0.0
        if self._waits:
            return max(0.0, min(self._waits[0][0], self._next_tick_s) - now_s)
        return max(0.0, self._next_tick_s - now_s) if self._stirred or self._around.busy else None

    def close(self) -> None:
        """Close everything."""
        self._around.close()
        self._channel.close()
        self._aside.shut()
        self._lingering.close()
        self._handshakes.close(THREAD_END_S)
        self._questions.close()
        for cipher in self._ciphers.values():
            close_now(cipher.sock)
        self._poller.close()

    def _tick(self, now_s: float) -> None:
        self._lingering.tick(now_s)
        for session_id in [one for one, until_s in self._draining.items() if until_s <= now_s]:
            self._end_relay(session_id)
        for relay in self._around.busy:
            relay.slim()
        self._around.busy.clear()
        count = len(self._core)
        if count != self._titled:
            self._titled = count
            setproctitle.setproctitle(f"tlspool-worker: {self._core.title}")

    # --- the broker, and signals ----------------------------------------------------------------------

    def _channel_ready(self, _events: int) -> None:
        try:
            self._channel.flush()
            for _ in range(_MESSAGES):
                received = self._channel.receive()
                if received is None:
                    return
                with received:
                    fd = received.take_fd() if received.fds else None
                    if self._traces:
                        self._log.debug("message.received", name=type(received.message).__name__)
                    if isinstance(received.message, Verdict):
                        self._catch_up(received.message.session_id)
                    self._core.broker_said(received.message, fd)
        except (ChannelBroken, BrokenBroker) as error:
            self._log.error("broker.broken", worker=self._worker_id, detail=str(error))
            self._status = Exit.CHANNEL_BROKEN
        except ChannelClosed as error:
            self._lost = self._lost or str(error)
            self._stirred = True

    def _lose_broker(self) -> None:
        self._log.info("broker.gone", worker=self._worker_id, sessions=len(self._core), detail=self._lost)
        self._lost = ""
        self._channel.close()
        self._aside.shut()
        self._channel_mask = IN
        self._core.broker_gone()

    def _watch_channel(self) -> None:
        mask = IN | OUT if self._channel.wants_write else IN
        if mask != self._channel_mask:
            self._channel_mask = mask
            self._poller.modify(self._channel_fd, mask)

    def _signals_ready(self, _events: int) -> None:
        with suppress(BlockingIOError):
            for number in self._signals.recv(64):
                if number == signal.SIGTERM:
                    self._core.terminate()
                elif number == signal.SIGHUP:
                    self._core.retire()

    # --- effects --------------------------------------------------------------------------------------

    def _do(self, effect: Effect) -> None:
        self._stirred = True
        match effect:
            case Say():
                self._say(effect)
            case Listen():
                self._listen(effect.session_id)
            case SendCipher():
                self._send(self._ciphers[effect.session_id], effect.data)
            case GoOn():
                self._go_on(effect.session_id, effect.data)
            case Begin():
                self._begin(effect)
            case Judge():
                self._judge(effect)
            case Adopt():
                self._adopt(effect.session_id, effect.fd)
            case OpenRelay():
                self._open_relay(effect.session_id)
            case Attach():
                self._attach(effect.session_id, effect.fd)
            case EndRelay():
                self._end_relay(effect.session_id)
            case Ask():
                self._questions.ask(effect.message, effect.trust)
            case ForgetQuestions():
                self._questions.forget()
            case Answer():
                self._answer(effect)
            case Wait():
                heapq.heappush(self._waits, (time.monotonic() + effect.delay_ms / 1000, effect.session_id))
            case Drop():
                self._drop(effect.session_id)
            case UseKeys():
                # Handshakes hold the channel whose number is in their key references; with the last of them
                # an old one is closed.
                self._keys = effect.fd
            case Note():
                self._log.note(effect.level, effect.event, **effect.fields)
            case Finish():
                self._status = self._status or effect.status

    def _say(self, effect: Say) -> None:
        if self._traces:
            self._log.debug("message.sent", name=type(effect.message).__name__)
        if self._lost:
            return
        try:
            self._channel.send(effect.message)
        except ChannelClosed as error:
            self._lost = str(error)  # the core hears of it when it is done with what it is doing

    # --- handshakes -----------------------------------------------------------------------------------

    def _adopt(self, session_id: int, fd: OwnedFd) -> None:
        self._ciphers[session_id] = _Cipher(_ours(fd))

    def _watch_cipher(self, session_id: int, cipher: _Cipher) -> None:
        mask = (IN if cipher.listening else 0) | (OUT if cipher.unsent else 0)
        if not mask and cipher.watched == IN:
            return  # it is listened to again soon; if something comes before that, _cipher_ready takes it out
        if mask != cipher.watched:
            cipher.watched = mask
            fd = cipher.sock.fileno()
            if mask:
                self._poller.watch(fd, mask, lambda events: self._cipher_ready(session_id, events))
            else:
                self._poller.forget(fd)

    def _listen(self, session_id: int) -> None:
        cipher = self._ciphers[session_id]
        cipher.listening = True
        self._watch_cipher(session_id, cipher)

    def _cipher_ready(self, session_id: int, events: int) -> None:
        cipher = self._ciphers[session_id]
        if not cipher.listening and not cipher.unsent:
            cipher.watched = 0
            self._poller.forget(cipher.sock.fileno())
            return
        try:
            if cipher.unsent and events & ~IN:
                del cipher.unsent[: cipher.sock.send(cipher.unsent, _NOW)]
            data = cipher.sock.recv(_HANDSHAKE_B, _NOW) if cipher.listening and events & ~OUT else None
        except BlockingIOError:
            return
        except OSError as error:
            cipher.listening = False
            cipher.watched = 0
            self._poller.forget(cipher.sock.fileno())
            self._core.cipher_ended(session_id, error.strerror or "")
            return
        if data is not None:
            cipher.listening = False
        self._watch_cipher(session_id, cipher)
        if data:
            self._core.cipher_came(session_id, data)
        elif data is not None:
            self._core.cipher_ended(session_id)

    def _send(self, cipher: _Cipher, data: bytes) -> None:
        """Send, now or later.  A remote that is gone is noticed when something is expected of it."""
        sent = 0
        if not cipher.unsent:
            try:
                sent = cipher.sock.send(data, _NOW)
            except BlockingIOError:
                pass
            except OSError:
                return
        cipher.unsent += data[sent:]

    def _begin(self, effect: Begin) -> None:
        start = effect.start
        chains = fitting(tuple((each.key_kind, each.chain) for each in effect.credentials))
        try:
            context = self._contexts.get(start, chains, effect.trust)
            check = self._inquiry(effect) if asks(start) else None
            handshake = Handshake(context, start, list(effect.credentials), self._keys, self._timeout_ms, check)
        except PoolError as error:
            self._core.could_not_step(start.session_id, error.code, error.detail)
            return
        self._ciphers[start.session_id].handshake = handshake
        self._go_on(start.session_id, effect.data)

    def _inquiry(self, effect: Begin) -> Inquiry:
        self._ciphers[effect.start.session_id].waiting = waiting = Waiting()
        return Inquiry(effect.start, effect.trust, lambda shown: self._handshakes.ask(waiting, shown))

    def _judge(self, effect: Judge) -> None:
        waiting = self._ciphers[effect.verdict.session_id].waiting
        if waiting is None:
            raise AssertionError(f"session {effect.verdict.session_id} waits for no verdict")
        waiting.answer(effect.verdict)

    def _catch_up(self, session_id: int) -> None:
        """Let the core know of what a thread has told the broker."""
        cipher = self._ciphers.get(session_id)
        if cipher is not None and cipher.waiting is not None and cipher.waiting.has_told():
            if self._traces:
                self._log.debug("message.sent", name="RemoteShown")
            self._core.remote_told(session_id)

    def _go_on(self, session_id: int, data: bytes) -> None:
        handshake = self._ciphers[session_id].handshake
        if handshake is not None and handshake.is_heavy:
            self._stepping[handshake] = session_id
            self._handshakes.submit(handshake, data)
        else:
            self._quick.append((session_id, data))

    def _step_now(self, session_id: int, data: bytes) -> None:
        cipher = self._ciphers.get(session_id)
        if cipher is None or cipher.handshake is None:
            return
        try:
            step = cipher.handshake.step(data)
        except Exception as error:  # as in a thread: what a remote has sent ends its own session, and no other
            self._cannot_step(session_id, error)
        else:
            self._core.stepped(session_id, step)

    def _cannot_step(self, session_id: int, error: Exception) -> None:
        detail = f"{type(error).__name__}: {error}"
        self._log.error("handshake.bug", session=session_id, detail=detail)
        self._core.could_not_step(session_id, Code.INTERNAL, detail)

    def _steps_ready(self, _events: int) -> None:
        self._handshakes.heard()
        for shown in self._handshakes.shown():
            self._core.remote_shown(shown)
        for handshake, result in self._handshakes.finished():
            session_id = self._stepping.pop(handshake)
            if isinstance(handshake, Answering):
                self._answered(session_id, handshake, result)
            elif isinstance(result, Exception):
                self._cannot_step(session_id, result)
            elif result is not None:
                self._catch_up(session_id)
                self._core.stepped(session_id, result)

    def _drop(self, session_id: int) -> None:
        cipher = self._ciphers.pop(session_id)
        if cipher.waiting is not None:
            cipher.waiting.let_go()
        self._poller.forget(cipher.sock.fileno())
        self._lingering.add(cipher.sock, time.monotonic())

    # --- relays ---------------------------------------------------------------------------------------

    def _open_relay(self, session_id: int) -> None:
        cipher = self._ciphers.pop(session_id)
        self._poller.forget(cipher.sock.fileno())
        if cipher.handshake is None:
            raise AssertionError(f"session {session_id} has no handshake")
        relay = self._around.open(session_id, cipher.sock, cipher.handshake.stream(), bytes(cipher.unsent))
        self._relays[session_id] = relay
        relay.start()

    def _attach(self, session_id: int, fd: OwnedFd) -> None:
        self._relays[session_id].attach(_ours(fd))

    def _answer(self, effect: Answer) -> None:
        answering = self._questions.answering(effect.session_id, effect.credentials, self._keys, self._timeout_ms)
        self._stepping[answering] = effect.session_id
        self._handshakes.submit(answering, b"")

    def _answered(self, session_id: int, answering: Answering, result: object) -> None:
        """The remote has been told who we are, or is about to hear that it cannot be."""
        fault = answering.fault
        if isinstance(result, Exception) or fault is not None:
            detail = f"{type(result).__name__}: {result}" if isinstance(result, Exception) else fault and fault.detail
            self._log.warning("reauth.failed", session=session_id, detail=detail or "")
        relay = self._relays.get(session_id)
        if relay is not None:
            relay.go_on()

    def _end_relay(self, session_id: int) -> None:
        """End a relay; one whose application is gone ends by itself when the remote has taken what was left."""
        relay = self._relays[session_id]
        if session_id not in self._draining and relay.is_left():
            self._draining[session_id] = time.monotonic() + DRAIN_S
        else:
            relay.end()

    def _relay_ended(self, relay: Relay, reason: EndReason, traffic: Traffic, detail: str) -> None:
        del self._relays[relay.session_id]
        self._draining.pop(relay.session_id, None)
        self._questions.ended(relay.session_id)
        self._stirred = True
        self._lingering.add(relay.take_socket(), time.monotonic())
        self._core.relay_ended(reason, traffic, detail)
