"""Threads for handshake steps that may wait or compute for long.

A step waits for a signature inside OpenSSL, without the GIL; the loop and all other sessions go on meanwhile.
A thread is held by a step only, never by a remote that is slow: between steps a session waits in the loop.

    loop --step--> SimpleQueue --> thread: handshake.step(data) --> deque --eventfd--> loop
                                     |                                          ^
                                     +-- RemoteShown --> broker --Verdict-------+
                                     |<-- Waiting.answer, or let_go ------------+

Threads are started when they are needed, up to the setting ``handshake_threads``, and stay.  More steps than
that wait in the queue, which is bounded by the sessions of the worker.

In the middle of a step the broker may be asked what it thinks of the remote (``ask``), and it may take seconds to find
that out.  A thread that waits for this does not count: another one takes its place meanwhile, up to ASKING of them,
so that sessions which nobody has questions about are not delayed.  When there are too many again, one ends.

The thread tells the broker itself: to wake the loop for that would cost as much as the verdict.  The loop learns of it
no later than it needs to, when something comes of that session (``Waiting.has_told``).  Only if the channel does not
take a message at once the loop has to send it (``shown``).
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from tlspool_common.channel import Aside
from tlspool_common.messages import RemoteShown, Verdict
from tlspool_worker.tls import Step

STACK_B = 512 * 1024
"""Stack of a thread.  OpenSSL's largest frames, of ML-KEM and RSA, are some 30 KiB; the default is 8 MiB."""


ASKING = 256
"""Threads beyond the setting, in place of those that wait for the broker.  Each takes some 30 KiB while it waits."""

VERDICT_S = 90.0
"""How long a thread waits for a verdict.  The broker asks others for at most 60 s (validation_wait_s), and ends
handshakes by itself at their deadline; this is for one that does neither."""


class Waiting:
    """Where the thread of one handshake waits for the broker."""

    __slots__ = ("_is_over", "_telling", "_told", "_turn", "_verdict")

    def __init__(self) -> None:
        self._turn = threading.Lock()  # taken: by whoever waits; an Event would be three objects
        self._turn.acquire()
        self._telling = threading.Lock()
        self._told = self._is_over = False
        self._verdict: Verdict | None = None

    def tell(self, send: Callable[[], bool]) -> bool:
        """In the thread: tell the broker, unless the session is over; say whether that is settled."""
        with self._telling:  # what is sent is sent before anybody else says that the session is over
            if self._is_over:
                return True
            self._told = True  # before the verdict can be there
            if send():
                return True
            self._told = False
            return False

    def has_told(self) -> bool:
        """Say, once, whether the thread has told the broker, or is about to."""
        told, self._told = self._told, False
        return told

    def answer(self, verdict: Verdict) -> None:
        """Say what the broker has decided."""
        self._verdict = verdict
        self._go_on()

    def let_go(self) -> None:
        """There will be no verdict: whoever waits, or comes to wait, goes on without."""
        with self._telling:
            self._is_over = True
        self._go_on()

    def _go_on(self) -> None:
        with suppress(RuntimeError):  # it may go on already
            self._turn.release()

    def wait(self, seconds: float) -> Verdict | None:
        """Wait; return the verdict, or None if there is none."""
        self._turn.acquire(timeout=seconds)
        return self._verdict


class Work(Protocol):
    """A handshake, or the answer to a server that asks once more (reauth.Answering)."""

    def step(self, data: bytes) -> Step | None:
        """Go on with what the remote sent."""


Result = tuple[Work, Step | Exception | None]


class Handshakes:
    """The pool, and the way back to the loop."""

    def __init__(self, threads: int, aside: Aside | None = None) -> None:
        """Prepare; ``aside`` is the threads' way to the broker.  It is closed with this."""
        self._most = threads
        self._aside = aside
        self._threads: list[threading.Thread] = []
        self._todo: queue.SimpleQueue[tuple[Work, bytes] | None] = queue.SimpleQueue()
        self._done: deque[Result] = deque()
        self._shown: deque[RemoteShown] = deque()
        self._pending = 0
        self._asking = 0
        self._lock = threading.Lock()  # for the two above it that threads change: _threads and _asking
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that is readable when steps are done."""
        return self._fd

    def submit(self, handshake: Work, data: bytes) -> None:
        """Have a step done by a thread; it fails if the host gives us none at all."""
        self._pending += 1
        why_not = self._grow()
        if why_not is None or self._threads:
            self._todo.put((handshake, data))
        else:
            self._done.append((handshake, why_not))
            os.eventfd_write(self._fd, 1)

    def _grow(self) -> RuntimeError | None:
        """Start the threads that are needed and allowed; return why the host gives no more, if that is so."""
        with self._lock:
            while (
                len(self._threads) - self._asking < min(self._most, self._pending - self._asking)
                and len(self._threads) < self._most + ASKING
            ):
                thread = threading.Thread(target=self._serve, name=f"handshake {len(self._threads)}", daemon=True)
                before = threading.stack_size(STACK_B)
                try:
                    thread.start()
                except RuntimeError as error:  # those that there are do the work
                    return error
                finally:
                    threading.stack_size(before)
                self._threads.append(thread)
        return None

    def ask(self, waiting: Waiting, shown: RemoteShown) -> Verdict | None:
        """In a thread, within a step: let the broker be asked, and return its verdict; None: there is none."""
        with self._lock:
            self._asking += 1
        try:
            if not waiting.tell(lambda: self._aside is not None and self._aside.send(shown)):
                self._shown.append(shown)
                os.eventfd_write(self._fd, 1)
            elif not self._todo.empty():
                os.eventfd_write(self._fd, 1)  # a step waits that can have the place of this one
            return waiting.wait(VERDICT_S)
        finally:
            with self._lock:
                self._asking -= 1

    def heard(self) -> None:
        """Make the descriptor unreadable.  To be called before, never after, looking for what there is."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def shown(self) -> list[RemoteShown]:
        """Return what threads want the broker to be asked, and could not ask themselves."""
        found = []
        while self._shown:
            found.append(self._shown.popleft())
        if self._asking:
            self._grow()
        return found

    def finished(self) -> list[Result]:
        """Return the steps that are done.  An exception is a bug of ours: faults of others are in the Step."""
        found = []
        while self._done:
            found.append(self._done.popleft())
        self._pending -= len(found)
        return found

    def close(self, seconds: float) -> None:
        """Let the threads end; those that still wait for a signature after that time are left behind."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._todo.put(None)
        until_s = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            os.close(self._fd)
            if self._aside is not None:
                self._aside.close()

    def _serve(self) -> None:
        run: Callable[[], tuple[Work, bytes] | None] = self._todo.get
        while (work := run()) is not None:
            handshake, data = work
            result: Step | Exception | None
            try:
                result = handshake.step(data)
            except Exception as error:  # the loop reports it; a thread must not die of one session
                result = error
            self._done.append((handshake, result))
            del work, handshake, data, result  # an idle thread holds nothing of a session
            os.eventfd_write(self._fd, 1)
            with self._lock:
                if len(self._threads) - self._asking > self._most:
                    self._threads.remove(threading.current_thread())
                    return
