"""Connections of programs that ask people for PINs: frames of protocol V2, at pin.sock or handed over by the broker.

The PIN in an answer is in three places here: the frame it came in, a copy while the core decides whether it
answers anything, and the wallet if it does.  The first two are overwritten before the next thing happens.

A program that does not read is sent away: there is at most one question for it at a time.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tlspool_common import control, peer
from tlspool_common.appwire import FRAME_B, Cmd, Frame
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import PinService
from tlspool_common.servicewire import Pinentry
from tlspool_keyd.events import Event, ServiceArrived, ServiceFrame, ServiceGone, ServiceSaid
from tlspool_keyd.pin import wipe

_HEADER = struct.Struct("=HHI")
_NUMBERS = struct.Struct("=III")
_PIN_AT = _HEADER.size + _NUMBERS.size
_PIN_END = _PIN_AT + Pinentry.TEXTS[0][1]

_FRAMES_AT_ONCE = 16
"""Frames of one program before others have their turn."""

_PAUSE_S = 1.0
"""After an accept that failed for want of descriptors."""


def frame_untrusted(data: bytearray) -> tuple[ServiceFrame, bytearray]:
    """Take 388 bytes apart: what the core may see, and the PIN, empty when there is none.  Any bytes are a frame.

    A PIN is any bytes before a NUL.  Of a field without NUL nothing is known to be all of the PIN, so there is none.
    """
    reqid, cbid, cmd = _HEADER.unpack_from(data)
    if cmd != Cmd.PINENTRY:
        return ServiceFrame(reqid, cbid, cmd), bytearray()
    flags, _, timeout_us = _NUMBERS.unpack_from(data, _HEADER.size)
    end = data.find(0, _PIN_AT, _PIN_END)
    pin_secret = data[_PIN_AT:end] if end > 0 else bytearray()
    return ServiceFrame(reqid, cbid, cmd, flags, timeout_us, bool(pin_secret)), pin_secret


@dataclass(slots=True, eq=False)
class _Line:
    number: int
    sock: socket.socket
    frame: bytearray = field(default_factory=lambda: bytearray(FRAME_B), repr=False)
    filled_b: int = 0


class Services:
    """All connections of PIN services."""

    def __init__(self, happened: Callable[[Event], None]) -> None:
        self._happened = happened
        self._loop = asyncio.get_running_loop()
        self._lines: dict[int, _Line] = {}
        self._listener: socket.socket | None = None
        self._offered: bytearray | None = None
        self._last = 0

    def listen(self, path: Path, passed: socket.socket | None = None) -> None:
        """Accept connections at a socket that was passed, or at a path.

        Raises:
            PoolError: SETTING_INVALID, the path cannot be used.
        """
        self._listener = passed or control.bind(path, 0o660)
        self._loop.add_reader(self._listener, self._acceptable, self._listener)

    def close(self) -> None:
        """Close everything, and tell nobody."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for number in list(self._lines):
            self.drop(number)

    def _acceptable(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is left
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE_S, self._listen_again)
            return
        self._arrived(sock)

    def _listen_again(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._acceptable, self._listener)

    def adopt_untrusted(self, fd: OwnedFd, registration: PinService) -> None:
        """Take a connection that the broker hands over, and the registration that came over it.

        Raises:
            PoolError: INTERNAL, it is no such connection.
        """
        number = fd.detach()
        sock = socket.socket(fileno=number)
        if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
            sock.close()
            raise PoolError(Code.INTERNAL, "what was handed over is no connection of an application")
        sock.set_inheritable(False)
        said = ServiceFrame(registration.reqid, 0, Cmd.PINENTRY, registration.flags, registration.timeout_us)
        service = self._arrived(sock)
        self._happened(ServiceSaid(service, said))

    def _arrived(self, sock: socket.socket) -> int:
        sock.setblocking(False)
        pid, uid, gid = peer.credentials(sock)
        self._last += 1
        line = self._lines[self._last] = _Line(self._last, sock)
        self._loop.add_reader(sock, self._readable, line)
        self._happened(ServiceArrived(line.number, uid, (gid, *peer.groups(sock)), f"{_command(pid)}[{pid}]"))
        return line.number

    # --- in and out -------------------------------------------------------------------------------------

    def _readable(self, line: _Line) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            if line.number not in self._lines:
                return
            try:
                got_b = line.sock.recv_into(memoryview(line.frame)[line.filled_b :])
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(line, error.strerror or "broken")
                return
            if not got_b:
                self._lose(line, "it closed its connection")
                return
            line.filled_b += got_b
            if line.filled_b == FRAME_B:
                self._said(line)

    def _said(self, line: _Line) -> None:
        frame, self._offered = frame_untrusted(line.frame)
        wipe(line.frame)
        line.filled_b = 0
        try:
            self._happened(ServiceSaid(line.number, frame))
        finally:
            if self._offered is not None:
                wipe(self._offered)
                self._offered = None

    def take_pin(self) -> bytearray:
        """Return the PIN that came with the frame now being handled; it belongs to the caller."""
        pin_secret, self._offered = self._offered, None
        return bytearray() if pin_secret is None else pin_secret

    def send(self, number: int, frame: Frame) -> None:
        """Send a frame, or send away who does not read."""
        line = self._lines.get(number)
        if line is None:
            return
        try:
            sent_b = line.sock.send(frame.to_bytes(), socket.MSG_NOSIGNAL)
        except OSError as error:
            self._lose(line, error.strerror or "broken")
        else:
            if sent_b < FRAME_B:
                self._lose(line, "it does not read what it is sent")

    def drop(self, number: int) -> None:
        """Close a connection, and say no more about it."""
        if (line := self._lines.pop(number, None)) is not None:
            wipe(line.frame)
            self._loop.remove_reader(line.sock)
            line.sock.close()

    def _lose(self, line: _Line, reason: str) -> None:
        self.drop(line.number)
        self._happened(ServiceGone(line.number, reason))


def _command(pid: int) -> str:
    """Return the name of a program, for people; it is the program's own word."""
    with suppress(OSError):
        name = Path(f"/proc/{pid}/comm").read_bytes()[:15].decode("utf-8", "replace").rstrip("\n")
        return "".join(letter if letter.isprintable() else "?" for letter in name)
    return "unknown"
