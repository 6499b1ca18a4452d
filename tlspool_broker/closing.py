"""Descriptors that applications passed and nobody wants are closed elsewhere: closing may take for ever.

close(2) of a file asks its file system to write out what is left (FLUSH of FUSE, NFS), and waits for the answer; not
even SIGKILL ends that.  A user may be the file system: with FUSE, in a namespace of its own, anybody is.  Internet
sockets are told not to linger (fd.py); in UNIX sockets others may wait that do, and are closed with them.  So all else
is closed in a thread, one for each user who passes such things.  Of whose descriptors one does not come to an end, no
more are taken: what is not taken the kernel closes, and of files it waits for nobody.

UNIX sockets, of which every refused request may have one, wait in *bins*: passed to a socket of ours that nobody reads,
and closed with that, many in one call, as the thread seldom has its turn while the loop is busy.

What has come over a connection and was not taken is closed by the kernel when the connection is, or when the bytes that
it came with are read: in that call, and there sockets do linger, for as long as their maker liked.  So descriptors are
taken always, and before a connection is closed.

XXX Not of a user of whom one does not come to an end: taking more would be worse.  Such a user can still make us wait.

XXX A process with a thread that waits like that does not end, either, before the file system has: a broker that is
stopped then stays, and keeps its successor out.  The log names the user (``caller.descriptor_hangs``), whose processes
are to be ended.
"""

from __future__ import annotations

import array
import asyncio
import socket
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from tlspool_common.channel import fds_of
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log

CONTROL_B = socket.CMSG_SPACE(253 * array.array("i").itemsize)
"""Room for all descriptors that a message can have (SCM_MAX_FD of Linux), so that none is out of our hands."""

_READ_B = 65536

_MOST = 64
"""Files and bins of one user that wait, before its frames do: one is closed within a millisecond, if nothing is wrong
with it."""

_IN_BIN = 64
"""Sockets in a bin: the buffer of a socket has room for four times as many messages of one byte."""

_LONG_S = 5.0
"""For one to be closed; a file system of the network takes milliseconds."""


class _Bin:
    """UNIX sockets to be closed together."""

    def __init__(self) -> None:
        self._inner, self._outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._outer.setblocking(False)
        self._sockets = 0

    def add(self, fd: OwnedFd) -> bool:
        """Take a socket; return whether there was room."""
        if self._sockets == _IN_BIN:
            return False
        try:
            socket.send_fds(self._outer, [b"x"], [fd.fileno()])
        except OSError:  # too many on the way (unix(7), ETOOMANYREFS)
            return False
        fd.close()  # not the last copy
        self._sockets += 1
        return True

    def close(self) -> None:
        """Close them all."""
        self._outer.close()
        self._inner.close()


class Closer:
    """Closes what it is given, and waits for nothing."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        # By user, as long as there is a thread; the first is being closed.
        self._waiting: dict[int, deque[OwnedFd | _Bin]] = {}
        self._hanging: set[int] = set()

    def _close(self, uid: int, fd: OwnedFd | _Bin) -> None:
        """Close something some time."""
        with self._lock:
            if uid in self._waiting:
                self._waiting[uid].append(fd)
                return
            self._waiting[uid] = deque([fd])
        try:
            threading.Thread(target=self._work, args=(uid,), name=f"closes for {uid}", daemon=True).start()
        except RuntimeError:  # the host has no more of them
            with self._lock:
                del self._waiting[uid]
            with suppress(OSError):
                fd.close()
        else:
            self._loop.call_later(_LONG_S, self._look, uid, fd)

    def take(self, uid: int, control: list[tuple[int, int, bytes]]) -> list[OwnedFd]:
        """Take the descriptors that a user has passed, from ancillary data as recvmsg returns it."""
        fds = fds_of(control)
        for fd in fds:
            fd.giver_uid = uid
        return fds

    def drop(self, fds: Iterable[OwnedFd]) -> None:
        """Close what is not wanted of what users have passed; or what is ours, which is closed at once."""
        for fd in fds:
            family = _family(fd)
            if fd.giver_uid < 0 or family in (socket.AF_INET, socket.AF_INET6):
                fd.close()
            elif family == socket.AF_UNIX:
                self._throw(fd.giver_uid, fd)
            else:
                self._close(fd.giver_uid, fd)

    def _throw(self, uid: int, fd: OwnedFd) -> None:
        """Put a UNIX socket into a bin: the last one, or a new one if that is full or being closed."""
        with self._lock:
            last = self._waiting[uid][-1] if len(self._waiting.get(uid, ())) > 1 else None
            if isinstance(last, _Bin) and last.add(fd):
                return
        with suppress(OSError):  # no descriptors are left
            made = _Bin()
            if made.add(fd):
                self._close(uid, made)
                return
            made.close()
        self._close(uid, fd)

    def end(self, uid: int, sock: socket.socket) -> None:
        """Close a connection of a user, and what has come over it."""
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # so nothing more comes
            flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            while not (self.is_stuck(uid) or self.is_full(uid)):
                data, control, _, _ = sock.recvmsg(_READ_B, CONTROL_B, flags)
                self.drop(self.take(uid, control))
                if not data:
                    break
        sock.close()

    def is_stuck(self, uid: int) -> bool:
        """Whether a user's descriptors do not come to an end: take nothing more."""
        with self._lock:
            return uid in self._hanging

    def is_full(self, uid: int) -> bool:
        """Whether so many of a user wait that nothing should be read before the thread has had its turn."""
        with self._lock:
            return uid not in self._hanging and len(self._waiting.get(uid, ())) >= _MOST

    def _look(self, uid: int, seen: OwnedFd | _Bin) -> None:
        """See whether the thread of a user is at the same descriptor still."""
        with self._lock:
            if uid not in self._waiting:
                return
            first = self._waiting[uid][0]
            begins = first is seen and uid not in self._hanging
            if begins:
                self._hanging.add(uid)
        if begins:
            self._log.error("caller.descriptor_hangs", uid=uid)
        self._loop.call_later(_LONG_S, self._look, uid, first)

    def _work(self, uid: int) -> None:
        while True:
            with self._lock:
                fd = self._waiting[uid][0]
            with suppress(OSError):  # a file system may refuse what it was to write out; it is closed all the same
                fd.close()
            with self._lock:
                waiting = self._waiting[uid]
                waiting.popleft()
                self._hanging.discard(uid)
                if not waiting:
                    del self._waiting[uid]
                    return


def _family(fd: OwnedFd) -> socket.AddressFamily | int | None:
    """Return a socket's family; None: it is a file."""
    try:
        sock = socket.socket(fileno=fd.fileno())
    except OSError:
        return None
    try:
        return sock.family
    finally:
        sock.detach()
