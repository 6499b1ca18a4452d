"""Move bytes between a remote and an application: one object a session, driven by readiness.

Two directions, each on its own:

    inward   remote -> application      FLOWING -> ENDING -> DONE
    outward  application -> remote      FLOWING -> ENDING -> DONE

ENDING: the source has ended, and what it has sent is still on its way.  Then the end is passed on: inward as
shutdown(SHUT_WR) of the plaintext, outward as close_notify and TCP FIN.  A session is over when both are DONE, so
that half-close is kept.

Rules:

* No byte is read that could not be kept: while bytes of a direction are left over, its source is not read.  So
  back-pressure goes through in both directions, and a session holds at most one batch each way.
* The end of the remote's stream counts as clean only with close_notify (RFC 8446 section 6.1).  Without it the
  application gets all that came, and the end; the session's reason says TRUNCATED.
* An application that is gone gets nothing more, but what it sent before still goes out.
* Before there is a plaintext descriptor, bytes are decrypted and kept, up to HELD_B.  So an end that comes in this
  time is understood.
* A batch is one recv and one send, then it is another session's turn.
* What is watched follows from the state (``_watch``); a descriptor with nothing to watch for is taken out, because
  epoll reports a hang-up whether or not one asks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from tlspool_common.messages import EndReason, Traffic
from tlspool_worker import tls
from tlspool_worker.lingering import close_now
from tlspool_worker.poller import IN, OUT, Poller, is_hung_up
from tlspool_worker.tls import CIPHER, CIPHER_B, PLAIN, Stream

HELD_B = 64 * 1024
"""Plaintext kept for an application that has not given its descriptor yet: a request, not an upload."""

UNSENT_B = 256 * 1024
"""Ciphertext that waits for a remote which does not read; only its own KeyUpdates can drive it beyond a batch."""

PACKET_B = 512
"""Longest packet written to a seqpacket socket: what earlier pools wrote, so that readers have room for it."""

_PACKETS = 64
"""Packets read from an application at a time."""

_BATCH_B = 8 * 16384
_BATCH = PLAIN[:_BATCH_B]
"""A batch of plaintext: eight full records, which fit in CIPHER."""

NO_CLOSE_NOTIFY = "the remote closed without close_notify"
REMOTE_GOES_ON = "the application is gone, and the remote went on sending"
UNREAD = "the application closed before it had read everything"

_RECORD_B = 16384
_IDLE_MAX_MS = 2**32 - 1

_NOTHING = bytearray()

_NOW = int(socket.MSG_DONTWAIT)
"""With each call, as in channel.py: who kept a copy of a socket could take O_NONBLOCK away, and with it everybody's
relay."""


class Flow(Enum):
    """State of a direction."""

    FLOWING = auto()
    ENDING = auto()
    DONE = auto()


_FLOWING, _ENDING, _DONE = Flow  # looked up for each batch

Ended = Callable[["Relay", EndReason, Traffic, str], None]

Use = Callable[[Stream], object]
"""What is done with the TLS object of a session that relays; see ``Relay.hold``."""


class Surroundings:
    """What all relays of a worker share."""

    def __init__(self, poller: Poller, ended: Ended) -> None:
        self.poller = poller
        self.ended = ended
        self.asked: Callable[[Relay], None] = lambda relay: None
        self.busy: set[Relay] = set()

    def open(self, session_id: int, sock: socket.socket, stream: Stream, unsent: bytes) -> Relay:
        """Return the relay of a session; see there."""
        return Relay(self, session_id, sock, stream, unsent)

    def close(self) -> None:
        """Let go of what belongs to no session."""


class Relay:
    """One session after its handshake."""

    __slots__ = (
        "_around",
        "_calm",
        "_detail",
        "_in",
        "_last_s",
        "_out",
        "_packets",
        "_plain",
        "_plain_gone",
        "_plain_mask",
        "_reason",
        "_stopped",
        "_stream",
        "_tls",
        "_tls_mask",
        "_to_plain",
        "_to_tls",
        "from_remote_b",
        "session_id",
        "to_remote_b",
        "to_remote_records",
    )

    def __init__(
        self, around: Surroundings, session_id: int, sock: socket.socket, stream: Stream, unsent: bytes
    ) -> None:
        """Take over a socket, which is not watched, and its TLS; ``unsent`` is what the handshake left."""
        self.session_id = session_id
        self.from_remote_b = self.to_remote_b = self.to_remote_records = 0
        self._last_s = around.poller.now_s  # when the last data came, either way
        self._around = around
        self._tls = sock
        self._plain: socket.socket | None = None
        self._packets = False
        self._calm = False  # nothing has happened that _settle must look at
        self._plain_gone = False
        self._stream = stream
        self._in = self._out = _FLOWING
        self._to_plain = _NOTHING
        self._to_tls = bytearray(unsent) if unsent else _NOTHING
        self._tls_mask = self._plain_mask = 0
        self._reason: EndReason | None = None
        self._detail = ""
        self._stopped: list[Use] | None = None  # what wants to use the TLS object when ``go_on`` comes

    def start(self) -> None:
        """Begin: some of the application's data may have come with the end of the handshake."""
        self._decrypted(self._stream.read())
        self._settle()

    def attach(self, plain: socket.socket) -> None:
        """Take the application's end; what was kept for it goes there first."""
        self._plain = plain
        self._packets = plain.type == socket.SOCK_SEQPACKET
        self._push_plain()
        self._settle()

    def hold(self, use: Use) -> bool:
        """Call ``use`` while nothing else touches the TLS object, and go on; say whether the session was still there.

        It is called before this returns, or before ``go_on`` does if the session has stopped; it must not read or
        write data.  What it made OpenSSL say is sent.  OpenSSL's callbacks may come in the relay's thread later.
        """
        self._use(use)
        self._settle()
        return True

    def _use(self, use: Use) -> None:
        if self._stopped is None:
            use(self._stream)
            self._used()
        else:
            self._stopped.append(use)

    def _used(self) -> None:
        """Somebody else has called OpenSSL."""
        if self._stream.has_output:
            self._send_cipher()
        if self._stream.state == tls.BROKEN:
            self._broken()

    @property
    def stream(self) -> Stream:
        """The TLS object of a session that has stopped: until ``go_on`` nothing here touches it."""
        return self._stream

    def _stop(self) -> None:
        """The remote wants a certificate of ours: leave everything alone until somebody has given it."""
        self._stopped = []
        self._calm = False
        self._around.asked(self)

    def go_on(self) -> None:
        """Relay again; first comes what has waited."""
        uses, self._stopped = self._stopped or [], None
        self._decrypted(self._stream.read())
        for use in uses:
            self._use(use)  # later, if the remote has asked again already
        self._settle()

    def end(self) -> None:
        """End at once, with close_notify to the remote, and what can be sent without waiting."""
        self._note(EndReason.ORDERED, "")
        if self._out is _FLOWING and self._stopped is None:
            self._stream.close()
            self._send_cipher()
        self._finish()

    def is_left(self) -> bool:
        """Tell whether the application has closed altogether: it waits for nothing, and the rest may go out."""
        return self._plain is not None and not self._plain_gone and is_hung_up(self._plain)

    def traffic(self) -> Traffic | None:
        """Tell what has been moved so far, and since when nothing has; None: it is over, and its end will be told."""
        return self._traffic()

    def _traffic(self) -> Traffic:
        return Traffic(
            session_id=self.session_id,
            from_remote_b=self.from_remote_b,
            to_remote_b=self.to_remote_b,
            from_remote_records=self._stream.records,
            to_remote_records=self.to_remote_records,
            idle_ms=min(_IDLE_MAX_MS, max(0, int((time.monotonic() - self._last_s) * 1000))),
        )

    def slim(self) -> None:
        """Give back memory of a burst that is over."""
        if not self._to_tls:
            self._stream.slim()

    # --- inward ---------------------------------------------------------------------------------------

    def _tls_ready(self, events: int) -> None:
        if self._to_tls and events & ~IN:
            self._push_tls()
        if self._tls_mask & IN and events & ~OUT:
            self._pull_tls()
        if not self._calm:
            self._settle()

    def _pull_tls(self) -> None:
        """Take a batch of the remote."""
        try:
            count = self._tls.recv_into(CIPHER, 0, _NOW)
        except BlockingIOError:
            return
        except OSError as error:
            self._note(EndReason.REMOTE_RESET, error.strerror)
            self._in, self._out = _ENDING, _DONE
            self._to_tls = _NOTHING
            return
        if not count:
            self._note(EndReason.TRUNCATED, NO_CLOSE_NOTIFY)
            self._in = _ENDING
            return
        self._decrypted(self._stream.decrypt(count))

    def _decrypted(self, count: int) -> None:
        """Pass on the first ``count`` bytes of PLAIN, and look at what else the remote said."""
        if count:
            self.from_remote_b += count
            self._last_s = self._around.poller.now_s
            if self._plain_gone:
                self._note(EndReason.PLAIN_LOST, REMOTE_GOES_ON)
            elif self._plain is None or self._to_plain:
                self._to_plain = self._to_plain + PLAIN[:count]
                self._calm = False
            else:
                sent = self._send_plain(PLAIN[:count])
                if sent < count and not self._plain_gone:
                    self._to_plain = bytearray(PLAIN[sent:count])
                    self._calm = False
        stream = self._stream
        if stream.has_output:  # OpenSSL answers KeyUpdates, and says what is wrong
            self._send_cipher()
        if stream.state != tls.OPEN:
            if stream.state == tls.CLOSED:
                self._in = _ENDING
                self._calm = False
            else:
                self._broken()
        if stream.waits:
            self._stop()

    def _send_plain(self, data: memoryview | bytearray) -> int:
        """Send to the application; return how much it took."""
        plain = self._plain
        if plain is None:
            return 0
        at = 0
        try:
            if not self._packets:
                return plain.send(data, _NOW)
            while at < len(data):
                at += plain.send(data[at : at + PACKET_B], _NOW)
        except BlockingIOError:
            pass
        except OSError as error:
            self._plain_lost(error)
        return at

    def _push_plain(self) -> None:
        left = self._to_plain
        if left:
            sent = self._send_plain(left)
            if self._plain_gone:
                return
            self._to_plain = left[sent:] if sent < len(left) else _NOTHING

    def _plain_lost(self, error: OSError) -> None:
        """The application does not take any more.  What it has sent may still be there to be read."""
        self._note(EndReason.PLAIN_LOST, error.strerror)
        self._plain_gone = True
        self._to_plain = _NOTHING

    # --- outward --------------------------------------------------------------------------------------

    def _plain_ready(self, events: int) -> None:
        if self._to_plain and events & ~IN:
            self._push_plain()
        if self._plain_mask & IN and events & ~OUT:
            if not self._packets:
                self._take_plain()
            else:
                total_b = 0
                for _ in range(_PACKETS):  # they go out together, but not more than a batch and its last
                    count = self._take_plain()
                    total_b += count
                    if count <= 0 or total_b >= len(_BATCH):
                        break
            self._send_cipher()
        if not self._calm:
            self._settle()

    def _take_plain(self) -> int:
        """Receive from the application and encrypt; return how much, 0 at the end, -1 for nothing now."""
        plain, stream = self._plain, self._stream
        if plain is None:
            return -1
        try:
            count = plain.recv_into(_BATCH, 0, _NOW)
            if not count and self._packets:  # an end can be told before the last packets, see relay.c
                count = plain.recv_into(_BATCH, 0, _NOW)
        except BlockingIOError:
            return -1
        except OSError as error:  # it broke off: the remote is not told that this was the end
            self._plain_lost(error)
            self._out = _ENDING
            return 0
        if not count:
            if is_hung_up(plain):
                self._plain_closed()
            stream.close()
            self._out = _ENDING
            self._calm = False
            return 0
        self.to_remote_b += count
        # XXX A remote that wants shorter records (RFC 6066 section 4) is sent more of them than are counted.
        self.to_remote_records += (count + _RECORD_B - 1) // _RECORD_B
        self._last_s = self._around.poller.now_s
        if not stream.encrypt(count):
            self._broken()
            return 0
        if stream.was_busy:
            self._around.busy.add(self)
        return count

    def _plain_closed(self) -> None:
        """The application has closed altogether, not only its sending half."""
        if self._to_plain:
            self._note(EndReason.PLAIN_LOST, UNREAD)
            self._to_plain = _NOTHING
        self._plain_gone = True

    def _send_cipher(self) -> None:
        """Send what OpenSSL has to say."""
        stream = self._stream
        while (count := stream.take()) > 0:
            if self._out is _DONE:  # the answer to a KeyUpdate, after our end
                continue
            if self._to_tls:
                self._to_tls += CIPHER[:count]
                continue
            try:
                sent = self._tls.send(CIPHER[:count], _NOW)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._remote_lost(error)
                return
            if sent < count:
                self._to_tls = bytearray(CIPHER[sent:count])
                self._calm = False
            elif count < CIPHER_B:
                return

    def _push_tls(self) -> None:
        left = self._to_tls
        try:
            sent = self._tls.send(left, _NOW)
        except BlockingIOError:
            return
        except OSError as error:
            self._remote_lost(error)
            return
        self._to_tls = left[sent:] if sent < len(left) else _NOTHING

    def _remote_lost(self, error: OSError) -> None:
        """The remote does not take any more.  What it has sent may still be there to be read."""
        if self._stream.state != tls.BROKEN:
            self._note(EndReason.REMOTE_RESET, error.strerror)
        self._calm = False
        self._out = _DONE
        self._to_tls = _NOTHING

    # --- ends -----------------------------------------------------------------------------------------

    def _note(self, reason: EndReason, detail: str | None) -> None:
        """Keep the first reason: others follow from it."""
        self._calm = False
        if self._reason is None:
            self._reason, self._detail = reason, detail or ""

    def _broken(self) -> None:
        fault = self._stream.fault
        self._note(EndReason.REMOTE_ALERT, fault.detail if fault else "")
        self._in = _ENDING
        if self._out is not _DONE:
            self._out = _ENDING

    def _settle(self) -> None:
        """Pass on ends whose time has come; then watch for what is left to do."""
        if self._in is not _FLOWING or self._out is not _FLOWING:
            plain = self._plain
            if self._in is _ENDING and not self._to_plain and plain is not None:
                self._in = _DONE
                with suppress(OSError):
                    plain.shutdown(socket.SHUT_WR)
            if self._out is _ENDING and not self._to_tls:
                self._out = _DONE
                with suppress(OSError):
                    self._tls.shutdown(socket.SHUT_WR)
            over = self._in is _DONE and self._out is _DONE
            # A remote that sent nothing and closed its half in order still waits for an answer; one that broke off
            # does not.
            over = over or (plain is None and not self._to_plain and self._reason is not None)
            if over or (self._plain_gone and self._out is _DONE):
                self._finish()
                return
        self._watch()

    def _watch(self) -> None:
        tls_mask = plain_mask = 0
        if self._in is _FLOWING and (not self._to_plain or (self._plain is None and len(self._to_plain) < HELD_B)):
            tls_mask = IN if len(self._to_tls) < UNSENT_B else 0
        if self._to_tls:
            tls_mask |= OUT
        elif self._out is _FLOWING:
            plain_mask = IN
        if self._stopped is not None:
            tls_mask, plain_mask = tls_mask & OUT, 0
        if self._to_plain:
            plain_mask |= OUT
        self._calm = tls_mask == plain_mask == IN and self._plain is not None
        if tls_mask != self._tls_mask:
            self._set_mask(self._tls, self._tls_mask, tls_mask, self._tls_ready)
            self._tls_mask = tls_mask
        if plain_mask != self._plain_mask and self._plain is not None:
            self._set_mask(self._plain, self._plain_mask, plain_mask, self._plain_ready)
            self._plain_mask = plain_mask

    def _set_mask(self, sock: socket.socket, old: int, new: int, handler: Callable[[int], None]) -> None:
        poller = self._around.poller
        if not new:
            poller.forget(sock.fileno())
        elif old:
            poller.modify(sock.fileno(), new)
        else:
            poller.watch(sock.fileno(), new, handler)

    def _finish(self) -> None:
        self._around.busy.discard(self)
        for sock in (self._tls, self._plain):
            if sock is not None:
                self._around.poller.forget(sock.fileno())
        if self._plain is not None:
            close_now(self._plain)
        self._around.ended(self, self._reason or EndReason.CLEAN, self._traffic(), self._detail)

    def take_socket(self) -> socket.socket:
        """Return the remote's socket of a relay that has ended; it becomes the caller's."""
        return self._tls
