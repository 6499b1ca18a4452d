"""Carry border frames over SOCK_SEQPACKET: the only sendmsg and recvmsg between our own processes.

A channel knows both of its parties, so it can hold every frame against the table: unknown code, wrong
direction, wrong number of descriptors, a message that is not first or not the only one, bytes left over,
control data that did not fit (MSG_CTRUNC).  Any of these ends the channel with ``ChannelBroken``; it never
ends the process, and descriptors that came along are closed.

Everything is non-blocking (but see ``let_receive_wait``), by a flag with each call: O_NONBLOCK belongs to the open
socket, so who sent us a descriptor and kept a copy could take it away again.  What cannot be sent at once is queued
up to a bound (unix(7), SOCK_SEQPACKET: one sendmsg is one frame, whole or not at all).
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from tlspool_common import limits
from tlspool_common.codec import BadFrame, decode_untrusted, encode, header_untrusted
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import TABLE, Message, Party, Row

_OUTGOING: dict[tuple[Party, Party], dict[type[Message], Row]] = {}
_INCOMING: dict[tuple[Party, Party], dict[int, Row]] = {}
for _row in TABLE:
    _OUTGOING.setdefault((_row.sender, _row.receiver), {})[_row.message] = _row
    _INCOMING.setdefault((_row.sender, _row.receiver), {})[_row.code] = _row

_SENDING = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_RECEIVING = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_TRUNCATED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
"""Plain numbers: to combine the enumeration's members takes microseconds, for each frame."""

_CONTROL_B = socket.CMSG_SPACE(4 * array.array("i").itemsize)
"""Room for more descriptors than any row has, so that a surplus is seen (and closed) rather than truncated."""


class ChannelClosed(Exception):
    """The other process has closed the channel, or is gone."""


class ChannelBroken(ChannelClosed):
    """The other process broke the table; the text says how.  The channel is closed already."""


class Received:
    """One message and the descriptors that came with it.  Use in a ``with``: what is not taken is closed."""

    __slots__ = ("exchange", "fds", "message")

    def __init__(self, message: Message, exchange: int, fds: list[OwnedFd]) -> None:
        self.message = message
        self.exchange = exchange
        self.fds = fds

    def take_fd(self) -> OwnedFd:
        """Hand over the (only) descriptor."""
        return self.fds.pop()

    def __enter__(self) -> Received:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self.fds:
            fd.close()


class Channel:
    """One end of a border between two processes."""

    def __init__(self, sock: socket.socket, me: Party, peer: Party) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.me = me
        self.peer = peer
        self.is_shared = False  # somebody keeps a copy of this end: then it must be shut to be over
        # For who has epoll watch the descriptor, which would go on to, by a number that is nobody's or another's, for
        # as long as there is a copy (epoll(7)): takes it out.
        self.before_close: Callable[[], None] | None = None
        self._queue: deque[tuple[bytes, OwnedFd | None]] = deque()
        self._queued_b = 0
        self._seen: set[int] = set()
        self._receiving = _RECEIVING
        self._outgoing = _OUTGOING.get((me, peer), {})
        self._incoming = _INCOMING.get((peer, me), {})
        self._must_open_with = next((row.code for row in self._incoming.values() if row.first), None)

    def fileno(self) -> int:
        """Return the number to poll; -1 once closed."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether frames wait for the socket to become writable."""
        return bool(self._queue)

    def aside(self) -> Aside:
        """Return a second way to send, for other threads."""
        return Aside(self._sock.dup(), self._outgoing)

    def close(self) -> None:
        """Close the socket and whatever is still queued."""
        before_close, self.before_close = self.before_close, None
        if before_close is not None:
            before_close()
        if self.is_shared and self._sock.fileno() >= 0:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        while self._queue:
            _, fd = self._queue.popleft()
            if fd is not None:
                fd.close()

    # --- out ------------------------------------------------------------------------------------------

    def send(self, message: Message, *, exchange: int = 0, fd: OwnedFd | None = None) -> None:
        """Send a message, now or as soon as the socket takes it.  The descriptor becomes the channel's.

        Raises:
            BadFrame: the message does not fit the table; nothing was sent.
            ChannelClosed: the other end is gone, or has not read for too long.
        """
        try:
            row = self._outgoing.get(type(message))
            if row is None or row.fds != (fd is not None):
                raise BadFrame(f"{type(message).__name__} is not for {self.me} -> {self.peer}")
            frame = encode(row.code, exchange, message)
            if len(frame) > limits.FRAME_B:
                raise BadFrame(f"{type(message).__name__} makes a frame of {len(frame)} bytes")
        except BadFrame:
            if fd is not None:
                fd.close()
            raise
        if not self._queue and self._send(frame, fd):
            return
        self._queue.append((frame, fd))
        self._queued_b += len(frame)
        if self._queued_b > limits.CHANNEL_QUEUE_B:
            self.close()
            raise ChannelClosed(f"{self.peer} does not read its channel")

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it.

        Raises:
            ChannelClosed: the other end is gone.
        """
        while self._queue:
            frame, fd = self._queue[0]
            if not self._send(frame, fd):
                return
            self._queue.popleft()
            self._queued_b -= len(frame)

    def _send(self, frame: bytes, fd: OwnedFd | None) -> bool:
        """Send a frame if the socket takes it; its descriptor is closed then, and when the channel is over."""
        try:
            if fd is None:
                self._sock.send(frame, _SENDING)
            else:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd.fileno()]))
                self._sock.sendmsg([frame], [rights], _SENDING)
        except BlockingIOError:
            return False
        except OSError as error:
            self.close()
            if fd is not None:
                fd.close()
            raise ChannelClosed(f"{self.peer}: {error.strerror}") from None
        if fd is not None:
            fd.close()
        return True

    # --- in -------------------------------------------------------------------------------------------

    def let_receive_wait(self) -> None:
        """Let ``receive`` wait until there is something: for threads, each of which the kernel gives another frame.

        Only for a process of which nobody has a copy of this end.
        """
        self._sock.setblocking(True)
        self._receiving = _RECEIVING & ~int(socket.MSG_DONTWAIT)

    def receive(self) -> Received | None:
        """Return the next message, or None when there is none at the moment.

        Raises:
            ChannelBroken: the frame breaks the table.
            ChannelClosed: the other end is gone.
        """
        try:
            frame, control, flags = self._take()
        except BlockingIOError:
            return None
        except OSError as error:
            self.close()
            raise ChannelClosed(f"{self.peer}: {error.strerror}") from None
        fds = fds_of(control) if control else []
        try:
            if not frame and not fds:
                raise ChannelClosed(f"{self.peer} has closed its end")
            return self._judge_untrusted(frame, flags, fds)
        except (BadFrame, ChannelClosed) as error:
            for fd in fds:
                fd.close()
            self.close()
            if isinstance(error, BadFrame):
                raise ChannelBroken(f"{self.peer} -> {self.me}: {error}") from None
            raise

    def _take(self) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        taken = self._recvmsg(self._receiving)
        if not taken[0] and not taken[1]:
            # Linux looks for frames first and for the end afterwards (unix_dgram_recvmsg), so that an end can be told
            # before frames that came in between.  They are there when it is asked again.
            with suppress(BlockingIOError):
                return self._recvmsg(self._receiving | socket.MSG_DONTWAIT)
        return taken

    def _recvmsg(self, flags: int) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        try:
            return self._sock.recvmsg(limits.FRAME_B, _CONTROL_B, flags)[:3]
        except ConnectionResetError:
            # The other end was closed with frames of ours unread.  That is told once, and before the last frames
            # that came from there, which are still to be had (Linux, unix_release_sock).
            return self._sock.recvmsg(limits.FRAME_B, _CONTROL_B, flags)[:3]

    def _judge_untrusted(self, frame: bytes, flags: int, fds: list[OwnedFd]) -> Received:
        if flags & _TRUNCATED:
            raise BadFrame("frame or descriptors truncated")
        code, exchange = header_untrusted(frame)
        row = self._incoming.get(code)
        if row is None:
            raise BadFrame(f"code {code:#x} is not for this border")
        if len(fds) != row.fds:
            raise BadFrame(f"{row.message.__name__} came with {len(fds)} descriptors, not {row.fds}")
        if not self._seen and self._must_open_with not in (None, code):
            raise BadFrame(f"{row.message.__name__} before the opening message")
        if (row.once or row.first) and code in self._seen:
            raise BadFrame(f"a second {row.message.__name__}")
        message = decode_untrusted(row.message, frame)
        self._seen.add(code)
        return Received(message, exchange, fds)


class Aside:
    """Sends what goes out of a channel from any thread: a message goes at once, or not at all.

    It has a descriptor of its own, so that nothing that becomes of the channel can make a thread write to another
    file.  Who gives up the channel must ``shut`` this, or the other end would not notice.
    """

    def __init__(self, sock: socket.socket, outgoing: dict[type[Message], Row]) -> None:
        self._sock = sock
        self._outgoing = outgoing

    def send(self, message: Message) -> bool:
        """Send a message without descriptor; say whether it went out.

        Raises:
            BadFrame: the message does not fit the table; nothing was sent.
        """
        row = self._outgoing.get(type(message))
        if row is None or row.fds:
            raise BadFrame(f"{type(message).__name__} is not to be sent like this")
        frame = encode(row.code, 0, message)
        if len(frame) > limits.FRAME_B:
            raise BadFrame(f"{type(message).__name__} makes a frame of {len(frame)} bytes")
        try:
            self._sock.send(frame, _SENDING)
        except OSError:  # full or over: the channel is to find out, in its own thread
            return False
        return True

    def shut(self) -> None:
        """Send no more, and let the other end know."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor.  No thread may be sending."""
        self._sock.close()


def fds_of(control: list[tuple[int, int, bytes]]) -> list[OwnedFd]:
    """Take ownership of every descriptor in ancillary data as recvmsg returns it."""
    found: list[OwnedFd] = []
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            found += [OwnedFd(number, received=True) for number in numbers]
    return found


def pair(me: Party, peer: Party) -> tuple[Channel, OwnedFd]:
    """Make a channel: one end to keep, the other as a descriptor to hand to ``peer``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return Channel(ours, me, peer), OwnedFd(theirs.detach())


def raw_pair() -> tuple[OwnedFd, OwnedFd]:
    """Make the two ends of a channel between two other processes."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    return OwnedFd(one.detach()), OwnedFd(other.detach())


def from_fd(fd: OwnedFd, me: Party, peer: Party) -> Channel:
    """Make a channel of a descriptor that was handed to us.

    Raises:
        ChannelBroken: it is no SOCK_SEQPACKET socket.
    """
    number = fd.detach()
    try:
        sock = socket.socket(fileno=number)
    except OSError:  # no socket at all
        os.close(number)
        raise ChannelBroken(f"{peer}: the descriptor is no channel") from None
    os.set_inheritable(sock.fileno(), False)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        sock.close()
        raise ChannelBroken(f"{peer}: the descriptor is no channel")
    return Channel(sock, me, peer)
