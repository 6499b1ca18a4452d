"""The worker master's hands: fork, reap, and move messages; what for, master.py decides.

One thread and no library that would start another, because it forks.  A forked worker closes all that is the
master's, holds the descriptors it has left against what it should have, and never returns from here.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from tlspool_common.channel import Channel, ChannelClosed, raw_pair
from tlspool_common.control import LineServer, Request
from tlspool_common.dial import dial_broker
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd, open_fds
from tlspool_common.grants import now_ms
from tlspool_common.log import Log
from tlspool_common.messages import PROTOCOL, Message, Party, RetireWorker, SpawnWorkers, WorkerBorn
from tlspool_common.reloading import Reloading
from tlspool_common.settings import Settings
from tlspool_common.title import count
from tlspool_worker import lists, worker
from tlspool_worker import master as m
from tlspool_worker.exits import Exit
from tlspool_worker.provider import configuration_fd

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_OF_WORKERS = {"relay", "handshake_threads", "log_level", "pkcs11_timeout_s"}
"""Settings that a worker has from its birth to its end."""

_TITLE_B = 256
"""Of a title; the longest that a worker can have is some 120."""

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class Master:
    """The process, its connection to the broker, and its children."""

    def __init__(self, settings: Settings, path: Path, log: Log) -> None:
        self._settings = settings
        self._reloading = Reloading(path, settings, log, self._adopt, lists.load)
        self._log = log
        self._core = m.MasterCore(os.getpid(), settings.workers, now_ms)
        self._channel: Channel | None = None
        self._former: Channel | None = None  # to the same broker, which closes it
        self._held: dict[int, OwnedFd] = {}  # the broker's ends of channels, until it has them
        self._connect_at_ms: int | None = None
        self._running = True
        self._control = LineServer(settings.run_dir / "worker.sock", self._answer)
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)

    # --- loop -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take signals, fork the first workers, and make a first try to reach the broker."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _queue)
        gc.collect()
        gc.freeze()  # so that a worker's collector does not touch, and thereby copy, what all share
        self._carry_out(self._core.start())
        self._connect_if_due()
        self._show()

    def run(self) -> None:
        """Serve until told to stop."""
        while self._running:
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            for fd, events in self._control.interests().items():
                poll.register(fd, events)
            if self._channel is not None:
                poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._channel.wants_write else 0))
            if self._former is not None:
                poll.register(self._former, select.POLLIN)
            wait_ms = None if self._connect_at_ms is None else max(0, self._connect_at_ms - now_ms())
            for fd, _ in poll.poll(wait_ms):
                if fd == self._wake_read.fileno():
                    self._signalled()
                elif self._channel is not None and fd == self._channel.fileno():
                    self._channel_ready()
                elif self._former is not None and fd == self._former.fileno():
                    self._former.close()
                    self._former = None
                elif fd in self._control.filenos():
                    self._control.ready(fd)
            self._connect_if_due()

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
        for fd in self._held.values():
            fd.close()
        self._held.clear()

    def _signalled(self) -> None:
        try:
            numbers = set(self._wake_read.recv(4096))
        except BlockingIOError:
            return
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
                    if isinstance(received.message, SpawnWorkers | RetireWorker):
                        self._happened(m.BrokerSaid(received.message))
            if self._channel is not None:
                self._channel.flush()
        except ChannelClosed as error:
            self._lost(str(error))

    def _lost(self, reason: str) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._happened(m.BrokerLost(reason))

    def _connect_if_due(self) -> None:
        if self._connect_at_ms is None or now_ms() < self._connect_at_ms:
            return
        self._connect_at_ms = None
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
                case m.Introduce(worker_id, pid):
                    self._send(WorkerBorn(worker_id=worker_id, pid=pid), self._held.pop(worker_id))
                case m.Fork(worker_id):
                    self._fork(worker_id)
                case m.Kill(pid, number):
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)  # our child, and not reaped: the number is still its own
                case m.Forget(worker_id):
                    self._held.pop(worker_id).close()
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

    def _fork(self, worker_id: int) -> None:
        ours, theirs = raw_pair()
        # A signal between fork and the child's own handlers must neither end the child nor be queued into the
        # master's pipe; the worker lets signals in again when it can take them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_worker(worker_id, theirs)
        except OSError as error:
            ours.close()
            self._happened(m.ForkFailed(worker_id, error.strerror or str(error)))
        else:
            self._held[worker_id] = ours
            self._happened(m.Forked(worker_id, pid))
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
        if request["cmd"] != "status":
            raise PoolError(Code.COMMAND_UNKNOWN, f"{request['cmd']!r}; known: status, config, reload")
        return {
            "pid": os.getpid(),
            "protocol": PROTOCOL,
            "broker": self._core.connected,
            "workers": [
                {
                    "worker": child.worker_id,
                    "pid": child.pid,
                    "age_s": round((now_ms() - child.born_ms) / 1000, 1),
                    "retired": child.retired,
                    "title": title_of(child.pid),
                    **load_of(child.pid),
                }
                for child in self._core.children
            ],
            "ended": self._core.endings,
        }


def _queue(_number: int, _frame: object) -> None:
    """Do nothing: the wake-up descriptor has the number already (signal.set_wakeup_fd)."""


def title_of(pid: int) -> str:
    """Return the title that a child has given itself: whose it is, and how many sessions it has."""
    try:
        return title_untrusted(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return ""


def title_untrusted(data: bytes) -> str:
    """Read a title; a child that was taken over may call itself anything, in printable characters."""
    text = data[:_TITLE_B].decode("utf-8", "replace").rstrip("\0 ").partition(": ")[2]
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def load_of(pid: int) -> dict[str, object]:
    """Return processor time and memory of a child (proc_pid_stat(5), proc_pid_statm(5)); {} when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return {}
    ticks = int(fields[11]) + int(fields[12])
    return {"cpu_s": round(ticks / _TICKS_A_SECOND, 2), "rss_kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024}
