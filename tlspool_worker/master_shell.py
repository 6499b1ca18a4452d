"""The worker master's hands: fork, reap, and move messages; what for, master.py decides.

One thread and no library that would start another, because it forks.  A forked worker closes all that is the
master's, holds the descriptors it has left against what it should have, and never returns from here.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from tlspool_common import sandbox
from tlspool_common.channel import Channel, ChannelClosed, raw_pair
from tlspool_common.control import LineServer, Request
from tlspool_common.dial import dial_broker
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd, await_ready, open_fds
from tlspool_common.grants import now_ms
from tlspool_common.log import Log
from tlspool_common.messages import (
    PROTOCOL,
    KeepChannel,
    Message,
    Party,
    RetireWorker,
    SpawnWorkers,
    Welcome,
    WorkerBorn,
)
from tlspool_common.metrics import Metrics, Reading
from tlspool_common.reloading import Reloading
from tlspool_common.settings import Settings
from tlspool_common.systemd import Heart
from tlspool_common.title import count
from tlspool_worker import lists, worker
from tlspool_worker import master as m
from tlspool_worker.exits import Exit
from tlspool_worker.keeping import Keeping
from tlspool_worker.provider import configuration_fd

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_OF_WORKERS = {"relay", "handshake_threads", "log_level", "pkcs11_timeout_s"}
"""Settings that a worker has from its birth to its end."""

_TITLE_B = 256
"""Of a title; the longest that a worker can have is some 120."""

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Master:
    """The process, its connection to the broker, and its children."""

    def __init__(self, settings: Settings, path: Path, log: Log, passed: socket.socket | None = None) -> None:
        self._settings = settings
        self._reloading = Reloading(path, settings, log, self._adopt, lists.load)
        self._log = log
        self._core = m.MasterCore(os.getpid(), settings.workers, now_ms)
        self._metrics = Metrics("W")
        log.readers.append(self._metrics.read)
        self._forks = 0
        self._channel: Channel | None = None
        self._former: Channel | None = None  # to the same broker, which closes it
        self._keeping = Keeping()
        self._life: OwnedFd | None = None  # open at the other end for as long as the broker lives
        self._connect_at_ms: int | None = None
        self._running = True
        self._control = LineServer(settings.run_dir / "worker.sock", self._answer, passed=passed)
        self._heart = Heart()
        self._signals: set[int] = set()  # that have come
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)

    # --- loop -----------------------------------------------------------------------------------------

    def start(self, inherited: Mapping[str, OwnedFd]) -> None:
        """Take signals and what systemd has kept, fork the first workers, and make a first try to reach the broker."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one is kept for each worker, which has many more
        self._take_signals()
        gc.collect()
        gc.freeze()  # so that a worker's collector does not touch, and thereby copy, what all share
        for pid, protocol in self._keeping.take_stored(inherited):
            self._happened(m.Kept(pid, protocol))
        self._carry_out(self._core.start())
        self._connect_if_due()
        self._show()

    def _take_signals(self) -> None:
        """Note signals in a handler, and wake up for them (signal.set_wakeup_fd); only what wakes may be too much."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda number, _frame: self._signals.add(number))

    def run(self) -> None:
        """Serve until told to stop."""
        while self._running:
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            poll.register(self._keeping, select.POLLIN)
            if self._life is not None:
                poll.register(self._life, select.POLLIN)
            for fd, events in self._control.interests().items():
                poll.register(fd, events)
            if self._channel is not None:
                poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._channel.wants_write else 0))
            if self._former is not None:
                poll.register(self._former, select.POLLIN)
            for fd, _ in poll.poll(self._wait_ms()):
                if fd == self._wake_read.fileno():
                    self._signalled()
                elif fd == self._keeping.fileno():
                    for pid in self._keeping.over():
                        self._happened(m.ChannelOver(pid))
                elif self._life is not None and fd == self._life.fileno():
                    self._broker_died()
                elif self._channel is not None and fd == self._channel.fileno():
                    self._channel_ready()
                elif self._former is not None and fd == self._former.fileno():
                    self._former.close()
                    self._former = None
                elif fd in self._control.filenos():
                    self._control.ready(fd)
            self._connect_if_due()

    def _wait_ms(self) -> int | None:
        beat_s = self._heart.beat()
        waits_ms = [] if beat_s is None else [int(beat_s * 1000)]
        if (pause_s := self._control.wait_s) is not None:
            waits_ms.append(int(pause_s * 1000) + 1)
        if self._connect_at_ms is not None:
            waits_ms.append(max(0, self._connect_at_ms - now_ms()))
        return min(waits_ms, default=None)

    def close(self) -> None:
        """Let go of everything; workers have their own descriptors."""
        signal.set_wakeup_fd(-1)
        self._let_go()

    def _let_go(self) -> None:
        self._control.close()
        self._wake_read.close()
        self._wake_write.close()
        for channel in (self._channel, self._former):
            if channel is not None:
                channel.close()
        self._keeping.close()
        if self._life is not None:
            self._life.close()

    def _signalled(self) -> None:
        with suppress(BlockingIOError):
            self._wake_read.recv(4096)
        numbers, self._signals = self._signals, set()
        self._reap()
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._happened(m.StopAsked())
        elif signal.SIGHUP in numbers:
            self._reloading.on_signal()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            self._happened(m.ChildEnded(pid, code if code >= 0 else 128 - code))
            self._show()

    def _channel_ready(self) -> None:
        try:
            while self._channel is not None and (received := self._channel.receive()) is not None:
                with received:
                    match received.message:
                        case SpawnWorkers() | RetireWorker() as said:
                            self._happened(m.BrokerSaid(said))
                        case Welcome():
                            self._welcomed(received.take_fd())
                        case KeepChannel() as keep:
                            self._keep(keep, received.take_fd())
            if self._channel is not None:
                self._channel.flush()
        except ChannelClosed as error:
            self._lost(str(error))

    def _lost(self, reason: str) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._happened(m.BrokerLost(reason))

    def _welcomed(self, life: OwnedFd) -> None:
        if self._life is not None:
            self._life.close()
        self._life = life
        self._happened(m.Welcomed())

    def _broker_died(self) -> None:
        if self._life is not None:
            self._life.close()
            self._life = None
            self._happened(m.BrokerDied())

    def _keep(self, message: KeepChannel, end: OwnedFd) -> None:
        pid = message.worker_id
        if pid in self._keeping:
            end.close()
        elif len(self._core.children) < m.WORKERS and self._keeping.adopt(pid, message.protocol, end):
            self._happened(m.Kept(pid, message.protocol))
        else:
            end.close()

    def _connect_if_due(self) -> None:
        if self._connect_at_ms is None or now_ms() < self._connect_at_ms:
            return
        self._connect_at_ms = None
        if self._life is not None and await_ready([self._life.fileno()], 0):
            self._broker_died()  # its workers hear of that before another one speaks to them
        try:
            self._channel = dial_broker(self._settings, Party.MASTER)
        except ChannelClosed as error:
            self._happened(m.BrokerLost(str(error)))
        else:
            self._happened(m.BrokerConnected())

    # --- effects --------------------------------------------------------------------------------------

    def _happened(self, event: m.Event) -> None:
        self._carry_out(self._core.handle(event))

    def _carry_out(self, effects: list[m.Effect]) -> None:
        for effect in effects:
            match effect:
                case m.Note(level, event, fields):
                    self._log.note(level, event, **fields)
                case m.Connect(delay_ms):
                    self._connect_at_ms = now_ms() + delay_ms
                case m.SendBroker(message):
                    self._send(message)
                case m.Introduce(pid, again, protocol):
                    end = self._keeping.copy(pid)
                    if end is not None:
                        self._send(WorkerBorn(worker_id=pid, pid=pid, again=again, protocol=protocol), end)
                case m.Fork():
                    self._fork()
                case m.TellAway(pid):
                    self._keeping.tell_away(pid)
                case m.Kill(pid, number):
                    if not self._keeping.signal(pid, number):
                        with suppress(ProcessLookupError):
                            os.kill(pid, number)  # our child, and not reaped: the number is still its own
                case m.Forget(pid):
                    self._keeping.forget(pid)
                case m.End():
                    self._running = False

    def _send(self, message: Message, fd: OwnedFd | None = None) -> None:
        if self._channel is None:
            if fd is not None:
                fd.close()
            return
        try:
            self._channel.send(message, fd=fd)
        except ChannelClosed as error:
            self._lost(str(error))

    def _fork(self) -> None:
        try:
            ours, theirs = raw_pair()
        except OSError as error:
            self._happened(m.ForkFailed(error.strerror or str(error)))
            return
        # A signal between fork and the child's own handlers must neither end the child nor be queued into the
        # master's pipe; the worker lets signals in again when it can take them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_worker(os.getpid(), theirs)
        except OSError as error:
            ours.close()
            self._happened(m.ForkFailed(error.strerror or str(error)))
        else:
            self._forks += 1
            self._keeping.hold(pid, PROTOCOL, ours)
            self._happened(m.Forked(pid))
            self._show()
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be_worker(self, worker_id: int, channel: OwnedFd) -> NoReturn:
        """Become a worker, in the child.  Whatever happens, the child never comes back into the master's loop."""
        status = int(Exit.BUG)
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            self._let_go()
            surplus = open_fds() - {0, 1, 2, channel.fileno(), configuration_fd()}
            if surplus:
                self._log.error("worker.descriptors", worker=worker_id, surplus=" ".join(map(str, sorted(surplus))))
            else:
                status = worker.run(channel, worker_id, self._settings)
        except BaseException as error:  # the border of this process: told by its exit code
            self._log.error("worker.bug", worker=worker_id, detail=f"{type(error).__name__}: {error}")
        finally:
            os._exit(status)

    # --- other settings -------------------------------------------------------------------------------

    def _adopt(self, newer: Settings) -> None:
        """Go by other settings: workers that are forked from now on have them.

        To the broker we then come as a new master does: it gives those that it knows no more sessions, lets them
        finish what they have, and asks for others.
        """
        applied, _ = self._settings.changes(newer)
        self._settings.adopt(newer)
        self._core.keep_warm(self._settings.workers)
        if not set(applied) & _OF_WORKERS or self._channel is None:
            return
        try:
            channel = dial_broker(self._settings, Party.MASTER)
        except ChannelClosed as error:
            self._log.warning("master.not_renewed", detail=str(error))
            return
        if self._former is not None:
            self._former.close()
        self._former, self._channel = self._channel, channel
        self._happened(m.BrokerConnected())

    # --- what an operator sees ------------------------------------------------------------------------

    def _show(self) -> None:
        setproctitle(f"tlspool-worker: master, {count(len(self._core.children), 'worker')}")

    def _answer(self, request: Request) -> dict[str, object]:
        if request["cmd"] == "config":
            return self._reloading.describe()
        if request["cmd"] == "reload":
            return self._reloading.reload()
        if request["cmd"] == "metrics":
            self._log.catch_up()
            return {"text": self._metrics.text(self._readings())}
        if request["cmd"] != "status":
            raise PoolError(Code.COMMAND_UNKNOWN, f"{request['cmd']!r}; known: status, metrics, config, reload")
        return {
            "pid": os.getpid(),
            "protocol": PROTOCOL,
            "sandbox": sandbox.in_force(),
            "broker": self._core.connected,
            "workers": [
                {
                    "worker": child.pid,
                    "pid": child.pid,
                    "age_s": round((now_ms() - child.born_ms) / 1000, 1),
                    "retired": child.retired,
                    "of_earlier_master": not child.ours,
                    "title": title_of(child.pid),
                    **load_of(child.pid),
                }
                for child in self._core.children
            ],
            "ended": self._core.endings,
        }

    def _readings(self) -> list[Reading]:
        """Return what the metrics read at this moment."""
        memory_kib = [load_of(child.pid).get("rss_kib", 0) for child in self._core.children]
        return [
            ("tlspool_broker_connected", {}, self._core.connected),
            ("tlspool_worker_processes", {}, len(memory_kib)),
            ("tlspool_worker_memory_bytes", {}, sum(kib for kib in memory_kib if isinstance(kib, int)) * 1024),
            ("tlspool_worker_forks", {}, self._forks),
        ]


def title_of(pid: int) -> str:
    """Return the title that a child has given itself: whose it is, and how many sessions it has."""
    try:
        return title_untrusted(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return ""


def title_untrusted(data: bytes) -> str:
    """Read a title; a child that was taken over may call itself anything, in printable characters."""
    text = data[:_TITLE_B].decode("utf-8", "replace").rstrip("\0 ").partition(": ")[2]
    return text if text.isprintable() else "".join([letter if letter.isprintable() else "?" for letter in text])


def load_of(pid: int) -> dict[str, object]:
    """Return processor time and memory of a child (proc_pid_stat(5), proc_pid_statm(5)); {} when it has ended."""
    try:
        return load_untrusted(Path(f"/proc/{pid}/stat").read_bytes(), Path(f"/proc/{pid}/statm").read_bytes())
    except OSError:
        return {}


def load_untrusted(stat: bytes, statm: bytes) -> dict[str, object]:
    """Read the two files.  The name of the program stands in the first, and may be any bytes: a child sets its own."""
    fields = stat.rpartition(b")")[2].split()
    try:
        ticks, pages = int(fields[11]) + int(fields[12]), int(statm.split()[1])
    except (IndexError, ValueError):
        return {}
    return {"cpu_s": round(ticks / _TICKS_A_SECOND, 2), "rss_kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024}
