"""Threads for handshake steps that may wait or compute for long.

A step waits for a signature inside OpenSSL, without the GIL; the loop and all other sessions go on meanwhile.
A thread is held by a step only, never by a remote that is slow: between steps a session waits in the loop.

    loop --step--> SimpleQueue --> thread: handshake.step(data) --> deque --eventfd--> loop

Threads are started when they are needed, up to the setting ``handshake_threads``, and stay.  More steps than
that wait in the queue, which is bounded by the sessions of the worker.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from tlspool_worker.tls import Step

STACK_B = 512 * 1024
"""Stack of a thread.  OpenSSL's largest frames, of ML-KEM and RSA, are some 30 KiB; the default is 8 MiB."""


class Work(Protocol):
    """A handshake, or the answer to a server that asks once more (reauth.Answering)."""

    def step(self, data: bytes) -> Step | None:
        """Go on with what the remote sent."""


Result = tuple[Work, Step | Exception | None]


class Handshakes:
    """The pool, and the way back to the loop."""

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._threads: list[threading.Thread] = []
        self._todo: queue.SimpleQueue[tuple[Work, bytes] | None] = queue.SimpleQueue()
        self._done: deque[Result] = deque()
        self._pending = 0
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that is readable when steps are done."""
        return self._fd

    def submit(self, handshake: Work, data: bytes) -> None:
        """Have a step done by a thread."""
        self._pending += 1
        if self._pending > len(self._threads) < self._most:
            before = threading.stack_size(STACK_B)
            thread = threading.Thread(target=self._serve, name=f"handshake {len(self._threads)}", daemon=True)
            thread.start()
            threading.stack_size(before)
            self._threads.append(thread)
        self._todo.put((handshake, data))

    def finished(self) -> list[Result]:
        """Return the steps that are done.  An exception is a bug of ours: faults of others are in the Step."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return []
        found = []
        while self._done:
            found.append(self._done.popleft())
        self._pending -= len(found)
        return found

    def close(self, seconds: float) -> None:
        """Let the threads end; those that still wait for a signature after that time are left behind."""
        for _ in self._threads:
            self._todo.put(None)
        until_s = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            os.close(self._fd)

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
