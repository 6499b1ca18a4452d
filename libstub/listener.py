"""A listening socket whose ``accept`` returns plaintext, for servers that accept by themselves.

Theory of operation.  The handshakes are done in one thread beside the program, in an event loop of its own, so a
slow remote delays nobody.  Connections come out in the order in which their handshakes end.

    kernel ─▶ accept ─▶ handshake in the pool ─▶ ready, eventfd counts up ─▶ accept() ─▶ (PlainSocket, address)
              └─────────── the thread's loop ───────────────────┘            └── the program

The descriptor that a program waits for is the eventfd, so select, epoll and asyncio know when there is something to
accept.  What takes the descriptor to accept from it by itself (uvloop) fails at once.

Bounds.  There are at most so many connections from accept(2) until the program has taken them; more wait in the
kernel's backlog.  Each handshake ends by itself: the pool has a time limit.

The thread starts when the program first waits, so a listener may be made before fork(2): each child has its own
thread, and all accept from the same socket.  Established sessions do not end with the listener.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import Any, Unpack, cast

from libstub.aio.pool import AsyncPool
from libstub.aio.server import OnError, accept_for_ever, log_error
from libstub.aio.starttls import request_of, secure
from libstub.errors import Misuse, PoolError
from libstub.options import EitherOptions, ServerOptions
from libstub.plain import PlainSocket
from libstub.where import socket_path
from tlspool_common.fd import OwnedFd, await_ready

SETUPS = 400
"""Connections between accept(2) and the program: each has at most two descriptors, of 1024 that most programs have."""

BACKLOG = 1024
"""Connections that wait in the kernel; it takes fewer if net.core.somaxconn says so."""

_END_S = 5.0
"""For the thread to end when the listener is closed; it breaks off what it is doing, which takes milliseconds."""


class TlsListener(socket.socket):
    """A listening socket that has TLS of the pool on what it accepts; ``libstub.listen`` makes it.

    Options and addresses are those of the socket underneath, whose descriptor is not the one of ``fileno``.
    """

    def __init__(
        self,
        sock: socket.socket,
        options: EitherOptions,
        pool: str | os.PathLike[str] | None = None,
        setups: int = SETUPS,
        on_error: OnError | None = None,
    ) -> None:
        request_of(True, options)  # what cannot be is said now, and not to each client
        path = socket_path(pool)
        self._timeout_s = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        super().settimeout(0)  # for the thread, which may find that another process was faster
        self._options, self._path = options, path
        self._setups, self._on_error = setups, on_error or log_error
        self._background: _Background | None = None
        self._over = False
        self._lock = threading.Lock()
        _LISTENERS.add(self)

    def _running(self) -> _Background:
        """Return the thread, started if need be."""
        with self._lock:
            if self._over:
                raise OSError(errno.EBADF, "the listener is closed")
            if self._background is None:
                pool = AsyncPool(self._path)
                self._background = _Background(self, self._options, pool, self._setups, self._on_error)
            return self._background

    def fileno(self) -> int:
        """Return the descriptor to wait for; -1 for a listener that is closed.

        Raises:
            Misuse: this runs in an event loop that would accept at the descriptor by itself.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            if not isinstance(loop, asyncio.BaseEventLoop):
                kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
                raise Misuse(f"{kind} accepts by itself, past TLS: use asyncio's loop, or libstub.aio.create_server")
        return -1 if self._over else self._running().ready.fileno()

    def real_fileno(self) -> int:
        """Return the descriptor of the socket underneath."""
        return super().fileno()

    def accept(self) -> tuple[PlainSocket, Any]:
        """Return the plaintext of the next session, and the address of the remote.

        ``tls`` of the socket is the TlsSession.

        Raises:
            BlockingIOError, TimeoutError: there is none now, or within the listener's timeout.
            OSError: the listener is closed.
        """
        background = self._running()
        while (sock := background.take()) is None:
            if self._over:
                raise OSError(errno.EBADF, "the listener is closed")
            if self._timeout_s == 0:
                raise BlockingIOError(errno.EAGAIN, "no session is ready")
            if not await_ready([background.ready.fileno()], self._timeout_s):
                raise TimeoutError("timed out")
        sock.settimeout(socket.getdefaulttimeout())
        return sock, sock.getpeername()

    def settimeout(self, value: float | None) -> None:
        """Set how long ``accept`` waits."""
        self._timeout_s = value

    def gettimeout(self) -> float | None:
        """Return how long ``accept`` waits."""
        return self._timeout_s

    def setblocking(self, flag: bool) -> None:
        """Set whether ``accept`` waits."""
        self._timeout_s = None if flag else 0.0

    def getblocking(self) -> bool:
        """Return whether ``accept`` waits."""
        return self._timeout_s != 0

    def close(self) -> None:
        """Stop listening, and break off handshakes under way; sessions that were accepted go on."""
        with self._lock:
            background, self._background, self._over = self._background, None, True
        if background is not None:
            background.stop()
        super().close()

    def _forked(self) -> None:
        """In a child after fork(2): the thread has stayed with the parent."""
        self._lock = threading.Lock()
        if self._background is not None:
            _INHERITED.append(self._background)
            self._background = None

    def __repr__(self) -> str:
        return f"<TlsListener {'closed' if self._over else self.getsockname()}>"


class _Background:
    """The thread of one listener in one process.

    Attributes:
        ready: an eventfd, readable while there is something to take.
    """

    def __init__(
        self, listener: TlsListener, options: EitherOptions, pool: AsyncPool, setups: int, on_error: OnError
    ) -> None:
        self.ready = OwnedFd(os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._sessions: deque[PlainSocket] = deque()
        self._options = options
        self._pool = pool
        self._on_error = on_error
        self._places = asyncio.Semaphore(setups)
        self._sock = socket.socket(listener.family, listener.type, listener.proto, os.dup(listener.real_fileno()))
        self._sock.settimeout(0)
        self._loop = asyncio.new_event_loop()
        self._main = self._loop.create_task(accept_for_ever(self._sock, self._places, self._secure))
        self._thread = threading.Thread(target=self._run, name="libstub listener", daemon=True)
        self._thread.start()

    def take(self) -> PlainSocket | None:
        """Return what is ready, None if there is nothing; any thread may."""
        try:
            os.eventfd_read(self.ready.fileno())
        except BlockingIOError:
            return None
        try:
            sock = self._sessions.popleft()
        except IndexError:
            os.eventfd_write(self.ready.fileno(), 1)  # it was the word that this has ended, which is for all who wait
            return None
        with suppress(RuntimeError):  # another thread has closed the listener meanwhile, and the loop with it
            self._loop.call_soon_threadsafe(self._places.release)
        return sock

    def stop(self) -> None:
        """End the thread, close what nobody took, and wake who waits."""
        self._loop.call_soon_threadsafe(self._main.cancel)
        if threading.current_thread() is not self._thread:
            self._thread.join(_END_S)
        while self._sessions:
            self._sessions.popleft().close()
        os.eventfd_write(self.ready.fileno(), 1)

    # --- in the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
            if under_way := asyncio.all_tasks(self._loop):
                for task in under_way:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait(under_way))
        finally:
            self._loop.close()
            self._sock.close()

    async def _secure(self, sock: socket.socket, remote: Any) -> None:
        try:
            session = await secure(sock, server=True, pool=self._pool, options=self._options)
        except PoolError as error:
            self._places.release()
            self._on_error(error, remote)
            return
        except Exception as error:  # of ``on_localid``, as a rule
            self._places.release()
            self._loop.call_exception_handler({"message": "a handshake that a program broke off", "exception": error})
            return
        plain = cast("PlainSocket", session.take_sock())
        plain.tls = session
        self._sessions.append(plain)
        os.eventfd_write(self.ready.fileno(), 1)


_INHERITED: list[_Background] = []
"""Of the parent, in a child after fork(2): to end them would disturb the parent, whose epoll they share."""

_LISTENERS: weakref.WeakSet[TlsListener] = weakref.WeakSet()


def _after_fork() -> None:
    for listener in list(_LISTENERS):
        listener._forked()


os.register_at_fork(after_in_child=_after_fork)


def listen(
    where: tuple[str, int] | socket.socket,
    localid: str = "",
    *,
    pool: str | os.PathLike[str] | None = None,
    backlog: int = BACKLOG,
    setups: int = SETUPS,
    on_error: OnError | None = None,
    **options: Unpack[ServerOptions],
) -> TlsListener:
    """Return a listening socket that has TLS of the pool on what it accepts.

    Args:
        where: (host, port) to listen at, or a listening socket, which is given away.
        localid: who we are; the pool must have a certificate for it.  '' leaves it to ``on_localid``, which is
            called in the listener's thread.
        pool: the path of one; sessions are made over a connection of the listener's own.
        backlog: connections that the kernel keeps for us, for (host, port).
        setups: connections between accept(2) and ``accept``, at most.
        on_error: called, in the thread, with each error and the remote's address; otherwise it is a line in the log
            'libstub'.
        **options: those of ``libstub.starttls_server``.

    Raises:
        OSError: the address cannot be had.
        Misuse: an option cannot be.
    """
    either = cast("EitherOptions", {**options, "localid": localid})
    if isinstance(where, socket.socket):
        return TlsListener(where, either, pool, setups, on_error)
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    sock = socket.create_server(where, family=family, backlog=backlog)
    try:
        return TlsListener(sock, either, pool, setups, on_error)
    except BaseException:
        sock.close()
        raise
