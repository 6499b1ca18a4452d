"""The relay in C: a thread that moves bytes without the interpreter, behind the same class as the one in Python.

    Relay (relay.py)   until the application's end is there; while OpenSSL waits for what C cannot give (``_stop``)
    native/relay.c     from then on, in one thread a worker, with its own epoll

A session goes over with all its state (``State``), and comes back so: both sides know the same states, and either
goes on where the other has stopped.  While C has it, nothing here touches its TLS object or its sockets.

* The functions of OpenSSL are those of cryptography's binding, by address: it is the library that made the SSL
  objects.  That is private API, so each is looked up by name and by type at start (``load``); when one is missing the
  worker says so in its log, and all sessions stay in Python.
* OpenSSL's objects have no count that we could raise.  So they are held here until C has said that it is done.
* Calls into C return when what they ask for is done; relay_thread.c explains why none waits for long.
* The thread is started after the fork, by ``Threads``.
"""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL._util import ffi

from tlspool_common.messages import EndReason, Traffic
from tlspool_worker import relay
from tlspool_worker.poller import IN, Poller
from tlspool_worker.relay import Ended, Flow, Relay, Surroundings, Use
from tlspool_worker.tls import Stream
from tlspool_worker.tls_errors import entry, explain

LIBRARY = Path(__file__).parent / "native" / "tlspool_relay.so"

FUNCTIONS = {
    "SSL_read": "int(*)(SSL *, void *, int)",
    "SSL_write": "int(*)(SSL *, void *, int)",
    "SSL_get_error": "int(*)(SSL *, int)",
    "SSL_shutdown": "int(*)(SSL *)",
    "SSL_set_bio": "void(*)(SSL *, BIO *, BIO *)",
    "BIO_new": "BIO *(*)(BIO_METHOD *)",
    "BIO_s_mem": "BIO_METHOD *(*)()",
    "BIO_new_mem_buf": "BIO *(*)(void *, int)",
    "BIO_set_mem_eof_return": "long(*)(BIO *, int)",
    "BIO_get_mem_data": "long(*)(BIO *, char * *)",
    "BIO_read": "int(*)(BIO *, void *, int)",
    "BIO_write": "int(*)(BIO *, void *, int)",
    "ERR_clear_error": "void(*)()",
    "ERR_get_error": "unsigned long(*)()",
}
"""What C calls, in the order of ``struct relay_openssl``, with cffi's words for its type."""

_QUEUE = 8

_DETAILS = {3: relay.NO_CLOSE_NOTIFY, 4: relay.REMOTE_GOES_ON, 5: relay.UNREAD}
_DETAIL_ERRNO, _DETAIL_OPENSSL = 1, 2


class OpenSsl(ctypes.Structure):
    """``struct relay_openssl``."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in FUNCTIONS)


class State(ctypes.Structure):
    """``struct relay_state``."""

    _fields_ = (
        ("session_id", ctypes.c_uint64),
        ("ssl", ctypes.c_void_p),
        ("rbio", ctypes.c_void_p),
        ("wbio", ctypes.c_void_p),
        ("to_plain", ctypes.c_void_p),
        ("to_tls", ctypes.c_void_p),
        ("to_plain_b", ctypes.c_uint64),
        ("to_tls_b", ctypes.c_uint64),
        ("from_remote_b", ctypes.c_uint64),
        ("to_remote_b", ctypes.c_uint64),
        ("from_remote_records", ctypes.c_uint64),
        ("to_remote_records", ctypes.c_uint64),
        ("last_ms", ctypes.c_int64),
        ("queue", ctypes.c_uint64 * _QUEUE),
        *(
            (name, ctypes.c_int32)
            for name in (
                "tls_fd",
                "plain_fd",
                "inward",
                "outward",
                "incoming",
                "keeps",
                "packets",
                "plain_gone",
                "was_busy",
                "reason",
                "detail",
                "error",
            )
        ),
    )


class Unusable(Exception):
    """The relay in C does not serve here; says why."""


class Library:
    """What is called in C."""

    def __init__(self, path: Path = LIBRARY) -> None:
        """Load it.

        Raises:
            Unusable: it is not there, or OpenSSL or these structures are not what it expects.
        """
        try:
            self._c = ctypes.CDLL(str(path), use_errno=True)
        except OSError as error:
            raise Unusable(str(error)) from None
        pointer, size, state = ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(State)
        self.open = self._function("relay_open", pointer, ctypes.POINTER(OpenSsl))
        self.event_fd = self._function("relay_event_fd", ctypes.c_int, pointer)
        self.add = self._function("relay_add", pointer, pointer, state)
        self.take = self._function("relay_take", ctypes.c_int, pointer, pointer, state)
        self.look = self._function("relay_look", ctypes.c_int, pointer, pointer, state)
        self.free = self._function("relay_free", None, state)
        self.end = self._function("relay_end", None, pointer, pointer, state)
        self.next = self._function("relay_next", pointer, pointer, state)
        self.close = self._function("relay_close", None, pointer)
        fits = self._function("relay_fits", ctypes.c_int, size, size)
        if not fits(ctypes.sizeof(OpenSsl), ctypes.sizeof(State)):
            raise Unusable(f"{path} is of another version")
        self.openssl = _openssl()

    def _function(self, name: str, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
        try:
            found = self._c[name]
        except AttributeError:
            raise Unusable(f"{self._c._name} lacks {name}") from None
        found.restype, found.argtypes = result, arguments
        return found


def _openssl() -> OpenSsl:
    """Return the addresses of OpenSSL's functions."""
    binding = getattr(Binding.lib, "_original_lib", None)
    wrong, found = [], OpenSsl()
    for name, kind in FUNCTIONS.items():
        try:
            address = ffi.addressof(binding, name)
        except (AttributeError, TypeError):
            wrong.append(name)
            continue
        if ffi.typeof(address) != ffi.typeof(kind):
            wrong.append(name)
        setattr(found, name, int(ffi.cast("uintptr_t", address)))
    if wrong:
        raise Unusable(f"this version of cryptography does not give {', '.join(wrong)} by address")
    return found


def load() -> Library | str:
    """Return the library, or why there is none.  To be called before the fork, so that all workers share it."""
    try:
        return Library()
    except Unusable as error:
        return str(error)


LOADED = load()


class Threads(Surroundings):
    """A worker's thread, and the sessions that it has."""

    def __init__(self, poller: Poller, ended: Ended, library: Library) -> None:
        """Start it.

        Raises:
            Unusable: the system gives no thread, memory or descriptors.
        """
        super().__init__(poller, ended)
        self.library = library
        self.relays: dict[int, NativeRelay] = {}
        self.handle = library.open(library.openssl)
        if not self.handle:
            raise Unusable(f"no thread: {os.strerror(ctypes.get_errno())}")
        self._event_fd = library.event_fd(self.handle)
        poller.watch(self._event_fd, IN, self._told)

    def open(self, session_id: int, sock: socket.socket, stream: Stream, unsent: bytes) -> Relay:
        """Return the relay of a session."""
        return NativeRelay(self, session_id, sock, stream, unsent)

    def close(self) -> None:
        """Stop the thread; sessions that it still has are dropped."""
        if self.handle:
            self.poller.forget(self._event_fd)
            self.library.close(self.handle)
            self.handle = None
            self.relays.clear()

    def _told(self, _events: int) -> None:
        state = State()
        while self.library.next(self.handle, state):
            found = self.relays[state.session_id]
            if state.reason:
                found.told_end(state)
            else:
                found.told_want()


def surroundings(wanted: str, poller: Poller, ended: Ended) -> tuple[Surroundings, str]:
    """Return what relays live in, and why it is not what was wanted ("" when it is)."""
    if wanted == "python":
        return Surroundings(poller, ended), ""
    if isinstance(LOADED, str):
        return Surroundings(poller, ended), LOADED
    try:
        return Threads(poller, ended, LOADED), ""
    except Unusable as error:
        return Surroundings(poller, ended), str(error)


class NativeRelay(Relay):
    """One session after its handshake; here, or in C's thread when ``_session`` says where there."""

    __slots__ = ("_over", "_session", "_threads")

    def __init__(self, around: Threads, session_id: int, sock: socket.socket, stream: Stream, unsent: bytes) -> None:
        """As Relay."""
        super().__init__(around, session_id, sock, stream, unsent)
        self._threads = around
        self._session: int | None = None
        self._over = False

    def attach(self, plain: socket.socket) -> None:
        """Take the application's end; what was kept for it goes there first."""
        if self._stopped is not None:
            super().attach(plain)
            return
        self._plain = plain
        self._packets = plain.type == socket.SOCK_SEQPACKET
        self._go()

    def hold(self, use: Use) -> bool:
        """Call ``use`` while nothing else touches the TLS object, as in Relay."""
        if not self._come():
            return False
        self._use(use)
        self._go_or_stay()
        return True

    def go_on(self) -> None:
        """Relay again; first comes what has waited."""
        super().go_on()
        self._go_or_stay()

    def is_left(self) -> bool:
        """Tell whether the application has closed altogether."""
        if not self._come():
            return True  # its end is on its way to us
        answer = super().is_left()
        self._go_or_stay()
        return answer

    def traffic(self) -> Traffic | None:
        """Tell what has been moved so far, and since when nothing has; None: it is over, and its end will be told."""
        if self._session is not None:
            state = State()
            if not self._threads.library.look(self._threads.handle, self._session, state):
                return None
            self._count(state)
        return None if self._over else self._traffic()

    def end(self) -> None:
        """End at once, with close_notify to the remote, and what can be sent without waiting."""
        if self._session is None:
            super().end()
            return
        state = State()
        self._threads.library.end(self._threads.handle, self._session, state)
        self.told_end(state)

    def told_end(self, state: State) -> None:
        """C has done with it."""
        self._session = None
        del self._threads.relays[self.session_id]
        self._learn(state)
        self._finish()

    def told_want(self) -> None:
        """OpenSSL asked for something that C knows nothing of."""
        if self._come():
            self._decrypted(self._stream.read())
            self._go_or_stay()

    def _go_or_stay(self) -> None:
        if self._over:
            return
        if self._plain is None or self._stopped is not None:
            self._settle()
        else:
            self._go()

    def _go(self) -> None:
        """Let C's thread go on with it."""
        plain, threads = self._plain, self._threads
        if plain is None:
            raise AssertionError(f"session {self.session_id} has no application yet")
        for sock in (self._tls, plain):
            threads.poller.forget(sock.fileno())
        self._tls_mask = self._plain_mask = 0
        threads.busy.discard(self)
        threads.relays[self.session_id] = self
        self._session = threads.library.add(threads.handle, self._state(plain))
        if self._session:
            plain.detach()  # it is C's to close
            self._plain = None
            self._to_plain = self._to_tls = bytearray()
        else:  # no memory over there
            del threads.relays[self.session_id]
            self._session = None
            super().attach(plain)

    def _come(self) -> bool:
        """Take it back; say whether it is here, and not over."""
        if self._session is None:
            return not self._over
        state, threads = State(), self._threads
        if not threads.library.take(threads.handle, self._session, state):
            return False  # its end is on its way to us
        self._session = None
        del threads.relays[self.session_id]
        self._learn(state)
        threads.library.free(state)
        return True

    def _state(self, plain: socket.socket) -> State:
        ssl, rbio, wbio, keeps = self._stream.lend()
        return State(
            session_id=self.session_id,
            ssl=ssl,
            rbio=rbio,
            wbio=wbio,
            to_plain=_address(self._to_plain),
            to_tls=_address(self._to_tls),
            to_plain_b=len(self._to_plain),
            to_tls_b=len(self._to_tls),
            from_remote_b=self.from_remote_b,
            to_remote_b=self.to_remote_b,
            from_remote_records=self._stream.records,
            to_remote_records=self.to_remote_records,
            last_ms=int(self._last_s * 1000),
            tls_fd=self._tls.fileno(),
            plain_fd=plain.fileno(),
            inward=self._in.value,
            outward=self._out.value,
            incoming=self._stream.state,
            keeps=keeps,
            packets=self._packets,
            plain_gone=self._plain_gone,
            was_busy=self._stream.was_busy,
            reason=self._reason or 0,
        )

    def _learn(self, state: State) -> None:
        """Know what has happened to it in C."""
        stream = self._stream
        stream.give_back(state.rbio, state.wbio, bool(state.keeps))
        stream.state, stream.was_busy = state.incoming, bool(state.was_busy)
        self._count(state)
        self._in, self._out = Flow(state.inward), Flow(state.outward)
        self._plain_gone = bool(state.plain_gone)
        if state.plain_fd >= 0:
            self._plain = socket.socket(fileno=state.plain_fd)
            self._plain.setblocking(False)
        if state.to_plain_b:
            self._to_plain = bytearray(ctypes.string_at(state.to_plain, state.to_plain_b))
        if state.to_tls_b:
            self._to_tls = bytearray(ctypes.string_at(state.to_tls, state.to_tls_b))
        if self._reason is None and state.reason:
            self._reason, self._detail = EndReason(state.reason), _detail(state)

    def _count(self, state: State) -> None:
        self.from_remote_b, self.to_remote_b = state.from_remote_b, state.to_remote_b
        self._stream.records, self.to_remote_records = state.from_remote_records, state.to_remote_records
        self._last_s = state.last_ms / 1000

    def _finish(self) -> None:
        self._over = True
        super()._finish()


def _address(data: bytearray) -> int | None:
    """Return where the bytes are: good until they are changed, or gone."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if data else None


def _detail(state: State) -> str:
    """Say what C has given as the reason's detail, in the words of relay.py."""
    if state.detail == _DETAIL_ERRNO:
        return os.strerror(state.error)
    if state.detail == _DETAIL_OPENSSL:
        return explain([entry(number) for number in state.queue if number]).detail
    return _DETAILS.get(state.detail, "")
