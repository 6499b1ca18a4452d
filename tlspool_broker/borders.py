"""Channels to keyd, worker masters, workers and the helpers, and the socket where the first two arrive.

A connection to the private socket is *unidentified* until its first message: the kernel says which user it
is of, and so which daemons it may be; the code of the first message, looked at without taking it, says which
of these it is.  From there on the border table judges, beginning with that message.  There are few
unidentified connections of a user at a time, and each has a deadline.

Helpers (tlspool_online, tlspool_radius) are started here, at the other end of a pair, and end when their channel does.

XXX A worker runs as the same user as its master, and could say that it is one.  What keeps it from
connecting at all is the worker's own confinement.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter, deque
from collections.abc import Callable

from tlspool_broker import caller
from tlspool_broker.events import (
    Event,
    FromHelper,
    FromWorker,
    HelperKind,
    HelperLost,
    HelperNumber,
    HelperSaid,
    JoinKeyd,
    KeepWorker,
    KeydLost,
    KeydSaid,
    MasterLost,
    MasterSaid,
    PeerId,
    WorkerLost,
    WorkerNumber,
    WorkerSaid,
)
from tlspool_common.channel import Channel, ChannelBroken, ChannelClosed, Received, from_fd, pair, raw_pair
from tlspool_common.child import watch
from tlspool_common.codec import HEADER, BadFrame, header_untrusted
from tlspool_common.fd import OwnedFd
from tlspool_common.line import Line
from tlspool_common.log import Log
from tlspool_common.messages import (
    BY_CODE,
    PROTOCOL,
    KeepChannel,
    KeyAnswer,
    KeyChannel,
    KeydHello,
    MasterHello,
    MasterLeaves,
    Message,
    Party,
    UseKeyChannel,
    Welcome,
    WorkerBorn,
    WorkerGone,
)
from tlspool_common.settings import Settings
from tlspool_online import spawn as online
from tlspool_radius import spawn as radius

_IDENTIFY_S = 5.0
"""A daemon says hello in the same breath as it connects."""

_UNIDENTIFIED = 8
"""Connections of one user that have not said hello; a daemon that is started anew has one."""

_PIDS = 1000
"""Of helpers that were started: one that said something and ended at once is still known when it is heard, and a number
is another process's by the time it is forgotten.  There is one helper of a kind, and pauses between."""


def _spawn_online(channel_fd: OwnedFd, settings: Settings) -> int:
    return online.spawn(channel_fd, online.arguments(settings))


def _spawn_radius(channel_fd: OwnedFd, settings: Settings) -> int:
    return radius.spawn(channel_fd, radius.arguments(settings))


_HELPERS: dict[HelperKind, tuple[Party, Callable[[OwnedFd, Settings], int]]] = {
    HelperKind.ONLINE: (Party.ONLINE, _spawn_online),
    HelperKind.RADIUS: (Party.RADIUS, _spawn_radius),
}


class Borders:
    """All channels."""

    def __init__(self, happened: Callable[[Event], None], settings: Settings, log: Log) -> None:
        self._happened = happened
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._uids = {Party.KEYD: settings.keyd_uid, Party.MASTER: settings.worker_uid}
        self._unidentified: dict[socket.socket, tuple[int, asyncio.TimerHandle]] = {}
        self._peers: dict[PeerId, Line] = {}
        self._workers: dict[WorkerNumber, Line] = {}
        self._settings = settings
        self._helpers: dict[HelperNumber, Line] = {}
        self._children: dict[int, int] = {}
        self.helper_pids: deque[int] = deque(maxlen=_PIDS)  # they are of our user, and no operators
        self._life = raw_pair()  # a master has copies of the second, and sees the end of the first
        self._last = 0

    def close(self) -> None:
        """Close everything, and tell nobody."""
        for sock in list(self._unidentified):
            self._identified(sock)
            sock.close()
        for line in self._peers.values():
            line.close()
        for line in self._workers.values():
            line.leave()
        for end in self._life:
            end.close()
        for helper in list(self._helpers):
            self.stop_helper(helper)
        for pidfd in self._children:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)

    @property
    def has_queued(self) -> bool:
        """Whether something waits for another daemon to read."""
        return any(line.has_queued for line in [*self._peers.values(), *self._workers.values()])

    # --- who is it ------------------------------------------------------------------------------------

    def accepted(self, sock: socket.socket) -> None:
        """Take a new connection to the private socket, if its user may be there."""
        who = caller.identify(sock)
        waiting = Counter(uid for uid, _ in self._unidentified.values())
        if who.uid not in self._uids.values() or waiting[who.uid] >= _UNIDENTIFIED:
            self._log.warning("peer.refused", caller=who.label, uid=who.uid)
            sock.close()
            return
        deadline = self._loop.call_later(_IDENTIFY_S, self._refuse, sock, "it does not say what it is")
        self._unidentified[sock] = who.uid, deadline
        self._loop.add_reader(sock, self._first_untrusted, sock)

    def _identified(self, sock: socket.socket) -> int:
        """Take a connection off the list; return its user."""
        uid, deadline = self._unidentified.pop(sock)
        deadline.cancel()
        self._loop.remove_reader(sock)
        return uid

    def _refuse(self, sock: socket.socket, why: str) -> None:
        uid = self._identified(sock)
        self._log.warning("peer.refused", uid=uid, detail=why)
        sock.close()

    def _first_untrusted(self, sock: socket.socket) -> None:
        """Look at the head of the first message: descriptors that come with it stay in the kernel."""
        try:
            code, _ = header_untrusted(sock.recv(HEADER.size, socket.MSG_PEEK))
        except BlockingIOError:
            return
        except (BadFrame, OSError):
            self._refuse(sock, "it has closed its end, or sent what is no message")
            return
        row = BY_CODE.get(code)
        party = row.sender if row is not None and row.first and row.receiver is Party.BROKER else None
        if party is None or self._unidentified[sock][0] != self._uids[party]:
            self._refuse(sock, f"message {code:#x} is not for its user to begin with")
            return
        self._identified(sock)
        self._last += 1
        self._start_peer(PeerId(self._last), Channel(sock, Party.BROKER, party))

    def _start_peer(self, peer: PeerId, channel: Channel) -> None:
        is_keyd = channel.peer is Party.KEYD

        def lost(error: ChannelClosed) -> None:
            del self._peers[peer]
            self._note_broken(channel, error)
            self._happened(KeydLost(peer, str(error)) if is_keyd else MasterLost(peer, str(error)))

        self._peers[peer] = Line(channel, lambda received: self._peer_said(peer, received), lost, self._log)

    def _note_broken(self, channel: Channel, error: ChannelClosed) -> None:
        if isinstance(error, ChannelBroken):
            self._log.error("border.broken", peer=channel.peer, detail=str(error))

    # --- in -------------------------------------------------------------------------------------------

    def _peer_said(self, peer: PeerId, received: Received) -> None:
        match received.message:
            case MasterHello() | WorkerBorn() | WorkerGone() | MasterLeaves() as of_master:
                self._happened(MasterSaid(peer, of_master, received.take_fd() if received.fds else None))
            case KeydHello() | KeyAnswer() as of_keyd:
                self._happened(KeydSaid(peer, of_keyd, received.exchange))

    def _worker_said(self, worker: WorkerNumber, received: Received) -> None:
        message = received.message
        if isinstance(message, FromWorker):
            self._happened(WorkerSaid(worker, message))

    # --- out ------------------------------------------------------------------------------------------

    def send_peer(self, peer: PeerId, message: Message, fd: OwnedFd | None = None, exchange: int = 0) -> None:
        """Send to keyd or a worker master."""
        self._send(self._peers.get(peer), message, fd, exchange)

    def send_worker(self, worker: WorkerNumber, message: Message, fd: OwnedFd | None = None) -> None:
        """Send to a worker."""
        self._send(self._workers.get(worker), message, fd)

    def _send(self, line: Line | None, message: Message, fd: OwnedFd | None = None, exchange: int = 0) -> None:
        if line is not None:
            try:
                line.send(message, exchange, fd)
            except BadFrame as error:  # a bug of ours costs this channel, and not all others
                self._log.error("border.internal", message=type(message).__name__, detail=str(error))
                line.give_up(ChannelClosed("a message to it broke the table"))
        elif fd is not None:
            fd.close()

    def adopt(self, worker: WorkerNumber, fd: OwnedFd) -> None:
        """Make a descriptor the channel of a worker."""
        try:
            channel = from_fd(fd, Party.BROKER, Party.WORKER)
        except ChannelBroken as error:
            self._happened(WorkerLost(worker, str(error), broken=True))
            return
        channel.is_shared = True

        def lost(error: ChannelClosed) -> None:
            del self._workers[worker]
            self._happened(WorkerLost(worker, str(error), isinstance(error, ChannelBroken)))

        self._workers[worker] = Line(channel, lambda received: self._worker_said(worker, received), lost, self._log)

    def start_helper(self, helper: HelperNumber) -> None:
        """Start a helper."""
        party, spawn = _HELPERS[helper.kind]
        channel, theirs = pair(Party.BROKER, party)
        try:
            self._watch_child(spawn(theirs, self._settings))
        except OSError as error:
            channel.close()
            self._happened(HelperLost(helper, f"it cannot be started: {error.strerror}"))
            return

        def lost(error: ChannelClosed) -> None:
            del self._helpers[helper]
            self._note_broken(channel, error)
            self._happened(HelperLost(helper, str(error)))

        self._helpers[helper] = Line(channel, lambda received: self._helper_said(helper, received), lost, self._log)

    def _helper_said(self, helper: HelperNumber, received: Received) -> None:
        message = received.message
        if isinstance(message, FromHelper):
            self._happened(HelperSaid(helper, received.exchange, message))

    def send_helper(self, helper: HelperNumber, exchange: int, message: Message) -> None:
        """Ask a helper."""
        self._send(self._helpers.get(helper), message, exchange=exchange)

    def stop_helper(self, helper: HelperNumber) -> None:
        """Close the channel of a helper."""
        if (line := self._helpers.pop(helper, None)) is not None:
            line.close()

    def _watch_child(self, pid: int) -> None:
        """Reap a child when it has ended, which may be long after its channel was closed.

        Raises:
            OSError: there is no descriptor left for that, and the child neither.
        """
        self.helper_pids.append(pid)
        pidfd = watch(pid).detach()
        self._children[pidfd] = pid
        self._loop.add_reader(pidfd, self._reap, pidfd)

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status)
        self._log.note("error" if code else "debug", "helper.gone", pid=pid, status=code)

    def join(self, effect: JoinKeyd) -> None:
        """Give a worker and keyd the two ends of a channel."""
        try:
            keyd_end, worker_end = raw_pair()
        except OSError as error:
            line = self._workers.get(effect.worker)
            if line is not None:
                line.give_up(ChannelClosed(f"no channel to keyd: {error.strerror}"))
            return
        self.send_peer(effect.keyd, KeyChannel(worker_id=effect.worker_id), keyd_end)
        self.send_worker(effect.worker, UseKeyChannel(worker_id=effect.worker_id), worker_end)

    def welcome(self, peer: PeerId) -> None:
        """Give a master what tells it that we live."""
        self.send_peer(peer, Welcome(), OwnedFd(os.dup(self._life[1].fileno())))

    def keep(self, effect: KeepWorker) -> None:
        """Give a master a copy of the channel of a worker that is not its own."""
        line = self._workers.get(effect.worker)
        if line is not None and line.open:
            message = KeepChannel(worker_id=effect.worker_id, pid=effect.pid, protocol=PROTOCOL)
            self.send_peer(effect.peer, message, line.copy())

    def close_peer(self, peer: PeerId) -> None:
        """Close the channel of keyd or a worker master."""
        if (line := self._peers.pop(peer, None)) is not None:
            line.close()

    def close_worker(self, worker: WorkerNumber) -> None:
        """Close the channel of a worker."""
        if (line := self._workers.pop(worker, None)) is not None:
            line.close()
